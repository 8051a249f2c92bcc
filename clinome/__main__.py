"""The command `clinome` (also `python -m clinome`): errors that a user can act on are printed without a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    from clinome.cli import app
    from clinome.core.errors import ClinomeError

    try:
        app()
    except ClinomeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
