"""Every kind of adversarial training takes the steps of its paper, goes on where it was, and says
when it cannot work. The loops here are written out, with the same draws."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.spec import FGSM, KL, PGD, VirtualAdversarial
from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled, CrucibleError, SpecError
from engine.events import Event, Note, Scalars
from engine.models import build, load_model, weights_sha256
from engine.models.spec import CNN, MLP
from engine.random import derive, normal, uniform
from engine.recipe import read_recipe
from engine.robustness.examples import blend
from engine.robustness.spec import (
    MART,
    PGDAT,
    TRADES,
    UAT,
    VAT,
    Fast,
    Free,
    GaussianNoise,
    Interpolated,
    Mixed,
)
from engine.robustness.unlabelled import labelled
from engine.task import BenchSpec, parse_task
from engine.training.loop import run_train
from engine.training.spec import (
    AWP,
    SGD,
    AdamW,
    Adapters,
    AdversarialTraining,
    Train,
    Watch,
)

Drain = Callable[..., tuple[list[Event], Any]]
SEED = 3
EPS, SIZE, LR = 0.2, 0.08, 0.5
SMALL = MLP(width=16, depth=1)
ONE_STEP = Train(
    seed=SEED,
    data=Digits(validation=0.0),
    model=SMALL,
    optimizer=SGD(lr=LR, momentum=0.0),
    epochs=3,
    batch_size=2000,
)
"""Each epoch is one step on all images."""
OFF = Watch(samples=0)
PGD3 = PGD(eps=EPS, steps=3, step_size=SIZE)
KL3 = KL(eps=EPS, steps=3, step_size=SIZE, noise=0.05)
"""Not too near the image, where slopes are so small that rounding decides their signs."""


def new_bench(tmp_path: Path, name: str, seed: int = SEED, **options: Any) -> Bench:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = BenchSpec(device="cpu", threads=1, **options)
    return Bench(folder, tmp_path, seed=seed, spec=spec)


def train(
    tmp_path: Path, drain: Drain, spec: Train, name: str = "a"
) -> tuple[list[Event], dict[str, Any], nn.Module]:
    events, summary = drain(run_train(spec, new_bench(tmp_path, name, spec.seed)))
    return events, summary, load_model(name, new_bench(tmp_path, "reader")).module


# --- each kind, written out -----------------------------------------------------------------------


class At(NamedTuple):
    """One step: all training images in the order of its epoch."""

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    places: Tensor
    step: int

    @property
    def seed(self) -> int:
        """What an attack's draws derive from."""
        return derive(derive(SEED, "adversarial", self.step), "restart", 0)


def inside(z: Tensor, x: Tensor, eps: float = EPS) -> Tensor:
    return torch.max(torch.min(z, x + eps), x - eps).clamp(0, 1)


def slope(loss: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(loss(z), z)[0]


def pgd(at: At, eps: float = EPS, size: float = SIZE, steps: int = 3) -> Tensor:
    noise = uniform(derive(at.seed, "start"), at.ids, at.x.shape[1:])
    z = inside(at.x + (2 * noise - 1) * eps, at.x, eps)
    for _ in range(steps):
        z = inside(
            z + size * slope(lambda v: F.cross_entropy(at.model(v), at.y), z).sign(), at.x, eps
        )
    return z.detach()


def kl_of(clean: Tensor, perturbed: Tensor) -> Tensor:
    """As the authors of TRADES write it."""
    return nn.KLDivLoss(reduction="sum")(perturbed.log_softmax(1), clean.softmax(1))


def kl_ascent(at: At) -> Tensor:
    clean = at.model(at.x).detach()
    z = inside(at.x + 0.05 * normal(derive(at.seed, "start"), at.ids, at.x.shape[1:]), at.x)
    for _ in range(3):
        z = inside(z + SIZE * slope(lambda v: kl_of(clean, at.model(v)), z).sign(), at.x)
    return z.detach()


def virtual(at: At, eps: float, xi: float) -> Tensor:
    clean = at.model(at.x).detach()
    d = F.normalize(normal(derive(at.seed, "start"), at.ids, at.x.shape[1:]).flatten(1))
    g = slope(lambda v: kl_of(clean, at.model(v)), at.x + xi * d.view_as(at.x))
    return eps * F.normalize(g.flatten(1)).view_as(at.x)


def mixed(at: At) -> Tensor:
    both = [F.cross_entropy(at.model(z), at.y) for z in (at.x, pgd(at))]
    return both[0] + 0.5 * both[1]


def ramped(at: At) -> Tensor:
    """Epsilon over two epochs, the weight over four."""
    share = min(1.0, at.step / 2)
    z = pgd(at, EPS * share, SIZE * share)
    clean, hard = F.cross_entropy(at.model(at.x), at.y), F.cross_entropy(at.model(z), at.y)
    return clean + at.step / 4 * hard


def pgd_at(at: At) -> Tensor:
    return F.cross_entropy(at.model(pgd(at)), at.y)


def trades(at: At) -> Tensor:
    z = kl_ascent(at)
    clean = at.model(at.x)
    return F.cross_entropy(clean, at.y) + 6.0 * kl_of(clean, at.model(z)) / len(at.y)


def mart(at: At) -> Tensor:
    """After the authors' code, line by line."""
    logits, logits_adv = at.model(at.x), at.model(pgd(at))
    adv_probs = F.softmax(logits_adv, dim=1)
    tmp1 = torch.argsort(adv_probs, dim=1)[:, -2:]
    new_y = torch.where(tmp1[:, -1] == at.y, tmp1[:, -2], tmp1[:, -1])
    loss_adv = F.cross_entropy(logits_adv, at.y) + F.nll_loss(
        torch.log(1.0001 - adv_probs + 1e-12), new_y
    )
    nat_probs = F.softmax(logits, dim=1)
    true_probs = torch.gather(nat_probs, 1, at.y[:, None]).squeeze()
    each = nn.KLDivLoss(reduction="none")(torch.log(adv_probs + 1e-12), nat_probs).sum(1)
    return loss_adv + 5.0 * (each * (1.0000001 - true_probs)).mean()


def gaussian(at: At) -> Tensor:
    """Two noisy copies of each image, outside of the box too."""
    seed = derive(SEED, "defence")
    loss = torch.zeros(())
    for draw in range(2):
        noise = normal(derive(seed, "noise", at.step, draw), at.ids, at.x.shape[1:])
        loss = loss + F.cross_entropy(at.model(at.x + 0.3 * noise), at.y) / 2
    return loss


def interpolated(at: At) -> Tensor:
    losses = []
    for purpose, z in (("clean", at.x), ("adversarial", pgd(at))):
        share, others = blend(
            len(z), 1.0, derive(derive(SEED, "defence"), "mixup", purpose, at.step)
        )
        logits = at.model(share * z + (1 - share) * z[others])
        target = share * F.one_hot(at.y, 10) + (1 - share) * F.one_hot(at.y[others], 10)
        losses.append(-(target * logits.log_softmax(1)).sum(1).mean())
    return (losses[0] + losses[1]) / 2


def vat(at: At) -> Tensor:
    r = virtual(at, 0.5, 0.01)
    z = at.x + r
    assert torch.isfinite(z).all()
    # Only where the box lets it: the nearest point of ball and box.
    z = z.clamp(0, 1)
    clean = at.model(at.x)
    return F.cross_entropy(clean, at.y) + kl_of(clean.detach(), at.model(z)) / len(at.y)


def uat(at: At) -> Tensor:
    known = labelled_places(at)
    generator = torch.Generator().manual_seed(derive(derive(SEED, "defence"), "known", at.step))
    drawn = known[torch.randint(len(known), (len(at.y),), generator=generator)]
    where = {int(place): i for i, place in enumerate(at.places)}
    rows = torch.tensor([where[int(place)] for place in drawn])
    clean = F.cross_entropy(at.model(at.x[rows]), at.y[rows])
    fixed = at.model(at.x).detach()
    return clean + 5.0 * kl_of(fixed, at.model(kl_ascent(at))) / len(at.y)


def labelled_places(at: At) -> Tensor:
    draws = uniform(derive(derive(SEED, "defence"), "labelled"), at.ids, ())
    chosen = draws.argsort()[: round(0.1 * len(draws))]
    return at.places[chosen].sort().values


def one_step(at: At, size: float) -> Tensor:
    """From a start that may leave the box, as the authors' code for MNIST."""
    draws = uniform(derive(derive(SEED, "defence"), "start", at.step), at.ids, at.x.shape[1:])
    z = at.x + (2 * draws - 1) * EPS
    away = size * slope(lambda v: F.cross_entropy(at.model(v), at.y), z).sign()
    return inside(z + away, at.x)


def fast(at: At) -> Tensor:
    return F.cross_entropy(at.model(one_step(at, 0.25)), at.y)


def awp(at: At) -> Tensor:
    """After the authors' code: a proxy takes a step uphill, each layer keeps its own scale."""
    z = pgd(at)
    proxy = copy.deepcopy(at.model)
    (-F.cross_entropy(proxy(z), at.y)).backward()
    shifts = {}
    with torch.no_grad():
        for (name, old), new in zip(at.model.named_parameters(), proxy.parameters(), strict=True):
            if old.ndim > 1:
                assert new.grad is not None
                diff = -0.01 * new.grad
                shifts[name] = 0.02 * old.norm() / diff.norm() * diff
    moved = {n: p + shifts[n] if n in shifts else p for n, p in at.model.named_parameters()}
    return F.cross_entropy(torch.func.functional_call(at.model, moved, z), at.y)


KINDS: dict[str, tuple[AdversarialTraining, Callable[[At], Tensor]]] = {
    "mixed": (Mixed(attack=PGD3, weight=0.5), mixed),
    "ramped": (Mixed(attack=PGD3, eps_ramp=2.0, weight_ramp=4.0), ramped),
    "pgd_at": (PGDAT(attack=PGD3), pgd_at),
    "trades": (TRADES(attack=KL3), trades),
    "mart": (MART(attack=PGD3), mart),
    "interpolated": (Interpolated(attack=PGD3), interpolated),
    "gaussian": (GaussianNoise(sigma=0.3, draws=2), gaussian),
    "uat": (UAT(attack=KL3, labelled=0.1), uat),
    "fast": (Fast(eps=EPS, alpha=0.25, watch=OFF), fast),
    "awp": (PGDAT(attack=PGD3, awp=AWP(gamma=0.02)), awp),
}


def by_hand(
    drain: Drain, bench: Bench, loss_of: Callable[[At], Tensor], replays: int = 1
) -> tuple[list[float], nn.Module]:
    _, data = drain(load(ONE_STEP.data or Digits(), bench))
    from engine.models import channel_statistics

    mean, std = channel_statistics(data.train)
    seed = derive(SEED, "model")
    model = build(SMALL, data.shape, 10, mean=mean, std=std, generator_seed=seed)
    losses, step = [], 0
    for epoch in range(ONE_STEP.epochs):
        generator = torch.Generator().manual_seed(derive(SEED, "order", epoch))
        places = torch.randperm(len(data.train), generator=generator)
        x, y = data.train.batch(places)
        for _ in range(replays):
            loss = loss_of(At(model, x, y, data.train.ids[places], places, step))
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= LR * parameter.grad
            losses.append(loss.item())
            step += 1
    return losses, model


def assert_same(
    events: list[Event], trained: nn.Module, losses: list[float], model: nn.Module
) -> None:
    said = [
        e.values["train/loss"]
        for e in events
        if isinstance(e, Scalars) and "train/loss" in e.values
    ]
    # Signs of slopes that are all but zero may differ by rounding.
    assert said == pytest.approx(losses, rel=2e-4)
    theirs = model.state_dict()
    for name, tensor in trained.state_dict().items():
        assert torch.allclose(tensor, theirs[name], atol=2e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_the_steps_of_its_paper(
    tmp_path: Path, drain: Drain, bench: Bench, kind: str
) -> None:
    spec, loss_of = KINDS[kind]
    events, _, trained = train(tmp_path, drain, ONE_STEP.model_copy(update={"adversarial": spec}))
    assert_same(events, trained, *by_hand(drain, bench, loss_of))


def test_vat_takes_the_steps_of_its_paper(tmp_path: Path, drain: Drain, bench: Bench) -> None:
    """In a ball so small that the box cuts off little: the projection is tested elsewhere."""
    attack = VirtualAdversarial(eps=0.5)
    spec = ONE_STEP.model_copy(update={"adversarial": VAT(attack=attack)})
    events, _, trained = train(tmp_path, drain, spec)
    losses, model = by_hand(drain, bench, vat)
    assert_same(events, trained, losses, model)


def test_free_takes_the_steps_of_its_paper(tmp_path: Path, drain: Drain, bench: Bench) -> None:
    """The perturbation goes on from batch to batch, by place."""
    delta: Tensor | None = None
    before: Tensor | None = None

    def free(at: At) -> Tensor:
        nonlocal delta, before
        if delta is None:
            delta = torch.zeros_like(at.x)
        if before is not None:
            assert before.grad is not None
            delta = (delta + EPS * before.grad.sign()).clamp(-EPS, EPS)
        before = (at.x + delta).clamp(0, 1).requires_grad_()
        return F.cross_entropy(at.model(before), at.y)

    spec = ONE_STEP.model_copy(update={"adversarial": Free(eps=EPS, replays=2, watch=OFF)})
    events, summary, trained = train(tmp_path, drain, spec)
    assert summary["steps"] == 2 * ONE_STEP.epochs
    assert_same(events, trained, *by_hand(drain, bench, free, replays=2))


def test_kept_perturbations_are_where_the_next_epoch_starts(
    tmp_path: Path, drain: Drain, bench: Bench
) -> None:
    kept: dict[int, Tensor] = {}

    def keeping(at: At) -> Tensor:
        if at.step == 0:
            z = one_step(at, 0.1)
        else:
            z = inside(at.x + torch.stack([kept[int(i)] for i in at.ids]), at.x)
            z = inside(
                z + 0.1 * slope(lambda v: F.cross_entropy(at.model(v), at.y), z).sign(), at.x
            )
        for i, change in zip(at.ids, z - at.x, strict=True):
            kept[int(i)] = (change * 127 / EPS).round() * EPS / 127
        return F.cross_entropy(at.model(z), at.y)

    spec = Fast(eps=EPS, alpha=0.1, keep=True, watch=OFF)
    events, _, trained = train(tmp_path, drain, ONE_STEP.model_copy(update={"adversarial": spec}))
    assert_same(events, trained, *by_hand(drain, bench, keeping))


def test_a_mixture_draws_by_its_shares(tmp_path: Path, drain: Drain, bench: Bench) -> None:
    _, data = drain(load(Digits(), bench))
    from engine.training.defence import Setting

    loss, model = nn.CrossEntropyLoss(), nn.Identity()
    setting = Setting(data.train, lambda p, e: data.train.batch(p), 1, loss, None, model)
    spec = PGDAT(attack=PGD3, mixture=(FGSM(), KL3), shares=(6.0, 3.0, 1.0))
    defence: Any = spec.defence(setting)
    drawn = [defence.drawn(step).kind for step in range(1000)]
    assert [round(drawn.count(kind) / 1000, 1) for kind in ("pgd", "fgsm", "kl")] == [0.6, 0.3, 0.1]
    assert drawn == [defence.drawn(step).kind for step in range(1000)]


# --- a part of the model --------------------------------------------------------------------------


def test_only_what_is_named_learns(tmp_path: Path, drain: Drain) -> None:
    base = Train(seed=SEED, model=CNN(width=4), epochs=1)
    train(tmp_path, drain, base, "base")
    before = load_model("base", new_bench(tmp_path, "r")).module.state_dict()
    spec = Train(seed=SEED, init="base", epochs=1, trainable=("body.4", "body.0.0.*"))
    _, _, model = train(tmp_path, drain, spec, "tuned")
    moved = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {"body.0.0.weight", "body.4.weight", "body.4.bias"}


def test_adapters_are_of_low_rank_and_merged(tmp_path: Path, drain: Drain) -> None:
    base = Train(seed=SEED, model=CNN(width=8, norm="none"), epochs=2)
    train(tmp_path, drain, base, "base")
    before = load_model("base", new_bench(tmp_path, "r")).module.state_dict()
    spec = Train(
        seed=SEED,
        init="base",
        epochs=2,
        ema=0.5,
        adapters=Adapters(rank=2),
        adversarial=PGDAT(attack=PGD(eps=0.1, steps=2, step_size=0.05), awp=AWP()),
    )
    _, summary, model = train(tmp_path, drain, spec, "tuned")
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert weights_sha256(after) == summary["weights_sha256"]
    for name, tensor in after.items():
        if name.endswith("weight") and "normalise" not in name:
            change = (tensor - before[name]).flatten(1)
            assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2, name
        else:
            assert torch.equal(tensor, before[name]), name
    learning = sum(p.numel() for p in model.parameters())
    assert summary["parameters"] == learning


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainable": ("body.9",)}, "no layer is called 'body.9'; this model has body.0"),
        ({"adapters": {"layers": ("head",)}}, "no layer is called 'head'"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(
    tmp_path: Path, drain: Drain, change: dict[str, Any], words: str
) -> None:
    spec = parse_task({"kind": "train", "model": {"kind": "cnn", "width": 2}, **change})
    assert isinstance(spec, Train)
    with pytest.raises(BadInput, match=words):
        train(tmp_path, drain, spec)


# --- going on -------------------------------------------------------------------------------------

QUICK = Train(
    seed=5,
    data=Digits(test=0.8),
    model=CNN(width=2, depth=1, dropout=0.2),
    epochs=3,
    batch_size=100,
)
STATES: dict[str, Train] = {
    "kept": QUICK.model_copy(
        update={"adversarial": Fast(eps=0.1, alpha=0.05, keep=True), "ema": 0.9}
    ),
    "free": QUICK.model_copy(update={"adversarial": Free(eps=0.1, replays=3)}),
    "curriculum": QUICK.model_copy(
        update={
            "adversarial": TRADES(
                attack=KL(eps=0.1, steps=2, step_size=0.05),
                mixture=(PGD(eps=0.1, steps=2, step_size=0.05),),
                awp=AWP(after=1.0),
                eps_ramp=2.0,
                weight_ramp=2.0,
                watch=Watch(samples=50, steps=2),
            )
        }
    ),
    "unlabelled": QUICK.model_copy(update={"adversarial": VAT(labelled=0.2)}),
    "adapters": QUICK.model_copy(
        update={"adversarial": Interpolated(attack=FGSM(eps=0.1)), "adapters": Adapters(rank=1)}
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_killed_anywhere_it_goes_on_to_the_same_weights(
    tmp_path: Path, drain: Drain, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.bench.BURST", 0.0)  # a yield after every step
    monkeypatch.setattr(
        "engine.training.loop.Trainer._checkpoint_if_due",
        lambda self, least=None: self.at.step % 4 == 0 and self.checkpoint(),
    )
    spec = STATES[name]
    events, whole = drain(run_train(spec, new_bench(tmp_path, "whole", spec.seed)))
    n = len(events)
    for number, stop in enumerate((n // 2, 2 * n // 3, n - 2)):
        first = run_train(spec, new_bench(tmp_path, f"cut{number}", spec.seed))
        for _ in range(stop):
            next(first)
        if number == 1:  # also by a person
            with pytest.raises((StopIteration, Cancelled)):
                first.throw(Cancelled())
                while True:
                    next(first)
        del first
        bench = new_bench(tmp_path, f"cut{number}", spec.seed)
        checkpoint = bench.checkpoints.latest()
        if checkpoint is not None:
            bench.restore(checkpoint)
        _, summary = drain(run_train(spec, bench))
        assert summary == whole, stop


def test_nothing_is_held_across_a_yield(tmp_path: Path) -> None:
    for number, spec in enumerate(STATES.values()):
        steps = run_train(spec, new_bench(tmp_path, str(number), 5))
        before = torch.get_rng_state()
        for _ in steps:
            assert torch.is_grad_enabled()
            assert torch.equal(torch.get_rng_state(), before)
            frame = steps.gi_frame
            trainer = frame.f_locals.get("trainer") if frame else None
            if trainer is not None:
                assert not any(module.training for module in trainer.model.modules())


# --- the watch ------------------------------------------------------------------------------------


def test_the_watch_stops_a_collapse_and_keeps_the_best(tmp_path: Path, drain: Drain) -> None:
    """A robust model is trained on by steps that are far too short: its own examples stay harmless,
    while PGD breaks more and more."""
    start = Train(seed=1, model=CNN(width=8), epochs=4, adversarial=Fast(eps=0.15, alpha=0.19))
    events, summary, _ = train(tmp_path, drain, start, "start")
    assert not any(isinstance(e, Note) for e in events)
    assert "collapsed" not in summary

    weak = Fast(eps=0.15, alpha=1e-3, keep=True, watch=Watch(drop=0.1))
    spec = Train(seed=1, init="start", epochs=20, optimizer=AdamW(lr=5e-3), adversarial=weak)
    events, summary, _ = train(tmp_path, drain, spec)
    (warning,) = [e.text for e in events if isinstance(e, Note) and e.level == "warning"]
    assert "catastrophic overfitting" in warning
    robust = [
        e.values["validation/robust_accuracy"]
        for e in events
        if isinstance(e, Scalars) and "validation/robust_accuracy" in e.values
    ]
    assert summary["collapsed"]
    assert summary["epochs"] == len(robust) < 20
    assert summary["best_epoch"] == robust.index(max(robust)) + 1
    assert summary["watched_accuracy"] == max(robust) > robust[-1] + 0.1

    shorter = spec.model_copy(update={"epochs": summary["best_epoch"]})
    _, again, _ = train(tmp_path, drain, shorter, "b")
    assert again["weights_sha256"] == summary["weights_sha256"]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adversarial", "words"),
    [
        ({"kind": "pgd_at", "shares": [1.0, 2.0]}, "there are 1 attacks, and 2 shares"),
        ({"kind": "mixed", "mixture": [{"kind": "fgsm"}], "shares": [0.0, 0.0]}, "above 0"),
        ({"kind": "pgd_at", "attack": {"kind": "universal"}}, "adversarial: universal has one"),
        ({"kind": "mixed", "mixture": [{"kind": "fgsm"}, {"kind": "patch"}]}, "patch has one"),
        ({"kind": "vat", "labelled": 0.0}, "labelled: .* 0"),
        ({"kind": "free_at", "replays": 0}, "replays: .* 1"),
        ({"kind": "trade"}, "did you mean 'trades'"),
    ],
)
def test_what_cannot_be_is_refused_in_the_spec(adversarial: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_task({"kind": "train", "adversarial": adversarial})


@pytest.mark.parametrize(
    ("adversarial", "words"),
    [
        (PGDAT(attack=PGD(restarts=2)), "cannot be run with early_exit=False"),
        (VAT(attack=PGD(), labelled=0.5), "must not look at labels"),
        (UAT(attack=PGD(), labelled=0.5), "must not look at labels"),
        (UAT(targets="fixed"), "this run starts from none"),
        (
            PGDAT(attack=PGD(norm="l2"), watch=Watch(), awp=AWP()).model_copy(
                update={"attack": KL(norm="l2").model_copy(update={"norm": "l0"})}
            ),
            "the watch runs PGD, which cannot be",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(
    tmp_path: Path, drain: Drain, adversarial: AdversarialTraining, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        train(tmp_path, drain, QUICK.model_copy(update={"adversarial": adversarial}))


def test_a_spec_keeps_its_meaning_on_the_disk() -> None:
    """Nothing that differs from a default is lost where None is left out."""
    for spec in [*STATES.values(), Train(adversarial=Fast(watch=OFF))]:
        assert parse_task(spec.to_dict()) == spec


def test_a_weak_attack_in_a_mixture_is_told(tmp_path: Path, drain: Drain) -> None:
    weak = PGD(eps=0.3, steps=1, step_size=0.01)
    spec = QUICK.model_copy(update={"epochs": 1, "adversarial": PGDAT(mixture=(weak,))})
    events, _, _ = train(tmp_path, drain, spec)
    assert weak.advice() in "".join(e.text for e in events if isinstance(e, Note))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, drain: Drain) -> None:
    spec = QUICK.model_copy(
        update={"adversarial": MART(awp=AWP()), "optimizer": SGD(lr=1000.0, weight_decay=10.0)}
    )
    with pytest.raises(CrucibleError, match="not a finite number"):
        train(tmp_path, drain, spec.model_copy(update={"epochs": 50}))


RECIPES = sorted((Path(__file__).parents[2] / "resources" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_read(path: Path) -> None:
    assert read_recipe(path)


# --- semi-supervised ------------------------------------------------------------------------------


def test_labels_that_are_not_to_be_known_do_not_matter(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scrambling them changes nothing."""
    spec = QUICK.model_copy(update={"adversarial": UAT(attack=KL3, labelled=0.1)})
    _, plain, _ = train(tmp_path, drain, spec)

    def scrambled(*arguments: Any) -> Any:
        data = yield from load(*arguments)
        known = labelled(data.train, 0.1, derive(5, "defence"))
        other = (data.train.labels + 1) % 10
        other[known] = data.train.labels[known]
        data.train.labels.copy_(other)
        return data

    monkeypatch.setattr("engine.training.loop.load", scrambled)
    _, again, _ = train(tmp_path, drain, spec, "b")
    assert plain["weights_sha256"] == again["weights_sha256"]


def test_fixed_targets_are_those_of_the_model_it_starts_from(tmp_path: Path, drain: Drain) -> None:
    train(tmp_path, drain, Train(seed=1, model=SMALL, epochs=4), "teacher")
    spec = Train(
        seed=2,
        init="teacher",
        epochs=2,
        adversarial=UAT(attack=PGD3, labelled=0.2, targets="both", weight=1.0),
    )
    events, summary, _ = train(tmp_path, drain, spec, "student")
    assert summary["clean_accuracy"] > 0.8
    assert any(isinstance(e, Scalars) and "train/robust_accuracy" in e.values for e in events)
