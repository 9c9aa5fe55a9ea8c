from __future__ import annotations

import struct
import threading
import zipfile

import numpy as np
import pytest
import torch

from engine.data import ResidentSplit, StreamedSplit, listing, load
from engine.data.spec import Folder
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Note, Progress

CLASSES = {"apple": 10, "中文 pear": 12, "plum": 8}


def folder(path, **fields) -> Folder:
    return Folder(path=str(path), size=8, **fields)


@pytest.fixture
def root(tmp_path):
    """A folder beside the bench's."""
    path = tmp_path / "of mine"
    path.mkdir()
    return path


def reds(split) -> list[int]:
    """The red of each image, which says which one it is."""
    images, _ = split.batch(torch.arange(len(split)))
    return (images[:, 0, 4, 4] * 255).round().int().tolist()


def whole(data) -> set[int]:
    return {red for part in (data.train, data.validation, data.test) for red in reds(part)}


ALL = {40 * k + i for k, count in enumerate(CLASSES.values()) for i in range(count)}


def test_class_folders(bench, drain, root, write_images):
    write_images(root / "my images", CLASSES)
    events, data = drain(load(folder(root / "my images"), bench))
    assert data.classes == ("apple", "plum", "中文 pear")
    assert data.shape == (3, 8, 8)
    assert isinstance(data.train, ResidentSplit)
    assert whole(data) == ALL
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert events[-1] == Progress(30, 30, "images")
    names = {0: "apple", 1: "中文 pear", 2: "plum"}
    for part in (data.train, data.test):
        told = [data.classes[label] for label in part.labels.tolist()]
        assert told == [names[red // 40] for red in reds(part)]


def test_grey(bench, drain, root, write_images):
    write_images(root, CLASSES)
    _, data = drain(load(folder(root, channels=1), bench))
    assert data.shape == (1, 8, 8)
    assert data.train.batch(torch.tensor([0]))[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_zip_gives_the_same(bench, drain, root, write_images, zip_of, wrapped):
    root = root / "a"
    write_images(root / "set" if wrapped else root, CLASSES)
    archive = zip_of(root, root / "images.zip")
    _, plain = drain(load(folder(root), bench))
    _, zipped = drain(load(folder(archive), bench))
    assert zipped.classes == plain.classes
    assert torch.equal(zipped.test.ids, plain.test.ids)
    assert reds(zipped.train) == reds(plain.train)
    assert reds(zipped.test) == reds(plain.test)


def test_streamed_gives_the_same(bench, drain, root, write_images, zip_of):
    write_images(root / "a", {"x": 3000, "y": 3000}, side=8)
    archive = zip_of(root / "a", root / "images.zip")
    _, resident = drain(load(folder(archive), bench))
    events, streamed = drain(load(folder(archive, memory=1), bench))
    assert isinstance(streamed.train, StreamedSplit)
    assert any(isinstance(e, Note) and "decoded as they are used" in e.text for e in events)
    assert torch.equal(streamed.train.ids, resident.train.ids)
    assert torch.equal(streamed.train.labels, resident.train.labels)
    order = torch.randperm(len(streamed.train), generator=torch.Generator().manual_seed(0))[:500]
    pairs = zip(streamed.train.batches(order, 64), resident.train.batches(order, 64), strict=True)
    for (index, images, labels), (same, expected, theirs) in pairs:
        assert torch.equal(index, same)
        assert torch.equal(images, expected)
        assert torch.equal(labels, theirs)


def test_an_image_that_vanishes_while_it_is_streamed(bench, drain, root, write_images):
    write_images(root, {"x": 3000, "y": 3000}, side=8)
    _, data = drain(load(folder(root, memory=1), bench))
    for path in root.glob("x/*.png"):
        path.write_bytes(b"")
    with pytest.raises(CrucibleError, match=r"x/.*\.png .* could be read at first and now cannot"):
        data.train.batch(torch.arange(8))


def test_own_train_and_test_folders(bench, drain, root, write_images, zip_of):
    write_images(root / "set" / "train", {"a": 10, "b": 10})
    write_images(root / "set" / "Test", {"a": 3, "b": 4})
    for path in (root / "set", root, zip_of(root / "set", root.parent / "x.zip")):
        _, data = drain(load(folder(path), bench))
        assert data.classes == ("a", "b")
        assert torch.bincount(data.test.labels).tolist() == [3, 4]
        assert len(data.train) + len(data.validation) == 20
        assert len(data.validation) == 2


def test_an_own_validation_folder(bench, drain, root, write_images):
    write_images(root / "train", {"a": 10, "b": 10})
    write_images(root / "val", {"a": 2, "b": 1})
    _, data = drain(load(folder(root, test=0.2), bench))
    assert torch.bincount(data.validation.labels).tolist() == [2, 1]
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    assert len(data.train) == 16


def test_deeper_folders_belong_to_their_class(bench, drain, root, write_images):
    write_images(root / "a", {"one": 4, "two": 4})
    write_images(root, {"b": 5})
    _, data = drain(load(folder(root), bench))
    assert data.classes == ("a", "b")
    assert sum(map(len, (data.train, data.validation, data.test))) == 13


def test_linked_class_folders(bench, drain, root, write_images):
    write_images(root / "there", {"a": 5, "b": 5})
    (root / "set").mkdir()
    for name in ("a", "b"):
        (root / "set" / name).symlink_to(root / "there" / name)
    (root / "set" / "a" / "loop").symlink_to(root / "set")
    _, data = drain(load(folder(root / "set"), bench))
    assert data.classes == ("a", "b")


def test_unreadable_images_are_listed_and_skipped(bench, drain, root, write_images, zip_of):
    write_images(root / "set", CLASSES)
    (root / "set" / "apple" / "000.png").write_bytes(b"not a picture")
    (root / "set" / "plum" / "001.png").write_bytes(b"")
    for i in range(7):
        (root / "set" / "plum" / f"x{i}.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "set" / "plum" / "Thumbs.db").write_bytes(b"no image by its name")
    (root / "set" / ".hidden").mkdir()
    for path in (root / "set", zip_of(root / "set", root / "set.zip")):
        events, data = drain(load(folder(path), bench))
        (note,) = (event for event in events if isinstance(event, Note))
        assert note.level == "warning"
        assert note.text.startswith("9 of 37 images cannot be read and are skipped: ")
        assert "apple/000.png (not an image)" in note.text
        assert note.text.endswith("and 4 more")
        assert whole(data) == ALL - {0, 81}


def test_cancelling_leaves_no_thread(bench, root, write_images):
    write_images(root, {"x": 300, "y": 300})
    before = threading.active_count()
    steps = load(folder(root), bench)
    next(steps)
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    assert threading.active_count() == before


# --- what is no data set --------------------------------------------------------------------------


def refused(spec, bench, drain) -> str:
    with pytest.raises(BadInput) as told:
        drain(load(spec, bench))
    return str(told.value)


def test_a_path_that_is_none(bench, drain, root):
    assert "there is no folder or zip" in refused(folder(root / "none"), bench, drain)
    (root / "text.txt").write_text("hello")
    assert "neither a folder nor a zip" in refused(folder(root / "text.txt"), bench, drain)


def test_no_images(bench, drain, root):
    (root / "a").mkdir()
    (root / "a" / "notes.txt").write_text("hello")
    assert "there are no images in" in refused(folder(root), bench, drain)


def test_images_outside_of_class_folders(bench, drain, root, write_images):
    write_images(root, {"a": 3, "b": 3})
    (root / "a" / "000.png").rename(root / "stray.png")
    text = refused(folder(root), bench, drain)
    assert "1 images in" in text
    assert "'stray.png'" in text
    assert "cats/1.png" in text


def test_a_single_class(bench, drain, root, write_images):
    write_images(root, {"cats": 9})
    assert "a single class, 'cats'" in refused(folder(root), bench, drain)


@pytest.mark.parametrize("packed", [False, True])
def test_an_empty_class(bench, drain, root, write_images, zip_of, packed):
    write_images(root / "set", {"a": 4, "b": 4})
    (root / "set" / "empty one").mkdir()
    path = zip_of(root / "set", root / "x.zip") if packed else root / "set"
    text = refused(folder(path), bench, drain)
    assert "no images of class 'empty one'" in text


def test_a_class_that_the_test_folder_lacks(bench, drain, root, write_images):
    write_images(root / "train", {"a": 4, "b": 4})
    write_images(root / "test", {"a": 4})
    assert "no images of class 'b'" in refused(folder(root), bench, drain)
    (root / "test" / "b").mkdir()
    (root / "test" / "b" / "1.png").write_bytes(b"broken")
    assert "class 'b'" in refused(folder(root), bench, drain)


def test_too_few_to_split(bench, drain, root, write_images):
    write_images(root, {"a": 9, "rare": 2})
    text = refused(folder(root), bench, drain)
    assert "'rare' has 2" in text
    assert "validation = 0" in text
    _, data = drain(load(folder(root, validation=0.0), bench))
    assert torch.bincount(data.test.labels).tolist() == [2, 1]


def test_nothing_readable(bench, drain, root):
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "1.png").write_bytes(b"broken")
    assert "none of the 2 images" in refused(folder(root), bench, drain)


# --- zips that mean harm --------------------------------------------------------------------------


def test_members_that_point_out_of_the_zip_are_ignored(bench, drain, root, write_images, zip_of):
    write_images(root / "set", {"a": 4, "b": 4})
    archive = zip_of(root / "set", root / "x.zip")
    image = (root / "set" / "a" / "000.png").read_bytes()
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../outside/1.png", image)
        file.writestr("/absolute/1.png", image)
        file.writestr("__MACOSX/a/._000.png", image)
    before = sorted(root.parent.rglob("*"))
    _, data = drain(load(folder(archive), bench))
    assert data.classes == ("a", "b")
    assert sorted(root.parent.rglob("*")) == before


def test_a_member_that_unpacks_without_end_is_skipped(
    bench, drain, root, write_images, zip_of, monkeypatch
):
    monkeypatch.setattr(listing, "LARGEST_FILE", 2**20)
    write_images(root / "set", {"a": 4, "b": 4})
    archive = zip_of(root / "set", root / "x.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/bomb.png", bytes(20 * 2**20))
    events, _ = drain(load(folder(archive), bench))
    (note,) = (event for event in events if isinstance(event, Note))
    assert "a/bomb.png (larger than 1 MB)" in note.text


def test_a_damaged_member_is_skipped(bench, drain, root, write_images, zip_of):
    write_images(root / "set", {"a": 4, "b": 4})
    archive = zip_of(root / "set", root / "x.zip")
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("a/000.png")
    content = bytearray(archive.read_bytes())
    for i in range(10):
        content[info.header_offset + 30 + len("a/000.png") + 20 + i] ^= 0xFF
    archive.write_bytes(content)
    events, _ = drain(load(folder(archive), bench))
    (note,) = (event for event in events if isinstance(event, Note))
    assert "a/000.png" in note.text


def test_an_encrypted_zip(bench, drain, root, write_images, zip_of):
    write_images(root / "set", {"a": 4, "b": 4})
    archive = zip_of(root / "set", root / "x.zip")
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8 : entry + 10] = struct.pack("<H", 1)
    archive.write_bytes(content)
    assert "is encrypted" in refused(folder(archive), bench, drain)


def test_a_zip_that_is_cut_short(bench, drain, root, write_images, zip_of):
    write_images(root / "set", {"a": 4, "b": 4})
    archive = zip_of(root / "set", root / "x.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    assert "neither a folder nor a zip" in refused(folder(archive), bench, drain)


def test_pixels_do_not_depend_on_the_number_of_threads(
    bench, drain, root, write_images, monkeypatch
):
    from engine.data import folder as room

    write_images(root, CLASSES, side=20)
    _, first = drain(load(folder(root), bench))
    monkeypatch.setattr(room, "WORKERS", 1)
    _, second = drain(load(folder(root), bench))
    index = torch.arange(len(first.train))
    assert np.array_equal(first.train.batch(index)[0], second.train.batch(index)[0])
