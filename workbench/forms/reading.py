"""What a form needs to know of a spec's fields: their type, their defaults, their help."""

from __future__ import annotations

import functools
import html
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.task import Spec, extra_of, family_of, kinds
from workbench.i18n import mark, tr, tr_like

Values: TypeAlias = dict[str, Any]
"""A spec as JSON values: what `engine.task.parse` takes. Nothing stands for None."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a plain field holds."""

    type: Literal["bool", "int", "float", "str", "choice", "points"]
    many: bool = False
    """A tuple of it."""
    optional: bool = False
    choices: tuple[Any, ...] = ()


def shape_of(field: FieldInfo) -> Shape:
    """The shape of a field that holds no spec. Raises TypeError for a type forms cannot show."""
    annotation = field.annotation
    parts = typing.get_args(annotation)
    optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        optional = type(None) in parts
        annotation = next(part for part in parts if part is not type(None))
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return Shape("choice", optional=optional, choices=typing.get_args(annotation))
    many = origin is tuple
    if many:
        annotation = typing.get_args(annotation)[0]
        if typing.get_origin(annotation) is Literal:
            return Shape("choice", many, optional, typing.get_args(annotation))
        if annotation == tuple[float, float]:
            return Shape("points", many, optional)
    for known in (bool, int, float, str):
        if annotation is known:
            return Shape(known.__name__, many, optional)  # type: ignore[arg-type]
    raise TypeError(f"a form cannot show a field of type {field.annotation}")


def members_of(field: FieldInfo) -> dict[str, type[Spec]] | None:
    """The specs that a field can hold, by kind ("" for one that has none); None if it holds none.

    A family with a single member has that one.
    """
    family = family_of(field)
    if family is not None:
        return dict(kinds(family))
    for part in (field.annotation, *typing.get_args(field.annotation)):
        if inspect.isclass(part) and issubclass(part, Spec):
            return {"": part}
    return None


def is_optional(field: FieldInfo) -> bool:
    return type(None) in typing.get_args(field.annotation)


def is_many(field: FieldInfo) -> bool:
    """Whether it holds several specs."""
    return typing.get_origin(field.annotation) is tuple and members_of(field) is not None


def defaults(spec: type[Spec]) -> Values:
    """The values of a spec of which nothing has been said; what must be given is absent."""
    return {
        name: _plain(field.default)
        for name, field in spec.model_fields.items()
        if field.default is not PydanticUndefined and field.default is not None
    }


def complete(spec: type[Spec], values: Mapping[str, Any]) -> Values:
    """`values` and, where they say nothing, the defaults; in the specs inside it too. What is
    not known is left for the spec's own validation to refuse."""
    whole = defaults(spec) | dict(values)
    for name, field in spec.model_fields.items():
        members, inner = members_of(field), whole.get(name)
        if members is not None and isinstance(inner, Mapping):
            member = member_of(members, inner.get("kind", ""))
            whole[name] = complete(member, inner) if member else dict(inner)
        elif members is not None and isinstance(inner, list | tuple):
            whole[name] = [_completed(members, each) for each in inner]
    return whole


def _completed(members: Mapping[str, type[Spec]], values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    member = member_of(members, values.get("kind", ""))
    return complete(member, values) if member else dict(values)


def member_of(members: Mapping[str, type[Spec]], kind: str) -> type[Spec] | None:
    """The member of that kind, the first if no kind is given; None if there is no such kind."""
    return members.get(kind) if kind else next(iter(members.values()))


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a form, as it is searched for. Texts are English."""

    path: tuple[str, ...]
    title: str
    within: tuple[str, ...]
    """The titles of the sections that it stands in."""


@functools.cache
def settings_of(spec: type[Spec]) -> tuple[Setting, ...]:
    """Every field that a form of `spec` can show, of whatever kind its sections are."""
    found: dict[tuple[str, ...], Setting] = {}
    _gather(spec, (), (), found)
    return tuple(found.values())


def _gather(
    spec: type[Spec],
    path: tuple[str, ...],
    within: tuple[str, ...],
    found: dict[tuple[str, ...], Setting],
) -> None:
    for name, field in spec.model_fields.items():
        here, title = (*path, name), field.title or name
        if name == "kind" or (here in found and members_of(field) is None):
            continue
        found.setdefault(here, Setting(here, title, within))
        for member in (members_of(field) or {}).values():
            if here.count(name) == 1:  # a spec may hold another of its own family
                _gather(member, here, (*within, title), found)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        fields = type(value).model_fields
        own = {name: _plain(getattr(value, name)) for name in fields}
        return {name: value for name, value in own.items() if value is not None}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


# --- text and values ----------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """A value as a person would write it: 8/255 rather than 0.03137254901960784."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    if isinstance(value, float):
        part = round(value * 255)
        short = repr(value)
        if len(short) > 8 and 0 < part < 255 and part / 255 == value:
            return f"{part}/255"
        return short.removesuffix(".0") if value.is_integer() and abs(value) < 1e16 else short
    return str(value)


def value_of(text: str, shape: Shape) -> Any:
    """What `text` says; the text itself where it is no number, for the spec to refuse it."""
    text = text.strip()
    if shape.many:
        parts = text.replace("，", ",").replace("；", ",").replace(";", ",").split(",")
        one = Shape(shape.type)
        return [value_of(part, one) for part in parts if part.strip()]
    if shape.type == "str":
        return text
    number = _number(text)
    if number is None:
        return text
    if shape.type == "float":
        return float(number)
    return int(number) if number == int(number) else number


def _number(text: str) -> int | float | None:
    above, slash, below = text.partition("/")
    try:
        if slash:
            return float(above) / float(below)
        try:
            return int(text)
        except ValueError:
            number = float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if number - number == 0 else None  # neither infinite nor NaN


# --- help ---------------------------------------------------------------------------------------


def help_of(field: FieldInfo) -> str:
    """Description, range and source of a field, as rich text for a tool tip."""
    cite = str(extra_of(field).get("cite", ""))
    return help_text(field.description or "", range_of(field), cite=cite)


def help_text(text: str, limits: str = "", *, cite: str) -> str:
    """A description, translated, the range and the source, as rich text for a tool tip."""
    parts = [f"<p>{html.escape(line)}</p>" for line in (tr(text), limits) if line]
    if cite:
        parts.append(f"<p><i>{html.escape(cite)}</i></p>")
    return "".join(parts)


def range_of(field: FieldInfo) -> str:
    """The range of a number in words, empty where there is none."""
    low = high = ""
    for limit in field.metadata:
        for name, sign in (("ge", "≤"), ("gt", "<")):
            if (bound := getattr(limit, name, None)) is not None:
                low = f"{_bound(bound)} {sign} "
        for name, sign in (("le", "≤"), ("lt", "<")):
            if (bound := getattr(limit, name, None)) is not None:
                high = f" {sign} {_bound(bound)}"
    if not low and not high:
        return ""
    return tr("Range: {range}", range=f"{low}x{high}")


def _bound(bound: float) -> str:
    return "2⁶³ − 1" if bound == 2**63 - 1 else text_of(bound)


PROBLEMS = (
    mark("this field must be given"),
    mark("must be at least {limit}, but it is {given}"),
    mark("must be above {limit}, but it is {given}"),
    mark("must be at most {limit}, but it is {given}"),
    mark("must be below {limit}, but it is {given}"),
    mark("must be a number, but it is {given}: write {decimal}"),
    mark("must be a number, but it is {given}"),
    mark("must be a whole number, but it is {given}"),
    mark("must be text, but it is {given}"),
    mark("must be a finite number, but it is {given}"),
    mark("must match the pattern {pattern}, but it is {given}"),
    mark('expected a share of 1 as in ">= 0.5", but it is {given}'),
    mark("must not be shorter than {count}, but it is {given}"),
    mark("must have at least {least} in it, not {count}"),
    mark("must have at most {most} in it, not {count}"),
    mark("there is no value {given}; did you mean {near}? Expected one of: {known}"),
    mark("there is no value {given}; expected one of: {known}"),
    mark("there is no field {given}; did you mean {near}? Expected one of: {known}"),
    mark("there is no field {given}; expected one of: {known}"),
    mark("there is no kind {given}; did you mean {near}? Expected one of: {known}"),
    mark("there is no kind {given}; expected one of: {known}"),
    mark(
        "{attack} has one perturbation for all images, which is fitted to a model as it is; a "
        "training changes it with every step. Train against an attack on single images, such as "
        "pgd, and evaluate with this one"
    ),
    mark(
        "in linf it must be at most 1, since images lie in [0, 1] (8 of 255 grey levels are "
        "0.0314), but it is {given}"
    ),
    mark(
        "attacks: with an epsilon of 0 none of them can change anything, and the robust accuracy "
        "would be the clean one; give at least one an eps above 0"
    ),
    mark(
        "certified_radius says where certified accuracy is judged, and none is required: "
        'give certified_accuracy too, as in ">= 0.9", or leave the radius out'
    ),
    mark(
        "require: nothing proves a certified accuracy; give certify, of the kind ibp or "
        "smoothing, or leave certified_accuracy out"
    ),
    mark(
        "require: at which radius certified accuracy is judged is not said; give "
        "certified_radius, or the certificate some radii"
    ),
)
"""What `engine.task.parse` says of a fault, for translation."""


def problem_text(text: str) -> str:
    """What is wrong with a field, in the present language."""
    return tr_like(text, PROBLEMS)


def problem_line(text: str) -> str:
    """The same as it stands below a field; empty where nothing is wrong."""
    shown = problem_text(text)
    return f"✕ {shown[:1].upper()}{shown[1:]}" if text else ""


def without_nothing(values: Mapping[str, Any]) -> Values:
    """`values` without those that are None."""
    return dict(_given(values))


def _given(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield name, without_nothing(value)
        elif isinstance(value, list | tuple):
            yield name, [without_nothing(v) if isinstance(v, Mapping) else v for v in value]
        elif value is not None:
            yield name, value
