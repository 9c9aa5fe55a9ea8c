"""The lower bound of epsilon: against the paper's figures, mechanisms whose epsilon is known, and
runs that keep or break their promise."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import safetensors.torch
import torch
from scipy.optimize import brentq
from scipy.stats import binom, norm

from engine.audits.canaries import (
    epsilon_lower_bound,
    p_value,
    rejected,
)
from engine.audits.spec import Audit, CanaryAudit, Membership
from engine.errors import BadInput
from engine.events import Note
from engine.models.spec import MLP
from engine.privacy.spec import DPSGD
from engine.training.spec import SGD, Train
from tests.engine.audits.conftest import House


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_the_papers_figures_come_out(
    m: int, r: int, v: int, delta: float, published: float
) -> None:
    """Steinke, Nasr and Jagielski 2023, appendix D and section 7 (figure 11); 95 % confidence."""
    assert rejected(m, r, v, delta, 0.05) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 6.0])
def test_the_p_value_is_that_of_a_loop(epsilon: float) -> None:
    for m, r, v, delta in (
        (50, 40, 30, 1e-2),
        (200, 20, 20, 1e-3),
        (64, 64, 40, 0.0),
        (9, 4, 0, 1e-2),
    ):
        q = 1 / (1 + math.exp(-epsilon))
        worst = total = 0.0
        for i in range(1, v + 1):
            total += binom.pmf(v - i, r, q)
            worst = max(worst, total / i)
        expected = min(1.0, binom.sf(v - 1, r, q) + 2 * m * delta * worst)
        assert p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def coins(m: int, seed: int) -> tuple[torch.Tensor, torch.Generator]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(m, generator=draw) < 0.5, draw


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Of the Gaussian mechanism of sensitivity 1, exactly (Balle and Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta)

    return float(brentq(excess, 0.0, 50.0))


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_the_bound_stays_below_the_truth_of_the_gaussian_mechanism(sigma: float) -> None:
    """In every one of 200 runs: it may fail in one of a thousand."""
    delta = 1e-5
    truth = gaussian_epsilon(sigma, delta)
    found = []
    for seed in range(200):
        included, draw = coins(1000, seed)
        score = included + sigma * torch.randn(1000, generator=draw, dtype=torch.float64)
        found.append(epsilon_lower_bound(score, included, delta).epsilon)
    assert max(found) <= truth
    assert sorted(found)[100] > (0.2 * truth if sigma < 1 else 0.1 * truth)


def test_more_canaries_come_closer() -> None:
    truth = gaussian_epsilon(0.5, 1e-8)
    found = []
    for m in (100, 1000, 10_000):
        included, draw = coins(m, 3)
        score = included + 0.5 * torch.randn(m, generator=draw, dtype=torch.float64)
        found.append(epsilon_lower_bound(score, included, 1e-8).epsilon)
    assert found[0] < found[1] < found[2] <= truth
    assert found[2] > 0.3 * truth


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_the_bound_of_randomised_response_is_tight(epsilon: float) -> None:
    right = 1 / (1 + math.exp(-epsilon))
    for seed in range(6):
        included, draw = coins(20_000, seed)
        kept = torch.rand(20_000, generator=draw, dtype=torch.float64) < right
        score = torch.where(kept, included, ~included).double()
        bound = epsilon_lower_bound(score, included, 0.0, guesses=20_000)
        assert 0.8 * epsilon < bound.epsilon <= epsilon


@pytest.mark.parametrize("guesses", [None, (400, 200, 100, 50)])
def test_scores_that_say_nothing_bound_nothing_as_often_as_is_said(guesses: tuple | None) -> None:
    """At 90 % confidence, with numbers of guesses that the scores decide, or the best of several:
    choosing by the coins without paying would fail far more often."""
    wrong = 0
    for seed in range(300):
        included, draw = coins(400, seed)
        score = torch.randn(400, generator=draw)
        bound = epsilon_lower_bound(score, included, 0.0, confidence=0.9, guesses=guesses)
        wrong += bound.epsilon > 0
    assert wrong / 300 <= 0.1 + 3 * math.sqrt(0.09 / 300)


def test_how_many_are_guessed_depends_on_the_scores_alone() -> None:
    included, draw = coins(1000, 0)
    noise = torch.randn(1000, generator=draw, dtype=torch.float64)
    for sigma in (1e-3, 0.3, 1.0):
        score = included + sigma * noise
        bound, other = (epsilon_lower_bound(score, c, 1e-5) for c in (included, ~included))
        assert bound.guesses == other.guesses
        assert bound.right + other.right == bound.guesses
    sure = epsilon_lower_bound(included + 1e-3 * noise, included, 1e-5)
    assert (sure.guesses, sure.right) == (1000, 1000)


def test_several_numbers_of_guesses_cost_what_one_does_not() -> None:
    included, _ = coins(1000, 0)
    one = epsilon_lower_bound(included.double(), included, 1e-5, guesses=900)
    several = epsilon_lower_bound(included.double(), included, 1e-5, guesses=(900, 800))
    assert several.epsilon == pytest.approx(rejected(1000, 900, 900, 1e-5, 0.0005), abs=1e-5)
    assert one.epsilon > several.epsilon


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"delta": 1.0}, "delta 1"),
        ({"confidence": 1.0}, "confidence 1"),
        ({"guesses": 300}, "1 to 200"),
        ({"guesses": 0}, "1 to 200"),
        ({"score": torch.zeros(3)}, "one of each"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict, words: str) -> None:
    included, _ = coins(200, 0)
    values = {"score": included.double(), "included": included, "delta": 1e-5, **change}
    with pytest.raises(BadInput, match=words):
        epsilon_lower_bound(**values)


def test_scores_that_are_no_numbers_do_not_break_the_audit() -> None:
    included, _ = coins(200, 0)
    score = included.double()
    score[::3] = math.nan
    assert epsilon_lower_bound(score, included, 1e-5).epsilon > 0
    assert epsilon_lower_bound(torch.full((200,), math.nan), included, 1e-5).epsilon == 0.0


# --- the audit ------------------------------------------------------------------------------------


def a_run(house: House, sigma: float, epsilon: float | None, charge: tuple | None = None) -> None:
    """A run called "private" whose canaries say what noise of `sigma` leaves, and which promises
    `epsilon`."""
    done = house.run("private", Train(model=MLP(width=4, depth=0), epochs=1))
    included, draw = coins(2000, 1)
    score = included + sigma * torch.randn(2000, generator=draw, dtype=torch.float64)
    about = {"kind": "gradient", "delta": 1e-5}
    if charge is not None:
        about |= dict(zip(("noise_multiplier", "sample_rate", "steps"), charge, strict=True))
    safetensors.torch.save_file(
        {"included": included, "score": score},
        done.folder / "canaries.safetensors",
        {"about": json.dumps(about)},
    )
    if epsilon is not None:
        done.run.set_state(summary={**done.summary, "epsilon": epsilon, "delta": 1e-5})


def test_a_run_that_keeps_its_promise_is_not_rejected(house: House) -> None:
    a_run(house, 1.0, gaussian_epsilon(1.0, 1e-5))
    found = house.run("audit", Audit(model="private", audit=CanaryAudit()))
    assert found.status == "done", found.error
    assert 0 < found.summary["epsilon_lower_bound"] < found.summary["epsilon"]
    assert found.summary["flags"] == []
    assert found.summary["confidence"] == 0.999
    assert found.table("flags").rows == ()
    assert sum(row[2] + row[3] for row in found.table("canaries").rows) == 2000


def test_a_run_whose_noise_is_missing_is_rejected(house: House) -> None:
    a_run(house, 1e-3, 3.0)
    found = house.run("audit", Audit(model="private", audit=CanaryAudit()))
    assert found.status == "rejected"
    assert found.summary["epsilon_lower_bound"] > 3.0
    assert found.summary["flags"] == ["epsilon_contradicted"]
    assert "at most 3 was promised" in found.summary["unmet"][0]
    assert found.table("flags").rows[0][0] == "epsilon_contradicted"


def test_it_says_where_it_could_not_have_contradicted(house: House) -> None:
    a_run(house, 1e-3, 30.0)
    found = house.run("audit", Audit(model="private", audit=CanaryAudit(guesses=2000)))
    assert found.status == "done"
    assert found.summary["epsilon_reach"] == found.summary["epsilon_lower_bound"] < 30.0
    assert any(isinstance(e, Note) and "more canaries" in e.text for e in found.events)


def test_a_run_that_promises_nothing(house: House) -> None:
    a_run(house, 0.5, None)
    found = house.run("audit", Audit(model="private", audit=CanaryAudit()))
    assert found.status == "done"
    assert "epsilon" not in found.summary
    assert any(isinstance(e, Note) and "promises no epsilon" in e.text for e in found.events)


def test_a_run_without_canaries_and_a_file_are_refused(house: House) -> None:
    plain = house.run("plain", Train(model=MLP(width=4, depth=0), epochs=1))
    found = house.run("audit", Audit(model="plain", audit=CanaryAudit()))
    assert found.status == "failed"
    assert "had no canaries" in found.error
    path = str(plain.folder / "model.safetensors")
    found = house.run("audit", Audit(model=path, audit=CanaryAudit()))
    assert "is a file" in found.error
    (plain.folder / "canaries.safetensors").write_bytes(b"no such thing")
    found = house.run("audit", Audit(model="plain", audit=CanaryAudit()))
    assert "is damaged" in found.error


# --- private trainings ----------------------------------------------------------------------------

PRIVATE = Train(
    model=MLP(width=32, depth=1),
    optimizer=SGD(lr=0.5, momentum=0.0),
    epochs=3,
    batch_size=256,
    privacy=DPSGD(noise_multiplier=1.5, canaries=1500),
)


def test_a_private_training_keeps_its_promise(house: House) -> None:
    made = house.run("private", PRIVATE)
    assert made.status == "done", made.error
    found = house.run("audit", Audit(model="private", audit=CanaryAudit()))
    assert found.status == "done", found.error
    assert found.summary["epsilon_lower_bound"] <= found.summary["epsilon"]
    assert found.summary["epsilon"] == made.summary["epsilon"] < found.summary["epsilon_reach"]


def test_a_private_training_whose_noise_is_quietly_zero_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its accountant believes in the noise; the canaries do not."""
    from engine.privacy.noise import SeededDraws

    real = SeededDraws.normal

    def silent(self: SeededDraws, purpose: str, *rest: Any) -> torch.Tensor:
        drawn = real(self, purpose, *rest)
        return torch.zeros_like(drawn) if purpose == "noise" else drawn

    monkeypatch.setattr(SeededDraws, "normal", silent)
    made = house.run("cheat", PRIVATE)
    assert made.status == "done", made.error
    found = house.run("audit", Audit(model="cheat", audit=CanaryAudit()))
    assert found.status == "rejected"
    assert found.summary["epsilon_lower_bound"] > found.summary["epsilon"]
    assert found.summary["flags"] == ["epsilon_contradicted"]


@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
def test_a_private_training_that_does_not_clip_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch, clipping: Any
) -> None:
    from engine.privacy.dpsgd import DPSGDMechanism

    monkeypatch.setattr(
        DPSGDMechanism, "_weights", lambda self, norms: torch.ones_like(norms.sum(0))
    )
    privacy = DPSGD(noise_multiplier=1.5, canaries=1500, clipping=clipping)
    made = house.run("cheat", PRIVATE.model_copy(update={"privacy": privacy}))
    assert made.status == "done", made.error
    found = house.run("audit", Audit(model="cheat", audit=CanaryAudit()))
    assert found.status == "rejected"
    assert found.summary["flags"] == ["epsilon_contradicted"]


def test_a_private_training_that_draws_everybody_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its accountant counts with a twentieth of the images in each step."""
    from engine.privacy.noise import Draws

    def everybody(self: Draws, step: int, count: int, rate: float) -> torch.Tensor:
        return torch.arange(count)

    quiet = PRIVATE.model_copy(
        update={"batch_size": 64, "privacy": DPSGD(noise_multiplier=1.0, canaries=1500)}
    )
    kept = house.run("kept", quiet)
    assert house.run("audit", Audit(model="kept", audit=CanaryAudit())).status == "done"
    monkeypatch.setattr(Draws, "chosen", everybody)
    made = house.run("cheat", quiet)
    assert made.status == "done", made.error
    assert made.summary["epsilon"] == kept.summary["epsilon"]
    found = house.run("audit", Audit(model="cheat", audit=CanaryAudit()))
    assert found.status == "rejected"
    assert found.summary["flags"] == ["epsilon_contradicted"]


def test_shadows_of_a_private_run_are_trained_privately(house: House) -> None:
    house.run("private", PRIVATE)
    spec = Membership(samples=60, shadows=2)
    found = house.run("audit", Audit(model="private", audit=spec))
    assert found.status == "done", found.error
    assert found.summary["shadows"] == 2
    assert any(isinstance(e, Note) and "trained privately as well" in e.text for e in found.events)
    low, high = found.summary["auc_interval"]
    assert low < 0.5 < high
