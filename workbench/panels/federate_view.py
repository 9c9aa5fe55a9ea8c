"""How a federated training is drawn (see `federate_panel`): who has what before it starts; its
clients, rounds and updates while it runs; what an audit makes of a captured update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PySide6.QtCore import QItemSelectionModel, Qt
from PySide6.QtWidgets import QGridLayout, QPushButton, QSizePolicy, QWidget

from engine.events import Table
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, name_of, tr
from workbench.mailbox import News
from workbench.panels.audit_parts import likeness
from workbench.panels.budget import COMPUTING, PLAN, BudgetCard
from workbench.panels.client_views import (
    COURSES_COME,
    GRID_COMES,
    HIDDEN,
    PARTITION_COMES,
    PLANE_COMES,
    TIMELINE_COMES,
    ClientsCard,
    CoursesCard,
    PartitionCard,
    TimelineCard,
    UpdatesCard,
)
from workbench.panels.federation import LETTERS, STATES, Chosen, Federation, size_text
from workbench.panels.live import NOTHING, Ask, Curve, LiveView
from workbench.panels.train_view import LOCAL
from workbench.refusals import error_text
from workbench.runs.record import Record
from workbench.views.card import Card, seat
from workbench.views.curves import CurveCard
from workbench.views.mosaic import Link, Mosaic
from workbench.views.table import Percent, TableCard
from workbench.views.text import percent

PARTITION_ROW, FACTS_ROW, BUDGET_ROW = 52, 53, 54
FOUND_ROW = 55
RESTS = 6
"""Ticks between two rounds of drawing what is drawn by hand."""
READS = 30
"""Ticks between two tables."""
NOT_DRAWN = ("classes",)
BACKDOOR = "global/attack_success_rate"
WITH_PRIVACY = ("epsilon", "clipped", "max_update_norm")
BYTES = 4
"""Of a parameter as it is sent."""
TABLE_COLUMNS = (
    "client",
    "state",
    "hostile",
    "images",
    "loss",
    "accuracy",
    "cosine",
    "norm",
    "drift",
    "sent",
    "received",
)
SAID_AS = {"images": "examples", "sent": "bytes_up", "received": "bytes_down"}
"""What the engine calls columns that are called otherwise here."""
READ_LATER = mark("The data set is read, and downloaded if need be, when the run starts.")
NOT_KNOWN = mark("It starts from a run of which this workspace does not say its data.")
COUNTING = mark("The images are being dealt out…")
NO_CAPTURE = mark(
    "Name clients under More, Capture, in the form, and what they send is kept: an audit by "
    "gradient inversion then shows here what images it gives away."
)
CAPTURED = mark(
    "Updates of this run are kept. An audit by gradient inversion shows here what images they give "
    "away."
)


class FederateView(LiveView):
    """Global curves beside the plane of updates; the clients beside their rounds; then the course
    of each client, its figures, reconstructions, and who has what."""

    counted = mark("Round")
    first_row = 10
    table_rows = 12

    def __init__(self, parent: QWidget | None = None) -> None:
        self.told = Federation()
        self.chosen = Chosen()
        self.clients = ClientsCard(self.told, self.chosen)
        self.timeline = TimelineCard(self.told, self.chosen)
        self.updates = UpdatesCard(self.told, self.chosen)
        self.courses = CoursesCard(self.told, self.chosen)
        self.partition = PartitionCard(self.chosen)
        self.budget = BudgetCard()
        self.facts = TableCard(mark("Before you start"), empty=COUNTING)
        self.found = _Found()
        self.count = QPushButton()
        self._values: Mapping[str, Any] = {}
        self._dealt: Mapping[str, Any] = {}
        self._parameters = 0
        self._answered: tuple[int, int] | None = None
        self._stale: list[Callable[[], None]] = []
        self._idle = 0
        self._previews = True
        self._audits_are_old = False
        super().__init__(
            parent,
            curves=(
                Curve("accuracy", mark("Accuracy of the global model"), percent=True, smooth=False),
                Curve("loss", mark("Loss"), smooth=False),
                Curve("epsilon", mark("Privacy budget")),
                Curve("clipped", mark("Clipped updates"), percent=True, smooth=False),
                Curve("max_update_norm", mark("Clipping norm"), smooth=False),
                Curve("bytes", mark("Sent in a round"), unit="MB", smooth=False),
            ),
            tables={"clients": mark("Clients of the newest round")},
            hidden=("picked", "kept", "seconds", "lr"),
            empty=mark(
                "Drawn while a federation trains. Set it up in the form and press Start run."
            ),
        )
        for card in self._drawn:
            self._place(card)
            card.setMinimumHeight(theme.px(236))
        self.curves["accuracy"].setMinimumHeight(theme.px(236))
        self.facts.fit(8)
        self.partition.setMinimumHeight(theme.px(280))
        self.count.setProperty("look", "chip")
        self.count.clicked.connect(self._count_now)
        self.count.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.partition.foot.addWidget(self.count, 0, Qt.AlignmentFlag.AlignHCenter)
        self.count.hide()
        self.grid.addWidget(self.partition, PARTITION_ROW, 0, 1, 2)
        self.grid.addWidget(self.facts, FACTS_ROW, 0, 1, 2)
        self.grid.addWidget(self.found, FOUND_ROW, 0, 1, 2)
        self.found.start.clicked.connect(self._audit)
        self.found.open.clicked.connect(lambda: self.go_to(self.found.audit))
        table = self.tables["clients"].table
        table.selectionModel().selectionChanged.connect(self._row_chosen)
        self.chosen.changed.connect(self._choose_row)
        self._preview(True)
        self.retranslate()

    @property
    def _drawn(self) -> tuple[Card, ...]:
        """What is drawn by hand."""
        return self.updates, self.clients, self.timeline, self.courses

    def _make_curve(self, curve: Curve) -> CurveCard:
        if curve.quantity != "epsilon":
            return super()._make_curve(curve)
        self.budget.setParent(self)
        return self.budget

    def _in_order(self, cells: list[QWidget]) -> list[QWidget]:
        known: dict[str, QWidget] = {
            "accuracy": self.curves["accuracy"],
            "updates": self.updates,
            "clients": self.clients,
            "timeline": self.timeline,
            "courses": self.courses,
            **self.curves,
        }
        if not self._is_private:
            # What takes turns must not leave a hole where it would stand.
            known |= {name: known.pop(name) for name in WITH_PRIVACY if name in known}
        first = [card for card in known.values() if card in cells]
        return first + [cell for cell in cells if cell not in first]

    def _arrange(self) -> None:
        """Where nothing stands beside the last card, it takes the whole row; before a run the
        budget has one below the facts."""
        super()._arrange()
        if self._previews:
            self.grid.addWidget(seat(self.budget), BUDGET_ROW, 0, 1, 2)
            return
        cells = self._in_order([cell for cell, is_wide in self._cells if not is_wide])
        hidden = 0 if self._is_private else len(WITH_PRIVACY)
        last = len(cells) - hidden - 1
        if last >= 0 and last % 2 == 0:
            self.grid.addWidget(seat(cells[last]), self.first_row + last // 2, 0, 1, 2)

    @property
    def _clients(self) -> int:
        """How many the run that is shown has."""
        return int(self.info.spec.get("clients") or 0) if self.info is not None else 0

    @property
    def _is_private(self) -> bool:
        return bool(self.info is not None and self.info.spec.get("privacy"))

    def _preview(self, on: bool) -> None:
        """Before a run: who has what, and the sizes. While it runs, all the rest as well."""
        self._previews = on
        for card in (*self._drawn, *self.curves.values()):
            seat(card).setVisible(not on)
        for name in WITH_PRIVACY:
            seat(self.curves[name]).setVisible(not on and self._is_private)
        self.found.setVisible(not on)
        self.facts.setVisible(on)
        self.count.setVisible(on and self._can_count)
        self._arrange()
        self._explain_emptiness()

    _can_count = False
    """Whether the images are counted only when a person asks for it."""

    # --- a run

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        # A run that is drawn anew keeps the client that is looked at.
        chosen = self.chosen.client if self.info is not None and self.info.id == info.id else None
        super().show_run(info, record, color)
        self._preview(False)
        self.budget.set_terms(info.spec.get("privacy") or {})
        self._about(info)
        self._catch_up()
        self.chosen.choose(chosen)

    def update_info(self, info: RunInfo) -> None:
        before = self.info
        super().update_info(info)
        if before is None or (before.status, before.summary) != (info.status, info.summary):
            self._about(info)
            self._catch_up()

    def _about(self, info: RunInfo) -> None:
        self.told.working = info.status == "running"
        if not self.told.working:
            self._answered = None
        self._show_audit()

    def show_nothing(self) -> None:
        self.told.forget()
        self._dealt, self._parameters, self._answered = {}, 0, None
        self._fooled = None
        self.chosen.choose(None)
        super().show_nothing()
        for card in (*self._drawn, self.partition, self.facts):
            card.clear()  # type: ignore[attr-defined]
        self.found.clear()
        self._stale.clear()
        self._preview(True)

    def news(self, news: News) -> None:
        progress = news.progress
        if progress is not None and progress.unit == "clients" and self.told.is_training:
            self._answered = int(progress.done), int(progress.total)
            self._later(self._show_clients)
        super().news(news)

    def draw(self) -> None:
        super().draw()
        self._idle += 1
        self._since += 1
        if self._stale and self._idle >= RESTS:
            self._stale.pop(0)()
            if not self._stale:
                self._idle = 0
        elif self._unread and self._since >= READS and self._table_is_seen:
            self._show_table()  # it costs more than all else, and nobody reads it faster

    @property
    def _table_is_seen(self) -> bool:
        return not self.tables["clients"].visibleRegion().isEmpty()

    _unread = False
    """There is more for the table than it shows."""
    _since = 0
    """Ticks since it was filled."""

    def rest(self) -> None:
        super().rest()
        self._catch_up()

    def _later(self, *shows: Callable[[], None]) -> None:
        """Draw these when it is their turn."""
        self._stale += [show for show in shows if show not in self._stale]

    def _catch_up(self) -> None:
        """Draw all there is, now."""
        self._stale.clear()
        for show in (
            self._show_clients,
            self.timeline.changed,
            self.updates.take,
            self.courses.take,
            self._show_table,
        ):
            show()

    def _show_clients(self) -> None:
        self.clients.changed(self._answered)

    # --- what it says

    def show_table(self, table: Table) -> None:
        if table.name == PLAN:
            steps, epsilon, renyi = zip(*table.rows, strict=True) if table.rows else ((), (), ())
            self.budget.set_planned(steps, epsilon, renyi, self._color)
        elif table.name in NOT_DRAWN:
            return
        elif self.told.take(table, self._clients):
            self._show_told(table.name)
        else:
            super().show_table(table)

    def _show_told(self, name: str) -> None:
        if name == "partition":
            told = self.told
            self.partition.set_counts(told.classes, told.counts, told.clients)
            return
        if name == "picked":
            self._answered = None
        self._later(self._show_clients)
        if name == "rounds":
            self._later(self.timeline.changed, self.updates.take, self.courses.take)
        if name == "clients":
            self._later(self.updates.take)
            self._unread = True

    def _append(
        self, name: str, steps: Sequence[float], values: Sequence[float], replace: bool = False
    ) -> None:
        if name.startswith("client/"):
            self.told.append(name, steps, values)
            self._later(self.courses.take)
            return
        if self._card_of(name) == "bytes":
            values = [value / 1e6 for value in values]
        if name == BACKDOOR and len(values):
            self._fooled = float(values[-1])
            self._show_fooled()
        super()._append(name, steps, values, replace)

    _fooled: float | None = None
    """The share that the backdoor turns, after the newest round."""

    def _show_fooled(self) -> None:
        told = self._fooled
        share = percent(told) if told is not None else ""
        words = tr("backdoor succeeds {share}", share=share) if share else ""
        self.curves["accuracy"].set_note(words)

    def _card_of(self, name: str) -> str:
        what = super()._card_of(name)
        if what in ("bytes_up", "bytes_down"):
            return "bytes"
        return "accuracy" if what == "attack_success_rate" else what

    def _declare(self, name: str) -> None:
        card = self.curves[self._card_of(name)]
        color, dashed = self._color, False
        if name == BACKDOOR:
            color, dashed = "danger", True
        elif name in ("round/accuracy", "round/loss", "round/bytes_down"):
            dashed = True
        card.set_series(name, self._label(name), color, dashed)
        if name in ("global/accuracy", "global/loss"):
            card.set_primary(name)

    def _label(self, name: str) -> str:
        known = {
            "global/accuracy": tr("Test images"),
            "global/loss": tr("Test images"),
            BACKDOOR: tr("Backdoor succeeds"),
            "round/accuracy": tr("Clients, on their own images"),
            "round/loss": tr("Clients, on their own images"),
            "round/bytes_up": tr("by clients"),
            "round/bytes_down": tr("to clients"),
            "privacy/epsilon": tr("Spent"),
            "privacy/clipped": tr("of those kept"),
            "privacy/max_update_norm": tr("Clipping norm"),
        }
        return known.get(name) or super()._label(name)

    # --- the table of clients, which chooses too

    def _show_table(self) -> None:
        self._unread, self._since = False, 0
        card = self.tables["clients"]
        private = any(row.get("epsilon") is not None for row in self.told.rows.values())
        columns = (*TABLE_COLUMNS, *(("epsilon",) if private else ()))
        rows = [tuple(self._cell(name, row) for name in columns) for row in self.told.rows.values()]
        self._is_filling = True
        card.set_table(columns if rows else (), rows)
        self._is_filling = False
        seat(card).setVisible(bool(rows) or (not self._previews and not self._has_ended))
        self._choose_row()

    _is_filling = False

    def _cell(self, name: str, row: Mapping[str, Any]) -> Any:
        value = row.get(SAID_AS.get(name, name))
        if name == "state":
            letter = LETTERS.get(str(value))
            return tr(STATES[letter].name) if letter else str(value)
        if name == "hostile":
            return name_of(str(value)) if value else None
        if name == "accuracy" and value is not None:
            return Percent(100 * value)
        if name == "images" and not value:
            return self.told.images(int(row["client"]))
        if name in ("sent", "received") and value is not None:
            return Percent(value / 1000)
        return value

    def _row_chosen(self, *_: object) -> None:
        if self._is_filling:
            return
        table = self.tables["clients"].table
        rows = table.selectionModel().selectedRows()
        if rows:
            self.chosen.choose(int(rows[0].data().replace("\u202f", "")))

    def _choose_row(self) -> None:
        table = self.tables["clients"].table
        model, wanted = table.model(), self.chosen.client
        self._is_filling = True
        table.clearSelection()
        for row in range(model.rowCount()) if wanted is not None else ():
            index = model.index(row, 0)
            if index.data().replace("\u202f", "") == str(wanted):
                flags = QItemSelectionModel.SelectionFlag
                table.selectionModel().select(index, flags.ClearAndSelect | flags.Rows)
                table.scrollTo(index)
                break
        self._is_filling = False

    # --- what an audit makes of an update

    def runs_changed(self) -> None:
        self._audits_are_old = True
        if self.isVisible():
            self._show_audit()

    def showEvent(self, event: object) -> None:
        if self._audits_are_old:
            self._show_audit()

    def _show_audit(self) -> None:
        """The newest audit by inversion of the run that is shown, if there is one."""
        self._audits_are_old = False
        if self.info is None:
            return
        for info, name, _ in self.runs():
            kind = (info.spec.get("audit") or {}).get("kind")
            if kind == "inversion" and info.lineage.get("model") == self.info.id:
                key = f"{info.id} {info.status}"
                if self.found.key != key:
                    self.found.show_audit(info, name, self.read(info.id), key)
                return
        self.found.clear()
        self.found.explain(CAPTURED if self.info.spec.get("capture") else NO_CAPTURE)
        self.found.start.setVisible(bool(self.info.spec.get("capture")))

    def _audit(self) -> None:
        """Open the form of an audit of a captured update: of the chosen client, if it is one."""
        if self.info is None:
            return
        captured = (self.info.spec.get("capture") or {}).get("clients") or ()
        audit: dict[str, Any] = {"kind": "inversion"}
        if captured:
            chosen = self.chosen.client
            audit["client"] = chosen if chosen in captured else captured[0]
        self.set_up("audit", {"model": self.info.id, "audit": audit})

    # --- texts

    def retranslate(self) -> None:
        super().retranslate()
        self.count.setText(tr("Count the images now"))
        self.count.setToolTip(tr(READ_LATER))
        self.found.retranslate()
        if self.info is None and self._why:
            self._say_why()
        self._show_facts()
        self._show_table()
        self._show_fooled()

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        ended = self._has_ended
        hidden = self.info is not None and bool(self.info.spec.get("secure_aggregation"))
        for card, words in (
            (self.clients, GRID_COMES),
            (self.timeline, TIMELINE_COMES),
            (self.updates, PLANE_COMES),
            (self.courses, COURSES_COME),
        ):
            of_each = card in (self.updates, self.courses)
            card.explain(HIDDEN if hidden and of_each else NOTHING if ended else words)
        waits = not self._previews and not ended
        seat(self.tables["clients"]).setVisible(waits or bool(self.told.rows))
        if self.info is not None:
            self.partition.explain(NOTHING if ended else PARTITION_COMES)

    # --- before a run

    def preview(self, values: Mapping[str, Any], ask: Ask) -> None:
        """Ask who would have what, and what privacy would cost. What was drawn stays until the
        answer is there."""
        self._values = values
        self._ask_budget(values.get("privacy") or {}, ask)
        found = self._data_of(values)
        if found is None:
            self._say(NOT_KNOWN)
            return
        data, model = found
        self._question = {
            "kind": "preview_partition",
            "data": data,
            "partition": values.get("partition"),
            "clients": values.get("clients"),
        }
        ask({"kind": "describe_model", "data": data, "model": model}, self._model_told)
        elsewhere = data and (data.get("kind") not in LOCAL or data.get("path") == "")
        if elsewhere and self._question != self._counted:
            self._say(READ_LATER, can_count=data.get("path") != "")
            return
        self._deal(ask)

    _question: Mapping[str, Any] = {}
    _counted: Mapping[str, Any] = {}
    """What was asked last because a person wanted it."""

    def _ask_budget(self, privacy: Mapping[str, Any], ask: Ask) -> None:
        seat(self.budget).setVisible(bool(privacy))
        if not privacy:
            return
        self.budget.clear()
        self.budget.set_terms(privacy)
        self.budget.explain(COMPUTING)
        asked = {name: self._values.get(name) for name in ("fraction", "rounds")}
        ask({"kind": "privacy_curve", "privacy": privacy, **asked}, self._budget_told)

    def _budget_told(self, answer: dict[str, Any], payload: bytes) -> None:
        privacy = self._values.get("privacy") or {}
        if self.info is not None or not privacy:
            return
        if "error" in answer:
            self.budget.explain(error_text(answer["error"]).replace("{", "{{").replace("}", "}}"))
            return
        self.budget.show_plan(answer, privacy)

    def _deal(self, ask: Ask) -> None:
        if not self._dealt:
            self._say(COUNTING)
        known = {name: value for name, value in self._question.items() if value is not None}
        ask(known, self._partition_told)

    def _count_now(self) -> None:
        self._counted = self._question
        self._deal(self.ask)

    def _data_of(self, values: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """Data and model of the form, also those of the run it starts from; None if nobody knows
        here."""
        data, model, ref = values.get("data"), values.get("model"), values.get("init")
        for _ in range(100):
            if not ref:
                return data, model
            known = [info for info, name, _ in self.runs() if ref in (info.id, name)]
            if not known:
                return None
            data = data or known[0].spec.get("data")
            model = model or known[0].spec.get("model")
            ref = None if data else known[0].spec.get("init")
        return None

    _why = ""
    """Why nothing is counted: in English, or as the engine says it."""

    def _say(self, why: str, *, can_count: bool = False) -> None:
        self._dealt, self._why = {}, why
        self.partition.clear()
        self._say_why()
        self._can_count = can_count
        self.count.setVisible(can_count and self._previews)
        self._show_facts()

    def _say_why(self) -> None:
        """In the person's language."""
        self.partition.explain(error_text(self._why).replace("{", "{{").replace("}", "}}"))

    def _partition_told(self, answer: dict[str, Any], payload: bytes) -> None:
        if self.info is not None:
            return
        if "error" in answer:
            self._say(answer["error"])
            return
        self._dealt = answer
        self.count.hide()
        self.partition.set_counts(answer["classes"], answer["counts"], int(answer["clients"]))
        self._show_facts()

    def _model_told(self, answer: dict[str, Any], payload: bytes) -> None:
        if self.info is None and "error" not in answer:
            self._parameters = int(answer["parameters"])
            self._show_facts()

    def _show_facts(self) -> None:
        rows = self._facts() if self.info is None and self._dealt else []
        self.facts.set_table((tr("Property"), tr("Value")) if rows else (), rows)
        self.facts.setVisible(self._previews and bool(rows))

    def _facts(self) -> list[tuple[str, Any]]:
        values, dealt = self._values, self._dealt
        clients = int(dealt["clients"])
        picked = max(1, round(float(values.get("fraction") or 1.0) * clients))
        low, high = int(dealt["smallest"]), int(dealt["largest"])
        steps = [self._steps(count) for count in (low, high)]
        rows: list[tuple[str, Any]] = [
            (tr("Clients of a round"), picked),
            (tr("Images of a client"), low if low == high else f"{low} – {high}"),
            (
                tr("Steps of a client in a round"),
                steps[0] if steps[0] == steps[1] else f"{steps[0]} – {steps[1]}",
            ),
        ]
        if self._parameters:
            rows.append((tr("Parameters"), self._parameters))
            sent = BYTES * self._parameters * picked
            rows.append((tr("Sent to clients in a round"), size_text(sent)))
            if not values.get("compression"):
                rows.append((tr("Sent by clients in a round"), size_text(sent)))
        return rows

    def _steps(self, images: int) -> int:
        batch = int(self._values.get("batch_size") or 0) or max(images, 1)
        return math.ceil(images / batch) * int(self._values.get("epochs") or 1)


class _Found(Card):
    """Originals beside what an update gave away of them, as the newest audit has it."""

    def __init__(self) -> None:
        super().__init__(mark("What an update gives away"))
        self.key = self.audit = ""
        self._said = ("", "")
        """What the audit is called, and whether it is over."""
        link = Link(self)
        self.original = Mosaic(mark("Original"), link=link)
        self.reconstruction = Mosaic(mark("Reconstruction"), link=link)
        self.reconstruction.view.words = likeness
        self.pair = QWidget()
        grid = QGridLayout(self.pair)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(10)
        for column, card in enumerate((self.original, self.reconstruction)):
            card.setMinimumHeight(theme.px(240))
            grid.addWidget(card, 0, column)
            grid.setColumnStretch(column, 1)
        self.body.addWidget(self.pair)
        self.start, self.open = QPushButton(), QPushButton()
        for button in (self.start, self.open):
            button.setProperty("look", "chip")
            button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
            self.header.insertWidget(self.header.count() - 1, button)
            button.hide()
        self._explain = NO_CAPTURE
        self.retranslate()
        self.clear()

    def clear(self) -> None:
        self.key = self.audit = ""
        self.original.clear()
        self.reconstruction.clear()
        self.set_note("")
        self.start.hide()
        self.open.hide()
        self._show_emptiness()

    def show_audit(self, info: RunInfo, name: str, record: Record, key: str) -> None:
        self.key, self.audit = key, info.id
        for card, kind in ((self.original, "original"), (self.reconstruction, "reconstruction")):
            if (images := record.images.get(kind)) is not None:
                card.set_images(images.pixels, images.captions, images.scale)
            else:
                card.clear()
        self._said = name, info.status
        self._remark()
        self.start.hide()
        self.open.show()
        self._show_emptiness()

    def _remark(self) -> None:
        name, status = self._said
        self.set_note(f"{name} · {name_of(status)}" if self.audit else "")

    def _show_emptiness(self) -> None:
        if hasattr(self, "pair"):
            self._give_way(not self.audit, self.pair)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "start"):
            self.start.setText(tr("Reconstruct images…"))
            self.open.setText(tr("Open the audit"))
            self._remark()
            self._show_emptiness()
