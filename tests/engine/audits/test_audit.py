"""What all audits have in common: nothing of the process is held while they wait, their summaries
are explained, and the recipes that show them can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import engine.audits
from engine.audits.spec import (
    Audit,
    AuditSpec,
    CanaryAudit,
    Extraction,
    Inversion,
    Membership,
)
from engine.bench import Bench
from engine.data.spec import Digits
from engine.models.spec import MLP
from engine.recipe import read_recipe
from engine.task import BenchSpec, kinds
from engine.training.spec import Train
from tests.engine.audits.conftest import House

RECIPES = Path(engine.audits.__file__).parents[2] / "resources" / "recipes"

SPECS = [
    Membership(samples=40, shadows=4),
    Membership(samples=40, shadows=2, together="one_by_one"),
    CanaryAudit(),
    Extraction(queries=40, points=2, steps=5),
    Inversion(samples=1, steps=8),
    Inversion(method="dlg", samples=1, steps=2),
]


@pytest.fixture(scope="module")
def victim(shared_house: House) -> House:
    made = shared_house.run(
        "common", Train(model=MLP(width=16, dropout=0.1), data=Digits(), epochs=1)
    )
    included = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.5
    safetensors.torch.save_file(
        {"included": included, "score": included.double()},
        made.folder / "canaries.safetensors",
        {"about": json.dumps({"delta": 1e-5})},
    )
    return shared_house


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-{getattr(s, 'method', '')}")
def test_nothing_of_the_process_is_held_while_it_waits(
    victim: House, spec: AuditSpec, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, victim.workspace.root, spec=BenchSpec(device="cpu", threads=1))
    torch.manual_seed(77)
    state = torch.get_rng_state()
    steps = Audit(model="common", audit=spec).run(bench)
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            summary = end.value
            break
        count += 1
        assert torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), state)
    assert count > 2
    assert set(summary) <= set(Audit.summary_help)
    json.dumps(summary, allow_nan=False)
    if spec.kind != "extraction":
        assert not (tmp_path / "model.safetensors").exists()
    assert not list(tmp_path.glob("shadow*"))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.kind}-{getattr(s, 'method', '')}")
def test_one_step_at_a_time_comes_to_the_same(
    victim: House, spec: AuditSpec, tmp_path: Path
) -> None:
    """Where bursts end has no influence."""
    summaries = []
    for name, single in (("a", False), ("b", True)):
        folder = tmp_path / name
        folder.mkdir()
        bench = Bench(folder, victim.workspace.root, spec=BenchSpec(device="cpu", threads=1))
        bench.single_step = single
        steps = Audit(model="common", audit=spec).run(bench)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                summaries.append({**end.value, "seconds": 0})
                break
    assert summaries[0] == summaries[1]


def test_a_model_that_does_not_say_what_it_was_trained_on_is_refused(house: House) -> None:
    from engine.models import ModelCard, build, save_model

    path = house.workspace.root / "bare.safetensors"
    model = build(MLP(width=4), (1, 8, 8), 3)
    save_model(path, model, ModelCard(model=MLP(width=4), shape=(1, 8, 8), classes=("a", "b", "c")))
    found = house.run("audit", Audit(model=str(path), audit=Membership()))
    assert found.status == "failed"
    assert "does not say what data" in found.error


def test_every_audit_is_in_the_family() -> None:
    assert list(kinds(AuditSpec)) == ["membership", "canaries", "extraction", "inversion"]
    for name in engine.audits.__all__:
        assert getattr(engine.audits, name) is not None


@pytest.mark.parametrize("name", ["membership", "inversion"])
def test_the_recipes_can_be_read(name: str) -> None:
    entries = read_recipe(RECIPES / f"{name}.toml")
    assert sum(isinstance(entry.task, Audit) for entry in entries) >= 3
