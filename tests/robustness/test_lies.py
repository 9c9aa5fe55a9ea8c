from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.data import Dataset
from engine.events import drain
from engine.models import build
from engine.models.spec import CNN, Transformer
from engine.robustness import lies
from engine.robustness.flags import FLAGS, Flag
from engine.robustness.searching import Found
from engine.robustness.statistics import mcnemar
from tests.robustness.masked import MASKED, Net, Wrapped
from tests.robustness.zoo import bench_in, subject, train


def flags_of(
    model: nn.Module, data: Dataset, folder: Path, *, attack: bool, norm: str = "linf"
) -> dict[str, Flag]:
    on = subject(model, data, bench_in(folder), 100)
    found = drain(lies.look_at(on))
    if attack:
        eps = {"linf": 0.15, "l2": 0.7, "l1": 3.0}[norm]
        found += drain(lies.compare(on, norm, eps, None, 100, 300))  # type: ignore[arg-type]
    return {flag.name: flag for flag in found}


@pytest.mark.parametrize("name", MASKED)
def test_every_masked_defence_is_found_out(
    name: str, net: Net, data: Dataset, tmp_path: Path
) -> None:
    make, reason = MASKED[name]
    flags = flags_of(make(net), data, tmp_path, attack=reason == "saturated_loss")
    assert reason in flags, list(flags)
    assert flags[reason].evidence
    assert flags[reason].meaning is FLAGS[reason]


@pytest.mark.parametrize("name", ["quantised activations", "reversed", "JPEG"])
def test_attacks_without_gradients_beat_those_that_have_none(
    name: str, net: Net, data: Dataset, tmp_path: Path
) -> None:
    flags = flags_of(MASKED[name][0](net), data, tmp_path, attack=True)
    assert {"black_box_wins", "unbounded_fails"} <= flags.keys()
    p = flags["black_box_wins"].p
    assert p is not None
    assert p < 0.01


class Recurrent(nn.Module):
    """Reads an image row by row, and keeps what it has made of it, as many do to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.count = self.cell(x[:, 0])[0], len(x)
        return self.head(self.seen[:, -1])


HEALTHY: dict[str, Callable[[Dataset], nn.Module]] = {
    "convolutional": lambda data: train(Net(), data),
    "batch norm": lambda data: train(Net(nn.BatchNorm2d(16)), data),
    "adversarially trained": lambda data: train(Net(), data, epochs=25, eps=0.15),
    "tanh": lambda data: train(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)), data
    ),
    "recurrent": lambda data: train(Recurrent(), data, epochs=10),
    "residual": lambda data: train(
        build(CNN(width=8, depth=1, norm="batch", residual=True), data.shape, 10), data, epochs=6
    ),
    "trained long": lambda data: train(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        data,
        epochs=30,
    ),
    "log of probabilities": lambda data: nn.Sequential(train(Net(), data), nn.LogSoftmax(1)),
    "linear": lambda data: train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data),
    "transformer": lambda data: train(
        build(Transformer(width=16, depth=1), data.shape, 10), data, epochs=6
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_against_a_healthy_model(name: str, data: Dataset, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = HEALTHY[name](data)
    for norm in ("linf", "l2", "l1"):
        found = flags_of(model, data, tmp_path, attack=True, norm=norm)
        assert not found, [(flag.name, flag.evidence) for flag in found.values()]


def test_an_evaluation_whose_attacks_found_nothing_is_flagged(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    on = subject(net, data, bench_in(tmp_path), 60)
    flags = drain(lies.compare(on, "linf", 0.15, Found.nothing(on), 60, 50))
    assert [flag.name for flag in flags] == ["weak_attacks"]


def test_checks_leave_no_trace(net: Net, data: Dataset, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state, run = torch.get_rng_state(), torch.autograd._engine_run_backward
    flags_of(net.train(), data, tmp_path, attack=False)
    net.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.autograd._engine_run_backward is run
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # scipy.stats.binomtest(1, 10).pvalue, (0, 8), (3, 20)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(0.021484375)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(0, 8) == pytest.approx(0.0078125)
    assert mcnemar(3, 17) == pytest.approx(0.002576828)
    assert mcnemar(5, 5) == 1.0
    assert math.isclose(mcnemar(0, 2000), 0.0, abs_tol=1e-300)


def test_what_the_evaluation_found_counts_as_found_with_gradients(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    """Attacks of the checks leave out whom the evaluation has broken; the black box does not."""
    on = subject(MASKED["reversed"][0](net), data, bench_in(tmp_path), 60)
    evaluated = Found.nothing(on)
    alone = {flag.name for flag in drain(lies.compare(on, "linf", 0.15, evaluated, 60, 200))}
    assert "black_box_wins" in alone
    evaluated.success, evaluated.norm = on.correct.clone(), torch.full((len(on),), 0.1).double()
    flags = drain(lies.compare(on, "linf", 0.15, evaluated, 60, 200))
    assert "black_box_wins" not in {flag.name for flag in flags}


def test_models_that_tell_apart_what_follows_are_known_at_the_end(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    on = subject(net, data, bench_in(tmp_path), 40)
    worst = Found.nothing(on)
    worst.attacked, worst.queries = on.correct.clone(), on.correct.long()
    assert lies.look_back(on, worst, []) == []
    on.cost.nan = 3
    worst.attacked[on.correct.nonzero()[:2]] = False
    worst.queries[on.correct.nonzero()[2]] = 0
    on.clean = on.clean + 1
    flags = {flag.name: flag.evidence for flag in lies.look_back(on, worst, [])}
    assert flags.keys() == {"not_numbers", "changes_itself", "not_attacked"}
    assert flags["not_attacked"].startswith("3 samples")
    known = [Flag("not_numbers", ""), Flag("randomised_output", "")]
    assert [flag.name for flag in lies.look_back(on, worst, known)] == ["not_attacked"]


def test_small_logits_are_no_probabilities(net: Net, data: Dataset, tmp_path: Path) -> None:
    assert not flags_of(Wrapped(net, after=lambda y: y * 1e-12), data, tmp_path, attack=False)
