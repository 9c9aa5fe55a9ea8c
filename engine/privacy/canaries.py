"""Members that a run is audited by (Steinke, Nasr and Jagielski 2023, algorithm 1): each is put in
or left out by a coin, and what the run gave away of it is its score. An audit guesses the coins by
the scores, and says from how often it is right what epsilon was at least.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import safetensors.torch
import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.errors import BadInput
from engine.files import atomic
from engine.privacy.noise import Draws
from engine.privacy.spec import DPSGD
from engine.training.mechanism import PrivateSetting

FILE = "canaries.safetensors"
"""In the run's folder: `included`, bool (m,), `score`, float64 (m,), higher where it seems to be
in, and of Dirac canaries `noise` (`DiracCanaries`); in its metadata under `about`, JSON: kind, and
what a `Promise` holds."""

BATCH = 500

RAW = 10.0
"""Length of a Dirac canary before it is clipped, in clipping norms: a run that does not clip
lets it through."""


Clip: TypeAlias = Callable[[Tensor], Tensor]
"""How much a step leaves of gradients, by their norms, both (N,)."""


class Promise(NamedTuple):
    """What a run says that it did. `noise` is the deviation on each sum in clipping norms, more
    than the noise multiplier where a count is noised beside."""

    noise_multiplier: float
    noise: float
    max_norm: float
    sample_rate: float
    steps: int
    delta: float


class Canaries:
    """All of a run; a subclass knows what they are."""

    kind: Literal["gradient", "update", "sample"]

    def __init__(self, count: int, random: Draws) -> None:
        self.included = random.uniform("coins", 0, count) < 0.5
        self.score = torch.zeros(count, dtype=torch.float64)

    @property
    def members(self) -> int:
        """How many there are beside the training images, for whoever draws a step's members."""
        return 0

    def kept(self, places: Tensor) -> Tensor:
        """Of the training images drawn for a step those that are in the run."""
        return places

    def labels(self, places: Tensor, labels: Tensor) -> Tensor:
        """What the images at these places are taught to be."""
        return labels

    def put_in(self, gradient: Tensor, norm: float, drawn: Tensor, clip: Clip) -> None:
        """Add to the sum of a step's clipped gradients, flat, those of its canaries: of the
        members that were `drawn`, int64 (B,), clipped as the run clips."""

    def look(self, gradient: Tensor, norm: float) -> None:
        """What a step gave away: the noised sum, flat."""

    def judge(self) -> None:
        """What the final model gives away."""

    def save(self, folder: Path, promise: Promise) -> None:
        """Write what the audit needs into the run's folder."""
        self.judge()
        about = json.dumps({"kind": self.kind, **promise._asdict()})
        with atomic(folder / FILE) as file:
            file.write(safetensors.torch.save(self.told(), {"about": about}))

    def told(self) -> dict[str, Tensor]:
        """What the audit is told."""
        return {"included": self.included, "score": self.score}

    def tensors(self) -> Mapping[str, Tensor]:
        return {"included": self.included, "score": self.score}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.included, self.score = tensors["included"].cpu(), tensors["score"].cpu()


class DiracCanaries(Canaries):
    """Members whose gradient, or whose update if they are clients, has the length of the clipping
    norm along one parameter of their own (section 6). Whoever sees every step, and knows the
    training images, or the sum of the clients' updates, can score them by what the steps hold there
    beyond these.

    What a step holds there of a canary that was left out is noise alone. Of that `noise` keeps
    three sums, float64 (3,), in clipping norms: how many steps there were; the squares, over
    canaries left out and steps; and the squares, over the steps, of each step's sum over these
    canaries. With the scores, which are sums over the steps, they tell how large the noise was, and
    whether it was drawn anew for each step and parameter (`engine.audits.noise`)."""

    def __init__(
        self,
        kind: Literal["gradient", "update"],
        count: int,
        parameters: int,
        bench: Bench,
        random: Draws,
    ) -> None:
        """`parameters` is how many numbers a gradient, or an update, has. Raises BadInput where
        these are fewer than the canaries."""
        super().__init__(count, random)
        if count > parameters:
            raise BadInput(
                f"{count} canaries need as many parameters that learn; the model has "
                f"{parameters}. Take fewer, or a larger model"
            )
        self.kind = kind
        order = torch.randperm(parameters, generator=bench.generator("privacy", "canaries"))
        self.where = order[:count]
        self.noise = torch.zeros(3, dtype=torch.float64)

    @property
    def members(self) -> int:
        return len(self.where)

    def put_in(self, gradient: Tensor, norm: float, drawn: Tensor, clip: Clip) -> None:
        self._known = gradient[self.where.to(gradient.device)]
        drawn = drawn[self.included[drawn]]
        length = RAW * norm
        left = clip(torch.full((len(drawn),), length, dtype=torch.float64)).to(gradient)
        gradient[self.where[drawn].to(gradient.device)] += length * left

    def look(self, gradient: Tensor, norm: float) -> None:
        seen = gradient[self.where.to(gradient.device)] - self._known
        seen = seen.double().cpu() / norm
        self.score = self.score + seen  # what it was may be held, to go back to
        left_out = seen[~self.included]
        sums = 1.0, float(left_out.square().sum()), float(left_out.sum()) ** 2
        self.noise = self.noise + torch.tensor(sums, dtype=torch.float64)

    def told(self) -> dict[str, Tensor]:
        return {**super().told(), "noise": self.noise}

    def tensors(self) -> Mapping[str, Tensor]:
        return {**super().tensors(), "noise": self.noise}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self.noise = tensors["noise"].cpu()


class SampleCanaries(Canaries):
    """Training images with a wrong label each; those left out are in no step. Whoever has the final
    model alone can score them by how far the loss of that label fell."""

    kind = "sample"

    def __init__(self, spec: DPSGD, setting: PrivateSetting, random: Draws) -> None:
        super().__init__(spec.canaries, random)
        self.setting = setting
        count = len(setting.train)
        if spec.canaries > count:
            raise BadInput(f"{spec.canaries} canaries are more than the {count} training images")
        generator = setting.bench.generator("privacy", "canaries")
        self.where = torch.randperm(count, generator=generator)[: spec.canaries]
        shift = torch.randint(1, setting.classes, (spec.canaries,), generator=generator)
        right = setting.train.labels[self.where.to(setting.train.device)].cpu()
        self._wrong = (right + shift) % setting.classes
        self._taught = torch.full((count,), -1)
        self._taught[self.where] = self._wrong
        self._place_out()
        self.start = self._losses()

    def _place_out(self) -> None:
        self._out = torch.zeros(len(self.setting.train), dtype=torch.bool)
        self._out[self.where] = ~self.included

    def kept(self, places: Tensor) -> Tensor:
        return places[~self._out[places]]

    def labels(self, places: Tensor, labels: Tensor) -> Tensor:
        taught = self._taught[places].to(labels.device)
        return torch.where(taught >= 0, taught, labels)

    def judge(self) -> None:
        self.score = self.start - self._losses()

    def _losses(self) -> Tensor:
        """Of each canary's wrong label, float64 (m,)."""
        model = self.setting.model
        found: list[Tensor] = []
        for part, images, _ in self.setting.train.batches(self.where, BATCH):
            with torch.no_grad():
                logits = model(images).double()
            at = len(found) * BATCH
            wrong = self._wrong[at : at + len(part)].to(logits.device)
            found.append(nn.functional.cross_entropy(logits, wrong, reduction="none").cpu())
        return torch.cat(found)

    def tensors(self) -> Mapping[str, Tensor]:
        return {**super().tensors(), "start": self.start}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self.start = tensors["start"].cpu()
        self._place_out()


def make_canaries(
    spec: DPSGD, setting: PrivateSetting, random: Draws, parameters: int
) -> Canaries | None:
    """The canaries that a run asks for; None where it asks for none. Raises BadInput for more than
    there is room for."""
    if not spec.canaries:
        return None
    if spec.canary == "sample":
        return SampleCanaries(spec, setting, random)
    return DiracCanaries("gradient", spec.canaries, parameters, setting.bench, random)
