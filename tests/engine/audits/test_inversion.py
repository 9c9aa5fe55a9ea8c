"""Gradient inversion: what is seen against autograd and torch's own SGD, likeness against scipy,
the labels that gradients give away, and reconstructions with and without protection."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from engine.audits.inversion import _common, _layers
from engine.audits.likeness import matched, psnr, ssim
from engine.audits.observing import Lesson, Setting, labels_of, seen
from engine.audits.spec import Audit, Inversion, Membership
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.events import Images, Note, Progress, Scalars, drain
from engine.federated.spec import Capture, Federate, SecureAggregation
from engine.models import build
from engine.models.spec import CNN, MLP, LeNet, Strided
from engine.privacy import split_noise
from engine.privacy.spec import DPSGD
from engine.task import BenchSpec
from engine.training.spec import SGD, Train
from tests.engine.audits.conftest import House

DATA = Digits(size=12)
NET = Strided(channels=(12, 24), hidden=64)
VICTIM = Train(model=NET, data=DATA, epochs=6, seed=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("digits")
    found: Dataset = drain(
        load(DATA, Bench(folder, folder, spec=BenchSpec(device="cpu", threads=1)))
    )
    return found


@pytest.fixture(scope="module")
def victim(shared_house: House) -> House:
    assert shared_house.run("victim", VICTIM).status == "done"
    return shared_house


def setting_of(model: nn.Module, groups: tuple[int, ...], **known: Any) -> Setting:
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return Setting(model.eval(), weights, groups, **known)


def soft(labels: Tensor) -> Tensor:
    return F.one_hot(labels, 10).float()


# --- likeness -------------------------------------------------------------------------------------


def test_the_peak_ratio_is_that_of_its_definition() -> None:
    a = torch.full((1, 1, 5, 5), 0.5)
    assert float(psnr(a, a + 0.1)) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr(a, a + 0.01)) == pytest.approx(40.0, abs=1e-3)
    assert float(psnr(a, a)) == 100.0


@pytest.mark.parametrize(("side", "window"), [(28, 11), (8, 7), (11, 11)])
def test_structural_similarity_is_that_of_scipys_filters(side: int, window: int) -> None:
    """Wang et al. 2004, equation 13, with their Gaussian window cut off where it ends."""
    draw = np.random.default_rng(0)
    a, b = draw.random((2, side, side))
    b = 0.6 * a + 0.4 * b
    reach = window // 2

    def around(values: Any) -> Any:
        smooth = gaussian_filter(values, 1.5, radius=reach, mode="constant")
        return smooth[reach : side - reach, reach : side - reach]

    mu_a, mu_b = around(a), around(b)
    var_a, var_b = around(a * a) - mu_a**2, around(b * b) - mu_b**2
    both = around(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    expected = (
        ((2 * mu_a * mu_b + c1) * (2 * both + c2))
        / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    ).mean()
    first, second = (torch.tensor(v).view(1, 1, side, side) for v in (a, b))
    assert float(ssim(first, second)) == pytest.approx(expected, rel=1e-9)
    assert float(ssim(first, first)) == pytest.approx(1.0)


def test_pairs_are_those_that_are_most_alike_together() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 4, 4, generator=draw)
    found = torch.rand(5, 1, 4, 4, generator=draw)

    def apart(order: Any) -> float:
        return float((found[list(order)] - images).square().sum())

    best = min(itertools.permutations(range(5)), key=apart)
    assert matched(found, images).tolist() == list(best)
    shuffled = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(images[shuffled][matched(images[shuffled], images)], images)


# --- what is seen ---------------------------------------------------------------------------------


def test_a_gradient_is_autograds_and_a_clipped_one_a_loops(data: Dataset) -> None:
    model = build(CNN(width=4, depth=1, norm="group"), data.shape, 10, generator_seed=0).eval()
    images, labels = data.train.batch(torch.arange(5))
    parameters = list(model.parameters())
    whole = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)
    found = seen(setting_of(model, (5,)), images, soft(labels), create_graph=False)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, found, strict=True))
    total = [torch.zeros_like(p) for p in parameters]
    for x, y in zip(images, labels, strict=True):
        own = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), parameters)
        size = torch.cat([g.flatten() for g in own]).norm()
        for t, g in zip(total, own, strict=True):
            t += g * min(1.0, 0.5 / float(size)) / 5
    found = seen(setting_of(model, (5,), clip=0.5), images, soft(labels), create_graph=False)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(total, found, strict=True))
    both = seen(setting_of(model, (2, 3)), images, soft(labels), create_graph=False)
    parts = [
        torch.autograd.grad(F.cross_entropy(model(images[p]), labels[p]), parameters)
        for p in (slice(0, 2), slice(2, 5))
    ]
    assert all(
        torch.allclose((a + b) / 2, c, atol=1e-6) for a, b, c in zip(*parts, both, strict=True)
    )
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize(
    "lesson",
    [
        Lesson(1, 4, 0.1),
        Lesson(3, 3, 0.05, momentum=0.9),
        Lesson(2, 4, 0.05, momentum=0.5, nesterov=True, weight_decay=1e-2),
        Lesson(2, 2, 0.1, share=0.5),
    ],
)
def test_an_update_is_what_torchs_sgd_makes_of_the_weights(data: Dataset, lesson: Lesson) -> None:
    model = build(MLP(width=16, depth=1), data.shape, 10, generator_seed=0).eval()
    images, labels = data.train.batch(torch.arange(7))
    setting = setting_of(model, (7,), lesson=lesson)
    found = seen(setting, images, soft(labels), create_graph=True)
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        other.parameters(),
        lr=lesson.lr,
        momentum=lesson.momentum,
        nesterov=lesson.nesterov,
        weight_decay=lesson.weight_decay,
    )
    taken = 0
    for _ in range(lesson.epochs):
        for x, y in zip(
            images.split(lesson.batch_size), labels.split(lesson.batch_size), strict=True
        ):
            if taken < lesson.steps(7):
                optimizer.zero_grad()
                F.cross_entropy(other(x), y).backward()
                optimizer.step()
                taken += 1
    for before, after, lost in zip(model.parameters(), other.parameters(), found, strict=True):
        assert torch.allclose(before - after, lost, atol=1e-6)
    assert taken == lesson.steps(7)


def test_labels_are_read_from_the_gradient(data: Dataset) -> None:
    for described in (NET, LeNet(channels=(6,), hidden=(32,)), MLP(width=32)):
        model = build(described, data.shape, 10, generator_seed=1).eval()
        right = total = 0
        for number, size in enumerate([1] * 20 + [4] * 5 + [16] * 3):
            images, labels = data.train.batch(torch.arange(size) + 31 * number)
            setting = setting_of(model, (size,))
            gradient = seen(setting, images, soft(labels), create_graph=False)
            read = labels_of(setting, gradient, data.shape)
            assert len(read) == size
            common = _common(read, labels)
            assert size > 1 or common == 1
            right, total = right + common, total + size
        assert right / total > 0.9, described.kind


def test_labels_are_read_without_a_bias_too(data: Dataset) -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 32), nn.Sigmoid(), nn.Linear(32, 10, bias=False)
    )
    right = 0
    for number in range(20):
        images, labels = data.train.batch(torch.arange(4) + 4 * number)
        setting = setting_of(model, (4,))
        gradient = seen(setting, images, soft(labels), create_graph=False)
        right += _common(labels_of(setting, gradient, data.shape), labels)
    assert right / 80 > 0.7
    headless = setting_of(nn.Sequential(nn.Conv2d(1, 10, 12), nn.Flatten()), (1,))
    with pytest.raises(LookupError):
        labels_of(headless, [], data.shape)


def test_common_labels_are_counted_as_often_as_both_have_them() -> None:
    assert _common(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 2])) == 2
    assert _common(torch.tensor([9]), torch.tensor([0])) == 0


# --- the audit ------------------------------------------------------------------------------------


def test_the_image_of_one_gradient_appears(victim: House) -> None:
    spec = Inversion(samples=2, steps=250)
    found = victim.run("one", Audit(model="victim", audit=spec))
    assert found.status == "done", found.error
    assert found.summary["psnr"] > 20
    assert found.summary["ssim"] > 0.8
    assert found.summary["recognised"] == found.summary["recognised_originals"] == 1.0
    assert found.summary["labels_right"] == 1.0
    assert found.summary["images"] == 2
    frames = [e for e in found.events if isinstance(e, Images)]
    assert {e.name for e in frames} == {"original", "reconstruction"}
    last = [e for e in frames if e.name == "reconstruction"][-1]
    originals = [e for e in frames if e.name == "original"][-1]
    assert last.pixels.shape == originals.pixels.shape == (2, 12, 12, 1)
    assert np.abs(last.pixels.astype(int) - originals.pixels.astype(int)).mean() < 20
    said = [e.values["inversion/psnr"] for e in found.events if isinstance(e, Scalars)]
    assert said[-1] > said[0]
    kept = safetensors.torch.load_file(found.folder / "inversion.safetensors")
    again = psnr(kept["reconstructions"], kept["images"]).mean()
    assert found.summary["psnr"] == pytest.approx(float(again))
    assert len(found.table("reconstructions").rows) == 2


def test_the_weights_it_begins_with_are_those_of_the_runs_first_step(
    victim: House, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the training loop had before its first step."""
    from engine.audits import inversion
    from engine.training.loop import Trainer

    made, looked = {}, []
    before = Trainer.begin

    def begin(self: Trainer) -> Any:
        made.update({n: t.clone() for n, t in self.model.state_dict().items()})
        return before(self)

    monkeypatch.setattr(Trainer, "begin", begin)
    victim.run("again", VICTIM)
    original = inversion._initial

    def look(*given: Any) -> nn.Module:
        looked.append(original(*given))
        return looked[-1]

    monkeypatch.setattr(inversion, "_initial", look)
    victim.run("look", Audit(model="again", audit=Inversion(samples=1, steps=1)))
    for name, tensor in looked[0].state_dict().items():
        assert torch.equal(tensor, made[name]), name


@pytest.mark.parametrize("method", ["dlg", "idlg"])
def test_the_squared_distance_finds_the_image_of_a_smooth_net(house: House, method: str) -> None:
    net = MLP(width=48, depth=1, activation="sigmoid")
    house.run("victim", Train(model=net, data=Digits(), epochs=1))
    spec = Inversion(method=method, samples=2, steps=40, restarts=2)
    found = house.run("audit", Audit(model="victim", audit=spec))
    assert found.status == "done", found.error
    assert found.summary["best_psnr"] > 40
    assert ("labels_right" in found.summary) == (method == "idlg")


def test_noise_hides_the_image_and_a_larger_batch_makes_it_harder(victim: House) -> None:
    plain = victim.run("plain", Audit(model="victim", audit=Inversion(samples=3, steps=150)))
    noisy = victim.run(
        "noisy",
        Audit(
            model="victim",
            audit=Inversion(samples=3, steps=150, clip=1.0, noise_multiplier=0.7),
        ),
    )
    clipped = victim.run(
        "clipped", Audit(model="victim", audit=Inversion(samples=3, steps=150, clip=1.0))
    )
    eight = victim.run(
        "eight", Audit(model="victim", audit=Inversion(samples=1, batch=8, steps=150))
    )
    assert noisy.summary["psnr"] < 12 < plain.summary["psnr"]
    assert clipped.summary["psnr"] > 12  # it changes the length alone
    assert eight.summary["images"] == 8
    assert eight.summary["psnr"] < plain.summary["psnr"]
    assert (noisy.summary["clip"], noisy.summary["noise_multiplier"]) == (1.0, 0.7)


def test_only_the_sum_of_several_clients_is_seen(victim: House) -> None:
    spec = Inversion(samples=1, aggregate=3, steps=60)
    found = victim.run("together", Audit(model="victim", audit=spec))
    assert found.status == "done", found.error
    assert found.summary["images"] == 3


def test_trained_weights_give_less_away(victim: House) -> None:
    spec = Inversion(samples=2, steps=100, moment="end")
    found = victim.run("end", Audit(model="victim", audit=spec))
    start = victim.run("start", Audit(model="victim", audit=Inversion(samples=2, steps=100)))
    assert found.status == "done"
    assert found.summary["psnr"] < start.summary["psnr"]


def test_a_cancel_judges_what_has_been_found(victim: House) -> None:
    def watch(runner: Any, events: Any) -> None:
        if any(isinstance(e, Progress) and e.unit == "gradients" and e.done >= 1 for e in events):
            runner.cancel()

    spec = Inversion(samples=50, steps=80)
    found = victim.run("audit", Audit(model="victim", audit=spec), watch)
    assert found.status == "cancelled"
    assert found.summary["partial"] is True
    assert 1 <= found.summary["images"] < 50


def test_the_same_seed_gives_the_same_reconstructions(victim: House) -> None:
    audit = Audit(
        model="victim", audit=Inversion(samples=1, steps=20, clip=1.0, noise_multiplier=0.1)
    )
    first, second = (victim.run(name, audit) for name in ("a", "b"))
    both = [(d.folder / "inversion.safetensors").read_bytes() for d in (first, second)]
    assert both[0] == both[1]


def test_gradients_are_clipped_by_layer_as_the_run_does(data: Dataset) -> None:
    """As by the trainings own clipper."""
    from engine.privacy.clipping import Clipper

    model = build(CNN(width=4, depth=1, norm="group"), data.shape, 10, generator_seed=0).eval()
    images, labels = data.train.batch(torch.arange(5))
    clipper = Clipper(model)

    def weigh(norms: Tensor) -> Tensor:
        return (0.5 / len(norms) ** 0.5 / norms).clamp_max(1.0)

    clipper.sum(images, labels, nn.CrossEntropyLoss(reduction="none"), weigh)
    expected = [p.grad for p in model.parameters()]
    layers = _layers(n for n, _ in model.named_parameters())
    assert len(set(layers)) == len(clipper.names) > 1
    setting = setting_of(model, (5,), clip=0.5, layers=layers)
    found = seen(setting, images, soft(labels), create_graph=False)
    for whole, own in zip(expected, found, strict=True):
        assert whole is not None
        assert torch.allclose(whole / 5, own, atol=1e-6)


def test_an_adaptive_norm_is_the_one_of_the_moment(house: House) -> None:
    privacy = DPSGD(noise_multiplier=1.0, clipping="adaptive", max_grad_norm=0.01)
    spec = Train(model=MLP(width=16, depth=1), optimizer=SGD(lr=0.1), epochs=2, privacy=privacy)
    made = house.run("private", spec)
    assert made.status == "done", made.error
    (name,) = [n for n in made.run.scalars() if n.endswith("privacy/max_grad_norm")]
    last = made.run.scalars()[name][1][-1]
    assert last > 0.011
    noise = split_noise(1.0, privacy.count_noise * spec.batch_size)
    for values, clip in (
        ({"moment": "start"}, 0.01),
        ({"moment": "end"}, last),
        ({"moment": "end", "clip": 2.0}, 2.0),
    ):
        audit = Audit(model="private", audit=Inversion(samples=1, steps=1, **values))
        found = house.run("audit", audit)
        assert found.summary["clip"] == pytest.approx(clip)
        assert found.summary["noise_multiplier"] == pytest.approx(noise)
    exported = str(made.folder / "model.safetensors")
    audit = Audit(model=exported, audit=Inversion(samples=1, steps=1, moment="end"))
    found = house.run("file", audit)
    assert found.status == "done", found.error
    notes = [e.text for e in found.events if isinstance(e, Note)]
    assert any("what it came to is not known" in text for text in notes)


def test_another_classifier_can_judge(victim: House) -> None:
    victim.run("judge", Train(model=MLP(width=32), data=DATA, epochs=1))
    victim.run("stranger", Train(model=MLP(width=32), data=Digits(), epochs=1))
    audit = Audit(model="victim", judge="judge", audit=Inversion(samples=1, steps=5))
    assert victim.run("a", audit).status == "done"
    wrong = Audit(model="victim", judge="stranger", audit=Inversion(samples=1, steps=5))
    assert "knows other images" in victim.run("b", wrong).error


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"noise_multiplier": 1.0}, "give clip"),
        ({"samples": 1000, "batch": 8}, "attack fewer"),
    ],
)
def test_what_does_not_fit_is_refused(victim: House, values: dict, words: str) -> None:
    found = victim.run("refused", Audit(model="victim", audit=Inversion(**values)))
    assert found.status == "failed"
    assert words in found.error


def test_batch_normalisation_is_said(house: House) -> None:
    house.run("victim", Train(model=CNN(width=4, depth=1), data=DATA, epochs=1))
    found = house.run("audit", Audit(model="victim", audit=Inversion(samples=1, steps=5)))
    assert any(isinstance(e, Note) and "running statistics" in e.text for e in found.events)


# --- updates of clients ---------------------------------------------------------------------------


def captured(folder: Path, client: int, places: Tensor, model: nn.Module, data: Dataset) -> None:
    """What a client that took two steps of SGD sent, as a federation captures it."""
    images, labels = data.train.batch(places)
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(other(images), labels).backward()
        optimizer.step()
    before = {n: t.detach().clone() for n, t in model.state_dict().items()}
    tensors = {f"before.{n}": t for n, t in before.items()}
    tensors |= {f"update.{n}": t.detach() - before[n] for n, t in other.state_dict().items()}
    metadata = {
        "epochs": "2",
        "batch_size": "0",
        "share": "1.0",
        "lr": "0.05",
        "optimizer": json.dumps({"kind": "sgd", "momentum": 0.0}),
    }
    path = folder / "updates" / f"round-1-client-{client}.safetensors"
    path.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors | {"places": places}, path, metadata)


@pytest.fixture
def federation(house: House, data: Dataset) -> House:
    """A run that looks like a federation's, with two captured updates."""
    done = house.run("clients", Train(model=NET, data=DATA, epochs=1))
    path = done.folder / "run.json"
    record = json.loads(path.read_text())
    record["spec"]["kind"] = "federate"
    path.write_text(json.dumps(record))
    model = build(NET, data.shape, 10, generator_seed=8).eval()
    captured(done.folder, 0, torch.tensor([5]), model, data)
    captured(done.folder, 3, torch.tensor([11, 12]), model, data)
    return house


def test_the_image_of_a_clients_update_appears(federation: House, data: Dataset) -> None:
    found = federation.run("audit", Audit(model="clients", audit=Inversion(steps=250)))
    assert found.status == "done", found.error
    assert found.summary["psnr"] > 20
    kept = safetensors.torch.load_file(found.folder / "inversion.safetensors")
    assert torch.equal(kept["images"], data.train.batch(torch.tensor([5]))[0])
    other = federation.run("other", Audit(model="clients", audit=Inversion(client=3, steps=5)))
    assert other.summary["images"] == 2
    both = federation.run("both", Audit(model="clients", audit=Inversion(aggregate=2, steps=5)))
    assert both.summary["images"] == 3


def test_the_images_of_a_real_federations_client_appear(house: House, data: Dataset) -> None:
    """Two local epochs of a client with five images, computed backwards."""
    spec = Federate(
        model=NET,
        data=DATA,
        clients=240,
        fraction=0.05,
        rounds=1,
        epochs=2,
        batch_size=0,
        optimizer=SGD(lr=0.05, momentum=0.0),
        capture=Capture(clients=tuple(range(240))),
        seed=1,
    )
    made = house.run("clients", spec)
    assert made.status == "done", made.error
    found = house.run("audit", Audit(model="clients", audit=Inversion(steps=200)))
    assert found.status == "done", found.error
    assert found.summary["psnr"] > 14
    assert found.summary["labels_right"] > 0.7
    assert 5 <= found.summary["images"] <= 6
    loss = house.run("loss", Audit(model="clients", audit=Membership(method=("loss",))))
    assert loss.status == "done", loss.error
    shadows = house.run("shadows", Audit(model="clients", audit=Membership()))
    assert "was not made by a train task" in shadows.error


def test_what_clients_do_to_their_updates_is_done_before_they_are_attacked(
    federation: House,
) -> None:
    """The clip leaves the direction, and so the image; noise of the length of the update hides it.
    What the search compares is clipped as well."""

    def found(name: str, **values: Any) -> Any:
        audit = Audit(model="clients", audit=Inversion(steps=150, **values))
        return federation.run(name, audit).summary

    plain = found("plain")
    assert (plain["clip"], plain["noise_multiplier"]) == (0.0, 0.0)
    clipped = found("clipped", clip=1e-3)
    assert clipped["psnr"] > 15
    assert (clipped["clip"], clipped["noise_multiplier"]) == (1e-3, 0.0)
    noisy = found("noisy", clip=1e-3, noise_multiplier=1000.0)
    assert noisy["psnr"] < 8 < plain["psnr"]
    assert (noisy["clip"], noisy["noise_multiplier"]) == (1e-3, 1000.0)
    refused = Audit(model="clients", audit=Inversion(noise_multiplier=1.0))
    assert "give clip" in federation.run("refused", refused).error


def test_an_update_is_seen_clipped_and_noised_as_is_asked(
    federation: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.audits import inversion

    looked: list[Any] = []
    original = inversion._of_clients

    def look(*given: Any) -> Any:
        looked.append(original(*given))
        return looked[-1]

    monkeypatch.setattr(inversion, "_of_clients", look)

    def sight(**values: Any) -> tuple[Any, Tensor]:
        audit = Audit(model="clients", audit=Inversion(steps=1, **values))
        assert federation.run("look", audit).status == "done"
        return looked[-1], torch.cat([g.flatten() for g in looked[-1].gradient]).double()

    _, whole = sight()
    clipped, short = sight(clip=1e-3)
    assert float(short.norm()) == pytest.approx(1e-3, rel=1e-4)
    assert torch.allclose(short / short.norm(), whole / whole.norm(), atol=1e-5)
    own = seen(clipped.setting, clipped.images, soft(clipped.labels), create_graph=False)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(own, clipped.gradient, strict=True))
    _, noisy = sight(clip=1e-3, noise_multiplier=3.0)
    assert float((noisy - short).std()) == pytest.approx(3e-3, rel=0.05)
    _, two = sight(aggregate=2, clip=1e-3, noise_multiplier=3.0)
    _, both = sight(aggregate=2, clip=1e-3)
    assert float((two - both).std()) == pytest.approx(3e-3 / 2**0.5, rel=0.05)


def test_a_federation_that_is_private_at_the_server_says_what_a_server_sees(
    federation: House,
) -> None:
    path = federation.workspace.find("clients").folder / "run.json"
    record = json.loads(path.read_text())
    record["spec"]["privacy"] = {"noise_multiplier": 1000.0, "max_update_norm": 1e-3}
    path.write_text(json.dumps(record))
    for clip, said in ((None, True), (1e-3, False)):
        audit = Audit(model="clients", audit=Inversion(steps=1, clip=clip))
        found = federation.run("audit", audit)
        notes = [e.text for e in found.events if isinstance(e, Note)]
        assert any("as its client sent it" in text for text in notes) == said
        assert found.summary["clip"] == (clip or 0.0)


def test_updates_that_are_not_there_are_refused(federation: House) -> None:
    for spec, words in (
        (Inversion(client=7), "client 7 sent nothing"),
        (Inversion(aggregate=3), "has 2 captured updates"),
    ):
        found = federation.run("refused", Audit(model="clients", audit=spec))
        assert found.status == "failed"
        assert words in found.error
    run = federation.workspace.find("clients")
    for path in (run.folder / "updates").glob("*"):
        path.unlink()
    found = federation.run("refused", Audit(model="clients", audit=Inversion()))
    assert "has captured no update" in found.error


def test_updates_that_were_summed_securely_are_nobodys_to_audit(house: House) -> None:
    spec = Federate(
        model=MLP(width=4, depth=0),
        data=DATA,
        clients=4,
        rounds=1,
        secure_aggregation=SecureAggregation(),
    )
    assert house.run("summed", spec).status == "done"
    found = house.run("refused", Audit(model="summed", audit=Inversion()))
    assert found.status == "failed"
    assert "summed its updates securely" in found.error
