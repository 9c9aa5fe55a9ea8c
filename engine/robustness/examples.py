"""Trainings on the adversarial examples that an attack finds."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attacks.spec import AttackSpec
from engine.random import derive
from engine.robustness.spec import AgainstAttack, Interpolated, Mixed, Weighted
from engine.training.defence import Batch, Defence, Forward, Outcome, Setting, Wanted


class OnExamples(Defence):
    """Searches with the attack of the spec, or with one of its mixture."""

    def __init__(self, spec: AgainstAttack, setting: Setting) -> None:
        self.setting = setting
        self.attacks = (spec.attack, *spec.mixture)
        self.shares = torch.tensor(spec.shares or [1.0] * len(self.attacks), dtype=torch.float64)

    def wanted(self, batch: Batch) -> Wanted | None:
        return Wanted(self.drawn(batch.step))

    def drawn(self, step: int) -> AttackSpec:
        """The attack of a step."""
        if len(self.attacks) == 1:
            return self.attacks[0]
        generator = torch.Generator().manual_seed(derive(self.setting.seed, "attack", step))
        return self.attacks[int(torch.multinomial(self.shares, 1, generator=generator))]


class AdversarialOnly(OnExamples):
    """The examples take the place of the images (Madry et al. 2018, section 2)."""

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        logits = model(found)
        return Outcome(self.setting.criterion(logits, batch.labels), None, logits)


class MixedDefence(OnExamples):
    """Clean + weight * adversarial (Goodfellow et al. 2015, section 6)."""

    def __init__(self, spec: Mixed, setting: Setting) -> None:
        super().__init__(spec, setting)
        self.spec: Weighted = spec

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        criterion, weight = self.setting.criterion, self.spec.weight_at(batch.epoch)
        clean = model(batch.images)
        loss = criterion(clean, batch.labels)
        adversarial = model(found)
        loss = loss + weight * criterion(adversarial, batch.labels)
        return Outcome(loss, clean, adversarial)


class InterpolatedDefence(OnExamples):
    """(clean + weight * adversarial) / (1 + weight), each loss on a blend of two images and their
    labels, drawn anew for either (Lamb et al. 2019, algorithm 1, where the weight is 1)."""

    def __init__(self, spec: Interpolated, setting: Setting) -> None:
        super().__init__(spec, setting)
        self.spec = spec

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        weight = self.spec.weight_at(batch.epoch)
        clean = self._blended(model, batch.images, batch, "clean")
        adversarial = self._blended(model, found, batch, "adversarial")
        # Logits of blends are right about nothing that could be counted.
        return Outcome((clean + weight * adversarial) / (1 + weight), None, None)

    def _blended(self, model: Forward, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        share, others = blend(
            len(images), self.spec.mixup, derive(self.setting.seed, "mixup", purpose, batch.step)
        )
        others = others.to(images.device)
        logits = model(share * images + (1 - share) * images[others])
        criterion = self.setting.criterion
        first, second = criterion(logits, batch.labels), criterion(logits, batch.labels[others])
        return share * first + (1 - share) * second


def blend(count: int, mixup: float, seed: int) -> tuple[float, Tensor]:
    """Of a batch of `count`: the share that each image keeps, from the beta distribution with both
    parameters `mixup`, and the image that it is blended with, int64 (count,)."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.full((2,), mixup, dtype=torch.float64)
    drawn = torch._standard_gamma(both, generator=generator)
    share = float(drawn[0] / drawn.sum()) if drawn.sum() else 0.5
    return share, torch.randperm(count, generator=generator)
