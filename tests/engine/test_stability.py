"""How far answers move: against counting by hand, and that siblings differ in what they should."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import BadInput, Cancelled, SpecError
from engine.events import Array, Images, Progress, Table
from engine.models import load_model
from engine.robustness.spec import Stability
from engine.robustness.stability import COLUMNS, Spread
from engine.runner import Runner
from engine.store import Run, Workspace
from engine.training.spec import Train

TRAIN = {
    "kind": "train",
    "data": {"kind": "digits"},
    "model": {"kind": "mlp", "width": 16, "depth": 1},
    "epochs": 3,
    "bench": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two runs of a recipe, and a private one."""
    found = Workspace(tmp_path_factory.mktemp("stability") / "workspace")
    for name, more in (
        ("plain", {}),
        ("other", {"seed": 9}),
        ("wider", {"data": {"kind": "digits", "size": 12}}),
        ("private", {"privacy": {"kind": "dpsgd", "epsilon": 8.0}}),
    ):
        run(found, {**TRAIN, **more}, name)
    return found


def run(workspace: Workspace, task: dict[str, Any], name: str) -> tuple[Run, list[Any]]:
    from engine.task import parse_task

    events: list[Any] = []
    made = workspace.create(parse_task(task).to_dict(), name=name)
    status = Runner(workspace, lambda run, said: events.extend(said)).run(made)
    assert status == "done", made.info().error
    return made, events


def asked(workspace: Workspace, **more: Any) -> tuple[dict[str, Any], list[Any]]:
    bench = {"device": "cpu", "threads": 1}
    task = {"kind": "stability", "model": "plain", "samples": 200, "bench": bench, **more}
    made, events = run(workspace, task, "stable")
    return made.info().summary, events


def last(events: list[Any], kind: type[Any], name: str) -> Any:
    return [event for event in events if isinstance(event, kind) and event.name == name][-1]


def test_a_spread_is_counted_as_by_hand() -> None:
    said = torch.tensor([[0, 1, 2, 2], [0, 1, 1, 2], [0, 2, 2, 0]])
    labels = torch.tensor([0, 1, 2, 0])
    found = Spread("seeds", math.nan, said, labels)
    assert found.accuracies.tolist() == [0.75, 0.5, 0.75]
    assert found.differs.tolist() == [False, True, True, True]
    pairs = [(0, 1), (0, 2), (1, 2)]
    agree = [(said[a] == said[b]).double().mean().item() for a, b in pairs]
    assert found.agreement == pytest.approx(sum(agree) / 3)
    third = -(1 / 3 * math.log2(1 / 3) + 2 / 3 * math.log2(2 / 3))
    assert found.entropy.tolist() == pytest.approx([0.0, third, third, third])
    assert found.name == "seeds"
    assert Spread("input_noise", 0.05, said, labels).name == "input_noise 0.05"
    assert len(found.row()) == len(COLUMNS)


def test_noise_moves_more_the_stronger_it_is(workspace: Workspace) -> None:
    summary, events = asked(
        workspace, input_noise=[0.02, 0.4], weight_noise=[0.001, 0.5], draws=4, show=10
    )
    for source, weak, strong in (
        ("input_noise", "0.02", "0.4"),
        ("weight_noise", "0.001", "0.5"),
    ):
        assert summary["differs"][f"{source} {weak}"] < summary["differs"][f"{source} {strong}"]
        assert summary["agreement"][f"{source} {weak}"] > summary["agreement"][f"{source} {strong}"]
    table = last(events, Table, "stability")
    assert table.columns == COLUMNS
    assert [row[:3] for row in table.rows] == [
        ("input_noise", 0.02, 5),
        ("input_noise", 0.4, 5),
        ("weight_noise", 0.001, 5),
        ("weight_noise", 0.5, 5),
    ]
    unstable, pictures = last(events, Table, "unstable"), last(events, Images, "unstable")
    assert len(pictures.pixels) == len(unstable.rows) == len(summary["least_stable"]) == 10
    entropies = [row[3] for row in unstable.rows]
    assert entropies == sorted(entropies, reverse=True)
    for row in unstable.rows:
        assert row[3] == pytest.approx(sum(row[4:]) / 4)
    assert sum(pictures.captions[0]["said"].values()) == 20
    again, _ = asked(
        workspace, input_noise=[0.02, 0.4], weight_noise=[0.001, 0.5], draws=4, show=10
    )
    assert again == summary


def test_seeds_that_are_named_and_trained(workspace: Workspace, bench: Any) -> None:
    summary, events = asked(
        workspace, also=["other"], seeds=1, orders=1, input_noise=[], weight_noise=[]
    )
    assert summary["models"] == {"seeds": 3, "orders": 2}
    assert 0 < summary["differs"]["seeds"] < 1
    rows = {row[0]: row for row in last(events, Table, "stability").rows}
    assert rows["seeds"][1] is None
    accuracy = rows["seeds"][4]
    assert accuracy <= summary["clean_accuracy"]


def test_a_sibling_is_the_run_itself_where_nothing_differs(workspace: Workspace) -> None:
    """With the run's own seed the training ends with the run's own weights; another batch order
    alone begins with the same ones."""
    from engine.bench import Bench
    from engine.data import load
    from engine.events import drain
    from engine.models import weights_sha256
    from engine.robustness import stability
    from engine.task import BenchSpec, parse

    folder = workspace.root / "runs" / "aside"
    folder.mkdir(parents=True)
    own = Bench(folder, workspace.root, spec=BenchSpec(device="cpu", threads=1))
    card = load_model("plain", own).card
    train = parse(Train, card.training)
    data = drain(load(card.data, own))
    sha = {}
    for source, seed in (("orders", None), ("seeds", train.seed), ("seeds", None)):
        if seed is not None:
            own.derive = lambda *key, seed=seed: seed  # type: ignore[method-assign]
        else:
            own.__dict__.pop("derive", None)
        model = drain(stability._trained(train, card, data, own, source, 0))
        sha[source, seed] = weights_sha256(model.state_dict())
    assert sha["seeds", train.seed] == card.weights_sha256
    assert len(set(sha.values())) == 3
    assert not (folder / "sibling").exists()


def test_a_sibling_learns_from_the_models_data_where_other_data_is_answered(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.robustness import stability

    learnt = []
    train = stability.Trainer

    def recorded(spec: Any, bench: Any, data: Any, *more: Any) -> Any:
        learnt.append(len(data.train))
        return train(spec, bench, data, *more)

    monkeypatch.setattr(stability, "Trainer", recorded)
    few = {"kind": "digits", "test": 0.9}
    for data in ({}, {"data": few}):
        asked(workspace, seeds=1, orders=1, input_noise=[], weight_noise=[], **data)
    assert len(set(learnt)) == 1
    assert learnt[0] > 1000


def test_the_loss_around_the_weights(workspace: Workspace) -> None:
    summary, events = asked(
        workspace, hessian=True, plane=5, around=64, input_noise=[], weight_noise=[]
    )
    assert {"hessian_top", "hessian_trace"} <= summary.keys()
    plane = last(events, Array, "loss_plane").values
    assert plane.shape == (5, 5)
    assert plane[2, 2] == plane.min()
    assert dict(last(events, Table, "curvature").rows)["hessian/top"] == summary["hessian_top"]


def test_a_stop_keeps_what_was_found(
    workspace: Workspace, tmp_path: Path, drain: Callable[..., tuple[list[Any], Any]]
) -> None:
    from engine.bench import Bench
    from engine.task import BenchSpec

    folder = workspace.root / "runs" / "stopped"
    folder.mkdir(parents=True)
    own = Bench(folder, workspace.root, spec=BenchSpec(device="cpu", threads=1))
    spec = Stability(model="plain", samples=50, input_noise=(0.1,), weight_noise=(), seeds=9)
    steps = spec.run(own)
    events = [next(steps)]
    while not (isinstance(events[-1], Progress) and events[-1].unit == "models"):
        events.append(next(steps))
    said = [steps.throw(Cancelled())]
    rest, summary = drain(steps)
    assert summary["partial"] is True
    assert list(summary["differs"]) == ["input_noise 0.1"]
    assert any(isinstance(event, Table) and event.name == "stability" for event in said + rest)
    assert not (folder / "sibling").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"input_noise": [], "weight_noise": []}, "nothing is varied"),
        ({"input_noise": [0.0]}, "above 0"),
        ({"input_noise": [0.1, 0.1]}, "twice"),
        ({"also": ["plain"]}, "agrees with itself"),
        ({"plane": 4}, "odd number, as 5"),
        ({"draws": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_asked(values: dict[str, Any], words: str) -> None:
    from engine.task import parse

    with pytest.raises(SpecError, match=words):
        parse(Stability, {"model": "plain", **values})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "private", "seeds": 1}, "keeps private"),
        ({"model": "private", "orders": 1}, "name runs in also"),
        ({"also": ("wider",)}, "other images"),
        ({"model": "nobody"}, "nobody"),
    ],
)
def test_what_does_not_fit(
    workspace: Workspace, tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    from engine.bench import Bench
    from engine.task import BenchSpec

    own = Bench(tmp_path, workspace.root, spec=BenchSpec(device="cpu", threads=1))
    spec = Stability(**{"model": "plain", **values})
    with pytest.raises(BadInput, match=words):
        for _ in spec.run(own):
            pass
