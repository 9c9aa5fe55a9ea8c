"""The export task: a run's model as an age file, read back before it is called done."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from engine.errors import BadInput
from engine.events import Event, Note, Progress, Saved
from engine.files import atomic, check_target
from engine.models.card import AnyCard, read_card
from engine.store import Workspace
from engine.task import Steps
from engine.vault.age import encrypting, verifying
from engine.vault.keys import own_identity, parse_recipient, unique
from engine.vault.opening import open_on_bench

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.vault.spec import Export

AGE = b"age-encryption.org/v1"
"""How every age file begins (its first line); only such a file is ever replaced."""

T = TypeVar("T")


def check_export(spec: Export, workspace: Path) -> None:
    """Raises BadInput where it is known before the run that it cannot be done."""
    _check_audience(spec)
    for recipient in spec.recipients:
        parse_recipient(recipient)
    if spec.to:
        target = Path(os.path.expanduser(spec.to)).absolute()  # noqa: PTH111 - cannot raise
        check_target(target)
        _protect(target, workspace)


def run_export(spec: Export, bench: Bench) -> Steps:
    """Encrypt the model of `spec.model` to `spec.to`, streaming, and verify it by re-reading.

    The summary holds file, size and sha256 of what was written, its recipients, the `age` command
    that opens it, and the model's weights_sha256. Cancelled or failed, nothing is left of it, and
    a file that was there before is unchanged.
    """
    path = bench.find_model(spec.model)
    target = _target(spec, bench)
    if os.path.realpath(target) == os.path.realpath(path):
        raise BadInput(f"{target} is the model that is exported. Give another name.")
    _protect(target, bench.workspace)
    source, card = _open_model(path, bench)
    with source:
        audience = _audience(spec, bench)
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        with atomic(target) as file:
            writing = encrypting(
                source, file, recipients=audience.recipients, passphrase=audience.passphrase
            )
            written = yield from _reporting(writing, 0, 2 * size, bench)
            file.flush()
            file.seek(0)
            hashed = _Hashing(file)
            yield from _reporting(
                verifying(io.BufferedReader(hashed), written), size, 2 * size, bench
            )
            size_written = file.tell()
    command = _command(target, audience)
    yield Saved("export", _shown(target, bench), size_written, hashed.sha256)
    yield Note("info", f"Encrypted {audience.text}:\n{command}")
    return {
        "file": str(target),
        "size": size_written,
        "sha256": hashed.sha256,
        "recipients": list(audience.recipients),
        "command": command,
        "weights_sha256": card.weights_sha256,
    }


# --- who can open it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Audience:
    recipients: tuple[str, ...] = ()
    passphrase: str | None = field(default=None, repr=False)
    key_file: Path | None = None

    @property
    def text(self) -> str:
        """How it is encrypted, and what the command that follows needs."""
        if self.passphrase is not None:
            return "with a passphrase. Whoever knows it opens the file anywhere, with"
        count = len(self.recipients) - (self.key_file is not None)
        others = "one recipient" if count == 1 else f"{count} recipients"
        if self.key_file is None:
            return f"to {others}. With the secret key in YOUR-KEY.txt, this opens it anywhere"
        also = f" and {others}" if count else ""
        return (
            f"to the key of this workspace{also}. This opens it, elsewhere too if you take the "
            "key file along"
        )


def _audience(spec: Export, bench: Bench) -> _Audience:
    """Raises BadInput where nobody, both kinds or a faulty recipient was chosen."""
    _check_audience(spec)
    if spec.passphrase:
        return _Audience(passphrase=bench.secret("passphrase"))
    recipients = unique(spec.recipients)
    if not spec.own_key:
        return _Audience(recipients)
    key_file, identity = own_identity(bench.workspace / "keys")
    return _Audience(unique((*recipients, identity.recipient)), key_file=key_file)


def _check_audience(spec: Export) -> None:
    keys = spec.recipients or spec.own_key
    if spec.passphrase and keys:
        raise BadInput(
            "A passphrase cannot be combined with recipients or the own key pair: the age "
            "format forbids it. Choose one of the two."
        )
    if not spec.passphrase and not keys:
        raise BadInput(
            "Nobody could open the file. Give a recipient (age1...), the own key pair, or a "
            "passphrase."
        )


def _command(target: Path, audience: _Audience) -> str:
    """What to type to get the model back. Quoted for a POSIX shell; the model goes into the
    folder where it is typed."""
    name = target.name.removesuffix(".age").removesuffix(".safetensors")
    opened = f"./{name}.safetensors"
    if audience.passphrase is not None:
        return shlex.join(["age", "-d", "-o", opened, str(target)])
    key = str(audience.key_file) if audience.key_file else "YOUR-KEY.txt"
    return shlex.join(["age", "-d", "-i", key, "-o", opened, str(target)])


# --- files ----------------------------------------------------------------------------------------


def _target(spec: Export, bench: Bench) -> Path:
    if spec.to:
        return Path(spec.to).expanduser().absolute()
    return (bench.folder / f"{_name(spec.model, bench)}.safetensors.age").absolute()


def _name(model: str, bench: Bench) -> str:
    """What to call the file: the name of the run, as far as it can be one of a file."""
    if model.endswith((".age", ".safetensors")):
        name = Path(model).name.removesuffix(".age").removesuffix(".safetensors")
    else:
        name = Workspace(bench.workspace, create=False).find(model).info().name
    # A file name holds 255 bytes; the rest is for the suffix and other systems' limits.
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.").encode()[:150].decode(errors="ignore")
    return plain or "model"


def _protect(target: Path, workspace: Path) -> None:
    """Refuse to write over anything but an age file, and among the secret keys."""
    real = Path(os.path.realpath(target))
    if real.is_file() and real.stat().st_size and not _is_age(real):
        raise BadInput(
            f"{target} is another kind of file and is not overwritten. Give another name."
        )
    if real.parent == Path(os.path.realpath(workspace / "keys")):
        raise BadInput(f"{target} is among the workspace's keys. Choose another folder.")


def _is_age(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(AGE)) == AGE


def _open_model(path: Path, bench: Bench) -> tuple[BinaryIO, AnyCard]:
    if path.suffix == ".age":
        data = open_on_bench(path, bench)
        return io.BytesIO(data), read_card(data)
    card = read_card(path)
    try:
        return path.open("rb"), card
    except OSError as error:
        raise BadInput(f"The model {path} cannot be read: {error.strerror}.") from error


def _shown(target: Path, bench: Bench) -> str:
    """Relative to the run's folder, if it lies there."""
    folder = bench.folder.absolute()
    return str(target.relative_to(folder) if target.is_relative_to(folder) else target)


class _Hashing(io.RawIOBase):
    """A file that is being read, and the SHA-256 of what was read so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        return len(data)


def _reporting(
    steps: Generator[int, None, T], before: int, total: int, bench: Bench
) -> Generator[Event, None, T]:
    """Run `steps`, which yield the bytes done, as Progress after the `before` bytes of an earlier
    pass: at once, and then as often as the bench asks."""
    yield Progress(before, total, "bytes")
    spoken = time.monotonic()
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if time.monotonic() - spoken >= bench.burst:
            yield Progress(before + done, total, "bytes")
            spoken = time.monotonic()
