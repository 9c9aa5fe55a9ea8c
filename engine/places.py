"""Where things lie unless a person says otherwise."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_data_path


def default_workspace() -> Path:
    """The folder of runs of the window and the command line alike, below the user's data folder."""
    return user_data_path("crucible", appauthor=False) / "workspace"
