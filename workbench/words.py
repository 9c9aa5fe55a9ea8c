"""What the quantities, groups and properties that runs report are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workbench.i18n import mark, tr, tr_like

_WORDS = {
    # Groups of series, and splits.
    "train": mark("Train"),
    "validation": mark("Validation"),
    "test": mark("Test"),
    "attack": mark("Attack"),
    # Quantities.
    "loss": mark("Loss"),
    "accuracy": mark("Accuracy"),
    "gradient_norm": mark("Gradient norm"),
    "lr": mark("Learning rate"),
    "success_rate": mark("Success rate"),
    "mean_norm": mark("Mean norm"),
    "max_norm": mark("Largest norm"),
    "images_per_second": mark("Images per second"),
    "clean_accuracy": mark("Clean accuracy"),
    "robust_accuracy": mark("Robust accuracy"),
    "robust_accuracy_interval": mark("Robust accuracy, interval"),
    "interval": mark("Kind of interval"),
    "validation_accuracy": mark("Validation accuracy"),
    "test_loss": mark("Test loss"),
    "tested": mark("Tested images"),
    "epochs": mark("Epochs"),
    "steps": mark("Steps"),
    "best_epoch": mark("Best epoch"),
    "parameters": mark("Parameters"),
    "samples": mark("Samples"),
    "correct": mark("Correct before"),
    "broken": mark("Broken"),
    "seconds": mark("Duration"),
    "forward_evaluations": mark("Forward evaluations"),
    "gradient_evaluations": mark("Gradient evaluations"),
    "zero_gradients": mark("Zero gradients"),
    "nan_count": mark("NaN values"),
    "weights_sha256": mark("Weights, SHA-256"),
    "data_changed": mark("Data changed since training"),
    "sha256": "SHA-256",
    "size": mark("Size"),
    "file": mark("File"),
    "command": mark("Command"),
    "recipients": mark("Recipients"),
    # Surroundings.
    "device": mark("Device"),
    "device_name": mark("Device, by name"),
    "threads": mark("Threads"),
    "precision": mark("Precision"),
    "platform": mark("System"),
}


_NOTES = (
    mark("resumed at step {step}, epoch {epoch}"),
    mark("Encrypted to {who}. Anywhere, this opens it:\n{command}"),
    mark("{title} is not under {folder}: downloading it"),
    mark("{bad} of {all} images cannot be read and are skipped: {names}"),
    mark("the test split has {count} images; all of them are attacked"),
    mark("out of memory: going on with {count} images at a time"),
    mark(
        "the test images are not those that were kept aside when the model was trained, so some "
        "may be among those it learnt from, and its accuracies may be too high. Put the data back "
        "as it was, or train a model on what it is now."
    ),
)
"""What tasks say while they work, for translation."""


def note_text(text: str) -> str:
    """What a task said, in the person's language where it is known."""
    name, changed, value = text.partition(" set to ")
    if changed and name in _WORDS:
        return tr("{quantity} set to {value}", quantity=word(name), value=value)
    return tr_like(text, _NOTES)


def warning_of(summary: Mapping[str, Any]) -> str:
    """Why the results of a run may mislead, for a person; nothing where they do not."""
    if not summary.get("data_changed"):
        return ""
    return tr(
        "The data has changed since the model was trained: it may have learnt from some of these "
        "images, and its accuracies may be too high."
    )


def word(key: str) -> str:
    """`key` in the person's language; readable English where nobody has named it."""
    if key in _WORDS:
        return tr(_WORDS[key])
    last = key.rpartition(".")[2]
    return re.sub(r"[_-]+", " ", last)[:1].upper() + re.sub(r"[_-]+", " ", last)[1:]


def title(key: str) -> str:
    """The English of `key`, for what translates its title itself."""
    return _WORDS.get(key) or re.sub(r"[_-]+", " ", key).capitalize()
