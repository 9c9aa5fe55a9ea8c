"""Canaries among the clients of a private federation: one that keeps its promise is not rejected,
one that cheats is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.audits.spec import Audit, CanaryAudit
from engine.events import Scalars
from engine.federated.noising import ClientNoise, _Seeded
from engine.federated.spec import (
    AdaptiveClipping,
    ClientPrivacy,
    FedAdam,
    Federate,
    Local,
    SecureAggregation,
)
from engine.models.spec import MLP
from engine.privacy.noise import Draws
from engine.runner import Runner
from engine.training.spec import SGD
from tests.engine.audits.conftest import Done, House

PRIVATE = Federate(
    model=MLP(width=32, depth=1),
    clients=20,
    rounds=8,
    fraction=0.4,
    optimizer=SGD(lr=0.5, momentum=0.0),
    privacy=ClientPrivacy(noise_multiplier=1.2, max_update_norm=0.5, canaries=600),
    grid=Local(threads=2),
)


def private(**values: Any) -> Federate:
    assert PRIVATE.privacy is not None
    return PRIVATE.model_copy(update={"privacy": PRIVATE.privacy.model_copy(update=values)})


def audit(house: House, name: str) -> Done:
    found = house.run("audit", Audit(model=name, audit=CanaryAudit()))
    assert found.status in ("done", "rejected"), found.error
    return found


KEPT = {
    "fixed": PRIVATE,
    "seed": PRIVATE.model_copy(update={"seed": 1}),
    "adaptive": private(adaptive=AdaptiveClipping(count_noise=0.2)),
    "optimiser at the server": PRIVATE.model_copy(update={"strategy": FedAdam()}),
    "secure sum": PRIVATE.model_copy(
        update={"secure_aggregation": SecureAggregation(), "fraction": 1.0, "clients": 6}
    ),
    "secure noise": private(secure=True),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_federation_that_keeps_its_promise_is_not_rejected(house: House, kind: str) -> None:
    made = house.run("private", KEPT[kind])
    assert made.status == "done", made.error
    found = audit(house, "private")
    assert found.summary["flags"] == []
    assert found.summary["canary"] == "update"
    assert found.summary["epsilon"] == made.summary["epsilon"]
    assert found.summary["epsilon_lower_bound"] <= made.summary["epsilon"]
    assert found.summary["noise_least"] < found.summary["noise_share"] < 1.1
    table = found.table("noise")
    assert [row[0] for row in table.rows] == ["each_step", "all_steps", "between_steps"]
    assert all(row[4] > 1e-4 for row in table.rows)


REAL = _Seeded.normal
CHEATS: dict[str, Callable[[_Seeded, str, int, int], torch.Tensor]] = {
    "zero": lambda draws, purpose, step, count: torch.zeros(count),
    "half": lambda draws, purpose, step, count: REAL(draws, purpose, step, count) / 2,
    "always the same": lambda draws, purpose, step, count: REAL(draws, "", 0, count),
}


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_federation_whose_noise_is_not_as_promised_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch, cheat: str, secured: bool
) -> None:
    monkeypatch.setattr(_Seeded, "normal", CHEATS[cheat])
    made = house.run("cheat", KEPT["secure sum"] if secured else PRIVATE)
    assert made.status == "done", made.error
    found = audit(house, "cheat")
    assert found.status == "rejected"
    assert "noise_missing" in found.summary["flags"]
    share = {"zero": 0.0, "half": 0.5}.get(cheat)
    if share is not None:
        assert found.summary["noise_share"] == pytest.approx(share, abs=0.02)


def test_a_federation_that_does_not_clip_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients are sampled, and the noise is there: the canaries that are in stand out."""
    spec = private(noise_multiplier=3.0, canaries=2000)
    kept = house.run("kept", spec)
    assert audit(house, "kept").status == "done"
    monkeypatch.setattr(ClientNoise, "_share", lambda self, norms: torch.ones_like(norms))
    made = house.run("cheat", spec)
    assert made.summary["epsilon"] == kept.summary["epsilon"]
    assert audit(house, "cheat").summary["flags"] == ["epsilon_contradicted"]


def test_a_federation_that_draws_everybody_is_caught(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = private(noise_multiplier=1.0, canaries=2000).model_copy(update={"fraction": 0.05})
    kept = house.run("kept", spec)
    assert audit(house, "kept").status == "done"
    monkeypatch.setattr(Draws, "chosen", lambda self, step, count, *_: torch.arange(count))
    made = house.run("cheat", spec)
    assert made.summary["epsilon"] == kept.summary["epsilon"]
    assert audit(house, "cheat").summary["flags"] == ["epsilon_contradicted"]


def test_a_federation_that_is_resumed_keeps_the_record_of_its_noise(house: House) -> None:
    def watch(runner: Runner, events: Any) -> None:
        if any(isinstance(e, Scalars) and e.step >= 3 for e in events):
            runner.interrupt()

    made = house.run("kept", PRIVATE, watch)
    assert made.status == "interrupted"
    assert Runner(house.workspace, lambda run, events: None).run(made.run) == "done"
    whole = house.run("whole", PRIVATE)
    assert whole.status == "done"
    assert audit(house, "kept").table("noise") == audit(house, "whole").table("noise")


def test_more_canaries_than_numbers_in_an_update_are_refused(house: House) -> None:
    made = house.run("many", private(canaries=5000))
    assert made.status == "failed"
    assert "5000 canaries need as many parameters" in made.error
