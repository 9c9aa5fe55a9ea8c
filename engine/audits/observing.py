"""What a gradient, or a client's update, is made of: what whoever sees it knows, and can compute
for images of their own.

Everything is differentiable in the images and in soft labels, (N, K), so that images can be
searched for whose gradient is the one that was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a client came to its update: epochs over its images in batches of that size, by SGD."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    share: float = 1.0

    def steps(self, count: int) -> int:
        """With `count` images."""
        each = -(-count // self.batch_size)
        return max(1, round(self.share * each * self.epochs))


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known to whoever sees the gradient.

    model: in eval mode. weights: those that learn, before the step. groups: how many images each
    client has; what is seen is the mean over clients. clip: what each image's gradient, or each
    client's whole update, was shortened to, 0 for not at all. lesson: of an update; None of a
    gradient. layers: of each of the weights, its layer, where each layer's part of a gradient was
    shortened by itself, to an equal share of the clip; empty where the whole was.
    """

    model: nn.Module
    weights: Weights
    groups: tuple[int, ...]
    clip: float = 0.0
    lesson: Lesson | None = None
    layers: tuple[int, ...] = ()

    @property
    def images(self) -> int:
        return sum(self.groups)


def seen(setting: Setting, images: Tensor, labels: Tensor, *, create_graph: bool) -> list[Tensor]:
    """The gradient, or what an update took off the weights, in the order of `setting.weights`: the
    mean over clients. images: (N, C, H, W), clients one after the other; labels: soft, (N, K)."""
    parts = zip(images.split(setting.groups), labels.split(setting.groups), strict=True)
    each = [_of_one(setting, x, y, create_graph) for x, y in parts]
    if len(each) == 1:
        return each[0]
    return [torch.stack(tensors).mean(0) for tensors in zip(*each, strict=True)]


def _of_one(setting: Setting, x: Tensor, y: Tensor, graph: bool) -> list[Tensor]:
    if setting.lesson is not None:
        return shortened(_learnt(setting, setting.lesson, x, y, graph), setting)
    weights = {n: w.detach().requires_grad_() for n, w in setting.weights.items()}
    if not setting.clip:
        return _gradient(setting.model, weights, x, y, graph)
    total: list[Tensor] = []
    for place in range(len(x)):
        own = _gradient(setting.model, weights, x[place : place + 1], y[place : place + 1], graph)
        own = [g / len(x) for g in shortened(own, setting)]
        total = [t + g for t, g in zip(total, own, strict=True)] if total else own
    return total


def shortened(tensors: list[Tensor], setting: Setting) -> list[Tensor]:
    """One gradient, or update, no longer than the clip allows."""
    if not setting.clip:
        return tensors
    layers = setting.layers or (0,) * len(tensors)
    most = setting.clip / len(set(layers)) ** 0.5
    scale: dict[int, Tensor] = {}
    for layer in set(layers):
        own = [t.square().sum() for t, where in zip(tensors, layers, strict=True) if where == layer]
        size = torch.stack(own).sum().clamp_min(1e-24).sqrt()
        scale[layer] = (most / size).clamp_max(1.0)
    return [t * scale[layer] for t, layer in zip(tensors, layers, strict=True)]


def _learnt(setting: Setting, lesson: Lesson, x: Tensor, y: Tensor, graph: bool) -> list[Tensor]:
    """What the weights lose in the client's steps, its images taken in the order in which they
    stand: theirs is not known."""
    weights = {n: w.detach().requires_grad_() for n, w in setting.weights.items()}
    start = list(weights.values())
    speed: list[Tensor] | None = None
    taken, wanted = 0, lesson.steps(len(x))
    while taken < wanted:
        for part, said in zip(x.split(lesson.batch_size), y.split(lesson.batch_size), strict=True):
            if taken == wanted:
                break
            now = list(weights.values())
            own = _gradient(setting.model, weights, part, said, graph)
            if lesson.weight_decay:
                own = [g + lesson.weight_decay * w for g, w in zip(own, now, strict=True)]
            if lesson.momentum:
                if speed is None:
                    speed = own
                else:
                    speed = [lesson.momentum * v + g for v, g in zip(speed, own, strict=True)]
                ahead = [g + lesson.momentum * v for g, v in zip(own, speed, strict=True)]
                own = ahead if lesson.nesterov else speed
            moved = [w - lesson.lr * g for w, g in zip(now, own, strict=True)]
            if not graph:
                moved = [w.detach().requires_grad_() for w in moved]
            weights = dict(zip(weights, moved, strict=True))
            taken += 1
    return [a - b for a, b in zip(start, weights.values(), strict=True)]


def _gradient(
    model: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor, graph: bool
) -> list[Tensor]:
    """Of the mean cross-entropy."""
    loss = F.cross_entropy(functional_call(model, weights, (x,)), y)
    return list(torch.autograd.grad(loss, list(weights.values()), create_graph=graph))


# --- labels ---------------------------------------------------------------------------------------


def last_layer(setting: Setting) -> tuple[int, int | None] | None:
    """The places of the last linear layer's weight and bias among the weights, where its rows are
    the classes; None where there is none."""
    names = list(setting.weights)
    linear = [n for n, m in setting.model.named_modules() if isinstance(m, nn.Linear)]
    for name in reversed(linear):
        prefix = f"{name}." if name else ""
        if f"{prefix}weight" in names:
            bias = f"{prefix}bias"
            return names.index(f"{prefix}weight"), names.index(bias) if bias in names else None
    return None


def labels_of(setting: Setting, gradient: list[Tensor], shape: tuple[int, int, int]) -> Tensor:
    """Labels that a gradient gives away, int64 (N,), ascending. Raises LookupError where the model
    has no last linear layer.

    Of the bias of the last layer the gradient is the mean of (probabilities - label). Of one image
    only its label's is negative (Zhao, Mopuri and Bilen 2020). Of more, that times N, taken off the
    probabilities that the model gives to images of noise, counts each label (as Wainakh et al. 2022
    do with their offsets); what remains after rounding down goes to the largest remainders. A last
    layer without a bias counts by the rows of its weight, whose gradient has the same sign, and of
    which the most negative has lost one image's share each time (their algorithm 1).
    """
    places = last_layer(setting)
    if places is None:
        raise LookupError
    weight, bias = places
    count = setting.images
    rows = gradient[weight].flatten(1).sum(1).double().cpu()
    if bias is None:
        return _by_rows(rows, count)
    slope = gradient[bias].double().cpu()
    if setting.lesson is not None:
        slope = slope / (setting.lesson.lr * setting.lesson.steps(max(setting.groups)))
    if count == 1:
        return slope.argmin()[None]
    return _counted((_guessed(setting, shape) - slope) * count, count)


def _guessed(setting: Setting, shape: tuple[int, int, int]) -> Tensor:
    """Mean probabilities of images of noise, (K,)."""
    device = next(iter(setting.weights.values())).device
    noise = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        logits = functional_call(setting.model, dict(setting.weights), (noise,))
    mean: Tensor = logits.softmax(1).mean(0).double().cpu()
    return mean


def _counted(shares: Tensor, count: int) -> Tensor:
    """Labels as often as `shares`, (K,), say, `count` in all."""
    whole = shares.clamp_min(0).floor()
    while int(whole.sum()) > count:
        whole[(whole - shares).masked_fill(whole == 0, -torch.inf).argmax()] -= 1
    while int(whole.sum()) < count:
        whole[(shares - whole).argmax()] += 1
    return torch.repeat_interleave(torch.arange(len(shares)), whole.long())


def _by_rows(rows: Tensor, count: int) -> Tensor:
    share = rows[rows < 0].sum() / count
    left, found = rows.clone(), []
    for _ in range(count):
        label = int(left.argmin())
        found.append(label)
        left[label] -= share
    return torch.tensor(sorted(found))
