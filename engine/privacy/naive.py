"""Noise without a guarantee, as it is often taught, beside which DP-SGD can be seen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from engine.events import Event, Note
from engine.privacy.noise import SeededDraws
from engine.privacy.spec import Naive
from engine.task import Summary
from engine.training.defence import Batch, Outcome
from engine.training.mechanism import Mechanism, PrivateSetting


class NaiveMechanism(Mechanism):
    """The batch's gradient, each component clamped, then noise."""

    def __init__(self, spec: Naive, setting: PrivateSetting) -> None:
        self.spec = spec
        self.model = setting.model
        self.draws_of = SeededDraws(setting.bench, setting.salt)
        self.loss = nn.CrossEntropyLoss(label_smoothing=setting.label_smoothing)

    def begin(self) -> Iterator[Event]:
        yield Note(
            "warning",
            "naive noise gives no guarantee: the gradient of the whole batch is clamped, so that "
            "one image can change all of it, and no epsilon can be computed. For one, take "
            'privacy = {kind = "dpsgd"}.',
        )

    def gradients(self, batch: Batch) -> Outcome:
        logits: Tensor = self.model(batch.images)
        loss = self.loss(logits, batch.labels)
        loss.backward()
        learning = [p for p in self.model.parameters() if p.grad is not None]
        nn.utils.clip_grad_value_(learning, self.spec.clip_value)
        draws = self.draws_of.normal("noise", batch.step, sum(p.numel() for p in learning))
        parts = draws.split([p.numel() for p in learning])
        with torch.no_grad():
            for parameter, part in zip(learning, parts, strict=True):
                assert parameter.grad is not None
                parameter.grad.add_(part.view_as(parameter), alpha=self.spec.noise)
        return Outcome(loss.detach(), logits, None)

    def summary(self, step: int) -> Summary:
        return {"guarantee": "none"}
