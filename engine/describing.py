"""What can be asked for, in words: tasks, the kinds of their fields, and what an evaluation flags.

All of it comes from the specs themselves, and from the list of flags that the checks have. Nothing
here imports torch.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.errors import Problem, SpecError
from engine.robustness.flags import FLAGS
from engine.task import (
    Spec,
    about_spec,
    extra_of,
    family_of,
    kinds,
    nested,
    task_kinds,
    unknown,
)

WIDTH = 100
"""Columns of a text that goes elsewhere than to a terminal."""

FLAGS_NAME = "flags"
"""What asks for the list of flags; no kind is called that."""


def found(name: str) -> list[type[Spec]]:
    """Every task and every kind of that name: some families have one each, as `vat`.

    Raises SpecError where there is none, with the nearest name."""
    specs = list(dict.fromkeys(spec for spec, _ in _placed() if _kind(spec) == name))
    if not specs:
        known = [*task_kinds(), *dict.fromkeys(_kind(spec) for spec, _ in _placed())]
        raise SpecError([Problem(("kind",), unknown("kind", name, dict.fromkeys(known)))])
    return specs


def schema(specs: list[type[Spec]]) -> Any:
    """The JSON schema of a kind; a list of them where several have the name."""
    whole = [spec.model_json_schema() for spec in specs]
    return whole[0] if len(whole) == 1 else whole


def text(specs: list[type[Spec]], width: int) -> str:
    """What each of them is, its paper, where it goes, and a row for each of its fields."""
    return "\n\n".join("\n".join(_described(spec, width)) for spec in specs)


def flags_text(width: int) -> str:
    """Every flag: its name in a summary and report, what it means for the figures, what to try."""
    rows = [(name, f"{m.title}. {m.means} Try: {m.advice}") for name, m in FLAGS.items()]
    return "\n".join(_table(("flag", "meaning"), rows, width))


def _described(spec: type[Spec], width: int) -> Iterator[str]:
    from textwrap import wrap

    yield from wrap(f"{_kind(spec)}: {about_spec(spec)}", width)
    if spec.cite:
        yield from wrap(f"Paper: {spec.cite}", width)
    places: dict[str, list[str]] = {}
    for each, place in _placed():
        if each is spec and place:
            owner, _, field = place.partition(".")
            places.setdefault(field, []).append(owner)
    if places:
        fields = (f"`{field}` of {', '.join(owners)}" for field, owners in places.items())
        yield from wrap(f"Goes into: {'; '.join(fields)}", width)
    rows = list(_rows(spec))
    if rows:
        yield ""
        yield from _table(("field", "value", "default", "meaning"), rows, width)
    helped = getattr(spec, "summary_help", {})
    if helped:
        yield ""
        yield from _table(("in the summary", "meaning"), list(helped.items()), width)


def _placed() -> Iterator[tuple[type[Spec], str]]:
    """Tasks, and every kind below them with the field that takes it, such as `train.adversarial`:
    the first ones come first."""
    tasks = list(task_kinds().values())
    yield from ((task, "") for task in tasks)
    seen: set[tuple[type[Spec], str]] = set()
    pending: list[type[Spec]] = [*tasks]
    while pending:
        owner = pending.pop(0)
        for name, field in owner.model_fields.items():
            family, one = family_of(field), nested(field)
            members = list(kinds(family).values()) if family else [one] if one else []
            for member in members:
                place = (member, f"{_kind(owner)}.{name}")
                if place in seen:
                    continue
                seen.add(place)
                if family:
                    yield place
                if member not in pending:
                    pending.append(member)


def _kind(spec: type[Spec]) -> str:
    """What names it: its kind, or of a spec that has none, its class."""
    field = spec.model_fields.get("kind")
    return str(field.default) if field is not None else spec.__name__.lower()


# --- rows -----------------------------------------------------------------------------------------


def _rows(spec: type[Spec], above: str = "") -> Iterator[tuple[str, str, str, str]]:
    """One a field, and below a table that is always of one form those of its own."""
    for name, field in spec.model_fields.items():
        if name == "kind":
            continue
        cite = extra_of(field).get("cite")
        meaning = f"{field.title}. {field.description}" + (f" ({cite})" if cite else "")
        yield above + name, _value(field), _default(field), meaning
        one = None if family_of(field) else nested(field)
        if one:
            yield from _rows(one, f"{above}{name}.")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "must be given"
    return _plain(field.default)


def _plain(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case Spec():
            return _kind(type(value)) if "kind" in type(value).model_fields else "its defaults"
        case tuple():
            return f"[{', '.join(map(_plain, value))}]"
        case str():
            return f'"{value}"'
        case float():
            return _number(value)
    return str(value)


def _number(value: float) -> str:
    return f"{value:g}" if value != int(value) else str(int(value))


def _value(field: FieldInfo) -> str:
    """What it takes, and in which range, or which choices there are."""
    family, one = family_of(field), nested(field)
    several = any(typing.get_origin(part) is tuple for part in _unions(field.annotation))
    if family:
        what = f"{'list of kinds' if several else 'kind'}: {', '.join(kinds(family))}"
    elif one:
        what = "table"
    else:
        what = " or ".join(filter(None, map(_word, _unions(field.annotation))))
    limits = _limits(field)
    unit = extra_of(field).get("unit", "")
    return " ".join(filter(None, (what, limits, f"({unit})" if unit else "")))


def _unions(annotation: Any) -> list[Any]:
    """The members of an optional, without None."""
    if typing.get_origin(annotation) in (tuple, typing.Literal) or isinstance(annotation, type):
        return [annotation]
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    return parts or [annotation]


def _word(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(map(str, typing.get_args(annotation)))
    if origin is tuple:
        return f"list: {_word(typing.get_args(annotation)[0])}"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return words.get(annotation, "")


def _limits(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {_number(getattr(limit, name))}"
        for limit in field.metadata
        for name, sign in signs.items()
        if isinstance(getattr(limit, name, None), int | float)
    ]
    return ", ".join(bounds)


def _table(head: tuple[str, ...], rows: list[Any], width: int) -> list[str]:
    """Columns as wide as they need, each but the last at most a quarter of the whole; the last one
    takes the rest. Words that are longer are kept whole: a row that begins with one goes on
    below."""
    from textwrap import wrap

    *inner, _ = zip(head, *rows, strict=True)
    sizes = [min(max(map(len, column)), width // 4) for column in inner]
    sizes.append(max(20, width - sum(sizes) - 2 * len(sizes)))
    lines = []
    for row in (head, tuple("-" * len(name) for name in head), *rows):
        cells = [
            wrap(cell, size, break_long_words=at == 1 < len(inner), break_on_hyphens=False) or [""]
            for at, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ]
        if len(cells[0][0]) > sizes[0]:
            cells[1:] = [["", *cell] for cell in cells[1:]]
        for k in range(max(map(len, cells))):
            parts = [cell[k] if k < len(cell) else "" for cell in cells]
            padded = (part.ljust(size) for part, size in zip(parts, sizes, strict=True))
            lines.append("  ".join(padded).rstrip())
    return lines
