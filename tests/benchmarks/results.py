"""Runs a recipe once a seed, and keeps its figures in resources/results/: `make results`.

    python -m tests.benchmarks.results wong_fast_at --seeds 0 1 2 --data-root FOLDER

What a workspace under `--keep` already holds is not done again, so that it can be interrupted and
go on, and an evaluation can be added to a model that took long to train.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import resources
from engine.recipe import Entry, enqueue, parse_change, read_recipe
from engine.runner import Runner
from engine.store import RunInfo, Workspace
from engine.task import Spec, parse_task, with_references
from tests.benchmarks.__main__ import machine

FIGURES = (
    *("clean_accuracy", "robust_accuracy", "certified_accuracy", "epsilon"),
    *("error", "success_rate", "fid", "accuracy"),
    *("modes_covered", "high_quality", "mode_tv", "reverse_kl", "spread"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, collect, write; 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.results", description=__doc__)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="of resources/recipes")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="N")
    parser.add_argument("--data-root", type=Path, metavar="D", help="where the data lies")
    parser.add_argument("--keep", type=Path, default=Path("build/results"), help="for the runs")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="these tasks of the recipe")
    parser.add_argument("--set", action="append", default=[], metavar="TASK.FIELD=VALUE")
    options = parser.parse_args(arguments)
    whole = True
    for name in options.recipes:
        recipe = read_recipe(
            resources.path("recipes", f"{name}.toml"), dict(map(parse_change, options.set))
        )
        for seed in options.seeds:
            for entry in recipe:
                if not options.only or entry.name in options.only:
                    workspace = Workspace(options.keep / name / str(seed))
                    whole &= _done(workspace, recipe, entry, seed, options.data_root)
            _write(name, recipe, options.keep, options.set)
    return int(not whole)


def _done(
    workspace: Workspace,
    recipe: Sequence[Entry],
    entry: Entry,
    seed: int,
    data_root: Path | None,
) -> bool:
    """Whether the task is done, now or before; says how long it took."""
    task = entry.task.model_copy(update={"seed": seed})
    info = _found(workspace, recipe, entry, seed)
    if info is None:
        (run,) = enqueue(workspace, [Entry(entry.name, task, {})], data_root=data_root)
        began, cpu = time.perf_counter(), time.process_time()
        status = Runner(workspace, lambda run, events: None, data_root=data_root).run(run)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        run.set_note(json.dumps({"cpu_seconds": round(cpu, 1), "seconds": round(wall, 1)}))
        info = run.info()
        figures = {key: info.summary[key] for key in FIGURES if key in info.summary}
        print(f"{entry.name}, seed {seed}: {status}, {cpu:.0f} CPU s, {figures}", flush=True)
    return info.status in ("done", "rejected")


def _found(
    workspace: Workspace, recipe: Sequence[Entry], entry: Entry, seed: int
) -> RunInfo | None:
    """The run of just this task that the workspace holds, made of just these runs before it."""
    wanted = entry.task.model_copy(update={"seed": seed}).to_dict()
    parents: dict[str, str] = {}  # an id of a run that there is, and the name that it goes by
    for name in entry.parents.values():
        parent = next(other for other in recipe if other.name == name)
        if (found := _found(workspace, recipe, parent, seed)) is not None:
            parents[found.id] = name
    for run in workspace.runs():
        if run.name == entry.name and run.status in ("done", "rejected") and run.note:
            refs = {f: parents[i] for f, i in run.lineage.items() if i in parents}
            if refs.keys() != entry.parents.keys():  # made of others, that went by these names
                continue
            # Parsed again, so that what has a default since is what it was.
            if parse_task(with_references(run.spec, refs)).to_dict() == wanted:
                return run
    return None


def _write(name: str, recipe: Sequence[Entry], keep: Path, changed: Sequence[str]) -> None:
    """One row a seed and task that is done, and over the seeds mean, least and most; `changed` are
    the fields in which they are not the recipe's."""
    rows: dict[str, list[dict[str, Any]]] = {entry.name: [] for entry in recipe}
    for folder in sorted((keep / name).iterdir(), key=lambda path: int(path.name)):
        workspace = Workspace(folder)
        for entry in recipe:
            info = _found(workspace, recipe, entry, int(folder.name))
            if info is not None:
                rows[entry.name].append(_row(info, int(folder.name)))
    document = {
        "recipe": name,
        "set": list(changed),
        "machine": machine(),
        "tasks": {
            entry.name: {
                "spec": _brief(entry.task),
                "over_seeds": _spread(rows[entry.name]),
                "seeds": rows[entry.name],
            }
            for entry in recipe
            if rows[entry.name]
        },
    }
    path = resources.path() / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _brief(spec: Spec) -> dict[str, Any]:
    """What was asked for, as a recipe says it: without what is the default, and without the seed,
    which each row has."""
    whole = spec.to_dict()
    found = {"kind": whole["kind"]} if "kind" in whole else {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name in ("kind", "seed") or name not in whole or value == field.default:
            continue
        match value:
            case Spec():
                found[name] = _brief(value)
            case (Spec(), *_):
                found[name] = [_brief(each) for each in value]
            case _:
                found[name] = whole[name]
    return found


def _row(info: RunInfo, seed: int) -> dict[str, Any]:
    numbers = {k: v for k, v in info.summary.items() if isinstance(v, int | float | str)}
    lists = {
        k: info.summary[k]
        for k in ("robust_accuracy_by_attack", "flags", "unmet")
        if k in info.summary
    }
    return {"seed": seed, **json.loads(info.note), **numbers, **lists}


def _spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of every figure that tells how good a run is, or how long it took."""
    found = {}
    for key in (*FIGURES, "cpu_seconds"):
        values = [row[key] for row in rows if key in row]
        if values:
            mean = statistics.fmean(values)
            found[key] = {"mean": round(mean, 5), "least": min(values), "most": max(values)}
    return found


if __name__ == "__main__":
    raise SystemExit(main())
