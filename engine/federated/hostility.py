"""What hostile clients do: to the images that they learn from, and to the update that they send."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.federated.spec import (
    Backdoor,
    Federate,
    FreeRider,
    Gaussian,
    HostileSpec,
    LabelFlip,
    Scaled,
    SignFlip,
)
from engine.random import derive, normal, uniform

Update = dict[str, Tensor]


def who(specs: Sequence[HostileSpec], clients: int, seed: int) -> dict[int, HostileSpec]:
    """Which clients are hostile, and how. Raises BadInput where one is to be it twice."""
    found: dict[int, HostileSpec] = {}
    for spec in specs:
        for client in spec.clients:
            if client in found:
                raise BadInput(f"client {client} is named as hostile twice; name it once")
            found[client] = spec
    for place, spec in enumerate(specs):
        if spec.clients:
            continue
        free = [client for client in range(clients) if client not in found]
        draw = torch.Generator().manual_seed(derive(seed, "hostile", place))
        for pick in torch.randperm(len(free), generator=draw)[: spec.count].tolist():
            found[free[pick]] = spec
    return dict(sorted(found.items()))


def backdoor_of(spec: Federate) -> Backdoor | None:
    """The first backdoor among the hostile clients."""
    return next((each for each in spec.hostile if isinstance(each, Backdoor)), None)


def check_classes(specs: Sequence[HostileSpec], classes: int, side: int) -> None:
    """Raises BadInput where a class is named that is not there, or a patch does not fit."""
    for place, spec in enumerate(specs):
        named = [spec.target] if isinstance(spec, LabelFlip | Backdoor) else []
        if isinstance(spec, LabelFlip):
            named.append(spec.source)
        if beyond := [label for label in named if label >= classes]:
            raise BadInput(
                f"hostile.{place}: there is no class {beyond[0]}; expected 0 to {classes - 1}"
            )
        if isinstance(spec, Backdoor) and spec.patch >= side:
            raise BadInput(
                f"hostile.{place}: a patch of {spec.patch} pixels covers images of {side}; "
                f"expected at most {side - 1}"
            )


def poisoned(
    spec: HostileSpec | None, images: Tensor, labels: Tensor, ids: Tensor, seed: int, classes: int
) -> tuple[Tensor, Tensor]:
    """What a client learns from in place of its images, float32 (N, C, H, W), and labels, (N,)."""
    match spec:
        case LabelFlip(source=-1):
            return images, classes - 1 - labels
        case LabelFlip():
            return images, torch.where(labels == spec.source, spec.target, labels)
        case Backdoor():
            marked = uniform(derive(seed, "poison"), ids.to(images.device), ()) < spec.share
            seen = torch.where(marked[:, None, None, None], triggered(images, spec), images)
            return seen, torch.where(marked, spec.target, labels)
    return images, labels


def triggered(images: Tensor, spec: Backdoor) -> Tensor:
    """The images with the trigger: a white square, one pixel from the lower right corner."""
    images = images.clone()
    edge = 1 if spec.patch + 1 < min(images.shape[2:]) else 0
    bottom, right = images.shape[2] - edge, images.shape[3] - edge
    images[:, :, bottom - spec.patch : bottom, right - spec.patch : right] = 1.0
    return images


def tampered(spec: HostileSpec | None, update: Update, seed: int) -> Update:
    """What is sent in place of an update. `seed` is of this client in this round."""
    match spec:
        case SignFlip():
            return {name: -tensor for name, tensor in update.items()}
        case Scaled():
            return {name: tensor * spec.factor for name, tensor in update.items()}
        case Backdoor() if spec.boost != 1.0:
            return {name: tensor * spec.boost for name, tensor in update.items()}
        case Gaussian() | FreeRider():
            return {
                name: _noise(tensor, spec.std, derive(seed, name))
                for name, tensor in update.items()
            }
    return update


def _noise(like: Tensor, std: float, seed: int) -> Tensor:
    if std == 0.0:
        return torch.zeros_like(like)
    drawn = normal(seed, torch.zeros(1, dtype=torch.int64), (like.numel(),))
    return (drawn * std).view(like.shape).to(like)
