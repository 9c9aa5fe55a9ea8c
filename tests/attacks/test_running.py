from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks import FGSM, PGD, driver, oracle, running, showing
from engine.attacks.running import Tally, run_attack, wilson
from engine.attacks.showing import SIDE, Gallery
from engine.attacks.spec import Attack
from engine.bench import Bench
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled
from engine.events import Event, Images, Note, Progress, Saved, Scalars
from engine.models import ModelCard, build, load_model, save_model
from engine.models.spec import CNN
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


def drain(steps: Any, stop_at: int = -1) -> tuple[list[Event], Summary]:
    events: list[Event] = []
    while True:
        try:
            events.append(steps.throw(Cancelled()) if len(events) == stop_at else next(steps))
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
    assert PGD(eps=0.0).advice() == FGSM(eps=5.0).advice() == ""


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
    assert any(isinstance(event, Progress) for event in events)

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


def test_zero_gradients_are_told(model_file: Path, tmp_path: Path) -> None:
    result = driver.AttackResult(
        *(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.bool), torch.zeros(2).double()),
        *(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)),
        *(torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)),
        torch.ones(2, dtype=torch.bool),
        *(4, 4, 3, 1),
    )
    tally = Tally(samples=2, correct=2, results=[result])
    notes = [event.text for event in running.warnings(tally)]
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


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(50, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)  # Newcombe 1998, method 3
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)
