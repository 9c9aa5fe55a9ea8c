"""The evaluation task: how a model stands under fire, and whether that can be believed.

It asks in this order: is the model honest (checks that need no attack); does it withstand the
attacks, one after the other; at which radius does it break; do other attacks say the same; what
becomes of it when nobody attacks. What was required of it is judged at the end, and said first.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from engine.attacks import preparing
from engine.attacks.driver import cautions
from engine.attacks.fitted import Fit
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.running import TARGETED, Chosen, choose
from engine.attacks.spec import AttackSpec, Fitted, FixedBudget, MinimalNorm, Norm
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Event, Note, Progress, Table, sieved
from engine.models import load_model
from engine.models.transforms import hidden_by
from engine.robustness import certified, lies, reporting, sensitivity
from engine.robustness.certified import Certified, Prover
from engine.robustness.curve import Curve, grid, trace
from engine.robustness.flags import Flag
from engine.robustness.searching import Cost, Found, Subject, search
from engine.robustness.sensitivity import Shift, Sibling
from engine.robustness.spec import Certificate, Evaluate
from engine.robustness.staging import Stage
from engine.robustness.witness import Witness
from engine.task import Steps

if TYPE_CHECKING:
    from engine.bench import Bench

T = TypeVar("T")

STOPPED = "The evaluation was stopped: its checks are incomplete."
THROUGH = "-through"
"""At the end of an attack's name: run once more, straight through what hides gradients."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """One attack of the evaluation: what it is called there, the radius that it is judged at, whom
    it attacked, int64 (M,), what it found, and who is still correct after it and all before it."""

    name: str
    spec: AttackSpec
    radius: float
    rows: Tensor
    found: Found
    left: int

    @property
    def broken(self) -> Tensor:
        """Whom it broke within its radius, bool (N,)."""
        return self.found.within(self.radius)

    @property
    def largest(self) -> float:
        """The largest perturbation among those that count, as it was measured."""
        return float(self.found.norm[self.broken].max()) if bool(self.broken.any()) else 0.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What was found in a ball of the attacks, but not by one of them. alone: whom it broke within
    their radius, and nothing before it, bool (N,)."""

    by: Literal["curve", "checks"]
    norm: Norm
    found: Found
    alone: Tensor


@dataclass(slots=True)
class Report:
    """What is known so far. `worst` is the pointwise worst case over the attacks, each within its
    own radius, and over what curve and checks found within the largest of them in their norm."""

    on: Subject
    worst: Found
    attacks: list[Attacked] = field(default_factory=list)
    smallest: dict[Norm, Tensor] = field(default_factory=dict)
    """Of each norm: sizes of the smallest perturbations found, (N,), infinite where none was."""
    curve: Curve | None = None
    curve_norm: Norm = "linf"
    beside: list[Beside] = field(default_factory=list)
    """What was found while the curve was drawn, and by the checks in every norm of theirs."""
    flags: list[Flag] = field(default_factory=list)
    corruptions: list[Shift] = field(default_factory=list)
    noise: list[Shift] = field(default_factory=list)
    weights: list[Shift] = field(default_factory=list)
    siblings: list[Sibling] = field(default_factory=list)
    certified: Certified | None = None
    unsaid: list[str] = field(default_factory=list)
    """What the checks could not look at, a sentence each."""
    changed: bool = False
    partial: bool = False

    @property
    def robust(self) -> Tensor:
        """Correct, and not broken by anything, bool (N,)."""
        return self.on.correct & ~self.worst.success


def run_evaluate(spec: Evaluate, bench: Bench) -> Steps:
    """Run `spec`; see `Evaluate`. Raises BadInput if model, data and attacks do not fit together.

    A cancel keeps what was found: `robust_accuracy` is then an upper bound, and nothing that was
    required is judged. Raises CrucibleError at the end, when everything is written down, if an
    attack contradicts a certificate.
    """
    notes: list[Note] = []
    ready = tuple(attack.ready(bench) for attack in spec.attacks)
    spec = spec.model_copy(update={"attacks": ready})
    radii = spec.radii()
    chosen = yield from _holding(choose(spec.model, spec.data, spec.samples, bench), notes)
    classes, shape = len(chosen.data.classes), chosen.data.shape
    notes += [
        Note("warning", text)
        for attack in spec.attacks
        for text in cautions(attack, classes, shape)
    ]
    aimed = dict.fromkeys(attack.kind for attack in spec.attacks if attack.targeted)
    notes += [Note("info", TARGETED.format(kind)) for kind in aimed]
    yield Table("classes", ("index", "name"), tuple(enumerate(chosen.data.classes)))
    on = yield from subject_of(chosen, bench, spec.batch_size)
    certificate = spec.certificate()
    prover = None if certificate is None else certificate.prover(on)
    report = Report(on, Found.nothing(on, keep=True), changed=chosen.changed)
    stage = Stage(on, spec.show)
    try:
        yield from _evaluate(spec, radii, report, stage)
        if certificate is not None and prover is not None:
            yield from _certify(certificate, prover, report)
    except Cancelled:
        report.partial = True
    unmet = [] if report.partial else reporting.judge(spec, report)
    yield from _to_the_end(reporting.tell(spec, report, unmet, notes))
    yield from _to_the_end(stage.worst(report.worst))
    if report.certified is not None and report.certified.contradictions:
        raise CrucibleError(certified.failure(on, report.certified))
    return reporting.summary(spec, report, unmet)


def _to_the_end(steps: Iterator[Event]) -> Iterator[Event]:
    """`steps`, whatever is asked: nothing is left but to write down what was found."""
    for event in steps:
        with contextlib.suppress(Cancelled):
            yield event


def _evaluate(
    spec: Evaluate, radii: tuple[float, ...], report: Report, stage: Stage
) -> Generator[Event, None, None]:
    on = report.on
    own = _checked_balls(spec, radii)
    balls: dict[Norm, float] = own or {"linf": lies.NEAR}
    where, size = next(iter(balls.items()))
    fresh = _fresh(spec.model, on.bench)
    report.unsaid.append(STOPPED)  # until they are through
    report.flags += yield from lies.look_at(on, where, size, report.unsaid)
    for number, (attack, radius) in enumerate(zip(spec.attacks, radii, strict=True)):
        yield from _attack(spec, number, attack, radius, report, stage)
        yield reporting.attack_table(report)
    if spec.through_transforms and hidden_by(on.model):
        yield from _attack_through(spec, radii, report, stage)
    norm, eps = _main_ball(spec, radii)
    report.curve_norm = norm
    if spec.curve and eps > 0 and norm != "free":
        yield from _draw_curve(spec, norm, eps, report, stage)
    robust = report.robust  # by what the checks find, they are not told whether they could
    if spec.checked:
        for norm, eps in balls.items():
            yield from _compare(spec, norm, eps, bool(own), report, stage)
    if (text := lies.too_few(on, robust, spec.checked)) is not None:
        report.unsaid.append(text)
    if not own:
        others = ", ".join(sorted({a.norm for a in spec.attacks if a.eps != 0}))
        report.unsaid.append(
            f"The checks know no attack in {others}: they looked at a ball of {where} of "
            f"{size:.3g}."
        )
    report.flags += lies.look_back(on, report.worst, report.flags, fresh)
    report.unsaid.remove(STOPPED)
    if spec.corruptions:
        report.corruptions = yield from sensitivity.corruptions(on)
    if spec.noise:
        report.noise = yield from sensitivity.input_noise(on)
        report.weights = yield from sensitivity.weight_noise(on)
    for ref in spec.also:
        yield from _compare_with(ref, report)


def _fresh(ref: str, bench: Bench) -> Callable[[], nn.Module]:
    """Makes the model once more, that was asked nothing before: the same one, also if `ref` is a
    name that means another run by then."""
    path = str(bench.find_model(ref))

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # what is drawn to build it is nobody else's
            return load_model(path, bench).module

    return make


# --- the subject ----------------------------------------------------------------------------------


def subject_of(chosen: Chosen, bench: Bench, batch_size: int) -> Generator[Event, None, Subject]:
    test, order = chosen.data.test, chosen.order
    oracle = Oracle(chosen.module, seed=bench.derive("clean"), device=bench.device, bf16=False)
    logits: list[Tensor] = []
    for part in order.split(batch_size):
        logits.append(oracle.look(test.batch(part)[0]))
        yield Progress(sum(map(len, logits)), len(order), "clean images")
    clean = torch.cat(logits)
    labels = test.labels.cpu()[order]
    predictions = predicted(clean).cpu()
    counts = oracle.counts
    seed = bench.derive("witness")
    return Subject(
        model=chosen.module,
        train=chosen.data.train,
        test=test,
        order=order,
        labels=labels,
        clean=clean,
        predictions=predictions,
        correct=predictions == labels,
        classes=chosen.data.classes,
        bench=bench,
        batch_size=batch_size,
        cost=Cost(forward=counts.forward, nan=int(counts.nan)),
        chunk=oracle.chunk,
        witness=Witness(chosen.module, seed),
    )


def _holding(steps: Generator[Event, None, T], notes: list[Note]) -> Generator[Event, None, T]:
    """`steps`, with its notes kept for after the verdict."""

    def passes(event: Event) -> bool:
        if isinstance(event, Note):
            notes.append(event)
        return not isinstance(event, Note)

    return sieved(steps, passes)


# --- the attacks ----------------------------------------------------------------------------------


def _main_ball(spec: Evaluate, radii: tuple[float, ...]) -> tuple[Norm, float]:
    """The norm of the first attack of a fixed budget (else of the first), and the largest radius in
    it."""
    first = next((a for a in spec.attacks if isinstance(a, FixedBudget)), spec.attacks[0])
    eps = max(r for a, r in zip(spec.attacks, radii, strict=True) if a.norm == first.norm)
    return first.norm, (0.0 if math.isinf(eps) else eps)


def _checked_balls(spec: Evaluate, radii: tuple[float, ...]) -> dict[Norm, float]:
    """Norms of the attacks in which the checks can attack, too, and the largest radius in each; the
    main one first. Robust accuracy counts what is found in any of them, so a weak attack in one
    must not hide behind a strong one in another.

    Noise and negative controls count like any other: a radius that only they have reached is one
    at which the model was not attacked, and the checks must say so."""
    pairs = list(zip(spec.attacks, radii, strict=True))
    pairs.sort(key=lambda pair: not isinstance(pair[0], FixedBudget))
    balls: dict[Norm, float] = {}
    for attack, radius in pairs:
        if attack.norm in lies.COMPARED and 0 < radius < math.inf:
            balls[attack.norm] = max(balls.get(attack.norm, 0.0), radius)
    return balls


def _attack_through(
    spec: Evaluate, radii: tuple[float, ...], report: Report, stage: Stage
) -> Generator[Event, None, None]:
    """Once more with every attack by gradients, straight through what hides these."""
    for number, (attack, radius) in enumerate(zip(spec.attacks, radii, strict=True)):
        if attack.climbs() and not attack.through_transforms:
            straight = attack.model_copy(update={"through_transforms": True})
            yield from _attack(spec, number, straight, radius, report, stage)
            yield reporting.attack_table(report)


def _attack(
    spec: Evaluate,
    number: int,
    attack: AttackSpec,
    radius: float,
    report: Report,
    stage: Stage,
) -> Generator[Event, None, None]:
    """Attack who is left; everybody that is correct if the attack says how small a perturbation can
    be, which is worth knowing of all of them."""
    on = report.on
    whole = spec.every or (isinstance(attack, MinimalNorm) and attack.eps is None)
    rows = (on.correct if whole else report.robust).nonzero().squeeze(1)
    if isinstance(attack, Fitted) and attack.targeted:  # it cannot attack the target class itself
        rows = rows[on.labels[rows] != attack.target]
    before = [other.kind for other in spec.attacks[:number]].count(attack.kind)
    name = f"{attack.kind}-{before + 1}" if before else attack.kind
    key = ("attack", before + 1) if before else ("attack",)
    if attack is not spec.attacks[number]:
        name = f"{name}{THROUGH}"
    found = Found.nothing(on, keep=True)
    try:
        yield from stage.begin(name, attack, rows, int(report.robust.sum()))
        seed = on.bench.derive(*key)
        fit = None
        if isinstance(attack, Fitted):
            fit = yield from _fitted(attack, on, found, key)
        yield from search(
            on, attack, rows, found, seed=seed, what=f"by {name}", stage=stage, fitted=fit
        )
    finally:
        _add(report, found, attack.norm, radius)
        left = int(report.robust.sum())
        report.attacks.append(Attacked(name, attack, radius, rows, found, left))
        pictures = tuple(stage.end(report.worst))
    yield from pictures


def _fitted(
    attack: Fitted, on: Subject, found: Found, key: tuple[str | int, ...]
) -> Generator[Event, None, Fit]:
    """Fit to training images what the attack puts on all that are judged."""
    steps = preparing.prepared(attack, on.model, on.train, on.bench, key=key)
    begun = time.perf_counter()
    fit, _ = yield from sieved(steps, lambda event: isinstance(event, Progress | Note))
    cost = Cost(
        fit.forward_evaluations,
        fit.gradient_evaluations,
        fit.nan_count,
        seconds=time.perf_counter() - begun,
    )
    found.cost.add(cost)
    on.cost.add(cost)
    if fit.left == "cancelled":
        raise Cancelled
    return fit


def _add(report: Report, found: Found, norm: Norm, radius: float) -> None:
    _fold(report.worst, found, radius)
    report.worst.attacked |= found.attacked
    report.worst.queries += found.queries
    nothing = torch.full_like(found.norm, float("inf"))
    report.smallest[norm] = torch.minimum(report.smallest.get(norm, nothing), found.norm)


def _fold(worst: Found, found: Found, radius: float) -> Tensor:
    """Add to `worst` whom `found` has within `radius`, and nothing before; whom, bool (N,)."""
    assert worst.adversarial is not None
    assert found.adversarial is not None
    new = found.within(radius) & ~worst.success
    worst.success |= new
    worst.norm[new] = found.norm[new]
    worst.predictions[new] = found.predictions[new]
    worst.adversarial[new] = found.adversarial[new]
    return new


def _within(report: Report, norm: Norm) -> Found:
    """What the attacks of `norm` found, on all samples."""
    smallest = report.smallest[norm]
    found = Found.nothing(report.on)
    found.norm, found.success = smallest, smallest.isfinite()
    return found


# --- the rest -------------------------------------------------------------------------------------


def _draw_curve(
    spec: Evaluate, norm: Norm, eps: float, report: Report, stage: Stage
) -> Generator[Event, None, None]:
    on, radii = report.on, grid(eps, spec.curve, norm)
    known, through = report.smallest[norm], spec.through_transforms
    found = Found.nothing(on, keep=True)
    try:
        report.curve = yield from trace(on, radii, norm, known, found=found, through=through)
    finally:
        pictures = _count(report, "curve", norm, eps, found, stage)
    yield from pictures
    yield reporting.curve_table(report)


def _compare(
    spec: Evaluate, norm: Norm, eps: float, same: bool, report: Report, stage: Stage
) -> Generator[Event, None, None]:
    """The checks that attack, in a ball that is `same` as that of attacks, or one of their own. A
    flag that another ball has raised is not raised again."""
    on = report.on
    known = _within(report, norm) if same else None
    found = Found.nothing(on, keep=True) if same else None
    pictures: tuple[Event, ...] = ()
    try:
        flags = yield from lies.compare(
            on, norm, eps, known, spec.checked, spec.queries, found=found
        )
        raised = {flag.name for flag in report.flags}
        report.flags += [flag for flag in flags if flag.name not in raised]
    finally:
        if found is not None:
            pictures = _count(report, "checks", norm, eps, found, stage)
            if report.curve is not None and norm == report.curve_norm:
                report.curve = report.curve.lowered(found.norm)
    yield from pictures


def _count(
    report: Report,
    name: Literal["curve", "checks"],
    norm: Norm,
    eps: float,
    found: Found,
    stage: Stage,
) -> tuple[Event, ...]:
    """Count what `found` has in the ball of the attacks: it is verified like all that these found.
    The pictures of it."""
    report.beside.append(Beside(name, norm, found, _fold(report.worst, found, eps)))
    return tuple(stage.further(name, norm, report.worst))


def _compare_with(ref: str, report: Report) -> Generator[Event, None, None]:
    on = report.on
    other = load_model(ref, on.bench)
    if tuple(other.card.shape) != tuple(on.test.shape) or len(other.card.classes) != len(
        on.classes
    ):
        raise BadInput(
            f"{ref!r} takes other images, or knows other classes, than the model that is judged: "
            "`also` is for runs of the same recipe"
        )
    assert report.worst.adversarial is not None
    found = yield from sensitivity.sibling(
        on, ref, other.module, report.worst.adversarial, report.worst.success
    )
    report.siblings.append(found)


def _certify(
    certificate: Certificate, prover: Prover, report: Report
) -> Generator[Event, None, None]:
    """Last, since it takes longest: whoever has waited enough stops it, and has all the rest."""
    on = report.on
    report.certified = Certified.nothing(certificate, on)
    yield reporting.certificate_table(report)
    yield from certified.certify(on, prover, report.certified)
    others: list[tuple[str, Found]] = [(each.name, each.found) for each in report.attacks]
    others += [(each.by, each.found) for each in report.beside]
    yield from certified.confront(on, prover, report.certified, others)
