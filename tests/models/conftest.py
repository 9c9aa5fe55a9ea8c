"""A small data set with a user's files around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest


@pytest.fixture
def write_module(tmp_path: Path) -> Callable[[str], str]:
    """Write a person's file that defines `make`; returns the factory of a Module spec."""

    def write(code: str, name: str = "my model.py") -> str:
        path = tmp_path / "code of mine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("from torch import nn\nimport torch\n" + dedent(code))
        return f"{path}:make"

    return write
