"""What becomes of a model's answers when nobody attacks it: under corruptions, noise in the image,
noise in the weights, and another seed of the same recipe."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.events import Event, Progress
from engine.random import derive, normal, uniform
from engine.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from engine.robustness.searching import Subject

T = TypeVar("T")
Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(images, ids) -> images."""

INPUT_NOISE = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Standard deviations, in units of the image."""
WEIGHT_NOISE = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Standard deviations, in root mean squares of each tensor of parameters."""
DRAWS = 3
"""How often weights are drawn."""


@dataclass(frozen=True, slots=True)
class Shift:
    """accuracy, and agreement with the clean answers, at one level of a disturbance: fractions."""

    name: str
    level: float
    accuracy: float
    agreement: float


def corruptions(on: Subject) -> Generator[Event, None, list[Shift]]:
    """Every corruption at every severity."""
    seed = on.bench.derive("corruptions")
    found: list[Shift] = []
    total = len(CORRUPTIONS) * SEVERITIES
    for name in CORRUPTIONS:
        for severity in range(1, SEVERITIES + 1):

            def change(x: Tensor, ids: Tensor, name: str = name, k: int = severity) -> Tensor:
                return corrupt(x, name, k, seed=seed, ids=ids)

            steps = answers(on, on.model, change)
            said = yield from among(steps, len(found), total, "corruptions")
            found.append(_shift(on, name, severity, said))
    return found


def input_noise(on: Subject) -> Generator[Event, None, list[Shift]]:
    """Gaussian noise, and uniform noise of the same standard deviation."""
    found: list[Shift] = []
    total = 2 * len(INPUT_NOISE)
    for name in ("gaussian", "uniform"):
        for sigma in INPUT_NOISE:
            seed = on.bench.derive("noise", name, str(sigma))
            steps = answers(on, on.model, noisy(name, sigma, seed))
            said = yield from among(steps, len(found), total, "kinds of noise")
            found.append(_shift(on, name, sigma, said))
    return found


def noisy(name: str, sigma: float, seed: int) -> Change:
    """Adds "gaussian" or "uniform" noise of the standard deviation `sigma` to images."""
    draw = normal if name == "gaussian" else _wide

    def change(x: Tensor, ids: Tensor) -> Tensor:
        return (x + sigma * draw(seed, ids, x.shape[1:])).clamp(0, 1)

    return change


def _wide(seed: int, ids: Tensor, shape: torch.Size) -> Tensor:
    """Uniform, of variance 1."""
    return (uniform(seed, ids, shape) * 2 - 1) * 3**0.5


def weight_noise(on: Subject) -> Generator[Event, None, list[Shift]]:
    """Normal noise on all parameters, as strong as a share of each tensor's root mean square; the
    mean over a few draws. The model itself is not touched."""
    found: list[Shift] = []
    for sigma in WEIGHT_NOISE:
        drawn = []
        for k in range(DRAWS):
            seed = on.bench.derive("weights", str(sigma), k)
            steps = answers(on, Shaken(on.model, sigma, seed))
            place, total = len(found) * DRAWS + k, len(WEIGHT_NOISE) * DRAWS
            said = yield from among(steps, place, total, "draws of the weights")
            drawn.append(_shift(on, "weights", sigma, said))
        accuracy = sum(shift.accuracy for shift in drawn) / DRAWS
        agreement = sum(shift.agreement for shift in drawn) / DRAWS
        found.append(Shift("weights", sigma, accuracy, agreement))
    return found


class Shaken(nn.Module):
    """A model with noise on its parameters, whose own stay as they are."""

    def __init__(self, model: nn.Module, sigma: float, seed: int) -> None:
        super().__init__()
        self._model = [model]  # in a list: its modes and parameters are not ours
        self._weights: dict[str, Tensor] = {}
        for number, (name, weight) in enumerate(model.named_parameters()):
            generator = torch.Generator().manual_seed(derive(seed, number))
            noise = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
            size = weight.detach().square().mean().sqrt()
            self._weights[name] = weight.detach() + sigma * size * noise

    def forward(self, x: Tensor) -> Tensor:
        model = self._model[0]
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            logits: Tensor = functional_call(model, self._weights, (x,))
        finally:
            for module in training:
                module.training = True
        return logits


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another run of the same recipe. accuracy: clean; agreement: with the clean answers of the
    model that is judged; transfer: of the images that broke that model, the share that breaks this
    one too, of those it gets right when clean. Fractions; NaN where there is nothing to divide."""

    name: str
    accuracy: float
    agreement: float
    transfer: float


def sibling(
    on: Subject, name: str, model: nn.Module, adversarial: Tensor, broken: Tensor
) -> Generator[Event, None, Sibling]:
    """How `model`, called `name`, answers where the subject was judged. adversarial: (N, C, H, W);
    broken: bool (N,), where that broke the subject."""
    clean = yield from answers(on, model)
    rows = (broken & (clean == on.labels)).nonzero().squeeze(1)
    fooled = float("nan")
    if len(rows):
        oracle = Oracle(model, seed=on.bench.derive("also"), device=on.test.device, bf16=False)
        said = [
            predicted(oracle.look(adversarial[part].to(on.test.device))).cpu()
            for part in rows.split(on.batch_size)
        ]
        on.cost.forward += oracle.counts.forward
        fooled = (torch.cat(said) != on.labels[rows]).double().mean().item()
    accuracy = (clean == on.labels).double().mean().item()
    agreement = (clean == on.predictions).double().mean().item()
    return Sibling(name, accuracy, agreement, fooled)


def among(
    steps: Generator[Event, None, T], place: int, total: int, unit: str
) -> Generator[Event, None, T]:
    """`steps`, which are those of number `place`, from 0, of `total`: how far all of them are."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            value: T = end.value
            yield Progress(place + 1, total, unit)
            return value
        if isinstance(event, Progress):
            event = Progress(place, total, unit, (place + event.fraction) / total)
        yield event


def answers(
    on: Subject,
    model: nn.Module,
    change: Change = lambda x, ids: x,
) -> Generator[Event, None, Tensor]:
    """What `model` predicts for the changed images, int64 (N,), on the CPU."""
    oracle = Oracle(model, seed=on.bench.derive("noise"), device=on.test.device, bf16=False)
    found = []
    for rows in torch.arange(len(on)).split(on.batch_size):
        images, _ = on.images(rows)
        ids = on.test.ids[on.order[rows]].to(images.device)
        found.append(predicted(oracle.look(change(images, ids))).cpu())
        yield Progress(sum(map(len, found)), len(on), "images")
    on.cost.forward += oracle.counts.forward
    on.cost.nan += int(oracle.counts.nan)
    return torch.cat(found)


def _shift(on: Subject, name: str, level: float, said: Tensor) -> Shift:
    accuracy = (said == on.labels).double().mean().item()
    agreement = (said == on.predictions).double().mean().item()
    return Shift(name, level, accuracy, agreement)
