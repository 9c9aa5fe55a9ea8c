"""From the model of a recipe `features_*.toml` to the file that is shipped: half precision, and
nothing in its card that belongs to the machine it was trained on.

    python -m engine.generative.metrics.shipping WORKSPACE RUN FILE

prints the SHA-256 that belongs into `extractors.SHIPPED`. The classifier is loaded in float32, of
which these are the rounded weights, so that whoever repeats this gets the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from engine.errors import CrucibleError
from engine.files import sha256_of
from engine.models.card import ModelCard, of_classifier, parse_card, read_metadata
from engine.models.files import read_tensors, save_model
from engine.store import Workspace

MOST = 1_000_000
"""Bytes of a shipped file."""


def ship(source: Path, target: Path) -> str:
    """Write the model file `source` as `target`, to be shipped; its SHA-256. Raises BadInput if it
    holds no classifier, CrucibleError if it is too large."""
    _, metadata = read_metadata(source)
    card = of_classifier(str(source), parse_card(str(source), metadata))
    state = read_tensors(source, str(source), metadata)
    # Counters of batches, as of batch normalisation, stay whole numbers.
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    save_model(target, half, _stripped(card))
    if target.stat().st_size > MOST:
        raise CrucibleError(
            f"{target} has {target.stat().st_size} bytes; expected at most {MOST}. Take a smaller "
            "classifier"
        )
    return sha256_of(target)


def _stripped(card: ModelCard) -> ModelCard:
    """What it is, and how good."""
    return ModelCard(
        model=card.model,
        shape=card.shape,
        classes=card.classes,
        metrics={"clean_accuracy": card.metrics["clean_accuracy"]},
        versions={name: card.versions[name] for name in ("torch",) if name in card.versions},
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="engine.generative.metrics.shipping")
    for name in ("workspace", "run", "file"):
        parser.add_argument(name)
    given = parser.parse_args()
    try:
        model = Workspace(Path(given.workspace), create=False).model_file(given.run)
        print(ship(model, Path(given.file)))
    except CrucibleError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
