"""Every command of the window, with its key."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtGui import QAction, QKeySequence

from workbench import i18n
from workbench.commands import Command
from workbench.i18n import mark, tr

if TYPE_CHECKING:
    from workbench.window import Window

OTHER_KEYS = {"Ctrl+Enter": ("Ctrl+Return",), "Ctrl++": ("Ctrl+=",)}
WHILE_RUNNING = ("Space",)
"""Keys that press the control that has the focus while there is no run to pause."""


PAGES = {
    mark("All samples"): "grid",
    mark("Table"): "table",
    mark("Embedding"): "chart",
    mark("Explain"): "eye",
    mark("Surface"): "chart",
}
"""The pages about the samples of an attack, and their icons."""


def commands_of(window: Window) -> list[Command]:
    """The commands that there always are."""
    do = window.do

    def shown(call: Callable[[str], object]) -> Callable[[], object]:
        return lambda: call(window.shown) if window.shown is not None else None

    def any_shown() -> bool:
        return window.shown is not None

    def running() -> bool:
        return window.session is not None and window.session.current is not None

    def resumable() -> bool:
        info = window.info(window.shown)
        return info is not None and window.session.can_resume(info)

    c = Command
    return [
        c("start", mark("Start run"), do.start, "play", "Ctrl+Enter"),
        c("pause", mark("Pause or continue"), do.toggle_pause, "pause", "Space", enabled=running),
        c("step", mark("One step"), do.single_step, "step", "F10", enabled=running),
        c("stop", mark("Stop the run"), do.stop, "stop", "Ctrl+.", enabled=running),
        c("resume", mark("Resume the run"), shown(do.resume), "play", enabled=resumable),
        c("new", mark("New run"), window.new_run, "plus", "Ctrl+N"),
        c("demo", mark("Run the demo"), do.run_demo, "play"),
        c("recipe", mark("Open a recipe…"), do.choose_recipe, "folder", "Ctrl+O"),
        c("export", mark("Export encrypted…"), do.export, "lock", "Ctrl+Shift+E"),
        c("export-set", mark("Export adversarial set…"), do.export_set, "download",
          enabled=lambda: window.session is not None and do.has_examples(window.shown)),
        c("search", mark("Search or run a command"), window.open_palette, "search", "Ctrl+K"),
        c("find", mark("Search runs…"), window.find_run, "search", "Ctrl+F"),
        c("home", mark("Start page"), partial(window.go, "start"), "crucible"),
        c("compare", mark("Compare runs"), partial(window.go, "compare"), "compare",
          "Ctrl+Shift+C"),
        c("own", mark("Test your own"), window.test_own, "edit", "Ctrl+T",
          words="draw digit image slider"),
        c("details", mark("Details of the run"), shown(window.show_details), "table", "Ctrl+I",
          enabled=any_shown),
        c("restore", mark("Restore the run's settings into the form"), shown(do.restore_form),
          "refresh", enabled=any_shown),
        c("copy", mark("Copy as recipe"), shown(do.copy_recipe), "copy", enabled=any_shown),
        c("lineage", mark("Save with lineage as recipe…"), shown(do.save_lineage), "download",
          enabled=any_shown),
        c("rename", mark("Rename run…"), shown(do.rename), "edit", "F2", enabled=any_shown),
        c("note", mark("Write a note"), shown(do.write_note), "note", enabled=any_shown),
        c("folder", mark("Open the run's folder"), shown(do.open_folder), "folder",
          enabled=any_shown),
        c("workspace", mark("Open another workspace…"), do.choose_workspace, "folder"),
        c("light", mark("Theme: light"), partial(window.set_theme, "light"), "sun"),
        c("dark", mark("Theme: dark"), partial(window.set_theme, "dark"), "moon"),
        c("system", mark("Theme: as the system"), partial(window.set_theme, "system"), "gear"),
        c("english", mark("Language: English"), partial(window.set_language, "en"), "language"),
        c("chinese", mark("Language: Chinese"), partial(window.set_language, "zh"), "language",
          words="中文 zhongwen"),
        c("larger", mark("Larger interface"), partial(window.zoom, 1), "plus", "Ctrl++"),
        c("smaller", mark("Smaller interface"), partial(window.zoom, -1), "minus", "Ctrl+-"),
        c("normal", mark("Normal size"), partial(window.zoom, 0), "search", "Ctrl+0"),
        c("present", mark("Present a card full screen"), window.present, "present", "F11"),
        c("runs", mark("Fold the runs away"), partial(window.fold, "runs"), "sidebar", "Ctrl+1"),
        c("form", mark("Fold the form away"), partial(window.fold, "inspector"), "sidebar",
          "Ctrl+2"),
        c("log", mark("Fold the log away"), partial(window.fold, "log"), "log", "Ctrl+3"),
        c("undo", mark("Undo a change of the form"), partial(window.undo, True), "undo", "Ctrl+Z"),
        c("redo", mark("Redo a change of the form"), partial(window.undo, False), "redo",
          "Ctrl+Shift+Z"),
        c("keys", mark("Keyboard"), window.show_keys, "keyboard", "F1"),
        c("close", mark("Close the window"), window.close, "cross", "Ctrl+Q"),
    ]  # fmt: skip


def more_commands(window: Window) -> list[Command]:
    """A command for every kind of task, for every run, and for every setting of the forms: those
    of the open form first."""
    found = [
        Command(
            f"new.{kind}",
            tr("New: {kind}", kind=tr(panel.title)),
            partial(window.show_new, kind),
            panel.icon,
            own=True,
        )
        for kind, panel in window.panels.items()
    ]
    for title, icon in PAGES.items():
        name, call = tr("Samples: {page}", page=tr(title)), partial(window.show_page, title)
        found.append(Command(f"page.{title}", name, call, icon, own=True))
    for info in window.session.book.infos() if window.session is not None else ():
        panel = window.panel_of(info)
        found.append(
            Command(
                f"run.{info.id}",
                tr("Go to run: {name}", name=info.name),
                partial(window.choose_run, info.id),
                panel.icon if panel is not None else "bolt",
                note=i18n.name_of(info.kind),
                own=True,
                words=f"{info.name} {info.id} {info.note}",
            )
        )
    kinds = sorted(window.panels, key=lambda kind: kind != window.inspector.kind)
    return found + [command for kind in kinds for command in _settings(window, kind)]


def _settings(window: Window, kind: str) -> list[Command]:
    """A command for every field of a form: it puts the cursor there. Of a place that has a part of
    a kind's runs, for those that stand first: the kind's own place has all of them."""
    from workbench.forms.reading import settings_of

    panel = window.panels[kind]
    return [
        Command(
            f"field.{kind}.{'.'.join(setting.path)}",
            setting.title,
            partial(window.show_setting, kind, setting.path),
            "edit",
            note=" · ".join(tr(part) for part in (panel.title, *setting.within)),
            words=setting.path[-1],
        )
        for setting in settings_of(panel.spec)
        if not panel.first or setting.path[0] in panel.first
    ]


def bind_keys(window: Window, commands: list[Command]) -> list[QAction]:
    """Give every command its key, and Alt with a number to every place of the rail. The keys that
    are returned belong to a run: the caller switches them on while there is one."""
    of_a_run = []
    for command in commands:
        if command.keys:
            keys = [command.keys, *OTHER_KEYS.get(command.keys, ())]
            action = _bind(window, keys, partial(_call, command))
            if command.keys in WHILE_RUNNING:
                action.setEnabled(False)
                of_a_run.append(action)
    for number in range(1, 10):
        _bind(window, [f"Alt+{number}"], partial(window.go_number, number))
    return of_a_run


def _bind(window: Window, keys: list[str], call: Callable[[], object]) -> QAction:
    action = QAction(window)
    action.setShortcuts([QKeySequence(key) for key in keys])
    action.triggered.connect(lambda _=False: call())
    window.addAction(action)
    return action


def _call(command: Command) -> None:
    if command.enabled():
        command.call()
