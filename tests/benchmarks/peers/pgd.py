"""PGD-40 in linf, against the same attack of five libraries."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks import PGD, attack
from tests.benchmarks.peers import libraries
from tests.benchmarks.peers.judging import Pairs, duel, judge
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

TARGETS = {False: 0.10, True: 0.40}
"""Of Foolbox's CPU, on a net that was not trained against attacks and on one that was."""

STEPS = 40


def main(setting: Setting) -> list[Row]:
    """A row for each net."""
    return [_compare(on, setting) for on in subjects(setting)]


def _compare(on: Subject, setting: Setting) -> Row:
    step_size = on.eps / 30
    spec = PGD(eps=on.eps, steps=STEPS, step_size=step_size)
    peers = libraries.pgd(on.eps, STEPS, step_size)

    def ours(turn: int) -> Tensor:
        generator = torch.Generator().manual_seed(turn)
        return attack(on.model, on.images, on.labels, spec, generator=generator).adversarial

    def theirs(name: str, _: int) -> Tensor:
        return peers[name](on.model, on.images, on.labels)

    ways: dict[str, Callable[[int], Tensor]] = {
        "Crucible": ours,
        "pure passes": lambda turn: _passes(on),
        **{name: partial(theirs, name) for name in peers},
    }
    seconds, found = duel(ways, setting.repeats)
    last = {
        name: judge(on.model, on.images, on.labels, images[-1], "linf", on.eps)
        for name, images in found.items()
        if name != "pure passes"
    }
    against = {name: Pairs.of(last["Crucible"], last[name]) for name in peers}
    weaker = [name for name, pairs in against.items() if pairs.weaker]
    share = ratios(seconds["Crucible"], seconds["Foolbox"])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    target = TARGETS[on.hardened]
    each = "; ".join(
        f"{name} {middle[name] / middle['pure passes']:.2f} passes, robust {last[name].accuracy()}"
        + (f", {against[name]}" if name in against else "")
        for name in last
    )
    return Row(
        f"PGD-{STEPS} linf, {on.name} net, eps {on.eps:.3g}, {len(on.labels)} images: CPU against "
        "Foolbox, accuracy against all",
        f"<= {target}, accuracy not above",
        spread(share),
        (statistics.median(share) <= target and not weaker) if setting.whole else None,
        f"{middle['Crucible']:.2f} s, Foolbox {middle['Foolbox']:.2f} s, in units of {STEPS} pure "
        f"passes ({middle['pure passes']:.2f} s): {each}"
        + (f". Weaker than {', '.join(weaker)}" if weaker else ""),
    )


def _passes(on: Subject) -> Tensor:
    """The passes that no PGD can do without."""
    x = on.images
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(on.model(x), on.labels, reduction="sum")
        torch.autograd.grad(loss, x)
    return x.detach()
