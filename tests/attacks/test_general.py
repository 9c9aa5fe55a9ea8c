"""What holds for every kind of attack. The instances are in `families`."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.attacks import AttackResult, Iteration, attack, perturb
from engine.attacks.driver import Snapshot
from engine.attacks.goal import predicted
from engine.attacks.spec import AttackSpec
from engine.errors import BadInput, Cancelled
from tests.attacks.families import FITTED, SPECS, name
from tests.attacks.models import CLASSES, Linear, Noisy, conv, images, right_labels, trace

COUNT = 14

every_kind = pytest.mark.parametrize("spec", SPECS, ids=map(name, SPECS))


def setting(count: int = COUNT) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, images, and labels that it gets right but for the last."""
    model, x = conv(), images(count)
    y = right_labels(model, x)
    y[-1] = (y[-1] + 1) % CLASSES
    return model, x, y


def run(search: Any) -> tuple[list[Iteration], AttackResult]:
    """All questions of a search, and its result."""
    seen = []
    while True:
        try:
            seen.append(next(search))
        except StopIteration as end:
            return seen, end.value


def some(count: int, most: int = 7) -> list[int]:
    """At most `most` numbers of 0 to count - 1, evenly spread, with both ends."""
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def sound(
    result: AttackResult,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    eps: Tensor | None = None,
    aims: Tensor | None = None,
) -> None:
    """The result is what `AttackResult` says it is, by measures of our own."""
    adversarial = result.adversarial
    assert adversarial.dtype == torch.float32
    assert adversarial.shape == x.shape
    assert bool(((adversarial >= 0) & (adversarial <= 1)).all())
    change = (adversarial.double() - x.double()).flatten(1)
    order = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0, "free": 2}[spec.norm]
    size = torch.linalg.vector_norm(change, order, dim=1)
    torch.testing.assert_close(result.norm, size)
    if spec.norm != "free":
        radius = float("inf") if spec.eps is None else spec.eps
        limit = torch.full((len(x),), radius).double() if eps is None else eps.double()
        assert bool((size <= limit).all())
    with torch.no_grad():
        right = predicted(model(x)) == y
        now = predicted(model(adversarial))
    assert torch.equal(result.correct, right)
    assert not bool((result.success & ~right).any())
    hit = result.success
    assert torch.equal(result.predictions[hit], now[hit])
    assert bool((now[hit] == aims[hit] if aims is not None else now[hit] != y[hit]).all())
    assert torch.equal(adversarial[~right], x[~right])
    assert not result.queries[~right].any()


def everything(result: AttackResult) -> list[Tensor]:
    return [
        *(result.adversarial, result.success, result.norm, result.iterations, result.queries),
        *(result.correct, result.predictions, result.finished),
    ]


def kinds(of: type[AttackSpec]) -> set[str]:
    own = set() if inspect.isabstract(of) else {of.model_fields["kind"].default}
    ours = (sub for sub in of.__subclasses__() if sub.__module__.startswith("engine.attacks.spec."))
    return own.union(*map(kinds, ours))


def test_every_kind_has_an_instance() -> None:
    assert kinds(AttackSpec) == {spec.kind for spec in (*SPECS, *FITTED)}


@every_kind
def test_the_result_is_sound(spec: AttackSpec) -> None:
    model, x, y = setting()
    result = attack(model, x, y, spec)
    sound(result, model, x, y, spec)
    assert result.finished.all()
    assert result.nan_count == 0
    again = attack(model, x, y, spec)
    assert all(map(torch.equal, everything(result), everything(again)))


# --- no trace -------------------------------------------------------------------------------------


def noisy() -> tuple[Noisy, list[Tensor]]:
    x = images(COUNT)
    y = right_labels(conv(norm=True), x)
    y[0] = (y[0] + 1) % CLASSES
    return Noisy(), [x.requires_grad_(), y, torch.arange(COUNT)]


def search(model: nn.Module, given: list[Tensor], spec: AttackSpec) -> Any:
    return perturb(model, *given[:2], spec, seed=1, ids=given[2])


@every_kind
def test_no_trace_when_suspended_and_when_done(spec: AttackSpec) -> None:
    model, given = noisy()
    before = trace(model, given)
    count = 0
    for now in search(model, given, spec):
        count += 1
        assert trace(model, given) == before
        now.snapshot()
    assert count > 0
    assert trace(model, given) == before


@every_kind
def test_the_callers_modes_do_not_matter(spec: AttackSpec) -> None:
    model, given = noisy()
    results = []
    around: list[Callable[[], Any]] = [
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ]
    for context in around:
        with context():
            before = trace(model, given)
            going = search(model, given, spec)
            while True:
                try:
                    next(going)
                except StopIteration as end:
                    results.append(end.value)
                    break
                assert trace(model, given) == before
    for result in results[1:]:
        assert all(map(torch.equal, everything(result), everything(results[0])))


@every_kind
def test_inputs_made_in_inference_mode(spec: AttackSpec) -> None:
    model, x, y = setting()
    plain = attack(model, x, y, spec)
    with torch.inference_mode():
        result = attack(model, x.clone(), y.clone(), spec)
    assert all(map(torch.equal, everything(result), everything(plain)))


@every_kind
def test_a_model_that_raises(spec: AttackSpec) -> None:
    model, given = noisy()
    list(search(model, given, spec))
    before = trace(model, given)
    for call in some(model.calls):
        model.calls, model.fails_at = 0, call + 1
        with pytest.raises(RuntimeError, match="tired"):
            list(search(model, given, spec))
        assert trace(model, given) == before


@every_kind
def test_a_cancel_at_any_question_keeps_what_was_confirmed(spec: AttackSpec) -> None:
    model, x, y = setting()
    total = len(run(perturb(model, x, y, spec, seed=1, ids=torch.arange(COUNT)))[0])
    for stop in some(total):
        going = perturb(model, x, y, spec, seed=1, ids=torch.arange(COUNT))
        for _ in range(stop + 1):
            now = next(going)
        found = now.success.clone()
        with pytest.raises(StopIteration) as end:
            going.throw(Cancelled())
        result = end.value.value
        sound(result, model, x, y, spec)
        assert torch.equal(result.success, found)


@every_kind
def test_closing_at_any_question(spec: AttackSpec) -> None:
    model, given = noisy()
    before = trace(model, given)
    for stop in range(3):
        going = search(model, given, spec)
        for _ in range(stop + 1):
            next(going, None)
        going.close()
        assert trace(model, given) == before


# --- going on -------------------------------------------------------------------------------------


class Shaken(nn.Module):
    """Noise that changes verdicts, so that a search must also restore the model's draws."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.05 * torch.randn_like(x)


@every_kind
@pytest.mark.parametrize("shaken", [False, True])
def test_a_search_goes_on_from_any_snapshot(spec: AttackSpec, shaken: bool) -> None:
    model, x, y = setting()
    if shaken:
        model = nn.Sequential(Shaken(), model)

    def searched(resume: Snapshot | None = None) -> tuple[list[Snapshot], AttackResult]:
        going = perturb(model, x, y, spec, seed=3, ids=torch.arange(COUNT), resume=resume)
        snapshots = []
        while True:
            try:
                snapshots.append(next(going).snapshot())
            except StopIteration as end:
                return snapshots, end.value

    snapshots, whole = searched()
    for number in some(len(snapshots)):
        saved = snapshots[number]
        elsewhere = Snapshot(dict(saved.tensors), json.loads(json.dumps(saved.values)))
        rest, result = searched(elsewhere)
        assert len(rest) == len(snapshots) - number
        assert all(map(torch.equal, everything(result), everything(whole)))
        assert result.forward_evaluations == whole.forward_evaluations
        assert result.gradient_evaluations == whole.gradient_evaluations


# --- samples and their neighbours -----------------------------------------------------------------


@every_kind
def test_neighbours_do_not_matter(spec: AttackSpec) -> None:
    """Draws are equal; verdicts are but where rounding decides."""
    model, x, y = setting()
    ids = torch.arange(COUNT) * 7 + 2
    first, whole = run(perturb(model, x, y, spec, seed=5, ids=ids))
    backwards = torch.arange(COUNT).flip(0)
    parts = [torch.tensor([i]) for i in range(COUNT)] + [backwards]
    differ = 0
    for part in parts:
        own, result = run(perturb(model, x[part], y[part], spec, seed=5, ids=ids[part]))
        if own:
            asked = part[own[0].active]
            where = {int(i): row for row, i in enumerate(first[0].active)}
            theirs = first[0].points[[where[int(i)] for i in asked]]
            torch.testing.assert_close(own[0].points, theirs, atol=1e-5, rtol=0)
        differ += int((result.success != whole.success[part]).sum())
        near = (result.adversarial - whole.adversarial[part]).abs().flatten(1).amax(1) < 1e-3
        differ += int((~near & (result.success == whole.success[part])).sum())
    assert differ <= 2


@every_kind
def test_each_sample_has_its_radius(spec: AttackSpec) -> None:
    model, x, y = setting()
    usual = spec.eps or {"linf": 0.1, "l2": 0.5, "l1": 2.0, "l0": 4.0, "free": 1.0}[spec.norm]
    eps = torch.linspace(0, 2 * usual, COUNT)
    result = attack(model, x, y, spec, eps=eps)
    sound(result, model, x, y, spec, eps=eps)
    if spec.norm != "free":
        assert not result.success[0]
        assert torch.equal(result.adversarial[0], x[0])


@every_kind
def test_nothing_changes_outside_of_the_mask(spec: AttackSpec) -> None:
    model, x, y = setting()
    mask = torch.zeros(1, 1, *x.shape[2:])
    mask[..., : x.shape[3] // 2] = 1
    result = attack(model, x, y, spec, mask=mask)
    sound(result, model, x, y, spec)
    assert torch.equal(result.adversarial[..., x.shape[3] // 2 :], x[..., x.shape[3] // 2 :])
    everywhere = attack(model, x, y, spec, mask=torch.ones_like(x, dtype=torch.bool))
    assert torch.equal(everywhere.adversarial, attack(model, x, y, spec).adversarial)


@every_kind
def test_no_sample_gets_more_queries_than_allowed(spec: AttackSpec) -> None:
    model, x, y = setting()
    for most in (2, 5):
        few = attack(model, x, y, spec.model_copy(update={"max_queries": most}))
        sound(few, model, x, y, spec)
        assert int(few.queries.max()) <= most
        assert few.finished.all()


@every_kind
def test_targets(spec: AttackSpec) -> None:
    model, x, y = setting()
    targets = (y + 1 + torch.arange(COUNT) % (CLASSES - 1)) % CLASSES
    aimed = spec.model_copy(update={"targeted": True})
    try:
        result = attack(model, x, y, aimed, targets=targets)
    except BadInput as refusal:
        if "targeted" not in str(refusal):
            raise
        return
    sound(result, model, x, y, aimed, aims=targets)
    sound(attack(model, x, y, aimed), model, x, y, aimed, aims=(y + 1) % CLASSES)


# --- inputs and models out of the ordinary --------------------------------------------------------


@every_kind
def test_one_sample(spec: AttackSpec) -> None:
    model, x, y = setting()
    sound(attack(model, x[:1], y[:1], spec), model, x[:1], y[:1], spec)


@every_kind
def test_nobody_to_attack(spec: AttackSpec) -> None:
    model, x, y = setting()
    wrong = (right_labels(model, x) + 1) % CLASSES
    result = attack(model, x, wrong, spec)
    assert torch.equal(result.adversarial, x)
    assert not result.success.any()
    assert result.finished.all()


@every_kind
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_inputs_that_are_not_contiguous_or_read_only(spec: AttackSpec) -> None:
    model, x, y = setting()
    plain = attack(model, x, y, spec)
    apart = torch.stack([x, x], dim=-1)[..., 0]
    fixed = x.numpy().copy()
    fixed.setflags(write=False)
    for other in (
        x.transpose(2, 3).contiguous().transpose(2, 3),
        x.contiguous(memory_format=torch.channels_last),
        apart,
        torch.from_numpy(fixed),
        x.double(),
    ):
        result = attack(model, other, y.int(), spec)
        assert all(map(torch.equal, everything(result), everything(plain)))
    assert np.array_equal(fixed, x.numpy())


@every_kind
def test_images_of_several_channels_and_uneven_sides(spec: AttackSpec) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 8, 12), nn.ReLU(), nn.Linear(12, 4))
        x = torch.rand(8, 3, 5, 8)
    y = right_labels(model, x)
    sound(attack(model, x, y, spec), model, x, y, spec)


@every_kind
def test_two_classes(spec: AttackSpec) -> None:
    model, x = Linear(), images(COUNT)
    y = right_labels(model, x)
    sound(attack(model, x, y, spec), model, x, y, spec)


class Broken(nn.Module):
    """Says NaN of the images that are brighter than `level` on average."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.net = conv()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits.where((x.flatten(1).mean(1) <= self.level)[:, None], torch.nan)


@every_kind
def test_a_model_that_says_nan(spec: AttackSpec) -> None:
    x = images(COUNT)
    y = right_labels(conv(), x)
    for level in (-1.0, x.mean().item(), x.flatten(1).mean(1).max().item()):
        model = Broken(level)
        result = attack(model, x, y, spec)
        sound(result, model, x, y, spec)
        assert (level > 0) or result.nan_count == COUNT


class Steep(nn.Module):
    """Logits that are finite, with gradients that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits + 0 * (x - x.detach()).sqrt().flatten(1).sum(1, keepdim=True)


@every_kind
def test_gradients_that_are_not_numbers(spec: AttackSpec) -> None:
    model, x, y = Steep(), *setting()[1:]
    result = attack(model, x, y, spec)
    sound(result, model, x, y, spec)
    assert bool(result.nan_count) == bool(result.gradient_evaluations)


class Constant(nn.Module):
    """The same logits for every image; no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.5, 0.0]).repeat(len(x), 1)


@every_kind
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_a_model_that_does_not_listen(spec: AttackSpec, value: float) -> None:
    model, x = Constant(), torch.full((3, 1, 6, 6), value)
    y = torch.ones(3, dtype=torch.int64)
    result = attack(model, x, y, spec)
    sound(result, model, x, y, spec)
    assert not result.success.any()
