"""Autoencoders: priors, distortions, scores, and training on digits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled, CrucibleError, SpecError
from engine.events import Array, Images, Scalars
from engine.events import drain as through
from engine.generative import anomaly_score, is_anomalous
from engine.generative.autoencoding.distorting import distort
from engine.generative.autoencoding.learning import divergence, labelled_places, told_codes
from engine.generative.autoencoding.networks import AutoencoderNet
from engine.generative.autoencoding.priors import draw, drawn_parts, scores_of_parts
from engine.generative.autoencoding.scoring import auroc, threshold_of
from engine.generative.spec import (
    AdversarialCode,
    Autoencoder,
    ConvCoder,
    Distortion,
    GaussianPrior,
    Labels,
    MixturePrior,
    MLPCoder,
    PlainCode,
    SwissRollPrior,
    TrainAutoencoder,
    VariationalCode,
)
from engine.models import load_network, read_card
from engine.task import BenchSpec, LiveChange, parse_task

SMALL = {"coder": {"kind": "conv", "width": 8, "strides": 2}, "epochs": 3}


def bench_at(tmp_path: Path, name: str = "run", seed: int = 0) -> Bench:
    folder = tmp_path / "workspace" / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = BenchSpec(device="cpu", threads=1)
    return Bench(folder, tmp_path / "workspace", seed=seed, spec=spec)


def task(**values) -> TrainAutoencoder:
    found = parse_task({"kind": "autoencoder", **SMALL, **values})
    assert isinstance(found, TrainAutoencoder)
    return found


# --- priors ---------------------------------------------------------------------------------------


def test_draws_of_a_gaussian_have_its_moments():
    draws = draw(GaussianPrior(deviation=2.0), 20_000, 3, 5)
    assert draws.mean(0).abs().max() < 0.06
    assert torch.allclose(draws.T.cov(), 4 * torch.eye(3), atol=0.15)


def test_draws_of_a_mixture_lie_in_the_part_that_is_named():
    """Against the mean and covariance that a part has in closed form."""
    spec = MixturePrior(gaussians=6, distance=3.0, along=0.7, across=0.25)
    for part in range(6):
        draws = draw(spec, 5000, 2, 1, torch.full((5000,), part))
        angle = part * 2 * math.pi / 6
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        assert torch.allclose(draws.mean(0), 3.0 * turn[:, 0], atol=0.05)
        expected = turn @ torch.diag(torch.tensor([0.49, 0.0625])) @ turn.T
        assert torch.allclose(draws.T.cov(), expected, atol=0.04)
        assert (scores_of_parts(spec, draws).argmax(1) == part).float().mean() > 0.97


def test_parts_of_a_mixture_are_scored_by_their_density():
    spec = MixturePrior(gaussians=3, distance=2.0, along=0.5, across=0.2)
    codes = torch.randn(7, 4)
    found = scores_of_parts(spec, codes).softmax(1)
    logs = torch.zeros(7, 3)
    for part in range(3):
        angle = part * 2 * math.pi / 3
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        cov = turn @ torch.diag(torch.tensor([0.25, 0.04])) @ turn.T
        normal = torch.distributions.MultivariateNormal(2.0 * turn[:, 0], cov)
        logs[:, part] = normal.log_prob(codes[:, :2]) + normal.log_prob(codes[:, 2:])
    assert torch.allclose(found, logs.softmax(1), atol=1e-4)


def test_sections_of_the_swiss_roll_are_told_apart():
    spec = SwissRollPrior()
    parts = torch.arange(10).repeat_interleave(200)
    draws = draw(spec, 2000, 2, 3, parts)
    assert (scores_of_parts(spec, draws).argmax(1) == parts).float().mean() > 0.95
    assert draws.norm(dim=1).max() < spec.radius + 5 * spec.noise


@pytest.mark.parametrize("spec", [GaussianPrior(), MixturePrior(), SwissRollPrior()])
def test_draws_depend_on_the_seed_alone(spec):
    before = torch.get_rng_state()
    assert torch.equal(draw(spec, 50, 4, 9), draw(spec, 50, 4, 9))
    assert not torch.equal(draw(spec, 50, 4, 9), draw(spec, 50, 4, 10))
    assert torch.equal(before, torch.get_rng_state())


def test_parts_that_are_not_named_are_drawn_evenly():
    found = drawn_parts(MixturePrior(), 10_000, 1, torch.tensor([3, -1]).repeat(5000))
    assert (found[::2] == 3).all()
    assert (torch.bincount(found[1::2], minlength=10) / 5000 - 0.1).abs().max() < 0.02


# --- distortions ----------------------------------------------------------------------------------


def by_hand(image: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """An affine map, in the coordinates of affine_grid, pixel by pixel with bilinear weights."""
    height, width = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            x, y = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            u, v = rows @ np.array([x, y, 1.0])
            column, row = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
            for a in (math.floor(row), math.floor(row) + 1):
                for b in (math.floor(column), math.floor(column) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        out[i, j] += image[a, b] * (1 - abs(row - a)) * (1 - abs(column - b))
    return out


def test_a_rotation_is_one():
    """Of each image by an angle of its own, which is found again in what it is turned to."""
    image = torch.rand(1, 1, 9, 9)
    found = distort(image.expand(5, -1, -1, -1), torch.arange(5), Distortion(rotation=90.0), 4)
    angles = np.radians(np.linspace(-90, 90, 1801))
    for turned in found[:, 0].double().numpy():
        best = min(
            np.abs(by_hand(image[0, 0].double().numpy(), rotation(a)) - turned).max()
            for a in angles[::100]
        )
        coarse = min(
            angles[::20],
            key=lambda a: np.abs(by_hand(image[0, 0].double().numpy(), rotation(a)) - turned).sum(),
        )
        near = [a for a in angles if abs(a - coarse) < np.radians(2.1)]
        close = min(
            np.abs(by_hand(image[0, 0].double().numpy(), rotation(a)) - turned).max() for a in near
        )
        assert close < 0.01 < best + 0.01


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])


def test_a_shift_keeps_the_picture_and_lets_zeros_in():
    image = torch.zeros(40, 1, 11, 11)
    image[:, 0, 5, 5] = 1.0
    found = distort(image, torch.arange(40), Distortion(shift=3.0), 1)
    assert torch.allclose(found.sum((1, 2, 3)), torch.ones(40), atol=1e-5)
    lines = torch.arange(11.0)
    middle = torch.stack([(found[:, 0].sum(2) @ lines), (found[:, 0].sum(1) @ lines)], 1) - 5
    assert 2.0 < middle.abs().max() <= 3.0 + 1e-4
    assert middle.mean(0).abs().max() < 0.8


def test_what_an_image_becomes_does_not_depend_on_the_batch():
    images, ids = torch.rand(6, 2, 8, 8), torch.tensor([7, 3, 3, 100, 5, 1])
    strong = Distortion(shift=2.0, rotation=20.0, scale=0.2, shear=0.3)
    whole = distort(images, ids, strong, 11)
    assert torch.allclose(whole[3:5], distort(images[3:5], ids[3:5], strong, 11), atol=1e-6)
    assert distort(images, ids, Distortion(), 11) is images


# --- scores ---------------------------------------------------------------------------------------


def test_the_threshold_leaves_the_chosen_share_above():
    scores = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=1000)).float()
    for rate in (0.01, 0.05, 0.333):
        expected = np.quantile(scores.numpy(), 1 - rate, method="inverted_cdf")
        assert threshold_of(scores, rate) == pytest.approx(float(expected))
        assert int((scores > threshold_of(scores, rate)).sum()) <= rate * 1000
    assert threshold_of(torch.tensor([2.0]), 0.5) == 2.0


def test_auroc_is_that_of_sklearn_also_with_ties():
    rng = np.random.default_rng(1)
    odd, usual = rng.integers(0, 12, 60) / 10, rng.integers(0, 9, 90) / 10
    expected = roc_auc_score([1] * 60 + [0] * 90, np.concatenate([odd, usual]))
    assert auroc(torch.tensor(odd), torch.tensor(usual)) == pytest.approx(expected)


def test_the_score_is_the_length_of_the_difference():
    net = AutoencoderNet(Autoencoder(coder=ConvCoder(width=4, strides=2)), (1, 8, 8), 0).train()
    images = torch.rand(5, 1, 8, 8)
    found = anomaly_score(net, images)
    assert net.training
    net.eval()
    for image, score in zip(images, found, strict=True):
        with torch.no_grad():
            apart = (net(image[None])[0] - image).double()
        assert float(score) == pytest.approx(math.sqrt(float((apart**2).sum())), rel=1e-4)
    with pytest.raises(BadInput, match="no threshold"):
        is_anomalous(net, images)
    net.threshold.fill_(float(found.sort().values[2]))
    assert int(is_anomalous(net, images).sum()) == 2
    with pytest.raises(BadInput, match=r"shape \(N, 1, 8, 8\)"):
        anomaly_score(net, images[:, :, :7])
    with pytest.raises(BadInput, match="expected an autoencoder"):
        anomaly_score(torch.nn.Flatten(), images)


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(6, 4), torch.randn(6, 4)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    expected = torch.distributions.kl_divergence(normal, standard).sum(1)
    assert torch.allclose(divergence(mean, log_variance), expected, atol=1e-5)


def test_a_critic_is_told_that_a_class_is_not_known():
    codes = torch.zeros(3, 2)
    found = told_codes(codes, torch.tensor([1, -1, 0]), 3)
    assert found[:, 2:].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 7, 13)])
@pytest.mark.parametrize("coder", [MLPCoder(width=20), ConvCoder(width=4, strides=3)])
@pytest.mark.parametrize("encoder", ["deterministic", "gaussian"])
def test_images_become_codes_and_images_again(shape, coder, encoder):
    spec = Autoencoder(coder=coder, latent=6, encoder=encoder, classes="head")
    net = spec.network(shape, 10).eval()
    images = torch.rand(3, *shape)
    code = net.encode(images)
    assert code.mean.shape == (3, 6)
    assert (code.log_variance is None) == (encoder == "deterministic")
    made = net.decode(code.mean, torch.tensor([1, 2, 3]))
    assert made.shape == images.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert net.classify(images).shape == (3, 10)
    with pytest.raises(BadInput, match="which of 10 classes"):
        net.decode(code.mean)


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(BadInput, match="at most 3"):
        Autoencoder(coder=ConvCoder(strides=4)).network((1, 8, 8), 0)
    with pytest.raises(BadInput, match="10 parts for 12 classes"):
        Autoencoder(prior=MixturePrior(), classes="prior").network((1, 8, 8), 12)
    net = Autoencoder(coder=MLPCoder(width=5)).network((1, 8, 8), 0)
    with pytest.raises(BadInput, match="no labels"):
        net.classify(torch.rand(1, 1, 8, 8))
    with pytest.raises(BadInput, match="leave them out"):
        net.decode(torch.zeros(1, 2), torch.tensor([1]))


# --- training -------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_leaves_a_network(tmp_path, drain):
    spec = task(epochs=25, code={"kind": "adversarial"}, ema=0.95)
    bench = bench_at(tmp_path)
    data = through(load(spec.data, bench))
    before, grad = torch.get_rng_state(), torch.is_grad_enabled()
    events, summary = [], None
    run = spec.run(bench)
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            summary = end.value
            break
        assert torch.equal(before, torch.get_rng_state())
        assert torch.is_grad_enabled() == grad
    names = {e.name for e in events if isinstance(e, Images | Array)}
    assert names == {"reconstructions", "latents", "prior", "plane"}
    shown = [e for e in events if isinstance(e, Images) and e.name == "reconstructions"]
    assert all(e.keep and len(e.captions) == len(e.pixels) for e in shown)
    latents = [e for e in events if isinstance(e, Array) and e.name == "latents"][-1]
    assert latents.values.shape == (len(latents.about["labels"]), 2)
    steps = [e.step for e in events if isinstance(e, Scalars) and "train/loss" in e.values]
    assert steps == list(range(1, summary["steps"] + 1))
    # Better than the mean of the training images, which costs nothing to say.
    train, test = (s.batch(torch.arange(len(s)))[0] for s in (data.train, data.test))
    assert summary["reconstruction"] < 0.85 * float((test - train.mean(0)).square().mean())
    assert summary["anomaly_auroc"] > 0.99
    assert 0 < summary["false_alarms"] < 0.2
    loaded = load_network(str(bench.folder / "model.safetensors"), bench, Autoencoder)
    assert isinstance(loaded.module, AutoencoderNet)
    assert float(loaded.module.threshold) == pytest.approx(summary["threshold"])
    card = read_card(bench.folder / "model.safetensors")
    assert card.weights_sha256 == summary["weights_sha256"]
    assert card.model.kind == "autoencoder"
    noise = torch.rand(20, 1, 8, 8)
    assert is_anomalous(loaded.module, noise).all()


@pytest.mark.parametrize(
    ("code", "labels"),
    [
        ({"kind": "plain"}, None),
        ({"kind": "variational"}, {"count": 50}),
        ({"kind": "adversarial", "encoding": "gaussian"}, {"count": 50, "consistency": {}}),
        ({"kind": "adversarial", "match": {"kind": "swiss_roll"}}, {"count": 50, "use": "prior"}),
    ],
)
def test_bursts_pauses_and_interruptions_change_nothing(tmp_path, drain, code, labels):
    spec = task(code=code, labels=labels, epochs=2, batch_size=200)
    hashes = [drain(spec.run(bench_at(tmp_path, "whole")))[1]["weights_sha256"]]
    single = bench_at(tmp_path, "single")
    single.single_step = True
    hashes.append(drain(spec.run(single))[1]["weights_sha256"])
    first = bench_at(tmp_path, "resumed")
    first.single_step = True
    run = spec.run(first)
    while True:
        event = next(run)
        if isinstance(event, Scalars) and event.step == 8:
            break
    with pytest.raises(StopIteration) as end:
        run.throw(Cancelled())
        while True:
            next(run)
    assert end.value.value["partial"]
    assert "threshold" not in end.value.value
    again = bench_at(tmp_path, "resumed")
    again.restore(again.checkpoints.latest())
    assert again.resume.step == 8
    events, summary = drain(spec.run(again))
    assert min(e.step for e in events if isinstance(e, Scalars)) == 9
    hashes.append(summary["weights_sha256"])
    assert len(set(hashes)) == 1


def test_a_run_whose_data_has_changed_is_not_resumed(tmp_path, drain):
    bench = bench_at(tmp_path)
    run = task().run(bench)
    next(e for e in run if isinstance(e, Scalars))
    with pytest.raises(StopIteration):
        run.throw(Cancelled())
        while True:
            next(run)
    again = bench_at(tmp_path)
    again.restore(again.checkpoints.latest())
    with pytest.raises(BadInput, match="data has changed"):
        drain(task(data={"kind": "digits", "split_seed": 5}).run(again))


def test_codes_come_to_the_prior_that_is_asked_for(tmp_path, drain):
    """By the energy distance (Szekely and Rizzo 2013) between codes of test images and draws,
    against that of codes of which nothing was asked."""
    apart = {}
    for code in (
        {"kind": "plain"},
        {"kind": "adversarial", "adversarial_weight": 0.5},
        {"kind": "variational"},
    ):
        spec = task(epochs=25, code=code, coder={"kind": "mlp", "width": 128}, ema=0.9)
        events, _ = drain(spec.run(bench_at(tmp_path, code["kind"])))
        latents = [e for e in events if isinstance(e, Array) and e.name == "latents"][-1].values
        apart[code["kind"]] = energy(torch.tensor(latents), draw(GaussianPrior(), 1000, 2, 77))
    assert apart["adversarial"] < 0.3 * apart["plain"]
    assert apart["variational"] < 0.5 * apart["plain"]
    assert apart["adversarial"] < 0.15


def energy(x: torch.Tensor, y: torch.Tensor) -> float:
    between = torch.cdist(x, y).mean()
    return float(2 * between - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def test_few_labels_make_a_classifier(tmp_path, drain):
    spec = task(
        epochs=30,
        latent=8,
        labels={"count": 100, "consistency": {"distortion": {"shift": 1.0, "rotation": 12.0}}},
        optimizer={"kind": "adamw", "lr": 5e-3},
        ema=0.98,
    )
    bench = bench_at(tmp_path)
    events, summary = drain(spec.run(bench))
    assert summary["labelled"] == 100
    assert summary["error"] < 0.1
    net = load_network(str(bench.folder / "model.safetensors"), bench, Autoencoder).module
    data = through(load(spec.data, bench))
    images, labels = data.test.batch(torch.arange(len(data.test)))
    with torch.no_grad():
        wrong = (net.classify(images).argmax(1) != labels).float().mean()
    assert float(wrong) == pytest.approx(summary["error"])
    plane = [e for e in events if isinstance(e, Images) and e.name == "plane"][-1]
    assert plane.captions[0]["rows"] == [str(i) for i in range(10)]


def test_labels_give_each_class_a_part_of_the_prior(tmp_path, drain):
    spec = task(
        epochs=60,
        coder={"kind": "mlp", "width": 128},
        labels={"count": 1000, "use": "prior"},
        code={
            "kind": "adversarial",
            "match": {"kind": "mixture"},
            "adversarial_weight": 1.0,
            "critic_lr": 3e-3,
        },
        ema=0.95,
    )
    _, summary = drain(spec.run(bench_at(tmp_path)))
    assert summary["error"] < 0.4  # nine of ten wrong by chance


def test_labelled_images_are_as_many_of_each_class(tmp_path, drain):
    bench = bench_at(tmp_path)
    data = through(load(Digits(), bench))
    places = labelled_places(data.train, Labels(count=70), 10, bench)
    assert len(set(places.tolist())) == 70
    assert torch.bincount(data.train.labels[places]).tolist() == [7] * 10
    others = labelled_places(data.train, Labels(count=70), 10, bench_at(tmp_path, "b", seed=1))
    assert set(others.tolist()) != set(places.tolist())
    for count, words in ((75, "multiple of 10"), (5, "multiple of 10"), (20_000, "at most")):
        with pytest.raises(BadInput, match=words):
            labelled_places(data.train, Labels(count=count), 10, bench)


def test_too_many_labelled_images_are_refused_in_the_field_s_own_unit(tmp_path, drain):
    """All classes together; what is said to be possible is."""
    bench = bench_at(tmp_path)
    data = through(load(Digits(), bench))
    with pytest.raises(BadInput, match=r"20000 images are 2000 of each of 10 classes") as error:
        labelled_places(data.train, Labels(count=20_000), 10, bench)
    most = int(str(error.value).rpartition("at most ")[2])
    assert len(labelled_places(data.train, Labels(count=most), 10, bench)) == most
    with pytest.raises(BadInput, match=f"at most {most}"):
        labelled_places(data.train, Labels(count=most + 10), 10, bench)


def test_a_live_value_that_is_planned_holds_from_its_step_on(tmp_path, drain):
    planned = task(epochs=1, changes=[{"name": "lr", "value": 1e-6, "step": 3}])
    assert planned.changes == (LiveChange(name="lr", value=1e-6, step=3),)
    with pytest.raises(SpecError, match="changes"):
        task(changes=[{"name": "critics", "value": 1.0, "step": 3}])


def test_test_images_of_the_same_kind_are_no_outliers(tmp_path, drain):
    """The score tells nothing of images that are as those that were learnt from."""
    other = {"kind": "other", "data": {"kind": "digits", "split_seed": 3}}
    spec = task(epochs=2, anomalies={"outliers": other, "false_alarms": 0.2})
    _, summary = drain(spec.run(bench_at(tmp_path)))
    assert 0.4 < summary["anomaly_auroc"] < 0.6
    assert 0.1 < summary["detected"] < 0.3


# --- what is refused ------------------------------------------------------------------------------


def test_specs_that_contradict_themselves_are_refused():
    for values, words in (
        ({"latent": 0}, "at least 1"),
        ({"labels": {"use": "prior"}}, "no parts"),
        ({"labels": {"use": "prior", "consistency": {}}}, "class head"),
        ({"latent": 3, "code": {"kind": "adversarial", "match": {"kind": "mixture"}}}, "pairs"),
    ):
        with pytest.raises(SpecError, match=words):
            task(**values)


def test_what_does_not_fit_the_data_is_refused(tmp_path, drain):
    for values, words in (
        ({"data": {"kind": "digits", "validation": 0.0}}, "validation above 0"),
        ({"coder": {"kind": "conv", "strides": 5}}, "at most 3"),
        ({"labels": {"count": 7}}, "multiple of 10"),
        (
            {"anomalies": {"outliers": {"kind": "other", "data": {"kind": "digits", "size": 12}}}},
            "choose other data",
        ),
    ):
        with pytest.raises(BadInput, match=words):
            drain(task(**values).run(bench_at(tmp_path)))


def test_a_rate_that_is_much_too_high_says_which_network(tmp_path, drain):
    spec = task(optimizer={"kind": "sgd", "lr": 1000.0}, coder={"kind": "mlp", "width": 64})
    with pytest.raises(CrucibleError, match="the autoencoder is not a finite number"):
        drain(spec.run(bench_at(tmp_path)))


def test_codes_know_their_encoder_and_prior():
    assert VariationalCode().encoder == "gaussian"
    assert PlainCode().encoder == "deterministic"
    swiss = AdversarialCode(match=SwissRollPrior(), encoding="gaussian")
    assert (swiss.encoder, swiss.prior) == ("gaussian", SwissRollPrior())
