"""The figures of generated images beside those of torch-fidelity and prdc, in the features of our
own extractor: the same figures, and what they cost.

The images judged are real ones of MNIST with noise, in 256 levels, which both sides see alike.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import MNIST
from engine.events import drain
from engine.generative.metrics import Extractor, Reference, features, shipped
from engine.generative.metrics.kernel import mmd2
from engine.task import BenchSpec
from tests.benchmarks.peers.subjects import Setting
from tests.benchmarks.rows import Row, in_turn, ratios, spread

K = 5
SUBSET = 500


def main(setting: Setting) -> list[Row]:
    """A row a figure, and one of the time that all of them take."""
    count = 500 if setting.quick else 3000
    extractor = shipped("mnist")
    data = _loaded(setting)
    real = data.train.batch(torch.arange(count))[0]
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) * 0.3
    fake = data.test.batch(torch.arange(count))[0] + noise
    fake = fake.clamp(0, 1).mul(255).round().div(255)
    seen, made = features(real, extractor), features(fake, extractor)
    reference = Reference(seen, K)
    ours = reference.manifold(made)
    theirs = _of_fidelity(extractor, real, fake)
    parts = _quietly(lambda: import_module("prdc").compute_prdc(seen.numpy(), made.numpy(), K))
    return [
        _row("FID", reference.fid(made), theirs["frechet_inception_distance"], 1e-5),
        _row("KID of one subset", *_of_one_subset(seen[:SUBSET], made[:SUBSET]), 1e-9),
        _row("precision", ours.precision, theirs["precision"], 1e-6),
        _row("recall", ours.recall, theirs["recall"], 1e-6),
        _row("density", ours.density, float(parts["density"]), 1e-6, "prdc"),
        _row("coverage", ours.coverage, float(parts["coverage"]), 1e-6, "prdc"),
        _time(seen, made, setting.repeats),
    ]


def _loaded(setting: Setting) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        one = BenchSpec(device="cpu", threads=1)
        bench = Bench(Path(folder), Path(folder), spec=one, data_root=setting.data_root)
        return drain(load(MNIST(validation=0.0), bench))


def _row(what: str, ours: float, theirs: float, most: float, peer: str = "torch-fidelity") -> Row:
    apart = abs(ours - theirs) / max(abs(theirs), 1e-12)
    return Row(
        f"{what} beside {peer}",
        f"<= {most:g} apart",
        f"{ours:.8g} and {theirs:.8g}, {apart:.1e} apart",
        apart <= most,
    )


def _of_fidelity(extractor: Extractor, real: Tensor, fake: Tensor) -> dict[str, float]:
    """By its own evaluator, from images on, through our extractor."""
    fidelity = import_module("torch_fidelity")
    base = import_module("torch_fidelity.feature_extractor_base").FeatureExtractorBase

    class Ours(base):  # type: ignore[misc,valid-type]
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("hidden",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "hidden"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (features(images.float() / 255, extractor),)

    class Whole(torch.utils.data.Dataset[Tensor]):
        def __init__(self, images: Tensor) -> None:
            self.images = (images * 255).round().to(torch.uint8)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, place: int) -> Tensor:
            return self.images[place]

    fidelity.register_feature_extractor("crucible", Ours)
    found: dict[str, float] = _quietly(
        lambda: fidelity.calculate_metrics(
            input1=Whole(fake),
            input2=Whole(real),
            feature_extractor="crucible",
            cuda=False,
            cache=False,
            fid=True,
            prc=True,
            prc_neighborhood=K,
            verbose=False,
        )
    )
    return found


def _of_one_subset(real: Tensor, fake: Tensor) -> tuple[float, float]:
    kid = import_module("torch_fidelity.metric_kid")
    x, y = real.double(), fake.double()
    settings = {
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    kernels = [
        kid.kernel_poly(a.numpy(), b.numpy(), **settings) for a, b in ((x, x), (x, y), (y, y))
    ]
    return mmd2(x, y), float(kid.mmd2(*kernels))


def _time(seen: Tensor, made: Tensor, repeats: int) -> Row:
    """CPU seconds of FID, precision, recall, density and coverage, from features on."""
    fid, prdc = import_module("torch_fidelity.metric_fid"), import_module("prdc")

    def ours() -> None:
        reference = Reference(seen, K)
        reference.fid(made)
        reference.manifold(made)

    def theirs() -> None:
        first, second = (fid.fid_features_to_statistics(each) for each in (seen, made))
        fid.fid_statistics_to_metric(first, second, False)
        prdc.compute_prdc(seen.numpy(), made.numpy(), K)

    ways = {"ours": _timed(ours), "theirs": _timed(theirs)}
    found = in_turn(ways, max(3, 2 * repeats))
    share = ratios(found["ours"], found["theirs"])
    return Row(
        f"{len(made)} images: figures beside torch-fidelity and prdc",
        "<= 1.00 of their CPU time",
        spread(share),
        sorted(share)[len(share) // 2] <= 1.0,
    )


def _timed(work: Callable[[], None]) -> Callable[[], float]:
    def seconds() -> float:
        since = time.process_time()
        _quietly(work)
        return time.process_time() - since

    return seconds


def _quietly(work: Callable[[], Any]) -> Any:
    """Peers print."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()
