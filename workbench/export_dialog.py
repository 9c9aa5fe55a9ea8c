"""Export a run's model as an encrypted file: for whom, where to, and how it is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QDialog,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.errors import BadInput
from engine.store import RunInfo, Workspace
from engine.vault.keys import parse_recipient
from workbench import i18n, passphrases, theme
from workbench.i18n import mark, tr
from workbench.views.widgets import Segmented, Switch

LEVELS = (
    (80.0, "good", mark("strong")),
    (60.0, "good", mark("good")),
    (40.0, "warn", mark("fair")),
    (0.0, "bad", mark("weak")),
)
"""From how many bits on a passphrase counts as what."""

PASSPHRASE, RECIPIENTS, OWN_KEY = range(3)


class ExportDialog(QDialog):
    """Asks who may open the file; emits `requested`, and shows how it went when it is told.

    The passphrase leaves only by `requested`, whose second value goes to the engine as the
    secrets of the start message, and is forgotten here.
    """

    requested = Signal(dict, dict)
    """The export task's values, and its secrets."""

    def __init__(self, run: RunInfo, workspace: Workspace, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._run = run
        self._key_file = workspace.root / "keys" / "identity.txt"
        self._texts: list[tuple[Any, str]] = []
        self._labels: list[QLabel] = []
        """In front of fields: as wide as the widest, so that the fields line up."""
        self.setMinimumWidth(theme.px(520))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(12)
        heading = QLabel(self)
        heading.setProperty("tone", "title")
        self._texts.append((heading.setText, mark("Export encrypted")))
        layout.addWidget(heading)
        self._about = QLabel(self)
        self._about.setProperty("tone", "small")
        self._about.setWordWrap(True)
        layout.addWidget(self._about)
        self._pages = QStackedWidget(self)
        self._pages.addWidget(self._make_question(workspace))
        self._pages.addWidget(self._make_result())
        layout.addWidget(self._pages, 1)
        layout.addWidget(self._make_buttons())
        i18n.signals.changed.connect(self._retranslate)
        self._retranslate()
        self._passphrase.setFocus()

    # --- the question

    def _make_question(self, workspace: Workspace) -> QWidget:
        page = QWidget(self)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(12)
        self._mode = Segmented((), 0, page)
        self._mode.changed.connect(self._mode_changed)
        layout.addWidget(self._mode)
        self._modes = QStackedWidget(page)
        for make in (self._make_passphrase, self._make_recipients, self._make_own_key):
            self._modes.addWidget(make())
        layout.addWidget(self._modes)
        self._labels.append(file_label := QLabel(page))
        self._texts.append((file_label.setText, mark("File")))
        self._to = QLineEdit(str(self._usual_target(workspace)), page)
        self._to.textChanged.connect(self._check)
        file_label.setBuddy(self._to)
        browse = QToolButton(page)
        theme.set_icon(browse, "folder", "muted", 16)
        browse.clicked.connect(self._choose_file)
        for widget, text in ((self._to, mark("File")), (browse, mark("Browse…"))):
            self._texts.append((widget.setAccessibleName, text))
        self._texts.append((browse.setToolTip, mark("Browse…")))
        line = QHBoxLayout()
        line.setSpacing(12)
        for part in (file_label, self._to, browse):
            line.addWidget(part)
        layout.addLayout(line)
        self._to_note = _note(page)
        layout.addWidget(self._to_note)
        self._failure = _note(page)
        self._failure.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout.addWidget(self._failure)
        layout.addStretch(1)
        return page

    def _make_passphrase(self) -> QWidget:
        page = QWidget(self)
        form = _form(page)
        self._passphrase, self._again = QLineEdit(page), QLineEdit(page)
        for field, text in (
            (self._passphrase, mark("Passphrase")),
            (self._again, mark("Once more")),
        ):
            field.setEchoMode(QLineEdit.EchoMode.Password)
            field.textChanged.connect(self._check)
            self._labels.append(label := QLabel(page))
            form.addRow(label, field)
            label.setBuddy(field)
            self._texts += [(label.setText, text), (field.setAccessibleName, text)]
        self._strength = _note(page)
        form.addRow("", self._strength)
        self._generate = QPushButton(page)
        self._generate.clicked.connect(self._generate_passphrase)
        self._texts.append((self._generate.setText, mark("Generate")))
        self._visible = Switch(False, page)
        self._visible.toggled.connect(self._show_passphrase)
        shown = QLabel(page)
        for setter in (shown.setText, self._visible.setAccessibleName):
            self._texts.append((setter, mark("Show")))
        tools = QHBoxLayout()
        tools.setSpacing(8)
        for widget in (self._visible, shown):
            tools.addWidget(widget)
        self._copy_it = QToolButton(page)
        theme.set_icon(self._copy_it, "copy", "muted", 16)
        self._copy_it.clicked.connect(lambda: _copy(self._passphrase.text()))
        for setter in (self._copy_it.setToolTip, self._copy_it.setAccessibleName):
            self._texts.append((setter, mark("Copy the passphrase")))
        tools.addStretch(1)
        tools.addWidget(self._copy_it)
        tools.addWidget(self._generate)
        form.addRow("", tools)
        return page

    def _make_recipients(self) -> QWidget:
        page = QWidget(self)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        help_label = _note(page, "small")
        self._texts.append(
            (
                help_label.setText,
                mark(
                    "Public keys (age1…), one a line. Anyone who holds one of the secret keys "
                    "can open the file."
                ),
            )
        )
        layout.addWidget(help_label)
        self._recipients = QPlainTextEdit(page)
        self._recipients.setTabChangesFocus(True)
        self._recipients.setFixedHeight(theme.px(84))
        self._recipients.setPlaceholderText("age1…")
        self._recipients.textChanged.connect(self._check)
        self._texts.append((self._recipients.setAccessibleName, mark("Recipients")))
        layout.addWidget(self._recipients)
        self._recipients_note = _note(page)
        layout.addWidget(self._recipients_note)
        self._own_too = Switch(False, page)
        self._own_too.toggled.connect(self._check)
        own = QLabel(page)
        for setter in (own.setText, self._own_too.setAccessibleName):
            self._texts.append((setter, mark("Also to this workspace's own key pair")))
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(self._own_too)
        line.addWidget(own, 1)
        layout.addLayout(line)
        return page

    def _make_own_key(self) -> QWidget:
        page = QWidget(self)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        self._own_note = _note(page, "small")
        layout.addWidget(self._own_note)
        layout.addStretch(1)
        return page

    def _usual_target(self, workspace: Workspace) -> Path:
        name = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "-", self._run.name).strip(". ") or "model"
        return workspace.folder / self._run.id / f"{name}.safetensors.age"

    # --- the result

    def _make_result(self) -> QWidget:
        page = QWidget(self)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        self._file, self._command = QLineEdit(page), QLineEdit(page)
        for field, text in (
            (self._file, mark("Written, read back and found right:")),
            (self._command, mark("This opens it, with the key file or passphrase:")),
        ):
            label = QLabel(page)
            label.setBuddy(field)
            field.setReadOnly(True)
            copy = QToolButton(page)
            theme.set_icon(copy, "copy", "muted", 16)
            copy.clicked.connect(lambda _=False, of=field: _copy(of.text()))
            self._texts += [
                (label.setText, text),
                (field.setAccessibleName, text),
                (copy.setToolTip, mark("Copy")),
                (copy.setAccessibleName, mark("Copy")),
            ]
            line = QHBoxLayout()
            line.setSpacing(4)
            line.addWidget(field, 1)
            line.addWidget(copy)
            layout.addWidget(label)
            layout.addLayout(line)
        self._result_note = _note(page, "small")
        layout.addWidget(self._result_note)
        layout.addStretch(1)
        return page

    def _make_buttons(self) -> QWidget:
        bar = QWidget(self)
        layout = QHBoxLayout(bar)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(8)
        self._progress = QProgressBar(bar)
        self._progress.setTextVisible(False)
        self._progress.hide()
        self._texts.append((self._progress.setAccessibleName, mark("Encrypting")))
        layout.addWidget(self._progress, 1)
        layout.addStretch(1)
        self._close = QPushButton(bar)
        self._close.setAutoDefault(False)
        self._close.clicked.connect(self.reject)
        self._export = QPushButton(bar)
        self._export.setProperty("look", "primary")
        self._export.setDefault(True)
        self._export.clicked.connect(self._request)
        self._texts.append((self._export.setText, mark("Export")))
        layout.addWidget(self._close)
        layout.addWidget(self._export)
        return bar

    # --- what a person does

    def _mode_changed(self, mode: int) -> None:
        self._modes.setCurrentIndex(mode)
        self._check()

    def _choose_file(self) -> None:
        path = QFileDialog.getSaveFileName(
            self, tr("Export encrypted"), self._to.text(), "age (*.age)"
        )[0]
        if path:
            self._to.setText(path if path.endswith(".age") else f"{path}.age")

    def _generate_passphrase(self) -> None:
        made = passphrases.generate()
        self._visible.setChecked(True)
        self._passphrase.setText(made)
        self._again.setText(made)
        self._passphrase.setCursorPosition(0)

    def _show_passphrase(self, shown: bool) -> None:
        mode = QLineEdit.EchoMode.Normal if shown else QLineEdit.EchoMode.Password
        self._passphrase.setEchoMode(mode)
        self._again.setEchoMode(mode)

    def _request(self) -> None:
        if not self._check():
            return
        mode = self._mode.current
        task: dict[str, Any] = {
            "name": f"{self._run.name} export",
            "kind": "export",
            "model": self._run.id,
            "to": str(Path(self._to.text().strip()).expanduser().absolute()),
            "recipients": self._recipient_list() if mode == RECIPIENTS else [],
            "own_key": mode == OWN_KEY or (mode == RECIPIENTS and self._own_too.isChecked()),
            "passphrase": mode == PASSPHRASE,
        }
        secrets = {"passphrase": self._passphrase.text()} if mode == PASSPHRASE else {}
        self._set_busy(True)
        self._say(self._failure, "bad", "")
        self.requested.emit(task, secrets)

    # --- what the window tells

    def show_progress(self, done: int, total: int) -> None:
        """How far it is; `total` is 0 while that is not known."""
        self._progress.setRange(0, total)
        self._progress.setValue(done)

    def show_result(self, summary: Mapping[str, Any]) -> None:
        """It is done: `summary` is the export task's."""
        self._forget()
        self._set_busy(False)
        self._file.setText(str(summary["file"]))
        self._command.setText(str(summary["command"]))
        for field in (self._file, self._command):
            field.setCursorPosition(0)
        self._pages.setCurrentIndex(1)
        self._export.hide()
        self._retranslate()
        self._close.setDefault(True)
        self._close.setFocus()

    def show_failure(self, text: str) -> None:
        """It has failed; nothing was written. It can be tried again."""
        self._set_busy(False)
        self._say(self._failure, "bad", f"✕ {text}")

    def done(self, result: int) -> None:
        self._forget()
        super().done(result)

    def _forget(self) -> None:
        for field in (self._passphrase, self._again):
            field.clear()

    def _set_busy(self, busy: bool) -> None:
        self._pages.setEnabled(not busy)
        self._progress.setRange(0, 0)
        self._progress.setVisible(busy)
        self._export.setEnabled(not busy)

    # --- validation

    def _recipient_list(self) -> list[str]:
        return [part for part in re.split(r"[\s,;，；]+", self._recipients.toPlainText()) if part]

    def _check(self, *_: object) -> bool:
        """Show what is still wrong; whether it can be exported."""
        good = (self._check_passphrase, self._check_recipients, lambda: True)[self._mode.current]()
        good = self._check_target() and good
        self._export.setEnabled(good)
        return good

    def _check_passphrase(self) -> bool:
        text, again = self._passphrase.text(), self._again.text()
        if not text:
            self._say(self._strength, "faint", tr("It cannot be recovered: keep it safe."))
            return False
        bits = passphrases.strength(text)
        tone, level = next((tone, level) for least, tone, level in LEVELS if bits >= least)
        if again and again != text:
            self._say(self._strength, "bad", "✕ " + tr("The two are not the same."))
            return False
        words = len(re.split(r"[\s\-]+", text.strip()))
        self._say(
            self._strength,
            tone,
            tr(
                "{level}: about {bits} bits, {words} word(s)",
                level=tr(level).capitalize(),
                bits=round(bits),
                words=words,
            ),
        )
        return again == text

    def _check_recipients(self) -> bool:
        problems = []
        recipients = self._recipient_list()
        for recipient in recipients:
            try:
                parse_recipient(recipient)
            except BadInput as error:
                problems.append(f"✕ {error}")
        if problems:
            self._say(self._recipients_note, "bad", "\n".join(problems))
            return False
        count = len(set(recipients))
        text = "✓ " + tr("{count} valid recipient(s)", count=count) if count else ""
        self._say(self._recipients_note, "good", text)
        return bool(recipients) or self._own_too.isChecked()

    def _check_target(self) -> bool:
        text = self._to.text().strip()
        if not text:
            self._say(self._to_note, "bad", "✕ " + tr("Say where the file goes."))
            return False
        path = Path(text).expanduser()
        if path.is_dir():
            self._say(self._to_note, "bad", "✕ " + tr("This is a folder; name a file in it."))
            return False
        if not path.absolute().parent.is_dir():
            self._say(self._to_note, "bad", "✕ " + tr("There is no such folder."))
            return False
        there = "! " + tr("There is such a file; it will be replaced.") if path.exists() else ""
        self._say(self._to_note, "warn", there)
        return True

    def _say(self, label: QLabel, tone: str, text: str) -> None:
        if label.property("tone") != tone:
            label.setProperty("tone", tone)
            label.style().unpolish(label)
            label.style().polish(label)
        label.setText(text)
        label.setVisible(bool(text))

    def _retranslate(self) -> None:
        self.setWindowTitle(tr("Export encrypted"))
        for setter, text in self._texts:
            setter(tr(text))
        widest = max(label.sizeHint().width() for label in self._labels)
        for label in self._labels:
            label.setMinimumWidth(widest)
        self._about.setText(
            tr(
                "The model of {run} with its model card, as one age file that the age program "
                "opens anywhere.",
                run=self._run.name,
            )
        )
        self._mode.set_options((tr("Passphrase"), tr("Recipients"), tr("This workspace's key")))
        self._own_note.setText(
            tr(
                "Encrypted to the key pair in {path}, which is made if it is missing. Keep a copy "
                "of it: without it nobody can open the file.",
                path=self._key_file,
            )
        )
        self._result_note.setText(
            tr("It asks for the passphrase.") if self._mode.current == PASSPHRASE else ""
        )
        over = self._pages.currentIndex() == 1
        self._close.setText(tr("Close") if over else tr("Cancel"))
        if not over and not self._progress.isVisibleTo(self):
            self._check()


def _form(page: QWidget) -> QFormLayout:
    form = QFormLayout(page)
    form.setContentsMargins(0, 0, 0, 0)
    form.setHorizontalSpacing(12)
    form.setVerticalSpacing(8)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return form


def _note(parent: QWidget, tone: str = "faint") -> QLabel:
    label = QLabel(parent)
    label.setProperty("tone", tone)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
    return label


def _copy(text: str) -> None:
    QGuiApplication.clipboard().setText(text)
