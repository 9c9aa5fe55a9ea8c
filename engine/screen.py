"""What a person sees of runs in a terminal: one line that moves, and how each of them ended."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.events import Event, Failed, Note, Progress, Saved, Scalars, Started
from engine.store import Run, RunInfo

_LABELS = {
    "train/loss": "loss",
    "attack/loss": "loss",
    "validation/accuracy": "val. accuracy",
    "validation/loss": "val. loss",
    "validation/robust_accuracy": "val. robust accuracy",
    "train/accuracy": "accuracy",
    "test/accuracy": "accuracy",
    "attack/success_rate": "success",
    "attack/robust_accuracy": "robust accuracy",
}
"""The scalars that are worth a place on the line, what they are called there, the first first."""
_GAP = "  "
_REDRAWN = 0.1
"""Seconds between two drawings of the line."""


# --- the line that moves --------------------------------------------------------------------------


class Pace:
    """How fast a progress goes, and when it will be done. What was done before it was first heard
    of, as by a run that is resumed, counts for nothing."""

    def __init__(self) -> None:
        self._first: Progress | None = None
        self._last = 0.0
        self._begun = 0.0

    def rate(self, now: Progress, seconds: float) -> float | None:
        """Per second, at `seconds` of any steady clock; None until it can be told."""
        first = self._first
        same = first is not None and (first.unit, first.total) == (now.unit, now.total)
        reached = _reached(now)
        if first is None or not same or reached < self._last:
            first, self._begun = now, seconds
        self._first, self._last = first, reached
        done, passed = reached - _reached(first), seconds - self._begun
        return done / passed if done > 0 and passed > 0 else None


def _reached(now: Progress) -> float:
    """What is done, with its share of what is under way."""
    return now.fraction * now.total if now.total else now.done


def compose(
    title: str,
    progress: Progress | None,
    rate: float | None,
    scalars: Mapping[str, float],
    width: int,
) -> str:
    """The line: title, bar, count, time left and rate, then as many scalars as fit into `width`
    columns. The title is cut short before anything is left out."""
    from rich.cells import cell_len, set_cell_size  # a Chinese character is two columns wide

    parts: list[str] = []
    if progress is not None:
        total = progress.total
        if total:
            parts.append(_bar(progress.fraction, 20 if width >= 100 else 10))
        count = f"{_short(progress.done)}/{_short(total)}" if total else _short(progress.done)
        parts.append(f"{count} {progress.unit}")
        if rate is not None:
            if total:
                parts.append(f"{_clock((total - _reached(progress)) / rate)} left")
            parts.append(f"{_short(round(rate)) if rate >= 9.5 else f'{rate:.2g}'}/s")
    room = max(8, width - sum(len(_GAP) + len(part) for part in parts))
    if cell_len(title) > room:
        title = set_cell_size(title, room - 1).rstrip() + "…"
    line = _GAP.join([title, *parts])
    for name, label in _LABELS.items():
        if name in scalars:
            part = f"{_GAP}{label} {_value(label, scalars[name])}"
            if cell_len(line) + len(part) <= width:
                line += part
    return line if cell_len(line) <= width else set_cell_size(line, width)


def _bar(share: float, length: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * length)
    return "━" * full + "─" * (length - full)


def _short(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f}M"


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if hours >= 10:
        return f"{hours:,} h"
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"


def _value(label: str, value: float) -> str:
    return f"{value:.4g}" if label.endswith("loss") else f"{100 * value:.1f} %"


class Screen:
    """The line while a run goes on; what it notes, and a summary line at its end."""

    def __init__(self, workspace: Path | None = None) -> None:
        """`workspace` is what to name beside a run, where it is not the default."""
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        # A thread that draws could not be told that its terminal is gone.
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._place = ["--workspace", str(workspace)] if workspace else []
        self._drawn = 0.0
        if self._console.is_terminal:  # elsewhere it would leave an empty line
            self._live.start()

    def begin(self, info: RunInfo, position: int, count: int) -> None:
        of = f"[{position}/{count}] " if count > 1 else ""
        self._title = f"{of}{info.name}"
        self._scalars: dict[str, float] = {}
        self._progress: Progress | None = None
        self._rate: float | None = None
        self._pace = Pace()
        self._error = ""
        self._begun: float | None = None
        self._draw()

    def hear(self, run: Run, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Started():  # what was before, as the import of torch, is not the run's
                    self._begun = time.monotonic()
                case Scalars():
                    self._scalars.update(event.values)
                case Progress():
                    self._progress = event
                    self._rate = self._pace.rate(event, time.monotonic())
                case Note():
                    mark = {"info": "", "warning": "warning: ", "error": "error: "}[event.level]
                    self._say(f"{mark}{event.text}")
                case Saved():
                    self._say(f"wrote {event.path} ({event.size:,} bytes)")
                case Failed():
                    self._error = event.error
                case _:
                    pass
        if time.monotonic() - self._drawn > _REDRAWN:
            self._draw()

    def end(self, info: RunInfo) -> None:
        text = info.error or self._error or unmet(info) or headline(info)
        took = "" if self._begun is None else f"  ({time.monotonic() - self._begun:.1f} s)"
        self._say(f"{info.name}: {info.status}  {text}{took}  {info.id}")
        if info.status in ("cancelled", "interrupted"):
            self._say(f"go on with: {shlex.join(['engine', 'resume', info.id, *self._place])}")

    def close(self) -> None:
        if self._console.is_terminal:
            self._live.update("", refresh=False)
            self._live.stop()

    def _draw(self) -> None:
        from rich.text import Text

        self._drawn = time.monotonic()
        if self._console.is_terminal:
            width = self._console.width - 1  # in the last column some terminals break the line
            line = compose(self._title, self._progress, self._rate, self._scalars, width)
            self._live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


# --- words ----------------------------------------------------------------------------------------


OTHERS = (
    "accuracy",
    "epsilon",
    "epsilon_lower_bound",
    "auc",
    "psnr",
    "modes_covered",
    "high_quality",
    "error",
    "fid",
)
"""Of what is no classifier, or hides something, or was audited."""

SHARES = ("high_quality", "error")
"""Fractions besides accuracies and rates."""


def headline(info: RunInfo) -> str:
    """The results that matter most, in a few words."""
    names = ["clean_accuracy", "robust_accuracy", "success_rate", *OTHERS, "file"]
    if "clean_accuracy" in info.summary:
        names.remove("accuracy")  # which of a training is the same
    if "median_norm" in info.summary:  # of a search for the smallest perturbation
        attack = info.spec.get("attack", {})
        names.insert(3, "median_norm")
        if attack.get("eps") is None:  # which breaks every sample at some size
            names.remove("robust_accuracy")
    return "  ".join(
        f"{name} {shown(name, info.summary[name])}" for name in names if name in info.summary
    )


def unmet(info: RunInfo) -> str:
    """What was required of a run's result and is not so; empty if there is nothing."""
    return "; ".join(map(str, info.summary.get("unmet", ())))


def shown(name: str, value: Any) -> str:
    """A value of a summary for a person: accuracies and rates in percent."""
    if value is None and name == "median_norm":
        return "none (fewer than half were broken)"
    if isinstance(value, float):
        share = name.endswith(("accuracy", "rate")) and "per_second" not in name
        share = share or name in SHARES
        return f"{100 * value:.2f} %" if share else f"{value:.6g}"
    return str(value)


def when(stamp: str) -> str:
    """A time of a record (UTC), as the clock on this wall shows it."""
    if not stamp:
        return ""
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(info: RunInfo) -> str:
    """From when it was first started until it ended; empty while that cannot be told."""
    if not info.started or not info.ended:
        return ""
    begun, ended = map(datetime.fromisoformat, (info.started, info.ended))
    seconds = (ended - begun).total_seconds()
    return f"{seconds:.1f} s" if seconds < 60 else _clock(seconds)
