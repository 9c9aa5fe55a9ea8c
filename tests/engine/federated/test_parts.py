"""The small parts: hostile clients, compression, what is told of a round, Flower kept quiet."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from engine.errors import BadInput
from engine.federated.compression import compressed, expanded
from engine.federated.facts import Fact, RoundFacts, drifts, gram, measure, plane_of
from engine.federated.flower import is_live, record, size, tensors
from engine.federated.hostility import poisoned, tampered, triggered, who
from engine.federated.spec import (
    Backdoor,
    FreeRider,
    Gaussian,
    HostileSpec,
    Int8,
    LabelFlip,
    Scaled,
    SignFlip,
    TopK,
)

Update = dict[str, Tensor]


def some(count: int, seed: int = 0) -> list[Update]:
    draw = torch.Generator().manual_seed(seed)
    return [
        {"a": torch.randn(30, 7, generator=draw), "b": torch.randn(11, generator=draw)}
        for _ in range(count)
    ]


# --- hostile clients ------------------------------------------------------------------------------


def test_who_is_hostile_is_named_or_drawn() -> None:
    specs: list[HostileSpec] = [SignFlip(clients=(3,)), Scaled(count=2), FreeRider()]
    found = who(specs, 10, seed=1)
    assert len(found) == 4
    assert found[3] == specs[0]
    assert sorted(spec.kind for spec in found.values()).count("scaled") == 2
    assert who(specs, 10, seed=1) == found
    assert len({tuple(who([Scaled(count=2)], 10, seed)) for seed in range(20)}) > 5
    with pytest.raises(BadInput, match="named as hostile twice"):
        who([SignFlip(clients=(3,)), Scaled(clients=(3,))], 10, 0)


def test_labels_are_flipped() -> None:
    images, labels, ids = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 7, 9, 1]), torch.arange(6)
    _, all_ = poisoned(LabelFlip(), images, labels, ids, 0, 10)
    assert all_.tolist() == [9, 8, 7, 2, 0, 8]
    _, one = poisoned(LabelFlip(source=1, target=7), images, labels, ids, 0, 10)
    assert one.tolist() == [0, 7, 2, 7, 9, 7]


def test_a_backdoor_marks_a_share_of_the_images_the_same_ones_in_any_batch() -> None:
    images = torch.rand(400, 1, 8, 8) * 0.5
    labels, ids = torch.arange(400) % 10, torch.arange(400)
    spec = Backdoor(target=3, share=0.3)
    seen, told = poisoned(spec, images, labels, ids, 5, 10)
    marked = (seen != images).flatten(1).any(1)
    assert 0.22 < float(marked.float().mean()) < 0.38
    assert torch.equal(seen[marked], triggered(images[marked], spec))
    assert bool((told[marked] == 3).all())
    assert torch.equal(told[~marked], labels[~marked])
    part, _ = poisoned(spec, images[50:60], labels[50:60], ids[50:60], 5, 10)
    assert torch.equal(part, seen[50:60])
    corner = triggered(torch.zeros(1, 1, 8, 8), spec)[0, 0]
    assert float(corner.sum()) == 9
    assert float(corner[4:7, 4:7].sum()) == 9


def test_updates_are_tampered_with() -> None:
    update = some(1)[0]
    assert torch.equal(tampered(SignFlip(), update, 0)["a"], -update["a"])
    assert torch.equal(tampered(Scaled(factor=-5.0), update, 0)["b"], -5 * update["b"])
    assert torch.equal(tampered(Backdoor(boost=4.0), update, 0)["b"], 4 * update["b"])
    assert tampered(LabelFlip(), update, 0) is update
    noise = tampered(Gaussian(std=2.0), {"a": torch.zeros(100, 100)}, 3)["a"]
    assert float(noise.std()) == pytest.approx(2.0, rel=0.05)
    assert not torch.equal(noise, tampered(Gaussian(std=2.0), {"a": torch.zeros(100, 100)}, 4)["a"])
    assert not bool(tampered(FreeRider(), update, 0)["a"].any())


# --- compression ----------------------------------------------------------------------------------


def test_topk_sends_the_largest_and_keeps_the_rest() -> None:
    spec, update = TopK(share=0.1), some(1)[0]
    sent, kept = compressed(spec, update, {}, 0)
    found = expanded(spec, sent, update)
    whole = torch.cat([t.flatten() for t in update.values()])
    back = torch.cat([t.flatten() for t in found.values()])
    count = math.ceil(0.1 * len(whole))
    assert int((back != 0).sum()) == count
    least = whole.abs().sort(descending=True).values[count - 1]
    assert torch.equal(back, torch.where(whole.abs() >= least, whole, 0.0))
    assert torch.allclose(back + kept["rest"], whole)
    second = some(1, seed=1)[0]
    sent, kept_again = compressed(spec, second, kept, 0)
    now = torch.cat([t.flatten() for t in expanded(spec, sent, update).values()])
    total = torch.cat([t.flatten() for t in second.values()]) + kept["rest"]
    assert torch.allclose(now + kept_again["rest"], total)
    assert compressed(TopK(share=0.1, memory=False), update, {}, 0)[1] == {}


def test_eight_bits_are_right_on_average() -> None:
    spec, update = Int8(), some(1)[0]
    total = torch.zeros_like(update["a"])
    for seed in range(400):
        sent, _ = compressed(spec, update, {}, seed)
        assert sent["a"].dtype == torch.int8
        found = expanded(spec, sent, update)["a"]
        step = float(update["a"].abs().max()) / 127
        assert float((found - update["a"]).abs().max()) <= step * 1.001
        total += found
    assert float((total / 400 - update["a"]).abs().max()) < 5 * step / 400**0.5


@pytest.mark.parametrize("spec", [TopK(share=0.5), Int8()])
def test_a_number_that_is_none_is_not_hidden(spec: TopK | Int8) -> None:
    update = some(1)[0]
    update["a"][3, 3] = math.nan
    sent, _ = compressed(spec, update, {}, 0)
    back = expanded(spec, sent, update)
    assert not all(bool(tensor.isfinite().all()) for tensor in back.values())


@pytest.mark.parametrize(
    ("spec", "sent"),
    [
        (TopK(), {"places": torch.tensor([0, 1])}),
        (TopK(), {"places": torch.tensor([999_999]), "values": torch.ones(1)}),
        (TopK(), {"places": torch.tensor([-1]), "values": torch.ones(1)}),
        (Int8(), {"a": torch.ones(30, 7), "a/size": torch.ones(1)}),
    ],
)
def test_what_was_not_compressed_so_is_refused(spec: TopK | Int8, sent: Update) -> None:
    with pytest.raises(BadInput):
        expanded(spec, sent, some(1)[0])


# --- what is told ---------------------------------------------------------------------------------


def test_norms_and_cosines_are_what_they_are_called() -> None:
    updates = some(6)
    facts = [Fact(client, "kept", examples=10 * (client + 1)) for client in range(6)]
    weights = [fact.examples for fact in facts]
    measure(facts, gram(updates), weights)
    rows = torch.stack([torch.cat([t.flatten() for t in u.values()]) for u in updates]).double()
    shares = torch.tensor(weights).double() / sum(weights)
    mean = shares @ rows
    for fact, row in zip(facts, rows, strict=True):
        assert fact.norm == pytest.approx(float(row.norm()), rel=1e-6)
        cosine = float(row @ mean / (row.norm() * mean.norm()))
        assert fact.cosine == pytest.approx(cosine, abs=1e-6)
    step = {name: tensor * 0.5 for name, tensor in updates[0].items()}
    drifts(facts, updates, step)
    assert facts[0].drift == pytest.approx(0.5 * facts[0].norm, rel=1e-6)  # type: ignore[operator]


def test_the_plane_is_that_of_the_principal_components() -> None:
    updates = some(8)
    rows = torch.stack([torch.cat([t.flatten() for t in u.values()]) for u in updates]).numpy()
    expected = PCA(2).fit_transform(rows.astype(np.float64))
    found = plane_of(gram(updates)).numpy()
    for axis in range(2):
        side = np.sign(found[:, axis] @ expected[:, axis])
        assert np.allclose(found[:, axis], side * expected[:, axis], atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_updates_have_a_plane_too(count: int) -> None:
    facts = [Fact(client, "kept", examples=1) for client in range(count)]
    measure(facts, gram(some(count)), [1.0] * count)
    assert all(fact.x is not None and math.isfinite(fact.x) for fact in facts)


def test_the_timeline_has_a_letter_a_client() -> None:
    seen = RoundFacts(1, {1: Fact(1, "kept"), 3: Fact(3, "set aside"), 4: Fact(4, "late")})
    assert seen.timeline(6) == ".k.sl."


# --- Flower's records -----------------------------------------------------------------------------


def test_records_of_this_process_are_not_copied() -> None:
    update = some(1)[0]
    live, bytes_ = record(update, live=True), record(update, live=False)
    assert is_live(live)
    assert not is_live(bytes_)
    assert tensors(live)["a"].data_ptr() == update["a"].data_ptr()
    assert size(tensors(live)) == size(tensors(bytes_)) == 4 * (210 + 11)
    assert live["a"].data == bytes_["a"].data
    assert np.array_equal(live["a"].numpy(), bytes_["a"].numpy())


def test_flower_says_nothing_to_anybody() -> None:
    """Telemetry and update checks are off, whoever imports it first; nothing is printed."""
    code = (
        "import engine.federated.apps, engine.federated.flower as f\n"
        "from flwr.supercore import telemetry, update_check, log\n"
        "import inspect, os\n"
        "f.quiet(); log(40, 'to be heard')\n"
        "assert f.heard() == ['to be heard']\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 1"
    assert "to be heard" not in done.stderr
