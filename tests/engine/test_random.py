"""Draws that belong to a sample: same in any batch, different otherwise, and well distributed."""

from __future__ import annotations

import torch

from engine.random import derive, normal, uniform


def test_a_sample_draws_the_same_in_any_batch() -> None:
    whole = uniform(5, torch.arange(100), (3, 4))
    picked = torch.tensor([99, 3, 50])
    assert torch.equal(uniform(5, picked, (3, 4)), whole[picked])
    assert torch.equal(normal(5, picked, (7,)), normal(5, torch.arange(100), (7,))[picked])


def test_seed_and_id_and_position_matter() -> None:
    draws = torch.cat([uniform(s, torch.arange(50), (20,)).flatten() for s in range(20)])
    # 20,000 draws of 24 bits: about 12 coincidences are expected by chance.
    assert draws.unique().numel() > 19_950
    assert derive(1, "a", 2) != derive(1, "a2")
    assert 0 <= derive(7, "x") < 2**63


def test_uniform_is_uniform() -> None:
    draws = uniform(1, torch.arange(1000), (1000,)).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, 100, 0, 1)
    chi_square = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert 55 < chi_square < 160  # 99 degrees of freedom, p within 1e-4 .. 1 - 1e-4
    centred = draws - 0.5
    neighbours = (centred[:, 1:] * centred[:, :-1]).mean() / centred.var()
    samples = (centred[1:] * centred[:-1]).mean() / centred.var()
    assert abs(float(neighbours)) < 4e-3
    assert abs(float(samples)) < 4e-3


def test_normal_is_normal() -> None:
    draws = normal(2, torch.arange(1000), (501,)).double().flatten()
    assert draws.isfinite().all()
    assert abs(float(draws.mean())) < 6e-3
    assert abs(float(draws.std()) - 1) < 5e-3
    assert abs(float((draws**3).mean())) < 2e-2
    assert abs(float((draws**4).mean()) - 3) < 5e-2


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    normal(2, torch.arange(10), (5,))
    assert torch.equal(torch.get_rng_state(), before)
