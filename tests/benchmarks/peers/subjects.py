"""The nets that are attacked, trained by the engine on the spot, and the images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import MNIST, Folder
from engine.device import versions
from engine.events import drain
from engine.models import load_model
from engine.models.spec import CNN, Strided
from engine.robustness.spec import Fast
from engine.runner import Runner
from engine.store import Workspace
from engine.task import BenchSpec
from engine.training.spec import Adam, OneCycle, Train, Watch


@dataclass(frozen=True, slots=True)
class Setting:
    """What a benchmark is run with. images: how many, from the test image `first` on. repeats:
    turns of each side. seeds: of what is random. folder: a data set besides MNIST."""

    data_root: Path
    images: int
    first: int
    seeds: int
    quick: bool
    nets: Path
    folder: Path | None = None

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 3

    @property
    def whole(self) -> bool:
        """There are as many images as the targets speak of; with fewer, what does not depend on
        their number weighs more, and nothing is judged."""
        return self.images >= 500


@dataclass(frozen=True, slots=True)
class Subject:
    """A net and the images it is attacked at, those of the test split at `places`, int64 (N,).
    eps: radius in linf; other norms are given as multiples of what is usual for MNIST (l2 2, l1
    10), by `scale`."""

    name: str
    path: Path
    data: Dataset
    model: nn.Module
    images: Tensor
    labels: Tensor
    places: Tensor
    eps: float
    hardened: bool
    scale: float

    def correct(self) -> Subject:
        """The same with the images alone that the net gets right."""
        with torch.no_grad():
            keep = self.model(self.images).argmax(1) == self.labels
        return replace(
            self, images=self.images[keep], labels=self.labels[keep], places=self.places[keep]
        )


def subjects(setting: Setting) -> list[Subject]:
    """`standard` and `fast-AT`, and the two of a folder if there is one."""
    plain = Train(
        data=MNIST(validation=0.01),
        model=Strided(),
        optimizer=Adam(lr=5e-3),
        schedule=OneCycle(rise=0.4),
        epochs=3,
        batch_size=100,
        bench=BenchSpec(device="cpu", threads=1),
    )
    # A step of 1.25 epsilon collapses now and then: shorter ones, from where the last one ended.
    fast = Fast(eps=0.3, alpha=0.13, keep=True, watch=Watch())
    hard = plain.model_copy(update={"epochs": 8, "ema": 0.999, "adversarial": fast})
    found = [
        _subject(setting, "standard", plain, 0.3, 1.0),
        _subject(setting, "fast-AT", hard, 0.3, 1.0),
    ]
    if setting.folder is not None:
        own = {"data": Folder(path=str(setting.folder)), "model": CNN(), "epochs": 3}
        colour = plain.model_copy(update=own)
        against = {"epochs": 5, "adversarial": Fast(eps=8 / 255, alpha=8 / 255, watch=Watch())}
        found += [
            _subject(setting, "own, standard", colour, 2 / 255, 0.1),
            _subject(setting, "own, fast-AT", colour.model_copy(update=against), 8 / 255, 0.25),
        ]
    return found


def _subject(setting: Setting, name: str, spec: Train, eps: float, scale: float) -> Subject:
    path = _trained(setting, name, spec)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder), Path(folder), data_root=setting.data_root, spec=BenchSpec(device="cpu")
        )
        model = load_model(str(path), bench).module.requires_grad_(False)
        data: Dataset = drain(load(spec.data or MNIST(), bench))
    first = min(setting.first, max(0, len(data.test) - setting.images))
    places = torch.arange(first, min(first + setting.images, len(data.test)))
    if spec.data is not None and spec.data.kind == "folder":  # which lies there class by class
        places = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
        places = places[: setting.images]
    images, labels = data.test.batch(places)
    hardened = spec.adversarial is not None
    return Subject(name, path, data, model, images, labels, places, eps, hardened, scale)


def _trained(setting: Setting, name: str, spec: Train) -> Path:
    """The net that `spec` makes: that of an earlier call, with equal versions, or a new one."""
    key = json.dumps([spec.to_dict(), versions()], sort_keys=True, default=str)
    stem = name.replace(", ", "-")
    path = setting.nets / f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if path.exists():
        return path
    setting.nets.mkdir(parents=True, exist_ok=True)
    print(f"    training {name}, kept in {path} …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        runner = Runner(workspace, lambda run, events: None, data_root=setting.data_root)
        run = workspace.create(spec.to_dict(), name=stem)
        status = runner.run(run)
        if status != "done":
            raise RuntimeError(f"the training of {name} ended {status}: {run.info().error}")
        whole = path.with_suffix(f".{os.getpid()}")
        shutil.copy(workspace.model_file(run.id), whole)
        whole.replace(path)
        print(f"    {name}: clean accuracy {run.info().summary['clean_accuracy']:.4f}", flush=True)
    return path
