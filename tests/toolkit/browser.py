"""Opens a page in headless Chromium and returns the document as it stands after its scripts have run."""

from __future__ import annotations

import subprocess
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def opened(chromium: str, page: Path, profile: Path, *, seconds: int = 30) -> str:
    """Return the document of ``page`` after ``seconds`` of the browser's own (virtual) time."""
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={seconds * 1000}", "--window-size=1440,1000"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
