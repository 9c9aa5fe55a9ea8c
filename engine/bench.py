"""What a task may touch: device and precision, its random draws, files, models, live values."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.device import free_memory, prepare
from engine.errors import BadInput
from engine.events import Change, with_change
from engine.random import derive
from engine.store import Workspace
from engine.store.checkpoints import Checkpoint, Checkpoints
from engine.task import BenchSpec

BURST = 0.045
"""Seconds a task may go on between two yields, when nobody single-steps."""

CHECKPOINT_EVERY = 30.0
"""Seconds between two checkpoints."""

CHECKPOINT_SHARE = 100
"""Writing checkpoints takes at most one second in so many."""

FIRST_SAVE = 0.02
"""Seconds that the first checkpoint is taken to cost: a run of two seconds needs none."""


class Bench:
    """The surroundings of one running task. The runner makes one for each run; from Python,
    `Bench(Path("demo"))` finds the runs of the workspace `demo`, and what a task writes that is run
    on it lies there too."""

    def __init__(
        self,
        folder: Path,
        workspace: Path | None = None,
        *,
        seed: int = 0,
        spec: BenchSpec | None = None,
        data_root: Path | None = None,
        secrets: Mapping[str, str] | None = None,
        trust_code: bool = False,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.workspace = folder if workspace is None else workspace
        self.seed = seed
        self.spec = spec or BenchSpec()
        self.data_root = data_root
        self.trust_code = trust_code
        self.single_step = False
        self.changes: list[Change] = []
        """What a person set while the task runs, in the order in which it holds."""
        self._step = 0
        self.device, self.environment = prepare(self.spec)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.resume: Checkpoint | None = None
        self._secrets = dict(secrets or {})
        self._flush = flush
        self._random: dict[str, torch.Tensor] | None = None
        self._saved_at = time.monotonic()
        self._saving: float | None = None
        self._save_cost = FIRST_SAVE
        self._lineage: dict[str, str] = {}

    # --- randomness ---------------------------------------------------------------------------

    def derive(self, *key: str | int) -> int:
        """A seed for one purpose, from the task's own."""
        return derive(self.seed, *key)

    def generator(self, *key: str | int) -> torch.Generator:
        """A CPU generator for one purpose, at its beginning."""
        return torch.Generator().manual_seed(self.derive(*key))

    @contextlib.contextmanager
    def global_random(self) -> Iterator[None]:
        """The task's own global random state, for what draws from torch's (dropout, torchvision's
        transforms). Never held across a yield: on leaving, everybody else's is put back."""
        outside = _random_state(self.device)
        if self._random is None:
            torch.manual_seed(self.derive("global"))
        else:
            _set_random_state(self._random, self.device)
        try:
            yield
        finally:
            self._random = _random_state(self.device)
            _set_random_state(outside, self.device)

    # --- computing ----------------------------------------------------------------------------

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 autocast where the spec asks for it. Never held across a yield."""
        if self.spec.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def free_memory(self) -> int:
        """Bytes that could be allocated on the device now."""
        return free_memory(self.device)

    @property
    def burst(self) -> float:
        """Seconds the task may go on without yielding; 0 while somebody single-steps."""
        return 0.0 if self.single_step else BURST

    def control(self, name: str, value: float, step: int) -> float:
        """What a person set `name` to for `step` (as Scalars count them), else `value`.

        Asked once for every step that is taken, so that a change is one of a step, not of a moment:
        a resumed run repeats it."""
        self._step = step
        if not self.changes:
            return value
        held = (c.value for c in reversed(self.changes) if c.name == name and c.step <= step)
        return next(held, value)

    def change(self, name: str, value: float) -> Change:
        """Set `name` from the next step on. What a run that is repeated had set it to later on, a
        person has thought better of."""
        change = Change(name, value, self._step + 1)
        self.take_up(change)
        return change

    def take_up(self, change: Change) -> None:
        """Let a change hold from its step on."""
        self.changes = with_change(self.changes, change)

    def history(self, step: int) -> tuple[str, ...]:
        """What was changed up to `step`: tells a run from one in which it was not."""
        return tuple(f"{c.name}={c.value!r}@{c.step}" for c in self.changes if c.step <= step)

    def too_late(self) -> list[tuple[Change, int]]:
        """Changes that are of no step the run has taken, and how many it took."""
        return [(change, self._step) for change in self.changes if change.step > self._step]

    def lineage(self, decides: str) -> str:
        """What decides the run bit for bit, live values apart: `decides`, which the task gives, and
        what it is computed with. A run that goes on with all that as it was has the same one; else
        one of its own, which differs by where it went on, too: for it goes on from a state that no
        other has.

        To be asked once, before the first checkpoint, which keeps it."""
        computed = {**self.spec.to_dict(), **self.environment}
        del computed["platform"]  # the operating system's: it computes nothing
        base = _digest(decides, computed)
        line = base
        if self.resume is not None:
            before = self.resume.values.get("lineage", {})
            line = before.get("line", "")
            if before.get("base") != base:
                line = _digest(line, self.resume.step, base)
        self._lineage = {"base": base, "line": line}
        return line

    # --- files --------------------------------------------------------------------------------

    def find_model(self, ref: str) -> Path:
        """The model file that `ref` means: of a run, or a .safetensors / .age file.

        Raises BadInput if there is none."""
        if ref.endswith((".safetensors", ".age")):
            path = Path(ref).expanduser()
            if not path.is_file():
                raise BadInput(f"there is no file {ref!r}; expected a run or an exported model")
            return path
        return Workspace(self.workspace, create=False).model_file(ref)

    def secret(self, name: str) -> str:
        """What a person was asked for ("passphrase", "identity"). Raises BadInput if it was not."""
        if name not in self._secrets:
            option = {"passphrase": "--passphrase-file", "identity": "--identity"}.get(name, name)
            raise BadInput(f"this needs {name}, which was not given; pass it with {option}")
        return self._secrets[name]

    # --- going on -----------------------------------------------------------------------------

    def checkpoint_due(self, least: float | None = None) -> bool:
        """Whether a checkpoint should be written now: `least` seconds (CHECKPOINT_EVERY) after the
        last one or the beginning, and later where they are dear."""
        least = CHECKPOINT_EVERY if least is None else least
        now = time.monotonic()
        if now - self._saved_at < max(least, CHECKPOINT_SHARE * self._save_cost):
            return False
        self._saving = now
        return True

    def save_checkpoint(
        self, step: int, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
    ) -> None:
        """Keep where the task is, so that it can go on from `step` bit-identically.

        Everything said up to here is on the disk first: a resumed run repeats only what comes
        after `step`. Global random state is kept with it. Raises CrucibleError.
        """
        begun = time.monotonic() if self._saving is None else self._saving
        self._flush()
        random = {f"random.{name}": state for name, state in (self._random or {}).items()}
        told = {"task": dict(values), "lineage": self._lineage}
        self.checkpoints.save(Checkpoint(step, {**tensors, **random}, told))
        self._saved_at, self._saving = time.monotonic(), None
        self._save_cost = self._saved_at - begun

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up global random state where `checkpoint` left it; the task finds the rest in
        `self.resume`."""
        random = {
            name.removeprefix("random."): state
            for name, state in checkpoint.tensors.items()
            if name.startswith("random.")
        }
        self._random = random or None
        self._step = checkpoint.step
        self.resume = checkpoint


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
