"""The style sheet of the window, written from a theme and a scale.

Widgets say what they are by a dynamic property: a button's `look` is "primary", "danger", "ghost"
or "icon"; a label's `tone` is "title", "heading", "muted", "faint", "value", "chip", "mono",
"good", "warn" or "bad"; a frame's `role` is "card", "bar", "pane" or "rule".
"""

from __future__ import annotations

from workbench.theme import FAMILIES, MONO, Theme


def sheet(theme: Theme, scale: float) -> str:
    """QSS for everything. Lengths are those of scale 1, multiplied by `scale`."""

    def s(length: float) -> str:
        return f"{max(1, round(length * scale))}px"

    def half(length: float) -> str:
        """The radius of a round end: Qt draws corners square when it is more than half."""
        return f"{max(1, round(length * scale)) // 2}px"

    ink = "light" if theme.dark else "dark"
    knob = 2 * max(1, round(6 * scale))
    sans = ", ".join(f'"{name}"' for name in FAMILIES)
    mono = ", ".join(f'"{name}"' for name in MONO)
    on = "dark" if theme.dark else "light"
    t = theme
    return f"""
* {{ font-family: {sans}; font-size: {s(13)}; outline: none; }}
QMainWindow, QDialog {{ background: {t.surface}; color: {t.text}; }}
QWidget {{ color: {t.text}; }}
QLabel {{ background: transparent; }}
QLabel[tone="title"] {{ font-size: {s(16)}; font-weight: 600; }}
QLabel[tone="display"] {{ font-size: {s(24)}; font-weight: 600; }}
QLabel[tone="heading"] {{ font-size: {s(13)}; font-weight: 600; }}
QLabel[tone="card"] {{ font-size: {s(12.5)}; font-weight: 600; color: {t.muted}; }}
QLabel[tone="value"] {{ font-size: {s(19)}; font-weight: 500; }}
QLabel[tone="muted"] {{ color: {t.muted}; }}
QLabel[tone="small"] {{ color: {t.muted}; font-size: {s(12)}; }}
QLabel[tone="faint"] {{ color: {t.faint}; font-size: {s(11.5)}; }}
QLabel[tone="good"] {{ color: {t.success}; font-size: {s(12)}; }}
QLabel[tone="warn"] {{ color: {t.warning}; font-size: {s(12)}; }}
QLabel[tone="bad"] {{ color: {t.danger}; font-size: {s(12)}; }}
QLabel[tone="mono"] {{ font-family: {mono}; font-size: {s(11.5)}; color: {t.muted}; }}
QLabel[tone="chip"] {{
    background: {t.raised}; color: {t.muted}; border-radius: {s(10)};
    padding: {s(2)} {s(10)}; font-size: {s(12)}; font-weight: 500;
    min-height: {s(16)}; max-height: {s(16)};
}}
QLabel[tone="chip-accent"] {{
    background: {t.selection}; color: {t.accent}; border-radius: {s(10)};
    padding: {s(2)} {s(10)}; font-size: {s(12)}; font-weight: 500;
    min-height: {s(16)}; max-height: {s(16)};
}}
QLabel[tone="chip-warn"] {{
    background: {t.warning_soft}; color: {t.warning}; border-radius: {s(10)};
    padding: {s(2)} {s(10)}; font-size: {s(12)}; font-weight: 500;
    min-height: {s(16)}; max-height: {s(16)};
}}

QMessageBox QLabel#qt_msgbox_label {{ font-weight: 600; }}

QFrame[role="card"] {{
    background: {t.card}; border: 1px solid {t.border}; border-radius: {s(9)};
}}
QFrame[role="card"][lit="true"] {{ border-color: {t.accent}; }}
QFrame[role="bar"], QFrame[role="pane"] {{ background: {t.surface}; border: none; }}
QFrame[role="canvas"] {{ background: {t.canvas}; border: none; }}
QFrame[role="rule"] {{ background: {t.border}; border: none; }}
QFrame[role="banner"] {{
    background: {t.warning_soft}; border: 1px solid {t.border}; border-radius: {s(9)};
}}
QFrame[role="banner-bad"] {{
    background: {t.danger_soft}; border: 1px solid {t.border}; border-radius: {s(9)};
}}

QPushButton {{
    background: {t.card}; color: {t.text}; border: 1px solid {t.border};
    border-radius: {s(6)}; padding: {s(5)} {s(12)}; font-weight: 500; min-height: {s(18)};
}}
QPushButton:hover {{ background: {t.raised}; }}
QPushButton:pressed {{ background: {t.selection}; }}
QPushButton:focus {{ border-color: {t.accent}; }}
QPushButton:disabled {{ color: {t.faint}; background: {t.surface}; }}
QPushButton::menu-indicator {{
    image: url(icons:indicator-down.svg); width: {s(12)}; height: {s(12)};
    subcontrol-origin: border; subcontrol-position: center right; right: {s(7)};
}}
QPushButton[look="primary"] {{
    background: {t.accent}; color: {t.on_accent}; border-color: {t.accent}; font-weight: 600;
}}
QPushButton[look="primary"]:hover {{ border-color: {t.text}; }}
QPushButton[look="primary"]:disabled {{
    background: {t.raised}; color: {t.faint}; border-color: {t.border};
}}
QPushButton[look="danger"] {{ color: {t.danger}; border-color: {t.danger}; }}
QPushButton[look="danger"]:hover {{ background: {t.danger_soft}; }}
QPushButton[look="ghost"] {{
    background: transparent; border-color: transparent; color: {t.muted};
}}
QPushButton[look="ghost"]:hover {{ background: {t.raised}; color: {t.text}; }}
QPushButton[look="ghost"]:focus {{ border-color: {t.accent}; }}
QPushButton[look="ghost"]:disabled {{ color: {t.faint}; }}
QPushButton[look="link"] {{
    background: transparent; border-color: transparent; color: {t.accent}; padding: {s(2)};
}}
QPushButton[look="chip"] {{
    background: {t.raised}; border-color: transparent; color: {t.muted};
    border-radius: {s(9)}; padding: {s(1)} {s(10)}; font-size: {s(12)};
}}
QPushButton[look="chip"]:hover, QPushButton[look="chip"]:focus {{ border-color: {t.accent}; }}

QPushButton[look="toggle"] {{
    background: transparent; border-color: {t.line}; color: {t.faint};
    border-radius: {s(9)}; padding: {s(1)} {s(8)}; font-size: {s(12)};
}}
QPushButton[look="toggle"]:checked {{ background: {t.raised}; color: {t.text}; }}
QPushButton[look="toggle"]:hover, QPushButton[look="toggle"]:focus {{
    border-color: {t.accent};
}}
QPushButton[look="toggle"]:disabled {{ background: transparent; color: {t.faint}; }}

QToolButton {{
    background: transparent; border: 1px solid transparent; border-radius: {s(6)};
    padding: {s(4)}; color: {t.muted};
}}
QToolButton:hover {{ background: {t.raised}; }}
QToolButton:pressed, QToolButton:checked {{ background: {t.selection}; color: {t.accent}; }}
QToolButton:focus {{ border-color: {t.accent}; }}
QToolButton:disabled {{ color: {t.faint}; }}
QToolButton::menu-indicator {{ image: none; width: 0; }}
QToolButton[look="rail"] {{ border-radius: {s(8)}; padding: {s(7)}; }}
QToolButton[look="quiet"] {{ padding: {s(1)}; }}

QLineEdit, QPlainTextEdit, QTextEdit, QSpinBox, QDoubleSpinBox, QComboBox {{
    background: {t.field}; color: {t.text}; border: 1px solid {t.border};
    border-radius: {s(6)}; padding: {s(4)} {s(8)};
    selection-background-color: {t.accent}; selection-color: {t.on_accent};
}}
QLineEdit, QSpinBox, QDoubleSpinBox, QComboBox {{ min-height: {s(18)}; }}
QLineEdit:hover, QSpinBox:hover, QDoubleSpinBox:hover, QComboBox:hover {{
    border-color: {t.faint};
}}
QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus,
QComboBox:focus {{ border-color: {t.accent}; }}
QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled, QComboBox:disabled {{
    color: {t.faint}; background: {t.raised};
}}
QLineEdit[invalid="true"], QComboBox[invalid="true"], QSpinBox[invalid="true"] {{
    border-color: {t.danger}; background: {t.danger_soft};
}}
QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button,
QDoubleSpinBox::down-button {{ width: 0; border: none; }}
QComboBox {{ padding-right: 0; }}
QComboBox::drop-down {{ border: none; width: {s(20)}; }}
QComboBox::down-arrow {{ image: url(icons:indicator-down.svg); width: {s(12)}; height: {s(12)}; }}
QComboBox QAbstractItemView {{
    background: {t.card}; border: 1px solid {t.border}; padding: {s(4)};
    selection-background-color: {t.selection}; selection-color: {t.text};
}}
QPlainTextEdit[look="log"], QTextEdit[look="log"] {{
    font-family: {mono}; font-size: {s(11.5)}; border: none; background: transparent;
}}

QCheckBox, QRadioButton {{ spacing: {s(8)}; background: transparent; }}
QCheckBox::indicator, QRadioButton::indicator {{
    width: {s(15)}; height: {s(15)}; border: 1px solid {t.faint}; background: {t.field};
}}
QCheckBox::indicator {{ border-radius: {s(4)}; }}
QRadioButton::indicator {{ border-radius: {s(8)}; }}
QCheckBox::indicator:hover, QCheckBox:focus::indicator, QRadioButton:focus::indicator {{
    border-color: {t.accent};
}}
QCheckBox::indicator:checked {{
    background: {t.accent}; border-color: {t.accent}; image: url(icons:indicator-check-on-{on}.svg);
}}
QRadioButton::indicator:checked {{ background: {t.accent}; border: {s(4)} solid {t.field}; }}

QMenu {{
    background: {t.card}; border: 1px solid {t.border}; border-radius: {s(8)}; padding: {s(5)};
}}
QMenu::item {{
    padding: {s(6)} {s(26)} {s(6)} {s(10)}; border-radius: {s(5)}; background: transparent;
}}
QMenu::item:selected {{ background: {t.selection}; }}
QMenu::item:disabled {{ color: {t.faint}; }}
QMenu::separator {{ height: 1px; background: {t.line}; margin: {s(5)} {s(8)}; }}
QMenu::icon {{ padding-left: {s(8)}; }}
QMenu::indicator {{ width: {s(13)}; height: {s(13)}; padding-left: {s(7)}; }}
QMenu::indicator:checked {{ image: url(icons:indicator-check-on-{ink}.svg); }}
QMenu::right-arrow {{ image: url(icons:indicator-right.svg); width: {s(12)}; height: {s(12)}; }}
QToolTip {{
    background: {t.card}; color: {t.text}; border: 1px solid {t.border};
    padding: {s(5)} {s(8)}; font-size: {s(12)};
}}

QTabWidget::pane {{ border: none; }}
QTabBar {{ background: transparent; }}
QTabBar::tab {{
    background: transparent; color: {t.faint}; padding: {s(5)} {s(12)}; margin-right: {s(4)};
    border: none; border-radius: {s(6)}; font-weight: 500;
}}
QTabBar::tab:hover {{ color: {t.text}; }}
QTabBar::tab:selected {{ background: {t.raised}; color: {t.text}; font-weight: 600; }}

QScrollArea, QGraphicsView {{ background: transparent; border: none; }}
QScrollArea > QWidget > QWidget {{ background: transparent; }}
QScrollBar:vertical {{ background: transparent; width: {s(10)}; margin: 0; }}
QScrollBar:horizontal {{ background: transparent; height: {s(10)}; margin: 0; }}
QScrollBar::handle {{ background: {t.border}; border-radius: {s(2)}; margin: {s(2)}; }}
QScrollBar::handle:hover {{ background: {t.faint}; }}
QScrollBar::handle:vertical {{ min-height: {s(28)}; }}
QScrollBar::handle:horizontal {{ min-width: {s(28)}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}

QAbstractItemView {{
    background: transparent; alternate-background-color: {t.raised}; border: none;
    selection-background-color: {t.selection}; selection-color: {t.text}; gridline-color: {t.line};
}}
QListView::item, QTreeView::item {{ border-radius: {s(6)}; padding: {s(3)}; }}
QListView::item:hover, QTreeView::item:hover {{ background: {t.raised}; }}
QListView::item:selected, QTreeView::item:selected {{
    background: {t.selection}; color: {t.text};
}}
QTableView::item {{ padding: 0 {s(8)}; border-bottom: 1px solid {t.line}; }}
QTableView::item:selected {{ background: {t.selection}; color: {t.text}; }}
QHeaderView {{ background: transparent; border: none; }}
QHeaderView::section {{
    background: {t.card}; color: {t.faint}; border: none; border-bottom: 1px solid {t.border};
    padding: {s(4)} {s(11)}; font-size: {s(11.5)}; font-weight: 500;
}}
QHeaderView::section:hover {{ color: {t.text}; }}
QHeaderView::up-arrow {{ image: url(icons:indicator-up.svg); width: {s(10)}; height: {s(10)}; }}
QHeaderView::down-arrow {{ image: url(icons:indicator-down.svg); width: {s(10)}; height: {s(10)}; }}
QTableCornerButton::section {{ background: {t.card}; border: none; }}

QProgressBar {{
    background: {t.raised}; border: none; border-radius: {half(4)}; min-height: {s(4)};
    max-height: {s(4)}; color: transparent;
}}
QProgressBar::chunk {{ background: {t.accent}; border-radius: {half(4)}; }}
QSlider {{ background: transparent; min-height: {s(18)}; }}
QSlider::groove:horizontal {{ background: {t.border}; height: {s(4)}; border-radius: {half(4)}; }}
QSlider::sub-page:horizontal {{ background: {t.accent}; border-radius: {half(4)}; }}
QSlider::sub-page:horizontal:disabled {{ background: {t.border}; }}
QSlider::handle:horizontal {{
    background: {t.accent}; width: {knob}px; height: {knob}px;
    margin: -{(knob - max(1, round(4 * scale))) // 2}px 0; border-radius: {knob // 2}px;
}}
QSlider::handle:horizontal:focus {{ border: 2px solid {t.text}; }}
QSlider::handle:horizontal:disabled {{ background: {t.faint}; }}
QSplitter::handle {{ background: {t.border}; }}
QSplitter::handle:horizontal {{ width: 1px; }}
QSplitter::handle:vertical {{ height: 1px; }}
QStatusBar {{ background: {t.surface}; color: {t.muted}; border-top: 1px solid {t.border}; }}
QStatusBar::item {{ border: none; }}
QGroupBox {{
    border: 1px solid {t.border}; border-radius: {s(8)}; margin-top: {s(18)}; padding: {s(8)};
}}
QGroupBox::title {{ subcontrol-origin: margin; left: {s(4)}; color: {t.muted}; }}
"""
