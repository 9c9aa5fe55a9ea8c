from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from engine.data import load, stratified
from engine.data.spec import Digits
from engine.data.splitting import divide
from engine.errors import BadInput


def labels_of(*counts: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def test_each_class_is_divided_in_the_same_proportion():
    labels = labels_of(100, 50, 10)
    kept, aside = stratified(labels, 0.2, seed=1)
    assert torch.bincount(labels[aside]).tolist() == [20, 10, 2]
    assert sorted([*kept.tolist(), *aside.tolist()]) == list(range(160))
    assert kept.tolist() == sorted(kept.tolist())


def test_a_small_class_is_on_both_sides():
    labels = labels_of(100, 2)
    for share in (0.01, 0.99):
        kept, aside = stratified(labels, share, seed=0)
        assert 1 in labels[kept]
        assert 1 in labels[aside]


def test_no_share_takes_nothing():
    kept, aside = stratified(labels_of(3, 4), 0.0, seed=0)
    assert kept.tolist() == list(range(7))
    assert len(aside) == 0


def test_the_seed_decides_and_nothing_global():
    labels = labels_of(40, 40)
    first = stratified(labels, 0.5, seed=3)[1]
    torch.manual_seed(99)
    torch.rand(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(stratified(labels, 0.5, seed=3)[1], first)
    assert not torch.equal(stratified(labels, 0.5, seed=4)[1], first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_the_draw_of_a_class_does_not_depend_on_the_others():
    """Which of a class's images are set aside is the same in any order of the classes' images."""
    labels = labels_of(30, 20, 25)
    order = torch.argsort(torch.rand(75, generator=torch.Generator().manual_seed(0)))
    order = order[torch.argsort(labels[order], stable=True)]  # by class, shuffled inside
    mixed = torch.cat([order[labels[order] == c] for c in (2, 0, 1)])
    _, plain = stratified(labels[order], 0.4, seed=5)
    _, moved = stratified(labels[mixed], 0.4, seed=5)
    assert set(order[plain].tolist()) == set(mixed[moved].tolist())
    alone = labels == 1
    _, single = stratified(labels[alone], 0.4, seed=5)
    _, among = stratified(labels, 0.4, seed=5)
    assert set((single + 30).tolist()) == {i for i in among.tolist() if 30 <= i < 50}


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_three_splits_are_disjoint_and_complete(bench, drain, seed):
    _, data = drain(load(Digits(split_seed=seed), bench))
    ids = torch.cat([part.ids for part in (data.train, data.validation, data.test)])
    assert sorted(ids.tolist()) == list(range(1797))
    for part in (data.train, data.validation, data.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        assert (shares - 0.1).abs().max() < 0.02


def test_splits_do_not_depend_on_the_runs_seed(bench, drain):
    _, first = drain(load(Digits(), bench))
    bench.seed = 1234
    _, second = drain(load(Digits(), bench))
    assert torch.equal(first.test.ids, second.test.ids)
    assert torch.equal(first.train.ids, second.train.ids)


def test_the_test_split_does_not_depend_on_the_validation_share(bench, drain):
    _, first = drain(load(Digits(validation=0.0), bench))
    _, second = drain(load(Digits(validation=0.3), bench))
    assert torch.equal(first.test.ids, second.test.ids)
    assert len(first.validation) == 0


def test_too_small_a_class_is_named():
    with pytest.raises(BadInput, match=r"'dog' has 2.*at least 3.*train, test, validation"):
        divide(labels_of(9, 2), ["cat", "dog"], seed=0, validation=0.1, test=0.2)
    rows = divide(labels_of(9, 2), ["cat", "dog"], seed=0, validation=0.0, test=0.2)
    assert len(rows.test) == 3
    own = torch.tensor([0, 9])
    rows = divide(labels_of(9, 3), ["cat", "dog"], seed=0, validation=0.1, test=own)
    assert rows.test.tolist() == [0, 9]
    assert len(rows.validation) == 2
