"""Clipped sums by book-keeping against a loop over samples: autograd one by one, clip, add."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opacus import layers as opacus_layers
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from engine.errors import BadInput
from engine.models import zoo
from engine.models.spec import CNN, MLP, RNN, LeNet, ResNet18, Strided, Transformer
from engine.privacy import layers
from engine.privacy.clipping import Clipped, Clipper
from engine.privacy.pooling import max_pool2d
from engine.training.adapting import adapt
from engine.training.spec import Adapters

SHAPE = (3, 8, 8)
CLASSES = 5
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


def criterion(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def flat(bound: float) -> Callable[[Tensor], Tensor]:
    return lambda norms: (bound / norms.square().sum(0).sqrt()).clamp(max=1)


def layered(bound: float) -> Callable[[Tensor], Tensor]:
    return lambda norms: (bound / norms.clamp(min=1e-30)).clamp(max=1)


def rows_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Layers with the learning parameters of their own, none of them twice."""
    seen: set[int] = set()
    rows: dict[str, list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            if p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                rows.setdefault(name or type(module).__name__, []).append(p)
    return rows


def by_loop(
    model: nn.Module, images: Tensor, labels: Tensor, weigh: Callable[[Tensor], Tensor]
) -> tuple[list[list[Tensor]], Tensor]:
    """Sums as the rows' parameters stand, and norms (L, N)."""
    rows = list(rows_of(model).values())
    sums = [[torch.zeros_like(p) for p in row] for row in rows]
    norms = []
    for k in range(len(images)):
        loss = criterion(model(images[k : k + 1].clone()), labels[k : k + 1]).sum()
        flat = torch.autograd.grad(
            loss, [p for row in rows for p in row], allow_unused=True, materialize_grads=True
        )
        found = iter(flat)
        gradients = [[next(found) for _ in row] for row in rows]
        norm = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in gradients])
        norms.append(norm)
        weights = weigh(norm[:, None])[..., 0].expand(len(rows))
        for own, row, weight in zip(sums, gradients, weights, strict=True):
            for total, gradient in zip(own, row, strict=True):
                total += weight * gradient
    return sums, torch.stack(norms, 1)


def compare(model: nn.Module, images: Tensor, chunk: int = 256) -> Clipper:
    """Assert that sums and norms are those of the loop, clipped flat and by layer."""
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(0)
    classes = model(images[:1].clone()).shape[1]
    labels = torch.randint(classes, (len(images),), generator=generator)
    clipper = Clipper(model, chunk=chunk)
    rows = rows_of(model)
    assert clipper.names == tuple(rows)
    _, norms = by_loop(model, images[:5], labels[:5], flat(1.0))
    bound = float(norms.square().sum(0).sqrt().median())
    for weigh in (flat(bound), layered(bound / math.sqrt(len(rows)))):
        right, norms = by_loop(model, images, labels, weigh)
        done = clipper.sum(images, labels, criterion, weigh)
        sums = [[p.grad for p in row] for row in rows.values()]
        assert relative(done.norms, norms) <= TOLERANCE[dtype]
        whole = torch.cat([g.flatten() for row in right for g in row]).norm()
        for name, a, b in zip(rows, sums, right, strict=True):
            mine = torch.cat([g.flatten() for g in a if g is not None])
            loops = torch.cat([g.flatten() for g in b])
            # A layer whose gradient is nought but for rounding has no digits to agree on.
            share = (mine - loops).norm() / max(loops.norm(), 1e-3 * whole)
            assert share <= TOLERANCE[dtype], f"{name}: {share:.1e}"
        with torch.no_grad():
            logits = model(images.clone())
        assert (done.logits - logits).abs().max() <= 1e-5 * logits.abs().max()
        assert relative(done.losses, criterion(logits, labels)) <= 1e-5
        assert relative(done.weights, weigh(norms)) <= TOLERANCE[dtype]
    return clipper


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the value, or of a thousandth of the largest one."""
    return float(((a - b).abs() / b.abs().clamp(min=1e-3 * float(b.abs().max()))).max())


class Does(nn.Module):
    """A model that is a function of itself and the images."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def values(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.3)


def head(size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES))


def tokens(x: Tensor) -> Tensor:
    """Images as sequences of symbols, (N, 192)."""
    return (x.flatten(1) * 10).long().clamp(0, 9)


# --- models with a rule for everything ------------------------------------------------------------


def tied() -> nn.Module:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, head(192))


def tied_embedding() -> nn.Module:
    embedding, out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    out.weight = embedding.weight

    def compute(s: Any, x: Tensor) -> Tensor:
        return s.head(s.out(s.embedding(tokens(x)).mean(1)))

    return Does(compute, embedding=embedding, out=out, head=head(10))


def frozen_parts() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), head(64))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def adapted() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), head(64))
    adapt(model, ("3.1.bias",), Adapters(rank=2), 0)
    for name, p in model.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(p)
    return model


def reused() -> nn.Module:
    linear, conv = nn.Linear(8, 8), nn.Conv2d(3, 3, 3, padding=1)
    act = nn.Tanh()
    return nn.Sequential(linear, act, linear, act, conv, act, conv, act, linear, head(192))


def rare_convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, dilation=2, padding="same"), nn.Tanh()),
        *(nn.Conv2d(6, 4, (4, 2), padding="same"), nn.Tanh()),
        *(nn.Conv2d(4, 4, (3, 2), (2, 1), (1, 0), (1, 2)), nn.Tanh()),
        head(96),
    )


def other_dimensions() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(3, 4, 5, stride=2), nn.ReLU(), nn.Unflatten(2, (5, 3, 2))),
        *(nn.Conv3d(4, 3, (2, 3, 2), padding=(1, 1, 0)), nn.ReLU(), head(54)),
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.ReLU()),
        *(nn.Conv2d(6, 6, 5, groups=6, padding=2, bias=False), nn.ReLU()),
        *(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, stride=2), nn.ReLU()),
        head(72),
    )


def recurrent(cell: type[nn.RNNBase], **options: Any) -> nn.Module:
    def compute(s: Any, x: Tensor) -> Tensor:
        out, _ = s.cell(x.flatten(2).transpose(0, 1))
        return s.head(out.transpose(0, 1))

    both = 2 if options.get("bidirectional") else 1
    return Does(compute, cell=cell(64, 6, **options), head=head(18 * both))


def attention(**options: Any) -> nn.Module:
    def compute(s: Any, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        width = options.get("kdim", 8)
        key = rows[:, :, :width]
        hide = torch.tensor([[False, False, True], [False, True, False]])
        padded = x.new_zeros(len(x), 3, dtype=torch.bool)
        padded[:, 0] = True
        out, _ = s.attend(rows[:, :2, 8:16], key, key, attn_mask=hide, key_padding_mask=padded)
        return s.head(out)

    attend = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    return Does(compute, attend=attend, head=head(16))


class Bare(nn.Module):
    """Adds a position to each row and reads a class token, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = values(1, 1, 8), values(9, 8)
        self.scale, self.shift = values(8), values(1, 9, 1)
        self.layer, self.head = nn.Linear(8, 8), head(8)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean(1)
        rows = torch.cat([self.token.expand(len(x), -1, -1), rows], 1) + self.position
        rows = self.scale * torch.tanh(self.layer(rows)) - self.shift
        mixed = rows.softmax(1) * rows.sum(1, keepdim=True)
        out: Tensor = self.head(mixed[:, 0])
        return out


BOOKED: dict[str, Callable[[], nn.Module]] = {
    "grouped convolutions": grouped,
    "dilation, same, uneven kernels": rare_convolutions,
    "one and three dimensions": other_dimensions,
    "linear on sequences": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4, bias=False), head(12)
    ),
    "linear on grids": lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4), head(96)),
    "layers called twice": reused,
    "tied weights": tied,
    "tied to its transpose": lambda: Does(
        lambda s, x: s.head(
            F.linear(torch.tanh(F.linear(x.flatten(2), s.weight, s.bias)), s.weight.t())
        ),
        **{"weight": values(10, 64), "bias": values(10), "head": head(192)},
    ),
    "tied embedding": tied_embedding,
    "embeddings, padded and of positions": lambda: Does(
        lambda s, x: s.head(s.symbol(tokens(x)) + s.position(torch.arange(192))),
        symbol=nn.Embedding(10, 2, padding_idx=3),
        position=nn.Embedding(192, 2),
        head=head(384),
    ),
    "bare parameters": Bare,
    "matrix product": lambda: Does(
        lambda s, x: s.head(torch.tanh(x.flatten(2) @ s.weight) * s.scale),
        **{"weight": values(64, 10), "scale": values(1, 3, 1), "head": head(30)},
    ),
    "product of two layers' weights": lambda: Does(
        lambda s, x: s.head(F.linear(x.flatten(1), s.a.weight @ s.b.weight, s.a.bias)),
        **{"a": nn.Linear(4, 6), "b": nn.Linear(192, 4), "head": head(6)},
    ),
    "single numbers": lambda: Does(
        lambda s, x: s.head(x * s.scale + s.gate * s.body(x) + s.shift) / s.heat,
        body=nn.Conv2d(3, 3, 3, padding=1),
        head=head(192),
        **{name: nn.Parameter(torch.tensor(0.7)) for name in ("scale", "gate", "shift", "heat")},
    ),
    "a single number used twice": lambda: Does(
        lambda s, x: s.head(torch.tanh(x * s.one)) * s.one, one=values(), head=head(192)
    ),
    "a weight times a single number": lambda: Does(
        lambda s, x: F.linear(x.flatten(1), s.layer.weight * s.one, s.layer.bias),
        one=nn.Parameter(torch.tensor(0.7)),
        layer=nn.Linear(192, CLASSES),
    ),
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        nn.ReLU(),
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(144, CLASSES)),
    ),
    "layer norm over several dimensions": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.LayerNorm((6, 6)), nn.ReLU()),
        *(nn.LayerNorm((4, 6, 6), bias=False), head(144)),
    ),
    "group, instance and RMS norm": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4)),
        *(nn.InstanceNorm2d(4, affine=True), nn.PReLU(), nn.RMSNorm(6), head(144)),
    ),
    "in place": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 2), nn.ReLU(inplace=True), head(16)),
    ),
    "written into its images": lambda: Does(
        lambda s, x: s.head(x.sub_(0.5).mul_(s.scale)), scale=values(3, 1, 1), head=head(192)
    ),
    "frozen parts": frozen_parts,
    "adapters": adapted,
    "a layer that is not used": lambda: Does(
        lambda s, x: s.head(x), idle=nn.Linear(3, 3), head=head(192)
    ),
    "RNN": lambda: recurrent(nn.RNN, nonlinearity="relu", bias=False),
    "two GRUs, both ways": lambda: recurrent(nn.GRU, num_layers=2, bidirectional=True),
    "two LSTMs, both ways": lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "LSTM cell": lambda: Does(
        lambda s, x: s.head(s.cell(x[:, 1, 0], s.cell(x[:, 0, 0]))[0]),
        cell=nn.LSTMCell(8, 6),
        head=head(6),
    ),
    "attention": attention,
    "attention of other widths": lambda: attention(kdim=64, vdim=64, bias=False),
    "transformer": lambda: nn.Sequential(
        *(nn.Flatten(2), nn.Linear(64, 8)),
        *(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), head(24)),
    ),
}
for mode in ("circular", "reflect", "replicate"):
    BOOKED[f"padding {mode}"] = lambda mode=mode: nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, padding_mode=mode, stride=2), nn.Tanh()),
        *(nn.Conv2d(6, 4, 3, padding="same", padding_mode=mode), head(64)),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", BOOKED)
def test_a_model_of_known_layers_is_booked(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    images = torch.rand(7, *SHAPE, dtype=dtype)
    clipper = compare(BOOKED[name]().to(dtype), images)
    assert clipper.method == "book-keeping"


@pytest.mark.parametrize("way", ["ghost", "passing"])
@pytest.mark.parametrize("name", list(BOOKED)[:6])
def test_every_way_to_the_norms_is_right(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    monkeypatch.setattr(layers, "cheapest", lambda *sizes: way)
    monkeypatch.setattr(layers, "BLOCK", 1000)
    compare(BOOKED[name]().double(), torch.rand(7, *SHAPE, dtype=torch.float64))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: zoo.mlp(MLP(norm="layer", residual=True, depth=3, width=16), SHAPE, CLASSES),
    "cnn": lambda: zoo.cnn(CNN(norm="group", width=8), SHAPE, CLASSES),
    "residual cnn": lambda: zoo.cnn(CNN(norm="none", residual=True, width=8), SHAPE, CLASSES),
    "strided": lambda: zoo.strided(Strided(), SHAPE, CLASSES),
    "lenet": lambda: zoo.lenet(LeNet(channels=(6,)), SHAPE, CLASSES),
    "lstm": lambda: zoo.rnn(RNN(width=8), SHAPE, CLASSES),
    "gru": lambda: zoo.rnn(RNN(cell="gru", depth=2, width=8), SHAPE, CLASSES),
    "transformer": lambda: zoo.transformer(
        Transformer(patch=2, width=16, heads=2, depth=2), SHAPE, CLASSES
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_booked(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = ZOO[name]().to(dtype)
    assert compare(model, torch.rand(6, *SHAPE, dtype=dtype)).method == "book-keeping"


def test_the_whole_step_of_any_number_of_samples() -> None:
    torch.manual_seed(4)
    model = ZOO["cnn"]().double()
    images = torch.rand(257, *SHAPE, dtype=torch.float64)
    compare(model, images)
    compare(model, images[:257], chunk=100)
    compare(model, images[:1])
    compare(model, images[:3], chunk=1)


def test_no_samples_add_nothing() -> None:
    model = ZOO["cnn"]()
    clipper = Clipper(model)
    images, labels = torch.rand(2, *SHAPE), torch.zeros(2, dtype=torch.int64)
    for classes in (0, CLASSES):  # not known before a model has seen an image
        done = clipper.sum(images[:0], labels[:0], criterion, flat(1.0))
        shapes = [tuple(part.shape) for part in done]
        assert shapes == [(0,), (0, classes), (len(clipper.names), 0), (0,)]
        gradients = [p.grad for p in model.parameters()]
        assert all(g is not None and not g.any() for g in gradients)
        clipper.sum(images, labels, criterion, flat(1.0))


# --- models that need another way -----------------------------------------------------------------


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return slopes[0] * weight, (slopes[0] * x).sum(0)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, one: Tensor) -> Tensor:
        ctx.save_for_backward(x, one)
        return x * one

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        x, one = ctx.saved_tensors
        return slopes[0] * one, (slopes[0] * x).sum()


def chosen(s: Any, x: Tensor) -> Tensor:
    """Another layer for bright images than for dark ones."""
    rows = [s.a(one[None]) if one.sum() > 96 else s.b(one[None]) for one in x.flatten(1)]
    out: Tensor = s.head(torch.cat(rows))
    return out


OTHERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "samples second": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(s.layer(x.flatten(2).transpose(0, 1)).transpose(0, 1)),
            layer=nn.Linear(64, 4),
            head=head(12),
        ),
    ),
    "samples and rows in one": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(s.layer(x.flatten(0, 1).flatten(1)).view(len(x), -1)),
            layer=nn.Linear(64, 4),
            head=head(12),
        ),
    ),
    "einsum": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(torch.einsum("ncd,de->nce", x.flatten(2), s.weight)),
            **{"weight": values(64, 10), "head": head(30)},
        ),
    ),
    "looked up without an embedding": (
        "functorch",
        lambda: Does(lambda s, x: s.head(s.rows[tokens(x)]), rows=values(10, 2), head=head(384)),
    ),
    "chosen between two values": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(torch.where(x > 0.5, s.p, s.q)),
            **{"p": values(8), "q": values(8), "head": head(192)},
        ),
    ),
    "transposed convolution": (
        "functorch",
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU(), head(1156)),
    ),
    "a single number in an einsum": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(torch.einsum("nchw,->nchw", x, s.one)),
            one=nn.Parameter(torch.tensor(0.7)),
            head=head(192),
        ),
    ),
    "a single number in an own function": (
        "one by one",
        lambda: Does(lambda s, x: s.head(Scaled.apply(x, s.one)), one=values(), head=head(192)),
    ),
    "a single number written out": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(torch.cat([s.one.expand(len(x), 1), x.flatten(1)], 1)),
            one=nn.Parameter(torch.tensor(0.7)),
            head=head(193),
        ),
    ),
    "a bag of embeddings": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(s.bag(tokens(x))), bag=nn.EmbeddingBag(10, 4), head=head(4)
        ),
    ),
    "two inputs at once": (
        "functorch",
        lambda: Does(
            lambda s, x: s.head(s.pair(x[:, 0, 0], x[:, 1, 1])),
            pair=nn.Bilinear(8, 8, 6),
            head=head(6),
        ),
    ),
    "an own function": (
        "one by one",
        lambda: Does(
            lambda s, x: s.head(Own.apply(x, s.weight)), weight=values(3, 8, 8), head=head(192)
        ),
    ),
    "a way through the model that depends on the image": (
        "one by one",
        lambda: Does(chosen, a=nn.Linear(192, 6), b=nn.Linear(192, 6), head=head(6)),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_rule_is_right_another_way(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    method, make = OTHERS[name]
    images = torch.rand(7, *SHAPE, dtype=dtype)
    assert compare(make().to(dtype), images).method == method
    if name == "samples second":  # where no size tells rows from samples
        compare(make().to(dtype), images[:3])


def opacus_recurrent(cell: Any) -> nn.Module:
    return Does(
        lambda s, x: s.head(s.cell(x.flatten(2))[0]),
        cell=cell(64, 6, batch_first=True),
        head=head(18),
    )


def opacus_attention(attend: nn.Module) -> nn.Module:
    def compute(s: Any, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(0, 1)
        out: Tensor = s.head(s.attend(rows, rows, rows)[0].transpose(0, 1))
        return out

    return Does(compute, attend=attend, head=head(192))


class OwnLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift, self.heat = values(64, 10), values(10), values()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.einsum("ncd,de->nce", x.flatten(2), self.weight)
        return torch.tanh(out * self.heat + self.shift)


def solid(layer: nn.Module, size: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(3, (4, 2)), layer, head(size))


def bag(mode: str) -> nn.Module:
    return Does(
        lambda s, x: s.head(s.bag(tokens(x))), bag=nn.EmbeddingBag(10, 4, mode=mode), head=head(4)
    )


OPACUS: dict[str, Callable[[], list[nn.Module]]] = {
    "Linear": lambda: [nn.Sequential(nn.Linear(8, 3), head(72))],
    "Conv1d": lambda: [nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), head(248))],
    "Conv2d": lambda: [nn.Sequential(nn.Conv2d(3, 4, 3), head(144))],
    "Conv3d": lambda: [solid(nn.Conv3d(3, 4, 2), 84)],
    "Embedding": lambda: [
        Does(lambda s, x: s.head(s.rows(tokens(x))), rows=nn.Embedding(10, 2), head=head(384))
    ],
    "EmbeddingBag": lambda: [bag(mode) for mode in ("mean", "sum", "max")],
    "GroupNorm": lambda: [nn.Sequential(nn.GroupNorm(3, 3), head(192))],
    "InstanceNorm1d": lambda: [
        nn.Sequential(nn.Flatten(2), nn.InstanceNorm1d(3, affine=True), head(192))
    ],
    "InstanceNorm2d": lambda: [nn.Sequential(nn.InstanceNorm2d(3, affine=True), head(192))],
    "InstanceNorm3d": lambda: [solid(nn.InstanceNorm3d(3, affine=True), 192)],
    "LayerNorm": lambda: [nn.Sequential(nn.LayerNorm((8, 8)), head(192))],
    "RMSNorm": lambda: [nn.Sequential(nn.RMSNorm(8), head(192))],
    "RNNLinear": lambda: [
        opacus_recurrent(getattr(opacus_layers, name)) for name in ("DPRNN", "DPGRU", "DPLSTM")
    ],
    "SequenceBias": lambda: [
        opacus_attention(opacus_layers.DPMultiheadAttention(64, 2, add_bias_kv=True))
    ],
    # and what it leaves to torch.func
    "recurrent": lambda: [opacus_recurrent(cell) for cell in (nn.RNN, nn.GRU, nn.LSTM)],
    "MultiheadAttention": lambda: [
        opacus_attention(nn.MultiheadAttention(64, 2, add_bias_kv=True, add_zero_attn=True))
    ],
    "own layer": lambda: [nn.Sequential(OwnLayer(), head(30))],
}


def test_no_layer_of_opacus_is_left_out() -> None:
    known = {layer.__name__ for layer in GradSampleModule.GRAD_SAMPLERS}
    assert {"Linear", "RNNLinear", "SequenceBias"} <= known <= set(OPACUS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPACUS)
def test_every_layer_of_opacus_is_right(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(17)
    for model in OPACUS[name]():
        assert compare(model.to(dtype), torch.rand(7, *SHAPE, dtype=dtype)).method != "one by one"


def test_as_many_samples_as_positions_are_told_apart() -> None:
    """Four positions that are looked up look like four samples' symbols, when there are four."""

    def compute(s: Any, x: Tensor) -> Tensor:
        out: Tensor = s.head(x.flatten(1).view(-1, 4, 48) + s.position(torch.arange(4)))
        return out

    torch.manual_seed(6)
    model = Does(compute, position=nn.Embedding(4, 48), head=head(192)).double()
    images = torch.rand(7, *SHAPE, dtype=torch.float64)
    clipper = Clipper(model)
    labels = torch.arange(7) % CLASSES
    clipper.sum(images, labels, criterion, flat(1.0))
    assert clipper.method == "book-keeping"
    right, norms = by_loop(model, images[:4], labels[:4], flat(1.0))
    done = clipper.sum(images[:4], labels[:4], criterion, flat(1.0))
    assert relative(done.norms, norms) < 1e-6
    for row, sums in zip(rows_of(model).values(), right, strict=True):
        for p, total in zip(row, sums, strict=True):
            assert p.grad is not None
            assert relative(p.grad, total) < 1e-6


# --- precision ------------------------------------------------------------------------------------


def test_a_ghost_norm_in_which_all_cancels_is_taken_again() -> None:
    """Positions whose gradients nearly cancel: the difference of products has no digits left."""
    torch.manual_seed(7)
    weight = torch.randn(64, 64, requires_grad=True)
    row, slope = torch.randn(2, 4, 1, 64)
    noise = 1e-4 * torch.randn(4, 8, 64)
    taken = row.repeat(1, 8, 1) + noise
    slopes = slope.repeat(1, 8, 1) * torch.tensor([1.0, -1.0] * 4)[:, None]
    use = layers.Linear(taken, weight, None)
    use.take(slopes)
    assert use.way() == "ghost"
    exact = torch.linalg.matrix_norm(slopes.double().mT @ taken.double())
    assert relative(use.weight_squares().sqrt().double(), exact) < 1e-4


@pytest.mark.parametrize(
    "sides",
    [{"stride": 1}, {}, {"padding": 1}, {"dilation": 2, "stride": (2, 1), "ceil_mode": True}],
)
def test_quicker_pooling_is_the_same_bits(sides: dict[str, Any]) -> None:
    """Also where maxima are tied, as zeros after a ReLU are, and where something is no number."""
    torch.manual_seed(11)
    images = torch.randn(3, 6, 9, 7).relu()
    images[0, 0, 2, 3] = math.nan
    found = []
    for pool in (max_pool2d, F.max_pool2d):
        given = images.clone().requires_grad_()
        out = pool(given, 3, **sides)
        (slope,) = torch.autograd.grad(
            (out.nan_to_num() * torch.arange(out.shape[-1])).sum(), given
        )
        found.append((out.detach(), slope))
    (mine, my_slope), (torchs, its_slope) = found
    assert mine.nan_to_num(-1).equal(torchs.nan_to_num(-1))
    assert my_slope.equal(its_slope)
    assert mine.is_contiguous()


@pytest.mark.parametrize("name", ["cnn", "lstm", "transformer"])
def test_a_sample_without_a_finite_gradient_adds_nothing(name: str) -> None:
    torch.manual_seed(12)
    model = ZOO[name]().double()
    images = torch.rand(5, *SHAPE, dtype=torch.float64)
    labels = torch.arange(5) % CLASSES
    clipper = Clipper(model)
    for take in (clipper.sum, clipper._mapped if name == "cnn" else clipper.sum):
        broken = images.clone()
        broken[2, 0, 0, 0] = math.nan
        done = take(broken, labels, criterion, flat(0.1))
        whole = [i for i in range(5) if i != 2]
        assert done.weights[2] == 0
        assert done.norms[:, whole].isfinite().all()
        right, _ = by_loop(model, images[whole], labels[whole], flat(0.1))
        for row, sums in zip(rows_of(model).values(), right, strict=True):
            for p, total in zip(row, sums, strict=True):
                assert p.grad is not None
                assert relative(p.grad, total) < 1e-6
                p.grad = None


def test_sums_are_precise_where_the_model_computes_in_bf16() -> None:
    torch.manual_seed(13)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, CLASSES))
    images, labels = torch.rand(6, *SHAPE), torch.arange(6) % CLASSES
    clipper = Clipper(model)
    with torch.autocast("cpu", torch.bfloat16):
        done = clipper.sum(images, labels, criterion, flat(0.1))
    assert clipper.method == "book-keeping"
    clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert clipped.dtype == done.norms.dtype == torch.float32
    right, norms = by_loop(model, images, labels, flat(0.1))
    assert relative(done.norms, norms) < 0.05
    assert (
        relative(clipped.norm(), torch.cat([g.flatten() for r in right for g in r]).norm()) < 0.05
    )
    # No sample adds more than the bound, to float32's precision, whatever bf16 made of it.
    for k in range(6):
        with torch.autocast("cpu", torch.bfloat16):
            clipper.sum(images[k : k + 1], labels[k : k + 1], criterion, flat(0.1))
        one = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert float(one.norm()) <= 0.1 * (1 + 1e-5)


# --- what is left, and what is not ----------------------------------------------------------------


def test_no_trace_is_left() -> None:
    torch.manual_seed(8)
    model = Does(
        lambda s, x: s.head(s.cell(s.body(x).flatten(2))[0]),
        body=nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5)),
        cell=nn.LSTM(36, 6, batch_first=True),
        head=head(24),
    )
    model.body.eval()
    modes = [m.training for m in model.modules()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    attributes = [set(vars(p)) for p in model.parameters()]
    keys = [set(vars(m)) for m in model.modules()]
    images, labels = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
    copy = images.clone()
    state = torch.get_rng_state()
    clipper = Clipper(model)
    done = clipper.sum(images, labels, criterion, flat(1.0))
    assert torch.get_rng_state().equal(state)  # nothing draws: the dropout is in evaluation mode
    assert not any(part.requires_grad for part in done)
    assert images.equal(copy)
    assert not images.requires_grad
    assert [m.training for m in model.modules()] == modes
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    assert [set(vars(p)) for p in model.parameters()] == attributes
    assert [set(vars(m)) for m in model.modules()] == keys
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert all(p.grad is not None and p.grad.grad_fn is None for p in model.parameters())


def test_nothing_is_held_between_steps() -> None:
    model = ZOO["cnn"]()
    clipper = Clipper(model)
    images, labels = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.int64)

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, Tensor) for thing in gc.get_objects())

    clipper.sum(images, labels, criterion, flat(1.0))
    first = tensors()
    for _ in range(3):
        clipper.sum(images, labels, criterion, flat(1.0))
    assert tensors() <= first


def test_what_was_in_the_gradients_is_replaced() -> None:
    model = nn.Sequential(head(192))
    images, labels = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
    clipper = Clipper(model)
    clipper.sum(images, labels, criterion, flat(1.0))
    first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    clipper.sum(images, labels, criterion, flat(1.0))
    assert all(torch.equal(a, p.grad) for a, p in zip(first, model.parameters(), strict=True))


def test_dropout_draws_and_the_sum_is_of_what_was_drawn() -> None:
    """A weight a sample of one makes the sum that of the ordinary gradient with the same draws."""
    torch.manual_seed(9)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Dropout(0.5), nn.Linear(20, CLASSES))
    images, labels = torch.rand(6, *SHAPE), torch.arange(6) % CLASSES
    clipper = Clipper(model)
    clipper.check(images)
    torch.manual_seed(10)
    clipper.sum(images, labels, criterion, lambda norms: torch.ones_like(norms[0]))
    sums = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    torch.manual_seed(10)
    criterion(model(images), labels).sum().backward()
    for mine, p in zip(sums, model.parameters(), strict=True):
        assert p.grad is not None
        assert relative(mine, p.grad) < 1e-5


def test_a_mechanism_sees_each_sample_in_one_chunk() -> None:
    seen: list[Tensor] = []

    def weigh(norms: Tensor) -> Tensor:
        seen.append(norms)
        return torch.ones_like(norms[0])

    images, labels = torch.rand(5, *SHAPE), torch.zeros(5, dtype=torch.int64)
    done = Clipper(head(192), chunk=2).sum(images, labels, criterion, weigh)
    assert isinstance(done, Clipped)
    assert [part.shape[1] for part in seen] == [2, 2, 1]
    assert torch.cat(seen, 1).equal(done.norms)


# --- refused --------------------------------------------------------------------------------------


def refused(model: nn.Module, match: str) -> None:
    images, labels = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(BadInput, match=match):
        Clipper(model).sum(images, labels, criterion, flat(1.0))


def test_statistics_of_the_batch_are_refused_with_an_offer() -> None:
    for model in (zoo.cnn(CNN(norm="batch"), SHAPE, CLASSES), zoo.resnet18(ResNet18(), SHAPE, 5)):
        with pytest.raises(BadInput, match='norm = "group"'):
            Clipper(model)
    kept = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), head(192))
    refused(kept, "track_running_stats")


def test_frozen_batch_norm_is_refused_only_while_it_mixes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).requires_grad_(False), head(144))
    refused(model, "part in each other")
    model.eval()
    compare(model.double(), torch.rand(4, *SHAPE, dtype=torch.float64))


def in_training(mix: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Mixes features before the last layer, in training mode only."""

    def compute(s: Any, x: Tensor) -> Tensor:
        out: Tensor = s.head(mix(x.flatten(1)) if s.training else x)
        return out

    return compute


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0).detach()) / (x.std(0, unbiased=False).detach() + 1e-3)


def ranked(x: Tensor) -> Tensor:
    return x + x.detach().argsort(0).argsort(0) / len(x)


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x - x.mean(0),
    "detached mean": lambda x: x - x.mean(0).detach(),
    "a little of the detached mean": lambda x: x - 0.01 * x.mean(0).detach(),
    "standardised": standardised,
    "median": lambda x: x - x.median(0).values.detach(),
    "largest": lambda x: x / x.max(0).values.detach(),
    "ranks": ranked,
    "sorted": lambda x: x[x.sum(1).argsort()],
    "neighbours": lambda x: x + x.roll(1, 0).detach(),
    "pairs": lambda x: x + x[torch.arange(len(x)).bitwise_xor(1).clamp(max=len(x) - 1)].detach(),
    "the first": lambda x: x + x[:1].detach(),
    "number of samples": lambda x: x / len(x),
}


@pytest.mark.parametrize("count", [1, 8, 64, 256, 1024])
@pytest.mark.parametrize("name", MIXING)
def test_samples_that_mix_are_refused_at_every_batch_size(name: str, count: int) -> None:
    torch.manual_seed(14)
    model = Does(in_training(MIXING[name]), head=head(192))
    images = torch.rand(count, *SHAPE)
    images[images < 0.5] = 0
    for chunk in (256, 4096):
        with pytest.raises(BadInput, match="part in each other's logits"):
            Clipper(model, chunk=chunk).check(images)


@pytest.mark.parametrize("name", ["detached mean", "standardised", "number of samples"])
def test_a_last_layer_that_is_nought_hides_no_mixing(name: str) -> None:
    model = Does(in_training(MIXING[name]), head=head(192))
    nn.init.zeros_(model.head[1].weight)
    nn.init.zeros_(model.head[1].bias)
    with pytest.raises(BadInput, match="part in each other's logits"):
        Clipper(model).check(torch.rand(256, *SHAPE))
    assert not any(p.any() for p in model.parameters())
    Clipper(model.eval()).check(torch.rand(256, *SHAPE))
    assert not any(p.any() for p in model.parameters())


def offset(logits: Tensor, by: float) -> Tensor:
    return logits + logits.new_tensor([by, *([0.0] * (CLASSES - 1))])


@pytest.mark.parametrize(
    "after",
    {
        "masked": lambda z: offset(z, -1e9),
        "filled": lambda z: offset(z.mul(0.0), torch.finfo(z.dtype).min) + offset(z, 0.0),
        "offset": lambda z: offset(z, 1e5),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("name", ["detached mean", "standardised", "number of samples"])
def test_a_class_that_is_far_off_hides_no_mixing(name: str, after: Any) -> None:
    torch.manual_seed(14)
    model = Does(lambda s, x: after[1](s.mixing(x)))
    model.mixing = Does(in_training(MIXING[name]), head=head(192))
    with pytest.raises(BadInput, match="part in each other's logits"):
        Clipper(model).check(torch.rand(64, *SHAPE))


@pytest.mark.parametrize("name", ["detached mean", "standardised", "number of samples"])
def test_a_branch_that_hardly_counts_yet_hides_no_mixing(name: str) -> None:
    """As LayerScale, which begins at 1e-6."""
    torch.manual_seed(14)
    model = Does(lambda s, x: s.head(x.flatten(1)) + s.small(s.mixing(x)), head=head(192))
    model.mixing = Does(in_training(MIXING[name]), head=head(192))
    model.small = nn.Linear(CLASSES, CLASSES, bias=False)
    nn.init.constant_(model.small.weight, 1e-6)
    with pytest.raises(BadInput, match="part in each other's logits"):
        Clipper(model).check(torch.rand(64, *SHAPE))


@pytest.mark.parametrize("dropout", [False, True])
def test_a_number_of_samples_that_counts_is_found_beside_dropout(dropout: bool) -> None:
    model = Does(
        lambda s, x: s.head(s.drop(x.flatten(1)) / len(x)),
        drop=nn.Dropout(0.5 if dropout else 0.0),
        head=head(192),
    )
    model.head.eval()
    with pytest.raises(BadInput, match="or their number has"):
        Clipper(model).check(torch.rand(64, *SHAPE))


def test_mixing_of_more_samples_than_before_is_refused_when_they_come() -> None:
    torch.manual_seed(15)

    def mix(x: Tensor) -> Tensor:
        return x - x.mean(0).detach() if len(x) > 64 else x

    images, labels = torch.rand(300, *SHAPE), torch.arange(300) % CLASSES
    clipper = Clipper(Does(in_training(mix), head=head(192)))
    clipper.sum(images[:60], labels[:60], criterion, flat(1.0))
    with pytest.raises(BadInput, match="part in each other's logits"):
        clipper.sum(images[:100], labels[:100], criterion, flat(1.0))
    # It is never given so many at a time.
    Clipper(Does(in_training(mix), head=head(192)), chunk=64).sum(
        images, labels, criterion, flat(1.0)
    )


def test_slopes_that_mix_on_their_way_back_are_refused() -> None:
    def compute(s: Any, x: Tensor) -> Tensor:
        features = s.body(x.flatten(1))
        if s.training and features.requires_grad:
            features.register_hook(lambda slopes: slopes / slopes.norm())
        out: Tensor = s.head(features)
        return out

    refused(Does(compute, body=nn.Linear(192, 8), head=head(8)), "part in each other's logits")


class Remembers(nn.Module):
    """Running means outside of any buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(192)
        self.head = head(192)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        self.seen = 0.99 * self.seen + 0.01 * flat.detach().mean(0)
        out: Tensor = self.head(flat - self.seen)
        return out


@pytest.mark.parametrize("count", [8, 256])
def test_what_was_seen_before_is_refused_when_it_counts(count: int) -> None:
    with pytest.raises(BadInput, match="differently the next time"):
        Clipper(Remembers()).check(torch.rand(count, *SHAPE))


def test_parameters_that_a_model_writes_into_are_refused_and_put_back() -> None:
    model = Does(
        lambda s, x: s.head(s.rows(tokens(x))),
        rows=nn.Embedding(10, 2, max_norm=0.1),
        head=head(384),
    )
    before = model.rows.weight.detach().clone()
    refused(model, "parameter 'rows.weight'")
    assert model.rows.weight.equal(before)


@pytest.mark.parametrize("name", ZOO)
def test_no_model_of_the_zoo_is_refused_at_any_batch_size(name: str) -> None:
    torch.manual_seed(16)
    model = ZOO[name]()
    for count in (1, 8, 64, 256, 1024):
        for images in (torch.rand(count, *SHAPE), torch.zeros(count, *SHAPE)):
            clipper = Clipper(model)
            clipper.check(images)
            assert clipper.method == "book-keeping"


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.head = head(192)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().sum()
        out: Tensor = self.head(x)
        return out


def test_a_buffer_that_keeps_what_it_sees_is_refused_and_put_back() -> None:
    model = Counts()
    refused(model, "buffer 'seen'")
    assert float(model.seen) == 0


def test_wrong_answers_are_refused_in_words() -> None:
    images, labels = torch.rand(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
    clipper = Clipper(head(192))
    with pytest.raises(BadInput, match="expected \\(4,\\)"):
        clipper.sum(images, labels, F.cross_entropy, flat(1.0))
    with pytest.raises(BadInput, match="weigh returned"):
        clipper.sum(images, labels, criterion, lambda norms: norms[:, :1])
    with pytest.raises(BadInput, match="nothing to clip"):
        Clipper(head(192).requires_grad_(False))
    with pytest.raises(BadInput, match="at least one sample"):
        Clipper(head(192), chunk=0)
    refused(Does(lambda s, x: s.head(x)[0], head=head(192)), "expected logits")
