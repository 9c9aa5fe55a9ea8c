"""What a gan run shows of itself: figures and samples at looks, which lie at fixed iterations, and
the plane, which is drawn as often as time allows.

Nothing here has an influence on the training, and it draws on nothing but numbers of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attacks.showing import as_pixels
from engine.events import Array, Event, Images, Note, Scalars, Table
from engine.generative import health, modes
from engine.generative.latents import quantile_grid
from engine.generative.losses import generator_loss, looks_at_real
from engine.generative.metrics.neighbours import Search
from engine.generative.points import PointSet
from engine.generative.sampling import even_labels, latents
from engine.generative.scoring import scored
from engine.random import derive

if TYPE_CHECKING:
    from engine.data import Split
    from engine.generative.training import Trainer

LOOKS = 100
"""Of a run, at most."""

APART = {False: 10, True: 1}
"""Iterations from one to the next, at least: of images, of points."""

POINTS = 1024
"""Generated points that are shown, of each seed."""

PICTURES = 64
"""Generated images that are shown, of all seeds together; at least `FEWEST` of each."""

FEWEST = 8

PAIRS = 256
"""Samples whose distances tell how diverse they are."""

SIDE = 64
"""Of the map of the critic."""

ARROWS = 128
CODES = 8
MESH = 12
"""Side of the deformed grid of latents; one for each of so many codes."""

DRAWN_EVERY = 0.1
"""Seconds between two drawings of the plane, at least."""

DRAWN_SHARE = 0.02
"""Share of the time that drawing it may take."""

NEIGHBOURS_EVERY = 10
"""Looks from one search of the training images to the next."""

ASIDE = 200
"""Images kept aside that tell how near is usual."""

KEPT = 48 * 2**20
"""Bytes of shown samples that a run keeps: not all looks where they are large, and the last."""

AGAIN = 20
"""Looks for which a trouble has to be away before it is warned of anew."""

REACHED = 0.2
"""Of its even share of the samples, with which a mode counts as reached, near or far from it."""

BLOCK = 2000


class Watcher:
    """Looks at the networks of a trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        spec, source = trainer.spec, trainer.source
        self.points = source.points
        self.seeds = spec.seeds
        self.classes = trainer.draws.classes
        apart = APART[self.points is not None]
        self.every = max(apart, math.ceil(spec.iterations / LOOKS))
        self.watches = [health.Watch() for _ in range(self.seeds)]
        self._looked = 0
        self._looks = 0
        self._seen: list[dict[str, int]] = [{} for _ in range(self.seeds)]
        """Of each seed every trouble that it had, and the look at which it had it last."""
        self._before: Tensor | None = None
        self._usual: float | None = None
        self._drawn_at, self._draw_cost = -math.inf, 0.0
        self._real = self._some_real()
        self._count = POINTS if self.points is not None else max(FEWEST, PICTURES // self.seeds)
        ids = torch.arange(self._count)
        self._latents = self._of_seeds("shown", ids)
        self._labels = self._told(ids)
        size = math.prod(source.shape) * (4 if self.points is not None else 1)
        every_look = (LOOKS + 2) * self.seeds * self._count * size
        self._keep_every = max(1, math.ceil(every_look / KEPT))
        self._apart = modes.apart(self._real_outside()[:PAIRS].flatten(1))
        # What does not change from one drawing to the next.
        self._places = self._even_places() if self.points is not None else None
        self._mesh = self._even_latents() if self.points is not None else None

    # --- when ---------------------------------------------------------------------------------

    def due(self, iteration: int) -> bool:
        """Whether a look has to be taken before the next iteration."""
        ends = iteration == self.trainer.spec.iterations
        return iteration != self._looked and (iteration % self.every == 0 or ends)

    def begin(self) -> Iterator[Event]:
        """What is shown before the first step."""
        if self.points is not None:
            yield Array("real", _plain(self._real_outside()), about=self._about())
        if self.trainer.at.iteration == 0:
            yield from self._shown(keep=True)[1]

    def hear(self, step: int, values: Mapping[str, float]) -> None:
        """What an iteration said: loss and gradient of each network."""
        for index, watch in enumerate(self.watches):
            own = f"@{index}/" if index else "/"
            mine = {
                name.replace(own, "/"): value
                for name, value in values.items()
                if name.startswith((f"critic{own}", f"generator{own}"))
            }
            if mine:
                watch.hear(mine)

    def look(self) -> list[Event]:
        """What is to be shown after a burst: at a look everything, else the plane where it is
        time."""
        iteration, half = self.trainer.at.iteration, self.trainer.at.half
        events: list[Event] = []
        if half == 0 and self.due(iteration):
            self._looked = iteration
            events += self._figures()
        stepping = self.trainer.bench.single_step
        waited = time.perf_counter() - self._drawn_at
        if self.points is not None and (
            stepping or waited >= max(DRAWN_EVERY, self._draw_cost / DRAWN_SHARE)
        ):
            begun = time.perf_counter()
            events += self._plane(self.points)
            self._drawn_at = time.perf_counter()
            self._draw_cost = self._drawn_at - begun
        elif self.points is None and stepping and not events:
            events += self._shown(keep=False)[1]
        return events

    # --- looks --------------------------------------------------------------------------------

    def _figures(self) -> list[Event]:
        step = self.trainer.at.iteration
        ends = step == self.trainer.spec.iterations
        samples, events = self._shown(keep=ends or self._looks % self._keep_every == 0)
        figures = self._measured(samples)
        self._looks += 1
        if self.points is None and (ends or self._looks % NEIGHBOURS_EVERY == 1):
            events += self._neighbours(samples, figures)
        else:
            for own in figures:
                own["nearer"] = None
        events += self._health(samples, figures)
        columns = [name for name in figures[0] if figures[0][name] is not None]
        rows = tuple(
            (self.trainer.draws.seeds[k], *(_short(own[name]) for name in columns))
            for k, own in enumerate(figures)
        )
        events.append(Table("seeds", ("seed", *columns), rows))
        values = {
            f"{f'samples@{k}' if k else 'samples'}/{name}": float(value)
            for k, own in enumerate(figures)
            for name, value in own.items()
            if value is not None and name != "modes"
        }
        events.append(Scalars(step, values))
        return events

    def _shown(self, keep: bool) -> tuple[Tensor, list[Event]]:
        """Samples of fixed latents, (S, N, ...), by the generators that would be handed over."""
        made = self._made(self._latents, self._labels)
        step = self.trainer.at.iteration
        if self.points is not None:
            outside = self.points.outside(made)
            found = Array("generated", _plain(outside), step, keep, self._about())
            return outside, [found]
        captions = tuple(
            {"seed": self.trainer.draws.seeds[k], **self._caption(index)}
            for k in range(self.seeds)
            for index in range(self._count)
        )
        pixels = _pixels(made.flatten(0, 1))
        return made, [Images("samples", pixels, captions, step, keep=keep)]

    def _caption(self, index: int) -> dict[str, Any]:
        if self._labels is None:
            return {}
        return {"label": self.trainer.source.classes[int(self._labels.reshape(-1)[index])]}

    def _measured(self, samples: Tensor) -> list[dict[str, Any]]:
        """Of each seed: modes covered, high quality, diversity."""
        varied = (modes.apart(samples.flatten(2)[:, :PAIRS]) / self._apart).tolist()
        if self.points is None:
            return [{"diversity": value} for value in varied]
        found = []
        for own, value in zip(samples, varied, strict=True):
            judged = modes.coverage(own, self.points)
            found.append(
                {
                    "modes_covered": judged.covered,
                    "modes": judged.modes,
                    "high_quality": judged.high_quality,
                    "mode_tv": judged.mode_tv,
                    "spread": judged.spread,
                    "diversity": value,
                    "shares": judged.shares,
                    "reached": int((judged.shares * judged.modes >= REACHED).sum()),
                }
            )
        return found

    def _health(self, samples: Tensor, figures: list[dict[str, Any]]) -> list[Event]:
        """What goes wrong, and a word where it begins."""
        step = self.trainer.at.iteration
        changes = self.trainer.bench.changes
        spec = health.as_set(
            self.trainer.spec, {c.name: c.value for c in changes if c.step <= step}
        )
        events: list[Event] = []
        shares = [own.pop("shares", None) for own in figures]
        reached = [own.pop("reached", 0) for own in figures]
        moved = self._moved(samples)
        if self.points is not None:
            about = {"expected": self._expected(), "labels": list(self.points.mode_names)}
            both = np.stack([_plain(share) for share in shares])
            events.append(Array("modes", both, step, True, about))
        rows = []
        for index, (own, watch) in enumerate(zip(figures, self.watches, strict=True)):
            look = health.Look(
                share=step / spec.iterations,
                reached=reached[index],
                modes=own.get("modes", 0),
                diversity=own["diversity"],
                moved=moved[index],
                nearer=own["nearer"],
            )
            troubles = watch.look(spec, look)
            seed, seen = self.trainer.draws.seeds[index], self._seen[index]
            for each in troubles:
                rows.append((seed, each.kind, each.evidence, each.try_1, each.try_2))
                if self._looks - seen.get(each.kind, -math.inf) > AGAIN:
                    text = f"seed {seed}: {each.kind} ({each.evidence}); "
                    text += f"try {each.try_1} or {each.try_2}"
                    events.append(Note("warning", text))
                seen[each.kind] = self._looks
        events.append(Table("health", health.COLUMNS, tuple(rows)))
        return events

    def _moved(self, samples: Tensor) -> list[float | None]:
        """What share of each seed's samples went elsewhere since the last look: to another mode;
        of images, how far they went, as a share of how far two of them are apart."""
        if self.points is not None:
            where = torch.stack([_modes(own, self.points) for own in samples])
            before, self._before = self._before, where
            if before is None:
                return [None] * self.seeds
            return [float(share) for share in (where != before).double().mean(1)]
        flat = samples.flatten(2)
        before, self._before = self._before, flat
        if before is None:
            return [None] * self.seeds
        apart = torch.stack([torch.pdist(own).mean() for own in flat]).clamp_min(1e-6)
        far = (flat - before).norm(dim=2).mean(1)
        return [float(share) for share in (far / apart).clamp(0, 1)]

    def _neighbours(self, samples: Tensor, figures: list[dict[str, Any]]) -> list[Event]:
        """The nearest training image of each shown sample; how near, against images kept aside."""
        assert self.trainer.source.images is not None
        data = self.trainer.source.images
        shown = samples.flatten(0, 1).add(1).mul(0.5)
        search = _among(shown, data.train)
        if self._usual is None:
            aside = data.validation if len(data.validation) else data.test
            images, _ = aside.batch(torch.arange(min(ASIDE, len(aside))))
            self._usual = float(_among(images, data.train).found().distance.median())
        found = search.found()
        distance = found.distance.unflatten(0, (self.seeds, -1))
        usual = max(self._usual, 1e-6)
        for own, each in zip(figures, distance, strict=True):
            own["nearer"] = float(each.median()) / usual
        images, labels = data.train.batch(found.place.cpu())
        captions = tuple(
            {"label": data.classes[label], "distance": round(far, 3)}
            for label, far in zip(labels.tolist(), found.distance.tolist(), strict=True)
        )
        pixels = _pixels(images.mul(2).sub(1))
        return [Images("neighbours", pixels, captions, self.trainer.at.iteration)]

    # --- the plane ----------------------------------------------------------------------------

    def _plane(self, points: PointSet) -> list[Event]:
        """What the critic says of the plane, where the generator's points are drawn to, and what
        it makes of a grid of latents."""
        trainer, step = self.trainer, self.trainer.at.iteration
        about = self._about()
        kind = "probability" if trainer.spec.loss.probability else "score"
        made = self._made(self._latents, self._labels)
        return [
            Array("generated", _plain(points.outside(made)), step, False, about),
            Array("surface", self._surface(), step, False, {**about, "kind": kind}),
            Array("arrows", self._arrows(made, points), step, False, about),
            Array("manifold", self._manifold(points), step, False, about),
        ]

    def _surface(self) -> NDArray[np.float32]:
        """(S, SIDE, SIDE), rows from low y to high y; of the first class."""
        assert self._places is not None
        with torch.no_grad():
            found = self.trainer.critic(*self._places)
            if self.trainer.spec.loss.probability:
                found = found.sigmoid()
        return _plain(found.reshape(self.seeds, SIDE, SIDE))

    def _even_places(self) -> tuple[Tensor, Tensor | None]:
        """What the critic is asked of for a map: places (S, SIDE * SIDE, 2) and classes."""
        assert self.points is not None
        x0, x1, y0, y1 = self.points.extent
        x, y = (torch.linspace(a, b, SIDE) for a, b in ((x0, x1), (y0, y1)))
        places = torch.stack([x.expand(SIDE, SIDE), y[:, None].expand(SIDE, SIDE)], -1)
        inside = self.points.inside(places.reshape(-1, 2)).to(self.trainer.bench.device)
        labels = None
        if self.classes:
            labels = torch.zeros(len(inside), dtype=torch.int64, device=inside.device)
        return self._alike(inside), self._alike(labels)

    def _arrows(self, made: Tensor, points: PointSet) -> NDArray[np.float32]:
        """(S, ARROWS, 4): a point, and the way on which the generator's loss falls fastest."""
        trainer = self.trainer
        some = made[:, :ARROWS] if self.seeds > 1 else made[0, :ARROWS]
        some = some.detach().requires_grad_()
        labels = None if self._labels is None else self._labels[..., :ARROWS]
        with torch.enable_grad():
            outputs = trainer.critic(some, labels)
            real = None
            if looks_at_real(trainer.spec.loss):
                near = self._alike(self._real[: some.shape[-2]].to(some))
                real = trainer.critic(near, labels).detach()
            loss = generator_loss(trainer.spec.loss, outputs, real).sum() * some.shape[-2]
            (slope,) = torch.autograd.grad(loss, some)
        both = torch.cat([points.outside(some.detach()), -slope / points.unit], -1)
        return _plain(both.reshape(self.seeds, -1, 4))

    def _manifold(self, points: PointSet) -> NDArray[np.float32]:
        """(S, K, MESH, MESH, 2): images of an even grid over the first two latents."""
        assert self._mesh is not None
        made = self._made(*self._mesh)
        return _plain(points.outside(made).reshape(self.seeds, -1, MESH, MESH, 2))

    def _even_latents(self) -> tuple[Tensor, Tensor | None]:
        """What a generator is given for those: (S, K * MESH * MESH, width) and classes."""
        latent, device = self.trainer.spec.latent, self.trainer.bench.device
        grid = quantile_grid(MESH, latent.size, latent.distribution).reshape(-1, latent.size)
        shown = max(1, min(CODES, latent.codes or self.classes))
        width = torch.zeros(shown, len(grid), latent.width)
        width[..., : latent.size] = grid
        for code in range(shown if latent.codes else 0):
            width[code, :, latent.size + code] = latent.code_scale
        labels = None
        if self.classes:
            per = torch.arange(shown) % self.classes if not latent.codes else torch.zeros(shown)
            labels = per.long().repeat_interleave(len(grid)).to(device)
        return self._alike(width.flatten(0, 1).to(device)), self._alike(labels)

    # --- the end ------------------------------------------------------------------------------

    def judge(self) -> Generator[Event, None, dict[str, Any]]:
        """The figures of the summary, from samples that were not shown."""
        if self.points is None:
            samples = self._made(self._latents, self._labels)
            per = [{"diversity": round(own["diversity"], 5)} for own in self._measured(samples)]
            assert self.trainer.source.images is not None
            scores = yield from scored(
                [self.trainer.alone(index) for index in range(self.seeds)],
                self.trainer.spec.latent,
                self.trainer.draws.seeds,
                self.classes,
                self.trainer.source.images,
                self.trainer.bench,
            )
            per = [{**own, **score} for own, score in zip(per, scores, strict=True)]
        else:
            per = self._judged_points(self.points)
        summary: dict[str, Any] = dict(per[0])
        if self.seeds > 1:
            summary["by_seed"] = {
                "seed": list(self.trainer.draws.seeds),
                **{name: [own.get(name) for own in per] for name in per[0]},
            }
        return summary

    def _judged_points(self, points: PointSet) -> list[dict[str, Any]]:
        ids = torch.arange(modes.JUDGED)
        made = points.outside(self._made(self._of_seeds("judged", ids), self._told(ids)))
        varied = (modes.apart(made[:, :PAIRS]) / self._apart).tolist()
        found = []
        for own, value in zip(made, varied, strict=True):
            judged = modes.coverage(own, points)
            figures = {
                "modes_covered": judged.covered,
                "modes": judged.modes,
                "high_quality": round(judged.high_quality, 5),
                "mode_tv": round(judged.mode_tv, 5),
                "reverse_kl": round(judged.reverse_kl, 5),
                "diversity": round(value, 5),
            }
            if judged.spread is not None:
                figures["spread"] = round(judged.spread, 5)
            found.append(figures)
        return found

    def troubles(self, *, now: bool = False) -> dict[str, list[int]]:
        """Each trouble that was said, and the seeds that had it; `now`: at the last look."""
        found: dict[str, list[int]] = {}
        for seed, seen in zip(self.trainer.draws.seeds, self._seen, strict=True):
            for kind, look in seen.items():
                if not now or look == self._looks:
                    found.setdefault(kind, []).append(seed)
        return dict(sorted(found.items()))

    # --- going on -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the next look depends on beside `tensors`, as JSON values."""
        return {
            "looked": self._looked,
            "looks": self._looks,
            "watches": [watch.state() for watch in self.watches],
            "seen": self._seen,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._before is None else {"before": self._before}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        if "before" in tensors:
            self._before = tensors["before"].to(self.trainer.bench.device)
        self._looked, self._looks = state["looked"], state["looks"]
        self.watches = [health.Watch(**watch) for watch in state["watches"]]
        self._seen = [dict(seen) for seen in state["seen"]]

    # --- of all seeds -------------------------------------------------------------------------

    def _made(self, given: Tensor, labels: Tensor | None) -> Tensor:
        """Samples (S, N, ...) in units of the networks."""
        with torch.no_grad():
            made = self.trainer.present.made(given, labels)
        return made if self.seeds > 1 else made[None]

    def _of_seeds(self, purpose: str, ids: Tensor) -> Tensor:
        """Latents (S, N, width), of one seed (N, width)."""
        latent = self.trainer.spec.latent
        each = [latents(latent, derive(s, purpose), ids) for s in self.trainer.draws.seeds]
        found = torch.stack(each) if self.seeds > 1 else each[0]
        return found.to(self.trainer.bench.device)

    def _told(self, ids: Tensor) -> Tensor | None:
        labels = even_labels(ids, self.classes)
        return None if labels is None else self._alike(labels.to(self.trainer.bench.device))

    def _alike(self, values: Any) -> Any:
        """The same for every seed: (S, ...), of one seed as it is."""
        if values is None or self.seeds == 1:
            return values
        return values.expand(self.seeds, *values.shape)

    def _some_real(self) -> Tensor:
        """Real samples to compare with, in units of the networks: points, or images."""
        draw = self.trainer.bench.generator("real")
        source = self.trainer.source
        if source.points is not None:
            points, _ = source.points.draw(POINTS, draw)
            return source.points.inside(points)
        assert source.images is not None
        order = torch.randperm(len(source.images.train), generator=draw)[:PAIRS]
        images, _ = source.images.train.batch(order)
        return images.mul(2).sub(1)

    def _real_outside(self) -> Tensor:
        """The same in units of what is generated."""
        return self._real if self.points is None else self.points.outside(self._real)

    def _about(self) -> dict[str, Any]:
        assert self.points is not None
        return {"extent": list(self.points.extent)}

    def _expected(self) -> list[float]:
        assert self.points is not None
        counts = torch.bincount(self.points.modes, minlength=self.points.count).double()
        shares: list[float] = (counts / counts.sum()).tolist()
        return shares


def _modes(samples: Tensor, points: PointSet) -> Tensor:
    """The mode of each sample, int64 (N,); of what is no number, any."""
    return points.modes[modes.nearest(samples.cpu().nan_to_num(), points.centres)[1]]


def _among(images: Tensor, split: Split) -> Search:
    """A search through all images of a split."""
    search = Search(images)
    for _, part, _ in split.batches(torch.arange(len(split)), BLOCK):
        search.among(part)
    return search


def _plain(values: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = values.detach().float().cpu().numpy()
    return found


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images in [-1, 1], (N, C, H, W), as uint8 (N, H, W, C)."""
    found: NDArray[np.uint8] = as_pixels(images.add(1).mul(127.5))
    return found


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
