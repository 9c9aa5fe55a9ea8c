"""Interval bound propagation, for training and for certificates in linf (Gowal et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Generator

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.events import Event, Progress
from engine.robustness.certified import ModelProver, Proof
from engine.robustness.intervals import Bounds
from engine.robustness.searching import Subject
from engine.robustness.spec import IBP, IntervalBounds
from engine.training.defence import Batch, Defence, Forward, Outcome, Setting

HALVINGS = 14
"""Of the search for a radius; its last step is .00006."""
LEAST = 1e-6
"""The radius that is tried first."""
LOOKED_AT = 32
"""Images, at least, at which bounds and model are compared before anything is proved."""
SHARE = 16
"""Of so many images one is looked at, where that is more: it takes a hundredth of the proof."""
SLACK = 1e-5
"""Of the largest logit: by how much a bound must hold, since the model itself rounds to float32."""

DIFFERS = 1e-3
"""Of the largest logit: from how much on two answers are not one and the same."""
BOX = 0.1
"""Radius of the boxes that are looked at where none is asked for."""


class IBPDefence(Defence):
    """share * clean + (1 - share) * cross-entropy of the worst logits that any image of the ball
    could have (Gowal et al. 2018, equation 12). The clean share falls to `clean_share` while
    epsilon rises."""

    def __init__(self, spec: IBP, setting: Setting) -> None:
        self.spec, self.setting = spec, setting
        layers = setting.model.modules()
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers):
            raise BadInput(
                "batch normalisation couples the images of a batch, and has no bounds while it is "
                "trained. Take a model without it: norm = none, or the kinds strided or lenet."
            )
        self.bounds = Bounds(setting.model)

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        risen = self.spec.risen(batch.epoch)
        eps, share = self.spec.eps * risen, 1 - (1 - self.spec.clean_share) * risen
        clean = model(batch.images)
        loss = self.setting.criterion(clean, batch.labels)
        if not risen:  # a ball without radius holds nothing worse
            return Outcome(loss, clean, clean)
        lower, upper = (batch.images - eps).clamp(min=0), (batch.images + eps).clamp(max=1)
        with torch.autocast(batch.images.device.type, enabled=False):
            worst = -self.bounds.margins(lower, upper, batch.labels)
        loss = share * loss + (1 - share) * self.setting.criterion(worst, batch.labels)
        return Outcome(loss, clean, worst)


class IntervalProver(ModelProver):
    """Finds for each sample the largest radius that the bounds allow, by bisection; they only widen
    with it. Computed in float64, of a copy of the model.

    Raises BadInput if the bounds without a radius are not what the model answers, or if it answers
    something beyond them somewhere in a box: then it does something that is not in its layers."""

    def __init__(self, spec: IntervalBounds, on: Subject) -> None:
        super().__init__(on)
        self.spec = spec
        self.bounds = Bounds(copy.deepcopy(on.model).double().eval())
        known = on.clean.isfinite().all(1).nonzero().squeeze(1).cpu()
        count = min(len(known), max(LOOKED_AT, len(known) // SHARE))
        some = known[torch.linspace(0, len(known) - 1, count).long()]
        if count and not all(map(self._agrees, some.split(on.batch_size))):
            raise BadInput(
                "the bounds of this model's layers are not what it answers, so that they would "
                "prove nothing of it: its forward pass does more than its layers say, or its "
                "values are beyond what float32 tells apart. Take one made of layers alone."
            )

    def _agrees(self, rows: Tensor) -> bool:
        """Whether the bounds of single images are what the model has answered; and whether what it
        answers somewhere in a box around them, inside and at a vertex, is within the bounds."""
        images, clean = self.on.images(rows)[0], self.on.clean[rows.to(self.on.clean.device)]
        generator = self.on.bench.generator("boxes", int(rows[0]))
        radius = max(self.spec.radii, default=BOX) * torch.rand(len(rows), generator=generator)
        places = torch.rand((2, *images.shape), generator=generator) * 2 - 1
        places[1] = places[1].sign()
        moves = (radius[:, None, None, None] * places).to(images)
        eps = radius.to(images.device)[:, None, None, None].double()
        with torch.no_grad():
            exact = self.bounds.logits(images.double(), images.double())
            lower, upper = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
            bounds = self.bounds.logits(lower, upper)
        looked = [self.oracle.look((images + move).clamp(0, 1)) for move in moves]
        for answer, within in ((clean, exact), (looked[0], bounds), (looked[1], bounds)):
            slack = DIFFERS * answer.abs().amax(1, keepdim=True)
            off = (answer < within.lower - slack) | (answer > within.upper + slack)
            if bool((off & answer.isfinite().all(1, keepdim=True)).any()):
                return False
        return True

    def prove(self, rows: Tensor) -> Generator[Event, None, Proof]:
        images, predictions = self.on.images(rows)[0], self.on.predictions[rows]
        known = predictions >= 0
        # Answers that are no numbers are of no class, of which nothing could be proved.
        images, aimed = images.double(), predictions.clamp_min(0).to(images.device)
        least = torch.full((len(rows),), LEAST, dtype=torch.float64)
        least[~self._holds(images, aimed, least)] = 0.0
        most = torch.ones_like(least)
        for number in range(HALVINGS):
            middle = (least + most) / 2
            held = self._holds(images, aimed, middle)
            least, most = least.where(~held, middle), middle.where(~held, most)
            yield Progress(number + 1, HALVINGS, "halvings")
        for radius in self.spec.radii:
            asked = torch.full_like(least, radius)
            higher = (asked > least) & self._holds(images, aimed, asked)
            least = asked.where(higher, least)
        return Proof(least.where(known, 0.0), predictions)

    def _holds(self, images: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        """Whether the answer is proved to be `labels` within `radii`, bool (N,), on the CPU."""
        eps = radii.to(images.device)[:, None, None, None]
        with torch.no_grad():
            lower, upper = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
            margins = self.bounds.margins(lower, upper, labels)
        others = margins.scatter(1, labels[:, None], float("inf")).amin(1)
        return (others > SLACK * (1 + margins.abs().amax(1))).cpu()
