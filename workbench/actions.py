"""What a person can do: start, stop, resume, rename, export… Buttons, keys, menus and the palette
all end here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QPoint, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QFileDialog, QInputDialog, QMenu, QMessageBox

from workbench import i18n
from workbench.i18n import tr
from workbench.refusals import error_text

if TYPE_CHECKING:
    from engine.recipe import Entry
    from engine.store import RunInfo
    from workbench.export_dialog import ExportDialog
    from workbench.panels.live import Hands
    from workbench.session import Session
    from workbench.window import Window


def _code_files(recipe: Sequence[Entry]) -> str:
    from engine.recipe import code_files

    return ", ".join(code_files(recipe))


class Actions(QObject):
    """Asks where that is needed, and has the session do it. Faults are told in the banner."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.window = window
        self.export_dialog: ExportDialog | None = None
        self._exporting: str | None = None
        self._from_form = False
        """Whether what was last started came from the form, which then shows what is refused."""

    @property
    def session(self) -> Session:
        return self.window.session

    # --- starting -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what the form says; where no form is open, open it."""
        window = self.window
        if not window.ready or self.session.read_only:
            return
        if not window.form_is_open:
            window.new_run()
            return
        task = window.inspector.task()
        if task is None:
            window.banner.tell(
                tr("Not started: the form has a fault, marked on the right."),
                "warning",
                about="form",
            )
            return
        if getattr(task, "passphrase", False) is True:
            # A passphrase is asked for by the dialog, and never written into a form.
            self.export(getattr(task, "model", None))
            return
        values = task.to_dict()
        name = window.inspector.name.text().strip() or default_name(values, window.names())
        window.settings.forms[window.inspector.kind] = values
        window.inspector.started()
        self._start([{"name": name, **values}], from_form=True)

    def run_demo(self) -> None:
        """The first minute: train, attack, harden, attack again, export."""
        from engine import resources

        self.run_recipe(resources.path("recipes", "first_minute.toml"))

    def choose_recipe(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self.window, tr("Open a recipe"), "", tr("Recipes (*.toml)")
        )
        if path:
            self.open_recipe(Path(path))

    def open_recipe(self, path: Path) -> None:
        """Show what a recipe would do, and do it after a yes."""
        entries = self._entries(path)
        if entries is None:
            return
        box = QMessageBox(self.window)
        box.setWindowTitle(path.name)
        box.setText(tr("Run these {count} task(s)?", count=len(entries)))
        lines = [
            f"{number}. {entry.name} ({i18n.name_of(entry.task.kind)})"
            for number, entry in enumerate(entries, start=1)
        ]
        files = _code_files(entries)
        if files:
            lines.append("\n" + tr("It runs Python code with your rights: {files}", files=files))
        box.setInformativeText("\n".join(lines))
        run = box.addButton(tr("Run"), QMessageBox.ButtonRole.AcceptRole)
        box.addButton(tr("Cancel"), QMessageBox.ButtonRole.RejectRole)
        box.exec()
        if box.clickedButton() is run:
            self.run_recipe(path, trusted=True)

    def run_recipe(self, path: Path, trusted: bool = False) -> bool:
        """Start every task of a recipe file; False if it is none, and the banner says why. One that
        runs Python code is started only if a person has said yes to that."""
        entries = self._entries(path)
        if entries is None:
            return False
        files = _code_files(entries)
        if files and not trusted:
            text = tr("It runs Python code with your rights: {files}", files=files)
            self.window.banner.tell(f"{path.name}. {text}", "error")
            return False
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["task"]
        self._start(tables, folder=path.absolute().parent)
        return True

    def is_recipe(self, path: Path) -> bool:
        """Whether the file is a recipe without faults; if not, the banner says why."""
        return self._entries(path) is not None

    def _entries(self, path: Path) -> list[Entry] | None:
        from engine.errors import BadInput
        from engine.recipe import read_recipe

        try:
            return read_recipe(path)
        except BadInput as error:
            self.window.banner.tell(str(error), "error")
            return None

    def _start(
        self,
        tasks: Sequence[Mapping[str, Any]],
        *,
        folder: Path | None = None,
        from_form: bool = False,
    ) -> None:
        self._from_form = from_form
        self.window.follow()
        self.session.start(tasks, folder=folder, then=self.window.expect)

    def refused(self, text: str, problems: Sequence[tuple[tuple[str, ...], str]]) -> None:
        """The engine will not do what was asked: say why, at the fields where that is known."""
        if len(problems) == 1 and (self._exporting == "" or self._from_form):
            text = problems[0][1]  # there is only one task that it can be about
        window, text = self.window, error_text(text)
        if self._exporting == "" and self.export_dialog is not None:
            self._exporting = None
            self.export_dialog.show_failure(text)
            return
        form = window.inspector.form
        if form is not None and problems and self._from_form:
            # The path begins with the task's name.
            form.show_problems([(path[1:], words) for path, words in problems])
        window.banner.tell(tr("Not started: {error}", error=text), "error")

    def choose_data(self) -> None:
        """A menu of data sets; the chosen one goes into the form of a new training."""
        if "train" not in self.window.panels:
            return
        from engine.data.spec import DataSpec
        from engine.task import kinds

        menu = QMenu(self.window)
        for kind in kinds(DataSpec):
            menu.addAction(i18n.name_of(kind), partial(self.use_data, kind))
        tile = self.window.start_page.choose_data
        menu.exec(tile.mapToGlobal(QPoint(0, tile.height() + 4)))

    def use_data(self, kind: str) -> None:
        """Set up a training on a data set."""
        data: dict[str, Any] = {"kind": kind}
        if kind == "folder":
            title = tr("A folder with one folder of images a class")
            path = QFileDialog.getExistingDirectory(self.window, title)
            if not path:
                return
            data["path"] = path
        self.window.show_new("train")
        form = self.window.inspector.form
        if form is not None:
            form.set_values({**form.values(), "data": data})

    # --- while it runs --------------------------------------------------------------------------

    def stop(self) -> None:
        self.session.cancel()

    def pause(self, on: bool) -> None:
        self.session.pause(on)

    def toggle_pause(self) -> None:
        if self.window.session is not None and self.session.current is not None:
            self.session.pause(not self.session.paused)

    def single_step(self) -> None:
        if self.session.current is not None:
            self.session.step()

    def hands(self, control: Callable[[str, float], None]) -> Hands:
        """What views can do; `control` sets a live value."""
        from workbench.panels.live import Hands

        session = self.session

        return Hands(
            control=control,
            pause=session.pause,
            step=session.step,
            pace=session.pace,
            again=self.begin_again,
            attack=self.window.attack_image,
        )

    def begin_again(self, run_id: str, seed: int | None = None) -> None:
        """Start a run once more as it was started, with its seed or another one. Where it is under
        way, it is stopped first."""
        info = self.session.book.info(run_id)
        if info is None or self.session.read_only:
            return
        values = {**info.spec} if seed is None else {**info.spec, "seed": seed}
        if run_id == self.session.current:
            self.session.cancel(run_id)
        name = default_name(values, self.window.names())
        self._start([{"name": name, **values}])

    def resume(self, run_id: str) -> None:
        """Go on with a run that did not come to its end, with a new engine if there is none."""
        self._from_form = False
        self.window.follow()
        self.session.resume(run_id)

    # --- runs -----------------------------------------------------------------------------------

    def rename(self, run_id: str) -> None:
        info = self.session.book.info(run_id)
        if info is None or self.session.read_only:
            return
        name, ok = QInputDialog.getText(self.window, tr("Rename run"), tr("Name"), text=info.name)
        if ok and name.strip():
            self.session.rename(run_id, name.strip())

    def write_note(self, run_id: str) -> None:
        self.window.show_details(run_id)
        self.window.details.note.setFocus()

    def delete(self, ids: Sequence[str]) -> None:
        """Take waiting runs from the queue; ask, then move the others to the system's trash."""
        if self.session.read_only:
            return
        waiting = [run_id for run_id in ids if run_id in self.session.book.queue]
        for run_id in waiting:
            self.session.cancel(run_id)
        others = [run_id for run_id in ids if run_id not in waiting]
        if others and self._confirm_delete(others):
            self.trash(others)

    def _confirm_delete(self, ids: Sequence[str]) -> bool:
        names = [self.session.book.name(run_id) for run_id in ids]
        shown = ", ".join(names[:4]) + ("…" if len(names) > 4 else "")
        box = QMessageBox(self.window)
        box.setText(tr("Move {runs} to the trash?", runs=shown))
        box.setInformativeText(tr("The run's folder can be put back from there."))
        yes = box.addButton(tr("Move to trash"), QMessageBox.ButtonRole.DestructiveRole)
        box.addButton(tr("Keep"), QMessageBox.ButtonRole.RejectRole)
        box.exec()
        return box.clickedButton() is yes

    def trash(self, ids: Sequence[str]) -> None:
        """Move runs to the system's trash; those that cannot be moved are named."""
        for run_id in ids:
            if self.session.trash(run_id):
                if run_id == self.window.shown:
                    self.window.new_run()
                continue
            self.window.banner.tell(
                tr(
                    "{run} could not be moved to the trash: it is running, or this system has none "
                    "for that place. Delete its folder yourself: {folder}",
                    run=self.session.book.name(run_id),
                    folder=self.session.run(run_id).folder,
                ),
                "warning",
            )

    def restore_form(self, run_id: str) -> None:
        """Fill the form with what a run was started with."""
        info = self.session.book.info(run_id)
        panel = self.window.panel_of(info) if info is not None else None
        if info is None or panel is None:
            return
        form = self.window.inspector.show_kind(panel)
        form.set_values({name: value for name, value in info.spec.items() if name != "kind"})

    def copy_recipe(self, run_id: str) -> None:
        """The run's spec as a recipe, on the clipboard."""
        from workbench.recipes import recipe_text, with_changes

        info = self.session.book.info(run_id)
        if info is not None:
            spec = with_changes(info.spec, self.session.changes(run_id))
            text = recipe_text([{"name": info.name, **spec}], self.window.names())
            QGuiApplication.clipboard().setText(text)

    def save_lineage(self, run_id: str) -> None:
        """Write the run and all it came from as a recipe."""
        info = self.session.book.info(run_id)
        if info is None:
            return
        path, _ = QFileDialog.getSaveFileName(
            self.window, tr("Save as recipe"), f"{info.name}.toml", tr("Recipes (*.toml)")
        )
        if path:
            self.write_lineage(run_id, Path(path))

    def write_lineage(self, run_id: str, path: Path) -> None:
        from engine.errors import CrucibleError
        from workbench.recipes import recipe_of, save_recipe

        info = self.session.book.info(run_id)
        try:
            if info is not None:
                text = recipe_of(info, self.session.book.info, self.session.changes)
                save_recipe(path, text)
        except CrucibleError as error:
            self.window.banner.tell(str(error), "error")

    def open_folder(self, run_id: str) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.session.run(run_id).folder)))

    # --- exporting ------------------------------------------------------------------------------

    def export(self, run_id: str | None = None) -> None:
        """Open the export dialog for a run's model: the given one, or what "export" means now."""
        from engine.errors import BadInput
        from workbench.export_dialog import ExportDialog

        if self.session.read_only:
            return
        try:
            chosen = self.session.workspace.find(run_id).id if run_id else self.exportable()
        except BadInput as error:
            self.window.banner.tell(str(error), "error")
            return
        info = self.session.book.info(chosen) if chosen else None
        if info is None:
            self.window.banner.tell(
                tr("There is no model to export yet: train or import one first."), "info"
            )
            return
        dialog = ExportDialog(info, self.session.workspace, self.window)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.requested.connect(self._export_requested)
        dialog.finished.connect(self._export_closed)
        self.export_dialog = dialog
        dialog.open()

    def export_set(self, run_id: str | None = None) -> None:
        """Ask where the adversarial examples of a run go, and have them written there."""
        info = self.session.book.info(run_id or self.window.shown or "")
        if self.session.read_only or info is None or not self.has_examples(info.id):
            self.window.banner.tell(
                tr("This run has kept no adversarial examples: choose an attack that is over."),
                "info",
            )
            return
        forms = {tr("Folder of PNG files (*)"): "png", "safetensors (*.safetensors)": "safetensors"}
        path, chosen = QFileDialog.getSaveFileName(
            self.window,
            tr("Export adversarial set"),
            f"{info.name}-examples",
            ";;".join(forms),
            options=QFileDialog.Option.DontConfirmOverwrite,  # nothing is ever overwritten
        )
        if path:
            self.write_set(info.id, Path(path), forms.get(chosen, "png"))

    def write_set(self, run_id: str, target: Path, form: str) -> None:
        """Have the examples of a run written to `target`, as "png" or "safetensors"."""
        if form == "safetensors" and target.suffix != ".safetensors":
            target = target.with_name(f"{target.name}.safetensors")
        task = {"kind": "export_set", "source": run_id, "form": form, "to": str(target)}
        name = default_name(task, self.window.names())
        self._start([{"name": name, **task}])

    def has_examples(self, run_id: str | None) -> bool:
        """Whether a run has kept adversarial examples."""
        info = self.session.book.info(run_id) if run_id else None
        return info is not None and any(a.get("name") == "adversarial" for a in info.artifacts)

    def exportable_set(self) -> str | None:
        """The run whose adversarial examples "export" means now: the shown one, or the newest."""
        candidates = [self.window.shown, *(info.id for info in self.session.book.infos())]
        return next((run_id for run_id in candidates if self.has_examples(run_id)), None)

    def exportable(self) -> str | None:
        """The model that "export" means now: that of the shown run, of what the run came from, or
        the newest there is."""
        from workbench.runs.book import has_model

        return self._nearest(has_model)

    def classifier(self) -> str | None:
        """The same of the models that say classes."""
        from workbench.runs.book import has_classifier

        return self._nearest(has_classifier)

    def wanted(self, kind: str) -> str | None:
        """The run that the form of a task of this kind names as its model, unless told another."""
        from workbench.runs.book import has_generator

        if kind == "assess":
            return self._nearest(has_generator)
        return self.exportable() if kind == "export" else self.classifier()

    def _nearest(self, has: Callable[[RunInfo], bool]) -> str | None:
        book = self.session.book
        shown = book.info(self.window.shown) if self.window.shown else None
        candidates = [shown.id, *shown.lineage.values()] if shown else []
        candidates += [info.id for info in book.infos()]
        for run_id in candidates:
            info = book.info(run_id)
            if info is not None and has(info):
                return run_id
        return None

    def _export_requested(self, task: dict[str, Any], secrets: dict[str, str]) -> None:
        self._exporting = ""
        self.session.start([task], secrets=secrets, then=self._export_queued)

    def _export_queued(self, ids: list[str]) -> None:
        self._exporting = ids[0]

    def _export_closed(self) -> None:
        self.export_dialog, self._exporting = None, None

    def progressed(self, run_id: str) -> None:
        """A run went on: tell the export dialog if it is its own."""
        rate = self.session.book.rate(run_id)
        if run_id == self._exporting and self.export_dialog is not None and rate is not None:
            self.export_dialog.show_progress(rate.done, rate.total)

    def ended(self, run_id: str, status: str) -> None:
        """A run came to its end: tell the export dialog if it is its own."""
        info = self.session.book.info(run_id)
        if run_id != self._exporting or self.export_dialog is None or info is None:
            return
        self._exporting = None
        if status == "done":
            self.export_dialog.show_result(info.summary)
        else:
            self.export_dialog.show_failure(
                error_text(info.error) or tr("The export did not finish.")
            )

    @property
    def is_exporting(self) -> bool:
        """Whether the export dialog waits for a run: the view then stays where it is."""
        return self._exporting is not None

    # --- workspaces -----------------------------------------------------------------------------

    def choose_workspace(self) -> None:
        """Open another folder of runs, in a window of its own."""
        start = str(self.session.workspace.root.parent)
        path = QFileDialog.getExistingDirectory(self.window, tr("Open a workspace"), start)
        if path:
            self.open_workspace(Path(path))

    def open_workspace(self, path: Path) -> None:
        command = [sys.executable, "-m", "workbench", "--workspace", str(path)]
        subprocess.Popen(command, start_new_session=True)


def default_name(values: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """A name for a run that was given none: what it is, and a number where that is taken.

    `known` are the names of runs by id.
    """
    model, data, attack = (values.get(field) for field in ("model", "data", "attack"))
    kind = str(values.get("kind", "run"))
    if isinstance(attack, Mapping):
        target = known.get(str(model), str(model))
        parts = [str(attack["kind"]), Path(target).name]
    elif values.get("init"):
        init = str(values["init"])
        parts = [Path(known.get(init, init)).name, kind]
    elif isinstance(model, Mapping):
        parts = [str(model["kind"]), str(data["kind"]) if isinstance(data, Mapping) else ""]
    elif values.get("source"):
        source = str(values["source"])
        parts = [Path(known.get(source, source)).name, "examples"]
    else:
        parts = [kind]
    base = "-".join(part for part in parts if part)
    taken = set(known.values())
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
