"""How the playground draws a run (see `gan_panel`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from engine.events import Array, Images, Table
from engine.store import RunInfo
from engine.task import live_fields
from workbench import theme
from workbench.i18n import mark, tr
from workbench.mailbox import News
from workbench.panels.gan_parts import HealthCard, Transport
from workbench.panels.gan_told import OF_SEED, Game, figure_words
from workbench.panels.gan_words import Proposal, changed
from workbench.panels.inspector import allows, task_of
from workbench.panels.latent_card import LatentCard
from workbench.panels.live import Ask, Curve, LiveView
from workbench.runs.record import Record
from workbench.views.card import seat
from workbench.views.film import EMPTY as SAMPLES_COME
from workbench.views.film import Film
from workbench.views.modes import ModesCard
from workbench.views.mosaic import Link, Mosaic
from workbench.views.scene import Scene, SceneCard
from workbench.views.seeds import SeedsCard, Small
from workbench.views.text import number, percent
from workbench.views.timeline import Timeline

TRANSPORT_ROW, HEALTH_ROW, SEEDS_ROW, MAIN_ROW, LATENT_ROW = range(5)
HALVES_AT_MOST = 256
"""Halves of a step that are taken until the wanted one has been."""
HIGH, LOW = 440, 380
"""Least height at scale 1 of what is shown large: alone, and below the seeds."""
MANY_OUTSIDE = 0.1
"""Share of the samples outside of the picture from which it is said."""
SEEDS_REST = 8
"""Ticks between two drawings of the seeds side by side."""
FIRST = ("output", "gradient_norm")
"""Curves that every run has, below what is shown large; the losses stand beside it."""
OUTPUTS = ("real", "fake")
"""Mean outputs of the critic, which share a card."""
SAVED = ("done", "cancelled")
"""Ends of a run after which its generator can be asked."""


class GanView(LiveView):
    """What drives the run and how it goes; the seeds side by side; the plane or the samples of one
    of them, large, with its modes or neighbours and its losses beside it; the latents; then its
    other curves."""

    counted = mark("Iteration")
    first_row = 10
    table_rows = 12

    def __init__(self, parent: QWidget | None = None) -> None:
        self.game = Game()
        self.seed = 0
        """The place of the seed that is shown large."""
        self.transport = Transport()
        self.health = HealthCard()
        self.scene, self.modes = SceneCard(), ModesCard()
        self.timeline = Timeline()
        link = Link()
        link.alike = False
        self.samples = Film(mark("Samples"), link=link, empty=SAMPLES_COME)
        self.neighbours = Mosaic(
            mark("Nearest training images"),
            link=link,
            badges=False,
            empty=mark("For each sample the training image that it is most like."),
        )
        self.seeds, self.latents = SeedsCard(), LatentCard()
        self._newest: dict[str, Images] = {}
        self._series: dict[str, tuple[list[int], list[float]]] = {}
        self._half = ""
        """Whose step a person waits for."""
        self._halves = 0
        self._heard: int | None = None
        """The tick in which the run last said something."""
        self._current: str | None = None
        self._paused = False
        self._stale: list[Callable[[], None]] = []
        self._ticks = 0
        self._asked = ""
        super().__init__(
            parent,
            curves=(
                Curve("loss", mark("Loss")),
                Curve("output", mark("Mean output of the critic")),
                Curve("gradient_norm", mark("Gradient norm")),
            ),
            tables={"seeds": mark("Seeds")},
            hidden=("iterations_per_second", "seconds"),
            empty=mark(
                "Drawn while a generator learns. Set it up in the form and press Start run."
            ),
        )
        link.setParent(self)
        self._lay_out()
        self._connect()
        self._show_kind(False)
        self._show_state()
        self.timeline.hide()
        self.retranslate()

    # --- parts

    def _lay_out(self) -> None:
        px = theme.px
        self.scene.foot.addWidget(self.timeline)
        main = QWidget(self)
        row = QHBoxLayout(main)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        left, right = QVBoxLayout(), QVBoxLayout()
        for column in (left, right):
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(10)
        for card in (self.scene, self.samples):
            left.addWidget(card)
        loss = self.curves["loss"]
        self._cells = [each for each in self._cells if each[0] is not loss]
        for card in (self.modes, self.neighbours, loss):
            card.setMinimumHeight(px(170))
            right.addWidget(card, 1)
        row.addLayout(left, 5)
        row.addLayout(right, 3)
        self.latents.setMinimumHeight(px(330))
        for place, part in (
            (TRANSPORT_ROW, self.transport),
            (HEALTH_ROW, self.health),
            (MAIN_ROW, main),
            (SEEDS_ROW, self.seeds),
            (LATENT_ROW, self.latents),
        ):
            self.grid.addWidget(part, place, 0, 1, 2)

    def _connect(self) -> None:
        self.transport.pause.connect(lambda on: self.hands.pause(on))
        self.transport.pace.connect(lambda pace: self.hands.pace(pace))
        self.transport.half.connect(self._take_half)
        self.transport.again.connect(self._again)
        self.health.tried.connect(self._try)
        self.seeds.picked.connect(self.choose_seed)
        self.timeline.changed.connect(lambda: self._later(self._show_scene))
        self.samples.sent.connect(self._send)
        self.latents.ask = lambda question, answer: self.ask(question, answer)

    def _in_order(self, cells: list[QWidget]) -> list[QWidget]:
        """What every run has, then what this one has; what is not shown leaves no hole."""
        known = [self.curves[name] for name in FIRST if name in self.curves]
        rest = [cell for cell in cells if cell not in known]
        return sorted(known + rest, key=lambda cell: seat(cell).isHidden())

    def _explain_emptiness(self) -> None:
        """What only other runs had, nobody waits for."""
        super()._explain_emptiness()
        drawn = {self._card_of(name) for name in self._known}
        for name, card in self.curves.items():
            seat(card).setVisible(name in drawn or name in ("loss", *FIRST))
        self._arrange()

    def _show_kind(self, has_run: bool) -> None:
        """Points in the plane, or images: what the run has, or where there is none its form
        says."""
        plane = self._is_plane
        for card in (self.scene, self.modes):
            seat(card).setVisible(plane)
        for card in (self.samples, self.neighbours):
            seat(card).setVisible(not plane)
        seat(self.latents).setVisible(not plane and has_run)
        several = self.game.count > 1 and has_run
        seat(self.seeds).setVisible(several)
        lines = 1.3 if self.game.count <= 4 else -(-self.game.count // 8)
        self.seeds.setMinimumHeight(theme.px(58 + 112 * lines))
        for card in (self.scene, self.samples):
            card.setMinimumHeight(theme.px(LOW if several else HIGH))
        seat(self.health).setVisible(has_run)

    _is_plane = True

    # --- a run

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        same = self.info is not None and self.info.id == info.id
        seed = self.seed if same else 0
        asked = self._asked if same else ""
        self._next = info
        super().show_run(info, record, color)
        self._asked = asked if asked == info.id and not self.latents.square.is_empty else ""
        self.choose_seed(seed)
        self._about(info)
        self._catch_up()
        self._explain_emptiness()

    _next: RunInfo | None = None
    """The run that is about to be shown."""

    def show_nothing(self) -> None:
        self.game.forget()
        self._series.clear()
        self._newest.clear()
        self._stale.clear()
        self._half, self._halves, self.seed = "", 0, 0
        info, self._next = self._next, None
        super().show_nothing()
        self.scene.show_scene(None)
        self.modes.clear()
        self.timeline.clear()
        self.timeline.hide()
        self.samples.clear()
        self.neighbours.clear()
        if info is None or info.id != self._asked:
            self.latents.clear()
            self._asked = ""
        if info is not None:
            self.game.count = int(info.spec.get("seeds") or 1)
            self.game.first_seed = int(info.spec.get("seed") or 0)
            self._is_plane = is_plane(info.spec.get("data") or {})
        self.seeds.set_seeds(())
        self._show_kind(info is not None)
        self._show_state()

    def update_info(self, info: RunInfo) -> None:
        before = self.info
        super().update_info(info)
        if before is None or before.status != info.status:
            self._about(info)

    def _about(self, info: RunInfo) -> None:
        self._set_colors()
        self._show_kind(True)
        self._show_state()
        self._show_health()
        self._ask_latents(info)

    def _set_colors(self) -> None:
        """Generated points have the run's colour, real ones the next of the theme's."""
        index = int(self._color.removeprefix("series:"))
        colors = f"series:{index + 1}", self._color
        for card in (self.scene, self.modes, self.seeds):
            card.set_colors(*colors)
        self._real = colors[0]

    _real = "series:1"

    def news(self, news: News) -> None:
        self.game.take_halves({name: steps[-1] for name, (steps, _) in news.scalars.items()})
        super().news(news)
        self.transport.set_turn(self.game.turn if self._paused or self._half else "")
        if news.scalars or news.progress:
            self._heard = self._ticks

    def draw(self) -> None:
        super().draw()
        self._ticks += 1
        # What belongs to a half of a step may come in two pieces: it is over a tick later.
        if self._half and self._heard is not None and self._ticks > self._heard + 1:
            self._heard = None
            self._go_on_to_half()
        if self._stale:
            self._stale.pop(0)()
        if self.game.count > 1 and self._seeds_old and self._ticks % SEEDS_REST == 0:
            self._show_seeds()

    def rest(self) -> None:
        super().rest()
        self._catch_up()

    def _later(self, *shows: Callable[[], None]) -> None:
        """Draw these when it is their turn."""
        self._stale += [show for show in shows if show not in self._stale]

    def _catch_up(self) -> None:
        """Draw all there is, now."""
        self._stale.clear()
        for show in (self._show_scene, self._show_modes, self._show_samples, self._show_seeds):
            show()
        self._show_health()

    _seeds_old = False
    """There is more of the seeds than their card shows."""

    # --- what it says

    def show_array(self, array: Array, course: Sequence[Array]) -> None:
        if not self.game.take_array(array, course):
            super().show_array(array, course)
            return
        self._seeds_old = True
        if array.name == "modes":
            self._later(self._show_modes)
        else:
            self._later(self._show_scene)

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        if images.name == "samples":
            self._newest["samples"] = images
            self.samples.take(images, frames)
            self._later(self._show_samples)
            self._seeds_old = True
        elif images.name == "neighbours":
            self._newest["neighbours"] = images
            self._later(self._show_samples)
        else:
            super().show_images(images, frames)

    def show_table(self, table: Table) -> None:
        if self.game.take_table(table):
            self._later(self._show_health)
            self._seeds_old = True
        else:
            super().show_table(table)

    def _append(
        self, name: str, steps: Sequence[int], values: Sequence[float], replace: bool = False
    ) -> None:
        """Of several seeds the curves are those of the one that is shown large."""
        found = OF_SEED.fullmatch(name)
        seed = int(found[2]) if found else 0
        shown = f"{found[1]}/{found[3]}" if found else name
        if len(values):
            self.game.take_series(name, float(values[-1]))
        if self.game.count > 1:
            known = self._series.setdefault(name, ([], []))
            if replace:
                known[0].clear()
                known[1].clear()
            known[0].extend(steps)
            known[1].extend(values)
        if seed == self.seed:
            fresh = shown not in self._known
            super()._append(shown, steps, values, replace)
            if fresh and shown in self._known:
                seat(self.curves[self._card_of(shown)]).show()
                self._arrange()
            self._later(self._show_figures)

    def choose_seed(self, seed: int) -> None:
        """Show this one of the seeds large, by its place."""
        seed = min(max(seed, 0), max(self.game.count - 1, 0))
        self.seeds.drawing.choose(seed)
        if seed == self.seed:
            return
        self.seed = seed
        for card in self.curves.values():
            card.clear()
        self._known.clear()
        for name, (steps, values) in self._series.items():
            found = OF_SEED.fullmatch(name)
            if (int(found[2]) if found else 0) == seed:
                shown = f"{found[1]}/{found[3]}" if found else name
                super()._append(shown, steps, values, replace=True)
        self._catch_up()
        if self._has_ended:
            for card in self.curves.values():
                card.rest()

    def _card_of(self, name: str) -> str:
        what = super()._card_of(name)
        return "output" if what in OUTPUTS and name.startswith("critic") else what

    def _declare(self, name: str) -> None:
        card = self.curves[self._card_of(name)]
        group, _, what = name.partition("/")
        color = self._color
        if what in OUTPUTS:
            color = self._real if what == "real" else self._color
        elif group == "critic":
            color = "muted"
        card.set_series(name, self._label(name), color, dashed=False)
        if name == "generator/loss":
            card.set_primary(name)

    def _label(self, name: str) -> str:
        known = {"critic/real": tr("Real samples"), "critic/fake": tr("Generated samples")}
        return known.get(name) or super()._label(name)

    def _show_scene(self) -> None:
        if not self.game.is_plane:
            return
        self.timeline.set_steps(self.game.steps)
        self.timeline.setVisible(len(self.game.steps) > 1)
        self.scene.show_scene(self.game.scene(self.seed, self.timeline.step))
        self._show_figures()

    def _show_figures(self) -> None:
        """Large in the title of the plane or the samples: what the seed has come to."""
        figures = self.game.figures.get(self.seed, {})
        words = figure_words(figures)
        name = self._name_of(self.seed)
        if self._is_plane:
            covered = figures.get("modes_covered")
            modes = len(self.game.modes(self.seed)[0])
            value = "" if covered is None else f"{round(covered)}/{modes}" if modes else ""
            quality = figures.get("high_quality")
            said = [name] if name else []
            scene = self.scene.scene
            outside = scene.outside if scene is not None else 0.0
            if outside == 1.0:
                said.append(tr("all samples are outside of the picture"))
            elif outside >= MANY_OUTSIDE:
                said.append(
                    tr("{share} of the samples are outside of the picture", share=percent(outside))
                )
            elif quality is not None:
                said.append(tr("{share} of high quality", share=percent(quality)))
            self.scene.set_value(value)
            self.scene.set_note(" · ".join(said), *said[-1:], "")
            return
        fid = figures.get("fid")
        self.samples.set_value("" if fid is None else f"FID {number(fid)}")
        if name and words:
            self.samples.set_note(name, "")

    def _show_modes(self) -> None:
        self.modes.set_modes(*self.game.modes(self.seed))

    def _show_samples(self) -> None:
        several = self.game.count > 1
        whose = self.game.first_seed + self.seed
        self.samples.want((lambda caption: caption.get("seed") == whose) if several else None)
        images, samples = self._newest.get("neighbours"), self._newest.get("samples")
        if images is not None and samples is not None and len(images.pixels) == len(samples.pixels):
            places = self.samples.places(samples)
            captions = [images.captions[k] for k in places] if images.captions else []
            self.neighbours.set_images(images.pixels[places], captions, images.scale)
        self._show_figures()

    def _show_seeds(self) -> None:
        self._seeds_old = False
        if self.game.count < 2:
            return
        self.seeds.set_seeds([self._small(k) for k in range(self.game.count)])

    def _small(self, seed: int) -> Small:
        scene = self.game.scene(seed)
        pixels = None
        images = self._newest.get("samples")
        if scene is None and images is not None:
            whose = self.game.first_seed + seed
            mine = [k for k, c in enumerate(images.captions) if c.get("seed") == whose]
            pixels = images.pixels[mine] if mine else None
        words = " · ".join(figure_words(self.game.figures.get(seed, {})))
        trouble = bool(self.game.of_seed(seed))
        return Small(self.game.first_seed + seed, scene, pixels, words, trouble)

    def _name_of(self, seed: int) -> str:
        """Which seed that is, where there are several."""
        if self.game.count < 2:
            return ""
        return tr("seed {seed}", seed=self.game.first_seed + seed)

    # --- health

    def _show_health(self) -> None:
        self.health.show_troubles(
            self.game.troubles,
            lambda seed: self._name_of(seed - self.game.first_seed),
            known=self.game.told_health,
        )

    def _try(self, proposal: Proposal) -> None:
        """Set a live value of the run that goes; else open the form with what is proposed."""
        info = self.info
        if info is None:
            return
        live = proposal.live
        task = task_of(info)
        if live is not None and self._is_current and task is not None:
            name, value = live
            if name in live_fields(task) and allows(task, name, value):
                self.hands.control(name, value)
                return
        values = changed(info.spec, proposal.path, proposal.value)
        self.set_up(info.kind, {name: value for name, value in values.items() if name != "kind"})

    # --- playing

    @property
    def _is_current(self) -> bool:
        return self.info is not None and self.info.id == self._current

    def state_changed(self, current: str | None, paused: bool) -> None:
        if (current, paused) != (self._current, self._paused):
            self._current, self._paused = current, paused
            self._show_state()

    def _show_state(self) -> None:
        running, info = self._is_current, self.info
        if not running or not self._paused:
            self.transport.set_turn("")
        if not running:
            self._half = ""
        self.transport.set_state(
            running=running, paused=running and self._paused, can_again=info is not None
        )

    def _take_half(self, side: str) -> None:
        """Go on until `side` has taken a step."""
        self._half, self._halves, self._heard = side, HALVES_AT_MOST, None
        self.hands.step()

    def _go_on_to_half(self) -> None:
        self._halves -= 1
        if self.game.turn == self._half or self._halves <= 0 or not self._is_current:
            self._half = ""
        else:
            self.hands.step()

    def _again(self, other: bool) -> None:
        if self.info is not None:
            self.hands.again(self.info.id, random.randrange(2**31) if other else None)

    # --- samples and latents

    def _send(self, place: int) -> None:
        images = self.samples.moment()
        if images is None or self.info is None:
            return
        places = self.samples.places(images)
        if 0 <= place < len(places):
            self.hands.attack(np.array(images.pixels[places[place]]), self.info.name)

    def _ask_latents(self, info: RunInfo) -> None:
        """When there is a generator that can be asked."""
        has = info.status in SAVED and any(a.get("name") == "model" for a in info.artifacts)
        if self._is_plane or not has or self._asked == info.id:
            return
        self._asked = info.id
        told = info.spec.get("conditional", "none") != "none"
        captions = self._newest["samples"].captions if "samples" in self._newest else ()
        labels = {int(c["label"]) for c in captions if c.get("label") is not None}
        classes = [str(k) for k in range(max(labels, default=9) + 1)] if told else []
        self.latents.begin(info.id, info.spec.get("latent") or {}, classes)

    # --- before a run

    def preview(self, values: Mapping[str, Any], ask: Ask) -> None:
        """Whether it will be points or images; the points are shown."""
        data = values.get("data") or {}
        self._is_plane = is_plane(data)
        self._show_kind(False)
        if not self._is_plane:
            self.scene.show_scene(None)
        else:
            ask({"kind": "preview_points", "data": data}, self._points_told)

    def _points_told(self, answer: dict[str, Any], payload: bytes) -> None:
        if self.info is not None or not self._is_plane:
            return
        if "error" in answer:  # the form says what is wrong
            self.scene.show_scene(None)
            return
        left, right, lower, upper = answer["extent"]
        real = np.frombuffer(payload, np.float32).reshape(-1, 2)
        self.scene.show_scene(Scene((left, right, lower, upper), real))

    def retranslate(self) -> None:
        super().retranslate()
        self._show_seeds()
        self._show_figures()


def is_plane(data: Mapping[str, Any]) -> bool:
    """Whether a data set's spec is one of points in the plane."""
    from engine.generative.spec.points import PointsSpec
    from engine.task import kinds

    return str(data.get("kind", "")) in kinds(PointsSpec)
