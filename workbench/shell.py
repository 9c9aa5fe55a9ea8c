"""The frame of the window: bars, panes and the centre, their sizes and their looks. Knows nothing
of runs; needs only Qt, so that it is on the screen at once."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.bars import Banner, Rail, StatusBar, TopBar
from workbench.i18n import mark, tr
from workbench.panels.start import StartPage
from workbench.panes import Panes
from workbench.settings import Settings
from workbench.views.widgets import Elided, Segmented

TABS = (mark("Live"), mark("Compare"), mark("Details"))
SIZES = {"runs": 248, "inspector": 284, "log": 128}
"""Widths and height of the panes at scale 1, until a person has moved them."""
MINIMUM = QSize(900, 560)
COMFORT = 600
"""Width of the centre at scale 1 below which the panes beside it get narrower first."""
LEAST = {"runs_place": 180, "centre": 360, "inspector_place": 264}
"""Widths at scale 1 below which a pane folds away (and the centre does not shrink)."""


class Shell(QWidget):
    """Top bar, banner, rail, run list, centre, form, log, status bar."""

    painted = Signal()
    """The window has been painted for the first time."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.setObjectName("window")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.settings = settings
        self._was_painted = False
        self.top = TopBar(self)
        self.rail = Rail(self)
        self.banner = Banner(self)
        self.status = StatusBar(self)
        self.runs_place = self._pane("runlist")
        self.inspector_place = self._pane("inspector")
        self.log_place = self._pane("logpane")
        self.start_page = StartPage(self)
        self.pages = QStackedWidget(self)
        self.pages.addWidget(self.start_page)
        self.tabs = Segmented([], parent=self)
        self.tabs.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.resumer = QPushButton(self)
        """Beside the tabs of a run that has not come to its end."""
        self.resumer.setProperty("look", "chip")
        self.resumer.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        theme.set_icon(self.resumer, "play", "accent", 13, gap=4)
        self.resumer.hide()
        self.tester = QPushButton(self)
        """Beside the tabs of a run that has a model, or is about one."""
        self.tester.setProperty("look", "chip")
        self.tester.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        theme.set_icon(self.tester, "edit", "accent", 13, gap=4)
        self.tester.hide()
        self.header, self._legend = self._make_header()
        self.columns, self.rows = self._arrange()
        self._restore_sizes()
        self.resize(settings.width, settings.height)
        theme.manager.changed.connect(self.restyle)
        i18n.signals.changed.connect(self.rename_tabs)
        self.restyle()
        self.rename_tabs()

    # --- arrangement

    def _pane(self, name: str) -> QFrame:
        pane = QFrame(self)
        pane.setObjectName(name)
        column = QVBoxLayout(pane)
        column.setContentsMargins(0, 0, 0, 0)
        return pane

    def _make_header(self) -> tuple[QWidget, QHBoxLayout]:
        """Tabs on the left; dots and names of what is drawn on the right."""
        header = QWidget(self)
        legend = QHBoxLayout()
        legend.setSpacing(6)
        row = QHBoxLayout(header)
        row.setContentsMargins(12, 8, 16, 8)
        row.addWidget(self.tabs)
        row.addSpacing(4)
        row.addWidget(self.resumer)
        row.addWidget(self.tester)
        row.addStretch(1)
        row.addLayout(legend)
        header.hide()
        return header, legend

    def _arrange(self) -> tuple[Panes, Panes]:
        self.centre = QFrame(self)
        self.centre.setObjectName("centre")
        middle = QVBoxLayout(self.centre)
        middle.setContentsMargins(0, 0, 0, 0)
        middle.setSpacing(0)
        middle.addWidget(self.header)
        middle.addWidget(self.pages, 1)
        columns = Panes(Qt.Orientation.Horizontal, self)
        columns.setObjectName("columns")
        columns.addWidget(self.runs_place)
        columns.set_middle(self.centre, COMFORT)
        columns.addWidget(self.inspector_place)
        upper = QWidget(self)
        row = QHBoxLayout(upper)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(self.rail)
        row.addWidget(columns, 1)
        rows = Panes(Qt.Orientation.Vertical, self)
        rows.setObjectName("rows")
        rows.set_middle(upper)
        rows.addWidget(self.log_place)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        # A larger interface must not push the window off the screen.
        column.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)
        self.setMinimumSize(MINIMUM)
        column.addWidget(self.top)
        column.addWidget(self.banner)
        column.addWidget(rows, 1)
        column.addWidget(self.status)
        return columns, rows

    def fill(self, place: QFrame, widget: QWidget) -> None:
        """Put a widget into its pane, when it has been loaded."""
        layout = place.layout()
        assert layout is not None
        layout.addWidget(widget)

    # --- sizes

    def _places(self) -> dict[str, tuple[Panes, QFrame]]:
        """The panes by the names of their sizes, and the splitter that each stands in."""
        return {
            "runs": (self.columns, self.runs_place),
            "inspector": (self.columns, self.inspector_place),
            "log": (self.rows, self.log_place),
        }

    def _restore_sizes(self) -> None:
        for name, (panes, place) in self._places().items():
            panes.set_wanted(place, self.settings.sizes.get(name, SIZES[name]))

    def keep_sizes(self) -> None:
        """Remember where a person has put the panes."""
        self.settings.sizes = {
            name: round(panes.wanted(place)) for name, (panes, place) in self._places().items()
        }
        if not self.isMaximized() and not self.isFullScreen():
            self.settings.width, self.settings.height = self.width(), self.height()
        self.settings.maximized = self.isMaximized()

    def fold(self, pane: str) -> None:
        """Fold "runs", "inspector" or "log" away, or unfold it."""
        panes, place = self._places()[pane]
        panes.set_wanted(place, 0 if panes.wanted(place) else SIZES[pane])

    # --- looks

    def restyle(self) -> None:
        """Sizes of the edges, after theme or scale changed."""
        for place, width in LEAST.items():
            getattr(self, place).setMinimumWidth(theme.px(width))
        self.settings.scale = theme.manager.scale
        for panes in (self.columns, self.rows):
            panes.settle()

    def rename_tabs(self) -> None:
        self.tabs.set_options([tr(tab) for tab in TABS])
        self.tabs.setAccessibleName(tr("Views of the run"))
        self.resumer.setText(tr("Resume"))
        self.resumer.setToolTip(tr("Go on from the last checkpoint"))
        self.resumer.setAccessibleName(tr("Resume"))
        self.tester.setText(tr("Test your own"))
        self.tester.setToolTip(tr("Draw or open an image, and attack it on this model"))
        self.tester.setAccessibleName(tr("Test your own"))

    def set_legend(self, entries: list[tuple[str, str]]) -> None:
        """Name and colour (#rrggbb) of each run that is drawn."""
        while item := self._legend.takeAt(0):
            if widget := item.widget():
                widget.hide()  # an open menu keeps what is deleted later on the screen
                widget.deleteLater()
        for name, color in entries:
            dot, words = QLabel(self.header), Elided(name, self.header)
            words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
            words.setMaximumWidth(theme.px(220))
            words.setMinimumWidth(min(words.sizeHint().width(), theme.px(40)))
            dot.setText(f'<span style="color:{color}">●</span>')
            words.setProperty("tone", "small")
            self._legend.addWidget(dot)
            self._legend.addWidget(words)
            self._legend.addSpacing(6)

    def set_theme(self, mode: str) -> None:
        """Follow the system, or force light or dark; remembered."""
        self.settings.theme = mode
        theme.manager.set_mode(mode)  # type: ignore[arg-type]

    def toggle_theme(self) -> None:
        self.set_theme("light" if theme.manager.theme.dark else "dark")

    def set_language(self, language: str) -> None:
        """Speak "en" or "zh" from now on; remembered."""
        self.settings.language = language
        i18n.set_language(language)  # type: ignore[arg-type]

    def toggle_language(self) -> None:
        self.set_language("en" if i18n.language == "zh" else "zh")

    def zoom(self, direction: int) -> None:
        """Larger (1), smaller (-1) or as it was (0)."""
        if direction:
            theme.manager.step_scale(direction)
        else:
            theme.manager.set_scale(1.0)

    def paintEvent(self, event: object) -> None:
        if not self._was_painted:
            self._was_painted = True
            QTimer.singleShot(0, self, self.painted.emit)
