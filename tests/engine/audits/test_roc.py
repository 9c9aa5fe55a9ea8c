"""Curves of true over false positives, against scikit-learn's and loops over pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from engine.audits.roc import auc_interval, clopper_pearson, curve


def sample(seed: int, members: int, others: int, shift: float, ties: bool) -> tuple:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(members + others, generator=draw, dtype=torch.float64)
    member = torch.arange(members + others) < members
    scores[member] += shift
    return (scores.mul(3).round() if ties else scores), member


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_that_of_scikit_learn(ties: bool) -> None:
    scores, member = sample(0, 150, 90, 0.7, ties)
    found = curve(scores, member)
    false, true, _ = roc_curve(member.numpy(), scores.numpy(), drop_intermediate=False)
    assert found.false == pytest.approx(false)
    assert found.true == pytest.approx(true)
    assert found.auc == pytest.approx(roc_auc_score(member.numpy(), scores.numpy()))
    assert found.balanced_accuracy == pytest.approx(((true + 1 - false) / 2).max())
    for rate in (0.0, 0.001, 0.01, 0.05, 1.0):
        share, low, high = found.true_rate(rate)
        assert share == pytest.approx(max(true[false <= rate]))
        exact = binomtest(round(share * 150), 150).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((exact.low, exact.high))


def test_the_interval_of_the_area_is_delongs() -> None:
    """By the double loop of its definition."""
    scores, member = sample(1, 40, 55, 0.5, True)
    inside, outside = scores[member].tolist(), scores[~member].tolist()

    def above(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    ten = [sum(above(x, y) for y in outside) / len(outside) for x in inside]
    one = [sum(above(x, y) for x in inside) / len(inside) for y in outside]
    area = sum(ten) / len(ten)
    variance = sum((v - area) ** 2 for v in ten) / (len(ten) - 1) / len(ten)
    variance += sum((v - area) ** 2 for v in one) / (len(one) - 1) / len(one)
    reach = 1.959963984540054 * math.sqrt(variance)
    assert auc_interval(scores, member) == pytest.approx((area - reach, area + reach))


def test_the_interval_covers_guessing_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(400):
        low, high = auc_interval(*sample(seed, 60, 60, 0.0, False))
        hits += low <= 0.5 <= high
    assert 0.91 <= hits / 400 <= 0.98


def test_what_is_told_perfectly_or_is_no_number() -> None:
    member = torch.tensor([True, True, False, False])
    found = curve(torch.tensor([2.0, 2.0, 1.0, 1.0]), member)
    assert (found.auc, found.balanced_accuracy, found.true_rate(0.001)[0]) == (1.0, 1.0, 1.0)
    low, high = auc_interval(torch.tensor([2.0, 2.0, 1.0, 1.0]), member)
    assert low < 1.0 == high
    lost = curve(torch.tensor([math.nan, 2.0, 1.0, 1.0]), member)
    assert lost.auc == pytest.approx(0.5)  # one above both, one below both
    alike = curve(torch.zeros(4), member)
    assert alike.auc == 0.5
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_a_long_curve_is_drawn_with_few_points_that_keep_its_ends() -> None:
    found = curve(*sample(2, 3000, 3000, 1.0, False))
    points = found.points()
    assert len(points) <= 201
    assert points[0] == (0.0, float(found.true[found.false == 0].min()))
    assert points[-1] == (1.0, 1.0)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(points))


def test_what_is_found_without_a_false_positive_is_drawn() -> None:
    found = curve(*sample(2, 3000, 3000, 3.0, False))
    best = float(found.true[found.false == 0].max())
    assert best > 0.001
    assert max(true for false, true in found.points() if false == 0) == best
