"""What certificates have in common: which samples are proved, what that comes to over the radius,
and whether an attack contradicts it.

A certificate says of a sample how far nobody can move it without the classifier's answer staying
what it is. Each kind (`engine.robustness.spec.Certificate`) brings a `Prover`. Beside it the same
classifier is attacked: what is found farther out shows how much the proof leaves open, and what is
found nearer than it allows shows that it is wrong, which fails the run.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.attacks.geometry import ball
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.spec import APGD
from engine.attacks.tally import wilson
from engine.events import Event, Progress, Table
from engine.robustness.searching import Cost, Found, Subject, search
from engine.task import Summary, parse

if TYPE_CHECKING:
    from engine.robustness.spec import Certificate

NOTHING = -1
"""The class of an answer that names none."""
TOLD = 0.25
"""Seconds between two words of how far it is."""
POINTS = 40
"""Radii that the curve is drawn at, besides those that were asked for."""


class Proof(NamedTuple):
    """Of M samples: the radius within which the answer is proved not to change, float64 (M,), 0
    where it abstains; and the answer, int64 (M,), `NOTHING` where it abstains."""

    radius: Tensor
    predictions: Tensor


class Verdict(NamedTuple):
    """What the classifier says of M points: classes, int64 (M,), `NOTHING` where it abstains; how
    likely each would be said of a point of another class, float64 (M,), 0 where that cannot be."""

    classes: Tensor
    chance: Tensor


class Prover(ABC):
    """Certifies the samples of a subject, and says what the classifier that it certifies answers.

    Made before anything is attacked, so that what cannot be certified is refused at once.
    """

    together = 1
    """Samples that are proved at a time; a cancel loses what is under way."""
    draws = 1
    """Passes of the model that one of `target` takes."""

    @property
    @abstractmethod
    def target(self) -> nn.Module:
        """The classifier that the certificate is about, images (N, C, H, W) to logits, as it can
        be attacked: differentiable, and the same in every call."""

    @abstractmethod
    def prove(self, rows: Tensor) -> Generator[Event, None, Proof]:
        """Certify the samples `rows`, int64 (M,), of the subject."""

    @abstractmethod
    def judge(self, rows: Tensor, points: Tensor) -> Generator[Event, None, Verdict]:
        """What the classifier itself answers at `points`, (M, C, H, W) on the CPU, near the samples
        `rows`, int64 (M,)."""


class ModelProver(Prover):
    """For certificates of the model as it is, whose answers are certain."""

    def __init__(self, on: Subject) -> None:
        self.on = on
        seed = on.bench.derive("certificate")
        self.oracle = Oracle(on.model, seed=seed, device=on.bench.device, bf16=False)
        self.together = on.batch_size

    @property
    def target(self) -> nn.Module:
        return self.on.model

    def judge(self, rows: Tensor, points: Tensor) -> Generator[Event, None, Verdict]:
        classes = []
        for part in points.split(self.on.batch_size):
            classes.append(predicted(self.oracle.look(part.to(self.on.bench.device))).cpu())
            yield Progress(sum(map(len, classes)), len(points), "points judged")
        found = torch.cat(classes) if classes else rows.new_zeros(0)
        return Verdict(found, torch.zeros(len(found), dtype=torch.float64))


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An answer that was proved not to change there, and did: of which sample (its row in the
    subject, its id in the data), certified as what within which radius, and taken for what at which
    distance. chance: how likely that is where the certificate holds; 0 where it cannot be."""

    row: int
    sample: int
    certified: int
    radius: float
    distance: float
    taken: int
    chance: float
    found_by: str
    image: Tensor


@dataclass(slots=True)
class Certified:
    """What is proved so far, one row a sample that was to be certified.

    rows: int64 (M,), places in the subject. done: bool (M,). radius: float64 (M,), in the
    certificate's norm; below zero where the answer that cannot change is wrong, 0 where it abstains
    or is not done. predictions: int64 (M,). fallen: float64 (M,), the smallest distance at which an
    attack changed a right answer of the classifier, infinite where none did. attacked: radii at
    which everybody was attacked. tried: points that attacks had judged. seconds: of proving.
    """

    spec: Certificate
    rows: Tensor
    done: Tensor
    radius: Tensor
    predictions: Tensor
    fallen: Tensor
    attacked: list[float] = field(default_factory=list)
    tried: int = 0
    seconds: float = 0.0
    contradictions: list[Contradiction] = field(default_factory=list)
    told: float = 0.0

    @classmethod
    def nothing(cls, spec: Certificate, on: Subject) -> Certified:
        """Nothing proved yet of the samples that `spec` asks for."""
        rows = torch.arange(min(spec.samples or len(on), len(on)))
        return cls(
            spec=spec,
            rows=rows,
            done=torch.zeros(len(rows), dtype=torch.bool),
            radius=torch.zeros(len(rows), dtype=torch.float64),
            predictions=torch.full((len(rows),), NOTHING),
            fallen=torch.full((len(rows),), float("inf"), dtype=torch.float64),
        )

    @property
    def samples(self) -> int:
        return int(self.done.sum())

    @property
    def abstentions(self) -> int:
        return int((self.done & (self.predictions == NOTHING)).sum())

    def hits(self, radius: float) -> int:
        """How many are proved to be right within `radius`."""
        return int((self.done & (self.radius > 0) & (self.radius >= radius)).sum())

    def standing(self, radius: float) -> int:
        """How many are right, whether by proof or not, and withstood all attacks within `radius`:
        at least `hits`, and at most so many if the attacks were perfect."""
        return int((self.done & (self.radius > 0) & (self.fallen > radius)).sum())


# --- proving --------------------------------------------------------------------------------------


def certify(on: Subject, prover: Prover, found: Certified) -> Generator[Event, None, None]:
    """Prove what can be proved of every sample of `found`, adding to it.

    Cancelled, thrown in at a yield, passes through; what was proved by then is in `found`.
    """
    places = torch.arange(len(found.rows))
    for part in places.split(prover.together):
        begun = time.perf_counter()
        proof = yield from _counted(prover.prove(found.rows[part]), found, len(part))
        right = proof.predictions == on.labels[found.rows[part]]
        found.radius[part] = torch.where(right, proof.radius, -proof.radius)
        found.predictions[part] = proof.predictions
        found.done[part] = True
        found.seconds += time.perf_counter() - begun
        yield from _told(found)
        yield _progress(found)
    yield from curves(found)


def _counted(
    steps: Generator[Event, None, Proof], found: Certified, count: int
) -> Generator[Event, None, Proof]:
    """`steps`, which know no more than the `count` samples under way."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            proof: Proof = end.value
            return proof
        within = event.fraction * count if isinstance(event, Progress) else 0.0
        yield _progress(found, within) if isinstance(event, Progress) else event


def _progress(found: Certified, within: float = 0.0) -> Progress:
    """`within`: samples' worth that is done of those under way."""
    count = len(found.rows)
    return Progress(found.samples, count, "samples certified", (found.samples + within) / count)


def _told(found: Certified) -> Iterable[Event]:
    if time.perf_counter() - found.told > TOLD:
        found.told = time.perf_counter()
        yield from curves(found)


def curves(found: Certified) -> Iterable[Event]:
    """The curve over the radius, and the table of the radii that were asked for."""
    if not found.samples:
        return
    yield curve_table(found)
    yield radius_table(found)


def curve_table(found: Certified) -> Table:
    """Certified accuracy over the radius, up to where nothing is proved any more."""
    top = max([float(found.radius.max()), *found.spec.radii, 1e-9])
    radii = {top * k / POINTS for k in range(POINTS + 1)} | set(found.spec.radii)
    return Table(
        "certified_curve",
        ("radius", "certified_accuracy"),
        tuple((radius, found.hits(radius) / found.samples) for radius in sorted(radii)),
    )


def radius_table(found: Certified) -> Table:
    """One row a radius that was asked for, the first being 0: certified accuracy with its interval,
    and what was left by attacks on the same classifier, where they have come so far."""
    rows = []
    for radius in (0.0, *sorted(found.spec.radii)):
        hits = found.hits(radius)
        low, high = wilson(hits, found.samples)
        attacked = not radius or radius in found.attacked
        robust = found.standing(radius) / found.samples if attacked else None
        rows.append((radius, hits / found.samples, low, high, robust))
    columns = ("radius", "certified_accuracy", "low", "high", "robust_accuracy")
    return Table("certified", columns, tuple(rows))


# --- beside attacks -------------------------------------------------------------------------------


def confront(
    on: Subject, prover: Prover, found: Certified, others: Iterable[tuple[str, Found]]
) -> Generator[Event, None, None]:
    """Attack the classifier that was certified: inside every radius that was proved, then at each
    radius that was asked for. `others` are names of attacks on the model, and what they found: of
    that everything is tried that lies inside what was proved, or all of it where it is the model
    that is certified. Adds to `found`."""
    rows = found.rows[found.done & (found.radius > 0)]
    if not len(rows) or not found.spec.steps:
        return
    target = yield from _subject_of(prover, on)
    try:
        yield from _judge(on, prover, found, _unmoved(on, rows[~target.correct[rows]]), CLEAN)
        target.correct[rows] = True  # proved to be, whatever a few draws say: they are attacked
        reached = Found.nothing(target, keep=True)
        eps = found.radius[found.radius > 0]
        yield from _attack(target, found, rows, reached, eps)
        yield from _judge(on, prover, found, reached, INSIDE)
        for name, other in others:
            yield from _judge(on, prover, found, _measured(on, found, other), name)
        for radius in sorted(found.spec.radii):
            left = found.rows[(found.radius > 0) & (found.fallen > radius)]
            reached = Found.nothing(target, keep=True)
            eps = torch.full((len(left),), radius, dtype=torch.float64)
            yield from _attack(target, found, left, reached, eps)
            yield from _judge(on, prover, found, reached, INSIDE)
            found.attacked.append(radius)
            yield from curves(found)
    finally:
        if target.cost is not on.cost:
            on.cost.forward += target.cost.forward * prover.draws
            on.cost.gradient += target.cost.gradient * prover.draws


INSIDE = "apgd"
"""The attack on what was certified."""
CLEAN = "clean"
"""No attack: the image itself."""


def _subject_of(prover: Prover, on: Subject) -> Generator[Event, None, Subject]:
    """The subject whose model is the classifier that was certified. What attacks ask of that is not
    kept for later: of another model it would tell nothing."""
    size = max(1, on.batch_size // prover.draws)
    if prover.target is on.model:
        return dataclasses.replace(on, correct=on.correct.clone())
    seed = on.bench.derive("certified")
    oracle = Oracle(prover.target, seed=seed, device=on.bench.device, bf16=False)
    logits: list[Tensor] = []
    for part in torch.arange(len(on)).split(size):
        logits.append(oracle.look(on.images(part)[0]))
        yield Progress(sum(map(len, logits)), len(on), "clean images")
    clean = torch.cat(logits)
    predictions = predicted(clean).cpu()
    return dataclasses.replace(
        on,
        model=prover.target,
        clean=clean,
        predictions=predictions,
        correct=predictions == on.labels,
        batch_size=size,
        witness=None,
        cost=Cost(forward=oracle.counts.forward),
        chunk=oracle.chunk,
    )


def _attack(
    target: Subject, found: Certified, rows: Tensor, reached: Found, eps: Tensor
) -> Generator[Event, None, None]:
    """APGD to its end inside the radius of each sample, float (M,): it needs no step size, and an
    answer that changes clearly tells more than one that just does."""
    if not len(rows):
        return
    steps, norm = found.spec.steps, found.spec.norm
    spec = parse(APGD, {"norm": norm, "eps": float(eps.max()), "steps": steps})
    seed = target.bench.derive("confront", len(found.attacked))
    what = "samples against the certificate"
    yield from search(target, spec, rows, reached, seed=seed, eps=eps, persist=True, what=what)


def _unmoved(on: Subject, rows: Tensor) -> Found:
    """The images of `rows` themselves, as if they had been found."""
    reached = Found.nothing(on, keep=True)
    assert reached.adversarial is not None
    for part in rows.split(on.batch_size) if len(rows) else ():
        reached.adversarial[part] = on.images(part)[0].cpu()
        reached.success[part], reached.norm[part] = True, 0.0
    return reached


def _measured(on: Subject, found: Certified, other: Found) -> Found:
    """What `other` found that tells something of the classifier that was certified, measured in the
    norm of the certificate."""
    assert other.adversarial is not None
    inside = Found.nothing(on)
    inside.adversarial = other.adversarial
    for part in found.rows[other.success[found.rows]].split(on.batch_size):
        images = on.images(part)[0].cpu()
        none = torch.zeros(len(part))
        size = ball(found.spec.norm, images, none).size(other.adversarial[part]).double()
        inside.norm[part] = size
        inside.success[part] = found.spec.of_the_model | (size <= found.radius[part])
    return inside


def _judge(
    on: Subject, prover: Prover, found: Certified, reached: Found, name: str
) -> Generator[Event, None, None]:
    """What the classifier says of the points that were reached, and what follows from it."""
    assert reached.adversarial is not None
    places = reached.success[found.rows].nonzero().squeeze(1)
    rows = found.rows[places]
    if not len(rows):
        return
    verdict = yield from prover.judge(rows, reached.adversarial[rows])
    found.tried += len(rows)
    for k, (place, row) in enumerate(zip(places.tolist(), rows.tolist(), strict=True)):
        taken, certified = int(verdict.classes[k]), int(found.predictions[place])
        if taken in (NOTHING, certified):
            continue
        distance, radius = float(reached.norm[row]), float(found.radius[place])
        found.fallen[place] = min(float(found.fallen[place]), distance)
        if distance <= radius:
            found.contradictions.append(
                Contradiction(
                    row=row,
                    sample=int(on.test.ids[on.order[row]]),
                    certified=certified,
                    radius=radius,
                    distance=distance,
                    taken=taken,
                    chance=float(verdict.chance[k]),
                    found_by=name,
                    image=reached.adversarial[row],
                )
            )


def contradiction_table(on: Subject, found: Certified) -> Table:
    """One row a contradiction."""
    return Table(
        "contradictions",
        ("sample", "certified_as", "radius", "distance", "taken_for", "chance", "attack"),
        tuple(
            (
                c.sample,
                on.classes[c.certified],
                c.radius,
                c.distance,
                on.classes[c.taken],
                c.chance,
                c.found_by,
            )
            for c in found.contradictions
        ),
    )


def failure(on: Subject, found: Certified) -> str:
    """Why the evaluation failed: the first contradiction, the one with the least chance."""
    worst = min(found.contradictions, key=lambda c: (c.chance, c.distance))
    count = len({each.sample for each in found.contradictions})
    chance = (
        f"By chance that happens with a probability of at most {worst.chance:.2g}"
        if worst.chance
        else "That cannot happen by chance"
    )
    return (
        f"the certificate is contradicted ({count} of {found.samples} samples): image "
        f"{worst.sample} is certified as {on.classes[worst.certified]!r} within "
        f"{found.spec.norm} {worst.radius:.4f}, but at {worst.distance:.4f} the classifier says "
        f"{on.classes[worst.taken]!r}. {chance}. Do not use these radii: look for what the "
        f"certificate does not know of the model. The images are in {CONTRADICTIONS}."
    )


CONTRADICTIONS = "contradictions.safetensors"


def contradiction_tensors(on: Subject, found: Certified) -> dict[str, Tensor]:
    """The images that contradict, as they are kept with the run."""
    every = found.contradictions
    return {
        "clean": on.images(torch.tensor([c.row for c in every]))[0].cpu(),
        "found": torch.stack([c.image for c in every]),
        "ids": torch.tensor([c.sample for c in every]),
        "certified": torch.tensor([c.certified for c in every]),
        "taken": torch.tensor([c.taken for c in every]),
        "radius": torch.tensor([c.radius for c in every], dtype=torch.float64),
        "distance": torch.tensor([c.distance for c in every], dtype=torch.float64),
    }


# --- what is said of it ---------------------------------------------------------------------------


def figures(found: Certified) -> Summary:
    """For the summary of an evaluation. Accuracies are fractions of the samples that were
    certified, by radius."""
    count = found.samples
    shares = {f"{radius:g}": found.hits(radius) for radius in (0.0, *sorted(found.spec.radii))}
    standing = {f"{r:g}": found.standing(r) / max(1, count) for r in sorted(found.attacked)}
    return {
        "certified_accuracy": {r: hits / max(1, count) for r, hits in shares.items()},
        "certified_accuracy_interval": {r: list(wilson(h, count)) for r, h in shares.items()},
        "certified_robust_accuracy": standing,
        "certified_samples": count,
        "abstentions": found.abstentions,
        "contradictions": len(found.contradictions),
        "certified_seconds": found.seconds,
    }


def account(on: Subject, found: Certified) -> dict[str, Any]:
    """Everything that a reader needs to trust the figures, or not to, as JSON."""
    rows = found.rows[found.done]
    return {
        "settings": found.spec.to_dict(),
        "norm": found.spec.norm,
        "interval": "Wilson, 95 %",
        **figures(found),
        "points_judged": found.tried,
        "samples": [
            {
                "sample": int(on.test.ids[on.order[row]]),
                "label": int(on.labels[row]),
                "predicted": prediction if prediction != NOTHING else None,
                "radius": abs(radius),
            }
            for row, prediction, radius in zip(
                rows.tolist(),
                found.predictions[found.done].tolist(),
                found.radius[found.done].tolist(),
                strict=True,
            )
        ],
        "contradicted": [
            dict(zip(table.columns, row, strict=True))
            for table in [contradiction_table(on, found)]
            for row in table.rows
        ],
    }
