"""A fit inside of a task: what is said of it while it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks.fitted import Fit, FitSnapshot, FitStep, fitting
from engine.attacks.showing import drawn_at, pictures, thumbnails
from engine.attacks.spec import Fitted
from engine.data import Split
from engine.errors import Cancelled
from engine.events import Event, Images, Note, Progress, Saved, Scalars
from engine.files import atomic, sha256_of

if TYPE_CHECKING:
    from engine.bench import Bench

PATTERN = "pattern"
"""What the pictures of the one perturbation are called, and it in its file."""

PAUSE = 0.1
"""Seconds between two pictures of it, at least."""

STAGES = {"look": "training images", "climb": "steps of fitting", "measure": "training images"}


def prepared(
    spec: Fitted,
    model: nn.Module,
    train: Split,
    bench: Bench,
    *,
    key: tuple[str | int, ...] = ("attack",),
    first: int = 0,
    resume: FitSnapshot | None = None,
    keep: Callable[[FitStep, int], None] | None = None,
) -> Generator[Event, None, tuple[Fit, int]]:
    """Fit `spec` to the first images of a seeded permutation of `train`; the fit, and the number of
    the next step.

    Scalars are counted from `first` on. keep: is given every step before anything is said of it,
    and the number that it will be said with. A cancel makes it return what it has.
    """
    order = torch.randperm(len(train), generator=bench.generator("fit"))
    order = order[: spec.train_samples or None]
    steps = fitting(
        model,
        lambda places: train.batch(order[places]),
        train.ids[order],
        spec,
        seed=bench.derive(*key),
        device=bench.device,
        precision=bench.spec.precision,
        resume=resume,
    )
    number, shown = first, 0.0
    while True:
        try:
            now = next(steps)
        except StopIteration as end:
            fit: Fit = end.value
            break
        if keep is not None:
            keep(now, number)
        try:
            if now.loss is not None or now.fooled is not None:
                values = {"train/success_rate": now.fooled, "train/loss": now.loss}
                said = {name: v.item() for name, v in values.items() if v is not None}
                yield Scalars(number, said)
                number += 1
            if time.perf_counter() - shown > PAUSE:
                shown = time.perf_counter()
                yield picture(spec, now.pattern, number, keep=False)
                yield Progress(now.done, now.total, STAGES[now.stage])
        except Cancelled:
            fit = stopped(steps)
            break
    if fit.chunk is not None:
        yield Note("warning", f"out of memory: going on with {fit.chunk} images at a time")
    return fit, number


def stopped(steps: Generator[FitStep, None, Fit]) -> Fit:
    """What a fit has when it is cancelled at its current yield."""
    try:
        steps.throw(Cancelled())
    except StopIteration as end:
        fit: Fit = end.value
        return fit
    raise RuntimeError("a cancelled fit went on")


def picture(spec: Fitted, pattern: Tensor, step: int, *, keep: bool) -> Images:
    """The one perturbation, (C, h, w), as it is."""
    one = pattern[None].detach()
    signed = spec.design().signed
    scale = drawn_at(spec, thumbnails(one)) if signed else None
    shown = pictures(PATTERN, one, (), step, scale)
    return Images(PATTERN, shown.pixels, (), step, scale=scale, keep=keep)


def save(fit: Fit, bench: Bench) -> Saved:
    """Write the one perturbation to the run's folder."""
    name = f"{fit.spec.kind}.safetensors"
    # One entry: the format does not keep several in order, and the file's hash would change.
    about = json.dumps({"attack": fit.spec.to_dict(), "shape": fit.shape}, sort_keys=True)
    content = safetensors.torch.save({PATTERN: fit.pattern.cpu().contiguous()}, {"about": about})
    path = bench.folder / name
    with atomic(path) as file:
        file.write(content)
    return Saved(fit.spec.kind, name, len(content), sha256_of(path))
