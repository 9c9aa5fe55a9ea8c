"""What is said of layers, against loops and singular values; and that saying it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.events import Array, Note, Table
from engine.models import build
from engine.models.spec import CNN, MLP, RNN, ResNet18, Transformer
from engine.training.diagnostics import QUANTITIES, Diagnostics, Stretch, layers_of
from engine.training.diagnostics.layers import FLAT, VALUES, facts
from engine.training.diagnostics.price import COLUMNS, SHARE, Counts, interval
from engine.training.diagnostics.spectral import linear_part

Q = {name: place for place, name in enumerate(QUANTITIES)}


def unrolled(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a layer's linear part, column by column."""
    both_ways = linear_part(layer)
    assert both_ways is not None
    size = int(np.prod(shape))
    columns = [both_ways(torch.eye(size)[k].view(1, *shape))[0].flatten() for k in range(size)]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (7,)),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7, 7)),
        (nn.Conv2d(2, 2, 3, dilation=2, padding=2, padding_mode="circular"), (2, 6, 6)),
        (nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"), (2, 6, 6)),
        (nn.Conv1d(2, 3, 5, stride=3), (2, 14)),
        (nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), (3, 4, 4)),
        (nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1, groups=2), (2, 3, 3)),
    ],
)
def test_the_spectral_norm_is_the_largest_singular_value(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(2)
    layer.reset_parameters()  # type: ignore[operator]
    (found,) = layers_of(nn.Sequential(layer))
    generator = torch.Generator().manual_seed(1)
    stretch = Stretch.begin(found, torch.Size(shape), generator)
    looks = [float(stretch.look(5)) for _ in range(60)]
    true = float(torch.linalg.matrix_norm(unrolled(layer, shape), 2))
    assert looks[-1] == pytest.approx(true, rel=2e-3)
    assert all(value <= true * (1 + 1e-5) for value in looks)  # it comes from below


def test_a_reshaped_kernel_would_say_something_else() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    true = float(torch.linalg.matrix_norm(unrolled(layer, (3, 8, 8)), 2))
    reshaped = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
    assert abs(true - reshaped) / true > 0.05


def test_looking_at_a_spectrally_normalised_layer_does_not_move_its_own_vector() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    (found,) = layers_of(nn.Sequential(layer))
    Stretch.begin(found, torch.Size((6,)), torch.Generator().manual_seed(0)).look(20)
    after = layer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert layer.training
    assert layer.parametrizations.weight.training


def test_which_layers_there_are() -> None:
    assert [layer.name for layer in layers_of(build(CNN(), (1, 8, 8), 10))] == [
        "body.0.0",
        "body.0.3",
        "body.1.0",
        "body.1.3",
        "body.4",
    ]
    vit = [layer.name for layer in layers_of(build(Transformer(depth=1), (1, 8, 8), 10))]
    assert "body.patches" in vit
    assert "body.head" in vit
    assert not any("norm" in name or "position" in name for name in vit)
    assert any(isinstance(x.module, nn.RNNBase) for x in layers_of(build(RNN(), (1, 8, 8), 10)))
    assert len(layers_of(build(ResNet18(), (3, 32, 32), 10))) == 21


def test_flat_is_where_the_slope_is_small() -> None:
    for kind, flat in FLAT.items():
        x = torch.linspace(-8, 8, 3201, requires_grad=True)
        y = kind()(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        steepest = float(slope.abs().max())
        told = flat(y.detach())
        limit = {nn.ELU: 0.06, nn.Tanh: 0.1, nn.Sigmoid: 0.1}.get(kind, 0.03) * steepest
        beside = x.detach().abs() < 0.1  # of GELU and SiLU, see there
        assert bool((slope.abs()[told & ~beside] <= limit).all()), kind
        if kind in (nn.ReLU, nn.ReLU6):
            assert torch.equal(told, slope == 0) or int((told != (slope == 0)).sum()) <= 1


def test_facts_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(6, 4, 3, 5, generator=generator).relu()
    y[:, 2] = 0
    mean, variance, saturation, dead = (float(value) for value in facts(y, 1, FLAT[nn.ReLU]))
    assert mean == pytest.approx(float(y.mean()))
    assert variance == pytest.approx(float(((y - y.mean()) ** 2).mean()), rel=1e-5)
    assert saturation == pytest.approx((y == 0).double().mean().item())
    assert dead == 1 / 4
    tokens = torch.zeros(2, 3, 4).index_fill_(2, torch.tensor([1]), 1.0)
    assert float(facts(tokens, -1, FLAT[nn.ReLU])[3]) == 3 / 4
    assert all(torch.isnan(value) for value in facts(y, 1, None)[2:])


def test_of_large_activations_the_first_samples_are_looked_at() -> None:
    y = torch.zeros(3, 1, 512, 512)
    y[1:] = 1.0
    assert VALUES == 512 * 512
    assert float(facts(y, 1, None)[0]) == 0.0


def task(width: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    model = build(MLP(width=width, depth=2), (1, 4, 4), 3, generator_seed=5).train()
    x = torch.rand(8, 1, 4, 4, generator=generator)
    return model, x, torch.arange(8) % 3


def steps(model: nn.Module, x: Tensor, y: Tensor, number: int, look: Diagnostics | None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for step in range(number):
        optimizer.zero_grad()
        if look is not None:
            look.before(step)
        nn.functional.cross_entropy(model(x), y).backward()
        if look is not None:
            look.gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        if look is not None:
            look.after()


def test_every_number_is_that_of_a_loop_and_nothing_is_changed(bench: Bench) -> None:
    model, x, y = task()
    twin, _, _ = task()
    outside = torch.get_rng_state()
    look = Diagnostics(model, "light", bench, total=1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    nn.functional.cross_entropy(twin(x), y).backward()
    hidden = twin.body[1](twin.body[0](twin.normalise(x)))
    steps(model, x, y, 1, look)
    assert torch.equal(torch.get_rng_state(), outside)
    (array, table) = look.says(last=True)
    assert isinstance(array, Array)
    assert isinstance(table, Table)
    assert array.values.shape == (len(QUANTITIES), 1, 3)
    assert array.about["layers"] == ["body.1.0", "body.2.0", "body.3"]
    for place, name in enumerate(array.about["layers"]):
        its = [n for n, _ in model.named_parameters() if n.startswith(f"{name}.")]
        old = torch.cat([before[n].flatten() for n in its]).norm()
        new = torch.cat([dict(model.named_parameters())[n].flatten() for n in its])
        moved = (new - torch.cat([before[n].flatten() for n in its])).norm()
        grads = torch.cat([dict(twin.named_parameters())[n].grad.flatten() for n in its])
        said = array.values[:, 0, place]
        assert said[Q["gradient_norm"]] == pytest.approx(float(grads.norm()), rel=1e-5)  # unclipped
        assert said[Q["weight_norm"]] == pytest.approx(float(old), rel=1e-5)
        assert said[Q["update_ratio"]] == pytest.approx(float(moved / old), rel=1e-4)
        weight = dict(model.named_parameters())[f"{name}.weight"].detach()
        assert said[Q["spectral_norm"]] == pytest.approx(
            float(torch.linalg.matrix_norm(weight, 2)), rel=0.05
        )
    said = array.values[:, 0, 0]
    assert said[Q["activation_mean"]] == pytest.approx(float(hidden.detach().mean()), rel=1e-5)
    assert said[Q["saturation"]] == pytest.approx(float((hidden <= 0).float().mean()))
    assert said[Q["dead"]] == pytest.approx(float((hidden <= 0).all(0).float().mean()))
    assert np.isnan(array.values[Q["saturation"], 0, 2])  # the last layer has no activation
    assert table.rows[2][1 + Q["saturation"]] is None
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_are_the_same_bit_for_bit_whoever_looks(bench: Bench) -> None:
    ends = []
    for mode in ("off", "light", "full"):
        model, x, y = task()
        steps(model, x, y, 12, Diagnostics(model, mode, bench, total=12))
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True))


def test_a_look_that_goes_on_says_the_same(bench: Bench) -> None:
    model, x, y = task()
    whole = Diagnostics(model, "full", bench, total=10)
    steps(model, x, y, 5, whole)
    kept = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def go_on(look: Diagnostics) -> Array:
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for step in range(5, 5 + 3 * (look.interval or 1)):
            optimizer.zero_grad()
            look.before(step)
            nn.functional.cross_entropy(model(x), y).backward()
            look.after()
            optimizer.step()
        (found,) = (event for event in look.says(last=True) if isinstance(event, Array))
        return found

    first = go_on(whole)
    model.load_state_dict(state)
    resumed = Diagnostics(model, "full", bench, total=10)
    resumed.restore(kept)
    again = go_on(resumed)
    assert np.array_equal(first.values, again.values, equal_nan=True)
    assert first.about == again.about


def test_how_often_is_counted_and_not_timed() -> None:
    small = Counts(layers=3, modules=2, products=100_000, activations=1000, weights=5000)
    for mode in ("light", "full"):
        for total in (1000, 5000, 10**6):
            every = interval(small, mode, total, samples=128)
            assert small.look() / (every * small.step()) <= SHARE[mode] * 1.01
            assert total / every <= COLUMNS[mode]
    assert interval(small, "light", 3000, 128) > interval(small, "full", 3000, 128)
    assert interval(small, "light", 10, 128) == 10  # too short for more than the first


def deep(bench: Bench, spec: MLP, total: int = 1) -> list[Any]:
    model = build(spec, (1, 4, 4), 3, generator_seed=1).train()
    _, x, y = task()
    look = Diagnostics(model, "light", bench, total=total)
    steps(model, x, y, 1, look)
    return list(look.says(last=True))


def test_vanishing_and_exploding_are_told_in_words(bench: Bench) -> None:
    events = deep(bench, MLP(depth=30, width=16, activation="sigmoid"))
    (note,) = (event for event in events if isinstance(event, Note))
    assert note.text.startswith("gradients vanish: at step 1 that of body.1.0 is ")
    events = deep(bench, MLP(depth=30, width=16, activation="sigmoid", norm="batch"))
    assert not any(isinstance(event, Note) for event in events)

    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(12)))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.eye(8) * 5)
        model[-1].weight.mul_(1e3)
        model[0].weight.mul_(1e-9)
    look = Diagnostics(model, "light", bench, total=1)
    look.before(0)
    model(torch.ones(4, 8)).sum().backward()
    look.after()
    (note,) = (event for event in look.says(last=True) if isinstance(event, Note))
    assert note.text.startswith("gradients explode: at step 1 that of 0 is ")


def test_without_looking_into_the_passes(bench: Bench) -> None:
    """As of private runs: activations are left out, the rest and the interval are there."""
    model = build(CNN(width=4), (1, 8, 8), 3, generator_seed=1).train()
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 3
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    seen: list[Any] = []
    look = Diagnostics(model, "light", bench, total=100, instead=(8, 1, 8, 8))
    look.before(0)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[n], b) for n, b in model.named_buffers())
    assert model.training
    nn.functional.cross_entropy(model(x), y).backward()
    look.after()
    seen = [event for event in look.says(last=True) if isinstance(event, Array)]
    values = seen[0].values
    assert np.isnan(values[4:]).all()
    assert np.isfinite(values[:4]).all()
    assert look.interval is not None
    assert look.interval > 1


def test_a_frozen_layer_has_no_gradient(bench: Bench) -> None:
    model, x, y = task()
    for parameter in model.body[1].parameters():
        parameter.requires_grad_(False)
    look = Diagnostics(model, "light", bench, total=1)
    steps(model, x, y, 1, look)
    (array,) = (event for event in look.says(last=True) if isinstance(event, Array))
    assert np.isnan(array.values[Q["gradient_norm"], 0, 0])
    assert array.values[Q["update_ratio"], 0, 0] == 0.0
    assert np.isfinite(array.values[Q["gradient_norm"], 0, 1:]).all()


def test_off_costs_nothing(bench: Bench) -> None:
    model, x, y = task()
    look = Diagnostics(model, "off", bench, total=1)
    steps(model, x, y, 2, look)
    assert not look.layers
    assert list(look.says(last=True)) == []
    assert look.tensors() == {}


@pytest.mark.parametrize("mode", ["light", "full"])
def test_a_run_says_its_layers_and_ends_with_the_same_weights(
    mode: str, tmp_path: Path, drain: Callable[..., tuple[list[Any], Any]]
) -> None:
    from engine.data.spec import Digits
    from engine.task import BenchSpec
    from engine.training.spec import Train

    weights = {}
    for asked in ("off", mode):
        folder = tmp_path / asked
        folder.mkdir()
        spec = Train(
            data=Digits(test=0.3),
            model=MLP(width=16, depth=3),
            epochs=4,
            batch_size=16,
            diagnostics=asked,
        )
        own = Bench(folder, tmp_path, spec=BenchSpec(device="cpu", threads=1))
        events, summary = drain(spec.run(own))
        weights[asked] = summary["weights_sha256"]
        names = {event.name for event in events if isinstance(event, Array)}
        assert ("layers" in names) == (asked != "off")
        assert ("loss_plane" in names) == (asked == "full")
    assert weights["off"] == weights[mode]


@pytest.mark.parametrize(
    ("init", "activation", "variance"),
    [
        ("xavier", "relu", 2 / (256 + 256)),
        ("xavier", "sigmoid", 16 * 2 / (256 + 256)),
        ("he", "relu", 2 / 256),
        ("default", "relu", 1 / (3 * 256)),
    ],
)
def test_initial_weights_have_the_variance_of_the_paper(
    init: str, activation: str, variance: float
) -> None:
    model = build(MLP(width=256, depth=2, init=init, activation=activation), (1, 4, 4), 10)
    layer = model.body[2][0]
    assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.03)
    assert bool(layer.bias.any()) == (init == "default")
