"""An evaluation in figures: tables for a person, a summary, and a report that has everything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from engine.attacks.spec import Norm
from engine.attacks.tally import wilson
from engine.events import Event, Note, Saved, Table
from engine.files import atomic, sha256_of
from engine.robustness import certified
from engine.robustness.certified import Certified
from engine.robustness.sensitivity import Shift
from engine.robustness.spec import Evaluate, Require
from engine.robustness.verdict import Standing, unmet_of
from engine.task import Summary

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.robustness.evaluating import Attacked, Report

REPORT = "report.json"
ADVERSARIAL = "adversarial.safetensors"
IN_TURN = "after that attack and all before it"
ALONE = "after that attack alone"
"""What the robust accuracy of an attack is."""
ANY_WRONG = "taken for any wrong class"
AIMED_AT = "taken for the class that the attack aims at"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


# --- the verdict ----------------------------------------------------------------------------------


def judge(spec: Evaluate, report: Report) -> list[str]:
    """What is not as required, one sentence each; nothing if nothing was required."""
    if spec.require is None:
        return []
    total = len(report.on)
    flags = ", ".join(flag.meaning.title for flag in report.flags)
    doubts = [f"the checks doubt that: {flags}"] if flags else []
    standings = {
        "clean_accuracy": Standing("clean accuracy", int(report.on.correct.sum()), total),
        "robust_accuracy": Standing(
            "robust accuracy",
            int(report.robust.sum()),
            total,
            [] if spec.require.despite_flags else doubts,
        ),
    }
    if report.certified is not None:
        standings["certified_accuracy"] = _certified(spec.require, report.certified)
    return unmet_of(spec.require, standings)


def _certified(require: Require, found: Certified) -> Standing:
    """What is proved at the radius that is asked for: of the classifier that was certified, on the
    samples that were. Flags are about attacks, and no doubt of a proof; a contradiction is."""
    radius = require.certified_radius
    if radius is None:
        radius = max(found.spec.radii, default=0.0)
    doubts = ["the certificate is contradicted"] if found.contradictions else []
    where = f"{found.spec.norm} {radius:g}"
    return Standing("certified accuracy", found.hits(radius), found.samples, doubts, where)


def tell(spec: Evaluate, report: Report, unmet: list[str], notes: list[Note]) -> Iterator[Event]:
    """Everything there is to say: the verdict first, then `notes` that were kept for later."""
    yield from verdict(spec, report, unmet)
    chunk = report.on.chunk
    if chunk is not None:
        yield Note("warning", f"out of memory: going on with {chunk} images at a time")
    yield from notes
    yield from tables(report)
    yield from save(spec, report, unmet)


def verdict(spec: Evaluate, report: Report, unmet: list[str]) -> Iterator[Event]:
    """The verdict, then why the figures may mislead."""
    if unmet:
        yield Note("error", f"rejected: {'; '.join(unmet)}")
    elif spec.require is not None and not report.partial:
        yield Note("info", "accepted: the model is as required")
    for flag in report.flags:
        meaning = flag.meaning
        p = "" if flag.p is None else f" (p = {flag.p:.2g})"
        yield Note(
            "warning",
            f"{meaning.title}: {flag.evidence}{p}. {meaning.means} {meaning.advice}",
        )
    for text in report.unsaid:
        yield Note("warning", text)
    for name, when in WHEN.items():
        if count := alone(report, name):
            yield Note(
                "info",
                f"{count} samples that withstood the attacks were broken {when}, within the same "
                "radius: robust accuracy counts them as broken.",
            )
    nan = report.on.cost.nan
    if nan:
        yield Note(
            "warning",
            f"{nan} answers of the model held a NaN or Inf; none was counted as a success.",
        )


WHEN: dict[Literal["curve", "checks"], str] = {
    "curve": "while the curve was drawn",
    "checks": "by the checks",
}
"""When samples are broken that no attack has broken."""


def alone(report: Report, name: Literal["curve", "checks"]) -> int:
    """How many samples curve or checks broke within the attacks' radius, and nothing before."""
    return sum(int(each.alone.sum()) for each in report.beside if each.by == name)


# --- tables ---------------------------------------------------------------------------------------


def tables(report: Report) -> Iterator[Event]:
    """All of them, as they are at the end."""
    yield flag_table(report)
    if report.unsaid:
        yield Table("unchecked", ("text",), tuple((text,) for text in report.unsaid))
    yield attack_table(report)
    if report.curve is not None:
        yield curve_table(report)
    yield class_table(report)
    yield confusion(report)
    if (table := norm_table(report)) is not None:
        yield table
    for name, shifts in (("input_noise", report.noise), ("weight_noise", report.weights)):
        if shifts:
            yield _shift_table(name, shifts)
    if report.corruptions:
        yield corruption_table(report.corruptions)
    if report.certified is not None:
        yield from certified_tables(report, report.certified)
    if report.siblings:
        yield Table(
            "agreement",
            ("run", "clean_accuracy", "agreement", "transfer"),
            tuple((s.name, s.accuracy, s.agreement, _plain(s.transfer)) for s in report.siblings),
        )


def flag_table(report: Report) -> Table:
    """One row a flag. Its name leads to what it means: `engine.robustness.flags`."""
    return Table(
        "flags",
        ("flag", "evidence", "p"),
        tuple((flag.name, flag.evidence, flag.p) for flag in report.flags),
    )


def attack_table(report: Report) -> Table:
    """One row an attack: accuracy is who is still correct after it and all before it."""
    return Table(
        "attacks",
        (
            "attack",
            "norm",
            "epsilon",
            "attacked",
            "broken",
            "robust_accuracy",
            "low",
            "high",
            "largest_norm",
            "mean_queries",
            "seconds",
        ),
        tuple(_attack_row(report, each) for each in report.attacks),
    )


def _attack_row(report: Report, each: Attacked) -> tuple[Any, ...]:
    total = len(report.on)
    low, high = wilson(each.left, total)
    return (
        each.name,
        each.spec.norm,
        _plain(each.radius),
        len(each.rows),
        int(each.broken.sum()),
        each.left / total,
        low,
        high,
        each.largest,
        _mean(each.found.queries[each.rows]),
        round(each.found.cost.seconds, 3),
    )


def curve_table(report: Report) -> Table:
    """Robust accuracy at each radius, with its interval; the first row is the clean accuracy."""
    curve, total = report.curve, len(report.on)
    assert curve is not None
    counted = [(0.0, int(report.on.correct.sum()))]
    counted += [(radius, curve.robust(k)) for k, radius in enumerate(curve.radii)]
    return Table(
        "curve",
        ("epsilon", "robust_accuracy", "low", "high"),
        tuple((radius, hits / total, *wilson(hits, total)) for radius, hits in counted),
    )


def certificate_table(report: Report) -> Table:
    """Of which kind the certificate is, in which norm, and whether it belongs beside the curve:
    where that is about the same classifier and norm."""
    assert report.certified is not None
    spec = report.certified.spec
    same = spec.of_the_model and report.curve_norm == spec.norm
    beside = same and report.curve is not None
    row = (spec.kind, spec.norm, "curve" if beside else "")
    return Table("certificate", ("certificate", "norm", "beside"), (row,))


def certified_tables(report: Report, found: Certified) -> Iterator[Event]:
    """What was proved, and what contradicts it."""
    yield certificate_table(report)
    yield from certified.curves(found)
    if found.contradictions:
        yield certified.contradiction_table(report.on, found)


def class_table(report: Report) -> Table:
    """One row a class that has samples."""
    on = report.on
    rows = []
    for number, name in enumerate(on.classes):
        own = on.labels == number
        count = int(own.sum())
        if count:
            clean, robust = int((own & on.correct).sum()), int((own & report.robust).sum())
            low, high = wilson(robust, count)
            rows.append((name, count, clean / count, robust / count, low, high))
    columns = ("class", "samples", "clean_accuracy", "robust_accuracy", "low", "high")
    return Table("by_class", columns, tuple(rows))


def confusion(report: Report) -> Table:
    """What each class (a row) is taken for under the worst of the attacks: counts. The last column
    holds answers that were no numbers, if there are any."""
    on, count = report.on, len(report.on.classes)
    matrix = torch.zeros(count, count + 1, dtype=torch.int64)
    taken = report.worst.predictions.clone()
    taken[(taken < 0) | (taken >= count)] = count
    matrix.index_put_((on.labels, taken), torch.ones_like(taken), accumulate=True)
    columns: tuple[str, ...] = ("class", *on.classes)
    if int(matrix[:, count].sum()):
        columns = (*columns, "none")
    rows = [(name, *matrix[k, : len(columns) - 1].tolist()) for k, name in enumerate(on.classes)]
    return Table("confusion", columns, tuple(rows))


def norm_table(report: Report) -> Table | None:
    """Quantiles of the smallest perturbations, of the attacks that look for those: one row each.
    Samples that none was found for count as infinitely far, written as nothing."""
    rows = []
    for each in report.attacks:
        if not any(method.minimal for method in each.spec.rounds()) or not len(each.rows):
            continue
        norms = each.found.norm[each.rows]
        values = [_plain(_quantile(norms, share)) for share in QUANTILES]
        rows.append((each.name, each.spec.norm, len(norms), int(norms.isfinite().sum()), *values))
    columns = ("attack", "norm", "attacked", "found", *(f"{q:.0%}" for q in QUANTILES))
    return Table("smallest_perturbations", columns, tuple(rows)) if rows else None


def _quantile(values: Tensor, share: float) -> float:
    """The smallest value that `share` of all are not above."""
    place = max(0, math.ceil(share * len(values)) - 1)
    return float(values.sort().values[place])


def corruption_table(shifts: list[Shift]) -> Table:
    """One row a corruption: accuracy at each severity, and their mean."""
    named: dict[str, list[float]] = {}
    for shift in shifts:
        named.setdefault(shift.name, []).append(shift.accuracy)
    width = max(map(len, named.values()))
    rows = [(name, *each, sum(each) / len(each)) for name, each in named.items()]
    columns = ("corruption", *(f"severity {k + 1}" for k in range(width)), "mean")
    return Table("corruptions", columns, tuple(rows))


def _shift_table(name: str, shifts: list[Shift]) -> Table:
    return Table(
        name,
        ("noise", "level", "accuracy", "agreement"),
        tuple((shift.name, shift.level, shift.accuracy, shift.agreement) for shift in shifts),
    )


# --- summary and files ----------------------------------------------------------------------------


def summary(spec: Evaluate, report: Report, unmet: list[str]) -> Summary:
    """What `run_evaluate` returns. Accuracies are fractions of all samples; that by attack is who
    is still correct after that attack and all before it (with `every`, after that one alone), as
    `by_attack` says."""
    on, total = report.on, len(report.on)
    correct, robust = int(on.correct.sum()), int(report.robust.sum())
    found: Summary = {}
    if unmet:
        found["unmet"] = unmet
    found |= {
        "clean_accuracy": correct / total,
        "clean_accuracy_interval": list(wilson(correct, total)),
        "robust_accuracy": robust / total,
        "robust_accuracy_interval": list(wilson(robust, total)),
        "interval": "Wilson, 95 %",
        "robust_accuracy_by_attack": {
            each.name: _alone(report, each) if spec.every else each.left / total
            for each in report.attacks
        },
        "by_attack": ALONE if spec.every else IN_TURN,
        "flags": [flag.name for flag in report.flags],
        "samples": total,
        "correct": correct,
        "broken": correct - robust,
        "max_norm": {norm: _largest(report, norm) for norm in report.smallest},
        "mean_queries": _mean(report.worst.queries[on.correct]),
    }
    if report.curve is not None:
        curve = report.curve
        found |= {
            "curve_points": len(curve.radii),
            "curve_gradient_evaluations": curve.cost.gradient,
            "curve_runs": curve.runs,
        }
    for name in WHEN:
        if count := alone(report, name):
            found[f"broken_by_{name}"] = count
    if report.corruptions:
        each = [shift.accuracy for shift in report.corruptions]
        found["corruption_accuracy"] = sum(each) / len(each)
    if report.certified is not None:
        found |= certified.figures(report.certified)
    found |= {
        "seconds": sum(each.found.cost.seconds for each in report.attacks),
        "forward_evaluations": on.cost.forward,
        "gradient_evaluations": on.cost.gradient,
        "nan_count": on.cost.nan,
    }
    if report.unsaid:
        found["unchecked"] = report.unsaid
    if report.changed:
        found["data_changed"] = True
    if report.partial:
        found["partial"] = True
    return found


def _largest(report: Report, norm: Norm) -> float:
    """The largest perturbation in `norm` among those that count."""
    most = max(each.largest for each in report.attacks if each.spec.norm == norm)
    for each in report.beside:
        if norm == each.norm and bool(each.alone.any()):
            most = max(most, float(report.worst.norm[each.alone].max()))
    return most


def _alone(report: Report, each: Attacked) -> float:
    on = report.on
    return int((on.correct & ~each.broken).sum()) / len(on)


def save(spec: Evaluate, report: Report, unmet: list[str]) -> Iterator[Event]:
    """Write the report, and the images that broke the model."""
    text = json.dumps(document(spec, report, unmet), indent=1, ensure_ascii=False)
    yield _write(report.on.bench, "report", REPORT, text.encode())
    on, worst = report.on, report.worst
    assert worst.adversarial is not None
    clean = torch.cat(
        [on.images(rows)[0].cpu() for rows in torch.arange(len(on)).split(on.batch_size)]
    )
    hit = worst.success.view(-1, 1, 1, 1)
    content = safetensors.torch.save(
        {
            "clean": clean,
            "adversarial": torch.where(hit, worst.adversarial, clean),
            "labels": on.labels,
            "predictions": worst.predictions,
            "success": worst.success,
            "norm": worst.norm.where(worst.success, torch.zeros(())),
            "ids": on.test.ids[on.order].contiguous(),
        }
    )
    yield _write(report.on.bench, "adversarial", ADVERSARIAL, content)

    if report.certified is not None and report.certified.contradictions:
        kept = certified.contradiction_tensors(on, report.certified)
        content = safetensors.torch.save(kept)
        yield _write(on.bench, "contradictions", certified.CONTRADICTIONS, content)


def _write(bench: Bench, name: str, file_name: str, content: bytes) -> Saved:
    path = bench.folder / file_name
    with atomic(path) as file:
        file.write(content)
    return Saved(name, file_name, len(content), sha256_of(path))


def document(spec: Evaluate, report: Report, unmet: list[str]) -> dict[str, Any]:
    """Everything that a reader needs to trust the figures, or not to, as JSON."""
    every = {table.name: table for table in tables(report) if isinstance(table, Table)}
    required = None if spec.require is None else spec.require.to_dict()
    return {
        "summary": summary(spec, report, unmet),
        "required": required,
        "verdict": None if required is None or report.partial else ("rejected" if unmet else "met"),
        "flags": [
            {
                "name": flag.name,
                "title": flag.meaning.title,
                "means": flag.meaning.means,
                "try": flag.meaning.advice,
                "evidence": flag.evidence,
                "p": flag.p,
            }
            for flag in report.flags
        ],
        "unchecked": report.unsaid,
        "attacks": [
            {
                "name": each.name,
                "settings": each.spec.to_dict(),
                "judged_at": _plain(each.radius),
                "attacked": len(each.rows),
                "broken": int(each.broken.sum()),
                "counts_as_broken": AIMED_AT if each.spec.targeted else ANY_WRONG,
                "robust_accuracy_after": each.left / len(report.on),
                "robust_accuracy_alone": _alone(report, each) if spec.every else None,
                "largest_norm": each.largest,
                "queries": int(each.found.queries.sum()),
                "forward_evaluations": each.found.cost.forward,
                "gradient_evaluations": each.found.cost.gradient,
                "zero_gradients": each.found.cost.zero,
                "nan_count": each.found.cost.nan,
                "seconds": each.found.cost.seconds,
            }
            for each in report.attacks
        ],
        "certificate": None
        if report.certified is None
        else certified.account(report.on, report.certified),
        "tables": {
            name: {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for name, table in every.items()
        },
        "spec": spec.to_dict(),
        "seed": report.on.bench.seed,
        "environment": report.on.bench.environment,
    }


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else 0.0


def _plain(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
