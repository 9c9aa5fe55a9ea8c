"""What the strategies make of updates, against loops and formulas written out here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.federated import spec as specs
from engine.federated.flower import addressed, record, tensors
from engine.federated.strategies import (
    kept_by,
    restore_state,
    settle,
    state_of,
    strategy_of,
)

# isort: split
from flwr.app import Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy.bulyan import Bulyan
from flwr.serverapp.strategy.multikrum import select_multikrum

Update = dict[str, Tensor]
COUNTS = (10, 30, 20, 40, 25, 15, 35, 50, 5, 45, 12)


def some(count: int = 11, *, seed: int = 0, far: Sequence[int] = ()) -> list[Update]:
    """Updates around a common direction; those in `far` lie elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    common = {"a": torch.randn(4, 3, generator=draw), "b": torch.randn(5, generator=draw)}
    found = []
    for client in range(count):
        noise = {n: 0.3 * torch.randn(t.shape, generator=draw) for n, t in common.items()}
        sign = -5.0 if client in far else 1.0
        found.append({n: sign * (t + noise[n]) for n, t in common.items()})
    return found


def contents_of(updates: Sequence[Update]) -> list[RecordDict]:
    return [
        RecordDict(
            {
                "arrays": record(update, live=True),
                "metrics": MetricRecord({"num-examples": COUNTS[place % len(COUNTS)]}),
            }
        )
        for place, update in enumerate(updates)
    ]


def together(strategy: Any, updates: Sequence[Update], number: int = 1) -> Update:
    settle(strategy, updates[0], len(updates))
    messages: list[Message] = [
        addressed(content, Metadata(1, "", place + 2, 1, "", "", 0.0, 1.0, "train"))
        for place, content in enumerate(contents_of(updates))
    ]
    arrays, _ = strategy.aggregate_train(number, messages)
    assert arrays is not None
    return tensors(arrays)


def stacked(updates: Sequence[Update], name: str) -> Tensor:
    return torch.stack([update[name] for update in updates]).double()


def flat(update: Update) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in update.values()]).double()


def krum_scores(updates: Sequence[Update], hostile: int) -> list[float]:
    """Blanchard et al. 2017, section 4: the sum of squared distances to the n - f - 2 closest."""
    scores = []
    for i, one in enumerate(updates):
        others = [
            float((flat(one) - flat(other)).square().sum())
            for j, other in enumerate(updates)
            if j != i
        ]
        scores.append(sum(sorted(others)[: len(updates) - hostile - 2]))
    return scores


@pytest.mark.parametrize("kind", [specs.FedAvg(), specs.FedProx(), specs.FedBN()])
def test_the_mean_is_weighted_by_images(kind: specs.StrategySpec) -> None:
    updates = some()
    found = together(strategy_of(kind, 11), updates)
    weights = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    for name, tensor in found.items():
        expected = torch.einsum("n,n...->...", weights, stacked(updates, name))
        assert torch.allclose(tensor.double(), expected, atol=1e-6)


def test_the_median_is_of_every_coordinate() -> None:
    updates = some(far=(3, 4))
    found = together(strategy_of(specs.FedMedian(), 11), updates)
    for name, tensor in found.items():
        columns = stacked(updates, name).flatten(1).T
        expected = [sorted(column.tolist())[5] for column in columns]
        assert torch.allclose(tensor.flatten().double(), torch.tensor(expected).double())


def test_the_trimmed_mean_cuts_both_ends() -> None:
    updates = some(10, far=(3, 4))
    found = together(strategy_of(specs.TrimmedMean(beta=0.25), 10), updates)
    for name, tensor in found.items():
        columns = stacked(updates, name).flatten(1).T
        expected = [sum(sorted(column.tolist())[2:-2]) / 6 for column in columns]
        assert np.allclose(tensor.flatten().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("hostile", [1, 2, 3])
def test_krum_takes_the_update_with_the_least_score(hostile: int) -> None:
    for seed in range(10):
        updates = some(seed=seed, far=range(hostile))
        strategy = strategy_of(specs.Krum(hostile=hostile), 11)
        scores = krum_scores(updates, hostile)
        best = scores.index(min(scores))
        assert kept_by(strategy, contents_of(updates)) == [best]
        assert torch.equal(together(strategy, updates)["a"], updates[best]["a"])


@pytest.mark.parametrize(("keep", "expected"), [(0, 7), (4, 4), (9, 7)])
def test_multikrum_averages_those_with_the_least_scores(keep: int, expected: int) -> None:
    for seed in range(10):
        updates = some(seed=seed, far=(0, 1))
        strategy = strategy_of(specs.MultiKrum(hostile=2, keep=keep), 11)
        settle(strategy, updates[0], len(updates))
        scores = krum_scores(updates, 2)
        best = sorted(np.argsort(scores)[:expected].tolist())
        assert kept_by(strategy, contents_of(updates)) == best
        found = together(strategy, updates)
        weights = torch.tensor([COUNTS[i] for i in best], dtype=torch.float64)
        mean = torch.einsum("n,n...->...", weights / weights.sum(), stacked(updates, "a")[best])
        assert torch.allclose(found["a"].double(), mean, atol=1e-6)


def test_bulyan_selects_one_by_one_and_averages_around_the_median() -> None:
    """El Mhamdi et al. 2018, section 4; Flower's default selection is another one."""
    differs = False
    for seed in range(10):
        updates = some(seed=seed, far=(4, 9))
        left, chosen = list(range(11)), []
        for _ in range(11 - 2 * 2):
            scores = krum_scores_among(updates, left, 2)
            best = left[scores.index(min(scores))]
            chosen.append(best)
            left.remove(best)
        strategy = strategy_of(specs.Bulyan(hostile=2), 11)
        contents = contents_of(updates)
        assert kept_by(strategy, contents) == sorted(chosen)
        at_once = {id(each) for each in select_multikrum(contents, 2, 7)}
        differs |= sorted(chosen) != [i for i in range(11) if id(contents[i]) in at_once]
        found = together(strategy, updates)
        for name, tensor in found.items():
            columns = stacked(updates, name)[sorted(chosen)].flatten(1).T
            expected = []
            for column in columns.tolist():
                middle = sorted(column)[3]
                closest = sorted(column, key=lambda value: abs(value - middle))[:3]
                expected.append(sum(closest) / 3)
            assert np.allclose(tensor.flatten().numpy(), expected, atol=1e-5)
    assert differs
    assert isinstance(strategy, Bulyan)


def krum_scores_among(updates: Sequence[Update], among: Sequence[int], hostile: int) -> list[float]:
    scores = []
    near = max(1, len(among) - hostile - 2)
    for i in among:
        others = [
            float((flat(updates[i]) - flat(updates[j])).square().sum()) for j in among if j != i
        ]
        scores.append(sum(sorted(others)[:near]))
    return scores


def test_krum_on_weights_drowns_in_rounding_and_on_updates_does_not() -> None:
    """Why strategies are given updates: Flower takes squared distances from squared lengths, in
    float32, where those of weights are ten million times as large."""
    updates = [{n: 1e-3 * t for n, t in update.items()} for update in some(far=(0, 1))]
    weights = [{n: 30.0 + t for n, t in update.items()} for update in updates]
    right = krum_scores(updates, 2)
    best = sorted(np.argsort(right)[:5].tolist())

    def chosen(those: Sequence[Update]) -> list[int]:
        contents = contents_of(those)
        kept = {id(each) for each in select_multikrum(contents, 2, 5)}
        return [place for place in range(11) if id(contents[place]) in kept]

    assert chosen(updates) == best
    assert chosen(weights) != best


@pytest.mark.parametrize("kind", ["fedadam", "fedyogi", "fedadagrad"])
def test_optimisers_at_the_server_take_their_steps(kind: str) -> None:
    """Reddi et al. 2021, algorithm 2, as Flower has it: the second moment from zero, and FedAdam's
    correction of the bias one round ahead."""
    made = {"fedadam": specs.FedAdam, "fedyogi": specs.FedYogi, "fedadagrad": specs.FedAdagrad}
    strategy = strategy_of(made[kind](server_lr=0.05, tau=0.01), 11)
    m = v = 0.0
    b1, b2 = (0.0, 0.0) if kind == "fedadagrad" else (0.9, 0.99)
    weights = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    for number in (1, 2, 3):
        updates = some(seed=number)
        found = together(strategy, updates, number)["a"].double()
        delta = torch.einsum("n,n...->...", weights, stacked(updates, "a"))
        m = b1 * m + (1 - b1) * delta
        square = delta.square()
        match kind:
            case "fedadam":
                v = b2 * v + (1 - b2) * square
                rate = 0.05 * math.sqrt(1 - b2 ** (number + 1)) / (1 - b1 ** (number + 1))
            case "fedyogi":
                v = v - (1 - b2) * square * torch.sign(v - square)
                rate = 0.05
            case _:
                v, rate = v + square, 0.05
        assert torch.allclose(found, rate * m / (v.sqrt() + 0.01), atol=1e-5)


@pytest.mark.parametrize("kind", [specs.FedAdam(), specs.FedYogi(), specs.FedAdagrad()])
def test_an_optimiser_at_the_server_goes_on_where_it_was(kind: specs.StrategySpec) -> None:
    one, two = strategy_of(kind, 11), strategy_of(kind, 11)
    together(one, some(seed=1), 1)
    state = {name: tensor.clone() for name, tensor in state_of(one).items()}
    restore_state(two, dict(sorted(state.items())))
    first, second = together(one, some(seed=2), 2), together(two, some(seed=2), 2)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_strategy_can_be_made() -> None:
    from engine.task import kinds

    for member in kinds(specs.StrategySpec).values():
        assert strategy_of(member(), 11) is not None
    assert len(list(itertools.chain(kinds(specs.StrategySpec)))) == 12
