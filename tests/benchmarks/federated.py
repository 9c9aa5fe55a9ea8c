"""What a federated round costs: on the grid in this process, against a bare sequential loop.

A round is ten clients with 600 images each, one pass in batches of 32. The bare loop takes the
same steps one client after the other, with the mean of the weights at the end; neither looks at
the test images. Ours is everything else that a round is: messages, Flower's strategy, what is
taken down of each client, the tables. CPU seconds are compared, and wall seconds with two client
threads, taking turns in one process; the weights of both are alike after a round.

Where Ray is there (the extra `federated-ray`), the same round through Flower's simulation.
"""

from __future__ import annotations

import copy
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.bench import Bench
from engine.data.spec import MNIST, DataSpec, Digits
from engine.events import Scalars, drain
from engine.federated import apps
from engine.federated.federating import run_federate
from engine.federated.federation import Federation
from engine.federated.local import LocalGrid
from engine.federated.preparing import Prepared, fleet_of, prepared
from engine.federated.spec import Federate, GridSpec, Local
from engine.models.spec import Strided
from engine.random import derive
from engine.task import BenchSpec, kinds
from engine.training.optimizers import make_optimizer
from engine.training.spec import SGD
from tests.benchmarks.rows import Row, in_turn, ratios, spread

REPEATS = 25
CPU, WALL, RAY, MEMORY, FIRST = 1.05, 0.55, 0.7, 1.2, 2.0
IMAGES = 6000


def main(data_root: Path | None = None) -> list[Row]:
    """CPU and wall of a round, memory of a hundred clients, the first round's result, and Ray."""
    there = data_root is not None and (data_root / "MNIST" / "raw").is_dir()
    data: DataSpec = MNIST(limit=IMAGES, validation=0.0) if there else Digits(size=28)
    name = "MNIST" if there else "digits at 28 x 28 (no --data-root)"
    return [
        *_rounds(data, name, data_root),
        _memory(data, name, data_root),
        _first(),
        _ray(data, name, data_root),
    ]


def _spec(data: DataSpec, clients: int = 10, threads: int = 1) -> Federate:
    return Federate(
        seed=7,
        data=data,
        model=Strided(),
        clients=clients,
        rounds=1_000_000,
        batch_size=32,
        evaluate_every=1_000_000,
        optimizer=SGD(lr=0.1, momentum=0.0),
        grid=Local(threads=threads),
        bench=BenchSpec(device="cpu", threads=1),
    )


class Ours:
    """A federation, a round a call."""

    def __init__(self, spec: Federate, folder: Path, data_root: Path | None) -> None:
        self.bench = Bench(folder, folder, seed=spec.seed, spec=spec.bench, data_root=data_root)
        self.made: Prepared = drain(prepared(spec, self.bench))
        self.model = self.made.model
        self.federation = Federation(spec, self.bench, self.made)
        fleet = fleet_of(spec, self.bench, self.made)
        apps.share(str(id(fleet)), fleet)
        assert isinstance(spec.grid, Local)
        run = {apps.FLEET: str(id(fleet))}
        self.grid = LocalGrid(apps.client, spec.clients, run, spec.grid.threads)
        fleet.turns = self.grid.turns
        self._steps = self.federation.play(self.grid)

    def round(self) -> None:
        for event in self._steps:
            if isinstance(event, Scalars):
                return


class Bare:
    """The same rounds as one writes them by hand."""

    def __init__(self, spec: Federate, ours: Ours) -> None:
        self.spec = spec
        self.number = 0
        self.model = copy.deepcopy(ours.model)
        self.local = copy.deepcopy(ours.model).train()
        self.parts = ours.made.parts
        self.train = ours.made.data.train
        count = torch.arange(len(self.train))
        whole = self.train.batches(count, 500)
        self.pixels = torch.cat([(x * 255).round().to(torch.uint8) for _, x, _ in whole])

    def round(self) -> None:
        self.number += 1
        total: dict[str, Tensor] = {}
        images_of_all = sum(map(len, self.parts))
        for client, part in enumerate(self.parts):
            self.local.load_state_dict(self.model.state_dict())
            optimizer = make_optimizer(
                self.spec.optimizer, self.local.parameters(), torch.device("cpu")
            )
            seed = derive(self.spec.seed, "round", self.number, "client", client)
            draw = torch.Generator().manual_seed(derive(seed, "order", 0))
            for places in torch.randperm(len(part), generator=draw).split(self.spec.batch_size):
                rows = part[places]
                images = self.pixels[rows].to(torch.float32).div_(255)
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(self.local(images), self.train.labels[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                for name, parameter in self.local.named_parameters():
                    share = parameter * (len(part) / images_of_all)
                    total[name] = total[name] + share if name in total else share
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(total[name])


def _rounds(data: DataSpec, name: str, data_root: Path | None) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for threads, target in ((1, CPU), (2, WALL)):
            clock = time.process_time if threads == 1 else time.perf_counter
            spec = _spec(data, threads=threads)
            ours = Ours(spec, Path(folder), data_root)
            bare = Bare(spec, ours)
            try:
                ours.round()
                bare.round()
                _check_alike(ours.model, bare.model)
                found = in_turn(
                    {"ours": _timed(ours.round, clock), "bare": _timed(bare.round, clock)}, REPEATS
                )
            finally:
                ours.grid.close()
            kept = ratios(found["ours"], found["bare"])
            unit = "CPU" if threads == 1 else "wall"
            rows.append(
                Row(
                    f"federated round on local against a bare sequential loop, {name}, {unit}"
                    + (", two client threads" if threads == 2 else ""),
                    f"<= {target}",
                    spread(kept),
                    statistics.median(kept) <= target,
                    f"{statistics.median(found['ours']):.3f} and "
                    f"{statistics.median(found['bare']):.3f} s",
                )
            )
    return rows


def _timed(act: Callable[[], None], clock: Callable[[], float]) -> Callable[[], float]:
    def timed() -> float:
        began = clock()
        act()
        return clock() - began

    return timed


def _check_alike(ours: nn.Module, bare: nn.Module) -> None:
    """After a round: what is rounded otherwise grows with the rounds."""
    for (name, mine), (_, its) in zip(ours.named_parameters(), bare.named_parameters()):
        assert (mine - its).abs().max() < 1e-6, f"the two do not do the same: {name}"


# --- memory ---------------------------------------------------------------------------------------


def _memory(data: DataSpec, name: str, data_root: Path | None) -> Row:
    """The largest resident set of a process that plays two rounds, with ten clients and with a
    hundred that have as many images together."""
    few, many = (_peak(data, clients, data_root) for clients in (10, 100))
    ratio = many / few
    return Row(
        f"memory of 100 clients on local against 10, {name}",
        f"<= {MEMORY}",
        f"{ratio:.3f}",
        ratio <= MEMORY,
        f"{many / 2**20:.0f} and {few / 2**20:.0f} MB",
    )


def _peak(data: DataSpec, clients: int, data_root: Path | None) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.federated", str(clients)]
    command += [data.model_dump_json(), str(data_root or "")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(out.splitlines()[-1])


def _peak_here(clients: int, values: str, root: str) -> None:
    kind = MNIST if '"mnist"' in values else Digits
    data = kind.model_validate_json(values)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(_spec(data, clients, threads=2), Path(folder), Path(root) if root else None)
        ours.round()
        ours.round()
        ours.grid.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


# --- the first round ------------------------------------------------------------------------------


def _first() -> Row:
    """From the start of the default federation on digits to the first round's accuracy, in a
    process that has done so before."""
    found = []
    for repeat in range(4):
        with tempfile.TemporaryDirectory() as folder:
            spec = Federate(seed=repeat)
            place = Path(folder)
            began = time.perf_counter()
            steps = run_federate(spec, Bench(place, place, seed=repeat, spec=spec.bench))
            for event in steps:
                if isinstance(event, Scalars):
                    break
            found.append(time.perf_counter() - began)
            steps.close()
    warm = found[1:]
    return Row(
        "first round's result after start, digits, warm process",
        f"<= {FIRST} s",
        spread(warm, 2) + " s",
        statistics.median(warm) <= FIRST,
        f"the first of all {found[0]:.2f} s",
    )


# --- Ray ------------------------------------------------------------------------------------------


def _ray(data: DataSpec, name: str, data_root: Path | None) -> Row:
    """Of whole runs: the rounds after the first, in which Ray starts its processes."""
    what = f"federated round on local against Flower on Ray, {name}, wall, two client threads"
    grid = kinds(GridSpec).get("ray")
    if grid is None or importlib.util.find_spec("ray") is None:
        return Row(what, f"<= {RAY}", "skipped: Ray is not installed (extra federated-ray)")
    spec = _spec(data, threads=2).model_copy(update={"rounds": 1 + REPEATS})
    here = _round_seconds(spec, data_root)
    there = _round_seconds(spec.model_copy(update={"grid": grid()}), data_root)
    ratio = statistics.median(here) / statistics.median(there)
    return Row(
        what,
        f"<= {RAY}",
        f"{ratio:.3f}",
        ratio <= RAY,
        f"{statistics.median(here):.3f} and {statistics.median(there):.3f} s",
    )


def _round_seconds(spec: Federate, data_root: Path | None) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bench = Bench(place, place, seed=spec.seed, spec=spec.bench, data_root=data_root)
        said = [event for event in run_federate(spec, bench) if isinstance(event, Scalars)]
    return [event.values["round/seconds"] for event in said[1:-1]]


if __name__ == "__main__":
    _peak_here(int(sys.argv[1]), sys.argv[2], sys.argv[3])
