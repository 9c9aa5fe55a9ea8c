"""Runs and forms written down as recipes that `engine run` and the window read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from engine.errors import SpecError
from engine.events import Change, with_change
from engine.files import atomic
from engine.store import RunInfo
from engine.task import extra_of, parse_task, references, task_kinds, with_references

Find = Callable[[str], RunInfo | None]
"""The run of an id, or None if it is no longer there."""
Changes = Callable[[str], Sequence[Change]]
"""What a person changed while the run of an id went, in its order."""


def recipe_text(tasks: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None) -> str:
    """TOML with one [[task]] for each of `tasks` (values with `name` and `kind`), in their order.

    `names` says what the runs are called that reference fields name by id.
    """
    tables = []
    for task in tasks:
        known = names or {}
        given = {
            name: _named(value, known) if name in _reference_fields(task["kind"]) else value
            for name, value in _deep(task, known).items()
            if value is not None
        }
        first = {name: given.pop(name) for name in ("name", "kind") if name in given}
        tables.append(first | given)
    return tomli_w.dumps({"task": tables}, multiline_strings=False)


def _named(value: Any, names: Mapping[str, str]) -> Any:
    """One reference, or several, by name."""
    if isinstance(value, list | tuple):
        return [names.get(each, each) for each in value]
    return names.get(value, value)


def _deep(task: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """The values of a task, with the references inside of its parts, as of an attack, by name."""
    try:
        inside = references(parse_task({k: v for k, v in task.items() if k != "name"}))
    except SpecError:  # of another version; it is written down as it is
        return task
    known = {path: names[ref] for path, ref in inside.items() if "." in path and ref in names}
    return with_references(task, known)


def recipe_of(run: RunInfo, find: Find, changes: Changes = lambda run: ()) -> str:
    """The recipe that makes `run` again: its whole lineage, parents first, then itself, with the
    live values that a person changed on the way.

    Names are those of the runs, told apart where two share one. A parent that is no longer there
    stays named by its id, so that reading the recipe says what is missing.
    """
    ordered: dict[str, RunInfo] = {}

    def visit(info: RunInfo) -> None:
        if info.id in ordered:
            return
        for parent in info.lineage.values():
            found = find(parent)
            if found is not None:
                visit(found)
        ordered[info.id] = info

    visit(run)
    names = _names(ordered)
    tasks = [
        {
            "name": names[info.id],
            **with_references(with_changes(info.spec, changes(info.id)), info.lineage),
        }
        for info in ordered.values()
    ]
    return recipe_text(tasks, names)


def with_changes(spec: Mapping[str, Any], made: Sequence[Change]) -> Mapping[str, Any]:
    """A run's spec and the changes that were made on the way."""
    if not made:
        return spec
    held = [Change(c["name"], c["value"], c["step"]) for c in spec.get("changes", ())]
    for change in made:
        held = with_change(held, change)
    return {**spec, "changes": [dataclasses.asdict(change) for change in held]}


def save_recipe(path: Path, text: str) -> None:
    """Write a recipe; a file that was there is replaced as a whole or not at all.

    Raises CrucibleError where that is not possible.
    """
    with atomic(path) as file:
        file.write(text.encode())


def _names(runs: Mapping[str, RunInfo]) -> dict[str, str]:
    """A name for each run by its id, none of them twice."""
    names: dict[str, str] = {}
    for run, info in runs.items():
        name, number = info.name, 1
        while name in names.values():
            number += 1
            name = f"{info.name} {number}"
        names[run] = name
    return names


def _reference_fields(kind: str) -> frozenset[str]:
    spec = task_kinds().get(kind)
    if spec is None:
        return frozenset()
    fields = spec.model_fields
    return frozenset(name for name, field in fields.items() if extra_of(field).get("reference"))
