from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks import (
    FGSM,
    FMN,
    PGD,
    AttackSpec,
    Boundary,
    HopSkipJump,
    Patch,
    Spatial,
    Universal,
    driver,
    oracle,
    running,
    showing,
)
from engine.attacks.result import Iteration, Snapshot
from engine.attacks.running import TARGETED, run_attack
from engine.attacks.showing import SIDE, Gallery
from engine.attacks.spec import Attack
from engine.attacks.tally import Tally, warnings, wilson
from engine.bench import Bench
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled
from engine.events import Event, Images, Note, Progress, Saved, Scalars
from engine.models import ModelCard, build, load_model, save_model
from engine.models.answers import PROBABILITIES
from engine.models.spec import CNN
from engine.store.checkpoints import Checkpoint
from engine.task import BenchSpec, Summary
from tests.attacks.models import images

SPEC = PGD(eps=0.15, steps=4, step_size=0.05)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CNN that has seen digits for a second."""
    folder = tmp_path_factory.mktemp("model")
    data = loaded(Bench(folder, folder))
    spec = CNN(width=8, depth=1)
    model = build(spec, data.shape, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        for part in torch.randperm(len(data.train), generator=order).split(64):
            x, y = data.train.batch(part)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    card = ModelCard(model=spec, data=Digits(), shape=data.shape, classes=data.classes)
    save_model(folder / "model.safetensors", model, card)
    return folder / "model.safetensors"


def loaded(bench: Bench) -> Any:
    from engine.data import load
    from engine.events import drain

    return drain(load(Digits(), bench))


def bench_in(folder: Path, seed: int = 0) -> Bench:
    folder.mkdir(exist_ok=True)
    return Bench(folder, folder, seed=seed, spec=BenchSpec(device="cpu", threads=1))


def without_progress(events: list[Event]) -> list[Event]:
    """What does not depend on the clock."""
    return [event for event in events if not isinstance(event, Progress)]


def drain(steps: Any, stop_at: int = -1) -> tuple[list[Event], Summary]:
    events: list[Event] = []
    while True:
        try:
            said = len(without_progress(events))
            now = said == stop_at and not isinstance(events[-1], Progress)
            events.append(steps.throw(Cancelled()) if now else next(steps))
        except StopIteration as end:
            return events, end.value


def test_an_attack_that_cannot_reach_its_ball_says_so(model_file: Path, tmp_path: Path) -> None:
    weak = PGD(norm="l2", eps=2.0, steps=40, step_size=0.01)
    for number, attack in enumerate((weak, weak.model_copy(update={"step_size": 0.125}))):
        spec = Attack(model=str(model_file), attack=attack, samples=4, show=0)
        events, _ = drain(run_attack(spec, bench_in(tmp_path / str(number))))
        said = [e.text for e in events if isinstance(e, Note) and e.level == "warning"]
        assert said == ([weak.advice()] if attack is weak else [])
    text = weak.advice()
    assert "40 steps of 0.01 get at most 0.4 away" in text
    assert "epsilon, 2:" in text
    assert "a step size of about 0.12 (" in text
    assert PGD(eps=0.3, steps=3, step_size=0.1).advice() == ""  # .1 three times is .3
    assert PGD(eps=0.0).advice() == FGSM(norm="l2", eps=5.0).advice() == ""


def warned(events: list[Event], level: str = "warning") -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and event.level == level]


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        (FGSM(eps=0.0), "epsilon is 0: fgsm can change nothing, and every sample that is right "
         "stays right."),
        (FGSM(norm="l2", eps=8.1), "epsilon 8.1 is more than any image can change: two images of "
         "64 values in [0, 1] are at most 8 apart in l2."),
        (FGSM(norm="l2", eps=8.0), None),
        (FMN(norm="l1", eps=65.0, steps=2), "epsilon 65 is more than any image can change: two "
         "images of 64 values in [0, 1] are at most 64 apart in l1."),
        (FMN(norm="l0", eps=64.0, steps=2), None),
        (Spatial(eps=9.0, rotations=1, translations=1), None),
    ],
)  # fmt: skip
def test_a_radius_that_makes_no_sense_for_the_images_is_said(
    attack: AttackSpec, text: str | None, model_file: Path, tmp_path: Path
) -> None:
    spec = Attack(model=str(model_file), attack=attack, samples=4, show=0)
    events, _ = drain(run_attack(spec, bench_in(tmp_path)))
    assert warned(events) == ([] if text is None else [text])


def test_what_counts_for_a_targeted_attack_is_said(model_file: Path, tmp_path: Path) -> None:
    aimed = SPEC.model_copy(update={"targeted": True})
    spec = Attack(model=str(model_file), attack=aimed, samples=20, show=0)
    events, _ = drain(run_attack(spec, bench_in(tmp_path)))
    assert warned(events, "info") == [TARGETED.format("pgd")]


def test_a_model_that_returns_probabilities_is_told(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def softened(*given: Any) -> Any:
        loaded = load_model(*given)
        return dataclasses.replace(loaded, module=nn.Sequential(loaded.module, nn.Softmax(1)))

    monkeypatch.setattr(running, "load_model", softened)
    spec = Attack(model=str(model_file), attack=SPEC, samples=20, show=0)
    events, _ = drain(run_attack(spec, bench_in(tmp_path)))
    assert warned(events) == [PROBABILITIES]


def named(events: list[Event], name: str) -> list[Images]:
    return [event for event in events if isinstance(event, Images) and event.name == name]


def test_the_whole_task(model_file: Path, tmp_path: Path) -> None:
    spec = Attack(model=str(model_file), attack=SPEC, samples=100, show=6, batch_size=40)
    bench = bench_in(tmp_path)
    events, summary = drain(run_attack(spec, bench))

    saved = [event for event in events if isinstance(event, Saved)]
    content = (tmp_path / saved[0].path).read_bytes()
    assert saved[0].sha256 == hashlib.sha256(content).hexdigest()
    assert saved[0].size == len(content)
    kept = safetensors.torch.load(content)
    data = loaded(bench)
    order = torch.randperm(len(data.test), generator=bench.generator("samples"))[:100]
    assert torch.equal(kept["ids"], data.test.ids[order])
    x, y = data.test.batch(order)
    assert torch.equal(kept["clean"], x)
    assert torch.equal(kept["labels"], y)
    with torch.no_grad():
        model = load_model(spec.model, bench).module
        correct = model(x).argmax(1) == y
        still = model(kept["adversarial"]).argmax(1) == y
    assert torch.equal(kept["predictions"] == y, still)
    assert torch.equal(kept["success"], correct & ~still)
    assert 0 < still.sum() < correct.sum()

    assert summary["samples"] == 100
    assert summary["correct"] == int(correct.sum())
    assert summary["broken"] == int(kept["success"].sum())
    assert summary["clean_accuracy"] == correct.double().mean().item()
    assert summary["robust_accuracy"] == still.double().mean().item()
    assert summary["success_rate"] == summary["broken"] / summary["correct"]
    assert summary["max_norm"] <= 0.15
    assert summary["mean_norm"] == pytest.approx(kept["norm"][kept["success"]].mean().item())
    low, high = summary["robust_accuracy_interval"]
    assert low < summary["robust_accuracy"] < high
    assert "partial" not in summary
    assert summary["images_per_second"] > 0

    scalars = [event for event in events if isinstance(event, Scalars)]
    assert [event.step for event in scalars] == list(range(len(scalars)))
    assert len(scalars) <= 3 * 5
    rates = [event.values["attack/success_rate"] for event in scalars]
    assert rates == sorted(rates)
    assert rates[-1] == summary["success_rate"]
    assert scalars[-1].values["attack/robust_accuracy"] == pytest.approx(summary["robust_accuracy"])
    ends = [event for event in events if isinstance(event, Progress) and event.unit == "iterations"]
    assert ends[-1] == Progress(3 * 4, 3 * 4, "iterations")  # three batches of four steps

    clean, adversarial, change = (
        named(events, name) for name in ("clean", "adversarial", "perturbation")
    )
    assert len(clean) == 1
    assert len(adversarial) == len(change) == 5
    assert clean[0].pixels.shape == adversarial[0].pixels.shape == (6, 8, 8, 1)
    assert clean[0].pixels.dtype == np.uint8
    last = (kept["adversarial"][:6] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(adversarial[-1].pixels, last)
    assert change[-1].scale == 0.15
    assert int(change[-1].pixels.max()) <= 255
    for place, caption in enumerate(adversarial[-1].captions):
        assert caption["label"] == int(y[place])
        assert caption["prediction"] == int(kept["predictions"][place])
        assert caption["correct"] == bool(still[place])
        assert caption["norm"] == pytest.approx(float(kept["norm"][place]), abs=1e-5)
        assert sum(caption["probabilities"]) == pytest.approx(1, abs=1e-2)


def test_verdicts_do_not_depend_on_the_batch_size(model_file: Path, tmp_path: Path) -> None:
    found = []
    for size in (100, 7):
        spec = Attack(model=str(model_file), attack=SPEC, samples=100, show=0, batch_size=size)
        events, summary = drain(run_attack(spec, bench_in(tmp_path / str(size), seed=3)))
        assert not named(events, "clean")
        found.append((summary["broken"], summary["gradient_evaluations"]))
    assert found[0] == found[1]


def test_a_cancel_keeps_what_was_found(model_file: Path, tmp_path: Path) -> None:
    spec = Attack(model=str(model_file), attack=SPEC, samples=90, show=3, batch_size=30)
    everything, whole = drain(run_attack(spec, bench_in(tmp_path)))
    everything = without_progress(everything)
    first = next(i for i, event in enumerate(everything) if isinstance(event, Scalars))
    for stop in range(first + 1, len(everything)):
        if isinstance(everything[stop - 1], Saved):
            continue
        _, summary = drain(run_attack(spec, bench_in(tmp_path)), stop_at=stop)
        if "partial" not in summary:  # all batches were done
            assert summary["samples"] == 90
            continue
        assert summary["partial"] is True
        assert summary["finished"] <= summary["samples"] <= 90
        assert summary["broken"] <= whole["broken"]
        kept = safetensors.torch.load_file(tmp_path / running.FILE)
        assert len(kept["success"]) == len(kept["clean"]) == summary["samples"]
        assert int(kept["success"].sum()) == summary["broken"]


def out_of_memory(limit: int) -> Callable[..., Any]:
    put_through = oracle.Oracle._logits

    def limited(self: oracle.Oracle, x: Tensor) -> Tensor:
        if len(x) > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried too much")
        return put_through(self, x)

    return limited


def test_out_of_memory_halves_what_goes_through_the_model(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Attack(model=str(model_file), attack=SPEC, samples=60, show=4, batch_size=60)
    _, whole = drain(run_attack(spec, bench_in(tmp_path)))
    monkeypatch.setattr(oracle.Oracle, "_logits", out_of_memory(20))
    events, summary = drain(run_attack(spec, bench_in(tmp_path)))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert {note.partition(":")[0] for note in notes} == {"out of memory"}
    assert notes[0] == "out of memory: going on with 15 images at a time"
    assert summary["broken"] == whole["broken"]
    assert summary["samples"] == 60


def test_out_of_memory_with_one_image_is_a_failure(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle.Oracle, "_logits", out_of_memory(0))
    spec = Attack(model=str(model_file), attack=SPEC, samples=4)
    with pytest.raises(RuntimeError, match="allocate memory"):
        drain(run_attack(spec, bench_in(tmp_path)))


def test_other_failures_are_not_taken_for_memory(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(oracle.Oracle, "ask", broken)
    with pytest.raises(RuntimeError, match="something else"):
        drain(run_attack(Attack(model=str(model_file), samples=4), bench_in(tmp_path)))


def test_data_that_does_not_fit_the_model(model_file: Path, tmp_path: Path) -> None:
    spec = Attack(model=str(model_file), data=Digits(size=16), samples=4)
    with pytest.raises(BadInput, match=r"\(1, 8, 8\), but those of digits are \(1, 16, 16\)"):
        drain(run_attack(spec, bench_in(tmp_path)))


def made(success: list[bool], correct: list[bool], **other: Any) -> driver.AttackResult:
    """A result of these samples, with nothing in it but what is said."""
    count = torch.zeros(len(success), dtype=torch.int64)
    values: dict[str, Any] = {
        "adversarial": torch.zeros(len(success), 1, 4, 4),
        "success": torch.tensor(success),
        "norm": count.double(),
        "iterations": count,
        "queries": count,
        "correct": torch.tensor(correct),
        "predictions": count,
        "broken_in": count,
        "finished": torch.ones(len(success), dtype=torch.bool),
        "forward_evaluations": 4,
        "gradient_evaluations": 4,
        "zero_gradients": 0,
        "nan_count": 0,
    }
    return driver.AttackResult(**{**values, **other})


def test_zero_gradients_are_told() -> None:
    result = made([False, False], [True, True], zero_gradients=3, nan_count=1)
    tally = Tally(samples=2, correct=2, results=[result])
    notes = [event.text for event in warnings(tally)]
    assert "3 of 4 gradients were exactly zero" in notes[0]
    assert "1 answers of the model held a NaN" in notes[1]


def test_all_samples_and_too_many(model_file: Path, tmp_path: Path) -> None:
    spec = Attack(model=str(model_file), attack=FGSM(eps=0.1), samples=0, show=300 - 44)
    events, summary = drain(run_attack(spec, bench_in(tmp_path)))
    assert summary["samples"] == 359
    assert len(named(events, "adversarial")) == 2
    events, summary = drain(
        run_attack(spec.model_copy(update={"samples": 999}), bench_in(tmp_path))
    )
    assert summary["samples"] == 359
    assert any(isinstance(event, Note) and "359 images" in event.text for event in events)


def test_large_images_are_shown_small_and_not_all_are_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(showing, "STORED", 1_000_000)
    x = images(4, side=150).repeat(1, 4, 1, 1)
    labels, logits = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 3)
    gallery = Gallery(PGD(norm="l2", eps=3.0), x, labels, logits, frames=100)
    clean = gallery.clean()
    assert clean.pixels.shape == (4, SIDE, SIDE, 3)
    pictures = [p for step in range(100) for p in gallery.frames(step, last=step == 99)]
    assert len(pictures) == 200
    kept = [picture for picture in pictures if picture.keep]
    assert kept[-2:] == pictures[-2:]
    assert len(kept) > 10
    assert clean.pixels.nbytes + sum(picture.pixels.nbytes for picture in kept) <= 1_000_000


def test_pictures_are_made_while_there_is_something_to_see(
    model_file: Path, tmp_path: Path
) -> None:
    strong = PGD(eps=0.5, steps=12, step_size=0.05)
    spec = Attack(model=str(model_file), attack=strong, samples=60, show=4)
    events, _ = drain(run_attack(spec, bench_in(tmp_path)))
    kept = safetensors.torch.load_file(tmp_path / "adversarial.safetensors")
    assert bool((kept["predictions"] != kept["labels"])[:4].all())  # all that are shown are wrong
    shown = named(events, "adversarial")
    asked = [event.step for event in events if isinstance(event, Scalars)]
    steps = [picture.step for picture in shown]
    assert steps == asked[: len(steps)]
    assert 1 < len(steps) < len(asked)
    assert shown[-1].keep
    last = (kept["adversarial"][:4] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(shown[-1].pixels, last)
    assert not np.array_equal(shown[-2].pixels, last)
    assert [caption["correct"] for caption in shown[-1].captions] == [False] * 4


def test_who_is_never_attacked_is_shown_too(model_file: Path, tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    data = loaded(bench)
    order = torch.randperm(len(data.test), generator=bench.generator("samples"))
    x, y = data.test.batch(order)
    with torch.no_grad():
        wrong = load_model(str(model_file), bench).module(x).argmax(1) != y
    first = int(wrong.nonzero()[0])
    logits = torch.zeros(1, 10)
    gallery = Gallery(SPEC, x[first : first + 1], y[first : first + 1], logits, frames=5)
    now = Iteration(
        *(0, 0, torch.tensor([1]), x[:1], logits, torch.zeros(1)),
        *(torch.zeros(2, dtype=torch.bool), x[[first, 0]], lambda: Snapshot({}, {})),
    )
    assert gallery.update(now, 0)
    pixels = next(iter(gallery.frames(0, last=True))).pixels
    assert np.array_equal(pixels, gallery.clean().pixels)
    assert not gallery.update(now, 0)


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(50, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)  # Newcombe 1998, method 3
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


# --- transfer -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_file(model_file: Path) -> Path:
    """Another model for the same digits."""
    bench = bench_in(model_file.parent)
    data, loaded_model = loaded(bench), load_model(str(model_file), bench)
    spec = CNN(width=6, depth=1)
    model = build(spec, data.shape, 10, generator_seed=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for part in torch.arange(len(data.train)).split(64):
        x, y = data.train.batch(part)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    card = loaded_model.card.model_copy(update={"model": spec})
    save_model(model_file.parent / "other.safetensors", model, card)
    return model_file.parent / "other.safetensors"


def test_examples_for_one_model_are_judged_by_another(
    model_file: Path, other_file: Path, tmp_path: Path
) -> None:
    spec = Attack(
        model=str(model_file), surrogate=str(other_file), attack=SPEC, samples=100, batch_size=60
    )
    bench = bench_in(tmp_path)
    events, summary = drain(run_attack(spec, bench))
    kept = safetensors.torch.load_file(tmp_path / running.FILE)
    judged, attacked = (load_model(str(f), bench).module for f in (model_file, other_file))
    x, moved, y = kept["clean"], kept["adversarial"], kept["labels"]
    with torch.no_grad():
        right, still, fooled = (
            judged(x).argmax(1) == y,
            judged(moved).argmax(1) == y,
            attacked(moved).argmax(1) != y,
        )
    assert torch.equal(kept["success"], right & ~still)
    assert torch.equal(kept["predictions"], judged(moved).argmax(1))
    assert torch.equal(kept["surrogate_success"], right & fooled)
    assert torch.equal(moved[~right], x[~right])
    # Nobody stops at the surrogate's boundary.
    assert (kept["norm"][right] == kept["norm"].max()).float().mean() > 0.9
    count, both = int(right.sum()), int((right & fooled & ~still).sum())
    assert summary["clean_accuracy"] == right.double().mean().item()
    assert summary["robust_accuracy"] == (right & still).double().mean().item()
    assert summary["success_rate"] == (right & ~still).sum().item() / count
    assert summary["surrogate_success_rate"] == (right & fooled).sum().item() / count
    assert summary["transfer_rate"] == both / (right & fooled).sum().item()
    assert summary["surrogate_success_rate"] > summary["success_rate"] > 0
    for name in ("success_rate", "surrogate_success_rate", "transfer_rate"):
        low, high = summary[f"{name}_interval"]
        assert low <= summary[name] <= high
    values = [event.values for event in events if isinstance(event, Scalars)]
    assert sum("attack/robust_accuracy" in each for each in values) == 2
    assert [each for each in values if "attack/robust_accuracy" in each][-1][
        "attack/robust_accuracy"
    ] == pytest.approx(summary["robust_accuracy"])
    last = named(events, "adversarial")[-1]
    predictions = [caption["prediction"] for caption in last.captions]
    assert predictions == kept["predictions"][: len(predictions)].tolist()


def test_a_surrogate_for_another_task(model_file: Path, tmp_path: Path) -> None:
    model = build(CNN(width=4, depth=1), (1, 8, 8), 3)
    card = ModelCard(model=CNN(width=4, depth=1), shape=(1, 8, 8), classes=("a", "b", "c"))
    save_model(tmp_path / "small.safetensors", model, card)
    spec = Attack(model=str(model_file), surrogate=str(tmp_path / "small.safetensors"), samples=4)
    with pytest.raises(BadInput, match=r"of 3 classes, but the data has \(1, 8, 8\) of 10"):
        drain(run_attack(spec, bench_in(tmp_path)))


# --- the smallest perturbation, queries -----------------------------------------------------------


def test_sizes_of_the_smallest_perturbations() -> None:
    norms = torch.tensor([0.5, 9.0, 3.0, 1.0, 2.0, 7.0], dtype=torch.float64)
    result = made(
        [True, False, True, True, True, False],
        [True, True, True, True, True, False],
        norm=norms,
        queries=torch.tensor([5, 50, 6, 7, 8, 0]),
    )
    tally = Tally(samples=6, correct=5, minimal=True)
    tally.add(result)
    summary = tally.summary()
    assert summary["median_norm"] == 2.0
    assert summary["norm_quantiles"] == {
        "0.1": 0.5,
        "0.25": 1.0,
        "0.5": 2.0,
        "0.75": 3.0,
        "0.9": None,
    }
    assert summary["max_norm"] == 3.0
    assert summary["mean_norm"] == 1.625
    assert (summary["median_queries"], summary["max_queries"]) == (7, 50)
    fixed = Tally(samples=6, correct=5)
    fixed.add(result)
    assert "median_norm" not in fixed.summary()
    assert fixed.summary()["max_norm"] == 9.0


@pytest.mark.parametrize("targeted", [False, True])
def test_decisions_alone_break_a_model(model_file: Path, tmp_path: Path, targeted: bool) -> None:
    attack = HopSkipJump(iterations=3, first_queries=20, targeted=targeted)
    spec = Attack(model=str(model_file), attack=attack, samples=40, show=5, batch_size=16)
    events, summary = drain(run_attack(spec, bench_in(tmp_path)))
    assert summary["robust_accuracy"] == 0.0  # also of classes that no noise is taken for
    assert 0 < summary["median_norm"] <= summary["norm_quantiles"]["0.9"]
    assert summary["max_queries"] == summary["median_queries"]
    limit = summary["median_norm"]
    bound = spec.model_copy(update={"attack": attack.model_copy(update={"eps": limit})})
    _, within = drain(run_attack(bound, bench_in(tmp_path)))
    assert 0.3 < within["robust_accuracy"] < 0.7
    pictures = named(events, "perturbation")
    scales = [picture.scale for picture in pictures if picture.scale]
    assert scales[-1] < scales[len(scales) // 2]


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.15, steps=4, step_size=0.05, restarts=2), Boundary(steps=12)],
    ids=["pgd", "boundary"],
)
def test_an_attack_goes_on_from_any_checkpoint(
    model_file: Path,
    other_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attack: Any,
    transfer: bool,
) -> None:
    monkeypatch.setattr(Bench, "checkpoint_due", lambda self: True)
    spec = Attack(
        model=str(model_file),
        surrogate=str(other_file) if transfer else None,
        attack=attack,
        samples=50,
        show=6,
        batch_size=20,
    )
    bench = bench_in(tmp_path / "whole")
    points: list[Any] = []
    monkeypatch.setattr(bench.checkpoints, "save", points.append)
    events, whole = drain(run_attack(spec, bench))
    assert len(points) > 20
    content = (tmp_path / "whole" / running.FILE).read_bytes()
    for number in (0, len(points) // 2, len(points) - 1):
        point = points[number]
        point.values.update(json.loads(json.dumps(dict(point.values))))
        again = bench_in(tmp_path / f"from-{number}")
        again.restore(point)
        rest, summary = drain(run_attack(spec, again))
        assert summary.keys() == whole.keys()
        timed = {"seconds", "images_per_second"}
        assert all(summary[name] == whole[name] for name in whole if name not in timed)
        assert (tmp_path / f"from-{number}" / running.FILE).read_bytes() == content
        for kind in (Scalars, Images):
            mine, theirs = (
                [e for e in said if isinstance(e, kind) and e.step > point.step]
                for said in (rest, events)
            )
            assert list(map(str, mine)) == list(map(str, theirs))


# --- attacks that are fitted first ----------------------------------------------------------------

ONE = Universal(eps=0.2, train_samples=200, epochs=3, fit_batch=40)


def test_one_perturbation_for_all_is_fitted_kept_and_judged(
    model_file: Path, tmp_path: Path
) -> None:
    spec = Attack(model=str(model_file), attack=ONE, samples=100, show=4, batch_size=60)
    bench = bench_in(tmp_path)
    events, summary = drain(run_attack(spec, bench))
    kept = safetensors.torch.load_file(tmp_path / "universal.safetensors")["pattern"]
    assert float(kept.abs().max()) <= float(torch.tensor(0.2))
    found = safetensors.torch.load_file(tmp_path / "adversarial.safetensors")
    attacked = (found["adversarial"] != found["clean"]).flatten(1).any(1)
    both = (found["clean"] + kept).clamp(0, 1)
    torch.testing.assert_close(found["adversarial"][attacked], both[attacked])
    with torch.no_grad():
        model = load_model(spec.model, bench).module
        correct = model(found["clean"]).argmax(1) == found["labels"]
        still = correct & (model(both).argmax(1) == found["labels"])
    assert torch.equal(attacked, correct)
    assert summary["robust_accuracy"] == still.double().mean().item()
    assert summary["broken"] == int((correct & ~still).sum())
    assert 0 < summary["train_success_rate"] <= 1
    assert summary["train_samples"] <= 200
    assert summary["gradient_evaluations"] == 3 * summary["train_samples"]

    shown = named(events, "pattern")
    assert shown[-1].keep
    assert shown[-1].scale == 0.2
    assert shown[-1].pixels.shape == (1, 8, 8, 1)
    steps = [e for e in events if isinstance(e, Scalars)]
    assert [e.step for e in steps] == list(range(summary["fit_steps"] + 1))
    assert steps[-1].values["attack/success_rate"] == summary["success_rate"]


def test_images_of_the_target_class_are_left_out(model_file: Path, tmp_path: Path) -> None:
    patch = Patch(eps=0.3, train_samples=100, epochs=1, targeted=True, target=3)
    spec = Attack(model=str(model_file), attack=patch, samples=60, show=0)
    events, summary = drain(run_attack(spec, bench_in(tmp_path / "a")))
    found = safetensors.torch.load_file(tmp_path / "a" / "adversarial.safetensors")
    assert summary["samples"] == 60
    assert not (found["labels"] == 3).any()
    assert (found["predictions"][found["success"]] == 3).all()
    assert Note("info", "images of the target class, 3, are left out") in events
    none = patch.model_copy(update={"target": 10})
    with pytest.raises(BadInput, match="there is no class 10; expected 0 to 9"):
        drain(run_attack(spec.model_copy(update={"attack": none}), bench_in(tmp_path / "b")))


def test_a_cancel_while_it_is_fitted_keeps_what_it_has(model_file: Path, tmp_path: Path) -> None:
    spec = Attack(model=str(model_file), attack=ONE, samples=50, show=2)
    steps = run_attack(spec, bench_in(tmp_path))
    for event in steps:
        if isinstance(event, Scalars) and event.step == 3:
            break
    events: list[Event] = [steps.throw(Cancelled())]
    rest, summary = drain(steps)
    events += rest
    assert summary["partial"]
    assert summary["samples"] == 0
    assert "robust_accuracy" not in summary
    assert summary["fit_steps"] == 4
    assert [e.name for e in events if isinstance(e, Saved)] == ["universal"]


@pytest.mark.parametrize("surrogate", [False, True])
def test_a_fit_goes_on_in_another_process(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surrogate: bool
) -> None:
    """From a checkpoint at any step of the fit, and between two batches that are judged."""
    monkeypatch.setattr(Bench, "checkpoint_due", lambda self: True)
    ref = str(model_file)
    spec = Attack(
        model=ref,
        surrogate=ref if surrogate else None,
        attack=ONE,
        samples=60,
        show=2,
        batch_size=20,
    )
    checkpoints: list[Checkpoint] = []

    class Keeping(Bench):
        def save_checkpoint(self, step: int, tensors: Any, values: Any, **_: Any) -> None:
            task = json.loads(json.dumps(values))
            checkpoints.append(
                Checkpoint(step, {k: v.clone() for k, v in tensors.items()}, {"task": task})
            )

    (tmp_path / "whole").mkdir()
    bench = Keeping(tmp_path / "whole", tmp_path / "whole", spec=BenchSpec(device="cpu", threads=1))
    _, whole = drain(run_attack(spec, bench))
    assert sum("fit" in c.values["task"] for c in checkpoints) > 5
    assert sum("search" in c.values["task"] for c in checkpoints) == 3
    for number in (0, 5, len(checkpoints) - 2):
        folder = tmp_path / str(number)
        again = bench_in(folder)
        again.resume = checkpoints[number]
        _, summary = drain(run_attack(spec, again))
        for name in ("seconds", "images_per_second", "forward_evaluations"):
            assert summary.pop(name) > 0
        assert summary == {name: whole[name] for name in summary}
        for file in ("universal.safetensors", "adversarial.safetensors"):
            assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
