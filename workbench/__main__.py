"""The command `workbench`: opens the window."""

from __future__ import annotations

import sys


def main() -> int:
    """Open the window; the exit code of the command."""
    from workbench.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
