"""What images are compared by: the last hidden layer of a small classifier.

Three classifiers of our own are shipped, with the recipes that trained them (`features_*.toml`):
of MNIST, of CIFAR-10, of the 8 x 8 digits. The data's shape chooses among them; images of another
shape are brought to the nearest one's. A distance between features means something only beside
others that were seen by the same extractor, so that its name belongs to every figure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import resources
from engine.errors import BadInput, CrucibleError
from engine.events import Event, Progress
from engine.models.building import build
from engine.models.card import ModelCard, of_classifier, parse_card, read_metadata
from engine.models.files import load_model, read_tensors

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.data import Split

Shape = tuple[int, int, int]

BATCH = 50
"""Images that are looked at together."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """sha256: of the file, in hexadecimal. unit: root mean square of the features of the training
    images, by which they are divided: the kernel of KID is made for features around 1."""

    sha256: str
    unit: float


SHIPPED = {
    "mnist": Shipped("6185829c1cdced9865f1265143582af523591aff5dafaf341e7dc2e94de70f5a", 4.8),
    "cifar10": Shipped("74e939459d7019fe9cb0053ef1578c62bc29c912b39d5e82b2e61a2b77adfafc", 1.8),
    "digits": Shipped("85e73d169c526ff71cc734e917b09238f696e2eadb0089b8fec75b703a77f6f9", 5.7),
}

SMALL = 16
"""Grey images with a shorter side than this are more like the 8 x 8 digits than like MNIST."""

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """features: float32 (N, D). logits: float32 (N, K), on the CPU both."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Extractor:
    """name: belongs to every figure. shape: of the images that `see` takes, float32 in [0, 1], on
    any device; it gives features (N, dimensions) and logits of `classes`, of which there may be
    none. batch: images that are looked at together."""

    name: str
    shape: Shape
    classes: tuple[str, ...]
    dimensions: int
    see: Callable[[Tensor], tuple[Tensor, Tensor]]
    batch: int = BATCH


# --- which one ------------------------------------------------------------------------------------


def suited(shape: Shape) -> str:
    """The shipped extractor for images of `shape`. Raises BadInput for what are no images."""
    channels, height, width = shape
    if min(height, width) < 2:
        raise BadInput(
            f"data of shape {channels} x {height} x {width} are no images, and an extractor of "
            "features sees images; points of a plane are judged by their modes, in their run"
        )
    if channels == 1:
        return "digits" if min(height, width) < SMALL else "mnist"
    return "cifar10"


def shipped(name: str, device: torch.device | None = None) -> Extractor:
    """The extractor `name` of those that are shipped. Raises CrucibleError if its file is missing
    or is not the one that was shipped."""
    try:
        content = resources.path("features", f"{name}.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise CrucibleError(str(error)) from None
    if hashlib.sha256(content).hexdigest() != SHIPPED[name].sha256:
        raise CrucibleError(
            f"the extractor {name} is not the one that was shipped: its SHA-256 differs, so that "
            "figures would not compare with others. Install Crucible again."
        )
    _, metadata = read_metadata(content)
    card = of_classifier(name, parse_card(name, metadata))
    module = build(card.model, card.shape, len(card.classes))
    module.load_state_dict(read_tensors(content, name, metadata))
    return extractor_of(name, module.to(device or "cpu"), card, SHIPPED[name].unit)


def judge(ref: str, bench: Bench) -> Extractor:
    """The classifier of the run or file `ref` as an extractor. Raises BadInput if there is none, or
    it has no last linear layer whose inputs are features."""
    loaded = load_model(ref, bench)
    return extractor_of(ref, loaded.module, loaded.card)


def extractor_of(name: str, module: nn.Module, card: ModelCard, unit: float = 1.0) -> Extractor:
    """A classifier's last hidden layer: what its last linear layer is given, divided by `unit`.
    Raises BadInput where it ends in no such layer."""
    module = module.eval().requires_grad_(False)
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1].out_features != len(card.classes):
        raise BadInput(
            f"the classifier {name!r} does not end in a linear layer, whose inputs would be the "
            "features; name another one"
        )
    last = linear[-1]

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            logits = module(images.to(last.weight.device))
        finally:
            hook.remove()
        return given[-1].flatten(1) / unit, logits

    shape: Shape = card.shape
    return Extractor(name, shape, card.classes, last.in_features, see)


# --- looking --------------------------------------------------------------------------------------


def features(images: Tensor, extractor: Extractor) -> Tensor:
    """What `extractor` sees in images, float32 (N, C, H, W) in [0, 1]: float32 (N, D), on the
    CPU. Raises BadInput where images hold values that are no numbers."""
    return seen(images, extractor).features


def seen(images: Tensor, extractor: Extractor) -> Seen:
    """The same with the logits."""
    check(images)
    parts = [_look(part, extractor) for part in images.split(extractor.batch)]
    return _joined(parts, extractor)


def seen_of_split(
    split: Split, index: Tensor, extractor: Extractor, unit: str = "images"
) -> Generator[Event, None, Seen]:
    """What is seen in the images of a split at `index`, int64 (N,); says how far it is."""
    parts, done = [], 0
    for _, images, _ in split.batches(index, extractor.batch):
        parts.append(_look(images, extractor))
        done += len(images)
        yield Progress(done, len(index), unit)
    return _joined(parts, extractor)


def check(images: Tensor) -> None:
    """Raises BadInput where images, (N, ...), hold values that are no numbers, and says how many
    do."""
    refuse(broken(images), len(images))


def broken(images: Tensor) -> int:
    """How many images hold values that are no numbers."""
    return int((~images.flatten(1).isfinite().all(1)).sum())


def refuse(count: int, images: int) -> None:
    """Raises BadInput if `count`, of so many images, is above 0."""
    if count:
        raise BadInput(
            f"{count} of {images} images hold values that are no numbers (NaN or infinite), and no "
            "figure can be taken of them. The generator's training has broken down: take one from "
            "before, or train with a smaller learning rate"
        )


def fitted(images: Tensor, shape: Shape) -> Tensor:
    """Images, (N, C, H, W), as an extractor of `shape` takes them: grey from colours by their
    brightness, resized (bilinear, antialiased)."""
    channels, height, width = shape
    if images.shape[1] != channels:
        if images.shape[1] == 3:
            weights = torch.tensor(GREY, device=images.device)[:, None, None]
            images = (images * weights).sum(1, keepdim=True)
        images = images[:, :1].expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(
            images, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
    return images


def recognised(seen: Seen, labels: Tensor) -> float:
    """The share of images that the extractor's classifier takes for their label, int64 (N,)."""
    return float((seen.logits.argmax(1) == labels.cpu()).double().mean())


def joined(parts: Iterable[Seen]) -> Seen:
    """One after the other."""
    all_of = list(parts)
    return Seen(
        torch.cat([part.features for part in all_of]), torch.cat([part.logits for part in all_of])
    )


def _look(images: Tensor, extractor: Extractor) -> Seen:
    with torch.no_grad():
        given, logits = extractor.see(fitted(images, extractor.shape))
    return Seen(given.float().cpu(), logits.float().cpu())


def _joined(parts: list[Seen], extractor: Extractor) -> Seen:
    if not parts:
        return Seen(torch.empty(0, extractor.dimensions), torch.empty(0, len(extractor.classes)))
    return joined(parts)
