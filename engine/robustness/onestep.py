"""Trainings whose examples cost one gradient each: fast and free."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.attacks.spec import PGD
from engine.random import derive, uniform
from engine.robustness.spec import Fast, Free
from engine.training.defence import Batch, Defence, Forward, Outcome, Setting, Wanted


class FastDefence(Defence):
    """Random-start FGSM (Wong, Rice and Kolter 2020, algorithm 3), which is PGD of one step.

    As in the paper and their code for MNIST (not CIFAR-10) the start may leave the box: from inside
    of it, black and white pixels end at the ball's border more often, and with their step of 1.25
    epsilon MNIST collapses. With `keep`, from the second epoch on the step starts at the image's
    last perturbation (Zheng et al. 2020), which is kept as int8, in units of epsilon / 127, in the
    frame of the augmented image.
    """

    def __init__(self, spec: Fast, setting: Setting) -> None:
        self.spec, self.setting = spec, setting
        self.attack = PGD(eps=spec.eps, steps=1, step_size=spec.alpha, random_start=False)
        self.unit = max(spec.eps, 1e-12) / 127
        self.kept: Tensor | None = None
        if spec.keep:
            shape = (len(setting.train), *setting.train.shape)
            self.kept = torch.zeros(shape, dtype=torch.int8)

    def wanted(self, batch: Batch) -> Wanted | None:
        if self.kept is None or batch.epoch < 1:
            seed = derive(self.setting.seed, "start", batch.step)
            draws = 2 * uniform(seed, batch.ids, batch.images.shape[1:]) - 1
            away = draws.to(batch.images.device) * (self.spec.eps * self.spec.risen(batch.epoch))
            return Wanted(self.attack, start=batch.images + away)
        last = self.kept[batch.places].to(batch.images.device)
        start = batch.images.add(last, alpha=self.unit).clamp_(0, 1)
        return Wanted(self.attack, start=start)

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        logits = model(found)
        return Outcome(self.setting.criterion(logits, batch.labels), None, logits)

    def stepped(self, batch: Batch, found: Tensor | None) -> None:
        if self.kept is not None and found is not None:
            change = (found - batch.images).mul_(1 / self.unit).round_()
            self.kept[batch.places] = change.to("cpu", torch.int8)

    def tensors(self) -> Mapping[str, Tensor]:
        return {} if self.kept is None else {"kept": self.kept}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if self.kept is not None:
            self.kept.copy_(tensors["kept"])


class FreeDefence(Defence):
    """Each batch is stepped on several times; one backward pass gives the gradient for the weights
    and for the perturbation, which is handed on to the next batch (Shafahi et al. 2019, algorithm
    1; as there, the model is in training mode throughout, and the box is kept)."""

    def __init__(self, spec: Free, setting: Setting) -> None:
        self.spec, self.setting = spec, setting
        self.replays = spec.replays
        self.perturbation: Tensor | None = None
        self._input: Tensor | None = None

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        images = batch.images
        if self.perturbation is None:
            self.perturbation = torch.zeros_like(images)
        images = (images + self.perturbation[: len(images)]).clamp_(0, 1)
        self._input = images.requires_grad_()
        logits = model(images)
        return Outcome(self.setting.criterion(logits, batch.labels), None, logits)

    def stepped(self, batch: Batch, found: Tensor | None) -> None:
        assert self._input is not None
        assert self.perturbation is not None
        slope = self._input.grad
        assert slope is not None
        eps = self.spec.eps
        part = self.perturbation[: len(slope)]
        part.add_(slope.sign(), alpha=eps).clamp_(-eps, eps)
        self._input = None

    def tensors(self) -> Mapping[str, Tensor]:
        return {} if self.perturbation is None else {"perturbation": self.perturbation}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if (kept := tensors.get("perturbation")) is not None:
            self.perturbation = kept.to(self.setting.train.device, copy=True)
