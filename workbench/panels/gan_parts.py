"""Parts of the playground: what drives the run, and what goes wrong, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.i18n import mark, tr
from workbench.panels.gan_told import Trouble
from workbench.panels.gan_words import TROUBLES, Proposal, evidence_text, proposal_of
from workbench.views.card import Card
from workbench.views.widgets import Elided

PACES = (0.0, 30.0, 10.0, 3.0, 1.0)
"""Halves of a step a second; 0 is as fast as it goes."""
WELL = mark("At the last look nothing was wrong.")
TRIED = mark("Sets the value in the run that goes, or opens the form with it filled in")


class Transport(QFrame):
    """Pause, one half of a step, slow motion, and the beginning again."""

    pause = Signal(bool)
    half = Signal(str)
    """One step of "critic" or "generator"."""
    pace = Signal(float)
    again = Signal(bool)
    """Begin again: with the same seed, or (True) with a new one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self._paused = self._running = False
        self._turn = ""
        self.pauses, self.critic, self.generator = (QPushButton() for _ in range(3))
        self.pauses.clicked.connect(lambda: self.pause.emit(not self._paused))
        self.critic.clicked.connect(partial(self.half.emit, "critic"))
        self.generator.clicked.connect(partial(self.half.emit, "generator"))
        self.turn = Elided()
        self.turn.setProperty("tone", "small")
        self.paces = QComboBox()
        self.paces.activated.connect(lambda place: self.pace.emit(PACES[place]))
        self.same, self.other = QPushButton(), QPushButton()
        self.same.clicked.connect(partial(self.again.emit, False))
        self.other.clicked.connect(partial(self.again.emit, True))
        for button in (self.pauses, self.critic, self.generator, self.same, self.other):
            button.setProperty("look", "ghost")
        theme.set_icon(self.critic, "step", "muted", 15, gap=3)
        theme.set_icon(self.generator, "step", "muted", 15, gap=3)
        theme.set_icon(self.same, "undo", "muted", 15, gap=3)
        theme.set_icon(self.other, "refresh", "muted", 15, gap=3)
        self.row = QHBoxLayout(self)
        self.row.setSpacing(2)
        for part in (self.pauses, self.critic, self.generator):
            self.row.addWidget(part)
        self.row.addWidget(self.turn, 1)
        for part in (self.paces, self.same, self.other):
            self.row.addWidget(part)
        theme.manager.changed.connect(self._space)
        i18n.signals.changed.connect(self.retranslate)
        self._space()
        self.retranslate()
        self.set_state(running=False, paused=False, can_again=False)

    def set_state(self, *, running: bool, paused: bool, can_again: bool) -> None:
        """What can be done: to the run that is shown, if it is under way."""
        self._running, self._paused = running, paused
        for part in (self.pauses, self.critic, self.generator, self.paces):
            part.setEnabled(running)
        for part in (self.same, self.other):
            part.setEnabled(can_again)
        icon = "play" if paused else "pause"
        theme.set_icon(self.pauses, icon, "accent" if paused else "muted", 15, gap=3)
        if not running:
            self.paces.setCurrentIndex(0)
        self._say()

    def set_turn(self, turn: str) -> None:
        """Whose half of a step was taken last: "critic", "generator" or neither."""
        if turn != self._turn:
            self._turn = turn
            self._say()

    def _say(self) -> None:
        self.pauses.setText(tr("Continue") if self._paused else tr("Pause"))
        self.pauses.setAccessibleName(self.pauses.text())
        known = {"critic": tr("The critic has moved."), "generator": tr("The generator has moved.")}
        self.turn.setText(known.get(self._turn, "") if self._running else "")

    def _space(self) -> None:
        px = theme.px
        self.row.setContentsMargins(px(6), px(5), px(8), px(5))
        self.paces.setMinimumWidth(theme.px(118))

    def retranslate(self) -> None:
        self.setAccessibleName(tr("What drives the run"))
        told = (
            (self.pauses, "", tr("Pause or continue (Space)")),
            (self.critic, tr("Critic step"), tr("On to the end of the critic's next step")),
            (self.generator, tr("Generator step"), tr("On to the generator's next step")),
            (self.same, tr("Same seed"), tr("Stop, and begin again with the same seed")),
            (self.other, tr("New seed"), tr("Stop, and begin again with another seed")),
        )
        for button, words, tip in told:
            if words:
                button.setText(words)
                button.setAccessibleName(words)
            button.setToolTip(tip)
        place = max(self.paces.currentIndex(), 0)
        self.paces.clear()
        self.paces.addItems(
            [tr("Full speed"), *(tr("{count} a second", count=f"{pace:g}") for pace in PACES[1:])]
        )
        self.paces.setCurrentIndex(place)
        self.paces.setAccessibleName(tr("Slow motion"))
        self.paces.setToolTip(tr("Slow motion: steps of critic and generator, one after the other"))
        self._say()


class HealthCard(Card):
    """What goes wrong while it does: its name, what shows it, and two things to try."""

    tried = Signal(object)
    """A person wants to try this `Proposal`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("How it goes"), parent)
        self._told: tuple[Trouble, ...] = ()
        self._names: Callable[[int], str] = str
        self._known = False
        self.buttons: list[QPushButton] = []
        self._page: QWidget | None = None
        self._sign = QLabel()
        self._sign.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Preferred)
        self.header.insertWidget(0, self._sign)
        self._show()

    def show_troubles(
        self,
        troubles: Sequence[Trouble],
        name: Callable[[int], str],
        *,
        known: bool,
    ) -> None:
        """All that goes wrong now; `name` says which seed is meant, in words, and nothing where
        there is one alone. `known`: the run has said so."""
        self._names = name
        told = tuple(troubles), known
        if told != (self._told, self._known):
            self._told, self._known = told
            self._show()

    def _show(self) -> None:
        if self._page is not None:
            self._page.hide()
            self._page.deleteLater()
            self._page = None
        self.buttons = []
        bad = bool(self._told)
        for part in (self._sign, self.title):
            part.setVisible(not bad)
        theme.set_icon(self._sign, "check" if self._known else "info", "success", 15)
        self._sign.setVisible(self._known and not bad)
        well = tr(WELL) if self._known else tr("Said here while a run goes.")
        self.set_note("" if bad else well)
        if not bad:
            return
        self._page = QWidget(self)
        column = QVBoxLayout(self._page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        for kind, seeds, trouble in _by_kind(self._told):
            column.addLayout(self._lines(kind, seeds, trouble))
        self.body.addWidget(self._page)

    def _lines(self, kind: str, seeds: list[int], trouble: Trouble) -> QGridLayout:
        """A sign, its name and what shows it; below that what can be tried."""
        grid = QGridLayout()
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(3)
        grid.setColumnStretch(1, 1)
        title, means = TROUBLES.get(kind, (kind, ""))
        names = [name for name in map(self._names, seeds) if name]
        sign = QLabel()
        theme.set_icon(sign, "warning", "warning", 16)
        head = QLabel(" · ".join([tr(title), *([", ".join(names)] if names else [])]))
        head.setProperty("tone", "heading")
        words = QLabel(" ".join(filter(None, (tr(means), evidence_text(trouble.evidence)))))
        words.setWordWrap(True)
        words.setProperty("tone", "small")
        grid.addWidget(sign, 0, 0)
        grid.addWidget(head, 0, 1)
        grid.addWidget(words, 1, 1)
        tries = QHBoxLayout()
        tries.setSpacing(8)
        for said in trouble.tries:
            proposal = proposal_of(said)
            text = QLabel(proposal.words())
            text.setWordWrap(True)
            tries.addWidget(text)
            if proposal.path:
                tries.addWidget(self._button(proposal))
            tries.addSpacing(12)
        tries.addStretch(1)
        if trouble.tries:
            grid.addLayout(tries, 2, 1)
        return grid

    def _button(self, proposal: Proposal) -> QPushButton:
        button = QPushButton(tr("Try it"))
        button.setProperty("look", "chip")
        button.setAccessibleName(tr("Try it: {what}", what=proposal.words()))
        button.setToolTip(tr(TRIED))
        button.clicked.connect(partial(self._try, proposal))
        self.buttons.append(button)
        return button

    def _try(self, proposal: Proposal, *_: Any) -> None:
        self.tried.emit(proposal)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_sign"):
            self._show()


def _by_kind(troubles: Sequence[Trouble]) -> list[tuple[str, list[int], Trouble]]:
    """Troubles of one kind together: the kind, its seeds, and the first of them."""
    found: dict[str, tuple[list[int], Trouble]] = {}
    for trouble in troubles:
        found.setdefault(trouble.kind, ([], trouble))[0].append(trouble.seed)
    return [(kind, seeds, first) for kind, (seeds, first) in found.items()]
