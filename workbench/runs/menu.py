"""What can be done with the runs under the pointer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu

from workbench import theme
from workbench.i18n import tr
from workbench.runs.book import has_model

if TYPE_CHECKING:
    from workbench.window import Window


def run_menu(window: Window, ids: Sequence[str]) -> QMenu:
    """The context menu of one run, or of several."""
    menu = QMenu(window)
    session = window.session
    run_id = ids[0]
    info = session.book.info(run_id)
    one = len(ids) == 1 and info is not None
    writable = not session.read_only

    def add(text: str, icon: str, call: object, enabled: bool = True, keys: str = "") -> QAction:
        action = menu.addAction(theme.icon(icon, "muted", 16), text)
        action.triggered.connect(lambda _=False: call())  # type: ignore[operator]
        action.setEnabled(enabled)
        if keys:
            action.setText(f"{text}\t{keys}")
        return action

    compared = all(each in session.book.compared for each in ids)
    add(
        tr("Do not compare") if compared else tr("Compare"),
        "compare",
        lambda: [session.book.compare(each, not compared) for each in ids],
        keys="C",
    )
    if one:
        assert info is not None
        if session.can_resume(info):
            add(tr("Resume"), "play", partial(window.do.resume, run_id))
        if run_id == session.current:
            add(tr("Stop"), "stop", window.do.stop, keys="Ctrl+.")
        if run_id in session.book.queue:
            first = [run_id, *(other for other in session.book.queue if other != run_id)]
            add(tr("Next in the queue"), "chevron-up", partial(session.order, first))
            add(tr("Remove from the queue"), "cross", partial(session.cancel, run_id))
        menu.addSeparator()
        modelled = has_model(info)
        add(tr("Test your own"), "edit", partial(window.test_own, run_id), modelled)
        add(
            tr("Export encrypted…"),
            "lock",
            partial(window.do.export, run_id),
            modelled and writable,
        )
        if window.do.has_examples(run_id):
            add(
                tr("Export adversarial set…"),
                "download",
                partial(window.do.export_set, run_id),
                writable,
            )
        add(tr("Restore the form"), "refresh", partial(window.do.restore_form, run_id))
        add(tr("Copy as recipe"), "copy", partial(window.do.copy_recipe, run_id))
        add(tr("Save with lineage as recipe…"), "download", partial(window.do.save_lineage, run_id))
        menu.addSeparator()
        add(tr("Rename…"), "edit", partial(window.do.rename, run_id), writable, "F2")
        add(tr("Note…"), "note", partial(window.do.write_note, run_id), writable)
        add(tr("Open folder"), "folder", partial(window.do.open_folder, run_id))
    menu.addSeparator()
    add(tr("Move to trash…"), "trash", partial(window.do.delete, list(ids)), writable, "Del")
    return menu
