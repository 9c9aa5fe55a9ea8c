from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from engine.data import ResidentSplit, StreamedSplit
from engine.errors import CrucibleError
from engine.models import channel_statistics

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (50, 3, 5, 7), generator=torch.Generator().manual_seed(0)).to(
    torch.uint8
)
ROWS = torch.tensor([49, 3, 17, 20, 21, 22, 4, 0, 8, 11])
LABELS = torch.arange(10) % 3


def resident() -> ResidentSplit:
    return ResidentSplit(IMAGES, ROWS, LABELS, ROWS, CPU)


def streamed() -> StreamedSplit:
    return StreamedSplit(
        lambda row: IMAGES[row].numpy(), ROWS.tolist(), LABELS, ROWS, (3, 5, 7), CPU
    )


@pytest.fixture(params=[resident, streamed])
def split(request):
    return request.param()


def test_images_are_the_bytes_divided_by_255(split):
    index = torch.tensor([2, 0, 2])
    images, labels = split.batch(index)
    assert images.dtype == torch.float32
    assert torch.equal(images, IMAGES[ROWS[index]].float() / 255)
    assert labels.tolist() == [2, 0, 2]
    assert split.shape == (3, 5, 7)
    assert len(split) == 10


def test_an_image_is_the_same_in_any_batch(split):
    together, _ = split.batch(torch.arange(10))
    for size in (1, 3, 4, 10, 99):
        parts = list(split.batches(torch.arange(10), size))
        assert torch.equal(torch.cat([images for _, images, _ in parts]), together)
        assert torch.cat([index for index, _, _ in parts]).tolist() == list(range(10))
        assert torch.equal(torch.cat([labels for _, _, labels in parts]), LABELS)


def test_a_batch_belongs_to_who_asked_for_it(split):
    first, labels = split.batch(torch.arange(3))
    kept = first.clone()
    first.zero_()
    labels.zero_()
    again, labels = split.batch(torch.arange(3))
    assert torch.equal(again, kept)
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", [10, -1])
def test_a_place_that_is_not_there_is_an_error(split, place):
    with pytest.raises(IndexError):
        split.batch(torch.tensor([place]))


def test_no_places_are_no_images(split):
    images, labels = split.batch(torch.empty(0, dtype=torch.int64))
    assert images.shape == (0, 3, 5, 7)
    assert labels.shape == (0,)


def test_no_thread_outlives_a_stream_that_is_left():
    before = threading.active_count()
    batches = streamed().batches(torch.arange(10).repeat(50), 4)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_what_decoding_raises_reaches_who_reads():
    def fail(row: int) -> np.ndarray:
        raise CrucibleError(f"row {row} is gone")

    split = StreamedSplit(fail, [7], torch.zeros(1).long(), torch.tensor([7]), (1, 2, 2), CPU)
    with pytest.raises(CrucibleError, match="row 7 is gone"):
        split.batch(torch.tensor([0]))


def test_channel_statistics(split):
    mean, std = channel_statistics(split)
    images = (IMAGES[ROWS].double() / 255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(images.mean(1).tolist(), abs=1e-6)
    assert std == pytest.approx(images.std(1, correction=0).tolist(), abs=1e-6)


def test_a_channel_without_variation_has_one_grey_level():
    flat = torch.full((4, 1, 3, 3), 51, dtype=torch.uint8)
    rows = torch.arange(4)
    mean, std = channel_statistics(ResidentSplit(flat, rows, rows, rows, CPU))
    assert mean == pytest.approx((0.2,))
    assert std == pytest.approx((1 / 255,))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels):
    pixels = torch.randint(0, 256, (6, channels, 4, 4)).to(torch.uint8)
    rows = torch.arange(6)
    split = ResidentSplit(pixels, rows, rows, rows, CPU)
    assert torch.equal(split.batch(rows)[0], pixels.float() / 255)
    assert len(channel_statistics(split)[0]) == channels
