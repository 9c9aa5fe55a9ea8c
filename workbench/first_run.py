"""What `make run` does: opens the window, or, where there is no display, runs the demo without one
and leaves the same run, the exported file and pictures of the window behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from workbench.display import has_display

DEMO = Path("demo")


def main() -> int:
    """Open the window or run the demo; the exit code."""
    if has_display():
        from workbench.app import run

        return run(sys.argv[1:])
    return without_display(DEMO)


def without_display(workspace: Path) -> int:
    """The demo by the command line, then pictures of the window with what it left."""
    from engine import resources

    print(f"No display here: running the demo without a window, into {workspace.absolute()}.")
    sys.stdout.flush()
    python, folder = (sys.executable, "-m"), ("--workspace", str(workspace))
    recipe = resources.path("recipes", "first_minute.toml")
    code = subprocess.call((*python, "engine", "run", str(recipe), *folder))
    if code:
        return code
    pictures = workspace / "screenshots"
    code = subprocess.call((*python, "workbench", *folder, "--screenshots", str(pictures)))
    if not code:
        print(f"Pictures of the window are in {pictures.absolute()}.")
    return code


if __name__ == "__main__":
    sys.exit(main())
