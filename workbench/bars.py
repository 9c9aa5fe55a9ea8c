"""The edges of the window: top bar, rail, banner and status bar. They show and emit; the window
decides what it means."""

from __future__ import annotations

from collections import deque
from functools import partial

import shiboken6
from PySide6.QtCore import QElapsedTimer, QObject, Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QApplication,
    QBoxLayout,
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.i18n import mark, tr
from workbench.runs.book import Rate
from workbench.views.text import percent
from workbench.views.widgets import Elided

UNITS = {
    "steps": mark("step"),
    "iterations": mark("iteration"),
    "epochs": mark("epoch"),
    "images": mark("image"),
    "samples": mark("sample"),
    "bytes": mark("byte"),
    "files": mark("file"),
    "checks": mark("check"),
    "corruptions": mark("corruption"),
    "halvings": mark("halving"),
    "clean images": mark("clean image"),
    "training images": mark("training image"),
    "steps of fitting": mark("step of fitting"),
    "points judged": mark("point judged"),
    "samples certified": mark("sample certified"),
    "samples against the certificate": mark("sample against the certificate"),
    "kinds of noise": mark("kind of noise"),
    "draws of the weights": mark("draw of the weights"),
    "shadow models": mark("shadow model"),
    "students": mark("student"),
    "gradients": mark("gradient"),
    "bounds": mark("bound"),
    "queries": mark("query"),
    "rounds": mark("round"),
    "clients": mark("client"),
    "nodes": mark("node"),
    "own models": mark("own model"),
    "products": mark("product"),
    "draws": mark("draw"),
    "models": mark("model"),
}
"""What is counted, in the singular, by the plural that the engine uses."""


def unit_text(unit: str) -> str:
    """What is counted, for a person: "iteration", or "PGD 2, sample" for the samples that an
    attack of an evaluation has done."""
    if unit.startswith("by "):
        from workbench.panels.evaluate_view import attack_name

        return tr("{attack}: sample", attack=attack_name(unit.removeprefix("by ")))
    return tr(UNITS.get(unit, unit))


TOP_HEIGHT, RAIL_WIDTH, STATUS_HEIGHT = 48, 48, 26


def tool_button(icon: str, words: str, parent: QWidget, size: int = 18) -> QToolButton:
    """A flat button with an icon; `words` (English) are its tooltip and accessible name."""
    button = QToolButton(parent, autoRaise=True)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    button.setProperty("words", words)
    theme.set_icon(button, icon, "muted", size)
    refresh_words(button)
    return button


def refresh_words(button: QToolButton) -> None:
    """Set tooltip and accessible name again, after the language or the words changed."""
    words = tr(button.property("words"))
    keys = button.property("keys")
    button.setToolTip(f"{words} ({keys})" if keys else words)
    button.setAccessibleName(words)


def restyle(widget: QWidget, **properties: object) -> None:
    """Set properties that the style sheet looks at, and have it look again."""
    if all(widget.property(name) == value for name, value in properties.items()):
        return
    for name, value in properties.items():
        widget.setProperty(name, value)
    widget.style().unpolish(widget)
    widget.style().polish(widget)


class Bar(QFrame):
    """A strip that is drawn again when theme or language changes."""

    def __init__(self, name: str, direction: type[QBoxLayout], parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.row: QBoxLayout = direction(self)
        self.row.setContentsMargins(12, 0, 12, 0)
        self.row.setSpacing(8)
        theme.manager.changed.connect(self.refresh)
        i18n.signals.changed.connect(self.refresh)

    def refresh(self) -> None:
        """Sizes and words as they are now."""
        for button in self.findChildren(QToolButton):
            if button.property("words"):
                refresh_words(button)


class TopBar(Bar):
    """Where am I, command search, device, and what drives the run."""

    home = Signal()
    search = Signal()
    start = Signal()
    stop = Signal()
    pause = Signal(bool)
    step = Signal()
    toggle_theme = Signal()
    workspace = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__("topbar", QHBoxLayout, parent)
        self._run, self._place, self._device = "", "", ""
        self.logo = tool_button("crucible", mark("Start page"), self, 20)
        theme.set_icon(self.logo, "crucible", "accent", 20)
        self.logo.clicked.connect(self.home)
        self.title = QLabel("Crucible", self)
        self.title.setProperty("tone", "title")
        self.place = QToolButton(self, autoRaise=True)
        self.place.setObjectName("crumb")
        self.place.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.place.clicked.connect(self.workspace)
        self.run = Elided("", self)
        self.run.setProperty("tone", "muted")
        self.field = QPushButton(self)
        self.field.setObjectName("commandField")
        self.field.clicked.connect(self.search)
        inside = QHBoxLayout(self.field)
        inside.setContentsMargins(10, 0, 8, 0)
        self._glass, self._hint, self._keys = QLabel(), QLabel(), QLabel("Ctrl K")
        theme.set_icon(self._glass, "search", "faint", 14)
        self._hint.setProperty("tone", "small")
        self._keys.setProperty("tone", "faint")
        for part in (self._glass, self._hint, self._keys):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            inside.addWidget(part)
            if part is self._hint:
                inside.addStretch()
        self.device = QLabel(self)
        self.device.setProperty("tone", "chip")
        self.themes = tool_button("sun", mark("Light or dark"), self)
        self.themes.clicked.connect(self.toggle_theme)
        self.pauses = tool_button("pause", mark("Pause"), self)
        self.pauses.setProperty("keys", "Space")
        self.pauses.setCheckable(True)
        self.pauses.clicked.connect(self.pause)
        self.steps = tool_button("step", mark("One step"), self)
        self.steps.setProperty("keys", "F10")
        self.steps.clicked.connect(self.step)
        self.stops = tool_button("stop", mark("Stop"), self)
        theme.set_icon(self.stops, "stop", "danger", 18)
        self.stops.clicked.connect(self.stop)
        self.starts = QPushButton(self)
        self.starts.setProperty("look", "primary")
        # Only by Tab: Space after a click on it pauses the run, and does not start another.
        self.starts.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.starts.clicked.connect(self.start)
        left = QHBoxLayout()
        left.setSpacing(6)
        for part in (self.logo, self.title, self.place, self.run):
            left.addWidget(part)
        left.setStretch(3, 1)
        right = QHBoxLayout()
        right.setSpacing(6)
        right.addStretch()
        for part in (
            self.device, self.themes, self.pauses, self.steps, self.stops, self.starts,
        ):  # fmt: skip
            right.addWidget(part, 0, Qt.AlignmentFlag.AlignVCenter)
        self.row.addLayout(left, 1)
        self.row.addWidget(self.field)
        self.row.addLayout(right, 1)
        self.set_state(can_start=False, running=False, paused=False)
        self.refresh()

    def refresh(self) -> None:
        super().refresh()
        self.setFixedHeight(theme.px(TOP_HEIGHT))
        self.field.setFixedSize(theme.px(360), theme.px(30))
        theme.set_icon(self.themes, "sun" if theme.manager.theme.dark else "moon", "muted", 18)
        self._hint.setText(tr("Search or run a command"))
        self.field.setAccessibleName(tr("Search or run a command"))
        self.starts.setText(tr("Start run"))
        self.starts.setAccessibleName(tr("Start run"))
        self.starts.setToolTip(f"{tr('Start run')} (Ctrl+Enter)")
        self.place.setAccessibleName(tr("Workspace"))
        self.set_device(self._device)
        self.set_place(self._place, self._run)

    def set_place(self, workspace: str, run: str, tip: str = "") -> None:
        """The breadcrumbs: the workspace's name and the run's."""
        self._place, self._run = workspace, run
        self.place.setText(f"/  {workspace}" if workspace else "")
        self.place.setToolTip(tip or tr("Open another workspace"))
        self.run.setText(f"/  {run}" if run else "")

    def set_device(self, device: str) -> None:
        self._device = device
        self.device.setText(device or tr("engine starting…"))
        self.device.setAccessibleName(tr("Device"))

    def set_state(self, *, can_start: bool, running: bool, paused: bool) -> None:
        self.starts.setEnabled(can_start)
        for button in (self.pauses, self.steps, self.stops):
            button.setVisible(running)
        theme.set_icon(self.starts, "play", "on_accent" if can_start else "faint", 14, gap=4)
        self.pauses.setChecked(paused)
        theme.set_icon(self.pauses, "play" if paused else "pause", "accent" if paused else "muted")
        self.pauses.setProperty("words", mark("Continue") if paused else mark("Pause"))
        refresh_words(self.pauses)


class Rail(Bar):
    """One icon a place. Places are added as the panels become known. Where the window is too low
    for all of them they scroll, and the one that is open is in sight."""

    chosen = Signal(str)
    settings = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__("rail", QVBoxLayout, parent)
        self.row.setContentsMargins(6, 8, 6, 8)
        self.row.setSpacing(6)
        self._group = QButtonGroup(self)
        self._places: dict[str, QToolButton] = {}
        self._icons: dict[str, str] = {}
        column = QWidget(self)
        self._list = QVBoxLayout(column)
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.setSpacing(6)
        self._list.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._scroll = QScrollArea(self)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setWidgetResizable(True)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setWidget(column)
        self.row.addWidget(self._scroll, 1)
        self.gear = tool_button("gear", mark("Settings"), self)
        self.gear.setProperty("look", "rail")
        self.gear.clicked.connect(self.settings)
        self.row.addWidget(self.gear, 0, Qt.AlignmentFlag.AlignHCenter)
        self.refresh()

    def refresh(self) -> None:
        super().refresh()
        self.setFixedWidth(theme.px(RAIL_WIDTH))

    def add(self, place: str, icon: str, name: str, keys: str = "", *, apart: bool = False) -> None:
        """A further place; `name` in English. One that stands `apart` begins a group."""
        if apart:
            line = QFrame(self)
            line.setProperty("role", "rule")
            line.setFixedSize(theme.px(20), 1)
            self._list.addWidget(line, 0, Qt.AlignmentFlag.AlignHCenter)
        button = tool_button(icon, name, self, 20)
        button.setProperty("look", "rail")
        button.setCheckable(True)
        button.setProperty("keys", keys)
        refresh_words(button)
        button.clicked.connect(lambda _=False, p=place: self.chosen.emit(p))
        self._group.addButton(button)
        self._places[place] = button
        self._icons[place] = icon
        self._list.addWidget(button, 0, Qt.AlignmentFlag.AlignHCenter)

    def choose(self, place: str) -> None:
        """Show `place` as the one that is open."""
        for name, button in self._places.items():
            button.setChecked(name == place)
            if name == place:
                QTimer.singleShot(0, button, partial(self._scroll.ensureWidgetVisible, button, 0))
            theme.set_icon(button, self._icons[name], "accent" if name == place else "muted", 20)

    @property
    def places(self) -> list[str]:
        return list(self._places)


class Banner(Bar):
    """One line across the window for what a person must know now, with what can be done. When it
    goes, it gives the keyboard back to who had it."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__("banner", QHBoxLayout, parent)
        self._about = ""
        self._before: QWidget | None = None
        QApplication.instance().focusChanged.connect(self._focus_moved)  # type: ignore[union-attr]
        self.row.setContentsMargins(12, 6, 8, 6)
        self._icon = QLabel(self)
        self._text = QLabel(self)
        self._text.setWordWrap(True)
        self._actions = QHBoxLayout()
        self._actions.setSpacing(6)
        self._close = tool_button("cross", mark("Close"), self, 14)
        self._close.clicked.connect(self.hide)
        self.row.addWidget(self._icon)
        self.row.addWidget(self._text, 1)
        self.row.addLayout(self._actions)
        self.row.addWidget(self._close)
        self.hide()

    def tell(
        self,
        text: str,
        kind: str = "info",
        actions: tuple[tuple[str, object], ...] = (),
        *,
        about: str = "",
    ) -> None:
        """Show `text` (already in the person's language); `actions` are words and callables.
        `about` names what it is about, for `settled`."""
        self._about = about
        restyle(self, kind=kind)
        icon, token = {
            "info": ("info", "accent"),
            "warning": ("warning", "warning"),
            "error": ("warning", "danger"),
        }[kind]
        theme.set_icon(self._icon, icon, token, 16)
        self._text.setText(text)
        self._text.setAccessibleName(text)
        self._give_back()
        while item := self._actions.takeAt(0):
            if widget := item.widget():
                widget.hide()
                widget.deleteLater()
        for words, call in actions:
            button = QPushButton(words, self)
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.clicked.connect(self.hide)
            button.clicked.connect(lambda _=False, c=call: c())  # type: ignore[misc]
            self._actions.addWidget(button)
        self.show()

    def hide(self) -> None:
        self._give_back()
        super().hide()

    def _focus_moved(self, before: QWidget | None, now: QWidget | None) -> None:
        if now is not None and self.isAncestorOf(now) and not self._holds(before):
            self._before = before

    def _holds(self, widget: QWidget | None) -> bool:
        return widget is not None and self.isAncestorOf(widget)

    def _give_back(self) -> None:
        """Qt would hand the keyboard on to whatever comes next, as the button for the start."""
        if not self._holds(QApplication.focusWidget()):
            return
        before = self._before
        known = before is not None and shiboken6.isValid(before) and before.isVisible()
        (before if known and before is not None else self.window()).setFocus()

    def settled(self, about: str) -> None:
        """What the text said about `about` is no longer so: take it away."""
        if self._about == about:
            self.hide()

    @property
    def text(self) -> str:
        return self._text.text() if not self.isHidden() else ""


class StatusBar(Bar):
    """What goes on, in one line: the run on the left, the machine on the right."""

    language = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__("statusbar", QHBoxLayout, parent)
        self.row.setSpacing(14)
        self._state = ("idle", "")
        self._rate: Rate | None = None
        self._engine: tuple[int | None, bool, bool] = (None, False, False)
        self._memory: tuple[int | None, int | None] = (None, None)
        self._p99: float | None = None
        self._seed: int | None = None
        self._outcome = ""
        self.state = QLabel(self)
        self.state.setObjectName("state")
        self.bar = QProgressBar(self, textVisible=False)
        self.bar.setMaximum(1000)
        self.steps, self.speed, self.left = QLabel(self), QLabel(self), QLabel(self)
        self.engine, self.ui, self.memory, self.seed = (QLabel(self) for _ in range(4))
        self.languages = QToolButton(self, autoRaise=True)
        self.languages.setProperty("look", "quiet")
        self.languages.setText("EN / 中文")
        self.languages.clicked.connect(self.language)
        for part in (self.state, self.bar, self.steps, self.speed, self.left):
            self.row.addWidget(part, 0, Qt.AlignmentFlag.AlignVCenter)
        self.row.addStretch()
        for part in (self.engine, self.ui, self.memory, self.seed, self.languages):
            self.row.addWidget(part)
        self.refresh()

    def set_run(
        self,
        status: str,
        words: str,
        rate: Rate | None,
        seed: int | None = None,
        outcome: str = "",
    ) -> None:
        """`status` colours the chip, `words` are in it; `rate` of what is under way, else the
        `outcome` of what is over."""
        self._state, self._rate, self._seed, self._outcome = (status, words), rate, seed, outcome
        self._show_run()

    def set_engine(self, pid: int | None, ready: bool, silent: bool) -> None:
        """The engine process, whether it can compute, and whether it has stopped to answer."""
        self._engine = (pid, ready, silent)
        self._show_machine()

    def set_memory(self, memory: int | None, gpu: int | None) -> None:
        self._memory = (memory, gpu)
        self._show_machine()

    def set_p99(self, milliseconds: float | None) -> None:
        self._p99 = milliseconds
        self._show_machine()

    def refresh(self) -> None:
        super().refresh()
        self.setFixedHeight(theme.px(STATUS_HEIGHT))
        self.bar.setFixedWidth(theme.px(160))
        self.languages.setToolTip(tr("Language"))
        self.languages.setAccessibleName(tr("Language"))
        self.bar.setAccessibleName(tr("Progress"))
        self._show_run()
        self._show_machine()

    def _show_run(self) -> None:
        status, words = self._state
        restyle(self.state, status=status)
        self.state.setText(words or tr("idle"))
        rate = self._rate
        for part in (self.bar, self.speed, self.left):
            part.setVisible(rate is not None)
        self.steps.setText(self._outcome)
        if rate is not None:
            self.bar.setValue(round(1000 * rate.fraction))
            unit = unit_text(rate.unit)
            of = f" / {grouped(rate.total)}" if rate.total else ""
            share = f"  ·  {percent(rate.fraction, 0)}" if rate.within else ""
            self.steps.setText(f"{unit} {grouped(rate.done)}{of}{share}")
            each = short(rate.per_second)
            steps = rate.unit in ("steps", "iterations")
            self.speed.setText(tr("{rate} it/s", rate=each) if steps else f"{each}/s")
            left = rate.seconds_left
            self.left.setText(tr("ETA {time}", time=clock(left) if left is not None else "–"))
            self.speed.setVisible(rate.per_second > 0)
            self.left.setVisible(left is not None)
        self.seed.setVisible(self._seed is not None)
        self.seed.setText(tr("seed {seed}", seed=self._seed))

    def _show_machine(self) -> None:
        pid, ready, silent = self._engine
        alive = pid is not None and not silent
        restyle(self.engine, alive=alive)
        if pid is None:
            words = tr("no engine")
        elif silent:
            words = tr("engine busy, pid {pid}", pid=pid)
        else:
            words = (
                tr("engine pid {pid}", pid=pid)
                if ready
                else tr("engine starting, pid {pid}", pid=pid)
            )
        self.engine.setText(f"{'●' if alive else '○'} {words}")
        p99 = "–" if self._p99 is None else f"{self._p99:.0f} ms"
        self.ui.setText(f"UI p99 {p99}")
        self.ui.setToolTip(tr("How long the window kept a click waiting, at worst in a hundred"))
        memory, gpu = self._memory
        shown = [tr("memory {size}", size=size(memory))] if memory else []
        if gpu:
            shown.append(tr("GPU {size}", size=size(gpu)))
        self.memory.setText("   ".join(shown))
        self.memory.setVisible(bool(shown))


class Heartbeat(QObject):
    """How long the event loop keeps a person waiting: the lateness of an 8 ms timer, 99th
    percentile of the last seconds. Beats only while something moves."""

    PERIOD_MS = 8

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._late: deque[float] = deque(maxlen=1250)
        self._clock = QElapsedTimer()
        self._timer = QTimer(self, interval=self.PERIOD_MS)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)

    def run(self, on: bool) -> None:
        if on and not self._timer.isActive():
            self._late.clear()
            self._clock.start()
            self._timer.start()
        elif not on:
            self._timer.stop()

    def _beat(self) -> None:
        elapsed = self._clock.nsecsElapsed() / 1e6
        self._clock.restart()
        self._late.append(max(0.0, elapsed - self.PERIOD_MS))

    def p99(self) -> float | None:
        """Milliseconds; None before there is enough to say."""
        if len(self._late) < 100:
            return None
        return sorted(self._late)[int(0.99 * len(self._late))]


def grouped(number: int) -> str:
    """12345 as "12 345", with thin spaces."""
    return f"{number:,}".replace(",", "\u202f")


def short(number: float) -> str:
    """A speed in few digits: 1234, 56, 7.8, 0.034."""
    return f"{number:.0f}" if number >= 10 else f"{number:{'.1f' if number >= 1 else '.2g'}}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(number: float) -> str:
    """Bytes in the unit a person would take."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.1f} {unit}" if unit == "GB" else f"{number:.0f} {unit}"
