"""The gan run: what it repeats, what it says, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from engine.bench import Bench
from engine.data.spec import Digits, Folder
from engine.errors import BadInput, Cancelled, CrucibleError, SpecError
from engine.events import Array, Change, Images, Note, Saved, Scalars, Table
from engine.generative import health, watching
from engine.generative.layers import of_each
from engine.generative.networks import make_critic, make_generator
from engine.generative.source import load_source
from engine.generative.spec import (
    DCGANCritic,
    DCGANGenerator,
    Drawn,
    Gan,
    GanGenerator,
    Latent,
    LeastSquares,
    LossSpec,
    Minimax,
    MLPCritic,
    MLPGenerator,
    NonSaturating,
    Rates,
    Relativistic,
    ResidualCritic,
    ResidualGenerator,
    Ring,
    Spiral,
    Steadying,
    Wasserstein,
    WassersteinGP,
)
from engine.generative.training import Trainer
from engine.models import load_network
from engine.task import BenchSpec, LiveChange, check_live, parse_task

SMALL = Gan(
    latent=Latent(size=2, codes=16),
    generator=MLPGenerator(width=16, depth=1),
    critic=MLPCritic(width=16, depth=1),
    batch_size=32,
    iterations=40,
)
PICTURES = Gan(
    data=Digits(),
    latent=Latent(size=8),
    generator=DCGANGenerator(width=4, strides=2),
    critic=DCGANCritic(width=4, strides=2),
    conditional="concatenation",
    batch_size=16,
    iterations=12,
)
EVERYTHING = SMALL.model_copy(
    update={
        "steadying": Steadying(
            r1=0.1, r2=0.1, instance_noise=0.3, label_smoothing=0.1, penalty_every=2
        ),
        "rates": Rates(clip=0.5),
        "critic": MLPCritic(width=16, depth=2, dropout=0.2, spectral_norm=True, frequencies=2),
        "generator": MLPGenerator(width=16, depth=1, norm="batch"),
        "critic_steps": 2,
    }
)


CPU = BenchSpec(device="cpu", threads=1)


def new_bench(folder: Path, seed: int = 0, machine: BenchSpec = CPU) -> Bench:
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, folder, seed=seed, spec=machine)


def run(
    spec: Gan, folder: Path, seed: int = 0, machine: BenchSpec = CPU
) -> tuple[list[Any], dict[str, Any]]:
    return pulled(spec.run(new_bench(folder, seed, machine)))


def pulled(steps: Generator[Any, None, Any]) -> tuple[list[Any], dict[str, Any]]:
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def series(events: list[Any], name: str) -> dict[int, float]:
    return {e.step: e.values[name] for e in events if isinstance(e, Scalars) and name in e.values}


# --- one step against the textbook ----------------------------------------------------------------


@pytest.mark.parametrize("loss", [NonSaturating(), Minimax(), LeastSquares()])
def test_a_step_is_that_of_a_plain_loop(loss: LossSpec, tmp_path: Path) -> None:
    """Two networks, Adam and a loss written out by hand, given the same draws."""
    rates = Rates(schedule="constant")
    spec = SMALL.model_copy(update={"loss": loss, "iterations": 5, "ema": 0.0, "rates": rates})
    trainer = new_trainer(spec, tmp_path)
    generator, critic = trainer.generator, trainer.critic
    mine = make_generator(spec.generator, (1, 1, 2), spec.latent.width, 0)
    its = make_critic(spec.critic, (1, 1, 2), 0, "none")
    mine.load_state_dict(generator.state_dict())
    its.load_state_dict(critic.state_dict())
    adams = [torch.optim.Adam(n.parameters(), 2e-3, betas=(0.5, 0.99)) for n in (its, mine)]

    def by_hand(real: Tensor | None, fake: Tensor) -> Tensor:
        one = torch.sigmoid
        match loss:
            case NonSaturating() | Minimax() if real is not None:
                return -one(real).log().mean() - (1 - one(fake)).log().mean()
            case NonSaturating():
                return -one(fake).log().mean()
            case Minimax():
                return (1 - one(fake)).log().mean()
            case _ if real is not None:
                return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
            case _:
                return ((fake - 1) ** 2).mean() / 2

    for step in range(5):
        real = trainer.source.batch(trainer.draws, "critic", step).samples
        for adam, network in zip(adams, ("critic", "generator"), strict=True):
            fake = mine.made(trainer.draws.latents(network, step))
            seen = its(real) if network == "critic" else None
            adam.zero_grad()
            by_hand(seen, its(fake)).backward()
            adam.step()
    for _ in trainer.train():
        pass
    for ours, theirs in ((generator, mine), (critic, its)):
        others = dict(theirs.named_parameters())
        for name, one in ours.named_parameters():
            assert torch.allclose(one, others[name], atol=5e-6), name


def new_trainer(spec: Gan, folder: Path, seed: int = 0, machine: BenchSpec = CPU) -> Trainer:
    bench = new_bench(folder, seed, machine)
    steps = load_source(spec, bench)
    _, source = pulled(steps)
    return Trainer(spec, bench, source)  # type: ignore[arg-type]


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["dcgan", "residual"])
def test_a_first_step_is_adams_whatever_way_gradients_lie_in_memory(
    kind: str, channels_last: bool, seeds: int, tmp_path: Path
) -> None:
    """Of a gradient g it is the rate times g / (|g| + eps). Those of a penalty on convolutions lie
    otherwise in memory than their weights do."""
    critic = DCGANCritic(width=4) if kind == "dcgan" else ResidualCritic(width=4, strides=1)
    rates = Rates(critic_lr=1e-2, schedule="constant")
    update = {"critic": critic, "steadying": Steadying(r1=0.1), "rates": rates, "seeds": seeds}
    machine = CPU.model_copy(update={"channels_last": channels_last})
    trainer = new_trainer(PICTURES.model_copy(update=update), tmp_path, machine=machine)
    before = {n: p.detach().clone() for n, p in trainer.critic.named_parameters()}
    first: dict[str, Tensor] = {}
    record(trainer, "critic", first)
    with trainer._training():
        trainer._half()
    for name, weight in trainer.critic.named_parameters():
        slope = first[f"critic.{name}"]
        step = 1e-2 * slope / (slope.abs() + 1e-8)
        assert torch.allclose(before[name] - weight, step, atol=1e-6), name


# --- seeds side by side ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        EVERYTHING,
        SMALL.model_copy(update={"loss": WassersteinGP(), "rates": Rates(critic_lr=1e-3)}),
        PICTURES.model_copy(update={"iterations": 4}),
        PICTURES.model_copy(
            update={
                "iterations": 3,
                "critic": DCGANCritic(width=4, kernel=5, norm="none", dropout=0.3),
                "conditional": "projection",
                "steadying": Steadying(augment=("translation", "cutout", "colour")),
            }
        ),
        PICTURES.model_copy(
            update={
                "iterations": 3,
                "generator": ResidualGenerator(width=2, strides=1),
                "critic": ResidualCritic(width=4, strides=1),
                "loss": Relativistic(),
                "steadying": Steadying(r1=0.1, r2=0.1),
            }
        ),
    ],
    ids=["plain", "everything", "gp", "dcgan", "augmented", "r3gan"],
)
def test_seeds_side_by_side_are_each_what_they_are_alone(spec: Gan, tmp_path: Path) -> None:
    """The first gradient of each network, and what is said of the first iterations. (Weights are
    not compared: Adam makes whole steps of gradients that are 0 but for rounding.)"""
    together, said = stepped(spec.model_copy(update={"seeds": 3}), tmp_path / "all", seed=5)
    for index in range(3):
        alone, own = stepped(spec, tmp_path / str(index), seed=5 + index)
        for key, value in alone.items():
            found = of_each(together[key], 3)[index].reshape(value.shape)
            assert torch.allclose(value, found, atol=1e-5 + 1e-4 * float(value.abs().max())), key
        at = f"@{index}/" if index else "/"
        for name, figure in own.items():
            assert said[name.replace("/", at)] == pytest.approx(figure, rel=0.02, abs=1e-3), name


def stepped(
    spec: Gan, folder: Path, seed: int, machine: BenchSpec = CPU
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The first gradients of all weights, and the losses of three iterations."""
    rates = spec.rates.model_copy(update={"critic_lr": 1e-6})
    spec = spec.model_copy(update={"iterations": 3, "rates": rates})
    trainer = new_trainer(spec, folder, seed, machine)
    first: dict[str, Tensor] = {}
    for network in ("critic", "generator"):
        record(trainer, network, first)
    said: dict[str, float] = {}
    for event in trainer.train():
        if isinstance(event, Scalars):
            said |= {n: v for n, v in event.values.items() if n.endswith("/loss")}
    return first, said


def record(trainer: Trainer, network: str, first: dict[str, Tensor]) -> None:
    """Have `first` told the gradients of the first step that `network` takes."""
    adam = trainer.adams[network]
    names = [f"{network}.{name}" for name, _ in getattr(trainer, network).named_parameters()]
    step = adam.step

    def recorded(gradients: Sequence[Tensor | None], rate: float) -> None:
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                first.setdefault(name, gradient.clone())
        step(gradients, rate)

    adam.step = recorded  # type: ignore[method-assign]


# --- where bursts end, and going on ---------------------------------------------------------------


@pytest.mark.parametrize("spec", [EVERYTHING, PICTURES], ids=["points", "images"])
def test_a_run_goes_on_as_if_nothing_had_been(spec: Gan, tmp_path: Path) -> None:
    _, whole = run(spec, tmp_path / "whole")
    bench = new_bench(tmp_path / "broken")
    bench.single_step = True  # so that it can be stopped between two half steps
    steps = spec.run(bench)
    said = 0
    for event in steps:
        said += isinstance(event, Scalars)
        if said == 7:  # in the middle of an iteration
            break
    assert stopped(steps)["partial"]
    again = new_bench(tmp_path / "broken")
    checkpoint = again.checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint.values["task"]["half"] > 0
    again.restore(checkpoint)
    _, resumed = pulled(spec.run(again))
    assert resumed["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("spec", [SMALL, PICTURES], ids=["points", "images"])
def test_what_is_said_of_its_health_goes_on_too(spec: Gan, tmp_path: Path) -> None:
    """How far the samples have moved is told against the look before the interruption."""
    whole = new_trainer(spec, tmp_path / "whole", seed=0)
    list(whole.train())
    broken = new_trainer(spec, tmp_path / "broken", seed=0)
    broken.bench.single_step = True
    steps = broken.train()
    while broken.at.iteration < spec.iterations // 2:
        next(steps)
    broken.checkpoint()
    kept = broken.bench.checkpoints.latest()
    assert kept is not None
    again = new_trainer(spec, tmp_path / "broken", seed=0)
    again.restore(kept.tensors, kept.values["task"])
    list(again.train())
    assert again.watcher.watches[0].moved
    assert again.watcher.state() == whole.watcher.state()


def test_a_change_after_going_on_in_mid_iteration_can_be_repeated(tmp_path: Path) -> None:
    """It holds from the next iteration on: half of this one has run without it."""
    bench = new_bench(tmp_path / "broken")
    bench.single_step = True
    steps = SMALL.run(bench)
    while bench.checkpoints.latest() is None:
        if isinstance(next(steps), Scalars):
            stopped(steps)
    again = new_bench(tmp_path / "broken")
    checkpoint = again.checkpoints.latest()
    assert checkpoint is not None
    assert (checkpoint.values["task"]["iteration"], checkpoint.values["task"]["half"]) == (0, 1)
    again.restore(checkpoint)
    going = SMALL.run(again)
    next(going)  # it has taken up where it was
    change = again.change("critic_lr", 0.01)
    assert change.step == 2
    _, resumed = pulled(going)
    replayed = SMALL.model_copy(
        update={"changes": (LiveChange(name="critic_lr", value=0.01, step=2),)}
    )
    repeat = new_bench(tmp_path / "whole")
    for planned in replayed.changes:
        repeat.take_up(Change(planned.name, planned.value, planned.step))
    _, whole = pulled(replayed.run(repeat))
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_large_pictures_are_not_kept_of_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run's store is full before its end."""
    spec = PICTURES.model_copy(update={"iterations": 120})
    monkeypatch.setattr(watching, "KEPT", 30_000)
    monkeypatch.setattr(watching, "APART", {True: 5, False: 5})
    events, _ = run(spec, tmp_path)
    kept = [e for e in events if isinstance(e, Images) and e.name == "samples" and e.keep]
    assert sum(e.pixels.nbytes for e in kept) <= 30_000
    assert 2 < len(kept) < 24
    assert (kept[0].step, kept[-1].step) == (0, 120)


def test_somebody_has_to_learn() -> None:
    with pytest.raises(SpecError, match="nothing would learn"):
        Gan(critic_steps=0, generator_steps=0)


def stopped(steps: Generator[Any, None, Any]) -> dict[str, Any]:
    try:
        steps.throw(Cancelled())
        while True:
            next(steps)
    except StopIteration as end:
        found: dict[str, Any] = end.value
        return found


def test_nothing_of_torch_is_held_across_a_yield(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    trainer = new_trainer(EVERYTHING, tmp_path)
    for _ in trainer.train():
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.is_grad_enabled()
        for network in (trainer.generator, trainer.critic, trainer.average):
            assert network is not None
            assert not any(module.training for module in network.modules())


def test_single_steps_say_the_half_steps_apart(tmp_path: Path) -> None:
    bench = new_bench(tmp_path)
    bench.single_step = True
    events, _ = pulled(SMALL.model_copy(update={"iterations": 3, "critic_steps": 2}).run(bench))
    halves = [
        ("critic" if "critic/loss" in e.values else "generator", e.step)
        for e in events
        if isinstance(e, Scalars)
    ]
    one = ["critic", "critic", "generator"]
    assert halves == [(name, step) for step in (1, 2, 3) for name in one]


# --- the bench ------------------------------------------------------------------------------------

RESIDUAL = PICTURES.model_copy(
    update={
        "generator": ResidualGenerator(width=4, strides=1),
        "critic": ResidualCritic(width=4, strides=1),
        "loss": Relativistic(),
        "steadying": Steadying(r1=0.1, r2=0.1),
        "seeds": 2,
        "rates": Rates(clip=0.5),
    }
)


def test_compiling_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not for a gan.*set it to false"):
        run(SMALL, tmp_path, machine=CPU.model_copy(update={"compile": True}))


@pytest.mark.parametrize("spec", [PICTURES, RESIDUAL], ids=["dcgan", "r3gan"])
def test_channels_last_is_a_matter_of_layout(spec: Gan, tmp_path: Path) -> None:
    """Convolutions lie as asked; first gradients and what is said are the same but for rounding.
    (Weights are not compared: Adam makes whole steps of gradients that are 0 but for rounding.)"""
    last = CPU.model_copy(update={"channels_last": True})
    trainer = new_trainer(spec, tmp_path / "trainer", machine=last)
    maps = [p for p in trainer.critic.parameters() if p.dim() == 4]
    assert maps
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in maps)
    plain, said = stepped(spec, tmp_path / "plain", 3)
    other, heard = stepped(spec, tmp_path / "last", 3, last)
    for key, value in plain.items():
        atol = 1e-5 + 1e-4 * float(value.abs().max())
        assert torch.allclose(value, other[key], atol=atol), key
    assert heard == pytest.approx(said, rel=0.02, abs=1e-3)
    _, summary = run(spec, tmp_path / "whole", machine=last)
    assert summary["iterations"] == spec.iterations


@pytest.mark.parametrize(
    "spec",
    [
        EVERYTHING,
        SMALL.model_copy(update={"loss": WassersteinGP()}),
        PICTURES.model_copy(update={"iterations": 4}),
        RESIDUAL.model_copy(update={"iterations": 3}),
    ],
    ids=["points", "gp", "dcgan", "r3gan"],
)
def test_bf16_is_near_float32_and_goes_on_the_same(spec: Gan, tmp_path: Path) -> None:
    """Weights stay float32; the first losses differ by no more than bf16's 8 bits make."""
    half = CPU.model_copy(update={"precision": "bf16"})
    plain, _ = run(spec, tmp_path / "plain")
    events, summary = run(spec, tmp_path / "half", machine=half)
    _, again = run(spec, tmp_path / "again", machine=half)
    assert summary["weights_sha256"] == again["weights_sha256"]
    made = weights(tmp_path / "half")
    assert {v.dtype for v in made.values()} <= {torch.float32, torch.int64}
    assert not all(torch.equal(v, made[n]) for n, v in weights(tmp_path / "plain").items())
    for name in ("critic/loss", "generator/loss"):
        first, other = (series(each, name)[1] for each in (plain, events))
        assert first != other
        assert other == pytest.approx(first, rel=0.05, abs=0.02)


# --- live values ----------------------------------------------------------------------------------


def test_a_change_on_the_way_is_repeated(tmp_path: Path) -> None:
    def changed(folder: Path) -> dict[str, Any]:
        bench = new_bench(folder)
        bench.take_up(Change("critic_lr", 1e-4, 11))
        bench.take_up(Change("instance_noise", 0.4, 21))
        return pulled(SMALL.run(bench))[1]

    first, second = (changed(tmp_path / name) for name in "ab")
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["weights_sha256"] != run(SMALL, tmp_path / "c")[1]["weights_sha256"]


@pytest.mark.parametrize("network", ["generator", "critic"])
def test_a_network_without_steps_is_frozen(network: str, tmp_path: Path) -> None:
    trainer = new_trainer(SMALL.model_copy(update={f"{network}_steps": 0}), tmp_path)
    before = {n: p.clone() for n, p in getattr(trainer, network).named_parameters()}
    other = "critic" if network == "generator" else "generator"
    moving = [p.clone() for p in getattr(trainer, other).parameters()]
    for _ in trainer.train():
        pass
    assert all(torch.equal(p, before[n]) for n, p in getattr(trainer, network).named_parameters())
    after = list(getattr(trainer, other).parameters())
    assert not all(torch.equal(a, b) for a, b in zip(moving, after, strict=True))


def test_noise_falls_geometrically_and_anew_from_where_it_is_set(tmp_path: Path) -> None:
    steadying = Steadying(instance_noise=0.5, noise_end=0.005, noise_share=0.5)
    spec = SMALL.model_copy(update={"iterations": 100, "steadying": steadying})
    trainer = new_trainer(spec, tmp_path)
    assert trainer._live(1)["noise"] == pytest.approx(0.5)
    assert trainer._live(26)["noise"] == pytest.approx(0.05)
    assert trainer._live(51)["noise"] == pytest.approx(0.005)
    assert trainer._live(100)["noise"] == pytest.approx(0.005)
    trainer.bench.take_up(Change("instance_noise", 0.2, 61))
    assert trainer._live(61)["noise"] == pytest.approx(0.2)
    assert trainer._live(81)["noise"] == pytest.approx(0.005)


def test_the_rates_follow_half_a_cosine(tmp_path: Path) -> None:
    rates = Rates(critic_lr=1e-3, generator_lr=2e-3, floor=0.1)
    trainer = new_trainer(SMALL.model_copy(update={"iterations": 100, "rates": rates}), tmp_path)
    share = 0.1 + 0.9 * (1 + math.cos(math.pi * 0.3)) / 2
    assert trainer._live(31)["critic_lr"] == pytest.approx(1e-3 * share)
    assert trainer._live(31)["generator_lr"] == pytest.approx(2e-3 * share)


# --- what is shown and kept -----------------------------------------------------------------------


def test_points_show_the_plane(tmp_path: Path) -> None:
    events, summary = run(SMALL.model_copy(update={"seeds": 2}), tmp_path)
    arrays = {e.name: e for e in events if isinstance(e, Array)}
    shapes = {name: array.values.shape for name, array in arrays.items()}
    assert shapes["real"] == (1024, 2)
    assert shapes["generated"] == (2, 1024, 2)
    assert shapes["surface"] == (2, 64, 64)
    assert shapes["arrows"] == (2, 128, 4)
    assert shapes["manifold"] == (2, 8, 12, 12, 2)
    assert shapes["modes"] == (2, 8)
    assert arrays["modes"].values.sum(1) == pytest.approx([1, 1])
    assert arrays["surface"].about["kind"] == "probability"
    assert len({e.step for e in events if isinstance(e, Array) and e.keep}) <= 200
    assert {"critic/loss", "critic@1/loss", "samples@1/modes_covered"} <= {
        name for e in events if isinstance(e, Scalars) for name in e.values
    }
    assert set(summary["by_seed"]["seed"]) == {0, 1}
    assert [e.name for e in events if isinstance(e, Saved)] == ["model", "generator_1"]


def test_arrows_point_down_the_generators_loss(tmp_path: Path) -> None:
    trainer = new_trainer(SMALL, tmp_path)
    assert trainer.source.points is not None
    watcher = trainer.watcher
    made = watcher._made(watcher._latents, None)
    arrows = torch.from_numpy(watcher._arrows(made, trainer.source.points))[0]
    points = made[0, :128]
    moved = points + 1e-3 * arrows[:, 2:] / arrows[:, 2:].norm(dim=1, keepdim=True)
    with torch.no_grad():  # the non-saturating loss falls where the critic's output rises
        assert (trainer.critic(moved) > trainer.critic(points)).all()


def test_the_surface_is_the_critics_output_where_it_says(tmp_path: Path) -> None:
    trainer = new_trainer(SMALL, tmp_path)
    points = trainer.source.points
    assert points is not None
    surface = trainer.watcher._surface()[0]
    x0, x1, y0, y1 = points.extent
    for row, column in ((0, 0), (0, 63), (63, 0), (20, 41)):
        place = torch.tensor(
            [[x0 + (x1 - x0) * column / 63, y0 + (y1 - y0) * row / 63]], dtype=torch.float32
        )
        with torch.no_grad():
            wanted = trainer.critic(points.inside(place)).sigmoid()
        assert surface[row, column] == pytest.approx(float(wanted), abs=1e-5)


def test_images_show_samples_and_their_neighbours(tmp_path: Path) -> None:
    events, _ = run(PICTURES, tmp_path)
    shown = [e for e in events if isinstance(e, Images)]
    samples = [e for e in shown if e.name == "samples"]
    assert samples[-1].pixels.shape == (64, 8, 8, 1)
    assert samples[-1].captions[3] == {"seed": 0, "label": "3"}
    assert samples[-1].keep
    (near,) = [e for e in shown if e.name == "neighbours" and e.step == 12]
    data = drained_digits(tmp_path)
    train = data.train.batch(torch.arange(len(data.train)))[0].flatten(1)
    pixels = torch.from_numpy(samples[-1].pixels).float().flatten(1) / 255
    wanted = torch.cdist(pixels, train).argmin(1)
    found = torch.from_numpy(near.pixels).float().flatten(1) / 255
    right = (found - train[wanted]).abs().amax(1) < 1e-2
    assert right.float().mean() > 0.9  # samples are rounded where they are shown


@pytest.mark.parametrize(("size", "said"), [(8, False), (12, True)])
def test_an_extractor_of_other_images_is_named(size: int, said: bool, tmp_path: Path) -> None:
    spec = PICTURES.model_copy(update={"data": Digits(size=size), "iterations": 1})
    events, summary = run(spec, tmp_path)
    notes = [e.text for e in events if isinstance(e, Note)]
    assert any("features are those of digits" in text for text in notes) is said
    assert summary["fid"] > 0


def drained_digits(folder: Path) -> Any:
    from engine.data import load

    return pulled(load(Digits(), new_bench(folder / "data")))[1]


def test_what_is_kept_can_be_loaded_and_makes_the_same(tmp_path: Path) -> None:
    bench = new_bench(tmp_path)
    steps = load_source(PICTURES, bench)
    trainer = Trainer(PICTURES, bench, pulled(steps)[1])  # type: ignore[arg-type]
    _, summary = pulled(PICTURES.run(bench))
    loaded = load_network(str(tmp_path / "model.safetensors"), bench, GanGenerator)
    assert loaded.card.weights_sha256 == summary["weights_sha256"]
    assert loaded.card.classes == tuple("0123456789")
    made = loaded.module(torch.zeros(3, 8), torch.tensor([0, 1, 2]))
    assert made.shape == (3, 1, 8, 8)
    assert 0 <= made.min() <= made.max() <= 1
    with pytest.raises(BadInput, match="of which class"):
        loaded.module(torch.zeros(3, 8))
    assert trainer.like.keys() == weights(tmp_path).keys()


def test_points_come_out_in_units_of_the_data(tmp_path: Path) -> None:
    spec = SMALL.model_copy(update={"data": Drawn(points=((10.0, 10.0), (30.0, 20.0)))})
    run(spec, tmp_path)
    loaded = load_network(str(tmp_path / "model.safetensors"), new_bench(tmp_path), GanGenerator)
    with torch.no_grad():
        made = loaded.module(torch.zeros(1, 18))
    assert made.shape == (1, 1, 1, 2)
    state = weights(tmp_path)
    assert state["centre"].tolist() == [20.0, 15.0]
    assert state["unit"].tolist() == [10.0, 10.0]


# --- what is refused ------------------------------------------------------------------------------


def refused(values: dict[str, Any], folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        pulled(parse_task({"kind": "gan", **values}).run(new_bench(folder)))
    return str(error.value)


def test_images_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for place in range(8):
        folder = tmp_path / "same" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 77).save(folder / f"{place}.png")
    same = Folder(path=str(tmp_path / "same"), size=8, channels=1)
    with pytest.raises(BadInput, match="all the same"):
        run(PICTURES.model_copy(update={"data": same}), tmp_path)


def test_bad_input_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "one" / "a").mkdir(parents=True)
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "one" / "a" / "x.png")
    one = Folder(path=str(tmp_path / "one"), size=8, channels=1).to_dict()
    conv = {"generator": {"kind": "dcgan", "strides": 4}, "critic": {"kind": "dcgan"}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"latent": {"size": 0}}, "latent.size: must be at least 1"),
        ({"data": {"kind": "spiral"}, "conditional": "projection"}, "has none"),
        ({"data": {"kind": "digits"}, **conv}, "too small for a generator of 4 strides"),
        (
            {"data": {"kind": "digits"}, "critic": {"kind": "dcgan", "strides": 4}},
            "too small for a critic of 4 strides",
        ),
        ({"generator": {"kind": "dcgan"}}, "points are not; choose mlp"),
        ({"critic": {"kind": "residual"}}, "points are not; choose mlp"),
        ({"steadying": {"augment": ["cutout"]}}, "points are none"),
        ({"data": {"kind": "drawn", "points": [[0, 0], [0, 0]]}}, "they are all the same"),
        ({"generator": {"kind": "mlp", "norm": "batch"}, "batch_size": 1}, "at least 2"),
        ({"data": one}, ""),
    ]
    for values, words in cases:
        assert words in refused(values, tmp_path)


def test_a_critic_without_parameters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(*arguments: Any, **named: Any) -> Any:
        critic = make_critic(*arguments, **named)
        critic.requires_grad_(False)
        return critic

    monkeypatch.setattr("engine.generative.training.make_critic", empty)
    with pytest.raises(BadInput, match="the critic has no parameters"):
        pulled(SMALL.run(new_bench(tmp_path)))


@pytest.mark.parametrize("network", ["critic", "generator"])
def test_a_rate_that_makes_no_numbers_stops_and_says_which_network(
    network: str, tmp_path: Path
) -> None:
    deep = {"generator": MLPGenerator(width=16, depth=9), "critic": MLPCritic(width=16, depth=9)}
    spec = SMALL.model_copy(
        update={
            "loss": LeastSquares(),
            "rates": Rates(**{f"{network}_lr": 1000.0}),
            network: deep[network],
        }
    )
    with pytest.raises(CrucibleError, match=f"begins in the {network}") as error:
        run(spec, tmp_path)
    assert int(str(error.value).split("iteration ")[1].split(";")[0]) <= 10


def test_the_architecture_cannot_be_changed_on_the_way() -> None:
    with pytest.raises(BadInput, match=r"width.*(start|new|live)"):
        check_live(SMALL, "width", 32)
    with pytest.raises(BadInput, match="new run"):
        check_live(SMALL, "generator.width", 32)
    check_live(SMALL, "critic_steps", 2.0)
    with pytest.raises(BadInput, match="whole number"):
        check_live(SMALL, "critic_steps", 1.5)
    check_live(SMALL, "generator_lr", 1e-4)


def test_weights_of_a_wasserstein_critic_are_clipped(tmp_path: Path) -> None:
    trainer = new_trainer(SMALL.model_copy(update={"loss": Wasserstein(clip=0.05)}), tmp_path)
    for _ in trainer.train():
        pass
    largest = max(float(p.detach().abs().max()) for p in trainer.critic.parameters())
    assert largest == pytest.approx(0.05)


# --- a ring that is broken on purpose -------------------------------------------------------------


def test_a_collapse_is_named_and_what_is_proposed_repairs_it(tmp_path: Path) -> None:
    """A generator that is ten times as fast as its critic; each proposal by itself, made as a
    person would, is enough."""
    broken = Gan(
        data=Ring(sigma=0.05),
        latent=Latent(size=2),
        rates=Rates(generator_lr=1e-2, critic_lr=1e-3, schedule="constant"),
        ema=0.0,
        iterations=1000,
        batch_size=64,
    )
    events, summary = run(broken, tmp_path / "broken")
    assert "collapse" in summary["troubles"]
    assert any(isinstance(e, Note) and "collapse" in e.text for e in events)
    tables = [e for e in events if isinstance(e, Table) and e.name == "health"]
    assert all(table.columns == health.COLUMNS for table in tables)
    said = next(row for table in tables for row in table.rows if row[1] == "collapse")
    for proposal in said[3:]:
        name, value = proposal.split("=")
        bench = new_bench(tmp_path / name)
        bench.take_up(Change(name, float(value), 300))
        _, repaired = pulled(broken.run(bench))
        assert "collapse" not in repaired["troubles_at_end"]
        assert repaired["modes_covered"] == 8
        assert repaired["mode_tv"] < 0.2 < summary["mode_tv"]


def test_what_is_proposed_begins_at_what_a_person_has_set(tmp_path: Path) -> None:
    broken = Gan(
        data=Ring(sigma=0.05),
        latent=Latent(size=2),
        rates=Rates(generator_lr=1e-4, critic_lr=1e-4, schedule="constant"),
        iterations=60,
        batch_size=32,
    )
    proposals = []
    for name, set_to in (("asked", {}), ("set", {"generator_lr": 1e-2, "critic_steps": 4.0})):
        bench = new_bench(tmp_path / name)
        for field, value in set_to.items():
            bench.take_up(Change(field, value, 1))
        bench.take_up(Change("critic_lr", 7.0, 1000))  # which does not hold yet
        events, _ = pulled(broken.run(bench))
        tables = [e for e in events if isinstance(e, Table) and e.name == "health" and e.rows]
        proposals.append(next(row[3:] for row in tables[-1].rows if row[1] == "collapse"))
    assert proposals == [
        ("instance_noise=0.5", "critic_steps=5"),
        ("generator_lr=0.0001", "critic_steps=8"),
    ]


@pytest.mark.parametrize("loss", [NonSaturating(), Wasserstein()])
def test_rates_that_are_far_too_high_are_said_to_explode(loss: LossSpec, tmp_path: Path) -> None:
    rate = 1000.0 if isinstance(loss, Wasserstein) else 100.0
    spec = Gan(loss=loss, rates=Rates(generator_lr=rate, critic_lr=rate), iterations=60)
    events, summary = run(spec, tmp_path)
    (note,) = (e.text for e in events if isinstance(e, Note) and e.level == "warning")
    assert note.startswith("seed 0: exploding (scattered=")
    assert note.endswith("try generator_lr=0.01 or critic_lr=0.01")
    assert summary["troubles"] == {"exploding": [0]}


def test_a_trouble_that_comes_and_goes_is_warned_of_once_and_kept_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look an iteration: the first seed is troubled until it ends, the second in the middle."""
    there = {0: {*range(5, 9), *range(12, 16), *range(38, 41)}, 1: {20}}
    looks = {0: 0, 1: 0}
    order: dict[int, int] = {}

    def look(self: health.Watch, spec: Gan, look: health.Look) -> list[health.Trouble]:
        index = order.setdefault(id(self), len(order))
        looks[index] += 1
        trouble = health.Trouble("collapse", "diversity=0.1", "r1=1", "critic_steps=5")
        return [trouble] if looks[index] in there[index] else []

    monkeypatch.setattr(health.Watch, "look", look)
    events, summary = run(SMALL.model_copy(update={"seeds": 2}), tmp_path, seed=7)
    tables = [e for e in events if isinstance(e, Table) and e.name == "health"]
    warned = [e.text.partition(":")[0] for e in events if isinstance(e, Note)]
    assert len(tables) == 40
    assert warned == ["seed 7", "seed 8", "seed 7"]  # away for more than 20 looks
    assert summary["troubles"] == {"collapse": [7, 8]}
    assert summary["troubles_at_end"] == {"collapse": [7]}


def test_what_went_wrong_before_a_checkpoint_is_known_after_it(tmp_path: Path) -> None:
    trainer = new_trainer(SMALL, tmp_path)
    trainer.watcher._seen = [{"collapse": 3}]
    again = new_trainer(SMALL, tmp_path)
    state = json.loads(json.dumps(trainer.watcher.state()))
    again.watcher.restore(trainer.watcher.tensors(), state)
    assert again.watcher.troubles() == {"collapse": [0]}
    assert again.watcher.troubles(now=True) == {}


def test_the_summary_is_json(tmp_path: Path) -> None:
    for spec in (SMALL, PICTURES, SMALL.model_copy(update={"data": Spiral()})):
        _, summary = run(spec, tmp_path / spec.data.kind)
        assert json.loads(json.dumps(summary)) == summary
        assert set(summary) <= set(Gan.summary_help)
