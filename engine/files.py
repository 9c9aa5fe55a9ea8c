"""Writing files so that a reader finds the old one or the new one, never half of either.

Nothing here imports torch or Qt.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from engine.errors import BadInput, CrucibleError, StorageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PART = ".crucible-{}.part"


@contextmanager
def atomic(
    path: str | os.PathLike[str], *, mode: int = 0o666, replace: bool = True
) -> Iterator[BinaryIO]:
    """A binary file, open for writing and reading, that becomes `path` when the block ends well.

    It is a temporary file in the same folder until then (its path is `name`), fsynced before it is
    renamed. Whatever ends the block early (an error, a cancel, a full disk) removes it, and what
    was at `path` stays as it was. A link is followed. `mode` are the permissions of a new file,
    less the umask; one that is replaced keeps its own. With `replace=False` a file that exists is
    an error, also when it appears only while this one is written.

    Raises BadInput where `path` cannot be written to, StorageError when the disk is full.
    """
    target = Path(os.path.realpath(path))
    mode = _check(target, mode, replace)
    try:
        file = _temporary(target.parent, mode)
    except OSError as error:
        raise _explain(error, target) from error
    temporary = Path(file.name)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if os.name == "nt":  # renames nothing that is open; elsewhere it stays ours until then
            file.close()
        if replace:
            temporary.replace(target)
        else:
            _move_new(temporary, target)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(target)):
            raise  # about another file, as one that the block reads from
        raise _explain(error, target) from error
    finally:
        with suppress(OSError):  # closing flushes, which fails again where the disk is full
            file.close()
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder, to be filled, that becomes `path` when the block ends well.

    It lies beside `path` until then. Whatever ends the block early removes it with all that is in
    it; what a kill leaves behind, `remove_leftovers` removes. What exists at `path` is never
    replaced. Raises BadInput where `path` cannot be written to, StorageError when the disk is full.
    """
    target = Path(os.path.realpath(path))
    check_new_folder(target)
    try:
        temporary, held = _temporary_folder(target.parent)
    except OSError as error:
        raise _explain(error, target) from error
    try:
        try:
            yield temporary
            _sync_folder(temporary)
            if os.path.lexists(target):  # since we looked
                raise _exists(target)
            temporary.rename(target)
        except OSError as error:
            about = (None, str(temporary), str(target))
            if error.filename not in about and temporary not in Path(error.filename).parents:
                raise  # about another file, as one that the block reads from
            raise _explain(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held is not None:
            os.close(held)
    _sync_folder(target.parent)


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Raises BadInput where it is known already that `atomic_folder` could not make `path`."""
    target = Path(os.path.realpath(path))
    try:
        if os.path.lexists(target):
            raise _exists(target)
        there = target.parent.is_dir()
    except OSError as error:
        raise _explain(error, target) from error
    if not there:
        raise _no_folder(target)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise _explain(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), target)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises BadInput where it is known already that `atomic` could not write `path`."""
    _check(Path(os.path.realpath(path)), 0, replace=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic` and `atomic_folder` left in `folder` when their process was killed; what
    a process still writes stays, and where that cannot be told, all of it."""
    with suppress(OSError):
        for path in folder.glob(_PART.format("[0-9a-f]" * 16)):
            with suppress(OSError):
                kind = path.lstat().st_mode
                if stat.S_ISREG(kind):
                    with path.open("rb") as file:
                        if _hold(file):
                            path.unlink()
                elif stat.S_ISDIR(kind) and (held := _hold_folder(path)) is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(held)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary(folder: Path, mode: int) -> BinaryIO:
    """A new file that is ours alone. Raises OSError."""
    while True:
        # Named apart from the target: a long name with a suffix would exceed what a folder takes.
        path = folder / _PART.format(secrets.token_hex(8))
        file = cast(BinaryIO, open(path, "x+b", opener=lambda n, f: os.open(n, f, mode)))  # noqa: SIM115
        try:
            held = _hold(file)
        except OSError:  # a file system without locks, on which no leftovers are removed either
            held = True
        if held and path.exists():
            return file
        file.close()  # taken for a leftover in the instant before it was locked


def _temporary_folder(parent: Path) -> tuple[Path, int | None]:
    """A new folder that is ours alone, and the descriptor that holds it; None where folders cannot
    be locked, and no leftovers are removed either. Raises OSError."""
    while True:
        path = parent / _PART.format(secrets.token_hex(8))
        path.mkdir()
        try:
            held = _hold_folder(path)
        except FileNotFoundError:
            continue  # taken for a leftover in the instant before it was locked
        except OSError:
            return path, None
        if held is not None and path.exists():
            return path, held
        if held is not None:
            os.close(held)


def _hold_folder(path: Path) -> int | None:
    """A descriptor by which the folder `path` is locked by us until it is closed; None if another
    process has it. Raises OSError where folders cannot be locked."""
    if os.name == "nt":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(path))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        held = _hold(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    if not held:
        os.close(descriptor)
    return descriptor if held else None


def _hold(file: BinaryIO | int) -> bool:
    """Whether `file` is locked by us now; a process that is killed lets go of what it locked.

    Raises OSError where files cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows, where nothing that is open can be removed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check(target: Path, mode: int, replace: bool) -> int:
    """The permissions that `target` will have. Raises BadInput where it cannot be written."""
    try:
        old = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise _no_folder(target) from None
        return mode
    except OSError as error:
        raise _explain(error, target) from error
    if not stat.S_ISREG(old.st_mode):
        what = "a folder" if stat.S_ISDIR(old.st_mode) else "not a regular file"
        raise BadInput(f"{target} is {what}. Give the name of a file to write.")
    if not replace:
        raise _exists(target)
    return stat.S_IMODE(old.st_mode)


def _move_new(temporary: Path, target: Path) -> None:
    """Rename, but never over another file: a link is made only where there is none."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise _exists(target) from None
        temporary.rename(target)


def _no_folder(target: Path) -> BadInput:
    return BadInput(
        f"{target} cannot be written: there is no folder {target.parent}. Make it first, "
        "or choose another place."
    )


def _exists(target: Path) -> BadInput:
    return BadInput(f"{target} exists already and is not overwritten. Choose another name.")


def _explain(error: OSError, target: Path) -> CrucibleError:
    if error.errno in FULL:
        return StorageError(
            f"{target} could not be written: the disk is full ({error.strerror}). What was there "
            "before is unchanged. Free some space, or write to another place."
        )
    if error.errno in _REFUSED:
        return BadInput(
            f"{target} cannot be written: {error.strerror}. What was there before is unchanged. "
            "Choose a folder you may write to."
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EINVAL):
        return BadInput(f"{target} cannot be the name of a file here: {error.strerror}.")
    return CrucibleError(
        f"{target} could not be written: {error.strerror or error}. What was there before is "
        "unchanged."
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Some network file systems (and Windows) cannot; the data is safe."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
