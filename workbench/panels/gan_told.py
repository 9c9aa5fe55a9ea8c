"""What a run of a generator against a critic has said, by seed: arrays, figures and troubles."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.events import Array, Table
from workbench.views.scene import Floats, Scene, extent_of

OF_SEED = re.compile(r"(critic|generator|samples)@(\d+)/(.+)")
"""A series of a seed after the first."""
HALVES = {"critic": "critic", "generator": "generator"}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong: in which seed (its number), what it is, what shows it, and two things to
    try."""

    seed: int
    kind: str
    evidence: str
    tries: tuple[str, ...]


@dataclass
class Game:
    """Everything that is drawn by hand. Seeds are known by their places, from 0 in the order of the
    run, except where a number is said."""

    first_seed: int = 0
    """The seed of the first one."""
    count: int = 1
    """Seeds side by side."""
    arrays: dict[str, Array] = field(default_factory=dict)
    courses: dict[str, list[Array]] = field(default_factory=dict)
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    """The newest value of each quantity under `samples/`, by seed."""
    troubles: tuple[Trouble, ...] = ()
    told_health: bool = False
    """The run has said how it goes."""
    turn: str = ""
    """Whose half of a step was taken last, where halves are told apart."""
    _extent: tuple[float, float, float, float] | None = None

    def forget(self) -> None:
        """Nothing has been said."""
        self.__dict__.update(Game().__dict__)

    # --- taking in

    def take_array(self, array: Array, course: Sequence[Array]) -> bool:
        """Remember an array; whether it is one that is drawn here."""
        known = ("real", "generated", "surface", "arrows", "manifold", "modes")
        if array.name not in known:
            return False
        self.arrays[array.name] = array
        kept = self.courses.setdefault(array.name, [])
        if course:
            self.courses[array.name] = sorted(course, key=lambda each: each.step)
        elif array.keep and (not kept or array.step > kept[-1].step):
            kept.append(array)
        if array.name == "real":
            self._extent = None
        return True

    def take_series(self, name: str, value: float) -> None:
        """Remember what a series came to."""
        group, _, what = name.partition("/")
        seed = 0
        if found := OF_SEED.fullmatch(name):
            group, seed, what = found[1], int(found[2]), found[3]
        if group == "samples":
            self.figures.setdefault(seed, {})[what] = value

    def take_halves(self, names: Mapping[str, int]) -> None:
        """`names`: the newest step of each series that was just heard of. Where only one side has
        spoken, it was its turn."""
        groups = {name.partition("/")[0].partition("@")[0] for name in names} & set(HALVES)
        if len(groups) == 1:
            self.turn = groups.pop()
        elif groups:
            self.turn = ""

    def take_table(self, table: Table) -> bool:
        """Remember the troubles; whether this table is theirs."""
        if table.name != "health":
            return False
        told = [dict(zip(table.columns, row)) for row in table.rows]
        self.told_health = True
        self.troubles = tuple(
            Trouble(
                int(row.get("seed") or 0),
                str(row["trouble"]),
                str(row.get("evidence") or ""),
                tuple(str(row[key]) for key in ("try_1", "try_2") if row.get(key)),
            )
            for row in told
        )
        return True

    # --- saying

    @property
    def is_plane(self) -> bool:
        """Whether points in the plane are learnt."""
        return bool({"real", "generated"} & self.arrays.keys())

    @property
    def steps(self) -> list[int]:
        """Moments that can be gone back to."""
        return [each.step for each in self.courses.get("generated", ())]

    def extent(self) -> tuple[float, float, float, float]:
        """What is shown of the plane: what the critic was asked about, else around the data."""
        surface = self.arrays.get("surface")
        if surface is not None and "extent" in surface.about:
            x0, x1, y0, y1 = map(float, surface.about["extent"])
            return x0, x1, y0, y1
        if self._extent is None:
            known = [self.arrays[name].values for name in ("real",) if name in self.arrays]
            if not known and "generated" in self.arrays:
                known = [self.arrays["generated"].values]
            self._extent = extent_of(known)
        return self._extent

    def at(self, name: str, step: int | None) -> Array | None:
        """An array as it was at a step (None: now); None where it was not kept."""
        if step is None:
            return self.arrays.get(name)
        course = self.courses.get(name, [])
        place = bisect_right([each.step for each in course], step) - 1
        return course[place] if place >= 0 else None

    def scene(self, seed: int, step: int | None = None) -> Scene | None:
        """One seed as it was at a step, with as much as was kept of that; None where there is
        nothing."""
        if not self.is_plane:
            return None
        generated, real = self.at("generated", step), self.arrays.get("real")
        surface = self._same_time("surface", generated, step)
        return Scene(
            self.extent(),
            real.values if real is not None else None,
            _of(generated, seed),
            _of(surface, seed),
            surface is None or surface.about.get("kind", "probability") == "probability",
            _of(self._same_time("arrows", generated, step), seed),
            _of(self._same_time("manifold", generated, step), seed),
            generated.step if generated is not None else 0,
        )

    def _same_time(self, name: str, like: Array | None, step: int | None) -> Array | None:
        """The array at that time; what is of another moment would mislead."""
        found = self.at(name, step)
        if step is not None and found is not None and like is not None:
            return found if found.step == like.step else None
        return found

    def modes(self, seed: int) -> tuple[list[float], list[float], list[str]]:
        """Shares of the samples by mode, what they should be, and names of the modes."""
        array = self.arrays.get("modes")
        shares = _of(array, seed)
        if array is None or shares is None:
            return [], [], []
        expected = [float(value) for value in array.about.get("expected", ())]
        names = [str(name) for name in array.about.get("labels", ())]
        return shares.tolist(), expected, names

    def of_seed(self, seed: int) -> list[Trouble]:
        """What goes wrong with the seed at a place."""
        return [each for each in self.troubles if each.seed == self.first_seed + seed]


def _of(array: Array | None, seed: int) -> Floats | None:
    """The part of a seed; None where there is none, or it is not finite at all."""
    if array is None or not 0 <= seed < len(array.values):
        return None
    part = array.values[seed]
    return part if np.isfinite(part).any() else None


def figure_words(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """What a seed came to, in a few words: modes, quality or distance."""
    from workbench.i18n import tr
    from workbench.views.text import number, percent

    words = []
    if (covered := figures.get("modes_covered")) is not None:
        words.append(tr("{count} modes", count=round(covered)))
    if (quality := figures.get("high_quality")) is not None:
        words.append(percent(quality))
    if (distance := figures.get("fid")) is not None:
        words.append(f"FID {number(distance)}")
    return tuple(words)
