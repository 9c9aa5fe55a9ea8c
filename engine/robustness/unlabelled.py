"""Trainings that learn from images without labels: virtual adversarial training and UAT."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attacks.spec import KL, AttackSpec, VirtualAdversarial
from engine.data import Split
from engine.errors import BadInput
from engine.random import derive, uniform
from engine.robustness.examples import OnExamples
from engine.robustness.spec import UAT, SemiSupervised
from engine.robustness.trades import kl
from engine.training.defence import Batch, Forward, Outcome, Setting, Wanted


class PartlyLabelled(OnExamples):
    """Knows which labels may be used.

    With all labels the clean loss is that of the batch. With fewer, each step has a second batch
    of labelled images, as large as the first, drawn with replacement (Miyato et al. 2018, section
    4.3, draw both kinds of batches apart, too).
    """

    def __init__(self, spec: SemiSupervised, setting: Setting) -> None:
        super().__init__(spec, setting)
        self.spec = spec
        if any(not isinstance(attack, KL | VirtualAdversarial) for attack in self.unlabelled()):
            raise BadInput(
                f"{spec.kind} must not look at labels, which its attack does; take one of kind kl "
                "or vat"
            )
        self.known = labelled(setting.train, spec.labelled, setting.seed)

    def unlabelled(self) -> Sequence[AttackSpec]:
        """The attacks that must do without labels."""
        return self.attacks if self.spec.labelled < 1.0 else ()

    def clean_loss(self, model: Forward, batch: Batch, clean: Tensor) -> Tensor:
        """The loss on labels; `clean` are the logits of the batch's own images."""
        if self.spec.labelled == 1.0:
            return self.setting.criterion(clean, batch.labels)
        generator = torch.Generator().manual_seed(derive(self.setting.seed, "known", batch.step))
        drawn = torch.randint(len(self.known), (len(batch.images),), generator=generator)
        images, labels = self.setting.batch(self.known[drawn], int(batch.epoch))
        return self.setting.criterion(model(images), labels)


class VatDefence(PartlyLabelled):
    """Clean loss + weight * KL(clean | perturbed), the clean prediction held fixed (Miyato et al.
    2018, equations 5 to 8)."""

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        clean, perturbed = model(batch.images), model(found)
        smooth = kl(clean.detach(), perturbed).mean()
        loss = self.clean_loss(model, batch, clean)
        return Outcome(loss + self.spec.weight_at(batch.epoch) * smooth, clean, perturbed)


class UatDefence(PartlyLabelled):
    """Clean loss + weight * the part that needs no labels (Alayrac et al. 2019, section 3):
    online targets, KL(clean | perturbed) with the clean prediction held fixed (UAT-OT); fixed
    targets, the cross-entropy at a given class (UAT-FT), the label where it is known; or their sum
    (UAT++). All are taken at the examples of one attack."""

    def __init__(self, spec: UAT, setting: Setting) -> None:
        self.targets = spec.targets
        super().__init__(spec, setting)
        self.teacher = copy.deepcopy(setting.start)
        self._told: tuple[int, Tensor] | None = None
        if spec.targets != "online" and self.teacher is None:
            raise BadInput(
                "fixed targets are what the model says that the run starts from, and this run "
                "starts from none; set init to a trained run, or targets to online"
            )
        self.is_known = torch.zeros(len(setting.train), dtype=torch.bool)
        self.is_known[self.known] = True

    def unlabelled(self) -> Sequence[AttackSpec]:
        return super().unlabelled() if self.targets == "online" else ()

    def wanted(self, batch: Batch) -> Wanted | None:
        if self.targets == "online":
            return super().wanted(batch)
        return Wanted(self.drawn(batch.step), labels=self._fixed(batch))

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        clean, perturbed = model(batch.images), model(found)
        parts = []
        if self.targets != "fixed":
            parts.append(kl(clean.detach(), perturbed).mean())
        if self.targets != "online":
            parts.append(self.setting.criterion(perturbed, self._fixed(batch)))
        loss = self.clean_loss(model, batch, clean)
        loss = loss + self.spec.weight_at(batch.epoch) * torch.stack(parts).sum()
        return Outcome(loss, clean, perturbed)

    def _fixed(self, batch: Batch) -> Tensor:
        """The classes that a batch is held to, int64 (N,)."""
        assert self.teacher is not None
        if self._told is None or self._told[0] != batch.step:
            with torch.no_grad():
                guessed = self.teacher(batch.images).argmax(1)
            known = self.is_known[batch.places].to(guessed.device)
            self._told = batch.step, torch.where(known, batch.labels, guessed)
        return self._told[1]


def labelled(train: Split, share: float, seed: int) -> Tensor:
    """The places in the training split whose labels are known, int64, at least one; an image keeps
    its label in every run of the same seed."""
    count = max(1, round(share * len(train)))
    draws = uniform(derive(seed, "labelled"), train.ids, ())
    return draws.argsort(stable=True)[:count].sort().values
