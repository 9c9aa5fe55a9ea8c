"""Training on noisy images, for a classifier that is to be smoothed."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.random import derive, normal
from engine.robustness.spec import GaussianNoise
from engine.training.defence import Batch, Defence, Forward, Outcome, Setting


class NoisyDefence(Defence):
    """Cross-entropy at the images with Gaussian noise (Cohen, Rosenfeld and Kolter 2019, section
    3.3). The noise is added before the model normalises, and leaves the box, as that of the
    certificate does. With a ramp of epsilon it grows from nothing."""

    def __init__(self, spec: GaussianNoise, setting: Setting) -> None:
        self.spec, self.setting = spec, setting

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        spec, images = self.spec, batch.images
        share = min(1.0, batch.epoch / spec.eps_ramp) if spec.eps_ramp else 1.0
        ids = batch.ids.to(images.device)
        copies = []
        for draw in range(spec.draws):
            seed = derive(self.setting.seed, "noise", int(batch.epoch), draw)
            noise = normal(seed, ids, images.shape[1:])
            copies.append(images.add(noise, alpha=spec.sigma * share))
        logits = model(torch.cat(copies) if len(copies) > 1 else copies[0])
        loss = self.setting.criterion(logits, batch.labels.repeat(spec.draws))
        return Outcome(loss, logits[: len(images)], None)
