"""The arithmetic of the comparison with other libraries. None of them is installed here, and
nothing is timed."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.benchmarks.peers.__main__ import NAMES, PACKAGES, setting
from tests.benchmarks.peers.__main__ import _parser as parser
from tests.benchmarks.peers.autoattack import beyond_noise, undecided
from tests.benchmarks.peers.judging import Pairs, Verdict, duel, judge, relative
from tests.benchmarks.peers.passes import Asked, replay
from tests.benchmarks.peers.subjects import Subject

ROOT = Path(__file__).parents[3]
HOME = Path(__file__).parent


class Half(nn.Module):
    """Class 1 where the first pixel is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.5 - first, first - 0.5], dim=1)


def verdict(broken: list[bool], norm: list[float] | None = None) -> Verdict:
    sizes = torch.tensor(norm or [1.0] * len(broken), dtype=torch.float64)
    flags = torch.tensor(broken)
    return Verdict(torch.ones_like(flags), flags, sizes.where(flags, math.inf))


@pytest.mark.parametrize("name", NAMES)
def test_benchmarks_import_without_the_peers(name: str) -> None:
    assert callable(importlib.import_module(f"tests.benchmarks.peers.{name}").main)


@pytest.mark.parametrize(("norm", "size"), [("linf", 0.4), ("l2", 0.5), ("l1", 0.7), ("l0", 2.0)])
def test_examples_are_judged_from_the_images_alone(norm: str, size: float) -> None:
    images = torch.full((6, 1, 1, 2), 0.2)
    images[1] = 0.9
    labels = torch.tensor([0, 0, 0, 0, 0, 0])
    found = images.clone()
    found[0] += torch.tensor([0.4, 0.3])  # broken
    found[1] += 0.05  # wrong when clean
    found[2] += 0.2  # still right
    found[3] += torch.tensor([0.4, -0.3])  # leaves the box
    found[4] += torch.tensor([0.4, 0.31]) if norm != "linf" else torch.tensor([0.41, 0.3])
    result = judge(Half(), images, labels, found, norm, size)
    assert result.correct.tolist() == [True, False, True, True, True, True]
    assert result.broken.tolist() == [True, False, False, False, norm == "l0", False]
    assert result.norm[0].item() == pytest.approx(size, rel=1e-6)
    assert math.isinf(result.norm[2])
    assert result.robust.sum() == (3 if norm == "l0" else 4)


def test_a_median_counts_what_was_not_broken_as_infinite() -> None:
    assert verdict([True, True, False], [1.0, 3.0, 0.0]).median == 3.0
    assert verdict([True, True], [1.0, 3.0]).median == 2.0
    assert math.isinf(verdict([True, False, False]).median)
    wrong = Verdict(
        torch.tensor([True, False]),
        torch.tensor([True, False]),
        torch.tensor([1.0, math.inf], dtype=torch.float64),
    )
    assert (wrong.median, wrong.success) == (1.0, 1.0)


def test_intervals_are_wilsons() -> None:
    """8 of 10: his interval is .490 to .943 (Newcombe 1998's method 3)."""
    assert verdict([True] * 2 + [False] * 8).accuracy() == "0.800 [0.490, 0.943]"


def test_weaker_is_what_chance_does_not_explain() -> None:
    """Six to none has an exact p of 2 / 64, five to none of 2 / 32."""
    ours, theirs = verdict([False] * 8), verdict([True] * 6 + [False] * 2)
    assert Pairs.of(ours, theirs) == Pairs(0, 6)
    assert Pairs(0, 6).weaker
    assert not Pairs(0, 5).weaker
    assert not Pairs(6, 0).weaker
    assert Pairs(1, 2) + Pairs(3, 4) == Pairs(4, 6)
    assert str(Pairs(0, 6)) == "broken by us alone 0, by them alone 6 (p 0.031)"


def test_sizes_are_compared_where_both_succeeded() -> None:
    ours = verdict([True] * 4 + [False], [1.0, 1.1, 0.9, 2.0, 0.0])
    theirs = verdict([True] * 3 + [False, True], [1.0] * 5)
    assert relative(ours, theirs) == "larger by 2 % on 33% of samples, smaller on 33%"


def test_a_duel_gives_both_sides_the_same_seeds() -> None:
    seen: list[tuple[str, int, int]] = []

    def way(name: str, turn: int) -> Tensor:
        seen.append((name, turn, torch.initial_seed()))
        return torch.tensor(turn)

    seconds, found = duel({"a": lambda turn: way("a", turn), "b": lambda turn: way("b", turn)}, 2)
    order = [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert [(name, turn) for name, turn, _ in seen] == order
    assert all(turn == seed for _, turn, seed in seen)
    assert [len(seconds[name]) for name in "ab"] == [2, 2]
    assert [int(x) for x in found["a"]] == [0, 1]


def test_pure_passes_ask_what_the_attack_asked() -> None:
    first, second = Asked(Half()), Asked(Half())
    first(torch.zeros(3, 1, 1, 2))
    first(torch.zeros(7, 1, 1, 2).requires_grad_())
    on = SimpleNamespace(
        model=second, images=torch.rand(4, 1, 1, 2), labels=torch.zeros(4, dtype=torch.int64)
    )
    replay(cast(Subject, on), first.questions)
    assert second.questions == first.questions == [(3, False), (7, True)]


def test_seed_noise_is_told_from_a_miss() -> None:
    ours = [verdict([False, True, False, True]), verdict([False, False, False, True])]
    theirs = [verdict([True, True, True, False]), verdict([True, True, False, True])]
    assert beyond_noise(ours, theirs) == [0]
    assert beyond_noise(theirs, ours) == []
    assert (undecided(ours), undecided(theirs)) == (1, 2)


def test_the_quick_form_is_small() -> None:
    def asked(*more: str) -> Any:
        return setting(parser().parse_args(["--data-root", "D", *more]))

    assert (asked().images, asked().seeds, asked().repeats, asked().first) == (500, 3, 3, 5000)
    assert (asked("--quick").images, asked("--quick").seeds, asked("--quick").repeats) == (
        100,
        1,
        1,
    )
    assert asked("--quick", "--images", "40").images == 40


PIN = re.compile(r"^([a-z0-9-]+)==(\S+?)( ; [^\\]+)? \\$")


def pins(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        if match := PIN.match(line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_the_lock_holds_pins_and_hashes_alone() -> None:
    lines = (HOME / "requirements.lock").read_text().splitlines()
    odd = [
        line
        for line in lines
        if not (PIN.match(line) or re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line))
        and not line.startswith("    #")
    ]
    assert not odd
    assert not [line for line in lines if "://" in line]


def test_both_sides_run_on_the_same_versions() -> None:
    ours, theirs = pins(ROOT / "requirements.lock"), pins(HOME / "requirements.lock")
    assert {name: theirs[name] for name in ours.keys() & theirs.keys()} == {
        name: ours[name] for name in ours.keys() & theirs.keys()
    }
    assert {"torch", "numpy", "pydantic"} <= ours.keys() & theirs.keys()
    peers = {name for name in PACKAGES if name != "torch"}
    assert peers <= theirs.keys()
    assert not peers & ours.keys()
