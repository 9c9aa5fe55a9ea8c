"""AdvGAN: its loss, what it learns against a model of digits, and the attack that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.attacks import attack, perturb
from engine.attacks.spec import PGD
from engine.attacks.trying import attempt
from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled, SpecError
from engine.events import Images, Scalars
from engine.events import drain as through
from engine.federated.checking import check
from engine.generative.advgan.networks import changed
from engine.generative.advgan.running import deception
from engine.generative.spec import AdvGan, AdvGanGenerator, TrainAdvGan
from engine.models import load_model, load_network
from engine.recipe import enqueue, entries
from engine.runner import Runner
from engine.store import Workspace
from engine.task import BenchSpec, parse, parse_task, references, with_references

HERE = {"device": "cpu", "threads": 1}
VICTIM = {
    "name": "victim",
    "kind": "train",
    "model": {"kind": "mlp", "width": 64},
    "epochs": 8,
    "bench": HERE,
}
ADVGAN = {
    "name": "advgan",
    "kind": "advgan",
    "model": "victim",
    "eps": 0.3,
    "width": 8,
    "blocks": 1,
    "epochs": 12,
    "batch_size": 64,
    "bench": HERE,
}


def finished(root: Path, *tasks: dict) -> dict:
    """The summaries of the tasks of a recipe, by name."""
    workspace = Workspace(root)
    found = {}
    for run in enqueue(workspace, entries({"task": list(tasks)})):
        status = Runner(workspace, lambda run, events: None).run(run)
        info = run.info()
        assert status in ("done", "rejected"), info
        found[info.name] = info.summary
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A workspace with a victim and a generator against it."""
    root = tmp_path_factory.mktemp("advgan") / "workspace"
    finished(root, VICTIM, ADVGAN)
    return root


def bench_at(workspace: Path, folder: Path, seed: int = 0) -> Bench:
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, workspace, seed=seed, spec=BenchSpec(**HERE))


@pytest.fixture
def bench(trained, tmp_path) -> Bench:
    return bench_at(trained, tmp_path / "runs" / "this-run")


def test_the_loss_is_what_is_missing_to_deception():
    logits, labels = torch.randn(9, 5), torch.randint(5, (9,))
    for target, confidence in ((None, 0.0), (None, 0.7), (2, 0.3)):
        total = 0.0
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            aim = label if target is None else target
            rest = max(value for k, value in enumerate(row) if k != aim)
            lead = row[aim] - rest if target is None else rest - row[aim]
            total += max(lead, -confidence)
        found = deception(logits, labels, target, confidence)
        assert float(found) == pytest.approx(total / 9, abs=1e-5)


def test_the_generator_deceives_the_model_within_its_ball(trained, bench):
    run = Workspace(trained).find("advgan")
    assert run.info().summary["success_rate"] > 0.8
    network = load_network("advgan", bench, AdvGanGenerator).module
    victim = load_model("victim", bench).module
    data = through(load(Digits(), bench))
    images, labels = data.test.batch(torch.arange(len(data.test)))
    with torch.no_grad():
        change = network(images)
        forged = changed(images, change)
        right = victim(images).argmax(1) == labels
        broken = right & (victim(forged).argmax(1) != labels)
    assert change.abs().max() <= 0.3
    assert 0 <= forged.min() <= forged.max() <= 1
    assert float(broken.sum() / right.sum()) == pytest.approx(run.info().summary["success_rate"])
    assert run.info().summary["robust_accuracy"] == pytest.approx(
        float((right & ~broken).float().mean())
    )


def test_what_an_image_gets_depends_on_no_other(bench):
    network = load_network("advgan", bench, AdvGanGenerator).module
    images = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(network(images)[2:4], network(images[2:4]), atol=1e-6)


def test_the_attack_makes_what_the_generator_makes(bench):
    spec = AdvGan(generator="advgan", eps=0.3).ready(bench)
    victim = load_model("victim", bench).module
    data = through(load(Digits(), bench))
    images, labels = data.test.batch(torch.arange(80))
    found = attack(victim, images, labels, spec)
    network = load_network("advgan", bench, AdvGanGenerator).module
    with torch.no_grad():
        forged = changed(images, network(images))
    assert torch.allclose(found.adversarial[found.success], forged[found.success], atol=1e-5)
    with torch.no_grad():
        assert (victim(found.adversarial[found.success]).argmax(1) != labels[found.success]).all()
    assert found.gradient_evaluations == 0
    # Half of epsilon is half of the change.
    half = attack(victim, images, labels, spec.model_copy(update={"eps": 0.15}))
    assert (half.adversarial - images).abs().max() <= 0.15
    assert int(half.success.sum()) < int(found.success.sum())


def test_a_training_gets_its_examples_too(bench):
    spec = AdvGan(generator="advgan", eps=0.3).ready(bench)
    victim = load_model("victim", bench).module
    images, labels = torch.rand(5, 1, 8, 8), torch.arange(5)
    found = through(
        perturb(victim, images, labels, spec, seed=0, ids=torch.arange(5), early_exit=False)
    )
    assert 0 < (found.adversarial - images).abs().max() <= 0.3


def test_it_runs_beside_pgd_and_models_train_against_it(trained):
    advgan = {"kind": "advgan", "generator": "advgan", "eps": 0.3}
    found = finished(
        trained,
        {
            "name": "both",
            "kind": "evaluate",
            "model": "victim",
            "attacks": [advgan, {"kind": "pgd", "eps": 0.3, "steps": 10, "step_size": 0.075}],
            "every": True,
            "samples": 100,
            "curve": 0,
            "checked": 0,
            "corruptions": False,
            "noise": False,
            "bench": HERE,
        },
        {
            "name": "hardened",
            "kind": "train",
            "init": "victim",
            "epochs": 4,
            "adversarial": {
                "kind": "mixed",
                "attack": advgan,
                "mixture": [{"kind": "pgd", "eps": 0.3, "steps": 2, "step_size": 0.2}],
                "shares": [0.9, 0.1],
            },
            "bench": HERE,
        },
        {
            "name": "again",
            "kind": "attack",
            "model": "hardened",
            "attack": advgan,
            "samples": 100,
            "bench": HERE,
        },
    )
    by_attack = found["both"]["robust_accuracy_by_attack"]
    assert by_attack["advgan"] < 0.3
    assert found["again"]["robust_accuracy"] > by_attack["advgan"] + 0.4
    lineage = Workspace(trained).find("both").info().lineage
    generator = Workspace(trained).find("advgan").id
    assert lineage["attacks.0.generator"] == generator


def test_an_image_of_ones_own_is_tried_on(bench):
    victim = load_model("victim", bench).module
    data = through(load(Digits(), bench))
    images, _ = data.test.batch(torch.arange(20))
    values = {"kind": "advgan", "generator": "advgan"}
    found = [
        through(attempt(victim, image[None], values, 0.3, bench=bench)).success for image in images
    ]
    assert sum(found) > 10
    with pytest.raises(BadInput, match="has not been loaded"):
        through(attempt(victim, images[:1], values, 0.3))


def test_a_federation_has_no_generator(bench):
    adversarial = {"kind": "mixed", "attack": {"kind": "advgan", "generator": "advgan"}}
    spec = parse_task({"kind": "federate", "adversarial": adversarial})
    with pytest.raises(BadInput, match=r"adversarial.attack.generator: clients do not have"):
        check(spec)


def test_references_inside_of_parts_are_found_and_replaced():
    task = parse_task(
        {
            "kind": "train",
            "init": "plain",
            "adversarial": {
                "kind": "mixed",
                "attack": {"kind": "pgd"},
                "mixture": [{"kind": "pgd"}, {"kind": "advgan", "generator": "forger"}],
            },
        }
    )
    found = references(task)
    assert found == {"init": "plain", "adversarial.mixture.1.generator": "forger"}
    other = with_references(task.to_dict(), {path: f"other {ref}" for path, ref in found.items()})
    assert references(parse_task(other)) == {
        "init": "other plain",
        "adversarial.mixture.1.generator": "other forger",
    }
    assert references(task) == found  # as it was


def test_bursts_and_interruptions_change_nothing(trained, tmp_path, drain):
    spec = parse(TrainAdvGan, {**{k: v for k, v in ADVGAN.items() if k != "name"}, "epochs": 1})
    hashes = [drain(spec.run(bench_at(trained, tmp_path / "whole")))[1]["weights_sha256"]]
    first = bench_at(trained, tmp_path / "resumed")
    first.single_step = True
    before = torch.get_rng_state()
    run = spec.run(first)
    for event in run:
        assert torch.equal(before, torch.get_rng_state())
        if isinstance(event, Scalars) and event.step == 7:
            break
    with pytest.raises(StopIteration) as end:
        run.throw(Cancelled())
        while True:
            next(run)
    assert end.value.value["partial"]
    again = bench_at(trained, tmp_path / "resumed")
    again.restore(again.checkpoints.latest())
    events, summary = drain(spec.run(again))
    assert min(e.step for e in events if isinstance(e, Scalars)) == 8
    hashes.append(summary["weights_sha256"])
    assert len(set(hashes)) == 1


def test_it_shows_images_and_changes(trained, tmp_path, drain):
    values = {k: v for k, v in ADVGAN.items() if k != "name"}
    spec = parse(TrainAdvGan, {**values, "epochs": 1, "target": 3})
    events, summary = drain(spec.run(bench_at(trained, tmp_path / "run")))
    shown = {e.name: e for e in events if isinstance(e, Images)}
    assert shown.keys() == {"adversarial", "perturbation"}
    assert shown["perturbation"].scale == 0.3
    assert len(shown["adversarial"].captions) == len(shown["adversarial"].pixels)
    assert 0 <= summary["success_rate"] <= 1


def test_what_cannot_be_is_refused(bench, drain):
    for values, words in (
        ({"target": 10}, "no class 10"),
        ({"data": {"kind": "digits", "size": 12}}, "takes images"),
        ({"model": "advgan"}, "no classifier"),
    ):
        spec = parse(TrainAdvGan, {"kind": "advgan", "model": "victim", **values})
        with pytest.raises(BadInput, match=words):
            drain(spec.run(bench))
    victim = load_model("victim", bench).module
    images, labels = torch.rand(5, 1, 8, 8), victim(torch.rand(5, 1, 8, 8)).argmax(1)
    with torch.no_grad():
        labels = victim(images).argmax(1)
    with pytest.raises(BadInput, match="has not been loaded"):
        attack(victim, images, labels, AdvGan(generator="advgan"))
    with pytest.raises(BadInput, match="expected one of: advgan_generator"):
        AdvGan(generator="victim").ready(bench)
    other = AdvGanGenerator(width=8).network((3, 8, 8), 0)
    with pytest.raises(BadInput, match="train one for them"):
        attack(victim, images, labels, AdvGan(generator="x").carrying(other))
    with pytest.raises(BadInput, match="at least 4 x 4"):
        AdvGanGenerator().network((1, 3, 8), 0)
    with pytest.raises(SpecError, match="eps"):
        parse(TrainAdvGan, {"kind": "advgan", "model": "victim", "eps": 1.5})
    assert not AdvGan(generator="x").climbs()
    assert PGD().ready(bench) == PGD()
