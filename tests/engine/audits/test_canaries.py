"""The lower bound of epsilon: against the paper's figures, mechanisms whose epsilon is known, and
runs that keep or break their promise."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.optimize import brentq, linprog
from scipy.stats import binom, norm

from engine.audits.canaries import OF_DELTA, epsilon_lower_bound, p_value, rejected, shown
from engine.audits.noise import Check, checks
from engine.audits.spec import Audit, CanaryAudit, Membership
from engine.errors import BadInput
from engine.events import Note, Scalars
from engine.models.spec import MLP
from engine.privacy.noise import SeededDraws
from engine.privacy.spec import DPSGD
from engine.runner import Runner
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
def test_scores_that_say_nothing_bound_nothing_as_often_as_is_said(
    guesses: tuple[int, ...] | None,
) -> None:
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


def worst(m: int, epsilon: float, delta: float, needed: dict[int, int]) -> float:
    """The largest probability that of r guesses on m canaries at least needed[r] are right, of any
    (epsilon, delta)-private training that chooses guesses, and r with them (a linear program)."""
    sides = list(itertools.product((-1, 1), repeat=m))
    said = list(itertools.product((-1, 0, 1), repeat=m))
    pairs = [
        (a, b)
        for a, s in enumerate(sides)
        for b, other in enumerate(sides)
        if sum(x != y for x, y in zip(s, other, strict=True)) == 1
    ]
    count = len(sides) * len(said)
    gain = np.zeros(count + len(pairs) * len(said))
    for (a, s), (k, t) in itertools.product(enumerate(sides), enumerate(said)):
        right = sum(x == y for x, y in zip(s, t, strict=True))
        if right >= needed.get(sum(map(abs, t)), m + 1):
            gain[a * len(said) + k] = 1 / len(sides)
    each, whole = np.eye(len(said)), np.ones((1, len(said)))
    rows: list[Any] = []
    tops: list[Any] = []
    for number, (a, b) in enumerate(pairs):
        beyond = slice(count + number * len(said), count + (number + 1) * len(said))
        more = np.zeros((len(said), len(gain)))
        more[:, a * len(said) : (a + 1) * len(said)] = each
        more[:, b * len(said) : (b + 1) * len(said)] = -math.exp(epsilon) * each
        more[:, beyond] = -each
        in_all = np.zeros((1, len(gain)))
        in_all[:, beyond] = whole
        rows += [more, in_all]
        tops += [np.zeros(len(said)), [delta]]
    certain = np.zeros((len(sides), len(gain)))
    for a in range(len(sides)):
        certain[a, a * len(said) : (a + 1) * len(said)] = 1
    found = linprog(
        -gain, np.concatenate(rows), np.concatenate(tops), certain, np.ones(len(sides)), (0, 1)
    )
    return -float(found.fun)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 1.5])
def test_no_private_training_is_right_more_often_than_the_theorem_says(epsilon: float) -> None:
    """Also where it chooses how many are guessed; and some come close."""
    q, delta, m = 1 / (1 + math.exp(-epsilon)), 0.05, 3
    close = 0.0
    for needed in ({3: 3}, {1: 1, 2: 2, 3: 3}, {2: 2, 3: 2}, {1: 1, 3: 2}, {3: 2}):
        found = worst(m, epsilon, delta, needed)
        for i in (1, 2, 3):
            luck = max(float(binom.sf(v - i, r, q)) for r, v in needed.items())
            bound = luck + m * delta * (1 - q) / i
            assert found <= bound + 1e-9
            close = max(close, found / bound)
    assert close > 0.999


@pytest.mark.parametrize(
    ("m", "r", "v", "delta"),
    [(1000, 1000, 1000, 1e-5), (1000, 250, 230, 1e-5), (5000, 900, 880, 1e-5), (400, 90, 80, 0.0)],
)
def test_what_is_shown_is_what_the_theorem_rejects(m: int, r: int, v: int, delta: float) -> None:
    level = 1e-3
    found = shown(m, r, v, delta, level)

    def is_rejected(epsilon: float) -> bool:
        wrong = 1 / (1 + math.exp(epsilon))
        i = max(1, math.ceil(m * delta * wrong / (OF_DELTA * level)))
        return bool(binom.sf(v - i, r, 1 - wrong) + m * delta * wrong / i < level)

    assert found > 0
    assert all(is_rejected(found * k / 20) for k in range(20))
    assert not is_rejected(found + 0.006)
    assert shown(m, r, r // 2, delta, level) == 0.0


# --- the noise ------------------------------------------------------------------------------------


def record(x: torch.Tensor, included: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and what is kept of the noise, of x, (T, m): what steps hold of the canaries."""
    out = x[:, ~included]
    sums = [len(x), float(out.square().sum()), float(out.sum(1).square().sum())]
    return x.sum(0), torch.tensor(sums, dtype=torch.float64)


def looked_at(
    x: torch.Tensor, included: torch.Tensor, promised: float, error: float
) -> dict[str, Check]:
    score, noise = record(x, included)
    found = checks(score, included, noise, promised, len(x), error)
    return {check.name: check for check in found}


def drawn(steps: int, m: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    included, draw = coins(m, seed)
    return torch.randn(steps, m, generator=draw, dtype=torch.float64), included


def test_noise_that_is_as_promised_fails_as_often_as_is_said() -> None:
    """Each test at a third of a tenth, all together at a tenth; canaries that are in do not
    count."""
    fails = dict.fromkeys(("each_step", "all_steps", "between_steps"), 0)
    any_fails = 0
    for seed in range(1500):
        x, included = drawn(12, 40, seed)
        found = looked_at(1.7 * x + 50.0 * included, included, 1.7, 0.1)
        for name, check in found.items():
            fails[name] += check.fails
            assert check.fails == (check.p <= 0.1 / 3)
        any_fails += any(check.fails for check in found.values())
    for count in fails.values():
        assert abs(count / 1500 - 0.1 / 3) < 4 * math.sqrt(0.1 / 3 / 1500)
    assert any_fails / 1500 <= 0.1 + 3 * math.sqrt(0.09 / 1500)


def test_what_steps_hold_beside_the_noise_does_not_fail_the_tests_of_its_size() -> None:
    for seed in range(50):
        x, included = drawn(20, 60, seed)
        found = looked_at(x + torch.linspace(0, 3, 20)[:, None], included, 1.0, 0.1)
        assert not found["each_step"].fails or found["each_step"].p > 1e-3
        assert not found["all_steps"].fails


@pytest.mark.parametrize(
    ("cheat", "fails"),
    [
        ("none", set()),
        ("more", set()),
        ("zero", {"each_step", "all_steps"}),
        ("half", {"each_step", "all_steps"}),
        ("a little less", {"each_step"}),
        ("the same at every step", {"each_step"}),
        ("the same for all parameters", {"each_step"}),
        ("taken off again", {"all_steps"}),
        ("four vectors in turn", {"between_steps"}),
    ],
)
def test_noise_that_is_not_as_promised_is_told(cheat: str, fails: set[str]) -> None:
    x, included = drawn(40, 1000, 0)
    match cheat:
        case "more":
            x = 2 * x
        case "zero":
            x = 0 * x
        case "half":
            x = x / 2
        case "a little less":
            x = 0.96 * x
        case "the same at every step":
            x = x[:1].expand_as(x)
        case "the same for all parameters":
            x = x[:, :1].expand_as(x)
        case "taken off again":
            x = torch.cat([x[:20], -x[:20]])
        case "four vectors in turn":
            x = x[:4].repeat(10, 1)
    found = looked_at(3.0 * x, included, 3.0, 1e-4)
    failed = {name for name, check in found.items() if check.fails}
    assert fails <= failed if fails else not failed
    for check in found.values():
        beyond = check.found > check.limit
        assert check.fails == (beyond if check.name == "between_steps" else not beyond)


def test_a_record_without_steps_tells_of_the_sum_alone() -> None:
    x, included = drawn(10, 400, 0)
    score, noise = record(x, included)
    assert [c.name for c in checks(score, included, None, 1.0, 10, 1e-4)] == ["all_steps"]
    assert checks(0 * score, included, None, 1.0, 10, 1e-4)[0].fails
    once, kept = record(x[:1], included)
    assert [c.name for c in checks(once, included, kept, 1.0, 1, 1e-4)] == ["all_steps"]
    everybody = torch.ones(400, dtype=torch.bool)
    assert checks(score, everybody, noise, 1.0, 10, 1e-4) == []
    assert checks(math.nan * score, included, noise, 1.0, 10, 1e-4) == []


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
def test_what_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
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


def a_run(
    house: House,
    sigma: float,
    epsilon: float | None,
    charge: tuple[float, float, int] | None = None,
) -> None:
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
    path = plain.folder / "canaries.safetensors"
    path.write_bytes(b"no such thing")
    found = house.run("audit", Audit(model="plain", audit=CanaryAudit()))
    assert "is damaged" in found.error
    about = {"about": json.dumps({"kind": "gradient", "delta": 1e-5, "noise": 1.0, "steps": 3})}
    for shapes in ((3, 4, 3), ((2, 2), (2, 2), 3), (4, 4, 2)):
        tensors = map(torch.zeros, shapes)
        named = dict(zip(("score", "included", "noise"), tensors, strict=True))
        path.write_bytes(safetensors.torch.save(named, about))
        found = house.run("audit", Audit(model="plain", audit=CanaryAudit()))
        assert "do not belong together" in found.error


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


Noise = Callable[[SeededDraws, int, int], torch.Tensor]
"""What is drawn instead of the noise, for a step and a number of parameters."""
REAL = SeededDraws.normal
CHEATS: dict[str, Noise] = {
    "zero": lambda draws, step, count: torch.zeros(count),
    "half": lambda draws, step, count: REAL(draws, "noise", step, count) / 2,
    "always the same": lambda draws, step, count: REAL(draws, "noise", 0, count),
}


def cheating(monkeypatch: pytest.MonkeyPatch, noise: Noise) -> None:
    """The accountant believes in the noise; the canaries do not."""

    def instead(self: SeededDraws, purpose: str, step: int, count: int) -> torch.Tensor:
        if purpose == "noise":
            return noise(self, step, count)
        return REAL(self, purpose, step, count)

    monkeypatch.setattr(SeededDraws, "normal", instead)


@pytest.mark.parametrize(
    ("promised", "cheat"),
    [
        ({"epsilon": 3.0}, "zero"),
        ({"epsilon": 8.0}, "zero"),
        ({"noise_multiplier": 0.3}, "zero"),
        ({"epsilon": 8.0}, "half"),
        ({"noise_multiplier": 0.3}, "always the same"),
    ],
)
def test_a_private_training_whose_noise_is_not_as_promised_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch, promised: dict[str, float], cheat: str
) -> None:
    """However large the epsilon is that it promises: .3 is one of more than 50."""
    cheating(monkeypatch, CHEATS[cheat])
    privacy = DPSGD(**promised, canaries=300)  # type: ignore[arg-type]
    made = house.run("cheat", PRIVATE.model_copy(update={"privacy": privacy}))
    assert made.status == "done", made.error
    assert made.summary["epsilon"] > 50 or "epsilon" in promised
    found = house.run("audit", Audit(model="cheat", audit=CanaryAudit()))
    assert found.status == "rejected"
    assert "noise_missing" in found.summary["flags"]
    flags = {name: p for name, _, p in found.table("flags").rows}
    assert flags["noise_missing"] is not None
    share = {"zero": 0.0, "half": 0.5}.get(cheat)
    if share is not None:
        assert "smaller than promised" in " ".join(found.summary["unmet"])
        assert found.summary["noise_share"] == pytest.approx(share, abs=0.02)
    assert found.summary["noise_share"] < found.summary["noise_least"] < 1


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "adaptive"])
def test_a_private_training_with_its_noise_is_not_rejected(house: House, clipping: Any) -> None:
    privacy = DPSGD(epsilon=8.0, canaries=300, clipping=clipping)
    for seed in (0, 1):
        house.run("kept", PRIVATE.model_copy(update={"privacy": privacy, "seed": seed}))
        found = house.run("audit", Audit(model="kept", audit=CanaryAudit()))
        assert found.status == "done", found.error
        assert found.summary["flags"] == []
        assert found.summary["noise_least"] < found.summary["noise_share"] < 1.1
        table = found.table("noise")
        assert [row[0] for row in table.rows] == ["each_step", "all_steps", "between_steps"]
        assert all(row[4] > 1e-4 for row in table.rows)


def test_a_private_training_that_is_resumed_keeps_the_record_of_its_noise(house: House) -> None:
    def watch(runner: Any, events: Any) -> None:
        if any(isinstance(e, Scalars) and e.step >= 8 for e in events):
            runner.interrupt()

    made = house.run("kept", PRIVATE, watch)
    assert made.status == "interrupted"
    assert Runner(house.workspace, lambda run, events: None).run(made.run) == "done"
    found = house.run("audit", Audit(model="kept", audit=CanaryAudit()))
    whole = house.run("whole", PRIVATE)
    again = house.run("audit", Audit(model="whole", audit=CanaryAudit()))
    assert whole.status == found.status == "done"
    assert found.table("noise") == again.table("noise")


def test_losses_of_images_do_not_show_the_noise_and_the_audit_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheating(monkeypatch, CHEATS["zero"])
    privacy = DPSGD(epsilon=8.0, canaries=300, canary="sample")
    house.run("cheat", PRIVATE.model_copy(update={"privacy": privacy}))
    found = house.run("audit", Audit(model="cheat", audit=CanaryAudit()))
    assert found.summary["canary"] == "sample"
    assert "noise_share" not in found.summary
    notes = [e.text for e in found.events if isinstance(e, Note) and e.level == "warning"]
    assert any("do not show the noise" in text for text in notes)


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
