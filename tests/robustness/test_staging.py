"""Pictures of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from engine.attacks import PGD
from engine.attacks.spec import DDN
from engine.errors import Cancelled
from engine.events import Images, Table
from engine.models import load_model
from engine.robustness import staging
from engine.robustness.spec import Evaluate
from tests.robustness.zoo import bench_in

WEAK = PGD(eps=0.05, steps=4, step_size=0.02)
STRONG = PGD(eps=0.3, steps=20, step_size=0.05)
QUICK = {"samples": 60, "curve": 0, "checked": 0, "corruptions": False, "noise": False}


def pull(spec: Evaluate, folder: Path, stop: str = "") -> tuple[list[Any], Any]:
    events: list[Any] = []
    steps = spec.run(bench_in(folder))
    while True:
        last = events[-1] if events else None
        cut = (
            stop and isinstance(last, Table) and last.name == "running" and last.rows[0][0] == stop
        )
        try:
            events.append(steps.throw(Cancelled()) if cut else next(steps))
        except StopIteration as end:
            return events, end.value
        stop = "" if cut else stop


def images(events: list[Any], name: str) -> list[Images]:
    return [event for event in events if isinstance(event, Images) and event.name == name]


@pytest.fixture(scope="module")
def seen(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("staged")
    spec = Evaluate(model=str(model_file), attacks=(WEAK, STRONG), show=12, **QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "PERIOD", 0.0)
        patch.setattr(staging, "SHARE", 0)
        events, summary = pull(spec, folder)
    return events, summary, safetensors.torch.load_file(folder / "adversarial.safetensors")


def test_they_change_while_it_runs_and_cost_no_pass(
    seen: Any, model_file: Path, tmp_path: Path
) -> None:
    events, summary, _ = seen
    spec = Evaluate(model=str(model_file), attacks=(WEAK, STRONG), show=0, **QUICK)
    none, plain = pull(spec, tmp_path)
    assert not [event for event in none if isinstance(event, Images)]
    timed = ("seconds",)
    assert {k: v for k, v in plain.items() if k not in timed} == {
        k: v for k, v in summary.items() if k not in timed
    }
    frames = images(events, "adversarial")
    assert [frame.step for frame in frames] == list(range(len(frames)))
    assert len(frames) > 8
    # Stored are the clean ones, and those after each attack.
    assert [frame.keep for frame in frames].count(True) == 3
    moving = [frame.pixels.tobytes() for frame in frames]
    assert len(set(moving)) > 8
    running = [
        event.rows[0] for event in events if isinstance(event, Table) if event.name == "running"
    ]
    assert [row[:2] for row in running] == [("pgd", 1), ("pgd-2", 2)]
    correct = summary["correct"]
    assert running[0][2:] == (correct, correct, 60, correct)
    left = round(summary["robust_accuracy_by_attack"]["pgd"] * 60)
    assert running[1][2:] == (left, left, 60, correct)


def test_the_kept_ones_are_what_was_found(seen: Any, model_file: Path, tmp_path: Path) -> None:
    events, _, found = seen
    last = [frame for frame in images(events, "adversarial") if frame.keep][-1]
    logits = load_model(str(model_file), bench_in(tmp_path)).module(found["adversarial"]).detach()
    hit = found["success"][:12]
    assert bool(hit.any())
    pixels = (found["adversarial"][:12] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    for place in hit.nonzero().flatten().tolist():
        caption = last.captions[place]
        assert torch.equal(torch.from_numpy(last.pixels[place].copy()), pixels[place])
        assert caption["prediction"] == int(logits[place].argmax()) != caption["label"]
        expected = logits[place].softmax(0).tolist()
        assert caption["probabilities"] == pytest.approx(expected, abs=1e-3)
        assert caption["norm"] == pytest.approx(float(found["norm"][place]), abs=1e-6)
        small = caption["norm"] <= 0.0501
        assert caption["measured"] == "linf"
        assert caption["attack"] == "pgd" or not small


def test_the_worst_case_can_be_looked_through(seen: Any) -> None:
    events, summary, found = seen
    clean, broken, change = (images(events, name)[0] for name in staging.NAMES)
    rows = found["success"].nonzero().flatten()
    assert len(broken.pixels) == summary["broken"] == len(rows)
    pixels = (found["adversarial"][rows] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(torch.from_numpy(broken.pixels.copy()), pixels)
    assert [c["prediction"] for c in broken.captions] == found["predictions"][rows].tolist()
    assert {c["attack"] for c in broken.captions} == {"pgd", "pgd-2"}
    assert all(c["correct"] for c in clean.captions)
    assert not any(c["correct"] for c in broken.captions)
    assert change.scale == pytest.approx(float(found["norm"].max()), rel=1e-3)


def test_a_search_for_the_smallest_says_no_stale_probabilities(
    model_file: Path, tmp_path: Path
) -> None:
    spec = Evaluate(model=str(model_file), attacks=(DDN(steps=20, eps=3.0),), show=6, **QUICK)
    events, _ = pull(spec, tmp_path)
    (broken,) = images(events, "worst_adversarial")
    assert broken.captions
    assert not any("probabilities" in caption for caption in broken.captions)
    assert {caption["measured"] for caption in broken.captions} == {"l2"}


def test_a_cancel_keeps_what_was_broken(model_file: Path, tmp_path: Path) -> None:
    spec = Evaluate(model=str(model_file), attacks=(STRONG, WEAK), show=6, **QUICK)
    events, summary = pull(spec, tmp_path, stop="pgd-2")
    assert summary["partial"]
    (broken,) = images(events, "worst_adversarial")
    assert len(broken.pixels) == summary["broken"] > 0
