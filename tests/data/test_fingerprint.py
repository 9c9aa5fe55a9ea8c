"""What changes a data set's fingerprint, and what does not."""

from __future__ import annotations

import base64
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import load
from engine.data.fingerprint import SKETCH, keys_of, share_seen, sketch
from engine.data.spec import CIFAR10, MNIST, Digits, Folder
from engine.random import mix

CLASSES = {"apple": 10, "plum": 8}


@pytest.fixture
def prints(bench, drain):
    """The fingerprint of a data set, and what its test split holds."""

    def of(spec) -> tuple[str, str]:
        data = drain(load(spec, bench))[1]
        keys = keys_of(data.marks)[data.test.ids]
        return data.fingerprint, str(sorted(keys.tolist()))

    return of


@pytest.fixture
def root(tmp_path, write_images):
    return write_images(tmp_path / "of mine", CLASSES)


def folder(path, **fields) -> Folder:
    return Folder(path=str(path), **{"size": 8, **fields})


def image(path, red: int = 250) -> None:
    Image.new("RGB", (12, 12), (red, 1, 2)).save(path)


def test_the_same_wherever_it_lies_and_however_it_is_read(prints, root, tmp_path, zip_of):
    before = prints(folder(root))
    assert len(before[0]) == 64
    assert prints(folder(root)) == before
    assert prints(folder(root, size=16, channels=1)) == before
    assert prints(folder(zip_of(root, tmp_path / "a.zip"))) == before
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:  # as a file manager packs a folder
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root.parent))
    assert prints(folder(tmp_path / "b.zip")) == before
    moved = tmp_path / "else" / "where"
    shutil.copytree(root, moved)
    assert prints(folder(moved)) == before
    assert prints(folder(moved.parent)) == before
    (moved / "notes.txt").write_text("no image")
    assert prints(folder(moved)) == before


def test_the_same_when_it_is_streamed(prints, tmp_path):
    for name in CLASSES:
        (tmp_path / "s" / name).mkdir(parents=True)
        for i in range(6):
            image(tmp_path / "s" / name / f"{i}.png", i)
    whole = Folder(path=str(tmp_path / "s"), size=300)
    assert prints(whole) == prints(whole.model_copy(update={"memory": 1}))


@pytest.mark.parametrize("change", ["add", "remove", "replace", "rename", "damage", "class"])
@pytest.mark.parametrize("zipped", [False, True])
def test_another_when_the_images_change(prints, root, tmp_path, zip_of, change, zipped):
    def now():
        return prints(folder(zip_of(root, tmp_path / "it.zip") if zipped else root))

    before = now()
    first = root / "apple" / "000.png"
    match change:
        case "add":
            for i in range(10):
                image(root / "apple" / f"a{i}.png")
        case "remove":
            first.unlink()
        case "replace":  # by as many bytes
            for path in (root / "apple").iterdir():
                path.write_bytes(path.read_bytes() + b"!")
        case "rename":
            first.rename(root / "apple" / "zzz.png")
        case "damage":
            first.write_bytes(b"no image")
        case "class":
            (root / "plum").rename(root / "pear")
    after = now()
    assert after[0] != before[0]
    if change in ("add", "replace"):
        assert after[1] != before[1]


def test_a_replaced_file_of_the_same_length_is_seen(prints, tmp_path):
    for name in CLASSES:
        (tmp_path / "b" / name).mkdir(parents=True)
        for i in range(6):
            image(tmp_path / "b" / name / f"{i}.bmp", i)
    before = prints(folder(tmp_path / "b"))
    changed = tmp_path / "b" / "plum" / "3.bmp"
    size = changed.stat().st_size
    image(changed, 99)
    assert changed.stat().st_size == size
    assert prints(folder(tmp_path / "b"))[0] != before[0]


def test_a_split_of_its_own_stays_while_training_images_are_added(prints, tmp_path, write_images):
    root = tmp_path / "split"
    for part in ("train", "test"):
        write_images(root / part, CLASSES)
    before = prints(folder(root))
    image(root / "train" / "apple" / "0.png")  # shifts every id
    after = prints(folder(root))
    assert after[0] != before[0]
    assert after[1] == before[1]
    image(root / "test" / "apple" / "new.png")
    assert prints(folder(root))[1] != before[1]


def test_of_the_splits_that_are_asked_for(prints):
    whole, test = prints(Digits())
    assert prints(Digits()) == (whole, test)
    other_seed, other_share, other_validation = (
        prints(Digits(**fields))
        for fields in ({"split_seed": 1}, {"test": 0.3}, {"validation": 0.3})
    )
    assert len({whole, other_seed[0], other_share[0], other_validation[0]}) == 4
    assert len({test, other_seed[1], other_share[1]}) == 3
    assert other_validation[1] == test  # drawn before, so nothing of it was learnt from


def test_of_a_published_set(prints, bench, tmp_path, write_idx):
    bench.data_root = tmp_path
    raw = write_idx(tmp_path)
    whole, test = prints(MNIST(validation=0.2))
    limited = prints(MNIST(validation=0.2, limit=7))
    assert limited[0] != whole
    assert limited[1] == test
    file = raw / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # one pixel of another version
    file.write_bytes(content)
    changed = prints(MNIST(validation=0.2))
    assert changed[0] != whole
    assert changed[1] != test


def test_colour_channels_are_hashed_in_their_order(bench, drain, tmp_path, write_cifar):
    """CIFAR-10's arrays are views with the channels last in memory."""
    bench.data_root = tmp_path
    written = write_cifar(tmp_path)
    data = drain(load(CIFAR10(), bench))[1]
    assert len(data.fingerprint) == 64
    images, _ = data.test.batch(data.test.ids - 100)
    expected = written["test_batch"].reshape(-1, 3, 32, 32)
    assert np.array_equal((images * 255).round().byte().numpy(), expected)


# --- what was learnt from -------------------------------------------------------------------------


def keys(*parts: range) -> torch.Tensor:
    """A number for each image of these, as if hashed."""
    numbers = [n for part in parts for n in part]
    return mix(torch.tensor(numbers, dtype=torch.int64)) & (2**63 - 1)


def test_a_sketch_of_few_images_holds_them_all():
    kept = sketch(keys(range(100)), keys(range(100, 200)))
    assert share_seen((kept,), keys(range(100, 200))) == 0
    assert share_seen((kept,), keys(range(90, 110))) == 0.5
    assert share_seen((kept, sketch(keys(range(200, 300)), keys())), keys(range(200, 300))) == 1
    assert share_seen((), keys(range(3))) == 0
    assert share_seen((kept,), keys()) == 0


def test_a_sketch_of_many_images_tells_about_how_many():
    kept = sketch(keys(range(60_000)), keys(range(60_000, 70_000)))
    assert len(base64.b64decode(kept)) == 8 * (SKETCH + 1)
    assert share_seen((kept,), keys(range(60_000, 70_000))) == 0
    half = share_seen((kept,), keys(range(55_000, 65_000)))
    assert abs(half - 0.5) < 0.15
    assert share_seen((kept,), keys(range(10_000))) == 1


def test_what_was_twice_there_from_the_beginning_says_nothing():
    kept = sketch(keys(range(100)), keys(range(95, 130)))
    assert share_seen((kept,), keys(range(95, 130))) == 0


def test_other_names_do_not_hide_an_image(bench, drain, root):
    def loaded():
        return drain(load(folder(root), bench))[1]

    kept = loaded().sketch
    assert loaded().seen((kept,)) == 0
    (root / "apple").rename(root / "quince")  # now after plum: the split is drawn anew
    for i in range(10):
        image(root / "plum" / f"new {i}.png", i)
    assert loaded().seen((kept,)) > 0
