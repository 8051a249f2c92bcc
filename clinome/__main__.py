"""The command `clinome` (also `python -m clinome`): errors that a user can act on are printed without a traceback."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line."""
    gc.set_threshold(50_000)  # imports make many objects and hardly any garbage: collecting costs a tenth of the start
    from clinome.cli import app
    from clinome.core.errors import ClinomeError

    try:
        app()
    except ClinomeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
