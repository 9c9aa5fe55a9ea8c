"""Attacking: clean, adversarial and perturbation side by side while the attack runs, and what it
did to the accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "bolt"
ORDER = 20


def detail(spec: Mapping[str, Any]) -> str:
    """As in "PGD-40 · L∞ ε 0.3 · on plain"."""
    return f"{short_attack(spec['attack'])} · {tr('on {name}', name=_short(str(spec['model'])))}"


def attack_of(spec: Mapping[str, Any]) -> str:
    """What a run attacked with: one attack, or several, as in "PGD, APGD"."""
    several = [name_of(str(attack.get("kind", ""))) for attack in spec.get("attacks", ())]
    return ", ".join(dict.fromkeys(several)) or short_attack(spec.get("attack", {}))


def short_attack(attack: Mapping[str, Any]) -> str:
    """As in "PGD-40 · L∞ ε 0.3"."""
    if "kind" not in attack:
        return tr("attack")
    if attack["kind"] == "patch":
        return tr(
            "{attack} · {share} % of the image", attack=name_of("patch"), share=_percent(attack)
        )
    steps = f"-{attack['steps']}" if "steps" in attack else ""
    shown = f"{name_of(attack['kind'])}{steps}"
    return f"{shown} · {name_of(attack['norm'])} ε {attack['eps']:g}" if "eps" in attack else shown


def _percent(attack: Mapping[str, Any]) -> str:
    return f"{100 * attack.get('eps', 0.0):.3g}"


def _short(ref: str) -> str:
    return ref.rsplit("/", 1)[-1]


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.attack_view import AttackView

    return AttackView(parent)
