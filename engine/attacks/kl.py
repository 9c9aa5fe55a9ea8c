"""Away from the clean prediction: signed gradient steps that raise the divergence KL(clean |
perturbed), without labels (Zhang et al. 2019, algorithm 1, and their code).

Their start is the image with normal noise of deviation .001, since the divergence has no slope at
the image itself; as in their code it is not projected. In l2 the step has fixed length, as in
`engine.attacks.pgd`, where their code runs an optimiser on the perturbation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from engine.attacks.goal import Goal
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import KL
from engine.random import derive, normal


class Diverging(NamedTuple):
    """Where the model is asked, and the logarithm of what it says of the image itself, (N, K)."""

    x: Tensor
    clean: Tensor


def kl(spec: KL) -> Method[Diverging]:
    """KL ascent as a method for the driver."""

    def start(of: Problem) -> Diverging:
        noise = normal(derive(of.seed, "start"), of.ids, of.ball.centre.shape[1:])
        x = of.ball.project(noise.mul_(spec.noise).add_(of.ball.centre))
        return Diverging(x, of.clean.log_softmax(1))

    def step(of: Problem, at: Diverging, answer: Answer, _: int) -> Diverging:
        return at._replace(x=of.ball.move(at.x, answer.gradient, spec.step_size))

    return Method(start, step, divergence, spec.steps, needs_clean=True)


def divergence(at: Diverging, logits: Tensor, _: Goal) -> Tensor:
    """KL(clean | perturbed) of each sample, in nats."""
    each = F.kl_div(logits.log_softmax(1), at.clean, reduction="none", log_target=True)
    return each.sum(1)
