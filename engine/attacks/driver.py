"""Runs a method against a model: who is still attacked, what was found, what it cost.

Samples that the model gets wrong anyway are never attacked. A sample that is broken leaves the
batch, which is repacked; success is read from the logits of the step that was paid for, and each
success is confirmed by a float32 forward pass of its own, inside ball and box, before it counts.
One that is not confirmed (a logit margin within rounding) simply stays in the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from engine.attacks.geometry import Ball, ball
from engine.attacks.goal import Goal, predicted
from engine.attacks.method import Method, Point
from engine.attacks.oracle import Oracle
from engine.attacks.spec import AttackSpec
from engine.errors import BadInput, Cancelled
from engine.events import drain
from engine.random import derive


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What an attack found, for N samples. All tensors are on the images' device.

    adversarial: float32 (N, C, H, W), inside ball and box. Of a sample that was not broken it is
        the last point that was tried, and the clean image if it was never attacked.
    success: bool (N,), the model got the clean image right and this one wrong (targeted: as the
        target class), confirmed by a forward pass of its own.
    norm: float64 (N,), measured size of the perturbation in the attack's norm.
    iterations: int64 (N,), gradient steps spent.
    correct: bool (N,), the model got the clean image right.
    predictions: int64 (N,), class that the model gives `adversarial`; -1 if its logits are not
        numbers. With `early_exit=False` both of these speak of the last point that was asked,
        which is one step before `adversarial`.
    finished: bool (N,), False for samples that a cancel left undecided.
    forward_evaluations, gradient_evaluations: images put through the model, and those of them
        whose gradient was taken.
    zero_gradients: gradients that were exactly zero, which hides a sample from any gradient attack.
    nan_count: images whose logits or gradient held a NaN or Inf. Such a gradient entry counts as
        zero, such logits never as a success.
    """

    adversarial: Tensor
    success: Tensor
    norm: Tensor
    iterations: Tensor
    correct: Tensor
    predictions: Tensor
    finished: Tensor
    forward_evaluations: int
    gradient_evaluations: int
    zero_gradients: int
    nan_count: int

    def cpu(self) -> AttackResult:
        """The same, off the GPU."""
        names = [field.name for field in dataclasses.fields(self)]
        tensors = {n: getattr(self, n) for n in names if isinstance(getattr(self, n), Tensor)}
        return dataclasses.replace(self, **{name: t.cpu() for name, t in tensors.items()})

    @property
    def robust_accuracy(self) -> float:
        """Still correct after the attack / all samples."""
        return (self.correct & ~self.success).double().mean().item()


@dataclass(frozen=True, slots=True)
class Iteration:
    """One question to the model and its answer; only valid until the next one.

    restart, step: counted from 0; step s is the point after s gradient steps.
    active: int64 (M,), the samples asked about, as positions in the batch.
    points: float32 (M, C, H, W), where the model was asked.
    logits: float32 (M, K) and loss: float32 (M,), its answer; larger losses are nearer to success.
    success: bool (N,), confirmed so far.
    adversarial: float32 (N, C, H, W): the images that were confirmed, else clean ones.
    """

    restart: int
    step: int
    active: Tensor
    points: Tensor
    logits: Tensor
    loss: Tensor
    success: Tensor
    adversarial: Tensor

    def newest(self, count: int) -> Tensor:
        """The present images of the first `count` samples, a copy: confirmed, tried, or clean."""
        images = self.adversarial[:count].clone()
        shown = self.active < count
        images[self.active[shown]] = self.points[shown]
        return images


Search: TypeAlias = Generator[Iteration, None, AttackResult]


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    *,
    generator: torch.Generator | None = None,
    targets: Tensor | None = None,
) -> AttackResult:
    """Adversarial examples for `images`; `AttackResult` says what is known of each.

    model: takes float32 (N, C, H, W) in [0, 1], returns logits (N, K), each row of its image
        alone. It is run in eval mode; its modes, parameters and gradients, the caller's grad mode
        and the global random state are as before when this returns or raises.
    images: floating point (N, C, H, W) in [0, 1], on the model's device. Not changed.
    labels: integers (N,), the true classes, on the same device.
    spec: what to run, as in `PGD(norm="linf", eps=0.3, steps=40, step_size=0.01)`.
    generator: source of the random starts; one number is drawn from it. Without it they are the
        same in every call. Sample i's draws depend on that number and i alone.
    targets: classes to aim at, (N,), for a targeted spec; the class after the label unless given.

    Raises BadInput if the arguments do not fit each other or the model.
    """
    seed = 0
    if generator is not None:
        top = 2**63 - 1
        seed = int(torch.randint(top, (), generator=generator, device=generator.device))
    ids = torch.arange(len(images) if isinstance(images, Tensor) else 0)
    return drain(perturb(model, images, labels, spec, seed=seed, ids=ids, targets=targets))


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    *,
    seed: int,
    ids: Tensor,
    early_exit: bool = True,
    targets: Tensor | None = None,
    eps: Tensor | None = None,
    clean_logits: Tensor | None = None,
    precision: Literal["float32", "bf16"] = "float32",
) -> Search:
    """`attack` as a generator: one `Iteration` for each question to the model.

    Nothing of process or thread is held across a yield. `Cancelled`, thrown in at one, makes it
    return what was confirmed so far.

    seed, ids: a sample's draws depend on `seed` and its id, int64 (N,), alone.
    early_exit: False is for training: all samples take the same fixed number of steps, whatever
        the model says of them; nothing is confirmed, no extra pass is made, and `Cancelled` is
        not caught. Needs a spec without restarts.
    eps: a radius for each sample, (N,), instead of the spec's.
    clean_logits: the model's logits at `images`, (N, K), if they have been paid for already.
    precision: bf16 takes the gradient steps under autocast; successes are confirmed in float32.

    Raises BadInput at once if the arguments do not fit each other, at the first iteration if they
    do not fit the model.
    """
    images, labels, ids = _checked(model, images, labels, ids)
    radii = torch.full(labels.shape, spec.eps, dtype=torch.float64) if eps is None else eps
    if radii.shape != labels.shape or not bool((radii >= 0).all()):
        raise BadInput(f"eps must be {len(labels)} radii >= 0, one a sample; got {_what(radii)}.")
    around = ball(spec.norm, images, radii)
    goal = _goal(labels, targets, images, spec)
    method = spec.method()
    bf16 = precision == "bf16"
    oracle = Oracle(model, method.loss, seed=seed, device=images.device, bf16=bf16)
    if early_exit:
        return _search(oracle, method, around, goal, ids, seed, clean_logits)
    if method.restarts > 1:
        raise BadInput(
            "Restarts are for the samples that earlier ones did not break, and with "
            "early_exit=False all samples are attacked alike: use restarts=1."
        )
    return _fixed(oracle, method, around, goal, ids, seed)


def _search(
    oracle: Oracle,
    method: Method[Any],
    around: Ball,
    goal: Goal,
    ids: Tensor,
    seed: int,
    clean_logits: Tensor | None,
) -> Search:
    clean = oracle.look(around.centre) if clean_logits is None else clean_logits
    goal.classes(clean.shape[1])
    whole = around
    adversarial = around.centre.clone()
    predictions = predicted(clean)
    correct = goal.correct(clean)
    success = torch.zeros_like(correct)
    iterations = torch.zeros_like(ids)

    # From here on `around`, `goal`, `ids` and the state hold the `active` samples only.
    active = correct.nonzero().squeeze(1)
    around, goal, ids = around[active], goal[active], ids[active]
    state: Any = Point(around.centre)
    cancelled = False
    try:
        for restart, step in product(range(method.restarts), range(method.steps + 1)):
            if not len(active):
                break
            if step == 0:
                state = method.start(around, _restart_seed(seed, restart), ids)
            more = step < method.steps
            logits, loss, gradient = oracle.ask(state.x, goal, gradient=more)
            iterations[active] = restart * method.steps + step
            predictions[active] = predicted(logits)
            broken, again = _confirmed(oracle, around, goal, state.x, logits)
            predictions[active[broken]] = again
            success[active[broken]] = True
            adversarial[active[broken]] = state.x[broken]
            yield Iteration(restart, step, active, state.x, logits, loss, success, adversarial)
            if len(broken):
                keep = (~success[active]).nonzero().squeeze(1)
                active, ids, goal, around = active[keep], ids[keep], goal[keep], around[keep]
                state = type(state)(*(part[keep] for part in state))
                gradient = gradient[keep]
            if more:
                state = method.step(around, state, gradient)
    except Cancelled:
        cancelled = True
    left = ~success[active]
    adversarial[active[left]] = state.x[left]
    finished = torch.ones_like(success)
    finished[active[left]] = not cancelled
    return _result(oracle, whole, adversarial, success, iterations, correct, predictions, finished)


def _confirmed(
    oracle: Oracle, around: Ball, goal: Goal, x: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows of `x` that are broken by their `logits`, by a pass of their own, and inside ball and
    box, int64 (M,), and what that pass predicted, int64 (M,)."""
    found = goal.reached(logits).nonzero().squeeze(1)
    if not len(found):
        return found, found
    again = oracle.look(x[found])
    sure = goal[found].reached(again) & around[found].contains(x[found])
    return found[sure], predicted(again)[sure]


def _fixed(
    oracle: Oracle, method: Method[Any], around: Ball, goal: Goal, ids: Tensor, seed: int
) -> Search:
    everyone = torch.arange(len(ids), device=ids.device)
    correct = success = torch.zeros_like(everyone, dtype=torch.bool)
    predictions = goal.labels
    state = method.start(around, _restart_seed(seed, 0), ids)
    for step in range(method.steps):
        logits, loss, gradient = oracle.ask(state.x, goal, gradient=True)
        correct = goal.correct(logits) if step == 0 else correct
        predictions, success = predicted(logits), goal.reached(logits)
        yield Iteration(0, step, everyone, state.x, logits, loss, success, around.centre)
        state = method.step(around, state, gradient)
    iterations = torch.full_like(ids, method.steps)
    return _result(
        oracle,
        around,
        state.x,
        success,
        iterations,
        correct,
        predictions,
        finished=torch.ones_like(success),
    )


def _restart_seed(seed: int, restart: int) -> int:
    return derive(seed, "restart", restart)


def _result(
    oracle: Oracle,
    around: Ball,
    adversarial: Tensor,
    success: Tensor,
    iterations: Tensor,
    correct: Tensor,
    predictions: Tensor,
    finished: Tensor,
) -> AttackResult:
    counts = oracle.counts
    return AttackResult(
        adversarial=adversarial,
        success=success,
        norm=around.size(adversarial),
        iterations=iterations,
        correct=correct,
        predictions=predictions,
        finished=finished,
        forward_evaluations=counts.forward,
        gradient_evaluations=counts.gradient,
        zero_gradients=int(counts.zero),
        nan_count=int(counts.nan),
    )


# --- what can be asked ----------------------------------------------------------------------------


def _checked(
    model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments as float32, int64 and int64 on one device, detached from any graph."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"The model must be a torch.nn.Module; got {type(model).__name__}.")
    for name, value in (("images", images), ("labels", labels), ("ids", ids)):
        if not isinstance(value, Tensor):
            raise BadInput(
                f"{name} must be a torch tensor; got {type(value).__name__}. "
                "torch.as_tensor makes one of a NumPy array or a list."
            )
    if images.ndim != 4 or not images.is_floating_point():
        raise BadInput(
            "images must be floating point of shape (N, C, H, W), with values in [0, 1]; "
            f"got {_what(images)}. Bytes are divided by 255; one image gets a first dimension "
            "by images[None]."
        )
    if not images.numel():
        raise BadInput(f"There is nothing to attack: images has shape {tuple(images.shape)}.")
    least, most = (value.item() for value in images.detach().aminmax())
    if not (least >= 0 and most <= 1):
        raise BadInput(
            f"images must lie in [0, 1]; these go from {least:.4g} to {most:.4g}. "
            "Normalisation belongs into the model, as its first layer."
        )
    _check_classes("labels", labels, images)
    if ids.shape != labels.shape or ids.is_floating_point():
        raise BadInput(f"ids must be {len(labels)} integers, one a sample; got {_what(ids)}.")
    own = next((tensor.device for tensor in model.parameters()), images.device)
    if own != images.device:
        raise BadInput(
            f"The model is on {own} and the images are on {images.device}: move one to the other."
        )
    with torch.inference_mode(False):
        images = images.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return images, labels.to(torch.int64), ids.to(images.device, torch.int64)


def _check_classes(name: str, classes: Tensor, images: Tensor) -> None:
    whole = not classes.is_floating_point() and classes.dtype != torch.bool
    if classes.shape != images.shape[:1] or not whole:
        raise BadInput(
            f"{name} must be {len(images)} integers, one an image; got {_what(classes)}."
        )
    if classes.device != images.device:
        raise BadInput(f"{name} must be on {images.device}, like the images; got {_what(classes)}.")
    if int(classes.min()) < 0:
        raise BadInput(f"{name} must not be negative; one is {int(classes.min())}.")


def _goal(labels: Tensor, targets: Tensor | None, images: Tensor, spec: AttackSpec) -> Goal:
    """Raises BadInput if the targets do not fit labels or spec."""
    top = int(labels.max())
    if targets is None:
        return Goal(labels, None, spec.targeted, top)
    if not spec.targeted:
        raise BadInput("targets were given to an attack that is not targeted: set targeted=True.")
    if not isinstance(targets, Tensor):
        raise BadInput(f"targets must be a torch tensor; got {type(targets).__name__}.")
    _check_classes("targets", targets, images)
    same = int((targets == labels).sum())
    if same:
        raise BadInput(
            f"{same} of {len(labels)} targets equal their label; a target is another class."
        )
    return Goal(labels, targets.to(torch.int64), True, max(top, int(targets.max())))


def _what(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
