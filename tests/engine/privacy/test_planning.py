"""What a private training would cost, as the window asks before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput
from engine.privacy import Charge, epsilon, noise_multiplier, steps_within, total
from engine.privacy.planning import plan
from engine.privacy.spec import DEFAULT_NOISE, DPSGD
from engine.questions import prepare
from engine.store import Workspace


def asked(folder: Path, **fields: Any) -> dict[str, Any]:
    """The answer to the question, after whatever is said while it loads."""
    loading = prepare({"kind": "privacy_curve", **fields}, Workspace(folder), None)
    while True:
        try:
            next(loading)
        except StopIteration as end:
            reply, payload = end.value
            assert payload == b""
            json.dumps(reply, allow_nan=False)
            found: dict[str, Any] = reply
            return found


def test_the_curve_before_a_training_starts(tmp_path: Path) -> None:
    found = asked(tmp_path, privacy={"kind": "dpsgd", "epsilon": 3.0}, batch_size=128, epochs=10)
    images = found["images"]
    assert 1000 < images < 1797
    assert found["sample_rate"] == 128 / images
    assert found["planned"] == found["within"] == 10 * round(images / 128)
    rate, steps = found["sample_rate"], found["planned"]
    assert found["noise_multiplier"] == noise_multiplier(3.0, rate, steps, 1e-5)
    assert found["steps"][-1] == steps
    assert found["epsilon"][-1] == epsilon(found["noise_multiplier"], rate, steps, 1e-5)
    assert found["target"] * 0.999 < found["epsilon"][-1] <= found["target"]
    assert found["epsilon_rdp"][-1] > found["epsilon"][-1]
    assert len(found["epsilon"]) == len(found["epsilon_rdp"]) == len(found["steps"])


def test_a_target_that_ends_the_training_early(tmp_path: Path) -> None:
    privacy = {"kind": "dpsgd", "epsilon": 2.0, "noise_multiplier": 1.0, "delta": 1e-4}
    found = asked(tmp_path, privacy=privacy, batch_size=64, epochs=30, data={"kind": "digits"})
    assert found["within"] == steps_within(2.0, 1.0, found["sample_rate"], 1e-4)
    assert found["within"] < found["planned"] == found["steps"][-1]
    assert found["delta"] == 1e-4
    assert found["epsilon"][-1] > 2.0  # beyond the line that is drawn at the target


def test_what_is_told_before_the_first_step_is_in_it(tmp_path: Path) -> None:
    privacy = {"kind": "dpsgd", "statistic_noise": 6.0}
    fields: dict[str, Any] = {"privacy": privacy, "batch_size": 64, "epochs": 2}
    plain = asked(tmp_path, model={"kind": "mlp"}, **fields)
    found = asked(tmp_path, model={"kind": "mlp", "projection": 8}, **fields)
    assert found["noise_multiplier"] == plain["noise_multiplier"] == DEFAULT_NOISE
    charges = [Charge(6.0, 1.0), Charge(DEFAULT_NOISE, found["sample_rate"], found["steps"][-1])]
    assert found["epsilon"][-1] == total(charges, 1e-5)
    assert found["epsilon"][-1] > plain["epsilon"][-1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"privacy": {"kind": "naive"}}, "naive gives no guarantee"),
        ({}, "`privacy` is missing"),
        ({"privacy": {"kind": "dp"}}, "there is no kind 'dp'"),
        ({"privacy": {"kind": "dpsgd"}, "batch_size": 0}, "must be 1 or more"),
        ({"privacy": {"kind": "dpsgd", "epsilon": 1e-3, "noise_multiplier": 0.5}}, "single step"),
    ],
)
def test_what_has_no_curve_is_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        asked(tmp_path, **{"batch_size": 64, "epochs": 2, **fields})


def test_a_batch_of_everything_is_sampled_whole() -> None:
    told = plan(DPSGD(noise_multiplier=5.0), 100, 400, 7)
    assert (told.rate, told.planned, told.within, told.before) == (1.0, 7, 7, ())
    assert told.ahead(1e-5).steps == (1, 2, 3, 4, 5, 6, 7)


def test_a_published_set_is_counted_without_a_download(tmp_path: Path) -> None:
    told = asked(
        tmp_path,
        data={"kind": "mnist", "validation": 0.1},
        batch_size=512,
        epochs=1,
        privacy={"kind": "dpsgd", "noise_multiplier": 1.0},
    )
    assert told["images"] == 54001  # each class's tenth, rounded
    assert told["sample_rate"] == 512 / 54001
    assert not list(tmp_path.rglob("*ubyte*"))


def test_the_curve_before_a_private_federation_starts(tmp_path: Path) -> None:
    privacy = {"epsilon": 4.0, "delta": 1e-3}
    found = asked(tmp_path, privacy=privacy, fraction=0.5, rounds=20)
    assert found["planned"] == found["within"] == 20
    assert found["noise_multiplier"] == noise_multiplier(4.0, 0.5, 20, 1e-3)
    assert found["epsilon"][-1] == epsilon(found["noise_multiplier"], 0.5, 20, 1e-3)
    given = asked(tmp_path, privacy={**privacy, "noise_multiplier": 1.0}, fraction=0.5, rounds=20)
    assert given["within"] == steps_within(4.0, 1.0, 0.5, 1e-3) < 20
    with pytest.raises(BadInput, match="exceeded by a single round"):
        hopeless = {**privacy, "epsilon": 0.01, "noise_multiplier": 0.5}
        asked(tmp_path, privacy=hopeless, fraction=0.5, rounds=20)
    with pytest.raises(BadInput, match="fraction must be above 0"):
        asked(tmp_path, privacy=privacy, fraction=1.5, rounds=20)
