"""Where the files under `resources` are, in an installed wheel and in the checkout alike."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def _root() -> Path:
    import resources

    return Path(resources.__file__).resolve().parent


def path(*parts: str) -> Path:
    """The resource at `parts`, as in `path("icons", "play.svg")`.

    Raises FileNotFoundError if there is none: the installation is incomplete then.
    """
    found = _root().joinpath(*parts)
    if not found.exists():
        raise FileNotFoundError(
            f"the resource {'/'.join(parts)} is missing from {_root()}; install Crucible again"
        )
    return found
