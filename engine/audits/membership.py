"""Membership inference (Yeom et al. 2018; Watson et al. 2022; Carlini et al. 2022), told in order:
whom it is about, what the audited model says of them, what models say that did or did not see
them, and how well that tells members from others.

Members are images of the audited model's training split, others of its test split, as many of
each; neither split differs from the other but by the draw that made them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from engine.attacks.showing import pictures
from engine.audits.auditing import Subject, plain, subject_of, training_of, write
from engine.audits.roc import RATES, Curve, auc_interval, curve
from engine.audits.scores import scores
from engine.audits.shadows import Joined, Plan, Recipe, Shadows, answers, plan, train_shadows
from engine.audits.spec.membership import Membership, Method
from engine.errors import BadInput, Cancelled
from engine.events import Event, Images, Note, Scalars, Table
from engine.models import load_model
from engine.privacy.spec import DPSGD
from engine.task import Steps, Summary
from engine.training.spec import Train

if TYPE_CHECKING:
    from engine.audits.spec import Audit
    from engine.bench import Bench

FILE = "membership.safetensors"
BINS = 30
"""Of the histograms of scores."""
LEAST = 20
"""Images of either kind, without which no figure says anything."""


def run_membership(task: Audit, spec: Membership, bench: Bench) -> Steps:
    """Raises BadInput if there are too few images, or shadows are asked for and the model does not
    say how it was trained. A cancel judges by the shadows that are there."""
    subject = yield from subject_of(task.model, bench)
    recipe = _recipe(task.model, spec, subject, bench) if spec.needs_shadows else None
    if recipe is not None:
        yield from _cautions(recipe, subject)
    members = _members(spec, subject, bench)
    half = len(members) // 2
    member = torch.arange(len(members)) < half
    pool = Joined(subject.data.train, subject.data.test)
    said, _ = yield from answers(subject.module, pool, members)
    drawn = plan(subject.data, members, spec.shadows, bench.seed)
    found = Shadows()
    partial = False
    try:
        if recipe is not None:
            for event in train_shadows(recipe, drawn, bench, spec.together, found):
                yield event
                if len(found) % 2 == 0 and len(found) >= 4:
                    yield from _so_far(spec, found, said, member, drawn)
    except Cancelled:
        partial = True
        yield Note("warning", f"stopped after {len(found)} of {spec.shadows} shadow models")
    judged = _judge(spec, said, found, drawn)
    curves = {name: curve(score, member) for name, score in judged.items()}
    intervals = {name: auc_interval(score, member) for name, score in judged.items()}
    yield from _tables(judged, curves, intervals, member)
    method = max(judged, key=list(Membership.model_fields["method"].default).index)
    yield from _exposed(spec, judged[method], pool, members, half)
    yield _kept(judged, said, found, drawn, member, bench)
    summary = _summary(method, curves, intervals)
    if found.accuracies:
        summary |= {
            "shadows": len(found),
            "shadow_accuracy": sum(found.accuracies) / len(found),
        }
    return summary | plain({"partial": partial or None, "data_changed": subject.changed or None})


# --- whom, and how --------------------------------------------------------------------------------


def _members(spec: Membership, subject: Subject, bench: Bench) -> Tensor:
    """Places of the judged images in the joined splits: members first, then as many others."""
    train, test = len(subject.data.train), len(subject.data.test)
    count = min(spec.samples or train, train, test)
    if count < LEAST:
        raise BadInput(
            f"membership is judged on training and test images alike, and there are {train} and "
            f"{test}; expected at least {LEAST} of each"
        )
    inside = torch.randperm(train, generator=bench.generator("members"))[:count]
    outside = torch.randperm(test, generator=bench.generator("others"))[:count]
    return torch.cat([inside, outside + train])


def _recipe(ref: str, spec: Membership, subject: Subject, bench: Bench) -> Recipe:
    """How the audited model was trained, as a shadow is to be."""
    train = training_of(subject)
    if train is None:
        raise BadInput(
            f"the model {ref!r} was not made by a train task, so that shadow models cannot be "
            'trained as it was; audit it with method = ["loss"], which needs none'
        )
    changes: dict[str, Any] = {
        "epochs": spec.epochs or _epochs(train, subject.card.metrics),
        "early_stopping": None,
    }
    if train.adversarial is not None:
        changes["adversarial"] = train.adversarial.model_copy(update={"watch": None})
    if isinstance(train.privacy, DPSGD):
        changes["privacy"] = train.privacy.model_copy(update={"canaries": 0, "secure": False})
    start = load_model(train.init, bench).module if train.init else None
    return Recipe(train.model_copy(update=changes), subject.card.model, subject.data, start)


def _epochs(train: Train, metrics: Mapping[str, Any]) -> int:
    """That the audited model was trained for: up to the best, where it is that epoch's."""
    chosen = train.early_stopping is not None or metrics.get("collapsed")
    return int(metrics.get("best_epoch") or train.epochs) if chosen else train.epochs


def _cautions(recipe: Recipe, subject: Subject) -> Iterator[Event]:
    train = recipe.train
    if train.privacy is not None:
        yield Note(
            "info",
            "the shadow models are trained privately as well, with the same noise: what they say "
            "of an image is then what the audited model would have said",
        )
    if isinstance(train.privacy, DPSGD) and _canaries(subject):
        yield Note(
            "warning",
            "the audited run had canaries: of a kind that are samples, some training images were "
            "left out or had other labels, and count as members here all the same",
        )
    if train.init:
        yield Note(
            "warning",
            f"the audited run started from {train.init!r}, and so do the shadow models: what that "
            "model had learnt of an image before, they all know",
        )


def _canaries(subject: Subject) -> bool:
    run = subject.run
    private = run.spec.get("privacy") if run is not None else None
    return bool(private and private.get("canaries"))


# --- what is said ---------------------------------------------------------------------------------


def _judge(spec: Membership, said: Tensor, found: Shadows, drawn: Plan) -> Mapping[Method, Tensor]:
    """Scores by each method for which there are enough shadows: by pairs, so that every image is in
    half of them."""
    count = len(found) // 2 * 2
    if not count:
        return scores(("loss",), said, said[None], drawn.included[:1], "shared")
    shadows = torch.stack(found.confidences[:count])
    few = "shared" if count < 6 else spec.variance
    return scores(spec.method, said, shadows, drawn.included[:count], few)


def _so_far(
    spec: Membership, found: Shadows, said: Tensor, member: Tensor, drawn: Plan
) -> Iterator[Event]:
    judged = _judge(spec, said, found, drawn)
    values = {f"auc/{name}": curve(score, member).auc for name, score in judged.items()}
    yield Scalars(len(found), values)


def _tables(
    judged: Mapping[Method, Tensor],
    curves: Mapping[Method, Curve],
    intervals: Mapping[Method, tuple[float, float]],
    member: Tensor,
) -> Iterator[Event]:
    """The figures by method; the curves; what is said of how the scores lie."""
    columns = ["method", "auc", "low", "high", "balanced_accuracy"]
    for rate in RATES:
        columns += [f"tpr_at_fpr_{rate:g}", f"low_{rate:g}", f"high_{rate:g}"]
    rows = []
    for name, each in curves.items():
        rates = [value for rate in RATES for value in each.true_rate(rate)]
        rows.append((name, each.auc, *intervals[name], each.balanced_accuracy, *rates))
    yield Table("membership", tuple(columns), tuple(rows))
    yield Table(
        "roc",
        ("method", "false_positives", "true_positives"),
        tuple((name, *point) for name, each in curves.items() for point in each.points()),
    )
    yield Table(
        "scores",
        ("method", "from", "to", "members", "others"),
        tuple(row for name, score in judged.items() for row in _histogram(name, score, member)),
    )
    others = next(iter(curves.values())).others
    if others < 1 / min(RATES):
        yield Note(
            "info",
            f"{others} images that were not trained on are too few to tell a share of "
            f"{min(RATES):g}: true positives there are those above the highest score of any",
        )


def _histogram(name: Method, score: Tensor, member: Tensor) -> Iterator[tuple[Any, ...]]:
    low, high = (float(score.quantile(q)) for q in (0.005, 0.995))
    edges = torch.linspace(low, high if high > low else low + 1e-6, BINS + 1, dtype=score.dtype)
    places = torch.bucketize(score, edges[1:-1])
    inside = torch.bincount(places[member], minlength=BINS).tolist()
    outside = torch.bincount(places[~member], minlength=BINS).tolist()
    for k in range(BINS):
        yield name, float(edges[k]), float(edges[k + 1]), inside[k], outside[k]


def _exposed(
    spec: Membership, score: Tensor, pool: Joined, places: Tensor, half: int
) -> Iterator[Images]:
    """The members that stand out most."""
    count = min(spec.show, half)
    if not count:
        return
    top = score[:half].argsort(descending=True, stable=True)[:count]
    images, labels = pool.batch(places[top])
    captions = tuple(
        {"label": label, "score": round(value, 4)}
        for label, value in zip(labels.tolist(), score[top].tolist(), strict=True)
    )
    yield pictures("exposed", images.cpu(), captions)


def _kept(
    judged: Mapping[Method, Tensor],
    said: Tensor,
    found: Shadows,
    drawn: Plan,
    member: Tensor,
    bench: Bench,
) -> Event:
    """Everything that the figures rest on, for whoever wants to compute them again."""
    kept = {f"score.{name}": score.contiguous() for name, score in judged.items()}
    kept |= {
        "member": member,
        "ids": drawn.pool.ids[drawn.targets].contiguous(),
        "confidence": said,
    }
    if len(found):
        kept |= {
            "shadow_confidence": torch.stack(found.confidences),
            "shadow_included": drawn.included[: len(found)].contiguous(),
        }
    metadata = {"statistic": json.dumps("log(p / (1 - p)) of the label")}
    return write(bench, "membership", FILE, safetensors.torch.save(kept, metadata))


def _summary(
    method: Method,
    curves: Mapping[Method, Curve],
    intervals: Mapping[Method, tuple[float, float]],
) -> Summary:
    own = curves[method]
    summary: Summary = {
        "method": method,
        "auc": own.auc,
        "auc_interval": list(intervals[method]),
        "auc_by_method": {name: each.auc for name, each in curves.items()},
        "balanced_accuracy": own.balanced_accuracy,
        "members": own.members,
        "others": own.others,
    }
    for rate in RATES:
        share, low, high = own.true_rate(rate)
        summary |= {
            f"tpr_at_fpr_{rate:g}": share,
            f"tpr_at_fpr_{rate:g}_interval": [low, high],
        }
    return summary
