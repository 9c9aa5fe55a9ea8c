"""The part of the style sheet that the window's edges need, by their object names."""

from __future__ import annotations

from workbench.theme import Theme


def sheet(theme: Theme, scale: float) -> str:
    """QSS for top bar, rail, panes and status bar; lengths at scale 1, times `scale`."""

    def s(length: float) -> str:
        return f"{max(1, round(length * scale))}px"

    round_end = max(1, round(18 * scale)) // 2  # Qt draws corners square above half the height
    t = theme
    return f"""
#window {{ background: {t.canvas}; }}
#topbar {{ background: {t.surface}; border-bottom: 1px solid {t.border}; }}
#rail {{ background: {t.surface}; border-right: 1px solid {t.border}; }}
#runlist, #inspector {{ background: {t.surface}; }}
#logpane {{ background: {t.surface}; }}
#centre {{ background: {t.canvas}; }}
#statusbar {{ background: {t.surface}; border-top: 1px solid {t.border}; }}
#statusbar QLabel, #statusbar QToolButton {{ font-size: {s(11.5)}; color: {t.muted}; }}
#statusbar QLabel[alive="true"] {{ color: {t.success}; }}
#statusbar QLabel[alive="false"] {{ color: {t.warning}; }}
#state {{
    background: {t.raised}; border-radius: {round_end}px; padding: 0 {s(10)}; min-height: {s(18)};
    font-weight: 500;
}}
#statusbar #state[status="running"] {{ background: {t.selection}; color: {t.accent}; }}
#statusbar #state[status="paused"], #statusbar #state[status="interrupted"] {{
    background: {t.warning_soft}; color: {t.warning};
}}
#statusbar #state[status="failed"], #statusbar #state[status="rejected"] {{
    background: {t.danger_soft}; color: {t.danger};
}}
#statusbar #state[status="done"] {{ background: {t.success_soft}; color: {t.success}; }}
#crumb {{ color: {t.muted}; padding: {s(3)} {s(4)}; }}
#commandField {{
    background: {t.field}; border: 1px solid {t.border}; border-radius: {s(6)}; padding: 0;
    min-height: 0;
}}
#commandField:hover {{ border-color: {t.faint}; }}
#commandField:focus {{ border-color: {t.accent}; }}
#banner {{ border: none; border-bottom: 1px solid {t.border}; background: {t.selection}; }}
#banner[kind="warning"] {{ background: {t.warning_soft}; }}
#banner[kind="error"] {{ background: {t.danger_soft}; }}
#startTile {{
    background: {t.card}; border: 1px solid {t.border}; border-radius: {s(9)}; text-align: left;
    padding: 0;
}}
#startTile:hover, #startTile:focus {{ border-color: {t.accent}; }}
#startTile[main="true"] {{ border-color: {t.accent}; }}
#startTile:disabled {{ background: {t.surface}; }}
#palette {{ background: {t.card}; border: 1px solid {t.border}; border-radius: {s(10)}; }}
#palette QLineEdit {{ padding: {s(7)} {s(12)}; font-size: {s(15)}; }}
QAbstractScrollArea::corner {{ background: transparent; border: none; }}
QSplitter#columns::handle, QSplitter#rows::handle {{ background: {t.border}; }}
"""
