"""Finding the images of a folder, or of a zip, and the class of each."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.data.images import ENDINGS, UnreadableError
from engine.errors import BadInput

LARGEST_FILE = 64 * 2**20
"""Bytes of one image file: what a zip is allowed to unpack to."""

_PARTS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""Names of top folders that are splits, not classes."""

_FORM = "one folder of images a class, as in cats/1.png and dogs/2.png"


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a set: for each its name, its class (place in `classes`) and its split
    ("train", "test", "validation"). `inner` are the names without the folders that were stepped
    into. `groups` are the folders that they are in inside of their class's, empty where they are in
    none. `read(name)` gives the bytes of one, from any thread, and raises UnreadableError.
    `own_test` and `own_validation` say which splits the set brings."""

    names: tuple[str, ...]
    inner: tuple[str, ...]
    labels: tuple[int, ...]
    parts: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    own_test: bool
    own_validation: bool
    read: Callable[[str], bytes]


def list_images(path: Path) -> Listing:
    """The images in `path`, a folder or a zip, in the order of their names.

    A folder that holds only another one is stepped into. Raises BadInput if `path` is neither, or
    has no images, images outside of class folders, a single class, or a class without images.
    """
    if path.is_dir():
        names, folders = _walk(path)
        return _arrange(path, names, folders, _FolderReader(path))
    if not path.exists():
        raise BadInput(f"there is no folder or zip {str(path)!r}; expected {_FORM}")
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is neither a folder nor a zip; expected {_FORM}")
    reader = _ZipReader(path)
    return _arrange(path, reader.names, reader.folders, reader)


# --- where the bytes come from --------------------------------------------------------------------


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """All files and folders below `root`, relative, with forward slashes. Links to folders are
    followed at the top three levels, where splits and classes are: a loop of them ends there."""
    names: list[str] = []
    folders: list[str] = []

    def visit(folder: Path, prefix: str, depth: int) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise BadInput(f"{folder} cannot be read: {error.strerror}") from None
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=depth < 3):
                folders.append(name)
                visit(Path(entry.path), f"{name}/", depth + 1)
            else:
                names.append(name)

    visit(root, "", 0)
    return names, folders


class _FolderReader:
    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> bytes:
        path = self._root / name
        try:
            if not path.is_file():
                raise UnreadableError("not a regular file")
            if path.stat().st_size > LARGEST_FILE:
                raise UnreadableError(f"larger than {LARGEST_FILE >> 20} MB")
            return path.read_bytes()
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from None


class _ZipReader:
    """The members of a zip, read in memory: nothing is ever unpacked to the disk."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise BadInput(f"the zip {path} is damaged: {error}; copy it again") from None
        infos = self._zip.infolist()
        if any(info.flag_bits & 1 for info in infos):
            self._zip.close()
            raise BadInput(f"the zip {path} is encrypted; unpack it and name the folder instead")
        self.names = list({info.filename: None for info in infos if not info.is_dir()})
        self.folders = [info.filename.rstrip("/") for info in infos if info.is_dir()]

    def __call__(self, name: str) -> bytes:
        try:
            with self._zip.open(name) as member:
                # The size in the zip's table is only a claim: stop where it stops being credible.
                content = member.read(LARGEST_FILE + 1)
        except Exception as error:  # damaged members raise zlib's, struct's and zipfile's own
            raise UnreadableError(str(error) or type(error).__name__) from None
        if len(content) > LARGEST_FILE:
            raise UnreadableError(f"larger than {LARGEST_FILE >> 20} MB")
        return content


# --- splits and classes ---------------------------------------------------------------------------


def _arrange(
    path: Path, files: Iterable[str], folders: Iterable[str], read: Callable[[str], bytes]
) -> Listing:
    images = sorted(name for name in files if _visible(name) and _ending(name) in ENDINGS)
    dirs = sorted(name for name in folders if _visible(name))
    if not images:
        raise BadInput(
            f"there are no images in {path}; expected {_FORM} ({', '.join(sorted(ENDINGS))})"
        )
    top = _enter(images)
    tops = {_component(name, top) for name in images if _depth(name) > top + 1}
    split = "train" in {name.lower() for name in tops} and {n.lower() for n in tops} <= set(_PARTS)
    level = top + 1 if split else top

    stray = [name for name in images if _depth(name) <= level + 1]
    if stray:
        raise BadInput(
            f"{len(stray)} images in {path} are in no class folder, as {stray[0]!r}; "
            f"expected {_FORM}"
        )
    parts = [_PARTS[_component(n, top).lower()] if split else "train" for n in images]
    named = [_component(name, level) for name in images]
    prefix = images[0].split("/")[:top]
    empty = (d for d in dirs if _depth(d) == level + 1 and d.split("/")[:top] == prefix)
    if split:
        empty = (d for d in empty if _component(d, top).lower() in _PARTS)
    classes = sorted({*named, *(_component(d, level) for d in empty)})
    _check_classes(path, classes, Counter(zip(parts, named, strict=True)))
    place = {name: i for i, name in enumerate(classes)}
    return Listing(
        names=tuple(images),
        inner=tuple(name.split("/", top)[top] for name in images),
        labels=tuple(place[name] for name in named),
        parts=tuple(parts),
        groups=tuple("/".join(name.split("/")[level + 1 : -1]) for name in images),
        classes=tuple(classes),
        own_test="test" in parts,
        own_validation="validation" in parts,
        read=read,
    )


def _check_classes(path: Path, classes: list[str], counts: Counter[tuple[str, str]]) -> None:
    if len(classes) == 1:
        raise BadInput(
            f"there is a single class, {classes[0]!r}, in {path}; a classifier needs two or more. "
            f"Expected {_FORM}; name the folder that holds the class folders."
        )
    for part in sorted({part for part, _ in counts}):
        empty = [name for name in classes if not counts[part, name]]
        if empty:
            raise BadInput(
                f"no images of class {_some(empty)} in {path} ({part}). Put images into each "
                "class folder, or remove the folders that are no class."
            )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if names[5:] else "")


def _enter(images: list[str]) -> int:
    """How many leading folders all images share that hold nothing but one folder."""
    level = 0
    while all(_depth(name) > level + 2 for name in images):
        names = {_component(name, level) for name in images}
        if len(names) > 1 or names.pop().lower() == "train":
            break
        level += 1
    return level


def _visible(name: str) -> bool:
    """Not hidden, not macOS's attachments, and not pointing out of its zip."""
    parts = name.split("/")
    return not any(part in ("", "..", "__MACOSX") or part.startswith(".") for part in parts)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _component(name: str, level: int) -> str:
    return name.split("/")[level]


def _depth(name: str) -> int:
    """How many names a path is made of."""
    return name.count("/") + 1
