"""Attacks whose choices were made by looking at images, against the peers' at other images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from engine.attacks import attack
from engine.attacks.spec import APGD, EAD, FAB, JSMA, PGD, AttackSpec, Square
from tests.benchmarks.peers import libraries
from tests.benchmarks.peers.judging import Pairs, duel, judge, relative
from tests.benchmarks.peers.libraries import Attack
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row

Bounded: TypeAlias = Literal["linf", "l2", "l1"]
Climbed: TypeAlias = Literal["cross_entropy", "dlr"]

STEPS = 40

DEAR = 50
"""Images of what asks for the gradient of every class at every step."""


def main(setting: Setting) -> list[Row]:
    """Rows for each net."""
    rows = []
    for on in subjects(setting):
        for spec, eps, peers in _duels(on, setting.quick):
            rows.append(_compare(on, spec, eps, peers))
            print(f"    {rows[-1].what}: {rows[-1].figure}", flush=True)
    return rows


def _duels(on: Subject, quick: bool) -> list[tuple[AttackSpec, float, Mapping[str, Attack]]]:
    """What is compared: our spec, the radius that counts, the peers."""
    l2, l1 = on.scale * (2.0 if on.hardened else 1.0), on.scale * 10.0
    linf = on.eps if on.hardened else on.eps / 3
    pace = {norm: 2.5 * eps / STEPS for norm, eps in (("l2", l2), ("l1", l1))}
    pgd_l2 = {
        "Foolbox": libraries.foolbox_pgd("l2", l2, STEPS, pace["l2"]),
        "torchattacks": libraries.torchattacks_pgd_l2(l2, STEPS, pace["l2"]),
    }
    pgd_l1 = {
        "Foolbox": libraries.foolbox_pgd("l1", l1, STEPS, pace["l1"]),
        "ART": libraries.art_pgd_l1(l1, STEPS, pace["l1"]),
    }
    found: list[tuple[AttackSpec, float, Mapping[str, Attack]]] = [
        (PGD(norm="l2", eps=l2, steps=STEPS, step_size=pace["l2"]), l2, pgd_l2),
        (PGD(norm="l1", eps=l1, steps=STEPS, step_size=pace["l1"]), l1, pgd_l1),
    ]
    radii: tuple[tuple[Bounded, float], ...] = (("linf", linf), ("l2", l2), ("l1", l1))
    losses: tuple[tuple[Climbed, str], ...] = (("cross_entropy", "ce"), ("dlr", "dlr"))
    for norm, eps in radii:
        for loss, theirs in losses:
            spec = APGD(norm=norm, eps=eps, loss=loss, larger_radii=norm == "l1")
            found.append((spec, eps, {"authors": libraries.authors_apgd(norm, eps, 0, theirs)}))
    if quick:
        return found
    queries = 500
    for norm, eps in radii:
        found.append(
            (FAB(norm=norm, eps=eps), eps, {"authors": libraries.authors_fab(norm, eps, 0)})
        )
        found.append(
            (
                Square(norm=norm, eps=eps, steps=queries, rescale_schedule=False),
                eps,
                {"authors": libraries.authors_square(norm, eps, queries, 0)},
            )
        )
    found.append(
        (
            EAD(steps=100, searches=5, decision="l1"),
            float("inf"),
            {"Foolbox": libraries.foolbox_ead(5, 100)},
        )
    )
    if on.images.shape[1] == 1:  # torchattacks asks for a Jacobian a step, and for square images
        found.append(
            (JSMA(targeted=True), float("inf"), {"torchattacks": libraries.torchattacks_jsma})
        )
    return found


def _compare(on: Subject, spec: AttackSpec, eps: float, peers: Mapping[str, Attack]) -> Row:
    few = DEAR if isinstance(spec, JSMA | FAB) else len(on.labels)
    images, labels = on.images[:few], on.labels[:few]
    ways = {
        "ours": lambda turn: (
            attack(
                on.model, images, labels, spec, generator=torch.Generator().manual_seed(turn)
            ).adversarial
        )
    }
    for name, peer in peers.items():

        def theirs(turn: int, peer: Attack = peer) -> Tensor:
            return peer(on.model, images, labels)

        ways[name] = theirs
    seconds, found = duel(ways, 1, warm=False)
    norm = spec.norm
    verdicts = {
        name: judge(on.model, images, labels, x[-1], norm, eps) for name, x in found.items()
    }
    mine = verdicts.pop("ours")
    against = {name: Pairs.of(mine, verdict) for name, verdict in verdicts.items()}
    weaker = [name for name, pairs in against.items() if pairs.weaker]
    sizes = eps == float("inf")
    if sizes:
        best = min(verdict.median for verdict in verdicts.values())
        figure = f"median {norm} {mine.median:.4g}, theirs {best:.4g}"
    else:
        best = min(verdict.robust.double().mean().item() for verdict in verdicts.values())
        figure = f"robust {mine.accuracy()}, theirs {best:.3f}"
    each = "; ".join(
        f"{name} {statistics.median(seconds[name]):.2f} s, {against[name]}"
        + (f", median {verdict.median:.4g}, ours {relative(mine, verdict)}" if sizes else "")
        for name, verdict in verdicts.items()
    )
    loss = f" {spec.loss}" if isinstance(spec, APGD) else ""
    radius = "" if sizes else f", eps {eps:.3g}"
    return Row(
        f"{spec.kind} {norm}{loss}, {on.name} net{radius}, {len(labels)} images",
        "not weaker",
        figure,
        not weaker,
        f"ours {statistics.median(seconds['ours']):.2f} s; {each}",
    )
