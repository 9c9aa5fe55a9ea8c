"""Opening an exported model: the safetensors file inside the age file, checked to be ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from engine.errors import BadInput, CrucibleError
from engine.files import atomic
from engine.models.card import AnyCard, read_card
from engine.vault.age import decrypt
from engine.vault.keys import Identity, read_identities

if TYPE_CHECKING:
    from engine.bench import Bench


def open_export(
    path: Path, *, identity: Path | None = None, passphrase: str | None = None
) -> bytes:
    """The bytes of the safetensors file in the export `path`, opened with an identity file or a
    passphrase, whichever it takes.

    Raises BadInput: no such file, not an export, no key fits, wrong passphrase, damaged.
    """
    return _open_in_memory(path, read_identities(identity) if identity else (), passphrase)


def save_export(
    path: Path, target: Path, *, identity: Path | None = None, passphrase: str | None = None
) -> AnyCard:
    """Write the safetensors file in the export `path` to `target`, in bounded memory.

    Raises what `open_export` does, and CrucibleError on a full disk. `target` holds the whole
    model afterwards, or what it held before; only an older model is replaced.
    """
    if path.exists() and target.exists() and path.samefile(target):
        raise BadInput(f"{target} is the export that is opened. Give another name.")
    _protect(target)
    identities = read_identities(identity) if identity else ()
    with _reading(path) as source, atomic(target) as file, _naming(path, hide=file.name):
        decrypt(source, file, identities=identities, passphrase=passphrase)
        file.flush()
        return read_card(Path(file.name))


def _protect(target: Path) -> None:
    """Refuse to write over anything but a model of ours, as a secret key or a data set, and over
    the model of a run."""
    if (target.parent / "run.json").exists():
        raise BadInput(
            f"{target.parent} is the folder of a run, which stays as it is. Choose another."
        )
    if not target.is_file() or not target.stat().st_size:
        return
    try:
        read_card(target)
    except BadInput:
        raise BadInput(
            f"{target} is another kind of file and is not overwritten. Give another name."
        ) from None


def open_on_bench(path: Path, bench: Bench) -> bytes:
    """`open_export` with what the bench was given: its identity file, its passphrase, and the
    workspace's own key pair, if there is one."""
    identities: list[Identity] = []
    passphrase = None
    with suppress(BadInput):
        passphrase = bench.secret("passphrase")
    identity = None
    with suppress(BadInput):
        identity = Path(bench.secret("identity")).expanduser()
    if identity is not None:
        identities.extend(read_identities(identity))
    own = bench.workspace / "keys" / "identity.txt"
    if own.is_file():
        identities.extend(read_identities(own))
    return _open_in_memory(path, identities, passphrase)


def _open_in_memory(
    path: Path, identities: list[Identity] | tuple[Identity, ...], passphrase: str | None
) -> bytes:
    opened = io.BytesIO()
    with _reading(path) as source, _naming(path):
        decrypt(source, opened, identities=identities, passphrase=passphrase)
        data = opened.getvalue()
        read_card(data)
    return data


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        yield file


@contextmanager
def _naming(path: Path, hide: str = "") -> Iterator[None]:
    """Errors about a file's content say which file, and not the temporary one it went to."""
    try:
        yield
    except CrucibleError as error:
        why = str(error).replace(hide, "What it holds") if hide else str(error)
        raise type(error)(f"{path} could not be opened. {why}") from error
