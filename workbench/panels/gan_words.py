"""What can go wrong between a generator and its critic, and what can be tried, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.i18n import mark, name_of, tr
from workbench.views.text import within_sentence
from workbench.words import word

TROUBLES: Mapping[str, tuple[str, str]] = {
    "collapse": (
        mark("Mode collapse"),
        mark("The generator makes few kinds of samples, whatever its latents."),
    ),
    "critic_wins": (
        mark("The critic wins"),
        mark("The critic is sure of everything, and the generator learns nothing from it."),
    ),
    "oscillation": (
        mark("Oscillation"),
        mark("Generator and critic chase each other around, and neither gets better."),
    ),
    "exploding": (
        mark("Divergence"),
        mark("The weights grow from step to step; soon nothing is finite."),
    ),
    "memorising": (
        mark("Memorising"),
        mark("The samples are copies of training images."),
    ),
}
"""What each is called, and what it means."""

FIELDS: Mapping[str, str] = {
    "generator_lr": mark("Generator's rate"),
    "critic_lr": mark("Critic's rate"),
    "critic_steps": mark("Critic steps"),
    "generator_steps": mark("Generator steps"),
    "instance_noise": mark("Instance noise"),
    "r1": "R1",
    "r2": "R2",
    "gradient_penalty": mark("Gradient penalty"),
    "codes": mark("Codes"),
    "size": mark("Latent size"),
    "loss": mark("Loss"),
    "ema": mark("EMA"),
    "label_smoothing": mark("Label smoothing"),
    "clip": mark("Clip"),
    "augment": mark("DiffAugment"),
}
"""The titles of fields that are proposed to be changed."""

_EVIDENCE: Mapping[str, str] = {
    "scattered": mark(
        "the samples have left the picture: they are {value} times as far apart as the data, and "
        "as a rule only a new run brings them back"
    ),
    "diversity": mark("diversity of the samples {value}"),
    "critic_loss": mark("loss of the critic {value}"),
    "generator_gradient": mark("gradient norm of the generator {value}"),
    "gradient_norm": mark("gradient norm {value}"),
    "before": mark("{value} before"),
    "network": mark("in the {value}"),
    "swing": mark("{value} of the samples are in another mode at each look"),
    "nearer": mark("samples are {value} times as far from training images as other images are"),
}
"""What a trouble is seen by."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something to try: a field of the spec, by its dotted name, and what it should be. Without a
    field it is words alone (`said`, as the engine said it)."""

    said: str
    path: str = ""
    value: Any = None

    @property
    def live(self) -> tuple[str, float] | None:
        """The live value that it may be."""
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        return (self.path.rpartition(".")[2], float(self.value)) if number else None

    def words(self) -> str:
        """What is to be done."""
        if not self.path:
            return tr(self.said)
        field = self.path.removesuffix(".kind").rpartition(".")[2]
        name = tr(FIELDS[field]) if field in FIELDS else field.replace("_", " ").capitalize()
        return tr("{name}: {value}", name=name, value=_shown(self.value))


def proposal_of(text: str) -> Proposal:
    """What the engine proposes, as in "instance_noise=0.2" or "loss.kind=relativistic"."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path.replace(".", "").replace("_", "").isalnum():
        return Proposal(text)
    many = [_value(part.strip()) for part in value.split(",")]
    return Proposal(text, path, many if len(many) > 1 else many[0])


def evidence_text(text: str) -> str:
    """What the engine saw, as in "modes_reached=1, modes=8", in words."""
    if not all("=" in part for part in text.split(",")):
        return tr(text)
    told = dict(part.strip().split("=", 1) for part in text.split(","))
    parts = []
    if {"modes_reached", "modes"} <= told.keys():
        covered, count = told.pop("modes_reached"), told.pop("modes")
        parts.append(tr("{covered} of {count} modes are reached", covered=covered, count=count))
    for name, value in told.items():
        shown = within_sentence(word(value)) if name == "network" else _shown(_value(value))
        known = _EVIDENCE.get(name)
        parts.append(tr(known, value=shown) if known else f"{name.replace('_', ' ')} {shown}")
    said = tr(", ").join(parts)
    return tr("{sentence}.", sentence=f"{said[:1].upper()}{said[1:]}") if said else ""


def changed(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A spec's values with the field at a dotted path changed. A field that is named without where
    it stands is looked for; another kind begins from its defaults."""
    way = path.split(".")
    if way[0] not in spec and len(way) == 1:
        way = _way_to(spec, way[0]) or way
    if way[-1] == "kind":
        return _put(spec, way[:-1], {"kind": value})
    return _put(spec, way, value)


def _way_to(spec: Mapping[str, Any], name: str) -> list[str] | None:
    """Where a field of this name stands in what the spec holds."""
    for field, inner in spec.items():
        if isinstance(inner, Mapping):
            if name in inner:
                return [field, name]
            deeper = _way_to(inner, name)
            if deeper is not None:
                return [field, *deeper]
    return None


def _put(spec: Mapping[str, Any], way: list[str], value: Any) -> dict[str, Any]:
    if len(way) == 1:
        return {**spec, way[0]: value}
    inner = spec.get(way[0])
    return {**spec, way[0]: _put(inner if isinstance(inner, Mapping) else {}, way[1:], value)}


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return tr(", ").join(map(_shown, value))
    if isinstance(value, bool):
        return tr("on") if value else tr("off")
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else name_of(str(value))
