"""An attack inside of a training: all samples take the same steps, and nothing is confirmed."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from engine.attacks.goal import predicted
from engine.attacks.method import Method, Problem
from engine.attacks.oracle import Oracle
from engine.attacks.result import Iteration, Search, Snapshot, result_of
from engine.errors import CrucibleError
from engine.random import derive


def fixed_steps(oracle: Oracle, method: Method[Any], of: Problem, begin: Tensor | None) -> Search:
    """All steps of `method`, from `begin` if it is given (`perturb` with early_exit=False)."""
    everyone = torch.arange(len(of), device=of.ids.device)
    correct = success = torch.zeros_like(everyone, dtype=torch.bool)
    predictions = of.goal.labels
    with torch.inference_mode(False), torch.no_grad():
        if method.needs_clean and not of.clean.shape[1]:
            of = dataclasses.replace(of, clean=oracle.look(of.ball.centre))
        of = dataclasses.replace(of, seed=derive(of.seed, "restart", 0))
        state = method.start(of)
        if begin is not None:
            state = state._replace(x=begin)
    for step in range(method.steps):
        with torch.inference_mode(False), torch.no_grad():
            answer = oracle.ask(method, of, state, step, "gradient")
            logits = answer.logits
            correct = of.goal.correct(logits) if step == 0 else correct
            predictions, success = predicted(logits), of.goal.reached(logits)
        yield Iteration(
            0, step, everyone, state.x, logits, answer.loss, success, of.ball.centre, _no_snapshot
        )
        with torch.inference_mode(False), torch.no_grad():
            state = method.step(of, state, answer, step)
    steps = torch.full_like(of.ids, method.steps)
    return result_of(
        oracle,
        of.ball,
        adversarial=state.x,
        success=success,
        iterations=steps,
        queries=steps,
        correct=correct,
        predictions=predictions,
        broken_in=torch.zeros_like(of.ids),
        finished=torch.ones_like(success),
    )


def _no_snapshot() -> Snapshot:
    raise CrucibleError("an attack inside of a training is not continued: the training is")
