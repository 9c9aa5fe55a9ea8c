"""The window: which run is shown where, and what is drawn of what the session says.

At first only the shell is there, so that the window is on the screen at once; what can wait
(specs, forms, views, the engine process) comes in stages after the first paint.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QEvent, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QKeyEvent
from PySide6.QtWidgets import QApplication, QMessageBox, QWidget

from workbench import i18n, theme
from workbench.actions import Actions
from workbench.bars import Heartbeat
from workbench.command_table import bind_keys, commands_of, more_commands
from workbench.commands import Palette, keyboard_list
from workbench.i18n import mark, tr
from workbench.refusals import error_text, holder_text
from workbench.settings import Settings
from workbench.shell import Shell

if TYPE_CHECKING:
    from engine.store import RunInfo
    from workbench.mailbox import News
    from workbench.panels import Panel
    from workbench.panels.details import DetailsView
    from workbench.panels.inspector import Inspector
    from workbench.panels.live import LiveView
    from workbench.panels.log import LogPane
    from workbench.panels.own_view import OwnView
    from workbench.runs.compare import CompareView
    from workbench.runs.record import Record
    from workbench.runs.run_list import RunList
    from workbench.session import Session
    from workbench.views.pictures import Pixels

TICK_MS, IDLE_MS = 33, 150
POLL_MS = 10
"""How often a stage of loading asks whether what it waits for is there."""
LIVE, COMPARE, DETAILS = range(3)
START, COMPARISON, OWN = "start", "compare", "own"
LEAVE_MS = 6000
"""How long closing waits for a cancel to take effect."""


class Window(Shell):
    """Everything a person sees. `begin` is called after the first paint."""

    loaded = Signal()
    """Every stage after the first paint is over."""
    settled = Signal()
    """What was started together has come to its end, and the view has followed it there."""

    session: Session
    inspector: Inspector
    log: LogPane
    run_list: RunList
    compare: CompareView
    details: DetailsView

    def __init__(
        self,
        workspace: Path,
        settings: Settings,
        *,
        data_root: Path | None = None,
        recipe: Path | None = None,
    ) -> None:
        super().__init__(settings)
        self.setAcceptDrops(True)
        self._root, self._data_root = workspace, data_root
        self.recipe = recipe
        """A recipe to run as soon as everything is loaded."""
        self.session = None  # type: ignore[assignment]  # made by the first stage
        self.ready = False
        """Whether everything is loaded."""
        self.panels: dict[str, Panel] = {}
        self.views: dict[str, LiveView] = {}
        self.place, self.tab = START, LIVE
        """Where we are: "start", "compare", "own" or a task kind; and which view of the run."""
        self.own: OwnView | None = None
        """Made when it is first shown."""
        self.shown: str | None = None
        """Id of the run in the centre."""
        self.following = True
        self._coming: deque[Callable[[], None]] = deque()
        """Whether the view goes along with the run under way."""
        self._batch: list[str] = []
        self._past: list[str] = []  # what was put side by side when all of it was over
        self.last_batch: list[str] = []
        """Ids of the runs that were last started together."""
        self._stay_until = 0.0
        self._last_running: str | None = None
        self._leaving = False
        self._presenter: QWidget | None = None
        self._loading = Thread()
        self._ticks = 0
        self._moved = True
        self.do = Actions(self)
        self.heart = Heartbeat(self)
        self.palette_view = Palette(self)
        self._timer = QTimer(self, interval=IDLE_MS)
        self._timer.timeout.connect(self._tick)
        self._commands = commands_of(self)
        self._run_keys = bind_keys(self, self._commands)
        self._tab_pressed = False
        self._tabbed: QWidget | None = None
        """What Tab has brought the keyboard to: Space presses it."""
        self.rail.add(START, "crucible", mark("Start page"), "Alt+1")
        self.rail.choose(START)
        self._wire()
        self._entitle()
        self.setFocus()

    def _wire(self) -> None:
        self.top.home.connect(partial(self.go, START))
        self.top.search.connect(self.open_palette)
        self.top.start.connect(self.do.start)
        self.top.stop.connect(self.do.stop)
        self.top.pause.connect(self.do.pause)
        self.top.step.connect(self.do.single_step)
        self.top.toggle_theme.connect(self.toggle_theme)
        self.top.workspace.connect(self.do.choose_workspace)
        self.rail.chosen.connect(self.go)
        self.rail.settings.connect(self.open_settings)
        self.status.language.connect(self.toggle_language)
        self.tabs.changed.connect(self.turn)
        self.resumer.clicked.connect(self._resume_shown)
        self.tester.clicked.connect(lambda: self.test_own())
        self.start_page.demo.connect(self.do.run_demo)
        self.start_page.recipe.connect(self.do.choose_recipe)
        self.start_page.task.connect(self.new_run)
        self.start_page.data.connect(self.do.choose_data)
        theme.manager.changed.connect(self._show_legend)
        i18n.signals.changed.connect(self._entitle)

    def _entitle(self) -> None:
        self.setWindowTitle(f"{self._root.name} – Crucible")
        self._show_state()

    # --- stages after the first paint -----------------------------------------------------------

    def begin(self) -> None:
        """Load what the first paint could do without, a piece at a time."""
        self._run_stage(
            [
                self._open_workspace,
                self._add_log,
                self._add_runs,
                self._add_panels,
                self._add_inspector,
                self._load_plots,
                self._add_comparison,
                self._all_there,
            ]
        )

    def _run_stage(self, stages: list[Callable[[], None]]) -> None:
        if self._loading.is_alive():
            QTimer.singleShot(POLL_MS, self, partial(self._run_stage, stages))
            return
        stages.pop(0)()
        if stages:
            QTimer.singleShot(0, self, partial(self._run_stage, stages))

    def _open_workspace(self) -> None:
        from engine.errors import BadInput
        from engine.places import default_workspace
        from workbench.session import Session

        try:
            session = Session(self._root, self._data_root, self)
        except BadInput as error:
            self.banner.tell(str(error), "error")
            self._root = default_workspace()
            session = Session(self._root, self._data_root, self)
        self.session = session
        session.open()
        session.start_engine()  # it imports torch while we load the rest
        self.settings.workspace = str(session.workspace.root)
        session.ready.connect(self._engine_ready)
        session.lost.connect(self._engine_lost)
        session.began.connect(self._began)
        session.ended.connect(self._ended)
        session.refused.connect(self.do.refused)
        session.news.connect(self._news)
        session.reloaded.connect(self._reloaded)
        session.health.connect(self.status.set_memory)
        session.changed.connect(self._show_state)
        session.stuck.connect(self._stuck)
        session.book.listed.connect(self._runs_changed)
        session.book.changed.connect(self._run_changed)
        session.book.drawn.connect(self._show_legend)
        session.book.drawn.connect(self._beside_changed)
        if session.read_only:
            self._tell_read_only()
        self._timer.start()
        self._entitle()

    def _tell_read_only(self) -> None:
        self.banner.tell(
            tr(
                "This workspace is open elsewhere ({holder}): you can look at everything, but not "
                "start or change runs. Close the other window, or open another workspace.",
                holder=holder_text(self.session.holder or ""),
            ),
            "warning",
            ((tr("Open another workspace…"), self.do.choose_workspace),),
        )

    def _add_log(self) -> None:
        from workbench.panels.log import LogPane

        self.log = LogPane(self)
        self.log.fold.clicked.connect(partial(self.fold, "log"))
        self.session.line.connect(self.log.add)
        self.log.add(
            time.time(),
            "info",
            "window",
            tr("opened {folder}", folder=self.session.workspace.root),
        )
        self.fill(self.log_place, self.log)

    def _add_runs(self) -> None:
        from workbench.runs.run_list import RunList

        self.run_list = RunList(self)
        self.run_list.set_book(self.session.book)
        self.run_list.selected.connect(self.choose_run)
        self.run_list.asked_new.connect(self.new_run)
        self.run_list.asked_menu.connect(self._run_menu)
        self.run_list.asked_rename.connect(self.do.rename)
        self.run_list.asked_delete.connect(self.do.delete)
        self.run_list.asked_order.connect(self.session.order)
        self.fill(self.runs_place, self.run_list)

    def _add_panels(self) -> None:
        from workbench.panels import all_panels

        self.panels = all_panels()
        places = [(p.order, p.kind, p.icon, p.title) for p in self.panels.values()]
        places.append((35, OWN, "edit", mark("Test your own")))
        places.append((40, COMPARISON, "compare", mark("Compare")))
        before = 0
        for number, (order, *place) in enumerate(sorted(places), start=2):
            keys, apart = f"Alt+{number}" if number < 10 else "", _group(order) != _group(before)
            self.rail.add(*place, keys, apart=apart)
            before = order
        self.rail.choose(self.place)

    def _add_inspector(self) -> None:
        from workbench.panels.inspector import Inspector

        self.inspector = Inspector(self)
        self.inspector.export.connect(self.do.export)
        self.inspector.control.connect(self._set_live)
        self.inspector.edited.connect(self._form_edited)
        self.fill(self.inspector_place, self.inspector)
        self._show_form(next(iter(self.panels)))

    def _load_plots(self) -> None:
        """Importing pyqtgraph takes half a second: in a thread, so that the window stays awake."""
        self._loading = Thread(target=import_module, args=("pyqtgraph",), name="pyqtgraph")
        self._loading.start()

    def _add_comparison(self) -> None:
        from workbench.panels.details import DetailsView
        from workbench.runs.compare import CompareView

        self.compare = CompareView(self)
        self.compare.set_book(self.session.book, self.session.stored)
        self.compare.export.connect(self.do.export)
        self.details = DetailsView(self)
        self.details.noted.connect(self.session.set_note)
        for page in (self.compare, self.details):
            self.pages.addWidget(page)

    def _all_there(self) -> None:
        self.ready = True
        self._runs_changed()
        newest = next(iter(self.session.book.infos()), None)
        if newest is not None and self.place == START:
            self.show_run((self.session.book.running() or newest).id)
        self._show_state()
        self.loaded.emit()
        if self.recipe is not None and not self.do.run_recipe(self.recipe):
            self.settled.emit()

    # --- where we are ---------------------------------------------------------------------------

    def go(self, place: str) -> None:
        """Open a place of the rail: the start page, the comparison, an image of one's own, or a
        task kind."""
        self.following = False
        if place == START:
            self.place = START
            self.pages.setCurrentWidget(self.start_page)
            self.header.hide()
        elif place == COMPARISON and self.ready:
            self.turn(COMPARE)
        elif place == OWN and self.ready:
            self._show_own()
        elif place in self.panels and self.ready:
            self._go_to_kind(place)
        self.rail.choose(self.place)
        self._show_state()

    def show_page(self, title: str) -> None:
        """Turn to a page about the samples, by its English title: of the run that is shown, or of
        the newest attack."""
        if not self.ready:
            return
        if not self.form_is_open or not self.view(self.place).turn_to(title):
            self.go("attack")
            self.view("attack").turn_to(title)
        else:
            self.turn(LIVE)

    def _go_to_kind(self, kind: str) -> None:
        """The run of this kind that was shown, else the newest, else an empty view."""
        self.tab = LIVE
        info, newest = self.info(self.shown), self.newest(kind)
        if info is not None and self.place_of(info) == kind:
            self.show_run(info.id)
        elif newest is not None:
            self.show_run(newest.id)
        else:
            self.show_new(kind)

    def _show_own(self) -> None:
        if self.own is None:
            from workbench.panels.own_view import OwnView

            self.own = OwnView(self)
            self.own.ask = self.session.ask
            self.pages.addWidget(self.own)
            self._offer_models()
        self.place = OWN
        self.header.hide()
        self.pages.setCurrentWidget(self.own)

    def test_own(self, run_id: str | None = None) -> None:
        """Open the place for an image of one's own, with the model of this run, or of the one that
        is shown."""
        chosen = run_id or self.do.classifier()
        self.go(OWN)
        if self.own is not None and chosen:
            self.own.choose(chosen)

    def attack_image(self, pixels: Pixels, source: str) -> None:
        """Open the place for an image of one's own with this image, for the newest model that takes
        images of its size."""
        self.go(OWN)
        if self.own is not None:
            self.own.bring(pixels, source)

    def _offer_models(self) -> None:
        from workbench.runs.book import has_classifier

        if self.own is not None:
            book = self.session.book
            known = [(i.id, book.label(i.id)) for i in book.infos() if has_classifier(i)]
            self.own.set_runs(known)

    def go_number(self, number: int) -> None:
        """The place at `number` of the rail, from 1."""
        places = self.rail.places
        if number <= len(places):
            self.go(places[number - 1])

    def turn(self, tab: int) -> None:
        """Show another view of the run: live, compared with others, or its details."""
        info = self.info(self.shown)
        self.tab = tab
        self.tabs.blockSignals(True)
        self.tabs.set_current(tab)
        self.tabs.blockSignals(False)
        self.header.show()
        if tab == COMPARE:
            self.place = COMPARISON
            if not self.session.book.compared:
                self._compare_something(info)
            self.pages.setCurrentWidget(self.compare)
        else:
            self.place = self.place_of(info) if info else self.inspector.kind
            if tab == DETAILS:
                self.details.show_run(info, self.names())
            self.pages.setCurrentWidget(self.details if tab == DETAILS else self.view(self.place))
        self.rail.choose(self.place)
        self._show_legend()
        self._show_state()

    def _compare_something(self, shown: RunInfo | None) -> None:
        """The shown run, or if it has no accuracy to compare, the newest runs that have."""
        infos = [shown, *self.session.book.infos()]
        accurate = [info for info in infos if info is not None and "clean_accuracy" in info.summary]
        found = accurate[:1] if shown in accurate else accurate[:4]
        for info in found or ([shown] if shown is not None else []):
            self.session.book.compare(info.id, True)

    def choose_run(self, run_id: str) -> None:
        """A person wants to see this run; the view no longer follows, unless it is under way."""
        self.following = run_id == self.session.current
        if self.tab == COMPARE:
            self.tab = LIVE
        self.show_run(run_id)

    def show_run(self, run_id: str) -> None:
        """Put a run into the centre."""
        info = self.info(run_id)
        if info is None or not self.ready:
            return
        self.shown = run_id
        panel = self.panel_of(info)
        if panel is not None:
            self.inspector.show_run(panel, info.spec)
        self._draw_shown(info)
        self.run_list.select(run_id)
        self.turn(DETAILS if self.tab == DETAILS else LIVE)

    def show_details(self, run_id: str) -> None:
        self.tab = DETAILS
        self.show_run(run_id)

    def show_new(self, kind: str) -> None:
        """An empty view of a kind, to set up a run in the form."""
        self.following = False
        self._show_form(kind)
        self.shown = None
        self.view(kind).show_nothing()
        self.log.show_metrics(None)
        self.run_list.select(None)
        self.turn(LIVE)
        self._form_edited()

    def set_up(self, place: str, values: Mapping[str, Any]) -> None:
        """An empty view of a place, its form filled with `values`; that can be undone."""
        self.show_new(place)
        if self.inspector.form is not None:
            self.inspector.form.set_values({**self.panels[place].start, **values})

    def new_run(self) -> None:
        """Set up a run of the kind whose form is open."""
        if self.ready:
            self.show_new(self.inspector.kind)

    def _draw_shown(self, info: RunInfo) -> None:
        """Draw the shown run from its record."""
        record = self.session.record(info.id)
        color = f"series:{self.session.book.color_index(info.id)}"
        self.view_of(info).show_run(self.session.book.named(info), record, color)
        self.log.show_metrics(record)
        if self.tab == DETAILS:
            self.details.show_run(info, self.names())

    def view(self, kind: str) -> LiveView:
        """The view of a kind, made when it is first shown."""
        if kind not in self.views:
            from workbench.panels.live import LiveView

            panel = self.panels.get(kind)
            view = panel.make_view(self) if panel else LiveView(self)
            view.beside = partial(self._beside, kind)
            view.ask, view.drop = self.session.ask, self.session.drop
            view.save_set = self.do.export_set
            view.runs, view.read, view.go_to = self._all_runs, self.session.stored, self.choose_run
            view.set_up = self.set_up
            view.hands = self.do.hands(self._set_live)
            self.views[kind] = view
            view.state_changed(self.session.current, self.session.paused)
            self.pages.addWidget(view)
        return self.views[kind]

    def _set_live(self, name: str, value: float) -> None:
        """Set a live value of the run under way, wherever a person did so, and show it."""
        self.session.control(name, value)
        if self.session.current is not None:
            self.inspector.heard(self.session.current, name, value)

    def _beside(self, kind: str) -> list[tuple[RunInfo, Record, str]]:
        book, stored = self.session.book, self.session.stored
        return [
            (info, stored(info.id), f"series:{book.color_index(info.id)}")
            for info in map(book.info, book.compared)
            if info is not None and self.place_of(info) == kind and info.id != self.shown
        ]

    def _all_runs(self) -> list[tuple[RunInfo, str, str]]:
        """Every run, what it is called, and its colour."""
        book, labels = self.session.book, self.session.book.labels()
        return [(i, labels[i.id], f"series:{book.color_index(i.id)}") for i in book.infos()]

    def _beside_changed(self) -> None:
        info = self.info(self.shown)
        if info is not None and self.place_of(info) in self.views:
            self.view_of(info).beside_changed()

    def place_of(self, info: RunInfo) -> str:
        """The place of the rail that a run belongs to."""
        from workbench.panels import place_of

        return place_of(info.kind, info.spec)

    def panel_of(self, info: RunInfo) -> Panel | None:
        """The panel of a run; None if this version knows none."""
        return self.panels.get(self.place_of(info))

    def view_of(self, info: RunInfo) -> LiveView:
        """The view that draws a run."""
        return self.view(self.place_of(info))

    def newest(self, place: str) -> RunInfo | None:
        """The newest run of a place of the rail."""
        found = [info for info in self.session.book.infos() if self.place_of(info) == place]
        return max(found, key=lambda info: info.id, default=None)

    def info(self, run_id: str | None) -> RunInfo | None:
        return self.session.book.info(run_id) if run_id and self.session else None

    def names(self) -> dict[str, str]:
        """What runs are called, by id."""
        return {info.id: info.name for info in self.session.book.infos()}

    @property
    def form_is_open(self) -> bool:
        """Whether the form belongs to what is in the centre."""
        return self.place not in (START, COMPARISON, OWN)

    def _show_form(self, kind: str) -> None:
        """The form of a kind; one that needs a model has the one that is shown, or the newest."""
        remembered, model = self.settings.forms.get(kind, {}), self.do.wanted(kind)
        values = {**self.panels[kind].start, **remembered}
        field = self.panels[kind].spec.model_fields.get("model")
        if field is not None and field.is_required() and model:
            values["model"] = model
        examples = self.do.exportable_set()
        if "source" in self.panels[kind].spec.model_fields and examples:
            values["source"] = examples
        self.inspector.show_new(self.panels[kind], values)

    def _show_legend(self) -> None:
        if self.session is None:
            return
        book = self.session.book
        ids = book.compared if self.tab == COMPARE else [self.shown]
        self.set_legend(
            [
                (book.label(info.id), theme.series_color(book.color_index(info.id)))
                for info in map(self.info, ids[:6])
                if info is not None
            ]
        )

    # --- following what runs --------------------------------------------------------------------

    def follow(self) -> None:
        """From now on the view goes along with the run under way."""
        self.following = True

    def expect(self, ids: list[str]) -> None:
        """These runs were started together: follow them, and end on their comparison."""
        self._batch = self.last_batch = ids

    def _began(self, run_id: str) -> None:
        self._last_running = run_id
        self.log.add(time.time(), "info", self.session.book.name(run_id), tr("started"))
        if self.following and not self.do.is_exporting:
            self._later(partial(self._follow_to, run_id))
        self._show_state()

    def _later(self, call: Callable[[], None]) -> None:
        """Now, or when what is shown has been seen long enough."""
        wait = max(0.0, self._stay_until - time.monotonic())
        self._coming.append(call)  # two timers may fire in the wrong order; their calls may not
        QTimer.singleShot(round(1000 * wait), self, lambda: self._coming.popleft()())

    def _follow_to(self, run_id: str) -> None:
        info = self.info(run_id)
        # A run that is over before its turn came is seen only if nothing came after it.
        # So is one whose end was known before its beginning was told, when all is side by side.
        # One that is seen already, to its end, is not drawn again: what a person asked of it stays.
        over = info is not None and info.status != "running"
        seen = self._batch or run_id in self._past or run_id == self.shown
        if info is None or not self.following or (over and seen):
            return
        self.tab = LIVE
        self.show_run(run_id)
        self.following = True

    def _ended(self, run_id: str, status: str) -> None:
        info = self.info(run_id)
        self.do.ended(run_id, status)
        if info is not None and status != "failed":  # the session says why one has failed
            self._log_end(info, status)
        if info is not None and status == "failed":
            first = (error_text(info.error).splitlines() or [""])[0]
            self.banner.tell(
                tr("{run} failed: {error}", run=info.name, error=first),
                "error",
                ((tr("Details"), partial(self.show_details, run_id)),),
            )
        if info is not None and status == "rejected":
            from workbench.panels.evaluate_view import unmet_text

            why = "; ".join(unmet_text(str(each)) for each in info.summary.get("unmet", ()))
            self.banner.tell(
                tr("{run} was rejected: {why}", run=info.name, why=why),
                "error",
                ((tr("Details"), partial(self.show_details, run_id)),),
            )
        view = self.views.get(self.place_of(info)) if info is not None else None
        if view is not None and run_id == self.shown and self.following and status == "done":
            self._stay_until = time.monotonic() + view.farewell()
        if run_id in self._batch and self._is_over(self._batch):
            self._later(partial(self._batch_ended, self._batch))
        self._show_state()

    def _log_end(self, info: RunInfo, status: str) -> None:
        from workbench.runs.book import word_of

        words = " · ".join(filter(None, (word_of(status), outcome(info))))
        self.log.add(time.time(), "info", info.name, words)

    def _is_over(self, ids: list[str]) -> bool:
        return all(
            info is None or info.status not in ("queued", "running") for info in map(self.info, ids)
        )

    def _batch_ended(self, ids: list[str]) -> None:
        """All that was started together is over: put its results side by side."""
        if ids != self._batch:
            return
        self._batch = []
        infos = [info for info in map(self.info, ids) if info is not None]
        accurate = [info.id for info in infos if "clean_accuracy" in info.summary]
        if len(accurate) > 1 and self.following:
            self._past = ids
            self.session.book.compare_only(accurate)
            self.turn(COMPARE)
        self.settled.emit()

    # --- what the session says ------------------------------------------------------------------

    def _engine_ready(self, device: str) -> None:
        self.top.set_device(device)
        self.banner.settled("engine")
        self.log.add(time.time(), "info", "engine", tr("ready on {device}", device=device))
        if self.own is not None:
            self.own.engine_changed()
        self._form_edited()

    def _engine_lost(self, cause: str) -> None:
        actions: list[tuple[str, object]] = [
            (tr("Start the engine again"), self.session.restart_engine)
        ]
        infos = [self.info(run_id) for run_id in (self._last_running, self.shown)]
        info = next((i for i in infos if i is not None and i.status == "interrupted"), None)
        if info is not None:
            actions.insert(0, (tr("Resume {run}", run=info.name), partial(self.do.resume, info.id)))
        self.banner.tell(
            tr("{cause} The window and everything that was recorded are safe.", cause=cause),
            "error",
            tuple(actions),
            about="engine",
        )
        self.status.set_memory(None, None)
        self.log.add(time.time(), "error", "engine", cause)
        self.top.set_device(tr("no engine"))

    def _stuck(self, run_id: str) -> None:
        self.banner.tell(
            tr(
                "{run} has not stopped yet: it is inside a long step. Stop now ends the engine; "
                "what was recorded stays, and the run can be resumed.",
                run=self.session.book.name(run_id),
            ),
            "warning",
            ((tr("Stop now"), self.session.stop_now),),
        )

    def _news(self, run_id: str, news: News) -> None:
        info = self.info(run_id)
        if run_id == self.shown and info is not None:
            self.view_of(info).news(news)

    def _reloaded(self, run_id: str) -> None:
        info = self.info(run_id)
        if run_id == self.shown and info is not None:
            self._draw_shown(info)

    def _runs_changed(self) -> None:
        from workbench.runs.book import counts_as

        if self.ready:
            infos = self.session.book.infos()
            self.inspector.set_runs([(info.id, info.name, counts_as(info)) for info in infos])
            self._offer_models()
            self._tell_views()
        self._show_legend()
        self._show_state()

    def _run_changed(self, run_id: str) -> None:
        info = self.info(run_id)
        if run_id == self.shown and info is not None:
            if self.place_of(info) in self.views:
                self.view_of(info).update_info(self.session.book.named(info))
            if self.tab == DETAILS:
                self.details.show_run(info, self.names())
        if info is not None and info.status not in ("queued", "running"):
            self._tell_views()
        self.do.progressed(run_id)
        self._moved = True

    def _tell_views(self) -> None:
        """What other runs came to has changed."""
        for view in self.views.values():
            view.runs_changed()

    def _form_edited(self) -> None:
        """Show what the form would give, while no run is shown."""
        if self.inspector.form is not None and not self.inspector.form.problems:
            self.banner.settled("form")
        if self.ready and self.shown is None and self.form_is_open and self.inspector.form:
            view = self.view(self.inspector.kind)
            view.preview(self.inspector.form.values(), self.session.ask)

    # --- ticks ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Thirty times a second while something moves: take the news, draw what can be seen."""
        self.session.drain()
        self._ticks += 1
        moving = self.session.book.running() is not None
        page = self.pages.currentWidget()
        if not self.isMinimized():
            for view in self.views.values():
                if view is page:
                    view.draw()
        self._timer.setInterval(TICK_MS if moving else IDLE_MS)
        self.heart.run(moving)
        if self._moved and (not moving or self._ticks % 6 == 0):
            self._moved = False
            self._show_run_status()
        if moving and self._ticks % 30 == 0:
            self.status.set_p99(self.heart.p99())
            self.log.show_metrics(self.session.known_record(self.shown))

    def _show_state(self) -> None:
        """Buttons, breadcrumbs and status bar, after anything changed."""
        session = self.session
        if session is None:
            return
        root = session.workspace.root
        info = self.info(self.shown) if self.form_is_open else None
        self.top.set_place(root.name, info.name if info else "", str(root))
        self.top.set_state(
            can_start=self.ready and not session.read_only,
            running=session.current is not None,
            paused=session.paused,
        )
        for key in self._run_keys:
            key.setEnabled(session.current is not None)
        self.resumer.setVisible(info is not None and session.can_resume(info))
        self.inspector_place.setVisible(self.place != OWN)  # there is nothing to configure
        if session.read_only:
            self.top.set_device(tr("read-only"))
        why = tr("This workspace is read-only here.") if session.read_only else ""
        self.start_page.set_ready(bool(session.device), why)
        self.status.set_engine(session.pid, bool(session.device), session.silent)
        if self.ready:
            self.inspector.show_live(self.info(session.current))
            for view in self.views.values():
                view.state_changed(session.current, session.paused)
            can_export = self.do.exportable() is not None and not session.read_only
            self.inspector.exporter.setEnabled(can_export)
            self.tester.setVisible(self._has_model(info))
        self._show_run_status()

    def _has_model(self, info: RunInfo | None) -> bool:
        """Whether a run has a model that says classes, or came from one."""
        from workbench.runs.book import has_classifier

        if info is None:
            return False
        related = [info, *map(self.info, info.lineage.values())]
        return any(each is not None and has_classifier(each) for each in related)

    def _resume_shown(self) -> None:
        if self.shown is not None:
            self.do.resume(self.shown)

    def _show_run_status(self) -> None:
        from workbench.runs.book import word_of

        session = self.session
        running = session.book.running()
        info = running or (self.info(self.shown) if self.form_is_open else None)
        if info is None:
            self.status.set_run("idle", tr("idle"), None)
            return
        status, words = info.status, word_of(info.status)
        if running is not None and running.id == session.current:
            if session.cancelling:
                status, words = "paused", tr("stopping…")  # type: ignore[assignment]
            elif session.paused:
                status, words = "paused", tr("paused")  # type: ignore[assignment]
        rate = session.book.rate(info.id)
        self.status.set_run(status, words, rate, info.spec.get("seed"), outcome(info))

    # --- small windows --------------------------------------------------------------------------

    def open_palette(self) -> None:
        self.palette_view.open([*self._commands, *more_commands(self)])

    def show_setting(self, kind: str, path: tuple[str, ...]) -> None:
        """Open the form of a kind, and put the cursor into the field at `path`."""
        if self.place != kind:
            self.go(kind)
        if not self.columns.wanted(self.inspector_place):
            self.fold("inspector")
        if self.inspector.form is not None:
            self.inspector.form.focus_field(path)

    def open_settings(self) -> None:
        from workbench.settings_menu import settings_menu

        gear, menu = self.rail.gear, settings_menu(self)
        place = QPoint(gear.width() + 4, gear.height() - menu.sizeHint().height())
        menu.exec(gear.mapToGlobal(place))

    def show_keys(self) -> None:
        keyboard_list(self._commands, self).open()

    def find_run(self) -> None:
        self.run_list.search.setFocus()

    def undo(self, back: bool) -> None:
        """Take back a change of the form, or (not `back`) make it again."""
        form = self.inspector.form
        if form is not None:
            (form.undo if back else form.redo)()

    def present(self) -> None:
        """One card full screen; Esc or the same key brings it back."""
        from workbench.present import Presenter, card_to_present

        page = self.pages.currentWidget()
        card = card_to_present(page) if page is not None else None
        if card is not None and self._presenter is None:
            self._presenter = Presenter(card)
            self._presenter.closed.connect(self._presented)

    def _presented(self) -> None:
        self._presenter = None

    def _run_menu(self, ids: list[str], where: QPoint) -> None:
        from workbench.runs.menu import run_menu

        run_menu(self, ids).exec(where)

    # --- hands ----------------------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            tab = (Qt.Key.Key_Tab, Qt.Key.Key_Backtab)
            self._tab_pressed = event.key() in tab
            focus = QApplication.focusWidget()
            if event.key() == Qt.Key.Key_Space and focus is self._tabbed is not None:
                event.accept()  # the control has it, not the key of the command
                return True
        return super().event(event)

    def focusNextPrevChild(self, forward: bool) -> bool:
        """Also called when what has the keyboard goes away: that is nobody's choice."""
        moved = super().focusNextPrevChild(forward)
        self._tabbed = QApplication.focusWidget() if self._tab_pressed else None
        self._tab_pressed = False
        return moved

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape:
            self.banner.hide()
        else:
            super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(url.toLocalFile().endswith(".toml") for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        for url in event.mimeData().urls():
            if url.toLocalFile().endswith(".toml"):
                path = Path(url.toLocalFile())
                QTimer.singleShot(0, self, partial(self.do.open_recipe, path))
                return

    # --- leaving --------------------------------------------------------------------------------

    def closeEvent(self, event: QCloseEvent) -> None:
        if self.session is not None and self.session.busy and not self._leaving:
            event.ignore()
            self._ask_to_leave()
            return
        self.hide()  # the engine may take a moment to leave
        self._leave()
        event.accept()

    def _ask_to_leave(self) -> None:
        """Cancel and close, or stay; keeping the run going without a window is not offered."""
        session = self.session
        box = QMessageBox(self)
        box.setWindowTitle(tr("Close the window"))
        name = session.book.name(session.current or session.book.queue[0])
        box.setText(tr("{run} is not finished.", run=name))
        box.setInformativeText(
            tr("Closing cancels it. What has been recorded stays, and it can be resumed later.")
        )
        cancel = box.addButton(tr("Cancel run and close"), QMessageBox.ButtonRole.DestructiveRole)
        stay = box.addButton(tr("Stay"), QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stay)
        box.setEscapeButton(stay)
        cancel.clicked.connect(self.cancel_and_close)
        box.open()

    def cancel_and_close(self) -> None:
        """Cancel everything; close as soon as that has taken effect, or after a few seconds."""
        self._leaving = True
        if self.session is None or not self.session.busy:
            QTimer.singleShot(0, self, self.close)
            return
        self.session.changed.connect(self._close_when_idle)
        self.session.cancel_all()
        QTimer.singleShot(LEAVE_MS, self, self.close)

    def _close_when_idle(self) -> None:
        if not self.session.busy:
            QTimer.singleShot(0, self, self.close)

    def _leave(self) -> None:
        """Remember sizes, end the engine, give the workspace free."""
        self._timer.stop()
        self.heart.run(False)
        if self._presenter is not None:
            self._presenter.close()
        self.keep_sizes()
        self.settings.save()
        if self.session is not None:
            self.session.close()


def _group(order: int) -> int:
    """Which group of the rail a place of this order belongs to: the start, what tests a model,
    what looks at results, what brings in or hands over."""
    return bisect_right((0, 32, 50), order - 1)


def outcome(info: RunInfo) -> str:
    """The accuracies and the epsilon that a run came to, in a few words."""
    from workbench.views.text import number, percent
    from workbench.words import word

    parts = [
        f"{word(key)} {percent(float(info.summary[key]))}"
        for key in ("clean_accuracy", "robust_accuracy")
        if isinstance(info.summary.get(key), int | float)
    ]
    for key, sign in (("epsilon_lower_bound", "ε ≥"), ("epsilon", "ε")):
        if isinstance(info.summary.get(key), int | float):
            parts.append(f"{sign} {number(float(info.summary[key]))}")
            break
    return " · ".join(parts)
