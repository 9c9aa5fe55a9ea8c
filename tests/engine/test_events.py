"""Events and frames: what goes out comes back equal."""

from __future__ import annotations

import io
import json
import math
import struct

import numpy as np
import pytest

from engine import frames
from engine.events import (
    Array,
    Change,
    Event,
    Failed,
    Finished,
    Images,
    Note,
    Progress,
    Saved,
    Scalars,
    Started,
    Stopped,
    Table,
    from_message,
    to_message,
    with_change,
)

PLAIN: list[Event] = [
    Started({"device": "cpu"}, 3),
    Scalars(7, {"train/loss": 0.25, "train/lr": 1e-300}),
    Table("parameters", ("layer", "flops"), (("conv", 12), ("文字", 3))),
    Progress(3, 0, "bytes"),
    Note("warning", "two\nlines ✓"),
    Change("lr", 1e-3, 12),
    Saved("model", "model.safetensors", 12, "ab"),
    Finished({"clean_accuracy": 0.5}),
    Stopped({}),
    Failed("why", "where"),
]


def there_and_back(event: Event) -> Event:
    frame = frames.read(io.BytesIO(frames.pack(*to_message(event))))
    assert frame is not None
    return from_message(*frame)


@pytest.mark.parametrize("event", PLAIN, ids=lambda e: type(e).__name__)
def test_an_event_survives_the_wire(event: Event) -> None:
    assert there_and_back(event) == event


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_survive(value: float) -> None:
    back = there_and_back(Scalars(1, {"x": value}))
    assert isinstance(back, Scalars)
    assert repr(back.values["x"]) == repr(value)


def test_pictures_survive_the_wire() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    sent = Images("clean", pixels, ({"label": 3},) * 5, step=2, scale=0.3, keep=True)
    back = there_and_back(sent)
    assert isinstance(back, Images)
    assert np.array_equal(back.pixels, pixels)
    assert (back.name, back.captions, back.step, back.scale, back.keep) == (
        "clean", ({"label": 3},) * 5, 2, 0.3, True,
    )  # fmt: skip


def test_arrays_survive_the_wire() -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    sent = Array("generated", values, step=4, keep=True, about={"extent": [0.0, 1.0]})
    back = there_and_back(sent)
    assert isinstance(back, Array)
    assert np.array_equal(back.values, values)
    assert (back.name, back.step, back.keep, back.about) == (
        "generated", 4, True, {"extent": [0.0, 1.0]},
    )  # fmt: skip


def test_of_changes_the_later_thought_holds() -> None:
    planned = [Change("lr", 1.0, 2), Change("by", 5.0, 4), Change("lr", 3.0, 9)]
    assert with_change(planned, Change("lr", 2.0, 5)) == [*planned[:2], Change("lr", 2.0, 5)]
    assert with_change(planned, Change("lr", 2.0, 10)) == [*planned, Change("lr", 2.0, 10)]


def test_a_torn_frame_is_the_end() -> None:
    whole = frames.pack({"say": "hello"}, b"payload")
    for cut in range(len(whole)):
        assert frames.read(io.BytesIO(whole[:cut])) is None


@pytest.mark.parametrize(
    "noise", [b"Traceback (most recent call last)", struct.pack("!II", 3, 0) + b"abc"]
)
def test_noise_is_told_from_frames(noise: bytes) -> None:
    with pytest.raises(frames.BadFrame):
        frames.read(io.BytesIO(noise))


def test_what_is_said_of_pictures_is_written_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ({"label": 3, "norm": 0.25, "text": "Würfel"}, {"label": 1, "norm": math.inf})
    listed = frames.Listed(said)
    for message in ({"event": "images", "captions": listed, "step": 2}, {"captions": listed}):
        plain = frames.read(io.BytesIO(frames.pack({**message, "captions": said}, b"abc")))
        assert frames.read(io.BytesIO(frames.pack(message, b"abc"))) == plain
        assert plain == ({**message, "captions": list(said)}, b"abc")

    written: list[object] = []
    dumps = json.dumps
    monkeypatch.setattr(
        json, "dumps", lambda value, **how: (written.append(value), dumps(value))[1]
    )
    again = frames.Listed(said)
    for step in range(3):
        frames.pack({"captions": again, "step": step})
    assert written.count(again) == 1
