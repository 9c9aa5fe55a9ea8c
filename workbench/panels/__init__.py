"""One panel a task kind: its icon, how a run of it is described, and how it is drawn.

Every task kind that the engine knows has a panel. A kind that needs more than the standard live
view has a module `workbench/panels/KIND_panel.py`, which may define any of

    ICON: str                                   name of a file in resources/icons
    ORDER: int                                  place on the rail
    detail(spec) -> str                         a few words about a run's spec
    make_view(parent) -> LiveView               what draws its runs
    unset(values) -> {field: words}             what a form's sections that are off stand for

A place of the rail may also be for a part of a task kind's runs: its module, named in PARTS, says
besides

    OF: str                                     the task kind
    TITLE: str                                  English
    holds(spec) -> bool                         whether a run with this spec belongs here
    START: {field: value}                       what its form begins with
    FIRST: (field, ...)                         what stands first in its form
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from PySide6.QtWidgets import QWidget

from workbench.i18n import name_of

if TYPE_CHECKING:
    from engine.task import Task
    from workbench.panels.live import LiveView


PARTS = ("privacy",)
"""Places for a part of a task kind's runs."""


@dataclass(frozen=True)
class Panel:
    """What the window needs to know of a place of the rail. `title` is English; `kind` names the
    place: a task kind, or one of PARTS."""

    kind: str
    title: str
    icon: str
    order: int
    detail: Callable[[Mapping[str, Any]], str]
    make_view: Callable[[QWidget], LiveView]
    unset: Callable[[Mapping[str, Any]], Mapping[str, str]]
    spec: type[Task]
    start: Mapping[str, Any]
    first: tuple[str, ...]


def all_panels() -> dict[str, Panel]:
    """The panels of every task kind and of the parts of one, in the order of the rail. Imports the
    specs."""
    from engine.task import task_kinds

    specs = task_kinds()
    panels = [_panel(kind, spec) for kind, spec in specs.items()]
    panels += [_panel(part, specs[_part(part).OF]) for part in PARTS]
    return {panel.kind: panel for panel in sorted(panels, key=lambda p: (p.order, p.kind))}


def _panel(kind: str, spec: type[Task]) -> Panel:
    own = custom_module(kind)
    return Panel(
        kind=kind,
        title=getattr(own, "TITLE", spec.title),
        icon=getattr(own, "ICON", "bolt"),
        order=getattr(own, "ORDER", 50),
        detail=getattr(own, "detail", plain_detail),
        make_view=getattr(own, "make_view", _standard_view),
        unset=getattr(own, "unset", _nothing_unset),
        spec=spec,
        start=getattr(own, "START", {}),
        first=getattr(own, "FIRST", ()),
    )


def place_of(kind: str, spec: Mapping[str, Any]) -> str:
    """The place of the rail that a run belongs to, without importing the specs."""
    for part in PARTS:
        if kind == _part(part).OF and _part(part).holds(spec):
            return part
    return kind


def _part(name: str) -> Any:
    return custom_module(name)


@cache
def custom_module(kind: str) -> ModuleType | None:
    """The module that draws `kind` in a way of its own, if there is one."""
    name = f"{__name__}.{kind}_panel"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def detail_of(kind: str, spec: Mapping[str, Any]) -> str:
    """A few words about a run, without importing the specs."""
    own = custom_module(kind) if kind.isidentifier() else None
    describe: Callable[[Mapping[str, Any]], str] = getattr(own, "detail", plain_detail)
    try:
        return describe(spec)
    except (KeyError, TypeError, ValueError, AttributeError):
        return name_of(kind)  # a spec of another version


def plain_detail(spec: Mapping[str, Any]) -> str:
    """The kinds that a spec is made of."""
    parts = [name_of(str(spec.get("kind", "")))]
    parts += [
        name_of(value["kind"])
        for value in spec.values()
        if isinstance(value, dict) and "kind" in value
    ]
    return " · ".join(parts)


def _nothing_unset(values: Mapping[str, Any]) -> Mapping[str, str]:
    return {}


def _standard_view(parent: QWidget) -> LiveView:
    from workbench.panels.live import LiveView

    return LiveView(parent)
