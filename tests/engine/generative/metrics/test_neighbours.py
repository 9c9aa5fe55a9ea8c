"""Nearest neighbours against a loop; memory is found where there is some, and only there."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch import Tensor

from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput
from engine.events import drain
from engine.generative.metrics import Search, memory, nearest
from engine.generative.metrics.neighbours import Memory, _rank_test, halves, looking


def cloud(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_nearest_is_found(block: int) -> None:
    samples, pool = cloud(9, 1), cloud(50, 2)
    found = nearest(samples, pool, block)
    for k, sample in enumerate(samples):
        apart = (pool - sample).flatten(1).norm(dim=1)
        assert int(found.place[k]) == int(apart.argmin())
        assert float(found.distance[k]) == pytest.approx(float(apart.min()), rel=1e-6)


def test_a_copy_is_at_no_distance_at_all() -> None:
    """Which a product of matrices does not give."""
    pool = cloud(50, 2) * 100
    found = nearest(pool[[7, 3]], pool, 20)
    assert found.place.tolist() == [7, 3]
    assert found.distance.tolist() == [0.0, 0.0]


def test_a_search_says_how_far_it_is() -> None:
    pool = cloud(50, 2)
    steps = looking(Search(cloud(3, 1)), pool.split(20))
    assert [next(steps), next(steps), next(steps)] == [20, 40, 50]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.place.shape == (3,)


def test_nothing_is_near_in_an_empty_pool() -> None:
    with pytest.raises(BadInput, match="no image to find a nearest one among"):
        nearest(cloud(2, 1), cloud(0, 1))


@pytest.mark.parametrize("rounded", [False, True])
def test_ranks_are_tested_as_scipy_does(rounded: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    lower, higher = torch.randn(60, generator=draw) - 0.2, torch.randn(45, generator=draw)
    if rounded:
        lower, higher = lower.round(), higher.round()
    expected = scipy.stats.mannwhitneyu(
        lower.double(), higher.double(), alternative="less", method="asymptotic"
    ).pvalue
    assert _rank_test(lower, higher) == pytest.approx(float(expected), rel=1e-9)
    assert _rank_test(torch.ones(5), torch.ones(5)) == 1.0


def judged(samples: Tensor, train: Tensor, aside: Tensor) -> Memory:
    one, other = halves(len(aside), torch.Generator().manual_seed(0))
    first, second = aside[one], aside[other]
    return memory(
        (nearest(samples, train).distance, nearest(samples, second).distance),
        (nearest(first, train).distance, nearest(first, second).distance),
    )


@pytest.fixture
def digits(bench) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    data = drain(load(Digits(test=0.5, validation=0.0), bench))
    train, _ = data.train.batch(torch.arange(len(data.train)))
    # Rows that follow each other are often by one writer.
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    test, _ = data.test.batch(order)
    return train, test


def test_copies_with_noise_are_found(digits: tuple[Tensor, Tensor]) -> None:
    train, aside = digits
    noise = 0.05 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = judged(train[:200] + noise, train, aside)
    assert found.memorised > 0.95
    assert found.p_value < 1e-30
    # A tenth of copies among honest samples is seen as well.
    fresh, aside = aside[:180], aside[180:]
    mixed = torch.cat([train[:20] + noise[:20], fresh])
    found = judged(mixed, train, aside)
    assert 0.08 < found.memorised < 0.18


def test_fresh_and_blurred_images_are_no_copies(digits: tuple[Tensor, Tensor]) -> None:
    """What lies between images is as far from training images as from those kept aside."""
    train, aside = digits
    fresh, aside = aside[:300], aside[300:]
    blurred = fresh.lerp(train.mean(0), 0.4)
    for samples in (fresh, blurred):
        found = judged(samples, train, aside)
        assert found.memorised < 0.04
        assert found.p_value > 1e-3


def test_few_images_kept_aside_tell_nothing() -> None:
    with pytest.raises(BadInput, match="there are 39; expected at least 40"):
        halves(39, torch.Generator())
    one, other = halves(41, torch.Generator())
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(41))
