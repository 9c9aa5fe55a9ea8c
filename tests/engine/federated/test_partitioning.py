"""Every image goes to exactly one client, by the seed alone; who has what is as the kind says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import Dataset, load
from engine.data.spec import Folder
from engine.errors import BadInput
from engine.events import drain
from engine.federated.partitioning import counts, partition
from engine.federated.spec import (
    IID,
    Dirichlet,
    Natural,
    PartitionSpec,
    QuantitySkew,
    Shards,
)
from engine.questions import prepare
from engine.store import Workspace
from tests.engine.federated.fleet import digits, new_bench


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize(
    "spec", [IID(), Dirichlet(alpha=0.1), Dirichlet(alpha=100.0), Shards(), QuantitySkew()]
)
@pytest.mark.parametrize("clients", [1, 7, 40])
def test_every_image_goes_to_one_client(data: Dataset, spec: PartitionSpec, clients: int) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].sum()
    parts = partition(spec, data, clients, seed=4)
    assert len(parts) == clients
    assert sorted(torch.cat(parts).tolist()) == list(range(len(data.train)))
    assert all(len(part) for part in parts)
    again = partition(spec, data, clients, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    if clients > 1:
        other = partition(spec, data, clients, seed=5)
        assert any(not torch.equal(a, b) for a, b in zip(parts, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].sum() == before[1]


def test_iid_parts_are_equal(data: Dataset) -> None:
    sizes = {len(part) for part in partition(IID(), data, 10, 0)}
    assert max(sizes) - min(sizes) <= 1


def test_the_smaller_alpha_the_fewer_classes(data: Dataset) -> None:
    def classes(alpha: float) -> float:
        parts = partition(Dirichlet(alpha=alpha), data, 10, 0)
        table = counts(parts, data.train.labels, 10).double()
        shares = table / table.sum(1, keepdim=True)
        return float((-(shares * shares.clamp_min(1e-12).log()).sum(1)).exp().mean())

    few, some, all_ = classes(0.05), classes(0.5), classes(100.0)
    assert few < 3 < some < 8 < all_ <= 10


def test_dirichlet_shares_are_dirichlets() -> None:
    """Of a class with very many images, a client's share has the mean and variance of Dirichlet's
    marginal, Beta(alpha, (n - 1) alpha)."""
    labels = torch.zeros(20_000, dtype=torch.int64)

    class Train:
        def __init__(self) -> None:
            self.labels = labels

        def __len__(self) -> int:
            return len(labels)

    class Data:
        train = Train()

    shares = []
    for seed in range(300):
        parts = partition(Dirichlet(alpha=2.0), Data(), 4, seed)  # type: ignore[arg-type]
        shares.append(len(parts[0]) / len(labels))
    mean, variance = np.mean(shares), np.var(shares)
    assert abs(mean - 0.25) < 4 * (0.0208 / 300) ** 0.5
    assert abs(variance - 0.25 * 0.75 / 9) < 0.006


def test_shards_are_of_few_classes(data: Dataset) -> None:
    parts = partition(Shards(shards=2), data, 20, 0)
    table = counts(parts, data.train.labels, 10)
    assert int((table > 0).sum(1).max()) <= 4
    assert float((table > 0).sum(1).double().mean()) < 3.2
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 4


def test_quantity_skew_leaves_classes_alike(data: Dataset) -> None:
    parts = partition(QuantitySkew(alpha=0.5, least=20), data, 8, 1)
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 20
    assert max(sizes) > 3 * min(sizes)
    biggest = counts(parts, data.train.labels, 10)[int(np.argmax(sizes))].double()
    assert float(biggest.min() / biggest.max()) > 0.5


def folder(tmp_path: Path, writers: int = 4) -> Folder:
    draw = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        for writer in range(writers):
            for number in range(6):
                path = tmp_path / "own" / label / f"writer{writer}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return Folder(path=str(tmp_path / "own"), size=8, channels=1, validation=0.0)


def test_natural_clients_are_the_folders(tmp_path: Path) -> None:
    data = drain(load(folder(tmp_path), new_bench(tmp_path)))
    assert data.classes == ("cats", "dogs")
    assert data.groups is not None
    parts = partition(Natural(), data, 4, 0)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(data.train)))
    for part in parts:
        assert len(set(data.groups[data.train.ids[part]].tolist())) == 1
    two = partition(Natural(), data, 2, 0)
    assert [len(set(data.groups[data.train.ids[part]].tolist())) for part in two] == [2, 2]
    with pytest.raises(BadInput, match="come from 4 groups, fewer than the 5 clients"):
        partition(Natural(), data, 5, 0)


@pytest.mark.parametrize(
    ("spec", "clients", "words"),
    [
        (IID(), 1296, "only 1295 training images"),
        (Dirichlet(alpha=0.001), 100, "always a client with fewer than 1"),
        (Dirichlet(least=200), 10, "at least 200 images each need 2000"),
        (QuantitySkew(least=200), 10, "at least 200 images each need 2000"),
        (Shards(shards=200), 10, "need 2000 images"),
        (Natural(), 3, "does not say who its images are from"),
    ],
)
def test_what_cannot_be_dealt_is_refused(
    data: Dataset, spec: PartitionSpec, clients: int, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        partition(spec, data, clients, 0)


def test_the_partition_is_shown_before_starting(tmp_path: Path) -> None:
    question = {
        "kind": "preview_partition",
        "data": {"kind": "digits"},
        "partition": {"kind": "shards", "shards": 2},
        "clients": 12,
    }
    answer = drain(prepare(question, Workspace(tmp_path), None))
    assert isinstance(answer, tuple)
    reply, _ = answer
    data = digits(tmp_path)
    parts = partition(Shards(shards=2), data, 12, 0)
    assert reply["counts"] == counts(parts, data.train.labels, 10).tolist()
    assert reply["smallest"] == min(map(len, parts))
    for wrong, words in (
        ({"clients": 2000}, "only 1295"),
        ({"clients": 0}, "whole number from 1 on"),
        ({"partition": {"kind": "id"}}, "there is no kind 'id'"),
    ):
        with pytest.raises(BadInput, match=words):
            drain(prepare({**question, **wrong}, Workspace(tmp_path), None))
