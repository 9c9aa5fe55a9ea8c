"""Pictures of an evaluation: the first samples while its attacks run, and at the end the worst that
was found for each sample that was broken.

Nothing is asked of the model for them: probabilities are those of the answers that broke a sample.
The pictures of the moment take at most a hundredth of the time to make; what is stored are those
after each attack, which can be replayed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.attacks.result import Iteration
from engine.attacks.showing import SIDE, Gallery, captions, pictures
from engine.attacks.spec import AttackSpec, MinimalNorm, Norm
from engine.events import Event, Table

if TYPE_CHECKING:
    from engine.robustness.searching import Found, Subject

PERIOD = 0.1
"""Seconds between two pictures of the moment, at least."""

SHARE = 100
"""The time between two of them, at least, in what making one took."""

MOST = 256
"""Samples of the worst case that are shown, at most."""

MOST_BYTES = 2**20
"""Of one set of their pictures."""

NAMES = ("worst_clean", "worst_adversarial", "worst_perturbation")


class Stage:
    """The first `shown` samples of `on`, under one attack after the other."""

    def __init__(self, on: Subject, shown: int) -> None:
        self._on = on
        self._shown = min(shown, len(on))
        self._gallery: Gallery | None = None
        unknown = torch.full((len(on), on.clean.shape[1]), float("nan"))
        self._found, self._kept = unknown, unknown.clone()
        """Class probabilities, (N, K), of what broke a sample: in this attack, and in the worst."""
        self._broken = torch.zeros(len(on), dtype=torch.bool)
        self._counted = self._broken.clone()
        self._by: dict[int, tuple[str, Norm]] = {}
        self._name, self._number, self._step = "", 0, 0
        self._next = 0.0
        self._part = self._few = torch.arange(0)
        """The present batch, and which of it are shown; how many of it are broken."""
        self._count = 0

    def begin(self, name: str, spec: AttackSpec, rows: Tensor, left: int) -> Iterator[Event]:
        """`spec`, called `name`, attacks the samples `rows` now; `left` are still correct."""
        self._name, self._spec = name, spec
        self._number += 1
        self._found.fill_(float("nan"))
        self._broken.zero_()
        yield Table(
            "running",
            ("attack", "number", "attacked", "left", "samples", "correct"),
            ((name, self._number, len(rows), left, len(self._on), int(self._on.correct.sum())),),
        )
        if not self._shown:
            return
        if self._gallery is None:
            images, labels = self._on.images(torch.arange(self._shown))
            logits = self._on.clean[: self._shown]
            self._gallery = Gallery(spec, images, labels, logits, 1)
            yield self._gallery.clean()
            yield from self._frames(keep=True)
        self._gallery.turn(spec)

    def watch(self, part: Tensor, now: Iteration) -> Iterator[Event]:
        """Take up what an iteration says of its batch, the samples `part` in ascending order; and
        show it, if it is time."""
        if self._gallery is None:
            return
        begun = time.perf_counter()
        if part is not self._part:
            self._part, self._few, self._count = part, part[part < self._shown], 0
        fresh = self._note(part, now)
        due = begun >= self._next
        frames: tuple[Event, ...] = ()
        if len(self._few) and (due or bool((fresh < self._shown).any())):
            self._gallery.take(now, self._few)
        if len(self._few) and due:
            frames = tuple(self._frames(keep=False))
            ended = time.perf_counter()
            self._next = ended + max(PERIOD, SHARE * (ended - begun))
        yield from frames

    def _note(self, part: Tensor, now: Iteration) -> Tensor:
        """Keep what the model said where a sample of the batch has just been broken: int64 (M,),
        the places of these."""
        count = int(now.success.sum())
        if count == self._count:
            return part[:0]
        self._count = count
        success = now.success.cpu()
        fresh = success & ~self._broken[part]
        self._broken[part] |= success
        active = now.active.cpu()
        hit = fresh[active]
        self._found[part[active[hit]]] = now.logits[hit.to(now.logits.device)].softmax(1).cpu()
        return part[fresh]

    def end(self, worst: Found) -> Iterator[Event]:
        """The attack is over; `worst` is what all so far have found."""
        new = self._credit(self._name, self._spec.norm, worst)
        if not isinstance(self._spec, MinimalNorm):  # those go on after they broke a sample
            self._kept[new] = self._found[new]
        yield from self._settle(worst)

    def further(self, name: str, norm: Norm, worst: Found) -> Iterator[Event]:
        """`worst` has grown by what `name`, which is not watched, has found."""
        if len(self._credit(name, norm, worst)):
            yield from self._settle(worst)

    def _credit(self, name: str, norm: Norm, worst: Found) -> Tensor:
        """Remember who has broken those of `worst` that are new: int64 (M,), their places."""
        new = (worst.success & ~self._counted).nonzero().squeeze(1)
        self._counted[new] = True
        for place in new.tolist():
            self._by[place] = name, norm
        return new

    def _settle(self, worst: Found) -> Iterator[Event]:
        if self._gallery is None:
            return
        assert worst.adversarial is not None
        at = worst.success[: self._shown].nonzero().flatten()
        self._gallery.settle(
            at,
            worst.adversarial[at],
            worst.predictions[at],
            self._kept[at],
            worst.norm[at],
            [self._remark(place) for place in at.tolist()],
        )
        yield from self._frames(keep=True)
        self._next = 0.0

    def _remark(self, place: int) -> dict[str, Any]:
        name, norm = self._by[place]
        return {"attack": name, "measured": norm}

    def _frames(self, *, keep: bool) -> Iterator[Event]:
        assert self._gallery is not None
        yield from self._gallery.frames(self._step, last=False, keep=keep)
        self._step += 1

    def worst(self, worst: Found) -> Iterator[Event]:
        """The samples that were broken, each with the image that did it."""
        on = self._on
        channels, height, width = on.test.shape
        smaller = min(1.0, SIDE / max(height, width))
        each = max(1, round(height * smaller) * round(width * smaller)) * (3 if channels > 1 else 1)
        rows = worst.success.nonzero().squeeze(1)[: min(MOST, max(1, MOST_BYTES // each))]
        if not self._shown or not len(rows):
            return
        assert worst.adversarial is not None
        clean = on.images(rows)[0].cpu()
        broken = worst.adversarial[rows]
        before = on.clean[rows.to(on.clean.device)].softmax(1).cpu()
        labels, none = on.labels[rows].tolist(), torch.zeros(len(rows))
        first = tuple(captions(labels, on.predictions[rows], before, none))
        found = captions(labels, worst.predictions[rows], self._kept[rows], worst.norm[rows])
        last = tuple(
            known | self._remark(place) for place, known in zip(rows.tolist(), found, strict=True)
        )
        change = broken - clean
        scale = max(change.abs().max().item(), 1 / 255)
        yield pictures(NAMES[0], clean, first)
        yield pictures(NAMES[1], broken, last)
        yield pictures(NAMES[2], change, last, scale=scale)
