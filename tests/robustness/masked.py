"""Models that look robust and are not, each by a trick of its own, around one honest net; and the
honest ones that nothing must be said against."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.robustness.corruptions import jpeg


class Net(nn.Module):
    """A small convolutional net for 8 x 8 images; `middle` may be replaced."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = norm or nn.Identity()
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32 * 16, 10)

    def middle(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(F.relu(self.norm(self.first(x))))
        return self.head(F.relu(self.second(h)).flatten(1))


class Wrapped(nn.Module):
    """The net with something done to its input and its output."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda y: y,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Middle(nn.Module):
    """The net with something done to its activations."""

    def __init__(self, net: Net, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        h = self.change(F.relu(self.net.norm(self.net.first(x))))
        return self.net.head(F.relu(self.net.second(h)).flatten(1))


def stochastic_rounding(h: Tensor) -> Tensor:
    return (h * 4 + torch.rand_like(h)).floor() / 4


def ripple(x: Tensor) -> Tensor:
    """Smooth in theory: the true gradient points anywhere."""
    return x + 1e-3 * torch.sin(1e5 * x)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, slope: Tensor) -> Tensor:
        return -slope


class _Scrambled(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, slope: Tensor) -> Tensor:
        return slope.flip(2, 3).roll(3, 2)


class Purified(nn.Module):
    """Gradient steps on the input before it is answered."""

    def __init__(self, net: nn.Module, optimiser: bool) -> None:
        super().__init__()
        self.net, self.optimiser = net, optimiser

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().clone().requires_grad_()
            if self.optimiser:
                sgd = torch.optim.SGD([y], lr=0.01)
                for _ in range(2):
                    sgd.zero_grad()
                    (-self.net(y).log_softmax(1).max(1).values.sum()).backward()
                    sgd.step()
            else:
                loss = -self.net(y).log_softmax(1).max(1).values.sum()
                y = y - 0.01 * torch.autograd.grad(loss, y)[0]
        return self.net(x + (y - x).detach())


class Watchful(nn.Module):
    """Shows those who record gradients another model."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return -y if torch.is_grad_enabled() else y


class Counting(nn.Module):
    """Counts its passes in a buffer. Harmless."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.passes += 1
        return self.net(x)


class BatchStatistics(nn.Module):
    """Batch norm by the statistics of the batch, also in eval mode."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(self.net.first(x), None, None, training=True)
        return self.net.head(F.relu(self.net.second(F.relu(h))).flatten(1))


class Faulty(nn.Module):
    """No numbers for images with much ink."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        bad = x.flatten(1).mean(1, keepdim=True) > 0.3
        return self.net(x).masked_fill(bad, float("nan"))


class Elsewhere(nn.Module):
    """Honest to images of 8 bits, as the data's; all others get to see `trick`."""

    def __init__(self, net: nn.Module, trick: nn.Module) -> None:
        super().__init__()
        self.net, self.trick = net, trick

    def forward(self, x: Tensor) -> Tensor:
        off = (x * 255 - (x * 255).round()).abs().amax() > 1e-3
        return self.trick(x) if bool(off) else self.net(x)


class CountingAside(nn.Module):
    """Counts its passes in a number. Harmless."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.net(x)


class Remembering(nn.Module):
    """Answers what is near to an image that it has seen as it did that one, but for a little. What
    it has seen is nowhere in the module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        images, answers = torch.empty(0, 64), torch.empty(0, 10)

        def recall(x: Tensor, fresh: Tensor) -> Tensor:
            nonlocal images, answers
            new = torch.ones(len(x), dtype=torch.bool)
            if len(images):
                distance, nearest = torch.cdist(x, images, p=float("inf")).min(1)
                new = distance > 0.3
                fresh = fresh.where(new[:, None], answers[nearest])
            images, answers = torch.cat([images, x[new]]), torch.cat([answers, fresh[new]])
            return fresh

        self.recall = recall

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return self.recall(x.detach().flatten(1), y.detach()) + 0.05 * y.tanh()


class Drifting(nn.Module):
    """Learns a little from what it is asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.shift += 0.01 * x.mean()
        return self.net(x + self.shift)


class Some(nn.Module):
    """Does `trick` to a share of the images, by their ink, and answers the others honestly."""

    def __init__(self, net: nn.Module, trick: Callable[[Tensor], Tensor], share: float) -> None:
        super().__init__()
        self.net, self.trick, self.share = net, trick, share

    def forward(self, x: Tensor) -> Tensor:
        ink = 3.7 * x.detach()[:, 0, :, 3:5].sum((1, 2))
        return torch.where((ink % 1 < self.share)[:, None], self.trick(x), self.net(x))


class Classes(nn.Module):
    """Does `trick` to two of the classes."""

    def __init__(self, net: nn.Module, trick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.trick = net, trick

    def forward(self, x: Tensor) -> Tensor:
        honest = self.net(x)
        chosen = torch.isin(honest.argmax(1), torch.tensor([3, 7]))
        return torch.where(chosen[:, None], self.trick(x), honest)


class Company(nn.Module):
    """Answers an image by the one before it in the batch, a little."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y + 0.2 * y.detach().roll(1, 0) if len(x) > 1 else 1.2 * y


class OwnDice(nn.Module):
    """Draws from a generator that torch knows nothing of."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.dice = net, [numpy.random.default_rng(0)]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + torch.from_numpy(self.dice[0].normal(0, 0.2, x.shape)).float())


class WatchedPurified(nn.Module):
    """Asks for gradients where the attack does, and for no others."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.net(x)
        y = x.detach().clone().requires_grad_()
        sure = -self.net(y).log_softmax(1).max(1).values.sum()
        return self.net(x + 1e-12 * torch.autograd.grad(sure, y)[0])


class FollowedUp(nn.Module):
    """What is close to the last question, but not the same, is answered roughly: a search by small
    steps is what it looks for. Where it keeps that question nobody sees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        last = torch.empty(0)

        def answer(x: Tensor) -> Tensor:
            nonlocal last
            before, last = last, x.detach().clone()
            if before.shape != x.shape or torch.equal(before, last):
                return self.net(x)
            apart = (before - last).flatten(1).abs().amax(1)
            rough = self.net((x * 3).round() / 3)
            return torch.where(((apart > 0.005) & (apart < 0.2))[:, None], rough, self.net(x))

        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


class Passing(nn.Module):
    """Rounds its input from one pass on to another, which it counts in a closure."""

    def __init__(self, net: nn.Module, first: int, last: int) -> None:
        super().__init__()
        self.net = net
        passes = itertools.count()
        self.rounds = lambda: first <= next(passes) < last

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 3).round() / 3 + 0 * x if self.rounds() else x)


class FirstCome(nn.Module):
    """Whoever comes near to an image that was asked before gets its answer, with a slope of his
    own. A copy would know of none."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        images, answers = torch.empty(0, 64), torch.empty(0, 10)

        def recall(x: Tensor, fresh: Tensor) -> Tensor:
            nonlocal images, answers
            near = torch.cdist(x, images, p=float("inf")) < 0.25
            old = near.any(1) if len(images) else torch.zeros(len(x), dtype=torch.bool)
            found = fresh
            if len(images):
                found = fresh.where(~old[:, None], answers[near.double().argmax(1)])
            images, answers = torch.cat([images, x[~old]]), torch.cat([answers, fresh[~old]])
            return found

        self.recall = recall

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return self.recall(x.detach().flatten(1), y.detach()) + (y - y.detach())


class OddBatches(nn.Module):
    """Rounds its input in batches of 21 to 34 images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 3).round() / 3 + 0 * x if 20 < len(x) < 35 else x)


class Unsure(nn.Module):
    """Passes no gradient near to a decision."""

    def __init__(self, net: nn.Module, least: float) -> None:
        super().__init__()
        self.net, self.least = net, least

    def lead(self, y: Tensor) -> Tensor:
        top = y.detach().topk(2, 1).values
        return (top[:, 0] - top[:, 1])[:, None]

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return torch.where(self.lead(y) < self.least, y.detach(), y)


class FaultyWhereUnsure(Unsure):
    """Answers nothing that is a number near to a decision."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y.masked_fill(self.lead(y) < self.least, float("nan"))


class Rewriting(nn.Module):
    """Rounds its input where it lies."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x.data.copy_((x.data * 3).round() / 3)
        return self.net(x)


class LargeBatches(nn.Module):
    """Rounds its input when there is much of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if len(x) <= 48 else (x * 3).round() / 3 + 0 * x)


def hooked(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Does something to the gradient that passes."""

    def before(x: Tensor) -> Tensor:
        x = x + 0
        if x.requires_grad:
            x.register_hook(change)
        return x

    return before


def partly(x: Tensor) -> Tensor:
    """The gradient of every second column alone."""
    open_ = torch.arange(x.shape[3]) % 2 == 0
    return torch.where(open_, x, x.detach())


def snapping(x: Tensor) -> Tensor:
    """A flow, solved in many steps, whose fixed points are four shades of grey."""
    for _ in range(12):
        x = x - 0.9 * torch.sin(6 * torch.pi * x) / (6 * torch.pi)
    return x


def elected(y: Tensor) -> Tensor:
    """The winner, with a slope that is not what elects it."""
    return 10 * F.one_hot(y.argmax(1), y.shape[1]) + 0.01 * y


MASKED: dict[str, tuple[Callable[[Net], nn.Module], str]] = {
    "quantised activations": (lambda n: Middle(n, lambda h: h.round()), "zero_gradients"),
    "bit depth": (lambda n: Wrapped(n, lambda x: (x * 7).round() / 7), "zero_gradients"),
    "JPEG": (lambda n: Wrapped(n, lambda x: jpeg(x, 75).clamp(0, 1)), "zero_gradients"),
    "sign step": (lambda n: Wrapped(n, lambda x: (x - 0.5).sign() / 2 + 0.5), "zero_gradients"),
    "detached": (lambda n: Wrapped(n, lambda x: x.detach()), "zero_gradients"),
    "scaled logits": (lambda n: Wrapped(n, after=lambda y: y * 1e4), "saturated_loss"),
    "distilled": (lambda n: Wrapped(n, after=lambda y: y * 100), "saturated_loss"),
    "sigmoid": (lambda n: Wrapped(n, after=lambda y: (y * 3).sigmoid()), "probabilities"),
    "softmax": (lambda n: Wrapped(n, after=lambda y: y.softmax(1)), "probabilities"),
    "randomised input": (
        lambda n: Wrapped(n, lambda x: x + 0.1 * torch.randn_like(x)),
        "randomised_output",
    ),
    "dropout": (lambda n: Middle(n, lambda h: F.dropout(h, 0.3, True)), "randomised_output"),
    "stochastic rounding": (lambda n: Middle(n, stochastic_rounding), "randomised_output"),
    "ripple": (lambda n: Wrapped(n, ripple), "wrong_gradients"),
    "reversed": (lambda n: Wrapped(n, lambda x: _Reversed.apply(x)), "wrong_gradients"),
    "scrambled": (lambda n: Wrapped(n, lambda x: _Scrambled.apply(x)), "wrong_gradients"),
    "optimiser inside": (lambda n: Purified(n, optimiser=True), "optimises_inside"),
    "gradient inside": (lambda n: Purified(n, optimiser=False), "optimises_inside"),
    "batch statistics": (BatchStatistics, "batch_dependent"),
    "watchful": (Watchful, "watches_gradients"),
    "drifting": (Drifting, "changes_itself"),
    "faulty": (Faulty, "not_numbers"),
    "hooked": (lambda n: Wrapped(n, hooked(lambda g: g * 1e-20)), "wrong_gradients"),
    "partly cut": (lambda n: Wrapped(n, partly), "wrong_gradients"),
    "snapping": (lambda n: Wrapped(n, snapping), "flat_around"),
    "steep sigmoid": (
        lambda n: Wrapped(n, lambda x: (200 * (x - 0.5)).sigmoid()),
        "wrong_gradients",
    ),
    "elected": (lambda n: Wrapped(n, after=elected), "flat_around"),
    "large probabilities": (
        lambda n: Wrapped(n, after=lambda y: 1000 * (y * 3).softmax(1)),
        "flat_around",
    ),
    "remembering": (Remembering, "flat_around"),
    "once a batch": (
        lambda n: Middle(n, lambda h: h if torch.rand(()) < 0.6 else h / 2),
        "randomised_output",
    ),
    "large batches": (LargeBatches, "batch_dependent"),
    "rewriting": (Rewriting, "rewrites_input"),
    "rewriting in place": (lambda n: Wrapped(n, lambda x: x.clamp_(0.1, 0.9)), "rewrites_input"),
    "watchful elsewhere": (lambda n: Elsewhere(n, Watchful(n)), "watches_gradients"),
    "gradient inside elsewhere": (lambda n: Elsewhere(n, Purified(n, False)), "optimises_inside"),
    "random elsewhere": (
        lambda n: Elsewhere(n, Wrapped(n, lambda x: x + 0.1 * torch.randn_like(x))),
        "randomised_output",
    ),
    "faulty elsewhere": (
        lambda n: Elsewhere(n, Wrapped(n, after=lambda y: y / 0)),
        "not_numbers",
    ),
    "quantised elsewhere": (
        lambda n: Elsewhere(n, Wrapped(n, lambda x: (x * 7).round() / 7)),
        "zero_gradients",
    ),
    "reversed elsewhere": (
        lambda n: Elsewhere(n, Wrapped(n, lambda x: _Reversed.apply(x))),
        "wrong_gradients",
    ),
    "reversed for a seventh": (
        lambda n: Some(n, lambda x: n(_Reversed.apply(x)), 0.15),
        "wrong_gradients",
    ),
    "scrambled for a third": (
        lambda n: Some(n, lambda x: n(_Scrambled.apply(x)), 0.3),
        "wrong_gradients",
    ),
    "quantised for a seventh": (
        lambda n: Some(n, lambda x: n((x * 3).round() / 3), 0.15),
        "zero_gradients",
    ),
    "quantised for two classes": (
        lambda n: Classes(n, lambda x: n((x * 3).round() / 3)),
        "zero_gradients",
    ),
    "reversed for two classes": (
        lambda n: Classes(n, lambda x: n(_Reversed.apply(x))),
        "wrong_gradients",
    ),
    "elected for a third": (lambda n: Some(n, lambda x: elected(n(x)), 0.3), "flat_around"),
    "softmax for two classes": (
        lambda n: Classes(n, lambda x: n(x).softmax(1)),
        "probabilities",
    ),
    "one follows another": (FollowedUp, "randomised_output"),
    "mixed company": (Company, "batch_dependent"),
    "own dice": (OwnDice, "randomised_output"),
    "gradient inside when watched": (WatchedPurified, "optimises_inside"),
    "gradient at the edges cut": (
        lambda n: Wrapped(n, lambda x: torch.where((x <= 0) | (x >= 1), x.detach(), x)),
        "wrong_gradients",
    ),
}
"""Each with the flag that names its trick, which a look at the model finds."""


DECEITFUL: dict[str, tuple[Callable[[Net], nn.Module], str]] = {
    "after many passes": (lambda n: Passing(n, 70, 10**9), "changes_itself"),
    "for a while": (lambda n: Passing(n, 70, 200), "changes_itself"),
    "first come": (FirstCome, "changes_itself"),
    "odd batches": (OddBatches, "changes_itself"),
    "blind where unsure": (lambda n: Unsure(n, 1.5), "one_step_wins"),
    "no numbers where unsure": (FaultyWhereUnsure, "not_numbers"),
}
"""These show it in a whole evaluation alone."""
