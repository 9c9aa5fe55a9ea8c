"""Looking at the layers of a model in the middle of somebody's steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from engine.bench import Bench
from engine.events import Array, Event, Note, Table
from engine.training.diagnostics.layers import (
    OF_ACTIVATIONS,
    QUANTITIES,
    Layer,
    activation_of,
    facts,
    layers_of,
    sampled,
)
from engine.training.diagnostics.price import Counts, Mode, interval
from engine.training.diagnostics.spectral import Stretch, linear_part

PAUSE = 0.5
"""Seconds between two words, at least: nobody reads faster, and the last word says everything."""
FADED = 1e-5
"""Share of the last layer's gradient that the first one has where gradients vanish; where they
explode it is the other way round."""

GRADIENT, UPDATE, WEIGHT, SPECTRAL = range(4)
FIRST_FACT = 4


class Diagnostics:
    """The layers of one model, looked at every so many steps.

    Whoever takes the steps calls `before(step)`, then makes the gradients, then `gradients()` if
    something changes them before they are used (clipping), then takes the step, then `after()`;
    and says what `says()` has when it may yield. Steps count from 0, those of a resumed run go on.
    A look changes nothing: not the weights, the gradients, any mode, nor any random state. Between
    the calls nothing of it is in the model but while a step is under way.

    The first look counts what the model does; from that follows how often it is looked at (see
    `price`), so that the looks cost at most their share of the run. `interval` is it.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: Mode,
        bench: Bench,
        *,
        total: int,
        name: str = "layers",
        instead: tuple[int, ...] | None = None,
    ) -> None:
        """total: steps of the whole run. name: of what is said, where there are several models.
        instead: where the passes must not be looked into (single samples are to stay private, or
        they are not the model's own, as with `torch.compile`), the shape of a batch as the steps
        have it: one input of zeros then tells what a step costs, and nothing is said of
        activations.
        """
        self.model = model
        self.mode = mode
        self.name = name
        self.layers = layers_of(model) if mode != "off" else []
        self.interval: int | None = None
        """Steps from look to look; None before the first."""
        self._bench = bench
        self._total = total
        self._instead = instead
        self._parameters = [p for layer in self.layers for p in layer.parameters]
        self._owners = [place for place, layer in enumerate(self.layers) for _ in layer.parameters]
        self._owner = torch.tensor(self._owners, dtype=torch.int64, device=bench.device)
        self._place = {id(layer.module): place for place, layer in enumerate(self.layers)}
        self._stretches: dict[int, Stretch] = {}
        self._followed: set[int] = set()
        """Layers with an activation function behind them, as the first look saw."""
        self._steps: list[int] = []
        self._columns: list[NDArray[np.float32]] = []
        self._fresh: list[tuple[int, Tensor]] = []
        self._said = 0
        self._said_at = -math.inf
        self._warned: set[str] = set()
        self._hooks: list[RemovableHandle] = []
        self._step: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._old: list[Tensor] = []
        self._norms: Tensor | None = None
        self._seen: dict[int, list[Tensor]] = {}
        self._current = -1
        self._counts = Counts()
        self._samples = 0

    # --- a step

    def due(self, step: int) -> bool:
        """Whether `step` is looked at."""
        return bool(self.layers) and (self.interval is None or step % self.interval == 0)

    def before(self, step: int) -> None:
        """A step begins."""
        if self._step is not None:  # the one before broke off
            self._leave()
        if not self.due(step):
            return
        self._step = step
        with torch.no_grad():
            self._old = list(torch._foreach_mul(list(self._parameters), 1.0))
        if self._instead is None:
            self._hook()
        elif self.interval is None:
            self._count_instead(self._instead)

    def gradients(self) -> None:
        """The gradients are there, as backward left them. Else `after` takes what it finds."""
        if self._step is None:
            return
        with torch.no_grad():
            there = [place for place, p in enumerate(self._parameters) if p.grad is not None]
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            norms = torch.zeros(len(self._parameters), device=self._owner.device)
            if len(there) == len(self._parameters):
                norms = torch.stack(list(torch._foreach_norm(gradients))).float()
            elif there:
                norms[there] = torch.stack(list(torch._foreach_norm(gradients))).float()
            self._norms = self._by_layer(norms)
            learning = {self._owners[place] for place in there}
            if still := [place for place in range(len(self.layers)) if place not in learning]:
                self._norms[still] = float("nan")

    def after(self) -> None:
        """The step is taken."""
        if self._step is None:
            return
        if self._norms is None:
            self.gradients()
        assert self._norms is not None
        with torch.no_grad():
            old = self._by_layer(torch.stack(list(torch._foreach_norm(self._old))).float())
            moved = torch._foreach_sub(list(self._parameters), self._old)
            moves = self._by_layer(torch.stack(list(torch._foreach_norm(moved))).float())
            rows = [self._norms, moves / old, old, self._stretched()]
            column = torch.cat([torch.stack(rows), self._facts()])
        self._fresh.append((self._step, column))
        if self.interval is None:
            self.interval = self._affordable()
        self._leave()

    def _by_layer(self, norms: Tensor) -> Tensor:
        """Lengths of the layers' parameters together, from those of each, (parameters,)."""
        sums = torch.zeros(len(self.layers), device=norms.device)
        return sums.index_add_(0, self._owner, norms.square()).sqrt_()

    def _facts(self) -> Tensor:
        """What was seen of the activations, (4, layers)."""
        nan = torch.full((), float("nan"), device=self._owner.device)
        none = [nan] * len(OF_ACTIVATIONS)
        seen = [self._seen.get(place, none) for place in range(len(self.layers))]
        return torch.stack([value for values in seen for value in values]).view(-1, 4).T

    def _stretched(self) -> Tensor:
        nan = torch.full((), float("nan"), device=self._owner.device)
        iterations = 1 if self.mode == "light" else 2
        found = [
            self._stretches[place].look(iterations) if place in self._stretches else nan
            for place in range(len(self.layers))
        ]
        return torch.stack([value.float() for value in found])

    # --- what the passes tell

    def _hook(self) -> None:
        for layer in self.layers:
            self._hooks.append(layer.module.register_forward_hook(self._layer_ran))
        inside = {id(part) for layer in self.layers for part in layer.module.modules()}
        for module in self.model.modules():
            if id(module) in inside or next(module.children(), None) is not None:
                continue
            if self.interval is None or activation_of(module) is not None:
                self._hooks.append(module.register_forward_hook(self._module_ran))

    def _layer_ran(self, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        place = self._place[id(module)]
        value = output[0] if isinstance(output, tuple) else output
        if not isinstance(value, Tensor):
            return
        self._current = place
        layer = self.layers[place]
        if self.interval is None:
            self._count(layer, inputs, value)
        if self._instead is None and place not in self._followed:
            with torch.no_grad():
                self._seen[place] = facts(value, layer.units, None)

    def _module_ran(self, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if self.interval is None:
            self._counts.modules += 1
        flat = activation_of(module)
        if flat is None or self._current < 0 or self._instead is not None:
            return
        if self.interval is None:
            self._followed.add(self._current)
        if self._current in self._followed:
            with torch.no_grad():
                layer = self.layers[self._current]
                self._seen[self._current] = facts(output, layer.units, flat)

    def _count(self, layer: Layer, inputs: Sequence[Any], value: Tensor) -> None:
        """What a pass through a layer costs; and the shape of what it is given."""
        given = next((x for x in inputs if isinstance(x, Tensor)), None)
        if given is None:
            return
        counts = self._counts
        counts.layers += 1
        counts.activations += sampled(value).numel()
        self._samples = max(self._samples, len(given))
        weights = sum(parameter.numel() for parameter in layer.parameters)
        counts.products += weights * max(value.numel() // value.shape[layer.units], 1)
        place = self._place[id(layer.module)]
        if place not in self._stretches and linear_part(layer.module) is not None:
            generator = self._bench.generator("diagnostics", self.name, place)
            self._stretches[place] = Stretch.begin(layer, given.shape[1:], generator)

    def _count_instead(self, shape: tuple[int, ...]) -> None:
        """The same of a batch of this shape, from one input of zeros."""
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        self._hook()
        try:
            with torch.no_grad():
                self.model(torch.zeros((1, *shape[1:]), device=self._owner.device))
        finally:
            for module in training:
                module.training = True
            while self._hooks:
                self._hooks.pop().remove()
        self._counts.products *= shape[0]
        self._counts.activations = 0
        self._samples = shape[0]

    def _affordable(self) -> int:
        self._counts.weights = sum(p.numel() for p in self._parameters)
        return interval(self._counts, self.mode, self._total, self._samples)

    def _leave(self) -> None:
        """Nothing of a look stays in the model."""
        while self._hooks:
            self._hooks.pop().remove()
        self._step = None
        self._forget()

    # --- what is said

    def says(self, last: bool = False) -> Iterator[Event]:
        """What is new: all looks so far, (quantities, looks, layers), and a table of the newest. It
        is said now and then, and always if it is the `last` time."""
        self._take_in()
        if len(self._columns) == self._said:
            return
        if not last and time.monotonic() - self._said_at < PAUSE:
            return
        yield from self._remarks(self._said)
        self._said, self._said_at = len(self._columns), time.monotonic()
        values = np.stack(self._columns, axis=1)
        about = {
            "quantities": list(QUANTITIES),
            "layers": [layer.name for layer in self.layers],
            "steps": [step + 1 for step in self._steps],
            "interval": self.interval,
        }
        yield Array(self.name, values, self._steps[-1] + 1, about=about)
        yield Table(self.name, ("layer", *QUANTITIES), tuple(self._rows()))

    def _take_in(self) -> None:
        for step, column in self._fresh:
            self._steps.append(step)
            self._columns.append(column.cpu().numpy())
        self._fresh.clear()

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        newest = self._columns[-1]
        for place, layer in enumerate(self.layers):
            numbers = (float(value) for value in newest[:, place])
            yield (layer.name, *(v if math.isfinite(v) else None for v in numbers))

    def _remarks(self, start: int) -> Iterator[Note]:
        """In words, once each, where gradients vanish or explode on their way to the front."""
        for step, column in zip(self._steps[start:], self._columns[start:], strict=True):
            gradients = column[GRADIENT]
            known = np.flatnonzero(np.isfinite(gradients))
            if len(known) < 2 or not gradients[known[-1]]:
                continue
            front, back = self.layers[known[0]].name, self.layers[known[-1]].name
            share = float(gradients[known[0]] / gradients[known[-1]])
            if share < FADED and "vanish" not in self._warned:
                self._warned.add("vanish")
                yield Note(
                    "warning",
                    f"gradients vanish: at step {step + 1} that of {front} is {share:.0e} of that "
                    f"of {back}, so the front does not learn. Normalisation, residual connections "
                    "or another initialisation keep it.",
                )
            elif share > 1 / FADED and "explode" not in self._warned:
                self._warned.add("explode")
                yield Note(
                    "warning",
                    f"gradients explode: at step {step + 1} that of {front} is {share:.0e} times "
                    f"that of {back}. Gradient clipping, normalisation or smaller initial weights "
                    "tame it.",
                )

    # --- going on

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next look depends on, and what was seen."""
        self._take_in()
        if self.interval is None:
            return {}
        shape = (0, len(QUANTITIES), len(self.layers))
        columns = np.stack(self._columns) if self._columns else np.zeros(shape, np.float32)
        found = {
            "interval": torch.tensor(self.interval),
            "steps": torch.tensor(self._steps, dtype=torch.int64),
            "columns": torch.from_numpy(columns.astype(np.float32)),
            "followed": torch.tensor(sorted(self._followed), dtype=torch.int64),
        }
        for place, stretch in self._stretches.items():
            found[f"vector.{place}"] = stretch.vector
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where `tensors` left it."""
        if not tensors:
            return
        self.interval = int(tensors["interval"])
        self._steps = tensors["steps"].tolist()
        self._columns = [column.numpy() for column in tensors["columns"].cpu()]
        self._said = len(self._columns)
        self._followed = set(tensors["followed"].tolist())
        list(self._remarks(0))  # those were made before
        for name, vector in tensors.items():
            if name.startswith("vector."):
                place = int(name.removeprefix("vector."))
                self._stretches[place] = Stretch(self.layers[place], vector)
