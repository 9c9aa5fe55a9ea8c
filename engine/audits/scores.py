"""Scores of membership: the higher, the likelier was the model trained on the sample.

All are functions of what models say of the label of a sample. `confidence` is LiRA's statistic
(Carlini et al. 2022, section 5.2): the log odds of the label, which is close to normal over models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.audits.spec.membership import Method

OWN_FROM = 128
"""Shadow models from which each sample has a variance of its own. (64 in Carlini et al. 2022,
section 6.3; on digits a shared one was still the better with as many.)"""
LEAST_DEVIATION = 1e-6
"""Of a normal distribution: models that agree to the last digit say no more than that."""


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of the label's probability p, float64 (N,), of logits (N, K) and labels
    int64 (N,): without ever computing p, which rounds to 1."""
    logits = logits.double()
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf).logsumexp(1)
    return (own - others).nan_to_num(nan=0.0, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)


def loss_of(confidence: Tensor) -> Tensor:
    """Cross-entropy of the label, -log p, of its log odds."""
    return torch.nn.functional.softplus(-confidence)


def scores(
    methods: tuple[Method, ...],
    target: Tensor,
    shadows: Tensor,
    included: Tensor,
    variance: str,
) -> Mapping[Method, Tensor]:
    """The score of each sample by each method, float64 (N,).

    target: log odds by the audited model, (N,). shadows: by each shadow model, (S, N). included:
    which of them saw which sample, bool (S, N). variance: "auto", "shared" or "own".
    """
    own = variance == "own" or (variance == "auto" and len(shadows) >= OWN_FROM)
    found: dict[Method, Tensor] = {}
    for method in methods:
        match method:
            case "loss":
                found[method] = -loss_of(target)
            case "calibrated":
                found[method] = _mean(loss_of(shadows), ~included) - loss_of(target)
            case "lira_offline":
                found[method] = _deviations(target, shadows, ~included, own)
            case "lira":
                inside = _log_density(target, shadows, included, own)
                found[method] = inside - _log_density(target, shadows, ~included, own)
    return found


def _mean(values: Tensor, among: Tensor) -> Tensor:
    return (values * among).sum(0) / among.sum(0)


def _deviation(values: Tensor, among: Tensor, own: bool) -> Tensor:
    """Standard deviation around each sample's own mean, (N,): of each sample, or one of all."""
    squares = (values - _mean(values, among)).square() * among
    counts = among.sum(0) - 1
    if own:
        spread = squares.sum(0) / counts.clamp_min(1)
    else:
        spread = (squares.sum() / counts.sum().clamp_min(1)).expand(values.shape[1])
    return spread.sqrt().clamp_min(LEAST_DEVIATION)


def _deviations(target: Tensor, values: Tensor, among: Tensor, own: bool) -> Tensor:
    """How many deviations the target lies above the models that did not see a sample: orders
    samples as 1 - Pr[Z > target] does (Carlini et al. 2022, section 5.4), and never rounds to 1."""
    return (target - _mean(values, among)) / _deviation(values, among, own)


def _log_density(target: Tensor, values: Tensor, among: Tensor, own: bool) -> Tensor:
    deviation = _deviation(values, among, own)
    apart = (target - _mean(values, among)) / deviation
    return -apart.square() / 2 - deviation.log() - math.log(2 * math.pi) / 2
