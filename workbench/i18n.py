"""English and Simplified Chinese, switchable while the window is open.

The English text is the key: `tr("Start {name}", name=run)` looks it up in
`resources/translations/zh.json` and fills it in with `str.format`. Whoever shows text connects to
`signals.changed` and sets it again. Text that stands in a table and is looked up later is written
`mark("English")` there, so that the test of completeness finds it.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, Literal, TypeAlias

from PySide6.QtCore import QLocale, QObject, Signal

from engine import resources

Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}
"""What can be chosen, each in its own words."""


class _Signals(QObject):
    changed = Signal()


signals = _Signals()
"""`signals.changed` is emitted after the language has changed."""


def system_language() -> Language:
    """Chinese where the system's first language is, else English."""
    preferred = QLocale.system().uiLanguages()
    return "zh" if preferred and preferred[0].lower().startswith("zh") else "en"


language: Language = system_language()
"""The language that is shown now. Read it; change it with `set_language`."""


def set_language(chosen: Language) -> None:
    """Show `chosen` from now on. Raises ValueError for a language there is no dictionary of."""
    global language
    if chosen not in LANGUAGES:
        raise ValueError(f"no language {chosen!r}; expected one of {', '.join(LANGUAGES)}")
    if chosen != language:
        language = chosen
        signals.changed.emit()


def tr(text: str, /, **values: Any) -> str:
    """`text` in the present language, with `values` filled in."""
    shown = _texts(language).get(text, text)
    return shown.format(**values) if values else shown


def mark(text: str, /) -> str:
    """`text` itself; says that it will be given to `tr` later."""
    return text


def name_of(identifier: str) -> str:
    """What a kind, a status or a choice of a spec is called: "linf" is "L∞"."""
    own = _names(language).get(identifier) or _names("en").get(identifier)
    return own or identifier.replace("_", " ").capitalize()


def tr_like(text: str, patterns: tuple[str, ...]) -> str:
    """`text` that was composed elsewhere (in the engine), translated by the first of `patterns`
    (English with `{name}` for what varies) that it matches; itself where none does."""
    for pattern in patterns:
        found = matched(text, pattern)
        if found is not None:
            return tr(pattern, **found)
    return tr(text)


def matched(text: str, pattern: str) -> dict[str, str] | None:
    """What stands in `text` for each `{name}` of `pattern`; None where it says something else."""
    found = _regex(pattern).fullmatch(text)
    return found.groupdict() if found else None


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    whole = "".join(
        f"(?P<{part}>.*?)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
    return re.compile(whole, re.DOTALL)


def _texts(chosen: Language) -> dict[str, str]:
    return _load(chosen).get("texts", {})


def _names(chosen: Language) -> dict[str, str]:
    return _load(chosen).get("names", {})


@functools.cache
def _load(chosen: Language) -> dict[str, dict[str, str]]:
    file = resources.path("translations", f"{chosen}.json")
    loaded: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return loaded
