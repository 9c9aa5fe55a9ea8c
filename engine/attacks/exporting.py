"""Writing the adversarial examples of a run for other programs: a folder of PNG files with an
index, or one safetensors file."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.attacks.geometry import ORDERS
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.saved import Examples, read_examples
from engine.attacks.showing import sizes
from engine.errors import BadInput, CrucibleError
from engine.events import Event, Note, Progress, Saved
from engine.files import atomic, atomic_folder, check_new_folder, check_target, sha256_of
from engine.models import load_model
from engine.models.card import read_card
from engine.store import RunInfo, Workspace
from engine.task import Steps

if TYPE_CHECKING:
    from engine.attacks.spec import ExportSet, Norm
    from engine.bench import Bench

BATCH = 64
"""Images between two signs of life."""

NAMES = {"png": "examples", "safetensors": "examples.safetensors"}
"""What is written into the run's own folder."""

COLUMNS = (
    "sample",
    "id",
    "label",
    "label_name",
    "prediction_before",
    "prediction_after",
    "outcome",
    "success",
    "norm",
    "prediction_of_clean_png",
    "prediction_of_adversarial_png",
    "still_fools",
    "norm_of_pngs",
    "clean",
    "adversarial",
)

README = """Adversarial examples of run {name} ({id}), written by Crucible {version}.

attack   {attack}
eps      {eps}
norm     {norm}
model    {model}
weights  {weights_sha256}

clean/        the images that the attack started from
adversarial/  what it made of them, under the same file names
index.csv     one row a sample

{samples} samples; {broken} of them fooled the model as the attack left them.
A PNG file holds 8 bits a channel, the attack works on real numbers. Each file was read back and
judged by the model again: {still} of the {broken} still fool it, {lost} do not.

Columns of index.csv
  sample            place in the attack, from 1; id: row of the data set
  label             true class, from 0; label_name: what it is called
  prediction_before what the model makes of the clean image
  prediction_after  what it makes of the adversarial one, as the attack left it; -1 where an output
                    was no number
  outcome           broken, withstood, or wrong before (then it was not attacked)
  success           whether the attack counts: 1 or 0
  norm              size of the change, as the attack left it (norm: see above)
  prediction_of_clean_png, prediction_of_adversarial_png, norm_of_pngs
                    the same of the two PNG files
  still_fools       whether success holds for the two PNG files: 1 or 0
  clean, adversarial  the files
"""


def check_set(spec: ExportSet, workspace: Path) -> None:
    """Raises BadInput where it is known beforehand that the set could not be written."""
    if not spec.to:
        return
    target = Path(spec.to).expanduser()
    if spec.form == "png":
        check_new_folder(target)
    else:
        check_target(target)
        if target.exists():
            raise BadInput(f"{target} exists already and is not overwritten. Choose another name.")


def run_export_set(spec: ExportSet, bench: Bench) -> Steps:
    """Run `spec`; see `ExportSet`. Nothing is left of a set that was not written to its end."""
    run = Workspace(bench.workspace, create=False).find(spec.source)
    examples = read_examples(run)
    target = Path(spec.to).expanduser() if spec.to else bench.folder / NAMES[spec.form]
    broken = int(examples.success.sum())
    summary = {"samples": len(examples), "broken": broken}
    facts = _facts(examples, run.info(), bench)
    if spec.form == "safetensors":
        yield from _copy(examples, target, facts)
    else:
        summary["still_fooling"] = yield from _write_folder(examples, target, bench, facts)
    index = target / "index.csv" if spec.form == "png" else target
    place = str(index) if spec.to else str(index.relative_to(bench.folder))
    yield Saved("examples", place, index.stat().st_size, sha256_of(index))
    return {"file": str(target), **summary}


def _facts(examples: Examples, info: RunInfo, bench: Bench) -> dict[str, str]:
    """Where the examples come from, for whoever is handed them."""
    attacks = info.spec.get("attacks") or [info.spec.get("attack") or {}]
    sizes = dict.fromkeys(f"{a['eps']:g}" for a in attacks if a.get("eps") is not None)
    return {
        "name": info.name,
        "id": info.id,
        "version": version("crucible-workbench"),
        "attack": json.dumps(attacks[0] if len(attacks) == 1 else attacks),
        "eps": ", ".join(sizes) or "none: the smallest perturbation was looked for",
        "norm": examples.measure or "that of the attack that broke a sample",
        "model": examples.model,
        "weights_sha256": _weights(examples.model, bench) or "not known any more",
        "samples": str(len(examples)),
        "broken": str(int(examples.success.sum())),
    }


def _weights(model: str, bench: Bench) -> str:
    """The hash of the weights that were attacked, if the model is still there, and not locked."""
    try:
        path = bench.find_model(model)
        return "" if path.suffix == ".age" else read_card(path).weights_sha256
    except CrucibleError:
        return ""


def _copy(examples: Examples, target: Path, facts: dict[str, str]) -> Generator[Event, None, None]:
    """The file of the run, tensor for tensor, with `facts` as its metadata."""
    with examples.path.open("rb") as source:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        begin, size = source.tell(), examples.path.stat().st_size
        header["__metadata__"] = {**header.get("__metadata__", {}), **facts}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors stay aligned
        written = hashlib.sha256()
        with atomic(target, replace=False) as file:
            for part in (len(text).to_bytes(8, "little"), text):
                file.write(part)
                written.update(part)
            while part := source.read(2**22):
                file.write(part)
                written.update(part)
                yield Progress(source.tell() - begin, size - begin, "bytes")
    if sha256_of(target) != written.hexdigest():
        raise CrucibleError(f"{target} was read back and is not what was written: the disk fails")


def _write_folder(
    examples: Examples, target: Path, bench: Bench, facts: dict[str, str]
) -> Generator[Event, None, int]:
    """How many of the files still fool the model."""
    channels = examples.shape[0]
    if channels not in (1, 3):
        raise BadInput(
            f"these images have {channels} channels, a PNG file has 1 or 3; write them as "
            "safetensors instead"
        )
    loaded = load_model(examples.model, bench)
    oracle = Oracle(loaded.module, seed=bench.derive("judge"), device=bench.device, bf16=False)
    total, broken, still = len(examples), int(examples.success.sum()), 0
    with atomic_folder(target) as folder:
        for name in ("clean", "adversarial"):
            (folder / name).mkdir()
        with (folder / "index.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for begin in range(0, total, BATCH):
                rows = range(begin, min(begin + BATCH, total))
                for row in _judged(examples, rows, oracle, bench.device, folder):
                    still += row["still_fools"]
                    writer.writerow(row | {"label_name": _name(loaded.card.classes, row["label"])})
                yield Progress(rows.stop, total, "images")
        words = README.format(**facts, still=still, lost=broken - still)
        (folder / "README.txt").write_text(words, encoding="utf-8")
    if still < broken:
        yield Note(
            "warning",
            f"{broken - still} of {broken} adversarial examples no longer fool the model once they "
            "are rounded to 8 bits; index.csv says which.",
        )
    return still


def _judged(
    examples: Examples, rows: range, oracle: Oracle, device: torch.device, folder: Path
) -> Iterator[dict[str, Any]]:
    """Write the images of `rows` as PNG files, read them back, and say what the model makes of
    them: one row of the index a sample."""
    part = slice(rows.start, rows.stop)
    clean, adversarial = examples.images(part)
    digits = len(str(len(examples)))
    names = [f"{place + 1:0{digits}d}.png" for place in rows]
    written = [
        _back(_write(folder / kind / name, image))
        for kind, images in (("clean", clean), ("adversarial", adversarial))
        for name, image in zip(names, images, strict=True)
    ]
    files = torch.stack(written).unflatten(0, (2, -1))
    before = predicted(oracle.look(clean.to(device))).cpu()
    now = predicted(oracle.look(files.flatten(0, 1).to(device))).cpu().view(2, -1)
    labels, after, success = (
        every[part] for every in (examples.labels, examples.predictions, examples.success)
    )
    reached = now[1] == after if examples.targeted else (now[1] != labels) & (now[1] >= 0)
    fools = success & (now[0] == labels) & reached
    change = (files[1] - files[0]).flatten(1)
    for k, (place, name) in enumerate(zip(rows, names, strict=True)):
        survived = "withstood" if before[k] == labels[k] else "wrong before"
        order = ORDERS.get(cast("Norm", examples.measure))
        yield {
            "sample": place + 1,
            "id": int(examples.ids[place]),
            "label": int(labels[k]),
            "prediction_before": int(before[k]),
            "prediction_after": int(after[k]),
            "outcome": "broken" if success[k] else survived,
            "success": int(success[k]),
            "norm": f"{float(examples.norm[place]):.9g}",
            "prediction_of_clean_png": int(now[0, k]),
            "prediction_of_adversarial_png": int(now[1, k]),
            "still_fools": int(fools[k]),
            "norm_of_pngs": ""
            if order is None
            else f"{float(sizes(change[k : k + 1], order)):.9g}",
            "clean": f"clean/{name}",
            "adversarial": f"adversarial/{name}",
        }


def _write(path: Path, image: Tensor) -> Path:
    """`image`, (C, H, W) in [0, 1], rounded to 8 bits, as a PNG file."""
    pixels: NDArray[np.uint8] = (image * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path, "PNG")
    return path


def _back(path: Path) -> Tensor:
    """A PNG file as float32 (C, H, W) in [0, 1], as whoever opens it would see it."""
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255


def _name(classes: tuple[str, ...], index: int) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)
