"""TRADES and MART: a loss on labels, and the divergence of clean and perturbed prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.robustness.examples import OnExamples
from engine.robustness.spec import MART, TRADES
from engine.training.defence import Batch, Forward, Outcome, Setting


class TradesDefence(OnExamples):
    """Clean loss + beta * KL(clean | perturbed), both predictions being trained (Zhang et al. 2019,
    equation 5 and their code)."""

    def __init__(self, spec: TRADES, setting: Setting) -> None:
        super().__init__(spec, setting)
        self.spec = spec

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        clean, perturbed = model(batch.images), model(found)
        loss = self.setting.criterion(clean, batch.labels)
        loss = loss + self.spec.weight_at(batch.epoch) * kl(clean, perturbed).mean()
        return Outcome(loss, clean, perturbed)


class MartDefence(OnExamples):
    """BCE(perturbed) + lambda * KL(clean | perturbed) * (1 - p_clean(label)) (Wang et al. 2020,
    equation 11, with the small constants of their code).

    BCE = cross-entropy - log(1 - largest wrong probability). Their code starts its PGD with normal
    noise of .001; here the attack is what the spec says.
    """

    def __init__(self, spec: MART, setting: Setting) -> None:
        super().__init__(spec, setting)
        self.spec = spec

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        assert found is not None
        labels = batch.labels[:, None]
        clean, perturbed = model(batch.images), model(found)
        sure = perturbed.float().softmax(1)
        wrong = sure.scatter(1, labels, float("-inf")).amax(1)
        boosted = self.setting.criterion(perturbed, batch.labels)
        boosted = boosted - (1.0001 - wrong + 1e-12).log().mean()
        doubt = 1.0000001 - clean.float().softmax(1).gather(1, labels)[:, 0]
        divergence = (kl(clean, perturbed) * doubt).mean()
        loss = boosted + self.spec.weight_at(batch.epoch) * divergence
        return Outcome(loss, clean, perturbed)


def kl(clean: Tensor, perturbed: Tensor) -> Tensor:
    """KL(clean | perturbed) of each sample in nats, (N,), from logits (N, K)."""
    with torch.autocast(clean.device.type, enabled=False):
        target, said = clean.float().log_softmax(1), perturbed.float().log_softmax(1)
        return F.kl_div(said, target, reduction="none", log_target=True).sum(1)
