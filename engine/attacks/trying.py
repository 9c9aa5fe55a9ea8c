"""One image under fire, for a person who plays with it: what a fixed budget makes of it, and the
smallest one that is found to be enough.

Both are generators that yield between two questions to the model, so that whoever pulls them may
do something else in between, or give them up. They hold nothing of process or thread meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.attacks.driver import AttackResult, perturb
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.spec import PGD, FixedBudget
from engine.errors import BadInput
from engine.task import kinds, parse

if TYPE_CHECKING:
    from engine.bench import Bench

PACE = 2.5
"""Length of all steps of PGD together, in radii, unless it is given (Madry et al. 2018, their code
for l2)."""

HALVINGS = 8
"""Of the search for the smallest radius."""

CLOSE = 0.02
"""Share of the radius to which that search narrows it down at most."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What an attack made of one image.

    label: the class that was to be left, `said`, the one that the model gives the clean image,
    unless another was given. adversarial: float32 (1, C, H, W), the last point that was tried if
    nothing was found, the clean image if it was not attacked. clean, after: class probabilities,
    (K,), of the image and of `adversarial`. norm: size of the change in the attack's norm.
    success: the model's answer is wrong (targeted: the target), confirmed. attacked: False where
    there was nothing to do, the radius being 0 or the model wrong from the start.
    """

    label: int
    said: int
    adversarial: Tensor
    clean: Tensor
    after: Tensor
    norm: float
    success: bool
    attacked: bool


Trial = Generator[None, None, Tried]


def budget(values: Any, eps: float) -> FixedBudget:
    """The attack that `values` describe, at the radius `eps`. PGD without a step size of its own
    takes one that goes with the radius. Raises BadInput if it is none of a fixed budget."""
    family: type[Any] = FixedBudget
    known = kinds(family)
    kind = values.get("kind", "pgd") if isinstance(values, dict) else None
    if kind not in known:
        raise BadInput(
            f"{kind!r} is no attack of a fixed budget; expected one of: {', '.join(known)}"
        )
    whole = {**values, "kind": kind, "eps": eps}
    if known[kind] is PGD and "step_size" not in whole and eps > 0:
        whole["step_size"] = PACE * eps / int(whole.get("steps", 40))
    spec: FixedBudget = parse(known[kind], whole)
    return spec


def attempt(
    model: nn.Module,
    image: Tensor,
    values: Any,
    eps: float,
    label: int | None = None,
    target: int | None = None,
    bench: Bench | None = None,
) -> Trial:
    """Attack `image`, float32 (1, C, H, W), with what `values` describe (see `budget`).

    label: the class that counts as right; what the model says of the image, unless given. target:
    the class to reach, instead of any wrong one. bench: where runs are found that the attack names.
    Equal arguments give equal answers. Raises BadInput.
    """
    oracle = Oracle(model, seed=0, device=image.device, bf16=False)
    logits = oracle.look(image)
    yield
    classes = logits.shape[1]
    for name, given in (("label", label), ("target", target)):
        if given is not None and not 0 <= given < classes:
            raise BadInput(f"there is no class {given}; the {name} must be 0 to {classes - 1}")
    said = int(predicted(logits)[0])
    if said < 0:
        raise BadInput("the model's answer to this image holds a NaN or Inf")
    right = said if label is None else label
    spec = budget({**values, "targeted": target is not None}, eps)
    spec = spec if bench is None else spec.ready(bench)
    if target == right:
        raise BadInput("the target is the class that the image has; choose another one")
    result: AttackResult | None = None
    if eps > 0 and said == right:
        search = perturb(
            model,
            image,
            torch.tensor([right], device=image.device),
            spec,
            seed=0,
            ids=torch.zeros(1, dtype=torch.int64),
            targets=None if target is None else torch.tensor([target], device=image.device),
            clean_logits=logits,
        )
        while result is None:
            try:
                next(search)
            except StopIteration as end:
                result = end.value
            else:
                yield
    after = logits if result is None else oracle.look(result.adversarial)
    return Tried(
        label=right,
        said=said,
        adversarial=image if result is None else result.adversarial,
        clean=logits.softmax(1)[0],
        after=after.softmax(1)[0],
        norm=0.0 if result is None else float(result.norm[0]),
        success=said != right if result is None else bool(result.success[0]),
        attacked=result is not None,
    )


def smallest(
    model: nn.Module,
    image: Tensor,
    values: Any,
    most: float,
    label: int | None = None,
    target: int | None = None,
    bench: Bench | None = None,
) -> Generator[None, None, float | None]:
    """The smallest radius up to `most` at which `attempt` was seen to succeed, by bisection; None
    if there was none. An upper bound: the attack may miss what is nearer."""
    tried = yield from attempt(model, image, values, most, label, target, bench)
    if not tried.success:
        return None
    if not tried.attacked:
        return 0.0
    low, high = 0.0, most
    for _ in range(HALVINGS):
        if high - low <= CLOSE * high:
            break
        middle = (low + high) / 2
        tried = yield from attempt(model, image, values, middle, label, target, bench)
        if tried.success:
            high = middle
        else:
            low = middle
    return high
