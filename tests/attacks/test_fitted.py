"""What holds for every attack that is fitted first."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import Fit, attack, fit, perturb
from engine.attacks.fitted import FitSnapshot, FitStep, fitting
from engine.attacks.spec import PGD, Fitted, Patch, Universal
from engine.attacks.universal import AHEAD
from engine.errors import BadInput, Cancelled
from tests.attacks.families import FITTED, name
from tests.attacks.models import CLASSES, Noisy, conv, images, right_labels, trace

COUNT = 14

every_kind = pytest.mark.parametrize("spec", FITTED, ids=map(name, FITTED))


def setting(seed: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, images, and labels that it gets right but for the last."""
    model, x = conv(), images(COUNT, seed=seed)
    y = right_labels(model, x)
    y[-1] = (y[-1] + 1) % CLASSES
    return model, x, y


def steps_of(
    model: nn.Module, x: Tensor, y: Tensor, spec: Fitted, resume: FitSnapshot | None = None
) -> Any:
    ids = torch.arange(len(x)) * 3
    device = torch.device("cpu")
    return fitting(
        model, lambda at: (x[at], y[at]), ids, spec, seed=4, device=device, resume=resume
    )


def some(count: int, most: int) -> list[int]:
    """At most `most` numbers of 0 to count - 1, evenly spread, with both ends."""
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def run(steps: Any) -> tuple[list[FitStep], Fit]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def judged_by_hand(model: nn.Module, x: Tensor, y: Tensor, spec: Fitted, shown: Tensor) -> Tensor:
    """Whom these images break."""
    with torch.no_grad():
        right = model(x).argmax(1) == y
        now = model(shown).argmax(1)
    if spec.targeted:
        return right & (y != spec.target) & (now == spec.target)
    return right & (now != y)


@every_kind
def test_what_is_fitted_is_judged_on_other_images(spec: Fitted) -> None:
    model, x, y = setting()
    made = fit(model, x, y, spec)
    again = fit(model, x, y, spec)
    assert torch.equal(made.pattern, again.pattern)
    assert made.left == ""
    assert made.fooling_rate is not None
    right = right_labels(model, x) == y
    if spec.targeted:
        right &= y != spec.target
    assert made.images == int(right.sum())

    other, labels = setting(seed=9)[1:]
    if spec.targeted:
        keep = labels != spec.target
        other, labels = other[keep], labels[keep]
    result = attack(model, other, labels, spec, fitted=made)
    by_hand = judged_by_hand(model, other, labels, spec, result.adversarial)
    assert torch.equal(result.success, by_hand)
    wrong = right_labels(model, other) != labels
    assert torch.equal(result.adversarial[wrong], other[wrong])
    assert result.queries.tolist() == [int(not w) for w in wrong]
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())


@every_kind
def test_the_rate_on_the_training_images_is_measured(spec: Fitted) -> None:
    """Counted again by the driver, where draws do not differ; else near."""
    model, x, y = setting()
    made = fit(model, x, y, spec)
    keep = y != spec.target if spec.targeted else y >= 0
    result = attack(model, x[keep], y[keep], spec, fitted=made)
    rate = float(result.success.sum()) / int(result.correct.sum())
    near = 1e-9 if isinstance(spec, Universal) else 0.35
    assert made.fooling_rate == pytest.approx(rate, abs=near)


@every_kind
def test_no_trace_at_any_step(spec: Fitted) -> None:
    model = Noisy()
    x = images(COUNT)
    y = right_labels(conv(norm=True), x)
    given = [x.requires_grad_(), y]
    before = trace(model, given)
    with torch.inference_mode():
        inside = trace(model, given)
        for now in steps_of(model, x.detach(), y, spec):
            assert trace(model, given) == inside
            now.snapshot()
    for _ in steps_of(model, x.detach(), y, spec):
        assert trace(model, given) == before
    assert trace(model, given) == before


@every_kind
def test_a_cancel_at_any_step_keeps_the_pattern(spec: Fitted) -> None:
    model, x, y = setting()
    seen, whole = run(steps_of(model, x, y, spec))
    for stop in some(len(seen), 5):
        going = steps_of(model, x, y, spec)
        for _ in range(stop + 1):
            now = next(going)
        pattern = now.pattern.clone()
        with pytest.raises(StopIteration) as end:
            going.throw(Cancelled())
        made: Fit = end.value.value
        assert made.left == "cancelled"
        assert torch.equal(made.pattern, pattern)
        assert made.forward_evaluations <= whole.forward_evaluations


@every_kind
def test_a_fit_goes_on_from_any_step(spec: Fitted) -> None:
    model, x, y = setting()
    snapshots, going = [], steps_of(model, x, y, spec)
    while True:
        try:
            now = next(going)
        except StopIteration as end:
            whole: Fit = end.value
            break
        if now.stage == "climb":
            snapshots.append(now.snapshot())
    assert len(snapshots) >= 3
    for number in some(len(snapshots), 4):
        saved = snapshots[number]
        elsewhere = FitSnapshot(dict(saved.tensors), json.loads(json.dumps(saved.values)))
        _, made = run(steps_of(model, x, y, spec, elsewhere))
        assert torch.equal(made.pattern, whole.pattern)
        # A DeepFool that is cut off while it breaks an image looks at that image again.
        again = made.forward_evaluations - whole.forward_evaluations
        assert 0 <= again <= (AHEAD if spec.kind == "universal" else 0)
        assert made.gradient_evaluations == whole.gradient_evaluations
        assert (made.steps, made.fooling_rate) == (whole.steps, whole.fooling_rate)


@every_kind
def test_figures_bring_a_fit_back(spec: Fitted) -> None:
    model, x, y = setting()
    made = fit(model, x, y, spec)
    again = Fit.made_of(spec, made.pattern, json.loads(json.dumps(made.figures())))
    assert again.figures() == made.figures()
    assert again.shape == (1, 6, 6)


@every_kind
def test_neighbours_do_not_matter(spec: Fitted) -> None:
    model, x, y = setting()
    made = fit(model, x, y, spec)
    x, y = images(40, seed=6), right_labels(model, images(40, seed=6))
    if spec.targeted:
        x, y = x[y != spec.target], y[y != spec.target]
    ids = torch.arange(len(x)) * 5 + 1

    def judged(part: Tensor) -> Tensor:
        steps = perturb(model, x[part], y[part], spec, seed=2, ids=ids[part], fitted=made)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: Tensor = end.value.adversarial
                return found

    whole = judged(torch.arange(len(x)))
    for part in (torch.arange(len(x)).flip(0), torch.tensor([3]), torch.tensor([4, 2])):
        assert torch.equal(judged(part), whole[part])


@every_kind
def test_nothing_is_done_with_no_radius(spec: Fitted) -> None:
    model, x, y = setting()
    none = spec.model_copy(update={"eps": 0.0})
    made = fit(model, x, y, none)
    assert made.steps == made.gradient_evaluations == 0
    assert made.fooling_rate == 0
    keep = y != spec.target if spec.targeted else y >= 0
    result = attack(model, x[keep], y[keep], none, fitted=made)
    assert torch.equal(result.adversarial, x[keep])


def test_it_ends_when_its_seconds_are_spent() -> None:
    model, x, y = setting()
    for method in ("gradient", "deepfool"):
        spec = Universal(eps=0.1, method=method, max_seconds=1e-9)  # type: ignore[arg-type]
        made = fit(model, x, y, spec)
        assert made.left == "seconds"
        assert made.steps == 0
        assert not made.pattern.any()


# --- bad input ------------------------------------------------------------------------------------


def test_no_training_images() -> None:
    model, x, y = setting()
    with pytest.raises(BadInput, match="no training images"):
        fit(model, x[:0], y[:0], Universal())


def test_the_target_is_the_class_of_all() -> None:
    model, x, y = setting()
    spec = Universal(targeted=True, target=int(y[0]))
    same = y == y[0]
    with pytest.raises(BadInput, match="which is the target: choose another target class"):
        fit(model, x[same], y[same], spec)
    with pytest.raises(BadInput, match="must lie in 0 to 3"):
        fit(model, x, y, Universal(targeted=True, target=4))


def test_nobody_is_right_when_clean() -> None:
    model, x, _ = setting()
    y = (right_labels(model, x) + 1) % CLASSES
    made = fit(model, x, y, Universal())
    assert made.images == 0
    assert made.fooling_rate == 0
    assert not made.pattern.any()


def test_it_has_to_be_fitted_first_and_to_the_same() -> None:
    model, x, y = setting()
    spec = Universal(eps=0.1, epochs=1)
    with pytest.raises(BadInput, match=r"fitted=engine\.attacks\.fit\("):
        attack(model, x, y, spec)
    made = fit(model, x, y, spec)
    with pytest.raises(BadInput, match="another attack"):
        attack(model, x, y, Universal(eps=0.2, epochs=1), fitted=made)
    with pytest.raises(BadInput, match=r"fitted to images of .* \(1, 6, 6\)"):
        attack(conv(side=8), images(3, side=8), y[:3], spec, fitted=made)
    aimed = Universal(eps=0.1, epochs=1, targeted=True)
    made = fit(model, x, y, aimed)
    with pytest.raises(BadInput, match="set target in its spec"):
        attack(model, x, y, aimed, fitted=made, targets=(y + 1) % CLASSES)
    assert attack(model, x, y, PGD(eps=0.1, steps=2)).correct.any()


def test_a_training_cannot_use_it() -> None:
    model, x, y = setting()
    with pytest.raises(BadInput, match="fitted to training images first"):
        perturb(model, x, y, Patch(), seed=0, ids=torch.arange(COUNT), early_exit=False)
