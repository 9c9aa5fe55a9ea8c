"""Certificates beside attacks: what is counted, what is shown, and what contradicts what."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks.spec import PGD
from engine.attacks.tally import wilson
from engine.data import Dataset
from engine.errors import Cancelled, CrucibleError
from engine.events import Event, Table, drain
from engine.robustness import searching, smoothing
from engine.robustness.certified import (
    NOTHING,
    Certified,
    ModelProver,
    Proof,
    certify,
    confront,
    curve_table,
    failure,
    figures,
    radius_table,
)
from engine.robustness.searching import Found, Subject
from engine.robustness.smoothing import SmoothingProver
from engine.robustness.spec import Certificate, Evaluate, Smoothing
from engine.store import Workspace
from tests.engine.cli import engine
from tests.robustness.masked import Net
from tests.robustness.test_evaluate import pull, small, tables
from tests.robustness.test_smoothing import Halves
from tests.robustness.zoo import bench_in, subject

QUICK = Smoothing(sigma=0.25, n=400, n0=20, samples=12, steps=8, votes=100, radii=(0.1, 0.4))


class Exact(ModelProver):
    """Half-spaces, whose radii are known: those of the answers, times `factor`."""

    def __init__(self, on: Subject, factor: float, batch: int = 5) -> None:
        super().__init__(on)
        self.factor, self.together = factor, batch

    def prove(self, rows: Tensor) -> Generator[Event, None, Proof]:
        assert isinstance(self.on.model, Halves)
        distance = self.on.model.distance(self.on.images(rows)[0]).double()
        yield from ()
        return Proof(distance.abs() * self.factor, (distance < 0).long())


def right(model: Halves, data: Dataset, folder: Path, count: int = 20) -> Subject:
    """A subject whose labels are what the model says, but the first."""
    on = subject(model, data, bench_in(folder), count)
    on.labels = on.predictions.clone()
    on.labels[0] = 1 - on.labels[0]
    on.correct = on.predictions == on.labels
    on.test.labels[on.order] = on.labels
    return on


@pytest.fixture
def own(tmp_path: Path) -> Dataset:
    """Digits whose labels a test may change."""
    from tests.robustness.zoo import digits

    return digits(tmp_path)


def run(on: Subject, prover: Any, spec: Certificate, others: Any = ()) -> Certified:
    found = Certified.nothing(spec, on)
    drain(certify(on, prover, found))
    drain(confront(on, prover, found, others))
    return found


def test_a_true_certificate_is_not_contradicted(own: Dataset, tmp_path: Path) -> None:
    model = Halves()
    on = right(model, own, tmp_path)
    distance = model.distance(on.images(torch.arange(20))[0]).abs().double()
    spec = QUICK.model_copy(update={"samples": 0, "radii": (0.3, 0.6)})
    found = run(on, Exact(on, 0.999), spec)
    assert found.contradictions == []
    assert found.samples == 20
    assert found.radius[0] < 0  # that answer cannot change, and is wrong
    true = distance * 0.999
    for radius in (0.0, 0.3, 0.6):
        expected = int((true[1:] >= radius).sum())
        assert found.hits(radius) == expected
        # The box stops some of the attacks, so that more stand than the plane alone would let.
        assert found.standing(radius) >= expected
    assert bool((found.fallen >= distance - 1e-6).all())
    assert bool(found.fallen.isfinite().any())
    summary = figures(found)
    assert summary["certified_accuracy"]["0.3"] == found.hits(0.3) / 20
    assert summary["certified_accuracy_interval"]["0"] == list(wilson(19, 20))
    assert summary["certified_robust_accuracy"]["0.6"] == found.standing(0.6) / 20


def test_one_that_claims_too_much_is(own: Dataset, tmp_path: Path) -> None:
    model = Halves()
    on = right(model, own, tmp_path)
    distance = model.distance(on.images(torch.arange(20))[0]).abs().double()
    spec = QUICK.model_copy(update={"samples": 0, "radii": ()})
    found = run(on, Exact(on, 1.5), spec)
    assert len(found.contradictions) > 10
    for each in found.contradictions:
        assert each.row != 0
        true = float(distance[each.row])
        assert true - 1e-6 <= each.distance <= each.radius
        assert each.radius == pytest.approx(1.5 * true, abs=1e-6)
        size = (each.image - on.images(torch.tensor([each.row]))[0][0]).double().norm()
        assert each.distance == pytest.approx(float(size))
        assert 0 <= float(each.image.min()) <= float(each.image.max()) <= 1
        assert int(model(each.image[None]).argmax()) == each.taken != each.certified
        assert each.chance == 0.0
        assert each.sample == int(on.test.ids[on.order[each.row]])
    assert "That cannot happen by chance" in failure(on, found)


def test_the_classifier_that_was_certified_is_the_one_attacked(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the model beneath it, which an evaluation listens to while others attack it."""
    asked: list[str] = []
    perturb = searching.perturb

    def spy(model: nn.Module, *rest: Any, **named: Any) -> Any:
        asked.append(type(model).__name__)
        return perturb(model, *rest, **named)

    monkeypatch.setattr(searching, "perturb", spy)
    pull(evaluated(model_file).run(bench_in(tmp_path)))
    assert set(asked) == {"Witness", "Smoothed"}
    assert asked.count("Smoothed") >= 2  # inside of what was proved, and at the radii asked for


def test_an_image_that_is_not_what_it_was_certified_as_contradicts(
    own: Dataset, tmp_path: Path
) -> None:
    """Without any attack: the classifier has changed its mind since."""
    model = Halves()
    on = right(model, own, tmp_path)
    spec = QUICK.model_copy(update={"samples": 0, "radii": (), "n": 400, "n0": 50, "sigma": 0.05})
    found = Certified.nothing(spec, on)
    prover = SmoothingProver(spec, on)
    drain(certify(on, prover, found))
    certified = int((found.radius > 0).sum())
    model.weight.neg_()
    drain(confront(on, prover, found, ()))
    clean = [each for each in found.contradictions if each.found_by == "clean"]
    assert certified >= len(clean) > 10  # the vote on images near the plane is not sure
    assert all(each.distance == 0 for each in clean)
    samples = {each.sample for each in found.contradictions}
    assert f"({len(samples)} of 20 samples)" in failure(on, found)


def test_what_other_attacks_found_counts_too(own: Dataset, tmp_path: Path) -> None:
    """In the certificate's norm, whatever theirs: only inside of what was proved."""
    model = Halves()
    on = right(model, own, tmp_path)
    images = on.images(torch.arange(20))[0]
    distance = model.distance(images).double()
    moved = images - (distance.float() * 1.1)[:, None].mul(model.weight).view_as(images)
    other = Found.nothing(on, keep=True)
    other.adversarial = moved
    other.success[:] = True
    other.success[3] = False
    spec = QUICK.model_copy(update={"samples": 0, "radii": (), "steps": 1})
    honest = run(on, Exact(on, 1.05), spec, [("other", other)])
    assert "other" not in {each.found_by for each in honest.contradictions}
    broken = run(on, Exact(on, 1.2), spec, [("other", other)])
    rows = {each.row for each in broken.contradictions if each.found_by == "other"}
    assert rows == set(range(1, 20)) - {3}


def test_without_steps_nothing_is_attacked(own: Dataset, tmp_path: Path) -> None:
    on = right(Halves(), own, tmp_path)
    found = run(on, Exact(on, 1.5), QUICK.model_copy(update={"steps": 0}))
    assert found.samples == 12
    assert found.contradictions == []
    assert found.attacked == []
    assert [row[4] for row in radius_table(found).rows] == [found.hits(0) / 12, None, None]


def test_curves(own: Dataset, tmp_path: Path) -> None:
    on = right(Halves(), own, tmp_path)
    found = Certified.nothing(QUICK.model_copy(update={"samples": 5}), on)
    events, _ = pull(certify(on, Exact(on, 1.0, batch=1), found))
    shown = [e for e in events if isinstance(e, Table) and e.name == "certified_curve"]
    assert len(shown) > 1
    last = curve_table(found)
    assert shown[-1] == last
    radii, shares = [row[0] for row in last.rows], [row[1] for row in last.rows]
    assert radii == sorted(set(radii))
    assert {0.0, 0.1, 0.4} <= set(radii)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 4 / 5
    assert shares[-1] == found.hits(radii[-1]) / 5
    largest = float(found.radius.max())
    assert found.hits(largest) == 1
    assert found.hits(largest * 1.0001) == 0


def test_smoothing_withstands_the_attack_on_the_smoothed(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    on = subject(net, data, bench_in(tmp_path), 12)
    spec = QUICK.model_copy(update={"radii": (0.4, 1.2)})
    found = run(on, SmoothingProver(spec, on), spec)
    assert found.contradictions == []
    assert found.attacked == [0.4, 1.2]
    for radius in (0.4, 1.2):
        assert found.hits(radius) <= found.standing(radius)
    assert found.standing(1.2) < found.hits(0)  # the attack finds something
    finite = found.fallen.isfinite()
    assert bool((found.fallen[finite] > found.radius[finite]).all())
    assert on.cost.gradient > 0
    assert on.cost.forward > 12 * 420


def test_a_broken_smoothing_certificate_fails_the_run(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the recipe to the exit code; what contradicts it is kept with the run."""
    text = f"""[[task]]
name = "judged"
kind = "evaluate"
model = "{model_file}"
samples = 30
curve = 0
checked = 0
corruptions = false
noise = false
attacks = [{{kind = "pgd", norm = "l2", eps = 0.5, step_size = 0.1, steps = 10}}]
certify = {{kind = "smoothing", sigma = 0.25, n = 300, n0 = 20, samples = 12, votes = 200}}
"""
    (tmp_path / "recipe.toml").write_text(text)
    said = engine("run", tmp_path / "recipe.toml", "--workspace", tmp_path / "honest")
    assert said.code == 0, said.out + said.err
    honest = Workspace(tmp_path / "honest").find("judged").info()
    assert honest.summary["contradictions"] == 0
    assert honest.summary["certified_samples"] == 12
    assert 0 < honest.summary["certified_accuracy"]["0.25"] <= 1

    monkeypatch.setattr(smoothing, "lower_bound", lambda *_: 1 - 1e-9)
    said = engine("run", tmp_path / "recipe.toml", "--workspace", tmp_path / "broken")
    assert said.code == 1, said.out + said.err
    assert "the certificate is contradicted (" in said.out + said.err
    assert "Traceback" not in said.out + said.err
    run = Workspace(tmp_path / "broken").find("judged")
    info = run.info()
    assert info.status == "failed"
    assert "is certified as" in info.error
    assert "By chance that happens with a probability of at most 0.001" in info.error
    assert {each["name"] for each in info.artifacts} >= {"report", "contradictions"}
    kept = safetensors.torch.load_file(run.folder / "contradictions.safetensors")
    size = (kept["found"] - kept["clean"]).double().flatten(1).norm(dim=1)
    torch.testing.assert_close(size, kept["distance"])
    assert bool((kept["distance"] <= kept["radius"]).all())
    assert bool((kept["taken"] != kept["certified"]).all())
    report = json.loads((run.folder / "report.json").read_text())
    assert len(report["certificate"]["contradicted"]) == len(kept["ids"]) > 0
    assert str(report["certificate"]["contradicted"][0]["sample"]) in str(kept["ids"].tolist())
    stored = {e.name: e for _, _, e in run.events() if isinstance(e, Table)}
    assert len(stored["contradictions"].rows) == len(kept["ids"])


def evaluated(model: Path, **values: Any) -> Evaluate:
    attack = PGD(norm="l2", eps=0.4, steps=5, step_size=0.2)
    return small(model, attacks=(attack,), samples=30, certify=QUICK, **values)


def test_an_evaluation_carries_its_certificate(model_file: Path, tmp_path: Path) -> None:
    bench = bench_in(tmp_path / "a")
    events, summary = pull(evaluated(model_file, curve=4).run(bench))
    found = tables(events)
    # The curve is about the model, the certificate about the smoothed one.
    assert found["certificate"].rows == (("smoothing", "l2", ""),)
    assert [row[0] for row in found["certified"].rows] == [0.0, 0.1, 0.4]
    for radius, share, low, high, robust in found["certified"].rows:
        assert summary["certified_accuracy"][f"{radius:g}"] == share
        assert low <= share <= high
        assert share <= robust
    report = json.loads((bench.folder / "report.json").read_text())
    certificate = report["certificate"]
    assert certificate["settings"]["n"] == 400
    assert certificate["settings"]["sigma"] == 0.25
    assert len(certificate["samples"]) == 12
    radii = [
        each["radius"] for each in certificate["samples"] if each["predicted"] == each["label"]
    ]
    assert sum(radius >= 0.1 for radius in radii) / 12 == summary["certified_accuracy"]["0.1"]
    assert summary["abstentions"] == sum(e["predicted"] is None for e in certificate["samples"])
    again, same = pull(evaluated(model_file, curve=4).run(bench_in(tmp_path / "b")))
    assert same["certified_accuracy"] == summary["certified_accuracy"]
    assert tables(again)["certified"] == found["certified"]


def test_a_certificate_of_the_model_belongs_beside_its_curve(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Smoothing, "of_the_model", True)
    quick = QUICK.model_copy(update={"samples": 1, "n": 10, "steps": 0})
    own = small(model_file, attacks=(PGD(norm="l2", eps=0.4, steps=2),), curve=4, certify=quick)
    events, _ = pull(own.run(bench_in(tmp_path / "a")))
    assert tables(events)["certificate"].rows == (("smoothing", "l2", "curve"),)
    for other in (own.model_copy(update={"curve": 0}), small(model_file, curve=4, certify=quick)):
        events, _ = pull(other.run(bench_in(tmp_path / "b")))
        assert tables(events)["certificate"].rows == (("smoothing", "l2", ""),)


def test_a_cancel_keeps_the_samples_that_are_done(model_file: Path, tmp_path: Path) -> None:
    spec = evaluated(model_file)
    _, whole = pull(spec.run(bench_in(tmp_path / "whole")))
    counts = []
    for further in range(0, 100, 4):
        # How many events there are depends on the clock: those of the certificate are counted.
        steps, seen, left = spec.run(bench_in(tmp_path / str(further))), False, further
        try:
            while not seen or left:
                event = next(steps)
                left -= seen
                seen |= isinstance(event, Table) and event.name == "certificate"
            steps.throw(Cancelled())
            summary = drain(steps)
        except StopIteration as end:
            summary = end.value
        if "partial" not in summary:
            break
        counts.append(summary["certified_samples"])
        hits = summary["certified_accuracy"]["0.1"] * summary["certified_samples"]
        assert hits <= whole["certified_accuracy"]["0.1"] * 12 + 1e-9
    assert counts == sorted(counts)
    assert counts[0] < 12
    assert len(set(counts)) > 2


def test_nothing_certified_is_said_without_dividing(own: Dataset, tmp_path: Path) -> None:
    on = right(Halves(), own, tmp_path)
    found = Certified.nothing(QUICK, on)
    assert figures(found)["certified_accuracy"] == {"0": 0.0, "0.1": 0.0, "0.4": 0.0}
    assert found.predictions.tolist() == [NOTHING] * 12


def test_a_model_that_draws_is_refused_before_anything_is_attacked(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise CrucibleError("refused")

    monkeypatch.setattr(smoothing, "SmoothingProver", refuse)
    steps = evaluated(model_file).run(bench_in(tmp_path))
    seen: list[Event] = []
    with pytest.raises(CrucibleError, match="refused"):
        seen.extend(steps)
    assert "attacks" not in tables(seen)
