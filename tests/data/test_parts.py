"""An index in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.data import load
from engine.data.spec import Digits
from engine.data.split import parts


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_the_parts_are_the_whole(count: int) -> None:
    index = torch.arange(count)
    found = parts(index, 3)
    assert all(0 < len(part) <= 3 for part in found)
    assert torch.cat([*found, index[:0]]).tolist() == index.tolist()


def test_nothing_gives_no_batch(bench: Any, drain: Any) -> None:
    _, data = drain(load(Digits(), bench))
    assert list(data.train.batches(torch.arange(0), 5)) == []
