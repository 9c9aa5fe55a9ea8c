"""What a model file says about itself, readable without torch.

A model file is a safetensors file whose metadata holds the card as JSON under `card` and, where
tensors are tied, under `aliases` which name stands for which stored tensor.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeAlias, TypeVar

from pydantic import Field, ValidationError

from engine.data.spec import DataSpec, SourceSpec
from engine.errors import BadInput
from engine.events import Change
from engine.files import atomic
from engine.models.spec import ModelSpec, NetworkSpec
from engine.task import OneOf, Spec, Task, kinds, parse

LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


Side: TypeAlias = Annotated[int, Field(ge=1, le=16384)]
"""One side of the images, or their channels. What is beyond would overflow where sizes multiply."""


LEARNT = "learnt.json"

SEEN = (
    "the model was trained on some of the images that it is tested on now: the data or its split "
    "is not what it was. Its accuracies are too high. Put the data back as it was, or train a "
    "model from the beginning on what it is now."
)
"""What to say where `Dataset.seen` of what `ModelCard.learnt` holds is above zero."""


C = TypeVar("C", bound="Card")


class Card(Spec):
    """Where what a model file holds comes from and what it takes: enough to build it and to use
    it."""

    shape: tuple[Side, Side, Side]
    """Channels, height, width of the images; (1, 1, 2) of points of a plane."""
    data_fingerprint: str = ""
    """Of `data` as it was when the weights were trained on it or brought in with it, see
    `engine.data.Dataset`; empty where an older version wrote the card."""
    learnt: tuple[str, ...] = ()
    """A sketch (`engine.data.Dataset.sketch`) of each set of training images that the weights
    learnt from: in this run, and in those that it started from."""
    withheld: bool = False
    """Whether the file does not tell what the weights learnt from: it is kept beside it, in the
    run's folder. So it is with a private model, and with what is made of one."""
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Accuracies are fractions."""
    versions: dict[str, str] = Field(default_factory=dict)
    weights_sha256: str = ""
    run: str = ""
    created: str = ""
    """UTC, ISO 8601."""


class ModelCard(Card):
    """Of a classifier."""

    model: OneOf[ModelSpec]
    data: OneOf[DataSpec] | None = None
    classes: tuple[str, ...]
    """Names, in the order of the outputs."""


class NetworkCard(Card):
    """Of what is no classifier."""

    model: OneOf[NetworkSpec]
    data: OneOf[SourceSpec] | None = None
    classes: tuple[str, ...] = ()
    """Names of the classes that it is told, if it is told one."""


AnyCard: TypeAlias = ModelCard | NetworkCard


def told(task: Task, *, private: bool, changes: Sequence[Change] = ()) -> dict[str, Any]:
    """A training as the card tells it, with the live values that were changed on the way: of a
    private one without the seed, from which noise can be drawn again."""
    found = task.to_dict()
    if changes:
        found["changes"] = [asdict(change) for change in changes]
    if private:
        del found["seed"]
    return found


def keep_learnt(folder: Path, learnt: tuple[str, ...]) -> None:
    """Keep in a run's folder what its model learnt from, where the card does not tell it."""
    with atomic(folder / LEARNT) as file:
        file.write(json.dumps(learnt).encode())


def with_learnt(card: C, folder: Path) -> C:
    """The card of a run's model, with what is kept beside it."""
    path = folder / LEARNT
    if not card.withheld or not path.is_file():
        return card
    return card.model_copy(update={"learnt": tuple(json.loads(path.read_text("utf-8")))})


def read_card(source: Path | bytes) -> AnyCard:
    """The card of a model file. Raises BadInput if it is none, is cut short, or has no card."""
    name, metadata = (
        read_metadata(source) if isinstance(source, bytes) else read_metadata(Path(source))
    )
    return parse_card(name, metadata)


def has_card(path: Path) -> bool:
    """Whether a file is one of ours, by its ending and its card. Raises BadInput where it cannot be
    read. (Of an encrypted one that is not looked at: only ours are age files.)"""
    return path.suffix == ".safetensors" and "card" in read_metadata(path)[1]


def of_classifier(name: str, card: AnyCard) -> ModelCard:
    """The card of the file called `name`, which has to hold a classifier. Raises BadInput."""
    if isinstance(card, NetworkCard):
        raise BadInput(
            f"{name} holds a network of kind {card.model.kind!r}, which is no classifier. Name the "
            "run or file of one"
        )
    return card


def parse_card(name: str, metadata: dict[str, str]) -> AnyCard:
    """The card in the metadata of the model file called `name`."""
    if "card" not in metadata:
        raise BadInput(
            f"{name} holds tensors but no model card, so what they belong to is not known. "
            "Bring it in with the `import` task, naming its architecture."
        )
    try:
        values = json.loads(metadata["card"])
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"the model card of {name} is damaged: {error}") from None
    try:
        kind = values["model"]["kind"] if isinstance(values.get("model"), dict) else None
        if kind in kinds(NetworkSpec):  # type: ignore[type-abstract]
            return parse(NetworkCard, values)
        return parse(ModelCard, values)
    except (BadInput, ValidationError) as error:
        raise BadInput(
            f"the model card of {name} does not fit this version: {error}. "
            "It may have been written by a newer one."
        ) from None


def read_metadata(source: Path | bytes) -> tuple[str, dict[str, str]]:
    """What to call `source` in a message, and the metadata of its safetensors header."""
    if isinstance(source, bytes):
        return "the model", _metadata("the model", io.BytesIO(source), len(source))
    name = str(source)
    try:
        with source.open("rb") as file:
            return name, _metadata(name, file, source.stat().st_size)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}") from None


def _metadata(name: str, file: BinaryIO, size: int) -> dict[str, str]:
    start = file.read(8)
    # A header's length may begin with the byte 0x80 as well, but it never fills all eight bytes.
    pickled = start[:1] == b"\x80" and any(start[4:])
    if pickled or start[:4] == b"PK\x03\x04":
        raise BadInput(
            f"{name} is a pickle (.pt), which is never loaded here: it can run code. "
            "Bring it in with the `import` task, which converts its tensors in a sandbox."
        )
    if start.startswith(b"age-enc"):
        raise BadInput(f"{name} is encrypted; name it with the ending .age to have it opened")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > LONGEST_HEADER:
        raise BadInput(f"{name} is not a safetensors file, or not a whole one")
    if 8 + length > size:
        raise BadInput(f"{name} is cut short: its header alone is longer than the file")
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, AttributeError, TypeError, KeyError, IndexError, RecursionError):
        raise BadInput(f"{name} is not a safetensors file: its header cannot be read") from None
    if 8 + length + end != size:
        raise BadInput(
            f"{name} is cut short or damaged: {size} bytes, expected {8 + length + end}. "
            "Copy it again from where it came from."
        )
    if not isinstance(metadata, dict):
        raise BadInput(f"{name} is not a safetensors file: its metadata is no table")
    return metadata
