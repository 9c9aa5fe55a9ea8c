"""Specs: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json
import re
from typing import Literal

import pytest

from engine.attacks.spec import PGD, AttackSpec
from engine.errors import BadInput, SpecError
from engine.robustness.spec import Certificate, Mixed
from engine.task import (
    ALIASES,
    OneOf,
    Spec,
    check_live,
    discover,
    kind_of,
    kinds,
    live_fields,
    param,
    parse,
    parse_task,
    references,
    task_kinds,
)
from engine.training.spec import SGD, AdversarialTraining, Train


def test_the_kinds_of_this_road() -> None:
    assert {"train", "attack", "export", "import"} <= set(task_kinds())
    assert {"fgsm", "pgd"} <= set(kinds(AttackSpec))


def test_kinds_are_listed_from_the_simplest_on() -> None:
    """Which is not the order of the modules' names."""
    known = kinds(AttackSpec)
    attacks = [kind for kind in known if known[kind].__module__.startswith("engine.")]
    assert attacks[:3] == ["fgsm", "pgd", "bim"]
    assert attacks.index("nes") < attacks.index("apgd") < attacks.index("autoattack")


def every_spec() -> list[type[Spec]]:
    """What a person can be shown: the specs of the modules that are looked for specs, whatever
    other modules and tests make for themselves."""
    discover()
    found: list[type[Spec]] = []
    pending = [s for s in Spec.__subclasses__() if s.__module__.startswith("engine.")]
    while pending:
        spec = pending.pop()
        found.append(spec)
        pending.extend(spec.__subclasses__())
    return [s for s in found if s.__module__ == "engine.task" or "spec" in s.__module__.split(".")]


@pytest.mark.parametrize("spec", every_spec(), ids=lambda s: s.__name__)
def test_every_spec_explains_itself(spec: type[Spec]) -> None:
    assert spec.__doc__
    assert spec.__doc__ != Spec.__doc__
    for name, field in spec.model_fields.items():
        if name != "kind":
            assert field.title, name
            assert field.description, name
            assert field.description.endswith((".", "?", ")")) or ":" in field.description, name


def test_a_task_survives_json_and_back() -> None:
    task = Train(optimizer=SGD(lr=0.5), adversarial=Mixed(attack=PGD(steps=3)))
    text = json.dumps(task.to_dict())
    assert parse_task(json.loads(text)) == task


def test_specs_are_frozen_and_hashable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PGD().eps = 0.1  # type: ignore[misc]
    assert hash(PGD()) == hash(PGD())


def test_every_task_has_a_json_schema_with_its_unions() -> None:
    for task in task_kinds().values():
        schema = task.model_json_schema()
        assert schema["properties"]["kind"]["const"] == task.model_fields["kind"].default
    schema = task_kinds()["train"].model_json_schema()
    assert {"Digits", "CNN", "PGD", "AdamW"} <= set(schema["$defs"])


FAULTS = [
    ({"kind": "trian"}, ("kind",), "did you mean 'train'?"),
    ({}, ("kind",), "no task kind is given"),
    ({"kind": "train", "epoch": 3}, ("epoch",), "did you mean 'epochs'?"),
    ({"kind": "train", "epochs": 0}, ("epochs",), "at least 1, but it is 0"),
    ({"kind": "train", "epochs": "12"}, ("epochs",), "whole number, but it is '12'"),
    ({"kind": "train", "epochs": True}, ("epochs",), "whole number"),
    ({"kind": "train", "data": {"kind": "digit"}}, ("data", "kind"), "did you mean 'digits'?"),
    ({"kind": "train", "model": {"width": 3}}, ("model", "kind"), "one of mlp, cnn"),
    (
        {"kind": "train", "model": {"kind": "cnn", "widht": 3}},
        ("model", "widht"),
        "did you mean 'width'?",
    ),
    (
        {"kind": "train", "adversarial": {"kind": "mixed", "attack": {"kind": "pdg"}}},
        ("adversarial", "attack", "kind"),
        "did you mean 'pgd'?",
    ),
    (
        {
            "kind": "train",
            "adversarial": {"kind": "mixed", "attack": {"kind": "pgd", "norm": "l3"}},
        },
        ("adversarial", "attack", "norm"),
        "expected one of: linf, l2",
    ),
    ({"kind": "train", "clip": {"norm": -1}}, ("clip", "norm"), "at least 0"),
    ({"kind": "train", "optimizer": {"kind": "sgd", "lr": float("nan")}}, ("optimizer", "lr"), ""),
    ({"kind": "attack"}, ("model",), "must be given"),
    ({"kind": "train", "data": {"kind": "folder"}}, ("data", "path"), "must be given"),
    ({"kind": "train", "lr": 0.1}, ("lr",), "did you mean 'optimizer.lr'?"),
    ({"kind": "train", "norm": "batch"}, ("norm",), "'model.norm' or 'clip.norm'"),
    (
        {"kind": "train", "adversarial": {"kind": "trades", "beta": 6.0}},
        ("adversarial", "beta"),
        "did you mean 'weight'?",
    ),
    (
        {"kind": "train", "adversarial": {"kind": "trades", "eps": 0.3}},
        ("adversarial", "eps"),
        "did you mean 'attack.eps'?",
    ),
    (
        {"kind": "train", "adversarial": {"kind": "trades", "nb_iter": 3}},
        ("adversarial", "nb_iter"),
        "did you mean 'attack.steps' or 'watch.steps'?",
    ),
    (
        {"kind": "attack", "model": "m", "attack": {"kind": "pgd", "alpha": 0.1}},
        ("attack", "alpha"),
        "did you mean 'step_size'?",
    ),
    (
        {"kind": "attack", "model": "m", "attack": {"kind": "cw"}},
        ("attack", "kind"),
        "did you mean 'carliniwagner'?",
    ),
    (
        {"kind": "attack", "model": "m", "attack": {"kind": "pgd", "eps": "8/255"}},
        ("attack", "eps"),
        "must be a number, but it is '8/255': write 0.0313725",
    ),
    (
        {"kind": "evaluate", "model": "m", "require": {"robust_accuracy": "> 0.5"}},
        ("require", "robust_accuracy"),
        """expected a share of 1 as in ">= 0.5", but it is '> 0.5'""",
    ),
    (
        {"kind": "evaluate", "model": "m", "require": {"clean_accuracy": 0.5}},
        ("require", "clean_accuracy"),
        'expected a share of 1 as in ">= 0.5", but it is 0.5',
    ),
]


@pytest.mark.parametrize(("values", "path", "words"), FAULTS)
def test_a_fault_is_named_with_its_place(
    values: dict[str, object], path: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_task(values)
    assert [p.path for p in caught.value.problems] == [path]
    assert words.lower() in caught.value.problems[0].text.lower()


def test_every_fault_is_named() -> None:
    with pytest.raises(SpecError) as caught:
        parse_task({"kind": "train", "epochs": 0, "seed": -1, "nonsense": 1})
    assert {p.path for p in caught.value.problems} == {("epochs",), ("seed",), ("nonsense",)}


def test_values_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(SpecError, match="not a value that a spec can hold"):
        parse_task({"kind": "train", "seed": object()})


def test_a_spec_made_in_python_explains_its_faults_too() -> None:
    with pytest.raises(SpecError) as told:
        PGD(norm="l7", eps=-1.0, step=3)  # type: ignore[arg-type, call-arg]
    text = str(told.value)
    assert "norm: there is no value 'l7'; did you mean 'l" in text
    assert "eps: must be at least 0, but it is -1.0" in text
    assert "step: there is no field 'step'; did you mean 'steps'?" in text
    assert "http" not in text
    assert "nput should" not in text


def test_what_other_libraries_call_it_leads_to_something_here() -> None:
    """Every name that is offered instead is a field or kind that there is, and none is offered
    for a name that every spec takes."""
    offered = {name for names in ALIASES.values() for name in names}
    fields = {name for spec in every_spec() for name in spec.model_fields}
    assert offered <= fields | {kind_of(spec) for spec in every_spec()}


PAPERLESS = {"noise", "shift"}
"""What is no invention of anybody's."""


@pytest.mark.parametrize("family", [AttackSpec, AdversarialTraining, Certificate])
def test_kinds_name_their_paper_and_say_so_in_their_schema(family: type[Spec]) -> None:
    for kind, spec in kinds(family).items():
        if not spec.__module__.startswith("engine."):
            continue
        assert bool(re.search(r"\b(19|20)\d\d\b", spec.cite)) == (kind not in PAPERLESS), kind
        assert spec.model_json_schema().get("cite", "") == spec.cite


def test_references_are_the_fields_that_name_runs() -> None:
    assert references(parse_task({"kind": "attack", "model": "plain"})) == {"model": "plain"}
    assert references(Train()) == {}
    assert references(Train(init="plain")) == {"init": "plain"}


def test_a_new_kind_registers_by_being_defined() -> None:
    class Shape(Spec):
        """A family."""

        kind: str

    class Square(Shape):
        """One member."""

        kind: Literal["square"] = "square"
        side: float = param(1.0, "Side", "How long.", gt=0)

    class Circle(Shape):
        """Another."""

        kind: Literal["circle"] = "circle"

    class Drawing(Spec):
        """Holds any of them."""

        shape: OneOf[Shape]

    assert kinds(Shape) == {"square": Square, "circle": Circle}
    assert kind_of(Shape) is None
    assert parse(Drawing, {"shape": {"kind": "square", "side": 2}}).shape == Square(side=2.0)
    with pytest.raises(SpecError, match=r"shape\.side: must be above 0"):
        parse(Drawing, {"shape": {"kind": "square", "side": 0}})


def test_what_can_be_changed_while_it_runs() -> None:
    task = Train(optimizer=SGD(lr=0.5))
    assert live_fields(task) == {"lr": task.optimizer}
    check_live(task, "lr", 1000.0)
    for name, value, words in (
        ("lrate", 0.1, "did you mean 'lr'"),
        ("lr", 1001.0, "at most 1000"),
        ("lr", float("inf"), "finite"),
    ):
        with pytest.raises(BadInput, match=words):
            check_live(task, name, value)
    attack = parse_task({"kind": "attack", "model": "plain"})
    assert live_fields(attack) == {}
    with pytest.raises(BadInput, match="nothing of a run of kind attack can be changed"):
        check_live(attack, "lr", 0.1)
