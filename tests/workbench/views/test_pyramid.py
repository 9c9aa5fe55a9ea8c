from __future__ import annotations

import numpy as np
import pytest

from workbench.views.pyramid import Pyramid, Smoother


def filled(count: int, seed: int = 0, pieces: int = 7) -> tuple[Pyramid, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.integers(1, 4, count)).astype(float)
    y = rng.standard_normal(count)
    pyramid = Pyramid()
    for part in np.array_split(np.arange(count), pieces):
        pyramid.append(x[part], y[part])
    return pyramid, x, y


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 5_000, 65_537])
@pytest.mark.parametrize("pieces", [1, 7, 40])
def test_extremes_are_exact_at_any_length(count: int, pieces: int) -> None:
    pyramid, x, y = filled(count, pieces=pieces)
    np.testing.assert_array_equal(pyramid.x, x)
    np.testing.assert_array_equal(pyramid.y, y)
    _, drawn = pyramid.outline(points=100)
    assert len(drawn) <= 100 + 8
    if count:
        assert (drawn.min(), drawn.max()) == (y.min(), y.max())
        assert pyramid.extremes() == (y.min(), y.max())


def test_extremes_are_exact_in_every_stretch() -> None:
    pyramid, _, y = filled(20_000)
    rng = np.random.default_rng(1)
    for _ in range(200):
        start, stop = sorted(rng.integers(0, 20_001, 2))
        if start == stop:
            continue
        _, drawn = pyramid.outline(int(start), int(stop), 64)
        assert (drawn.min(), drawn.max()) == (y[start:stop].min(), y[start:stop].max())


def test_each_block_keeps_its_own_extremes() -> None:
    """Against plain numpy, block by block: what stands at a position belongs there."""
    pyramid, x, y = filled(16_384)
    at, drawn = pyramid.outline(points=1024)
    size = 16_384 // (len(drawn) // 2)
    blocks = y.reshape(-1, size)
    np.testing.assert_array_equal(drawn[0::2], blocks.min(axis=1))
    np.testing.assert_array_equal(drawn[1::2], blocks.max(axis=1))
    np.testing.assert_array_equal(at[0::2], x[::size])


def test_short_series_come_as_they_are() -> None:
    pyramid, x, y = filled(1_900)
    at, drawn = pyramid.outline()
    np.testing.assert_array_equal(at, x)
    np.testing.assert_array_equal(drawn, y)


def test_positions_never_go_back() -> None:
    pyramid, x, _ = filled(33_333)
    at, _ = pyramid.outline(17, 33_001, 500)
    assert (np.diff(at) >= 0).all()
    assert at[0] == x[17]
    assert at[-1] == x[33_000]


def test_values_that_are_not_finite_are_gaps() -> None:
    pyramid = Pyramid()
    pyramid.append(range(6), [1.0, float("nan"), 3.0, float("inf"), -float("inf"), 2.0])
    assert np.isnan(pyramid.y).tolist() == [False, True, False, True, True, False]
    assert pyramid.extremes() == (1.0, 3.0)
    hollow = Pyramid()
    hollow.append(range(3), [float("nan")] * 3)
    assert np.isnan(hollow.extremes()).all()


def test_span_covers_what_is_seen_and_its_neighbours() -> None:
    pyramid = Pyramid()
    pyramid.append([0, 10, 20, 30, 40], [1, 2, 3, 4, 5])
    assert pyramid.span(11, 29) == (1, 4)
    assert pyramid.span(-5, 99) == (0, 5)


@pytest.mark.parametrize("span", [1, 2, 16, 500])
def test_smoothing_is_the_textbook_mean_however_it_arrives(span: float) -> None:
    values = np.random.default_rng(2).standard_normal(700)
    keep = 1 - 2 / (span + 1)
    expected, top, weight = [], 0.0, 0.0
    for value in values:
        top, weight = keep * top + value, keep * weight + 1
        expected.append(top / weight)
    at_once = Smoother(span).extend(values)
    smoother = Smoother(span)
    bit_by_bit = np.concatenate([smoother.extend(part) for part in np.array_split(values, 33)])
    np.testing.assert_allclose(at_once, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bit_by_bit, expected, rtol=1e-9, atol=1e-12)


def test_smoothing_steps_over_a_gap() -> None:
    smoothed = Smoother(4).extend(np.array([1.0, float("nan"), 1.0, 1.0]))
    assert np.isnan(smoothed[1])
    np.testing.assert_allclose(smoothed[[0, 2, 3]], 1.0)
