"""Interval bounds: sound, exact where that can be known; what training and proof make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import PGD, attack
from engine.data import Dataset
from engine.errors import BadInput
from engine.events import drain
from engine.models import building
from engine.models.spec import CNN, MLP, RNN, LeNet, ModelSpec, ResNet18, Strided, Transformer
from engine.robustness.certified import Proof
from engine.robustness.ibp import IBPDefence, IntervalProver
from engine.robustness.intervals import Bounds
from engine.robustness.spec import IBP, IntervalBounds
from engine.training.defence import Batch, Setting
from tests.robustness.test_evaluate import pull, small
from tests.robustness.zoo import bench_in, subject

BOUNDED = [
    MLP(width=20, depth=3, residual=True, activation="gelu"),
    MLP(width=20, activation="silu", norm="batch"),
    CNN(width=4, activation="tanh"),
    CNN(width=4, norm="none", residual=True, activation="leaky_relu", dropout=0.3),
    Strided(channels=(4, 8), hidden=20),
    LeNet(channels=(4,), hidden=(20,)),
    ResNet18(),
]


def build(spec: ModelSpec) -> nn.Module:
    """In float64, with batch statistics of its own."""
    model = building.build(spec, (1, 12, 12), 5, generator_seed=3).double()
    with torch.no_grad():
        for _ in range(3):
            model(drawn(8))
    return model.eval()


def drawn(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 1, 12, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spec", BOUNDED, ids=lambda spec: f"{spec.kind}")
def test_no_image_of_the_box_leaves_the_bounds(spec: ModelSpec) -> None:
    model, x, eps = build(spec), drawn(3), 0.02
    bounds = Bounds(model)
    found = bounds.logits(x - eps, x + eps)
    labels = torch.tensor([0, 3, 4])
    margins = bounds.margins(x - eps, x + eps, labels)
    generator = torch.Generator().manual_seed(1)
    for number in range(60):
        change = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
        with torch.no_grad():
            logits = model(x + eps * (change.sign() if number % 2 else change))
        assert bool((found.lower <= logits).all())
        assert bool((logits <= found.upper).all())
        assert bool((margins <= logits.gather(1, labels[:, None]) - logits + 1e-12).all())
    with torch.no_grad():
        logits = model(x)
    nothing = bounds.logits(x, x)
    torch.testing.assert_close(nothing.lower, logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(nothing.upper, logits, atol=1e-9, rtol=0)


def test_the_last_layer_is_merged_with_the_difference() -> None:
    model, x, labels = build(Strided(channels=(4, 8), hidden=20)), drawn(3), torch.tensor([0, 3, 4])
    bounds = Bounds(model)
    logits = bounds.logits(x - 0.02, x + 0.02)
    apart = (logits.lower.gather(1, labels[:, None]) - logits.upper).scatter(1, labels[:, None], 0)
    margins = bounds.margins(x - 0.02, x + 0.02, labels)
    assert bool((margins >= apart - 1e-12).all())
    assert float((margins - apart).detach().max()) > 0.01


def test_a_linear_model_is_bounded_exactly() -> None:
    linear = nn.Linear(144, 5).double()
    model, x, labels = nn.Sequential(nn.Flatten(), linear), drawn(3), torch.tensor([0, 3, 4])
    with torch.no_grad():
        expected = torch.zeros(3, 5, dtype=torch.float64)
        for n, label in enumerate(labels):
            for k in range(5):
                apart = linear.weight[label] - linear.weight[k]
                gap = linear.bias[label] - linear.bias[k]
                expected[n, k] = apart @ x[n].flatten() + gap - 0.02 * apart.abs().sum()
        found = Bounds(model).margins(x - 0.02, x + 0.02, labels)
    torch.testing.assert_close(found, expected.scatter(1, labels[:, None], 0.0))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (building.build(RNN(), (1, 12, 12), 5), "layer by layer|no bounds are known"),
        (building.build(Transformer(), (1, 12, 12), 5), "layer by layer|no bounds are known"),
        (nn.Sequential(nn.Flatten(), nn.LayerNorm(144)), "no bounds are known .* LayerNorm"),
        (nn.LeakyReLU(-0.1), "slope below 0"),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), "padded by circular"),
        (nn.BatchNorm2d(1, track_running_stats=False), "statistics of each batch"),
    ],
)
def test_what_has_no_bounds_is_said(model: nn.Module, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Bounds(model)


# --- training -------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_paper(data: Dataset) -> None:
    """Of a net with one hidden layer, its bounds written out."""
    first, last = nn.Linear(64, 12), nn.Linear(12, 10)
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    spec = IBP(eps=0.1, begin=2.0, eps_ramp=4.0, clean_share=0.4)
    criterion = nn.CrossEntropyLoss()
    setting = Setting(data.train, lambda *_: data.train.batch(_[0]), 1, criterion, None, model)
    x, y = data.train.batch(torch.arange(6))
    for epoch, risen in ((0.5, 0.0), (3.0, 0.25), (6.0, 1.0), (9.0, 1.0)):
        eps, share = 0.1 * risen, 1 - 0.6 * risen
        low, high = ((x + side).clamp(0, 1).flatten(1) for side in (-eps, eps))
        up, down = first.weight.clamp(min=0), first.weight.clamp(max=0)
        below = (low @ up.T + high @ down.T + first.bias).relu()
        above = (high @ up.T + low @ down.T + first.bias).relu()
        worst = torch.zeros(6, 10)
        for n in range(6):
            for k in range(10):
                apart = last.weight[k] - last.weight[y[n]]
                ends = above[n] @ apart.clamp(min=0) + below[n] @ apart.clamp(max=0)
                worst[n, k] = ends + last.bias[k] - last.bias[y[n]]
        expected = share * criterion(model(x), y) + (1 - share) * criterion(worst, y)
        batch = Batch(x, y, torch.arange(6), torch.arange(6), 0, epoch)
        found = IBPDefence(spec, setting).loss(model, batch, None)
        torch.testing.assert_close(found.loss, expected)


def test_batch_statistics_cannot_be_trained_for_bounds(data: Dataset) -> None:
    model = building.build(CNN(width=4), data.shape, 10)
    setting = Setting(
        data.train, lambda *_: data.train.batch(_[0]), 1, nn.CrossEntropyLoss(), None, model
    )
    with pytest.raises(BadInput, match="couples the images of a batch"):
        IBPDefence(IBP(), setting)


# --- certificates ---------------------------------------------------------------------------------


def prove(model: nn.Module, data: Dataset, folder: Path, spec: IntervalBounds) -> Proof:
    on = subject(model, data, bench_in(folder), 40)
    proof = drain(IntervalProver(spec, on).prove(torch.arange(40)))
    assert isinstance(proof, Proof)
    return proof


def test_of_a_linear_model_the_radius_is_the_distance(data: Dataset, tmp_path: Path) -> None:
    """To the nearest hyperplane, less what the box takes away: inside of it, exactly."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 10)
    model = nn.Sequential(nn.Flatten(), linear).eval()
    on = subject(model, data, bench_in(tmp_path), 40)
    proof = prove(model, data, tmp_path, IntervalBounds(radii=()))
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    x = on.images(torch.arange(40))[0].double().flatten(1)
    for n, label in enumerate(on.predictions):
        low, high = 0.0, 1.0
        for _ in range(40):  # bisection of the exact worst case over ball and box
            eps = (low + high) / 2
            apart = weight[label] - weight
            ends = torch.where(apart > 0, (x[n] - eps).clamp(min=0), (x[n] + eps).clamp(max=1))
            gaps = (apart * ends).sum(1) + bias[label] - bias
            gaps[label] = torch.inf
            low, high = (eps, high) if float(gaps.min()) > 0 else (low, eps)
        assert low - 2e-4 <= float(proof.radius[n]) <= low


def test_what_was_asked_for_lies_on_the_grid(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    first = prove(model, data, tmp_path, IntervalBounds(radii=()))
    asked = float(first.radius.max())
    again = prove(model, data, tmp_path, IntervalBounds(radii=(asked + 1e-6,)))
    assert float(again.radius.max()) == asked + 1e-6


def test_nothing_that_is_proved_is_broken(data: Dataset, tmp_path: Path) -> None:
    """A net that is trained for its bounds, proved, and attacked inside what was proved."""
    model = building.build(Strided(channels=(8, 16), hidden=32), data.shape, 10)
    spec = IBP(eps=0.12, begin=1.0, eps_ramp=6.0)
    loss = nn.CrossEntropyLoss()
    defence = IBPDefence(spec, Setting(data.train, data_batch(data), 1, loss, None, model))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    for epoch in range(14):
        for part in torch.randperm(len(data.train), generator=order).split(64):
            batch = Batch(*data.train.batch(part), part, part, 0, float(epoch))
            optimizer.zero_grad()
            defence.loss(model, batch, None).loss.backward()
            optimizer.step()
    on = subject(model, data, bench_in(tmp_path), 150)
    proof = drain(IntervalProver(IntervalBounds(radii=(0.1,)), on).prove(torch.arange(150)))
    assert isinstance(proof, Proof)
    right = on.correct & (proof.radius >= 0.1)
    assert float(right.double().mean()) > 0.25
    images, labels = on.images(torch.arange(150))
    pgd = PGD(eps=0.1, steps=40, step_size=0.01, restarts=2)
    broken = attack(model, images, labels, pgd, generator=torch.Generator().manual_seed(0)).success
    assert not bool((broken & right).any())
    plain = prove(
        building.build(Strided(channels=(8,)), data.shape, 10),
        data,
        tmp_path,
        IntervalBounds(radii=(0.1,)),
    )
    assert float((plain.radius >= 0.1).double().mean()) < 0.05


def data_batch(data: Dataset):
    return lambda places, epoch: data.train.batch(places)


def test_what_attacks_have_found_counts_beside_what_is_proved(
    model_file: Path, tmp_path: Path
) -> None:
    """The evaluation's own attacks break the certified model, too: whoever they broke within a
    radius does not stand there."""
    attacks = (PGD(eps=0.05, steps=40, step_size=0.005), PGD(eps=0.1, steps=40, step_size=0.01))
    certificate = IntervalBounds(radii=(0.05, 0.1), steps=1)
    spec = small(model_file, attacks=attacks, certify=certificate, samples=100, every=True)
    _, summary = pull(spec.run(bench_in(tmp_path)))
    standing = summary["certified_robust_accuracy"]
    by_attack = summary["robust_accuracy_by_attack"]
    for radius, name in (("0.05", "pgd"), ("0.1", "pgd-2")):
        assert summary["certified_accuracy"][radius] <= standing[radius] <= by_attack[name]
    assert standing["0.1"] < standing["0.05"] < summary["clean_accuracy"]


class Shared(nn.Module):
    """Ends with a layer that it also begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.two(self.one(x.flatten(1)).relu()).relu())


def test_a_last_layer_that_is_used_twice_is_merged_once() -> None:
    torch.manual_seed(0)
    model, x, eps = Shared().double(), torch.rand(20, 1, 8, 8, dtype=torch.float64), 0.1
    with torch.no_grad():
        labels = model(x).argmax(1)
        margins = Bounds(model).margins(x - eps, x + eps, labels)
        for _ in range(100):
            logits = model(x + eps * (torch.randint(0, 2, x.shape) * 2 - 1))
            assert bool((logits.gather(1, labels[:, None]) - logits >= margins - 1e-9).all())


class Writes(nn.Module):
    """relu(h) + h, where the relu is written into h: 2 relu(h)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.drop, self.how = nn.Linear(64, 10), nn.Dropout(), how
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x.flatten(1))
        if self.how == "function":
            return F.relu(h, inplace=True) + h
        return self.relu(self.drop(h) if self.how == "dropout" else h) + h


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].register_forward_hook(lambda module, given, answer: -answer)
    return model


def replaced() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    own = model[1].forward
    model[1].forward = lambda x: own(x).square()
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Writes("function"), "used again"),
        (lambda: Writes("layer"), "used again"),
        (lambda: Writes("dropout"), "used again"),
        (hooked, "a hook on Linear"),
        (replaced, "a forward pass of its own"),
        (lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=-4), nn.Flatten()), "divisor"),
    ],
)
def test_what_bounds_would_not_know_of_is_refused(make: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Bounds(make())


def test_bounds_that_are_not_what_the_model_answers_prove_nothing(
    data: Dataset, tmp_path: Path
) -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            h = both = self.one(x)
            both += self.two(x)  # into h, which a trace does not see
            return both + h

    on = subject(Added(), data, bench_in(tmp_path), 20)
    with pytest.raises(BadInput, match="are not what it answers"):
        IntervalProver(IntervalBounds(), on)


class Beside(nn.Module):
    """Layers, and beside them what a trace does not see: where `where` holds of the images, the
    layers add up to something else."""

    def __init__(self, where: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.where = nn.Linear(64, 10), nn.Linear(64, 10), where

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        h = self.one(flat)
        extra = self.two(flat)
        if not isinstance(x, torch.fx.Proxy):
            h = h + torch.where(self.where(x)[:, None], 9 * extra.abs(), 0 * extra)
        return h + extra


@pytest.mark.parametrize("words", ["another image", "inside", "vertex"])
def test_what_shows_at_other_points_alone_proves_nothing(
    words: str, data: Dataset, tmp_path: Path
) -> None:
    """Honest at the first 32 images; or to all images, but not inside of boxes or at vertices."""
    nothing = Beside(lambda x: torch.zeros(len(x), dtype=torch.bool))
    on = subject(nothing, data, bench_in(tmp_path), 300)
    images = on.images(torch.arange(300))[0]
    first = images[:32].flatten(1)
    where = {
        "another image": lambda x: torch.cdist(x.flatten(1), first).amin(1) > 1e-3,
        "inside": lambda x: (x * 255 - (x * 255).round()).abs().flatten(1).amax(1) > 1e-3,
    }

    def vertex(x: Tensor) -> Tensor:
        """Where all pixels that are neither black nor white are as far from one of the images."""
        there, others = x.flatten(1)[:, None], images.flatten(1)
        apart, inside = (there - others).abs(), (there > 0) & (there < 1)
        far = apart.where(inside, torch.zeros(())).amax(2)
        near = apart.where(inside, torch.full((), 9.0)).amin(2)
        return (((far - near).abs() < 1e-5) & (far > 1e-3)).any(1)

    where["vertex"] = vertex
    IntervalProver(IntervalBounds(), on)
    other = Beside(where[words])
    bad = subject(other, data, bench_in(tmp_path), 300)
    with pytest.raises(BadInput, match="are not what it answers"):
        IntervalProver(IntervalBounds(), bad)


def test_an_answer_that_is_no_number_is_never_proved(data: Dataset, tmp_path: Path) -> None:
    on = subject(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, bench_in(tmp_path), 10)
    on.predictions[3] = -1
    proof = drain(IntervalProver(IntervalBounds(), on).prove(torch.arange(10)))
    assert proof.radius[3] == 0
    assert proof.predictions[3] == -1
    assert bool((proof.radius[:3] > 0).any())
