"""The task `assess`: what it says of generators of which the truth is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from torch import Tensor

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits, SourceSpec
from engine.data.split import ResidentSplit
from engine.errors import BadInput, Cancelled, SpecError, UnavailableError
from engine.events import Event, Images, Note, Progress, Saved, Scalars, Table, drain
from engine.generative.making import Maker, load_maker
from engine.generative.metrics import Reference, assessing, features, shipped
from engine.generative.metrics.assessing import run_assess
from engine.generative.spec import Assess, GanGenerator, Latent, MLPGenerator, Ring
from engine.generative.spec.autoencoder import Autoencoder, GaussianPrior, MixturePrior, MLPCoder
from engine.models import ModelCard, NetworkCard, build, save_model
from engine.models.spec import MLP
from engine.task import BenchSpec, parse_task

DATA = Digits(test=0.5)
SMALL = {"samples": 120, "draws": 2, "ways": 30, "show": 8}


@pytest.fixture
def data(bench: Bench) -> Dataset:
    return drain(load(DATA, bench))


def card_of(
    data: SourceSpec | None,
    shape: tuple[int, int, int] = (1, 8, 8),
    *,
    conditional: bool = False,
    learnt: tuple[str, ...] = (),
) -> NetworkCard:
    spec = GanGenerator(
        generator=MLPGenerator(width=8, depth=1),
        latent=Latent(size=3, codes=2),
        conditional=conditional,
    )
    return NetworkCard(
        model=spec, data=data, shape=shape, classes=tuple("0123456789"), learnt=learnt
    )


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """A generator, freshly initialised, in a file."""

    def make(*args: Any, **more: Any) -> str:
        card = card_of(*args, **more)
        torch.manual_seed(0)
        path = tmp_path / "generator.safetensors"
        save_model(path, card.model.network(card.shape, len(card.classes)), card)
        return str(path)

    return make


Make = Callable[[Tensor, Tensor | None], Tensor]


@pytest.fixture
def assess(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[Event], dict[str, Any]]]:
    """Assess a generator that is a function of latents in [0, 1), (N, 4), and labels."""

    def run(make: Make, conditional: bool = False, **values: Any) -> Any:
        def draw(seed: int, count: int, labels: Tensor | None) -> Tensor:
            return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed % 2**31))

        maker = Maker(card_of(DATA), conditional, False, 4, draw, make)
        monkeypatch.setattr(assessing, "load_maker", lambda ref, bench: maker)
        events = []
        steps = run_assess(Assess(model="x", **{**SMALL, **values}), bench)
        while True:
            try:
                events.append(next(steps))
            except StopIteration as end:
                return events, end.value

    return run


def pick(images: Tensor) -> Make:
    """One of these images for each latent."""
    return lambda latents, _: images[(latents[:, 0] * len(images)).long()]


def split_of(part: Any) -> Tensor:
    images: Tensor = part.batch(torch.arange(len(part)))[0]
    return images


def table(events: list[Event], name: str) -> dict[str, tuple[Any, ...]]:
    (found,) = (e for e in events if isinstance(e, Table) and e.name == name)
    return {row[0]: row[1:] for row in found.rows}


def test_real_images_that_nobody_learnt_from_are_perfect(assess: Any, data: Dataset) -> None:
    events, found = assess(pick(split_of(data.test)), samples=400, real=0)
    assert found["fid"] < 2 * found["fid_held_out"]  # as some are drawn twice
    assert abs(found["kid"]) < 0.02
    assert found["precision"] > 0.85
    assert found["recall"] > 0.85
    assert 0.8 < found["density"] < 1.2
    assert found["coverage"] > 0.8
    assert found["real"] == len(data.train)
    assert found["held_out"] == 400
    assert (found["extractor"], found["draws"], found["samples"]) == ("digits", 2, 400)
    assert "partial" not in found
    assert set(found) <= set(Assess.summary_help)


def test_copies_of_training_images_are_called_so(assess: Any, data: Dataset) -> None:
    train = split_of(data.train)
    noise = torch.randn(train.shape, generator=torch.Generator().manual_seed(0))
    events, found = assess(pick((train + 0.03 * noise).clamp(0, 1)))
    assert found["memorised"] > 0.95
    assert found["memorised_p"] < 1e-20
    rows = table(events, "assessment")
    assert rows["distance_ratio_pixels"][0] < 0.5 < rows["distance_ratio_pixels"][2]
    assert rows["memorised_pixels"][2] == 0.01
    # Each sample stands beside the image it is a copy of.
    shown = {e.name: e for e in events if isinstance(e, Images)}
    samples, near = (shown[name].pixels.astype(float) for name in ("samples", "neighbours"))
    assert samples.shape == near.shape == (8, 8, 8, 1)
    assert abs(samples - near).mean() < 0.05 * 255
    assert shown["closest"].pixels.shape == (16, 8, 8, 1)
    ratios = [caption["ratio"] for caption in shown["closest"].captions[::2]]
    assert ratios == sorted(ratios)
    assert shown["samples"].captions[0]["distance"] == pytest.approx(0.24, abs=0.2)


def test_a_collapsed_generator_covers_little(assess: Any, data: Dataset) -> None:
    ones = split_of(data.train)[data.train.labels == 1]
    events, found = assess(pick(ones[:5]))
    assert found["precision"] > 0.9
    assert found["recall"] < 0.1
    assert found["coverage"] < 0.2
    assert found["fid"] > 10 * found["fid_held_out"]
    shares = table(events, "classes")
    assert shares["1"][1] > 0.9
    assert sum(row[0] for row in shares.values()) == pytest.approx(1)


def test_samples_are_of_the_class_they_were_asked_for(assess: Any, data: Dataset) -> None:
    """Where a tenth is of another, nine tenths are right."""
    train, labels = split_of(data.train), data.train.labels
    by_class = [train[labels == k] for k in range(10)]

    def make(latents: Tensor, asked: Tensor | None) -> Tensor:
        assert asked is not None
        wrong = latents[:, 1] < 0.1
        given = torch.where(wrong, (asked + 1) % 10, asked)
        return torch.stack(
            [by_class[k][int(x * len(by_class[k]))] for k, x in zip(given, latents[:, 0])]
        )

    events, found = assess(make, conditional=True, samples=400)
    assert found["accuracy"] == pytest.approx(0.9, abs=0.03)
    assert table(events, "assessment")["accuracy"][2] > 0.97
    captions = next(e for e in events if isinstance(e, Images) and e.name == "samples").captions
    assert all(0 <= caption["label"] <= 9 for caption in captions)


def test_figures_are_those_of_the_functions(assess: Any, data: Dataset, bench: Bench) -> None:
    """Computed again from what the run keeps."""
    events, found = assess(pick(split_of(data.test)), draws=1, real=300)
    path = bench.folder / assessing.FILE
    saved = next(e for e in events if isinstance(e, Saved))
    assert (saved.path, saved.size) == (path.name, path.stat().st_size)
    kept = safetensors.torch.load_file(path)
    assert kept["samples"].dtype == torch.uint8
    again = features(kept["samples"].float() / 255, shipped("digits"))
    assert torch.allclose(again, kept["features"], atol=1e-5)
    assert len(kept["real_features"]) == 300
    reference = Reference(kept["real_features"])
    assert found["fid"] == pytest.approx(reference.fid(again), rel=1e-4)
    spread = table(events, "assessment")["fid"][1]
    assert spread is None  # of one draw
    assert "fid_spread" not in found


def test_draws_differ_and_the_spread_is_theirs(assess: Any, data: Dataset) -> None:
    events, found = assess(pick(split_of(data.test)), draws=3)
    said = [e for e in events if isinstance(e, Scalars)]
    values = torch.tensor([e.values["assess/fid"] for e in said], dtype=torch.float64)
    assert [e.step for e in said] == [1, 2, 3]
    assert found["fid"] == pytest.approx(float(values.mean()))
    assert found["fid_spread"] == pytest.approx(float(values.std()))
    assert len(set(values.tolist())) == 3


def test_the_same_seed_gives_the_same_figures(file: Callable[..., str], tmp_path: Path) -> None:
    """From a file, whatever was drawn elsewhere before."""
    path = file(DATA, conditional=True)
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        torch.rand(5)
        bench = Bench(folder, tmp_path, seed=3, spec=BenchSpec(device="cpu", threads=1))
        state = torch.get_rng_state()
        found.append(drain(Assess(model=path, seed=3, **SMALL).run(bench)))
        assert torch.equal(torch.get_rng_state(), state)
    for summary in found:
        del summary["seconds"]
    assert found[0] == found[1]


def test_samples_do_not_depend_on_how_many_are_made_together(
    bench: Bench, file: Callable[..., str]
) -> None:
    maker = load_maker(file(DATA), bench)
    few, many = maker.draw(1, 5, None), maker.draw(1, 50, None)
    assert torch.equal(few, many[:5])
    assert maker.make(few, None).shape == (5, 1, 8, 8)
    assert (maker.arc, maker.numbers, maker.conditional) == (True, 3, False)


def test_it_goes_on_in_small_steps(bench: Bench, file: Callable[..., str]) -> None:
    """And says how far it is, which never falls; grad mode is nobody's."""
    done = []
    for event in Assess(model=file(DATA), **SMALL).run(bench):
        assert torch.is_grad_enabled()
        if isinstance(event, Progress):
            done.append(event.fraction)
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert len(done) > 60


def stop_after(bench: Bench, path: str, draws: int) -> tuple[list[Event], Any]:
    """Cancelled as soon as so many draws were said."""
    steps = Assess(model=path, **SMALL).run(bench)
    events: list[Event] = []
    while sum(isinstance(e, Scalars) for e in events) < draws or len(events) < 3:
        events.append(next(steps))
    try:
        events.append(steps.throw(Cancelled()))
        while True:
            events.append(next(steps))
    except StopIteration as end:
        return events, end.value


def test_a_stop_keeps_the_draws_that_are_done(bench: Bench, file: Callable[..., str]) -> None:
    events, found = stop_after(bench, file(DATA), 1)
    assert found["partial"] is True
    assert found["draws"] == 1
    assert {"fid", "kid", "precision"} <= set(found)
    assert not {"memorised", "smoothness", "fid_held_out"} & set(found)
    assert Note("warning", "stopped after 1 of 2 draws") in events
    with pytest.raises(Cancelled):
        stop_after(bench, file(DATA), 0)


# --- what cannot be done --------------------------------------------------------------------------


def refused(bench: Bench, path: str, **values: Any) -> str:
    with pytest.raises(BadInput) as error:
        drain(Assess(model=path, **{**SMALL, **values}).run(bench))
    return str(error.value)


def test_a_classifier_makes_no_images(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    card = ModelCard(model=MLP(width=4), shape=(1, 8, 8), classes=("a", "b"))
    save_model(path, build(MLP(width=4), (1, 8, 8), 2), card)
    assert "mlp" in refused(bench, str(path))


def test_points_are_judged_in_their_run(bench: Bench, file: Callable[..., str]) -> None:
    assert "judged by their modes" in refused(bench, file(Ring(), (1, 1, 2)))


def test_what_it_learnt_from_must_be_known(bench: Bench, file: Callable[..., str]) -> None:
    assert "does not say what it learnt from" in refused(bench, file(None))
    assert "but its data has (1, 8, 8) now" in refused(bench, file(DATA, (1, 12, 12)))


def test_images_that_are_no_numbers_are_counted(assess: Any) -> None:
    def make(latents: Tensor, _: Tensor | None) -> Tensor:
        images = torch.zeros(len(latents), 1, 8, 8)
        images[:3] = torch.nan
        return images

    with pytest.raises(BadInput, match="9 of 120 images hold values that are no numbers"):
        assess(make)


def test_too_few_images_are_refused_or_warned_of(assess: Any, data: Dataset) -> None:
    with pytest.raises(BadInput, match="neighbour number 5, and there are 1 images"):
        assess(pick(split_of(data.test)), real=1)
    with pytest.raises(BadInput, match="at least four images of either kind"):
        assess(pick(split_of(data.test)), samples=3, neighbours=1)
    events, found = assess(pick(split_of(data.test)), samples=20)
    (warned,) = (e.text for e in events if isinstance(e, Note) and e.level == "warning")
    assert "20 images do not fill the 32 dimensions" in warned
    assert found["fid"] > 0


def test_a_set_without_images_to_compare_with_says_nothing_of_copies(
    assess: Any, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_less(*_: Any) -> Any:
        yield Progress(0, 1, "images")
        ids = data.test.ids[:4]
        rows = torch.arange(4)
        images = (split_of(data.test)[:4] * 255).round().to(torch.uint8)
        test = ResidentSplit(images, rows, data.test.labels[:4], ids, data.test.device)
        return dataclasses.replace(data, test=test)

    monkeypatch.setattr(assessing, "load", load_less)
    events, found = assess(pick(split_of(data.train)))
    notes = [e.text for e in events if isinstance(e, Note) and e.level == "info"]
    assert any("4 images were kept aside, too few to stand beside samples" in n for n in notes)
    assert any("too few to tell copies" in n for n in notes)
    assert not {"memorised", "fid_held_out"} & set(found)


def test_another_extractor_is_said_to_be_one(bench: Bench, file: Callable[..., str]) -> None:
    steps = Assess(model=file(DATA), **{**SMALL, "extractor": "mnist"}).run(bench)
    events = list(steps)
    warned = [e.text for e in events if isinstance(e, Note) and e.level == "warning"]
    assert any(
        "features are those of mnist, which was trained on other images" in w for w in warned
    )


def test_inception_without_torch_fidelity_is_told(bench: Bench, file: Callable[..., str]) -> None:
    with pytest.raises(UnavailableError, match="torch-fidelity|weights of Inception"):
        drain(Assess(model=file(DATA), **{**SMALL, "extractor": "inception"}).run(bench))


def test_two_looks_at_once_are_refused() -> None:
    with pytest.raises(SpecError, match="leave out one of judge and extractor"):
        Assess(model="x", judge="y", extractor="mnist")


def test_it_is_a_task_like_any_other() -> None:
    task = parse_task({"kind": "assess", "model": "made", "samples": 10})
    assert task == Assess(model="made", samples=10)


@pytest.mark.parametrize("classes", ["none", "head", "prior"])
def test_an_autoencoder_makes_images_of_its_prior(
    bench: Bench, tmp_path: Path, classes: Literal["none", "head", "prior"]
) -> None:
    prior = MixturePrior() if classes == "prior" else GaussianPrior()
    spec = Autoencoder(coder=MLPCoder(width=8, depth=1), latent=4, prior=prior, classes=classes)
    card = NetworkCard(model=spec, data=DATA, shape=(1, 8, 8), classes=tuple("0123456789"))
    path = tmp_path / "autoencoder.safetensors"
    save_model(path, spec.network(card.shape, 10), card)
    maker = load_maker(str(path), bench)
    assert maker.conditional == (classes != "none")
    assert maker.arc == (classes != "prior")
    labels = torch.arange(200) % 10 if maker.conditional else None
    codes = maker.draw(1, 200, labels)
    assert codes.shape == (200, 4)
    assert maker.make(codes, labels).shape == (200, 1, 8, 8)
    if classes == "prior":  # each class has a part of it, on a circle
        angles = torch.atan2(codes[:, 1], codes[:, 0]) / (2 * torch.pi) * 10
        assert ((angles.round() % 10) == (torch.arange(200) % 10)).float().mean() > 0.9
    found = drain(Assess(model=str(path), **SMALL).run(bench))
    assert ("accuracy" in found) == maker.conditional
    assert found["smoothness"] >= 0
