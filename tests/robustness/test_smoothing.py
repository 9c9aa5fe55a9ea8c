"""Randomised smoothing against closed forms, plain loops and the published algorithm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks.running import Chosen
from engine.bench import Bench
from engine.data import Dataset
from engine.errors import BadInput, SpecError
from engine.events import drain
from engine.random import derive, normal
from engine.robustness.certified import NOTHING
from engine.robustness.evaluating import subject_of
from engine.robustness.noisy import NoisyDefence
from engine.robustness.searching import Subject
from engine.robustness.smoothing import (
    Smoothed,
    SmoothingProver,
    lower_bound,
    radius_of,
    vote,
)
from engine.robustness.spec import GaussianNoise, Smoothing
from engine.training.defence import Batch, Setting
from tests.robustness.masked import Net
from tests.robustness.zoo import bench_in, subject


class Halves(nn.Module):
    """Two classes, on both sides of a hyperplane: w x + b > 0."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        weight = torch.randn(64, generator=torch.Generator().manual_seed(3))
        self.register_buffer("weight", weight / weight.norm())
        self.classes = classes

    def distance(self, x: Tensor) -> Tensor:
        """Signed, in l2."""
        return (x.flatten(1) - 0.3) @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.full((len(x), self.classes), -1e4)
        logits[:, 0] = self.distance(x)
        logits[:, 1] = -logits[:, 0]
        return logits


def on(model: nn.Module, data: Dataset, bench: Bench, count: int = 8) -> Subject:
    return subject(model, data, bench, count)


def prove(spec: Smoothing, of: Subject, rows: Tensor) -> tuple[list[float], list[int]]:
    proof = drain(SmoothingProver(spec, of).prove(rows))
    return proof.radius.tolist(), proof.predictions.tolist()


# --- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 10), (7, 10), (10, 10), (99_000, 10**5)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_that_of_clopper_and_pearson(hits: int, count: int, alpha: float) -> None:
    found = lower_bound(hits, count, alpha)
    # Its definition: with that probability, so many hits or more have probability alpha.
    if not hits:
        assert found == 0.0
        return
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(found)
        + (count - k) * math.log1p(-found)
        for k in range(hits, count + 1)
    ]
    assert math.fsum(map(math.exp, logs)) == pytest.approx(alpha, rel=1e-4)
    from scipy.stats import beta, binomtest

    assert found == pytest.approx(beta.ppf(alpha, hits, count - hits + 1), rel=1e-12)
    interval = binomtest(hits, count, alternative="greater").proportion_ci(1 - alpha, "exact")
    assert found == pytest.approx(interval.low, rel=1e-9)


def test_the_vote_is_the_binomial_test_of_predict() -> None:
    from scipy.stats import binomtest

    for counts in ([60, 40, 3], [3, 51, 49], [0, 1000, 0], [7, 0, 8]):
        top, chance = vote(torch.tensor(counts))
        second, first = sorted(counts)[-2:]
        assert counts[top] == first
        assert chance == pytest.approx(binomtest(first, first + second, 0.5).pvalue, rel=1e-9)
    assert vote(torch.tensor([5, 5]))[1] == 1.0


def test_radii() -> None:
    assert radius_of(0.5, 0.5) == 0.0
    assert radius_of(0.2, 0.5) == 0.0
    assert radius_of(0.99, 0.5) == pytest.approx(0.5 * 2.3263478740408408)
    # The largest that 100,000 draws can prove (Cohen et al. 2019, section 4).
    assert radius_of(lower_bound(100_000, 100_000, 0.001), 0.5) == pytest.approx(1.9052, abs=1e-3)


# --- certificates ---------------------------------------------------------------------------------


def test_between_two_half_spaces_the_radius_is_the_distance(data: Dataset, tmp_path: Path) -> None:
    model = Halves()
    of = on(model, data, bench_in(tmp_path), 20)
    images = of.images(torch.arange(20))[0]
    distance = model.distance(images).abs()
    spec = Smoothing(sigma=0.5, n=20_000, n0=50)
    radii, classes = prove(spec, of, torch.arange(20))
    below = 0
    for radius, taken, true, side in zip(
        radii, classes, distance.tolist(), (model.distance(images) < 0).tolist(), strict=True
    ):
        if taken == NOTHING:
            assert true < 0.05
            continue
        assert taken == int(side)
        assert radius < true  # each with a probability of .999
        below += 1
        # What the bound costs: three deviations of the count.
        share = 0.5 * (1 + math.erf(true / 0.5 / math.sqrt(2)))
        least = max(share - 8 * math.sqrt(share * (1 - share) / 20_000), 0.5 + 1e-9)
        assert radius > min(radius_of(least, 0.5), radius_of(0.999, 0.5)) - 1e-3
    assert below > 10


def test_it_is_certify_as_published(net: Net, data: Dataset, tmp_path: Path) -> None:
    """The algorithm of Cohen et al. (2019, figure 2), sample by sample and draw by draw."""
    bench = bench_in(tmp_path, seed=4)
    of = on(net, data, bench, 4)
    spec = Smoothing(sigma=0.4, n0=20, n=300, alpha=0.01, batch_size=64)
    radii, classes = prove(spec, of, torch.arange(4))
    from scipy.stats import beta, norm

    seed = bench.derive("smoothing")
    for row in range(4):
        image = of.images(torch.tensor([row]))[0][0]
        sample = int(of.test.ids[of.order[row]])

        def sampled(purpose: str, count: int, image: Tensor = image, s: int = sample) -> list[int]:
            counts = [0] * 10
            for k in range(count):
                noise = normal(derive(seed, purpose, s), torch.tensor([k]), image.shape)
                with torch.no_grad():
                    counts[int(net((image + 0.4 * noise[0])[None]).argmax())] += 1
            return counts

        guess = sampled("guess", 20)
        top = guess.index(max(guess))
        hits = sampled("certify", 300)[top]
        bound = beta.ppf(0.01, hits, 300 - hits + 1)
        if bound < 0.5:
            assert (radii[row], classes[row]) == (0.0, NOTHING)
        else:
            assert classes[row] == top
            assert radii[row] == pytest.approx(0.4 * norm.ppf(bound), rel=1e-9)
    assert 0 < classes.count(NOTHING) < 4  # both outcomes are seen


def test_neither_neighbours_nor_batches_matter(net: Net, data: Dataset, tmp_path: Path) -> None:
    of = on(net, data, bench_in(tmp_path), 6)
    spec = Smoothing(sigma=0.5, n=500, n0=20)
    radii, classes = prove(spec, of, torch.arange(6))
    other = spec.model_copy(update={"batch_size": 77})
    again, same = prove(other, of, torch.tensor([5, 2]))
    assert same == [classes[5], classes[2]]
    assert again == pytest.approx([radii[5], radii[2]])


def test_an_abstention_is_no_certificate(data: Dataset, tmp_path: Path) -> None:
    class Torn(Halves):
        def distance(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, 0] - 0.0  # the corner is black: on the plane

    of = on(Torn(), data, bench_in(tmp_path), 3)
    assert float(of.images(torch.arange(3))[0][:, 0, 0, 0].abs().max()) == 0.0
    radii, classes = prove(Smoothing(n=1000), of, torch.arange(3))
    assert radii == [0.0] * 3
    assert classes == [NOTHING] * 3


def test_no_numbers_are_no_class(data: Dataset, tmp_path: Path) -> None:
    class Broken(Halves):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            # A third of all draws, then all.
            faulty = x.flatten(1)[:, 5] > self.limit
            return logits.masked_fill(faulty[:, None], float("nan"))

    model = Broken()
    model.limit = 1e9
    of = on(model, data, bench_in(tmp_path), 1)
    far = float(Halves().distance(of.images(torch.arange(1))[0]).abs())
    spec = Smoothing(sigma=0.2, n=2000)
    (whole,), _ = prove(spec, of, torch.arange(1))
    model.limit = float(of.images(torch.arange(1))[0].flatten(1)[0, 5]) + 0.2
    before = of.cost.nan
    (less,), (taken,) = prove(spec, of, torch.arange(1))
    assert 0 < less < whole <= far
    assert taken != NOTHING
    assert of.cost.nan > before
    model.limit = -1e9
    assert prove(spec, of, torch.arange(1)) == ([0.0], [NOTHING])


def test_what_is_attacked_is_the_mean_of_the_probabilities(net: Net) -> None:
    smoothed = Smoothed(net, 0.5, 8, (1, 8, 8), seed=1)
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    mean = torch.stack([net(x + each).softmax(1) for each in smoothed.noise]).mean(0)
    torch.testing.assert_close(smoothed(x), mean.log())
    assert float(smoothed.noise.std()) == pytest.approx(0.5, abs=0.05)
    (ours,) = torch.autograd.grad(smoothed(x)[:, 2].sum(), x)
    (theirs,) = torch.autograd.grad(mean.log()[:, 2].sum(), x)
    torch.testing.assert_close(ours, theirs)
    # An image is answered alone as among others.
    torch.testing.assert_close(smoothed(x[1:2]), smoothed(x)[1:2])


def test_the_smoothed_classifier_is_judged_by_fresh_draws(data: Dataset, tmp_path: Path) -> None:
    model = Halves()
    of = on(model, data, bench_in(tmp_path), 12)
    images = of.images(torch.arange(12))[0]
    # To the other side of the plane, .3 beyond it; and onto it, where nobody can say.
    far = images - (model.distance(images).sign() * 0.3 + model.distance(images))[:, None].mul(
        model.weight
    ).view_as(images)
    edge = images - model.distance(images)[:, None].mul(model.weight).view_as(images)
    prover = SmoothingProver(Smoothing(sigma=0.5, votes=2000), of)
    verdict = drain(prover.judge(torch.arange(12), far))
    assert verdict.classes.tolist() == (model.distance(images) > 0).long().tolist()
    assert float(verdict.chance.max()) < 0.0011
    assert float(verdict.chance.min()) >= 0.001  # that of the certificate itself
    verdict = drain(prover.judge(torch.arange(12), edge))
    assert verdict.classes.tolist() == [NOTHING] * 12


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sigma": 0.0}, "sigma: must be above 0"),
        ({"sigma": -1.0}, "sigma: must be above 0"),
        ({"n": 0}, "n: must be at least 1"),
        ({"n0": 0}, "n0: must be at least 1"),
        ({"alpha": 0.0}, "alpha: must be above 0"),
        ({"alpha": 1.0}, "alpha: must be below 1"),
        ({"votes": 0}, "votes: must be at least 1"),
        ({"radii": (-0.5,)}, "radii: a radius must be at least 0"),
    ],
)
def test_what_cannot_be_asked_for(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Smoothing(**values)


def test_a_model_that_looks_at_the_others_of_a_batch_is_refused(
    data: Dataset, tmp_path: Path
) -> None:
    class Neighbours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)).flatten(1)[:, :10]

    of = on(Neighbours(), data, bench_in(tmp_path), 4)
    with pytest.raises(BadInput, match="differently with others beside it"):
        SmoothingProver(Smoothing(), of)


def test_a_model_that_draws_itself_is_refused(data: Dataset, tmp_path: Path) -> None:
    class Dice(Halves):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(len(x), 1)

    of = on(Dice(), data, bench_in(tmp_path), 4)
    with pytest.raises(BadInput, match="answers the same image differently each time"):
        SmoothingProver(Smoothing(), of)


def test_one_image_is_enough(net: Net, data: Dataset, tmp_path: Path) -> None:
    chosen = Chosen(net, data, torch.tensor([3]), False)
    of = drain(subject_of(chosen, bench_in(tmp_path), 5))
    radii, _ = prove(Smoothing(n=50, n0=1, sigma=0.1), of, torch.arange(1))
    assert len(radii) == 1


# --- training -------------------------------------------------------------------------------------


def test_training_sees_the_noise_of_the_certificate(data: Dataset) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1)[:, :10]

    criterion = nn.CrossEntropyLoss()
    none: Any = None
    setting = Setting(data.train, none, 7, criterion, None, none)
    images, labels = data.train.batch(torch.arange(40))
    defence = NoisyDefence(GaussianNoise(sigma=0.5, draws=3, eps_ramp=4.0), setting)

    def noise(rows: Tensor, epoch: float) -> Tensor:
        part = Batch(images[rows], labels[rows], rows, data.train.ids[rows], 0, epoch)
        outcome = defence.loss(model, part, None)
        torch.testing.assert_close(
            outcome.loss, criterion(seen[-1].flatten(1)[:, :10], labels[rows].repeat(3))
        )
        assert outcome.clean is not None
        assert len(outcome.clean) == len(rows)
        return seen[-1].unflatten(0, (3, len(rows))) - images[rows]

    whole = noise(torch.arange(40), 4.5)
    assert float(whole.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(whole.std()) == pytest.approx(0.5, abs=0.02)
    assert float(seen[-1].min()) < -0.5  # it leaves the box
    assert float((whole[0] - whole[1]).abs().max()) > 0.5
    torch.testing.assert_close(noise(torch.tensor([7, 3]), 4.9), whole[:, [7, 3]])
    assert float((noise(torch.arange(40), 5.0) - whole).abs().max()) > 0.5
    assert float(noise(torch.arange(40), 1.0).std()) == pytest.approx(0.125, abs=0.01)
