"""Networks: their shapes, their parts against torch's own, and which do not fit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BadInput
from engine.generative.layers import Dropout, Waves, draw_from, linear, spectral, stacked, unstacked
from engine.generative.networks import (
    POINT,
    Network,
    make_critic,
    make_generator,
    side_by_side,
)
from engine.generative.spec import (
    CriticSpec,
    DCGANCritic,
    DCGANGenerator,
    GeneratorSpec,
    MLPCritic,
    MLPGenerator,
    ResidualCritic,
    ResidualGenerator,
)
from engine.generative.spec.base import Condition

PAIRS: list[tuple[GeneratorSpec, CriticSpec, tuple[int, int, int]]] = [
    (MLPGenerator(), MLPCritic(frequencies=2), POINT),
    (MLPGenerator(norm="batch"), MLPCritic(spectral_norm=True), (1, 8, 8)),
    (DCGANGenerator(width=4), DCGANCritic(width=4, norm="none"), (1, 28, 28)),
    (
        ResidualGenerator(width=2, norm="batch"),
        ResidualCritic(width=2, spectral_norm=True),
        (3, 16, 16),
    ),
    (MLPGenerator(depth=0), DCGANCritic(width=4, kernel=5, norm="none"), (1, 28, 28)),
]


@pytest.mark.parametrize(("generator", "critic", "shape"), PAIRS)
@pytest.mark.parametrize("condition", ["none", "concatenation", "projection"])
def test_several_networks_as_one_do_what_they_do_alone(
    generator: GeneratorSpec,
    critic: CriticSpec,
    shape: tuple[int, int, int],
    condition: Condition,
) -> None:
    torch.manual_seed(0)
    told = 5 if condition != "none" else 0
    makers = [make_generator(generator, shape, 6, told) for _ in range(3)]
    judges = [make_critic(critic, shape, told, condition) for _ in range(3)]
    maker = together(makers, make_generator(generator, shape, 6, told, 3))
    judge = together(judges, make_critic(critic, shape, told, condition, 3))
    latents, labels = torch.randn(3, 4, 6), torch.randint(5, (3, 4)) if told else None
    made = maker.made(latents, labels)
    found = judge(made, labels)
    assert made.shape == (3, 4, *((2,) if shape == POINT else shape))
    assert found.shape == (3, 4)
    for k in range(3):
        own = None if labels is None else labels[k]
        alone = makers[k].made(latents[k], own)
        assert torch.allclose(alone, made[k], atol=1e-5)
        assert torch.allclose(judges[k](alone, own), found[k], atol=1e-5)
        # Back again: the state dict of one of them.
        state = unstacked(maker.state_dict(), 3, k, makers[k].state_dict())
        for name, tensor in makers[k].state_dict().items():
            if tensor.is_floating_point() and "running" not in name:
                assert torch.equal(state[name], tensor), name


def together(networks: list[Network], empty: Network) -> Network:
    return side_by_side(networks, empty)


def test_stacking_keeps_what_is_not_of_one_network() -> None:
    states = [{"a": torch.tensor([float(k)]), "count": torch.tensor(7)} for k in range(3)]
    like = {"a": torch.zeros(3), "count": torch.tensor(0)}
    both = stacked(states, like)
    assert both["a"].tolist() == [0.0, 1.0, 2.0]
    assert both["count"].item() == 7


def test_images_are_between_zero_and_one() -> None:
    generator = make_generator(DCGANGenerator(width=4), (1, 28, 28), 3, 0)
    made = generator(100 * torch.randn(10, 3))
    assert 0 <= float(made.min()) < float(made.max()) <= 1


def test_spectral_norm_is_torchs() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(12, 7)
    layer = nn.Linear(12, 7)
    layer.load_state_dict(plain.state_dict())
    spectral(layer, 1).train()
    for _ in range(60):
        layer(torch.zeros(1, 12))
    layer.eval()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1.0, rel=1e-3)
    wanted = plain.weight / torch.linalg.matrix_norm(plain.weight, 2)
    assert torch.allclose(weight, wanted, atol=1e-3)


def test_spectral_norm_of_several_is_of_each() -> None:
    torch.manual_seed(0)
    layer = linear(3, 5, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        layer.weight.view(3, -1)[1] *= 10  # type: ignore[union-attr, operator]
    spectral(layer, 3).train()
    for _ in range(80):
        layer(torch.zeros(3, 1, 5))
    layer.eval()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    norms = torch.linalg.matrix_norm(weight.detach().view(3, 4, 5), 2)
    assert norms.tolist() == pytest.approx([1.0] * 3, rel=1e-2)


def test_dropout_draws_of_its_own_and_keeps_the_mean() -> None:
    layer = Dropout(2, 0.3, maps=True).train()
    values = torch.ones(200, 2 * 4, 3, 3)

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in (1, 2)]

    draw_from(layer, generators())
    first = layer(values)
    assert float(first.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    alone = Dropout(1, 0.3, maps=True).train()
    draw_from(alone, generators()[1:])
    assert torch.equal(first[:, 4:], alone(values[:, 4:]))
    assert torch.equal(layer.eval()(values), values)


def test_waves_are_sines_and_cosines_that_double() -> None:
    x = torch.tensor([[0.25, -0.5]])
    found = Waves(2)(x)
    angles = [math.pi * f * v for v in (0.25, -0.5) for f in (1, 2)]
    wanted = [0.25, -0.5, *map(math.sin, angles), *map(math.cos, angles)]
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_projection_adds_the_classes_direction() -> None:
    """Miyato and Koyama (2018, equation 3): y' V phi(x) + psi(phi(x))."""
    critic = make_critic(MLPCritic(width=8, depth=1), POINT, 4, "projection")
    points, labels = torch.randn(6, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    features = F.leaky_relu(critic.body[0](points), 0.2)  # type: ignore[index, operator]
    assert critic.directions is not None
    rows = critic.directions.weight.T[labels]  # type: ignore[union-attr, index]
    by_hand = critic.head(features)[:, 0] + (rows * features).sum(1)
    assert torch.allclose(critic(points, labels), by_hand, atol=1e-6)


def test_the_source_materials_networks() -> None:
    """A dense layer from 100 numbers to 784 pixels; two 5 x 5 convolutions of stride 2, 28 to 14 to
    7, with dropout."""
    generator = make_generator(MLPGenerator(depth=0), (1, 28, 28), 100, 0)
    assert [tuple(p.shape) for p in generator.parameters()] == [(784, 100), (784,)]
    spec = DCGANCritic(width=64, kernel=5, norm="none", dropout=0.3)
    critic = make_critic(spec, (1, 28, 28), 0, "none")
    shapes = [tuple(p.shape) for p in critic.parameters() if p.dim() > 1]
    assert shapes == [(64, 1, 5, 5), (128, 64, 5, 5), (1, 128 * 7 * 7)]
    assert sum(isinstance(m, Dropout) for m in critic.modules()) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_generator(MLPGenerator(), POINT, 0, 0), "latent size is 0"),
        (lambda: make_generator(DCGANGenerator(strides=3), (1, 28, 28), 4, 0), "at most 2"),
        (lambda: make_generator(DCGANGenerator(), (1, 7, 7), 4, 0), "choose mlp"),
        (lambda: make_critic(ResidualCritic(strides=3), (1, 8, 8), 0, "none"), "at most 2"),
        (lambda: make_critic(DCGANCritic(strides=4), (1, 8, 8), 0, "none"), "at most 3"),
        (lambda: make_critic(DCGANCritic(), POINT, 0, "none"), "points are not"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()  # type: ignore[operator]
