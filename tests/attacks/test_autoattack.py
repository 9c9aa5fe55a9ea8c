"""AutoAttack: its stages are the published ones, each on what the one before has left."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from engine.attacks import AutoAttack, attack
from engine.attacks.method import Method
from tests.attacks.models import CLASSES, conv, images, right_labels


def stages(**fields: Any) -> list[tuple[str, int, int]]:
    """(name, rounds, steps) of each stage."""
    rounds = AutoAttack(**fields).rounds()
    return [
        (name, len(group), group[0].steps)
        for name, group in ((k, list(g)) for k, g in groupby(rounds, lambda m: m.name))
    ]


# FAB asks twice a step, the last time for logits alone. L1 makes its 100 steps in three phases.
STANDARD = [("apgd-ce", 1, 100), ("apgd-t", 9, 100), ("fab-t", 9, 199), ("square", 1, 5000)]
SPARSE = [("apgd-ce", 5, 102), ("apgd-t", 5, 102), ("fab-t", 9, 199), ("square", 1, 5000)]
PLUS = [
    *(("apgd-ce", 5, 100), ("apgd-dlr", 5, 100), ("fab", 5, 199), ("square", 1, 5000)),
    *(("apgd-t", 9, 100), ("fab-t", 9, 199)),
]


def test_stages_are_the_published_ones() -> None:
    assert stages() == stages(norm="l2", eps=0.5) == STANDARD
    assert stages(norm="l1", eps=10.0) == SPARSE
    assert stages(version="plus") == PLUS
    assert stages(version="rand") == [("apgd-ce", 1, 100), ("apgd-dlr", 1, 100)]


def test_a_targeted_one_aims_at_nothing_else() -> None:
    assert [name for name, *_ in stages(targeted=True)] == ["apgd-ce", "apgd-dlr", "fab", "square"]
    assert all(method.aim is None for method in AutoAttack(targeted=True).rounds())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_each_stage_breaks_what_is_left(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    y[0] = (y[0] + 1) % CLASSES
    eps = {"linf": 0.05, "l2": 0.25, "l1": 1.0}[norm]
    spec = AutoAttack(norm=norm, eps=eps)
    rounds = few(spec.rounds(), {"apgd-ce": 5, "apgd-t": 100, "fab-t": 19, "square": 100})
    monkeypatch.setattr(AutoAttack, "rounds", lambda _: rounds)
    result = attack(model, x, y, spec)
    names = [rounds[i].name if i >= 0 else "" for i in result.broken_in.tolist()]
    assert [bool(name) for name in names] == result.success.tolist()
    assert not names[0]
    assert {"apgd-ce"} <= set(names)
    assert (result.norm[result.success] <= eps).all()
    # Three wrong classes are there to aim at.
    assert max(result.broken_in) < len(rounds)
    apgd = sum(method.name == "apgd-ce" for method in rounds)
    most = apgd * (rounds[0].steps + 1) + 3 * (rounds[apgd].steps + 1) + 3 * 20 + 101
    assert int(result.queries.max()) == most


def few(rounds: tuple[Method[Any], ...], steps: dict[str, int]) -> tuple[Method[Any], ...]:
    """The same rounds, made shorter, those of l1 left as they are."""
    from dataclasses import replace

    return tuple(m if m.steps == 102 else replace(m, steps=steps[m.name]) for m in rounds)


def test_what_few_classes_mean_is_said() -> None:
    assert "DLR" in AutoAttack().advice(2)
    assert "DLR" in AutoAttack().advice(3)
    assert not AutoAttack(version="rand").advice(3)
    assert not AutoAttack().advice(10)
