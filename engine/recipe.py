"""Recipes: TOML files with a list of tasks that refer to each other by name.

    [[task]]
    name = "plain"
    kind = "train"
    epochs = 12

    [[task]]
    name = "broken"
    kind = "attack"
    model = "plain"

A reference means the task of that name in the recipe, else a run of the workspace (by name, id or
unique prefix), else a file. Torch-free.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import BadInput, CrucibleError, Problem, SpecError
from engine.models.spec import Module
from engine.store import Run, Workspace
from engine.task import (
    Spec,
    Task,
    decimal_of,
    extra_of,
    parse_task,
    references,
    with_references,
)

S = TypeVar("S", bound=Spec)

MODEL_FILES = (".age", ".safetensors")
"""How the name of a model file ends; any other reference is the name or id of a run."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One task of a recipe. `parents` maps its reference fields to names of earlier entries."""

    name: str
    task: Task
    parents: Mapping[str, str]


def read_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> list[Entry]:
    """The entries of a recipe file, in the order in which they can run.

    `changes` maps "task.field.field" to values, as `--set` gives them. Relative paths in the
    recipe are meant from its own folder, those in `changes` from the current one. Raises BadInput,
    with every fault, if it is no recipe.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not a text file; expected TOML in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not TOML: {error}{_fraction(text, str(error))}") from None
    try:
        return entries(document, changes or {}, path.absolute().parent)
    except SpecError as error:
        raise BadInput(f"{path} has {_count(len(error.problems), 'fault')}:\n{error}") from None


def _fraction(text: str, error: str) -> str:
    """What to write instead of a fraction that stands in the line of which `error` tells."""
    line = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    if line is None or not 0 < int(line[1]) <= len(lines):
        return ""
    found = re.search(r"[=,\[]\s*(\d[\d.]*\s*/\s*\d[\d.]*)", lines[int(line[1]) - 1])
    decimal = decimal_of(found[1]) if found else None
    return f". TOML has no fractions: write {decimal} for {found[1]}" if found and decimal else ""


def entries(
    document: Mapping[str, Any], changes: Mapping[str, Any] | None = None, base: Path | None = None
) -> list[Entry]:
    """The entries of a recipe as TOML reads it, relative paths meant from `base`, if it is given.

    Raises SpecError with every fault."""
    extra = [key for key in document if key != "task"]
    if extra:
        raise SpecError([Problem((extra[0],), "a recipe holds [[task]] tables and nothing else")])
    tables = document.get("task")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise SpecError([Problem(("task",), "a recipe holds at least one [[task]] table")])
    pending = dict(changes or {})
    problems: list[Problem] = []
    found: dict[str, Entry] = {}
    for number, table in enumerate(tables, start=1):
        values = dict(table)
        name = values.pop("name", None) or f"{values.get('kind', 'task')}-{number}"
        if not isinstance(name, str) or name in found:
            problems.append(Problem((str(name),), "names of tasks are texts, each used once"))
            continue
        for key in [key for key in pending if key.split(".")[0] == name]:
            change(values, key.split(".")[1:], pending.pop(key))
        try:
            task = parse_task(values)
        except SpecError as error:
            problems.extend(error.within(name).problems)
            continue
        found[name] = Entry(name, task, {})
    for key in pending:
        name = key.split(".")[0]
        problems.append(Problem((key,), f"there is no task {name!r}; {_nearest(name, found)}"))
    if problems:
        raise SpecError(problems)
    if base is not None:
        for name, entry in found.items():
            keys = [key.split(".", 1) for key in changes or {}]
            typed = [field for task, field in keys if task == name]
            found[name] = replace(entry, task=_absolute(entry.task, base, typed, found))
    return _ordered(
        {
            name: Entry(name, e.task, {f: r for f, r in references(e.task).items() if r in found})
            for name, e in found.items()
        }
    )


def enqueue(
    workspace: Workspace,
    recipe: Sequence[Entry],
    *,
    label: str | None = None,
    data_root: Path | None = None,
) -> list[Run]:
    """One queued run an entry, with every reference resolved to an id or a file.

    `label` groups them: resuming one of them continues with the rest, on the data in `data_root`
    unless another is named then. Raises SpecError if a reference means nothing or not what it
    should, or a task says that it cannot be done; BadInput or StorageError if they cannot be
    written; nothing is left of any of them then.
    """
    problems = []
    resolved: dict[str, dict[str, str]] = {}
    for entry in recipe:
        resolved[entry.name] = {}
        for field, ref in references(entry.task).items():
            if field in entry.parents:
                continue
            try:
                resolved[entry.name][field] = _resolve(workspace, ref)
            except BadInput as error:
                others = [other.name for other in recipe if other is not entry]
                hint = f" In the recipe: {_nearest(ref, others)}." if others else ""
                problems.append(Problem((entry.name, field), f"{error}{hint}"))
                continue
            try:
                _check_made(workspace, resolved[entry.name][field], _is_of_examples(entry, field))
            except BadInput as error:
                problems.append(Problem((entry.name, field), str(error)))
        try:
            entry.task.check(workspace.root)
        except BadInput as error:
            problems.append(Problem((entry.name,), str(error)))
    if problems:
        raise SpecError(problems)
    made: dict[str, Run] = {}
    try:
        for entry in recipe:
            found = resolved[entry.name]
            for field, parent in entry.parents.items():
                found[field] = made[parent].id
            lineage = {f: ref for f, ref in found.items() if (workspace.folder / ref).is_dir()}
            spec = with_references(entry.task.to_dict(), found)
            made[entry.name] = workspace.create(
                spec,
                name=entry.name,
                lineage=lineage,
                recipe=label if len(recipe) > 1 else None,
                data_root=data_root,
            )
    except CrucibleError:
        for run in made.values():
            run.discard()
        raise
    return list(made.values())


def code_files(recipe: Sequence[Entry]) -> list[str]:
    """The Python files that the recipe would run: a recipe's own `trust` is the word of whoever
    wrote it, so a person is asked before it is run from a file."""
    found = (getattr(entry.task, "model", None) for entry in recipe)
    return sorted({model.factory for model in found if isinstance(model, Module)})


def rest_of(workspace: Workspace, run: Run) -> list[Run]:
    """The run, and what its recipe has after it that has not come to its own end yet."""
    info = run.info()
    if info.recipe is None:
        return [run]
    later = [
        Run(workspace.folder / other.id)
        for other in reversed(workspace.runs())
        if other.recipe == info.recipe
        and other.id > info.id
        and other.status in ("queued", "interrupted", "cancelled", "skipped")
    ]
    return [run, *later]


def _resolve(workspace: Workspace, ref: str) -> str:
    with contextlib.suppress(BadInput):
        return workspace.find(ref).id
    path = Path(ref).expanduser()
    with contextlib.suppress(OSError):  # too long for a name
        if path.is_file():
            return str(path.absolute())
    if path.suffix in MODEL_FILES:
        raise BadInput(f"there is no file {ref!r}")
    return workspace.find(ref).id


def _check_made(workspace: Workspace, ref: str, examples: bool) -> None:
    """Raises BadInput if `ref` is a run without what is wanted of it, a model or `examples`, that
    is not about to make it."""
    run = Run(workspace.folder / ref)
    if run.folder.is_dir() and run.info().status not in ("queued", "running"):
        _ = run.examples_file() if examples else workspace.model_file(ref)
    elif examples and not run.folder.is_dir():
        raise BadInput(f"{ref} is no run of this workspace: expected an attack or an evaluation")


def _is_of_examples(entry: Entry, field: str) -> bool:
    described = type(entry.task).model_fields[field.partition(".")[0]]
    return extra_of(described).get("reference") == "examples"


def _ordered(found: Mapping[str, Entry]) -> list[Entry]:
    """Parents first, else as written. Raises SpecError on a cycle."""
    done: dict[str, Entry] = {}

    def visit(entry: Entry, path: tuple[str, ...]) -> None:
        if entry.name in path:
            circle = " -> ".join((*path[path.index(entry.name) :], entry.name))
            raise SpecError([Problem((entry.name,), f"the references go in a circle: {circle}")])
        if entry.name not in done:
            for parent in entry.parents.values():
                visit(found[parent], (*path, entry.name))
            done[entry.name] = entry

    for entry in found.values():
        visit(entry, ())
    return list(done.values())


def change(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the field at `path`, making the tables on the way to it."""
    for key in path[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[key]
    values[path[-1]] = value


def _absolute(
    spec: S, base: Path, typed: Collection[str], names: Collection[str], at: tuple[str, ...] = ()
) -> S:
    """`spec` with its relative paths meant from `base`, those below a field in `typed`, which the
    command line gave, from the current folder. A reference with the suffix of a model file is a
    path too, unless it is among `names`."""
    found: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value, where = getattr(spec, name), (*at, name)
        here = Path.cwd() if ".".join(where) in typed else base
        extra = extra_of(field)
        if isinstance(value, Spec):
            found[name] = _absolute(value, here, typed, names, where)
        elif isinstance(value, str) and value:
            model = extra.get("reference") and value.endswith(MODEL_FILES) and value not in names
            if model or extra.get("path"):
                found[name] = str(here / os.path.expanduser(value))  # noqa: PTH111 - cannot raise
        elif isinstance(value, tuple) and any(isinstance(each, Spec) for each in value):
            found[name] = tuple(_absolute(each, here, typed, names, where) for each in value)
        elif isinstance(value, tuple) and extra.get("reference"):
            found[name] = tuple(
                str(here / os.path.expanduser(each))  # noqa: PTH111 - cannot raise
                if each.endswith(MODEL_FILES) and each not in names
                else each
                for each in value
            )
    return spec.model_copy(update=found)


def _nearest(name: str, names: Iterable[str]) -> str:
    """What to say after a name that means nothing: the nearest that does, and all of them."""
    known = list(names)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? There" if near else "there"
    return f"{hint} are: {', '.join(known)}"


def parse_change(text: str, form: str = "task.field=value") -> tuple[str, Any]:
    """`task.field=value` as (path, value); the value is TOML, or text if it is none."""
    key, sign, value = text.partition("=")
    path = key.strip()
    if not sign or not all(path.split(".")) or path.count(".") < form.count("."):
        raise BadInput(f"--set {text!r} is not of the form {form}")
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path, value


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
