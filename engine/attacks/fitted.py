"""Attacks with one perturbation for many images. It is fitted to training images first, and then
judged, as it is, on others, like any attack (`driver.perturb(..., fitted=...)`).

What is fitted is a `Design`; most climb the mean loss over batches of images (`ascend`). As ever,
images that the model gets wrong anyway are left out, and no trace is left on the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from engine.attacks.arguments import checked, checked_spec
from engine.attacks.geometry import ball
from engine.attacks.goal import Goal
from engine.attacks.losses import cross_entropy, margin
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.oracle import Counts, Oracle
from engine.attacks.spec import Fitted
from engine.errors import BadInput, Cancelled
from engine.events import drain
from engine.random import derive

if TYPE_CHECKING:
    from engine.attacks.result import AttackResult

Draw: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Places, int64 (B,), to images, float32 in [0, 1], (B, C, H, W), and labels, int64 (B,)."""

TOGETHER = 500
"""Images that are looked at between two yields."""

DECAY = 0.9
"""Share of the rolling sum of gradients that a step keeps."""


@dataclass(frozen=True, slots=True)
class Design:
    """What is fitted: its start, how it is put on images, how it moves, where it may be.

    start: (shape (C, H, W), device, seed) -> pattern, float32 (C, h, w). Raises BadInput if there
        is none for such images.
    put: (pattern, images (N, C, H, W), eps (N, 1, 1, 1), ids (N,), seed) -> the images with the
        pattern on, differentiable in it, not cut off at the box. Draws derive from (seed, id).
    move: (pattern, direction of ascent (C, h, w), share of the way that is left, above 0) ->
        pattern, one step on.
    search: climbs; yields at every step.
    epochs: passes over the images.
    covers: (images, eps, ids, seed) -> bool (N, 1, H, W), where the pattern lies. None is
        everywhere.
    signed: values of the pattern are changes, in -eps to eps, and not colours.
    """

    start: Callable[[tuple[int, ...], torch.device, int], Tensor]
    put: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
    move: Callable[[Tensor, Tensor, float], Tensor]
    search: Callable[[Fitting], Climb]
    covers: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None
    signed: bool = True


@dataclass(frozen=True, slots=True)
class FitSnapshot:
    """A fit between two steps, to be continued in another process; as `driver.Snapshot`."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FitStep:
    """Where a fit is: `done` of `total` images looked at, steps climbed, or images measured.

    pattern: (C, h, w), only valid until the next one. loss, fooled: of the step's images, the mean
    loss and the share that is broken, on the device; None where no step was climbed.
    """

    stage: Literal["look", "climb", "measure"]
    done: int
    total: int
    pattern: Tensor
    snapshot: Callable[[], FitSnapshot]
    loss: Tensor | None = None
    fooled: Tensor | None = None


Climb: TypeAlias = Generator[FitStep, None, None]


@dataclass(frozen=True, slots=True)
class Fit:
    """What was fitted.

    pattern: float32 (C, h, w), the one perturbation (of `Universal` in -eps to eps) or the patch,
        in [0, 1]. shape: (C, H, W) of the images.
    fooling_rate: share of the training images it was fitted to that it breaks; None if a cancel
        came before that was known.
    images: how many these were: right when clean and, targeted, not of the target class.
    steps: climbed; of DeepFool, images gone through. left: why it ended early, if it did.
    forward_evaluations, gradient_evaluations, nan_count, chunk: as of an `AttackResult`.
    """

    spec: Fitted
    pattern: Tensor
    shape: tuple[int, ...]
    fooling_rate: float | None
    images: int
    steps: int
    left: Literal["", "cancelled", "seconds"]
    forward_evaluations: int = 0
    gradient_evaluations: int = 0
    nan_count: int = 0
    chunk: int | None = None

    def figures(self) -> dict[str, Any]:
        """Everything but spec and pattern, as JSON values; for `made_of`."""
        names = [each.name for each in fields(self)]
        return {n: getattr(self, n) for n in names if n not in ("spec", "pattern")}

    @classmethod
    def made_of(cls, spec: Fitted, pattern: Tensor, figures: Mapping[str, Any]) -> Fit:
        """What `figures` was told of."""
        return cls(spec, pattern, **{**figures, "shape": tuple(figures["shape"])})

    def rounds(self, seed: int) -> tuple[Method[Any], ...]:
        """What the driver runs to judge it: one question about the images with it on."""
        design = self.spec.design()

        def start(of: Problem) -> Point:
            pattern = self.pattern.to(of.ball.centre.device)
            x = design.put(pattern, of.ball.centre, of.ball.eps, of.ids, seed)
            return Point(of.ball.project(x))

        def step(_: Problem, at: Point, __: Answer, ___: int) -> Point:
            return at

        return (Method(start, step, margin, 0, wants="logits", name=self.spec.kind),)

    def mask(
        self, images: Tensor, eps: Tensor, ids: Tensor, seed: int, mask: Tensor | None
    ) -> Tensor | None:
        """Where images may change: under the pattern, and inside of `mask`, bool (N, C, H, W)."""
        design = self.spec.design()
        if design.covers is None:
            return mask
        under = design.covers(images, eps.to(images).view(-1, 1, 1, 1), ids, seed)
        return under.expand_as(images) if mask is None else under & mask


# --- fitting --------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: Fitted,
    *,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Fit:
    """Fit `spec` to training images; `attack(model, test_images, test_labels, spec, fitted=...)`
    judges it.

    model, images, labels, generator: as of `attack`. mask: where the one perturbation may be other
    than zero, bool or 0/1, a shape that expands to (C, H, W).

    Raises BadInput if the arguments do not fit each other or the model.
    """
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    if isinstance(images, Tensor) and not len(images):
        raise BadInput(NO_IMAGES)
    ids = torch.arange(len(images) if isinstance(images, Tensor) else 0)
    images, labels, ids = checked(model, images, labels, ids)
    checked_spec(spec)
    if not isinstance(spec, Fitted):
        raise BadInput(
            f"{spec.kind} is not fitted beforehand: it makes a perturbation of its own for each "
            "image. Give it to attack(...)."
        )

    def draw(places: Tensor) -> tuple[Tensor, Tensor]:
        places = places.to(images.device)
        return images[places], labels[places]

    return drain(fitting(model, draw, ids, spec, seed=seed, device=images.device, mask=mask))


NO_IMAGES = "there are no training images to fit the perturbation to; take data that has some"


def fitting(
    model: nn.Module,
    draw: Draw,
    ids: Tensor,
    spec: Fitted,
    *,
    seed: int,
    device: torch.device,
    precision: Literal["float32", "bf16"] = "float32",
    mask: Tensor | None = None,
    resume: FitSnapshot | None = None,
) -> Generator[FitStep, None, Fit]:
    """`fit` as a generator, of the images that `draw` gives at 0 to len(ids) - 1.

    Nothing of process or thread is held across a yield. `Cancelled`, thrown in at one, makes it
    return the pattern as it is. ids: int64 (N,); what is drawn for an image depends on seed, step
    and its id. resume: goes on where the snapshot was made; the rest must be what it was then.

    Raises BadInput at the first step if the arguments do not fit each other or the model.
    """
    run = Fitting(model, draw, ids, spec, seed, device, precision == "bf16", mask)
    try:
        if resume is None:
            yield from run.look()
        else:
            run.restore(resume)
        if len(run.places) and spec.eps:
            yield from run.design.search(run)
        if run.fooling_rate is None:
            yield from run.measure()
    except Cancelled:
        run.left = "cancelled"
    return run.result()


@dataclass(slots=True)
class Fitting:
    """A fit under way. Between two yields everything it depends on is in `pattern`, `rolling` and
    `done`."""

    model: nn.Module
    draw: Draw
    ids: Tensor
    spec: Fitted
    seed: int
    device: torch.device
    bf16: bool
    wanted: Tensor | None
    """The mask as it was given."""
    design: Design = field(init=False)
    oracle: Oracle = field(init=False)
    places: Tensor = field(init=False)
    """Of the images that are attacked, int64 (M,), on the CPU."""
    pattern: Tensor = field(init=False)
    rolling: Tensor = field(init=False)
    mask: Tensor | None = None
    """bool (C, h, w)."""
    shape: tuple[int, ...] = ()
    """Of an image."""
    done: int = 0
    """Steps that were climbed, or images that were gone through."""
    total: int = 0
    spent: float = 0.0
    """Seconds of earlier processes, in which it began."""
    left: Literal["", "cancelled", "seconds"] = ""
    fooling_rate: float | None = None
    """Of the pattern as it is; None if nobody has counted."""
    since: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise BadInput(NO_IMAGES)
        self.design = self.spec.design()
        if self.wanted is not None and self.design.covers is not None:
            raise BadInput(
                f"mask: a {self.spec.kind} is fitted whole; give the mask where it is judged"
            )
        seed = derive(self.seed, "fit")
        through = self.spec.through_transforms
        self.oracle = Oracle(
            self.model, seed=seed, device=self.device, bf16=self.bf16, through=through
        )
        self.places = torch.zeros(0, dtype=torch.int64)
        self.pattern = self.rolling = torch.zeros(0, device=self.device)

    # --- the stages -------------------------------------------------------------------------------

    def look(self) -> Climb:
        """Find out who is to be attacked: whom the model gets right."""
        kept: list[Tensor] = []
        others = total = 0
        for part in torch.arange(len(self.ids)).split(TOGETHER):
            images, labels = self.draw(part)
            if not total:
                self._begin(tuple(images.shape[1:]))
            logits = self.oracle.look(images)
            goal = self.goal(labels)
            goal.classes(logits.shape[1])
            keep = goal.correct(logits)
            if goal.targeted:
                aside = labels == self.spec.target
                others += int((~aside).sum())
                keep &= ~aside
            kept.append(part[keep.cpu()])
            total += len(part)
            self.places = torch.cat(kept)
            yield self.now("look", len(self.ids), total)
        if self.spec.targeted and not others:
            raise BadInput(
                f"all of the {total} training images are of class {self.spec.target}, which is the "
                "target: choose another target class, or more training images"
            )

    def _begin(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        with torch.inference_mode(False):
            self.pattern = self.design.start(shape, self.device, derive(self.seed, "fit", "start"))
            self.rolling = torch.zeros_like(self.pattern)
            if self.wanted is not None:
                self.mask = _mask(self.wanted, self.pattern)

    def measure(self) -> Climb:
        """How many of the training images the pattern breaks."""
        hits, done, count = 0, 0, len(self.places)
        for part in self.places.split(TOGETHER) if count else ():
            images, labels = self.draw(part)
            reached = self.reached(self.oracle.look(self.on(images, part, "measure")), labels)
            hits, done = hits + int(reached.sum()), done + len(part)
            if done < count:
                yield self.now("measure", count, done)
        self.fooling_rate = hits / count if count else 0.0

    def result(self) -> Fit:
        counts = self.oracle.counts
        return Fit(
            self.spec,
            self.pattern.detach().clone(),
            self.shape,
            self.fooling_rate,
            len(self.places),
            self.done,
            self.left,
            counts.forward,
            counts.gradient,
            int(counts.nan),
            self.oracle.chunk,
        )

    # --- what searches build on -------------------------------------------------------------------

    def now(
        self,
        stage: Literal["look", "climb", "measure"],
        total: int,
        done: int | None = None,
        *,
        loss: Tensor | None = None,
        fooled: Tensor | None = None,
    ) -> FitStep:
        """What is yielded."""
        count = self.done if done is None else done
        return FitStep(stage, count, total, self.pattern, self.snapshot, loss, fooled)

    def late(self) -> bool:
        """Whether the spec's seconds are spent; it then ends with what it has."""
        most = self.spec.max_seconds
        if most is not None and self.spent + time.perf_counter() - self.since >= most:
            self.left = "seconds"
        return bool(self.left)

    def change(self, pattern: Tensor) -> None:
        """It is `pattern` from now on."""
        self.pattern, self.fooling_rate = pattern, None

    def paid(self, found: AttackResult) -> None:
        """Count what an attack on some of the images cost."""
        counts = self.oracle.counts
        counts.forward += found.forward_evaluations
        counts.gradient += found.gradient_evaluations
        counts.nan = counts.nan + found.nan_count

    def goal(self, labels: Tensor) -> Goal:
        """What is wanted of images with these labels."""
        top = max(int(labels.max()), self.spec.target if self.spec.targeted else 0)
        targets = torch.full_like(labels, self.spec.target) if self.spec.targeted else None
        return Goal(labels, targets, self.spec.targeted, top)

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Which of the images are broken, bool (B,)."""
        return self.goal(labels).reached(logits)

    @torch.inference_mode(False)
    @torch.no_grad()
    def on(self, images: Tensor, places: Tensor, purpose: str | int) -> Tensor:
        """The images with the pattern on, inside the box."""
        return self._put(self.pattern, images, places, purpose).clamp(0, 1)

    def _put(self, pattern: Tensor, images: Tensor, places: Tensor, purpose: str | int) -> Tensor:
        eps = images.new_full((len(images), 1, 1, 1), self.spec.eps or 0.0)
        ids = self.ids[places].to(images.device)
        return self.design.put(pattern, images, eps, ids, derive(self.seed, "fit", purpose))

    @torch.inference_mode(False)
    def slope(
        self, images: Tensor, labels: Tensor, places: Tensor, clip: float, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the mean of min(loss, `clip`) over the images in the pattern, (C, h, w); the
        losses, (B,), and the logits, (B, K). A pixel that the box cuts off has no say. A targeted
        loss ends where the target is as likely as other classes are at `clip` if it is not."""

        def clipped(at: Any, logits: Tensor, goal: Goal) -> Tensor:
            loss = cross_entropy(at, logits, goal)
            return loss.clamp_max(math.log1p(-math.exp(-clip)) if goal.targeted else clip)

        if labels.is_inference():  # autograd keeps none that were made in inference mode
            labels = labels.clone()
        with torch.enable_grad():
            pattern = self.pattern.detach().clone().requires_grad_()
            put = self._put(pattern, images, places, number)
        with torch.no_grad():
            x = put.detach().clamp(0, 1)
            goal = self.goal(labels)
            radius = torch.zeros(len(x), dtype=torch.float64)
            of = Problem(
                ball("free", x, radius), goal, self.ids[places].to(x.device), x[:, 0, 0], self.seed
            )
            climbing = Method(lambda _: Point(x), lambda _, at, __, ___: at, clipped, 1)
            answer = self.oracle.ask(climbing, of, Point(x), number, "gradient")
            up = answer.gradient
            stuck = ((put >= 1) & (up > 0)) | ((put <= 0) & (up < 0))
            up = up.masked_fill(stuck, 0)
        (slope,) = torch.autograd.grad(put, pattern, up)
        if self.mask is not None:
            slope = slope * self.mask
        return slope / len(x), answer.loss, answer.logits

    # --- going on ---------------------------------------------------------------------------------

    def snapshot(self) -> FitSnapshot:
        counts, random = self.oracle.counts, self.oracle.random
        tensors = {
            "pattern": self.pattern,
            "rolling": self.rolling,
            "places": self.places,
            "nan": counts.nan,
        }
        if self.mask is not None:
            tensors["mask"] = self.mask
        tensors |= {f"random.{i}": part for i, part in enumerate(random)}
        values = {
            "shape": list(self.shape),
            "done": self.done,
            "total": self.total,
            "spent": self.spent + time.perf_counter() - self.since,
            "forward": counts.forward,
            "gradient": counts.gradient,
            "chunk": self.oracle.chunk,
        }
        return FitSnapshot({k: v.detach().cpu().clone() for k, v in tensors.items()}, values)

    def restore(self, saved: FitSnapshot) -> None:
        """Be where the snapshot was made."""
        tensors, values = saved.tensors, saved.values
        self.pattern = tensors["pattern"].to(self.device, copy=True)
        self.rolling = tensors["rolling"].to(self.device, copy=True)
        self.places = tensors["places"].clone()
        if "mask" in tensors:
            self.mask = tensors["mask"].to(self.device, copy=True)
        self.done, self.oracle.chunk = values["done"], values["chunk"]
        self.spent, self.total = values["spent"], values["total"]
        self.shape = tuple(values["shape"])
        none = torch.zeros((), dtype=torch.int64, device=self.device)
        nan = tensors["nan"].to(self.device)
        self.oracle.counts = Counts(values["forward"], values["gradient"], none, nan)
        generators = sum(name.startswith("random.") for name in tensors)
        self.oracle.random = [tensors[f"random.{i}"] for i in range(generators)]


def ascend(run: Fitting, clip: float) -> Climb:
    """Steps along a rolling sum of the gradients of batches, each shorter than the last."""
    spec = run.spec
    each = -(-len(run.places) // spec.fit_batch)
    run.total = total = each * spec.epochs
    while run.done < total and not run.late():
        epoch, batch = divmod(run.done, each)
        order = shuffled(run, epoch)
        places = order.tensor_split(each)[batch]  # all as large: no step is left to a few images
        images, labels = run.draw(places)
        slope, loss, logits = run.slope(images, labels, places, clip, run.done)
        with torch.inference_mode(False), torch.no_grad():
            slope /= slope.abs().mean().clamp_min(torch.finfo(slope.dtype).tiny)
            run.rolling = DECAY * run.rolling + slope
            run.change(run.design.move(run.pattern, run.rolling, 1 - run.done / total))
            fooled = run.reached(logits, labels).float().mean()
        run.done += 1
        yield run.now("climb", total, loss=loss.mean(), fooled=fooled)


def shuffled(run: Fitting, epoch: int) -> Tensor:
    """The places of the images that are attacked, in the order of an epoch."""
    generator = torch.Generator().manual_seed(derive(run.seed, "fit", "order", epoch))
    return run.places[torch.randperm(len(run.places), generator=generator)]


def _mask(mask: Tensor, pattern: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or not bool(((mask == 0) | (mask == 1)).all()):
        raise BadInput("mask must be a tensor of bools, or of zeros and ones: 1 may be changed.")
    try:
        return mask.to(pattern.device, torch.bool).expand_as(pattern).clone()
    except RuntimeError:
        raise BadInput(
            f"mask must expand to the shape of one image, {tuple(pattern.shape)}; got "
            f"{tuple(mask.shape)}. One perturbation for all images has one mask for all."
        ) from None
