from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import BadInput
from engine.models import Normalise, build, weights_sha256
from engine.models.spec import CNN, MLP, RNN, LeNet, ResNet18, Scattering, Strided, Transformer

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 17, 23), (2, 9, 5)]

SPECS = [
    MLP(width=16),
    MLP(width=16, depth=0),
    MLP(width=16, depth=4, norm="batch", residual=True, dropout=0.5, activation="gelu"),
    MLP(width=16, norm="layer", activation="tanh"),
    MLP(width=16, projection=7),
    CNN(width=4),
    CNN(width=6, depth=3, norm="group", residual=True, dropout=0.5, activation="silu"),
    CNN(width=5, depth=1, norm="none", residual=True, activation="leaky_relu"),
    CNN(width=3, norm="group", activation="elu"),
    Strided(channels=(3, 4), hidden=8),
    LeNet(channels=(3,), kernels=(4,), padding=(2,), strides=(2,), pooling=1, activation="tanh"),
    Scattering(scales=1, groups=3),
    Scattering(scales=1, angles=4, groups=0, channels=(3, 4), hidden=(5,), activation="elu"),
    ResNet18(),
    ResNet18(stem="imagenet"),
    RNN(width=8),
    RNN(width=8, cell="gru", depth=2, dropout=0.5),
    Transformer(patch=1, width=8, depth=1, heads=2),
    Transformer(patch=4, width=8, depth=2, heads=2, dropout=0.5),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-{SPECS.index(s)}")
def test_images_to_logits(spec, shape):
    if isinstance(spec, Transformer) and (shape[1] % spec.patch or shape[2] % spec.patch):
        with pytest.raises(BadInput, match="patches of 4 do not divide images of"):
            build(spec, shape, 7)
        return
    model = build(spec, shape, 7)
    images = torch.rand(3, *shape, requires_grad=True)
    logits = model(images)
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.abs().sum() > 0
    unused = (
        [
            name
            for name, p in model.named_parameters()
            if p.requires_grad
            and torch.autograd.grad(model(images).square().sum(), p, allow_unused=True)[0] is None
        ]
        if shape == (1, 8, 8)
        else []
    )
    assert unused == []


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-{SPECS.index(s)}")
def test_an_image_is_judged_alone_in_eval_mode(spec):
    model = build(spec, (1, 8, 8), 5).eval()
    images = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-{SPECS.index(s)}")
def test_the_weights_depend_on_the_seed_alone(spec):
    def digest(seed: int) -> str:
        model = build(spec, (1, 8, 8), 5, generator_seed=seed)
        return weights_sha256(model.state_dict())

    first = digest(3)
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert digest(3) == first
    assert digest(4) != first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_random_state_is_put_back_after_a_failure():
    state = torch.get_rng_state()
    with pytest.raises(BadInput):
        build(Transformer(patch=3), (1, 8, 8), 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_normalisation_comes_first():
    model = build(MLP(width=4), (3, 4, 4), 2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    first = next(iter(model.children()))
    assert isinstance(first, Normalise)
    images = torch.rand(2, 3, 4, 4)
    expected = torch.stack(
        [(images[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 1.0)])],
        1,
    )
    torch.testing.assert_close(first(images), expected)
    assert {"normalise.mean", "normalise.std"} <= model.state_dict().keys()
    assert not any(name.startswith("normalise") for name, _ in model.named_parameters())


def test_without_statistics_images_pass_as_they_are():
    model = build(MLP(width=4), (3, 4, 4), 2)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(model.normalise(images), images)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mean": (0.5,)}, "mean has 1 values for images of 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be above 0"),
    ],
)
def test_statistics_that_do_not_fit(options, text):
    with pytest.raises(BadInput, match=text):
        build(MLP(), (3, 4, 4), 2, **options)


def test_what_does_not_fit():
    with pytest.raises(BadInput, match="at most 4"):
        build(CNN(width=1, depth=8), (1, 8, 8), 10)
    assert build(CNN(width=1, depth=4), (1, 8, 8), 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(BadInput, match="expected a patch of 1, 2, 4"):
        build(Transformer(patch=3), (1, 8, 12), 10)
    with pytest.raises(BadInput, match="multiple of the heads"):
        build(Transformer(width=10, heads=4), (1, 8, 8), 10)
    with pytest.raises(BadInput, match="at least two classes"):
        build(MLP(), (1, 8, 8), 1)
    with pytest.raises(BadInput, match="does not fit into memory"):
        build(MLP(width=65536, depth=1000), (1, 8, 8), 10)


def test_the_pooling_covers_the_map_with_a_4_x_4_grid():
    for side in (1, 2, 3, 4, 7, 8, 14, 17, 32, 33):
        model = build(CNN(width=2, depth=1), (1, side, side), 3).body
        (pool,) = (layer for layer in model if isinstance(layer, nn.AvgPool2d))
        kernel, stride = pool.kernel_size[0], pool.stride[0]
        grid = min(side, 4)
        assert (grid - 1) * stride + kernel == side  # nothing is left out
        maps = torch.rand(2, 4, side, side)
        assert pool(maps).shape == (2, 4, grid, grid)
        if side % grid == 0:
            adaptive = nn.functional.adaptive_avg_pool2d(maps, grid)
            torch.testing.assert_close(pool(maps), adaptive)


def test_attention_is_that_of_torch():
    from engine.models.zoo import Attention

    ours = Attention(12, 3, 0.0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.joint.weight,
            "in_proj_bias": ours.joint.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    tokens = torch.rand(2, 5, 12)
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens)[0])


@pytest.mark.parametrize("spec", [CNN(width=2), RNN(width=4), Transformer(width=8, depth=1)])
def test_gradients_can_be_differentiated_again(spec):
    model = build(spec, (1, 8, 8), 3).eval()
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images).logsumexp(1).sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)
    assert second.isfinite().all()


def test_the_resnet_is_torchvisions():
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=10)
    model = build(ResNet18(stem="imagenet"), (3, 64, 64), 10).eval()
    model.body.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs.eval()(images))


def test_strided_is_the_network_of_fast_adversarial_training():
    """As in the authors' code, parameter by parameter; images reach it as they are."""
    model = build(Strided(), (1, 28, 28), 10).eval()
    theirs = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    own = {n.removeprefix("body."): t for n, t in model.state_dict().items() if "body" in n}
    theirs.load_state_dict(own)
    images = torch.rand(4, 1, 28, 28)
    assert torch.equal(model(images), theirs(images))
    assert not Strided().normalised
    assert Strided(normalise=True).normalised


@pytest.mark.parametrize(
    ("channels", "words"),
    [((4, 4, 4, 4), "below one pixel; expected at most 3"), ((0,), "at least")],
)
def test_strided_refuses_what_cannot_be(channels, words):
    with pytest.raises(BadInput, match=words):
        build(Strided(channels=channels), (1, 8, 8), 10)


def test_lenet_is_the_network_of_the_published_smoothing():
    """As in the code behind those figures (consistency regularisation), and LeNet-5's counts."""
    model = build(LeNet(), (1, 28, 28), 10).eval()
    own = {n.removeprefix("body."): t for n, t in model.state_dict().items() if "body" in n}
    first, second, third, last = (own[f"{place}.weight"] for place in (0, 3, 7, 9))
    images = torch.rand(4, 1, 28, 28)
    x = images
    for weight, bias in ((first, own["0.bias"]), (second, own["3.bias"])):
        x = nn.functional.max_pool2d(nn.functional.conv2d(x, weight, bias).relu(), 2)
    x = nn.functional.linear(x.flatten(1), third, own["7.bias"]).relu()
    torch.testing.assert_close(model(images), nn.functional.linear(x, last, own["9.bias"]))
    shapes = [tuple(weight.shape) for weight in (first, second, third, last)]
    assert shapes == [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]
    five = build(LeNet(channels=(6, 16), hidden=(120, 84)), (1, 32, 32), 10)
    # LeCun et al. 1998 have 61,706 with every map connected to every map, and full last layers.
    assert sum(p.numel() for p in five.parameters()) == 61_706


def test_lenet_can_be_the_private_network_of_papernot_and_others():
    """With tanh, their choice of tempered sigmoid; 8 x 8 and 4 x 4, as in Opacus' example too."""
    spec = LeNet(
        channels=(16, 32),
        kernels=(8, 4),
        strides=(2,),
        padding=(3, 0),
        pooling=1,
        hidden=(32,),
        activation="tanh",
    )
    model = build(spec, (1, 28, 28), 10)
    theirs = nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )
    theirs.load_state_dict(model.body.state_dict())
    images = torch.rand(4, 1, 28, 28)
    assert torch.equal(model(images), theirs(images))
    assert sum(p.numel() for p in model.parameters()) == 26_010  # as Opacus says


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "leave nothing of images of 8 x 8; expected at most 1"),
        ({"channels": (4,), "kernels": (9,)}, "leave nothing of images of 8 x 8"),
        ({"channels": (4,), "strides": (0,)}, "strides are at least 1, but one is to be 0"),
        ({"padding": (1, 2, 3)}, "padding has 3 values for 2 convolutions; expected one for all"),
        ({"channels": (0,)}, "at least one channel"),
        ({"channels": (4,), "hidden": (0,)}, "at least one unit"),
    ],
)
def test_lenet_refuses_what_cannot_be(values, words):
    with pytest.raises(BadInput, match=words):
        build(LeNet(**values), (1, 8, 8), 10)
