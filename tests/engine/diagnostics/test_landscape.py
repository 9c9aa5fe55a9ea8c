"""The loss around a model's weights, against the Hessian written out and against loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.data.spec import Digits
from engine.errors import Cancelled
from engine.events import Array, Note, Progress, Scalars, drain
from engine.models import build
from engine.models.spec import CNN, MLP, RNN, Transformer
from engine.task import BenchSpec
from engine.training.diagnostics import (
    Loss,
    hessian_trace,
    loss_plane,
    noise_scale,
    top_eigenvalue,
)
from engine.training.diagnostics.curvature import two_sizes
from engine.training.diagnostics.landscape import SHARE, Budget
from engine.training.diagnostics.plane import direction
from engine.training.spec import Train


def tiny(seed: int = 0) -> Loss:
    """A net of 43 weights, and its loss of 20 samples."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    model.append(nn.Linear(3, 2))
    x = torch.randn(20, 3, generator=generator)
    return Loss(model, x, torch.arange(20) % 2)


def written_out(loss: Loss) -> Tensor:
    """The whole Hessian, by autograd's own function."""
    names = list(loss.weights)
    sizes = [loss.weights[name].numel() for name in names]
    loss.model.eval()

    def of(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        return loss.at({n: p.view_as(loss.weights[n]) for n, p in zip(names, parts, strict=True)})

    flat = torch.cat([loss.weights[name].flatten() for name in names])
    found: Tensor = torch.autograd.functional.hessian(of, flat)
    loss.model.train()
    return found


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_top_eigenvalue_and_the_trace_are_those_of_the_whole_hessian() -> None:
    for seed in range(3):
        loss = tiny(seed)
        whole = written_out(loss)
        values = torch.linalg.eigvalsh(whole)
        top = float(values[values.abs().argmax()])
        assert drain(top_eigenvalue(loss, generator(), 43, 1e-7)) == pytest.approx(top, rel=1e-3)
        trace = drain(hessian_trace(loss, generator(), 400))
        assert trace.value == pytest.approx(float(whole.trace()), abs=4 * trace.error)
        assert trace.error < 0.2 * float(whole.trace())
    assert loss.model.training  # also the dropout inside, which was off meanwhile


def test_a_negative_bend_keeps_its_sign() -> None:
    model = nn.Linear(2, 1, bias=False)
    saddle = torch.tensor([[3.0, 0.0], [0.0, -7.0]])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        weight = outputs[:2, 0]  # the weight itself, by the two unit inputs
        return weight @ saddle @ weight / 2

    found = Loss(model, torch.eye(2), torch.zeros(2), loss)
    assert drain(top_eigenvalue(found, generator())) == pytest.approx(-7.0, rel=1e-4)
    # Signs see a diagonal exactly.
    assert drain(hessian_trace(found, generator(), 2)).value == pytest.approx(-4.0, rel=1e-5)


@pytest.mark.parametrize("spec", [CNN(width=2), RNN(width=4), Transformer(width=8, depth=1)])
def test_every_architecture_has_products(spec: Any) -> None:
    model = build(spec, (1, 8, 8), 3, generator_seed=1).eval()
    loss = Loss(model, torch.rand(4, 1, 8, 8), torch.arange(4) % 3)
    enabled = torch.backends.mkldnn.enabled
    vector = {name: torch.randn_like(weight) for name, weight in loss.weights.items()}
    product = loss.hessian()
    product({name: torch.ones_like(part) for name, part in vector.items()})
    image = product(vector)  # any number of them, of one graph
    assert torch.backends.mkldnn.enabled == enabled
    # Against a difference of gradients, in float64 to have room for it.
    double = Loss(model.double(), loss.inputs.double(), loss.targets)
    step = 1e-6
    ends = []
    for sign in (1, -1):
        moved = {n: w + sign * step * vector[n].double() for n, w in double.weights.items()}
        double_there = Loss(model, double.inputs, double.targets, double.loss)
        double_there.weights = moved
        ends.append(double_there.gradient())
    for name in vector:
        there = (ends[0][name] - ends[1][name]) / (2 * step)
        assert torch.allclose(image[name].double(), there, rtol=5e-3, atol=1e-2), name


def test_the_noise_scale_is_that_of_single_gradients() -> None:
    """Both parts without bias: their mean over many draws is what all samples say."""
    loss = tiny()
    rows = []
    for k in range(len(loss.inputs)):
        gradient = loss.of(torch.tensor([k])).gradient()
        rows.append(torch.cat([part.flatten() for part in gradient.values()]))
    singles = torch.stack(rows)
    variance = float(singles.var(0, correction=1).sum())
    mean = float(singles.mean(0).square().sum())
    drawn = [drain(noise_scale(loss, generator(seed), 5)) for seed in range(200)]
    assert np.mean([noise.variance for noise in drawn]) == pytest.approx(variance, rel=0.05)
    # Of the whole sample the squared mean is too large by the variance over its size.
    true = mean - variance / len(singles)
    assert np.mean([noise.gradient for noise in drawn]) == pytest.approx(true, rel=0.1)
    with pytest.raises(ValueError, match="two parts"):
        drain(noise_scale(loss, generator(), 15))


def test_two_sizes_by_hand() -> None:
    # |G|^2 = 2, tr = 24: expected squared lengths are 2 + 24 / batch.
    noise = two_sizes(2 + 24 / 4, 4, 2 + 24 / 16, 16)
    assert (noise.gradient, noise.variance, noise.scale) == pytest.approx((2, 24, 12))
    assert math.isnan(two_sizes(100.0, 4, 1.0, 16).scale)


def test_the_plane_is_that_of_a_loop() -> None:
    loss = tiny()
    (one, other) = (direction(loss.weights, g) for g in (generator(),) * 1 + (generator(9),))
    for name, weight in loss.weights.items():
        if weight.dim() < 2:
            assert not one[name].any()
        else:
            assert torch.allclose(one[name].norm(dim=1), weight.norm(dim=1), rtol=1e-5)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    same = generator(4)
    one, other = direction(loss.weights, same), direction(loss.weights, same)
    events: list[Any] = []
    steps = loss_plane(loss, generator(4), 7, side=5, reach=0.5)
    try:
        while True:
            events.append(next(steps))
    except StopIteration as end:
        found = end.value
    places = np.linspace(-0.5, 0.5, 5)
    for row, up in enumerate(places):
        for column, right in enumerate(places):
            moved = {n: w + right * one[n] + up * other[n] for n, w in loss.weights.items()}
            assert found[row, column] == pytest.approx(loss.value(moved), rel=1e-5)
    assert found[2, 2] == pytest.approx(loss.value())
    arrays = [event for event in events if isinstance(event, Array)]
    assert arrays[-1].about["extent"] == [-0.5, 0.5, -0.5, 0.5]
    assert np.isfinite(arrays[0].values[2]).all()  # from the middle outwards
    assert np.isnan(arrays[0].values[0]).all()
    assert sum(isinstance(event, Progress) for event in events) == 25


def test_what_full_affords_is_counted() -> None:
    for steps, batch, images in ((240, 64, 1300), (4690, 128, 60_000), (100_000, 32, 50_000)):
        budget = Budget.of(steps, batch, images)
        assert budget.samples >= 16
        per_epoch = steps // 10
        looks = sum(budget.due(epoch, per_epoch) for epoch in range(1, 11))
        assert looks >= 1
        assert looks * budget.cost <= SHARE * steps * 1.001
        assert budget.side == 0 or budget.side % 2 == 1
    assert Budget.of(10, 64, 1300).samples == 0


def test_a_short_run_says_why_there_is_no_hessian(bench: Bench) -> None:
    spec = Train(model=MLP(width=8), epochs=1, batch_size=512, diagnostics="full")
    events: list[Any] = []
    steps = spec.run(bench)
    with pytest.raises(StopIteration):
        while True:
            events.append(next(steps))
    assert any(isinstance(e, Note) and "the task stability" in e.text for e in events)
    assert not any(isinstance(e, Scalars) and "hessian/top" in e.values for e in events)


def test_full_says_the_same_when_it_goes_on(
    tmp_path: Path, drain: Callable[..., tuple[list[Any], Any]]
) -> None:
    """Stopped in the middle and resumed, a run ends with the same numbers and the same layers. (To
    rounding: a product with a vector may take it from where it lies in memory.)"""
    spec = Train(
        data=Digits(test=0.3),
        model=MLP(width=16),
        epochs=12,
        batch_size=32,
        diagnostics="full",
        seed=3,
    )

    def own(name: str) -> Bench:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Bench(folder, tmp_path, seed=3, spec=BenchSpec(device="cpu", threads=1))

    def said(events: list[Any]) -> tuple[Any, ...]:
        values = {
            name: (event.step, value)
            for event in events
            if isinstance(event, Scalars)
            for name, value in event.values.items()
            if name.startswith("hessian") or name == "gradient/noise_scale"
        }
        arrays = {event.name: event for event in events if isinstance(event, Array)}
        return values, arrays["layers"], arrays["loss_plane"]

    whole, summary = drain(spec.run(own("whole")))
    begun = own("stopped")
    steps = spec.run(begun)
    events: list[Any] = []
    while not any(isinstance(e, Scalars) and e.step >= 120 for e in events):
        events.append(next(steps))
    with pytest.raises(StopIteration):
        events.append(steps.throw(Cancelled()))
        while True:
            events.append(next(steps))
    again = own("stopped")
    again.restore(again.checkpoints.latest())
    rest, resumed = drain(spec.run(again))
    assert resumed["weights_sha256"] == summary["weights_sha256"]
    first, second = said(whole), said([*events, *rest])
    assert first[0]
    assert first[0] == second[0]
    for one, other in zip(first[1:], second[1:], strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-5)
        assert one.about == other.about
