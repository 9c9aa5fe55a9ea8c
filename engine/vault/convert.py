"""Foreign weights made safe: a .pt or .pth file (a pickle) becomes a safetensors file.

A pickle is a program. It is read only by a process of its own, whose memory, time and files are
limited, and there only as data (`weights_only`), never in the process that asks for it. That
process runs this module: `python -m engine.vault.convert IN OUT`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, CrucibleError
from engine.events import Event, Note, Progress, drain

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Names under which training scripts put the state dict into a larger one."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

_MB = 1 << 20
_SPARE_MEMORY = 1024 * _MB
_SECONDS = 120
_HINT = "Save the tensors alone instead: torch.save(model.state_dict(), FILE)."


def safe_weights(path: Path, folder: Path) -> Path:
    """`path` itself if it is a safetensors file, else its conversion, written into `folder`.

    Raises BadInput: no such file, another kind of file, code instead of tensors, damaged, too
    large for its limits. CrucibleError: the converting process could not do its work.
    """
    return drain(converting(path, folder))


def converting(path: Path, folder: Path) -> Generator[Event, None, Path]:
    """`safe_weights` that reports while the process works; closing it ends the process."""
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        return path
    if path.suffix not in PICKLES:
        raise BadInput(
            f"{path} is no weights file: its name should end in .safetensors, "
            f"{', '.join(PICKLES[:-1])} or {PICKLES[-1]}."
        )
    target = folder / f"{path.stem}.safetensors"
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder) as scratch:
        result = Path(scratch).absolute() / "weights.safetensors"
        report = yield from _convert_apart(path.absolute(), result)
        for line in report:
            yield Note("info", line)
        result.replace(target)
    return target


def _convert_apart(source: Path, target: Path) -> Generator[Event, None, list[str]]:
    yield Progress(0, 1, "files")
    limit = _SECONDS + source.stat().st_size // (20 * _MB)
    process = subprocess.Popen(
        # -P: no module is taken from the folder that the process is started in.
        [sys.executable, "-P", "-m", "engine.vault.convert", str(source), str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=target.parent,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for us, who then end it
    )
    try:
        waited = 0.0
        while True:
            try:
                output, log = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                waited += 0.05
                if waited > limit:
                    raise BadInput(
                        f"{source} was not read within {limit} s, and given up."
                    ) from None
                yield Progress(0, 1, "files")
    finally:
        if process.returncode is None:
            process.kill()
            process.communicate()
    yield Progress(1, 1, "files")
    return _outcome(source, process.returncode, output, log)


def _outcome(source: Path, code: int, output: bytes, log: bytes) -> list[str]:
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        report = {}
    if code == 0 and "notes" in report:
        return list(report["notes"])
    if "error" in report:
        raise BadInput(f"{source} {report['error']}")
    last = log.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1][:300]
    how = f"signal {-code}" if code < 0 else f"code {code}"
    raise CrucibleError(
        f"{source} could not be converted: the process for it ended by {how}. {last}"
    )


def _environment() -> dict[str, str]:
    """Nothing but what is needed to start Python and torch: no secrets, no GPU."""
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMPDIR")
    root = str(Path(__file__).parents[2])
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": root,
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


# --- in the process of its own --------------------------------------------------------------------


def _main(source: Path, target: Path) -> int:
    from safetensors.torch import save_file

    try:
        # Everything that is needed is imported by now; what follows reads the file.
        _limit(source.stat().st_size)
        state, notes = _state_of(_load(source))
        save_file(state, target)
    except BadInput as error:
        return _report({"error": str(error)}, 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        return _report({"error": "needs far more memory than its size accounts for. " + _HINT}, 2)
    except OSError as error:
        return _report({"error": f"could not be converted: {error.strerror or error}."}, 2)
    return _report({"notes": notes}, 0)


def _report(report: Mapping[str, Any], code: int) -> int:
    print(json.dumps(report))
    return code


def _limit(size: int) -> None:
    """Bounds for this process from here on, with room for a file of `size` bytes."""
    try:
        import resource
    except ImportError:  # Windows; the other process still ends this one when its time is over
        return
    pages = Path("/proc/self/statm")
    if pages.exists():
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, held + 4 * size + _SPARE_MEMORY)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 60 + size // (20 * _MB))
    _lower(resource.RLIMIT_FSIZE, 2 * size + 64 * _MB)
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (limit, limit))


def _load(source: Path) -> Any:
    """What the file holds, read as data only. Raises BadInput where it holds anything else."""
    import pickle

    import torch

    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(_refusal(str(error))) from None
    except (EOFError, KeyError, UnicodeDecodeError, IndexError, ValueError):
        raise BadInput(f"is damaged, or not a PyTorch file. {_HINT}") from None
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise BadInput(f"is a TorchScript program, not a state dict. {_HINT}") from None
        if "alloc" in str(error):
            raise
        why = str(error).splitlines()[0].split(". ")[0][:200]
        raise BadInput(f"is damaged or cut short: {why}.") from None


def _refusal(text: str) -> str:
    named = re.search(r"GLOBAL (\S+)|(?:class|type|global:?) [`'\"]?([\w.]+\.[\w.]+)", text)
    if named is None:
        return f"holds something other than plain tensors, and none of it was run. {_HINT}"
    name = named[1] or named[2]
    return (
        f"holds code, not only tensors (it calls for {name!r}), and was not run. "
        f"Trust no file that does so without need. {_HINT}"
    )


def _state_of(loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in `loaded`, ready for safetensors, and notes on what was done to get it."""
    import torch

    notes: list[str] = []
    while isinstance(loaded, Mapping) and not any(map(torch.is_tensor, loaded.values())):
        inner = next((w for w in WRAPPERS if isinstance(loaded.get(w), Mapping)), None)
        if inner is None:
            break
        notes.append(f"Took the weights from {inner!r} inside the file.")
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise BadInput(f"holds a {type(loaded).__name__}, not a state dict. {_HINT}")
    state = {str(name): value for name, value in loaded.items() if torch.is_tensor(value)}
    if not state:
        names = ", ".join(repr(str(name)) for name in list(loaded)[:8])
        raise BadInput(f"holds no tensors (only {names or 'nothing'}). {_HINT}")
    left = [str(name) for name in loaded if str(name) not in state]
    if left:
        notes.append(f"Left out what is not a tensor: {', '.join(left[:8])}.")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            notes.append(f"Removed the prefix {prefix!r} from every name.")
    return {name: _plain(name, value) for name, value in state.items()}, notes


def _plain(name: str, value: Tensor) -> Tensor:
    """A dense copy that shares its memory with no other tensor, as safetensors requires."""
    import torch

    if value.layout is not torch.strided or value.is_quantized:
        raise BadInput(f"holds {name!r} in a sparse or quantised form. Save it dense, in float32.")
    return value.detach().contiguous().clone()


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2])))
