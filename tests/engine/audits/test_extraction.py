"""Model extraction: what a student learns from answers alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.attacks.spec import PGD, Attack
from engine.audits.extraction import _budgets
from engine.audits.spec import Audit, Extraction
from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import SpecError
from engine.events import Note, Progress, Saved, Scalars, drain
from engine.models import load_model
from engine.models.spec import CNN, MLP
from engine.task import BenchSpec, parse_task
from engine.training.spec import Train
from tests.engine.audits.conftest import House

VICTIM = Train(model=CNN(width=8, depth=1), data=Digits(test=0.4), epochs=8, seed=2)
STUDENT = MLP(width=64, depth=1)


def answer(house: House, ref: str) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The model `ref`, and the answers and labels on the images that students are judged on."""
    folder = house.workspace.root / "look"
    folder.mkdir(exist_ok=True)
    bench = Bench(folder, house.workspace.root, spec=BenchSpec(device="cpu", threads=1))
    model = load_model(ref, bench)
    data = drain(load(VICTIM.data or Digits(), bench))
    order = torch.randperm(len(data.test), generator=bench.generator("samples"))
    images, labels = data.test.batch(order[len(order) // 2 :])
    with torch.no_grad():
        return model, images, model.module(images).argmax(1), labels


def test_a_student_agrees_the_more_the_more_it_asks(house: House) -> None:
    house.run("victim", VICTIM)
    spec = Extraction(queries=350, points=4, student=STUDENT, steps=250)
    found = house.run("copy", Audit(model="victim", audit=spec))
    assert found.status == "done", found.error
    rows = found.table("extraction").rows
    assert [row[0] for row in rows] == [44, 88, 175, 350]
    agreements = [row[1] for row in rows]
    assert agreements[-1] > max(0.9, agreements[0])
    said = [e for e in found.events if isinstance(e, Scalars)]
    assert [e.step for e in said] == [44, 88, 175, 350]
    # What it says of itself is so, counted again on models from their files.
    _, images, by_victim, labels = answer(house, "victim")
    student, _, by_student, _ = answer(house, "copy")
    assert student.card.model == STUDENT
    agreement = float((by_victim == by_student).double().mean())
    assert found.summary["agreement"] == pytest.approx(agreement)
    assert found.summary["accuracy"] == pytest.approx(float((by_student == labels).double().mean()))
    low, high = found.summary["agreement_interval"]
    assert low < agreement < high
    assert found.summary["queries"] == 350
    assert found.summary["model_accuracy"] == pytest.approx(
        float((by_victim == labels).double().mean())
    )
    assert any(isinstance(e, Saved) and e.name == "model" for e in found.events)
    # And it is a model like any other: a surrogate for a transfer attack.
    transfer = house.run(
        "transfer",
        Attack(model="victim", surrogate="copy", attack=PGD(eps=0.3, steps=5), samples=100),
    )
    assert transfer.status == "done"
    assert transfer.summary["transfer_rate"] > 0.2


def test_labels_alone_say_less_than_probabilities_but_enough(house: House) -> None:
    house.run("victim", VICTIM)
    found = {}
    for answers in ("probabilities", "labels"):
        spec = Extraction(answers=answers, queries=350, points=1, student=STUDENT, steps=250)
        found[answers] = house.run(answers, Audit(model="victim", audit=spec)).summary
    assert found["labels"]["agreement"] > 0.85
    assert found["labels"]["weights_sha256"] != found["probabilities"]["weights_sha256"]


def test_noise_and_other_data_can_be_asked_about(house: House) -> None:
    house.run("victim", VICTIM)
    noise = Extraction(source="noise", queries=500, points=2, steps=100)
    found = house.run("noise", Audit(model="victim", audit=noise))
    assert found.status == "done"
    assert found.summary["queries"] == 500
    assert 0.05 < found.summary["agreement"] < 0.95
    other = Extraction(
        source="other", other=Digits(split_seed=9), queries=9999, points=1, steps=100
    )
    found = house.run("other", Audit(model="victim", audit=other))
    assert found.status == "done"
    assert found.summary["queries"] == 1295
    assert any(isinstance(e, Note) and "1295 images" in e.text for e in found.events)
    wrong = Extraction(source="other", other=Digits(size=16), points=1)
    refused = house.run("wrong", Audit(model="victim", audit=wrong))
    assert refused.status == "failed"
    assert "(1, 16, 16)" in refused.error


def test_a_cancel_keeps_the_students_that_are_there(house: House) -> None:
    house.run("victim", VICTIM)

    def watch(runner: Any, events: Any) -> None:
        if any(isinstance(e, Progress) and e.unit == "students" and e.done == 2 for e in events):
            runner.cancel()

    spec = Extraction(queries=300, points=4, student=STUDENT, steps=2000)
    found = house.run("copy", Audit(model="victim", audit=spec), watch)
    assert found.status == "cancelled"
    assert found.summary["partial"] is True
    assert found.summary["queries"] in (75, 150)
    assert (found.folder / "model.safetensors").is_file()


def test_the_same_seed_gives_the_same_student(house: House) -> None:
    house.run("victim", VICTIM)
    audit = Audit(model="victim", audit=Extraction(queries=60, points=2, steps=30))
    hashes = {house.run(name, audit).summary["weights_sha256"] for name in ("a", "b")}
    assert len(hashes) == 1


def test_budgets_double_up_to_what_there_is() -> None:
    assert _budgets(1000, 5) == [63, 125, 250, 500, 1000]
    assert _budgets(3, 5) == [1, 2, 3]
    assert _budgets(1, 1) == [1]


@pytest.mark.parametrize(
    "values", [{"source": "other"}, {"other": {"kind": "digits"}}, {"queries": 0}]
)
def test_what_does_not_fit_is_refused(values: dict) -> None:
    with pytest.raises(SpecError):
        parse_task({"kind": "audit", "model": "m", "audit": {"kind": "extraction", **values}})
