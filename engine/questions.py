"""Questions: what the window asks beside runs.

Each is a generator, and takes the question's fields. While it runs it loads data, yielding the
events of that, and touches nothing that a run in another thread depends on. It returns its answer
(JSON values, bytes of a picture or none) or, where a model is to be built or asked, a function that
computes the answer: that one touches global random state, and is called between two steps of the
run (see `engine.desk`). Where that takes long the function is a generator function: it is pulled a
little at a time, and returns the answer, or an `Aside` that needs the model no more.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from engine.attacks.embedding import SPACES, Seen, look, plane
from engine.attacks.projecting import METHODS
from engine.attacks.saved import Examples, read_examples
from engine.attacks.showing import as_pixels, drawn_at
from engine.attacks.trying import Tried, attempt, budget, smallest
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.images import UnreadableError, decode
from engine.data.published import training_images
from engine.data.spec import CIFAR10, MNIST, DataSpec, FashionMNIST
from engine.errors import BadInput
from engine.events import Event
from engine.explain import Pair, plane_through, read_pair, survey
from engine.explain.explaining import explaining
from engine.explain.surface import SIDE
from engine.federated.noising import client_plan
from engine.federated.spec import ClientPrivacy
from engine.generative.making import Maker, load_maker
from engine.generative.points import point_set
from engine.generative.spec.points import PointsSpec
from engine.models import describe, load_model
from engine.models.card import ModelCard, of_classifier, parse_card, read_metadata
from engine.models.files import LoadedModel, read_model
from engine.models.spec import MLP, ModelSpec
from engine.models.trust import trusts
from engine.privacy import DPSGD
from engine.privacy.planning import Asked, Plan, plan
from engine.store import Workspace
from engine.task import BenchSpec, kinds, parse
from engine.training.spec import DEFAULT_DATA, DEFAULT_MODEL, PrivateTraining

Answer: TypeAlias = tuple[dict[str, Any], bytes]
Finish: TypeAlias = Callable[[], "Answer | Generator[None, None, Answer | Aside]"]
Loading: TypeAlias = Generator[Event, None, Answer | Finish]
Key: TypeAlias = tuple[str, int, int]
T = TypeVar("T")

SHOWN = 24
"""Images of a preview."""

MOST_CLIENTS = 1000
"""Clients whose images are counted in an answer."""

MOST_KNOWN = 4_000_000
"""Probabilities in an answer; where there were more they are left out."""

LONGEST = 128
"""Longest side of a map, in pixels."""

_kept: dict[Key, LoadedModel] = {}
"""The model that was asked last, by its file: path, time of change, size."""
_makers: dict[Key, Maker] = {}
"""The same of what makes images of latents."""

MOST_MADE = 1024
"""Images in an answer."""

POINTS = 2048
"""Points of a preview."""


@dataclass(frozen=True, slots=True)
class Aside:
    """What is left to be done without the model: `steps` return the answer. They are pulled in the
    questions' thread, and closed when nobody wants it any more."""

    steps: Generator[Event, None, Answer]


def prepare(question: Mapping[str, Any], workspace: Workspace, data_root: Path | None) -> Loading:
    """Answer a question of one of the kinds below. Raises BadInput where it makes no sense."""
    known: dict[str, Callable[[Mapping[str, Any], Bench], Loading]] = {
        "describe_model": describe_model,
        "embed": embed,
        "fit_image": fit_image,
        "generate": generate,
        "meet_model": meet_model,
        "predict": predict,
        "preview_data": preview_data,
        "privacy_curve": privacy_curve,
        "preview_partition": preview_partition,
        "preview_points": preview_points,
        "explain": explain_sample,
        "surface": survey_surface,
        "smallest_eps": smallest_eps,
        "try_attack": try_attack,
    }
    kind = question.get("kind")
    if kind not in known:
        raise BadInput(f"there is no question {kind!r}; expected one of: {', '.join(known)}")
    # A run may be under way: its number of threads must not change under it.
    spec = BenchSpec(device="cpu", threads=torch.get_num_threads())
    bench = Bench(workspace.root, workspace.root, spec=spec, data_root=data_root)
    return (yield from known[kind](question, bench))


def describe_model(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`model` and `data` (specs, or absent for the defaults): layers, parameters, FLOPs."""
    model = _spec(ModelSpec, question.get("model")) or DEFAULT_MODEL
    data = yield from _load(question, bench)
    shape, classes = data.shape, len(data.classes)

    def finish() -> Answer:
        described = describe(model, shape, classes, trust=trusts(model, bench))
        layers = [
            {
                "name": layer.name,
                "type": layer.type,
                "output": list(layer.output),
                "parameters": layer.parameters,
                "flops": layer.flops,
            }
            for layer in described.layers
        ]
        sums = {"parameters": described.parameters, "flops": described.flops}
        return {"layers": layers, **sums}, b""

    return finish


def preview_data(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`data` (a spec): classes, shape, how many images a split, and pictures of the first ones."""
    data = yield from _load(question, bench)
    index = torch.arange(min(SHOWN, len(data.train)))
    images, labels = data.train.batch(index)
    pixels = _pixels(images)
    counts = {
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
    }
    reply = {
        "classes": list(data.classes),
        "shape": list(data.shape),
        "counts": counts,
        "pixels": list(pixels.shape),
        "labels": labels.tolist(),
    }
    return reply, pixels.tobytes()


def preview_partition(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`data` and `partition` (specs, or absent for the defaults), and how many `clients`: who has
    how many training images of which class, a row a client, of the first MOST_CLIENTS."""
    from engine.federated.partitioning import counts, partition
    from engine.federated.spec import IID, PartitionSpec

    spec = _spec(PartitionSpec, question.get("partition")) or IID()
    clients = question.get("clients", 10)
    if not isinstance(clients, int) or clients < 1:
        raise BadInput(f"clients must be a whole number from 1 on, but it is {clients!r}")
    data_spec = _spec(DataSpec, question.get("data")) or DEFAULT_DATA
    data = yield from load(data_spec, bench)
    parts = partition(spec, data, clients, data_spec.split_seed)
    table = counts(parts, data.train.labels, len(data.classes))
    sizes = table.sum(1)
    reply = {
        "classes": list(data.classes),
        "counts": table[:MOST_CLIENTS].tolist(),
        "clients": clients,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }
    return reply, b""


def preview_points(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`data` (a spec of points in the plane): POINTS of them, float32, and the extent of a picture
    of them."""
    spec = _spec(PointsSpec, question.get("data"))
    if spec is None:
        raise BadInput("say what points are to be shown: `data` is missing")
    yield from ()  # nothing is loaded
    points = point_set(spec)
    drawn, _ = points.draw(POINTS, bench.generator("preview"))
    return {"extent": list(points.extent)}, drawn.float().numpy().tobytes()


def privacy_curve(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`privacy` (a spec of a private training), `data` and `model` (specs, or absent for the
    defaults), `batch_size` and `epochs`: what the training would cost. Epsilon over its steps by
    PLD and by RDP, the noise multiplier (given or found), and the step at which it would stop. Of a
    private federation `privacy`, `fraction` and `rounds`: the same over its rounds."""
    if "rounds" in question:
        return (yield from _of_clients(question))
    spec = _spec(PrivateTraining, question.get("privacy"))
    if not isinstance(spec, DPSGD):
        raise BadInput(
            f"{spec.kind} gives no guarantee, so there is no epsilon to tell of it"
            if spec is not None
            else "say of what private training the epsilon is asked: `privacy` is missing"
        )
    batch_size, epochs = int(question["batch_size"]), int(question["epochs"])
    if min(batch_size, epochs) < 1:
        raise BadInput("batch_size and epochs must be 1 or more")
    model = _spec(ModelSpec, question.get("model")) or DEFAULT_MODEL
    images = yield from _training_images(question, bench)
    told = plan(
        spec,
        images,
        batch_size,
        epochs,
        statistic=isinstance(model, MLP) and model.projection > 0,
    )
    return {"images": images} | _told(told, spec), b""


def _of_clients(question: Mapping[str, Any]) -> Loading:
    spec = parse(ClientPrivacy, question["privacy"])
    fraction, rounds = float(question["fraction"]), int(question["rounds"])
    if not 0 < fraction <= 1 or rounds < 1:
        raise BadInput("fraction must be above 0 and at most 1, and rounds 1 or more")
    yield from ()  # nothing is loaded
    return _told(client_plan(spec, fraction, rounds), spec), b""


def _told(told: Plan, spec: Asked) -> dict[str, Any]:
    ahead = told.ahead(spec.delta)
    return {
        "sample_rate": told.rate,
        "noise_multiplier": told.noise,
        "delta": spec.delta,
        "target": spec.epsilon,
        "planned": told.planned,
        "within": told.within,
        "steps": list(ahead.steps),
        "epsilon": [_or_none(value) for value in ahead.pld],
        "epsilon_rdp": [_or_none(value) for value in ahead.rdp],
    }


def _training_images(question: Mapping[str, Any], bench: Bench) -> Generator[Event, None, int]:
    """How many there are; nothing is downloaded to know it."""
    data = _spec(DataSpec, question.get("data")) or DEFAULT_DATA
    if isinstance(data, MNIST | FashionMNIST | CIFAR10):
        return training_images(data)
    return len((yield from _load(question, bench)).train)


def _or_none(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def predict(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`model` (a run or file) on `image`: the place of a test image, or rows of values in [0, 1],
    (H, W) or (H, W, C). Class probabilities."""
    ref, image = str(question["model"]), question["image"]
    label: int | None = None
    count: int | None = None
    if isinstance(image, int):
        card, _ = read_model(bench.find_model(ref), bench)
        if bench.data_root is None and not ref.endswith((".safetensors", ".age")):
            workspace = Workspace(bench.workspace, create=False)
            bench.data_root = workspace.data_root_of(workspace.find(ref).info())
        data = yield from load(card.data or DEFAULT_DATA, bench)
        count = len(data.test)
        if not 0 <= image < count:
            raise BadInput(f"there is no test image {image}; there are {count}")
        images, labels = data.test.batch(torch.tensor([image]))
        label = int(labels[0])
    else:
        values = torch.tensor(image, dtype=torch.float32)
        values = values[..., None] if values.ndim == 2 else values
        images = values.permute(2, 0, 1)[None]

    def finish() -> Answer:
        loaded = load_model(ref, bench)
        _check_shape(images, loaded.card)
        with torch.no_grad():
            probabilities = loaded.module(images).softmax(1)[0]
        pixels = _pixels(images)
        reply = {
            "classes": list(loaded.card.classes),
            "probabilities": probabilities.tolist(),
            "prediction": int(probabilities.argmax()),
            "label": label,
            "count": count,
            "pixels": list(pixels.shape),
        }
        return reply, pixels.tobytes()

    return finish


# --- one image of a person's own ------------------------------------------------------------------


def meet_model(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`model`: what it takes and tells apart."""
    yield from ()  # nothing is loaded
    card = _card(str(question["model"]), bench)
    shape = {"shape": list(card.shape), "classes": list(card.classes)}
    return shape | {"data": card.data.kind if card.data is not None else None}, b""


def fit_image(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`file`, the content of an image file in base64, as `model` takes images: converted like the
    files of a folder of training images (see `engine.data.images`)."""
    yield from ()  # nothing is loaded
    channels, height, width = _card(str(question["model"]), bench).shape
    if channels not in (1, 3):
        raise BadInput(f"the model takes images of {channels} channels, which no image file has")
    try:
        content = base64.b64decode(str(question["file"]), validate=True)
        pixels = decode(content, (height, width), channels)
    except (UnreadableError, binascii.Error) as error:
        raise BadInput(f"the file cannot be read as an image: {error}") from None
    found = np.ascontiguousarray(pixels.transpose(1, 2, 0)[None])
    return {"pixels": list(found.shape)}, found.tobytes()


def try_attack(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`attack` (values of a fixed budget) at radius `eps` on `image` against `model`; see
    `engine.attacks.trying.attempt`, also for `label` and `target`, which may be absent.

    `image`: {shape: [H, W, C], pixels: uint8 in base64}. The bytes of the answer are the
    adversarial image and, signed (128 is zero, 255 is +`scale`), the perturbation."""
    yield from ()  # nothing is loaded
    ref, values, eps = str(question["model"]), question["attack"], float(question["eps"])
    image = _own(question["image"])

    def finish() -> Generator[None, None, Answer]:
        loaded = _loaded(ref, bench)
        _check_shape(image, loaded.card)
        spec = budget(values, eps)
        tried: Tried = yield from attempt(
            loaded.module, image, values, eps, question.get("label"), question.get("target"), bench
        )
        change = tried.adversarial - image
        scale = drawn_at(spec, change)
        shown = torch.cat([tried.adversarial * 255, 128 + 127 * change / scale])
        pixels = as_pixels(shown)
        reply = {
            "classes": list(loaded.card.classes),
            "label": tried.label,
            "clean": {"prediction": tried.said, "probabilities": tried.clean.tolist()},
            "adversarial": {
                "prediction": int(tried.after.argmax()),
                "probabilities": tried.after.tolist(),
            },
            "norm": tried.norm,
            "success": tried.success,
            "attacked": tried.attacked,
            "scale": scale,
            "pixels": list(pixels.shape),
        }
        return reply, pixels.tobytes()

    return finish


def smallest_eps(question: Mapping[str, Any], bench: Bench) -> Loading:
    """The smallest radius up to `most` that a bisection finds to be enough for what `try_attack`
    does; None if even that is not."""
    yield from ()  # nothing is loaded
    ref, image = str(question["model"]), _own(question["image"])
    most = float(question["most"])

    def finish() -> Generator[None, None, Answer]:
        loaded = _loaded(ref, bench)
        _check_shape(image, loaded.card)
        given = question.get("label"), question.get("target")
        found = yield from smallest(loaded.module, image, question["attack"], most, *given, bench)
        return {"eps": found}, b""

    return finish


def _own(image: Any) -> torch.Tensor:
    """A picture that comes with a question, as float32 (1, C, H, W) in [0, 1]."""
    try:
        height, width, channels = map(int, image["shape"])
        values = np.frombuffer(base64.b64decode(image["pixels"], validate=True), np.uint8)
        pixels = torch.from_numpy(values.reshape(1, height, width, channels).copy())
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"this is no picture: {error}") from None
    return (pixels.permute(0, 3, 1, 2).float() / 255).contiguous()


def _check_shape(images: torch.Tensor, card: ModelCard) -> None:
    if tuple(images.shape[1:]) != tuple(card.shape):
        raise BadInput(
            f"the model takes images {card.shape} (channels, height, width), "
            f"not {tuple(images.shape[1:])}"
        )


def _card(ref: str, bench: Bench) -> ModelCard:
    path = bench.find_model(ref)
    if path.suffix == ".age":
        return read_model(path, bench)[0]
    return of_classifier(str(path), parse_card(*read_metadata(path)))


def generate(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`model` (a run or file that makes images of latents), `latents`, rows of numbers, and where
    it is told classes `labels`, their places: what it makes of each. The bytes are the pictures."""
    ref = str(question["model"])
    rows, told = question["latents"], question.get("labels")
    yield from ()  # nothing is loaded

    def finish() -> Answer:
        maker = _maker(ref, bench)
        latents = _latents(rows, maker)
        labels = _labels(told, maker, len(latents))
        pixels = _pixels(maker.make(latents, labels))
        return {"pixels": list(pixels.shape)}, pixels.tobytes()

    return finish


def _latents(rows: Any, maker: Maker) -> torch.Tensor:
    try:
        latents = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"these are no latents: {error}") from None
    if latents.ndim != 2 or not len(latents) or len(latents) > MOST_MADE:
        raise BadInput(f"expected 1 to {MOST_MADE} latents, rows of numbers")
    width = maker.draw(0, 1, torch.zeros(1, dtype=torch.int64)).shape[1]
    if latents.shape[1] != width or not bool(latents.isfinite().all()):
        raise BadInput(
            f"the latents have {latents.shape[1]} numbers each; expected {width}, all finite"
        )
    return latents


def _labels(told: Any, maker: Maker, count: int) -> torch.Tensor | None:
    if not maker.conditional:
        return None
    classes = len(maker.card.classes)
    if (
        not isinstance(told, list)
        or len(told) != count
        or not all(isinstance(each, int) and 0 <= each < classes for each in told)
    ):
        raise BadInput(
            f"it makes images of a class that it is told; expected {count} labels, each from 0 to "
            f"{classes - 1}"
        )
    return torch.tensor(told)


def _maker(ref: str, bench: Bench) -> Maker:
    """As `_loaded`, of what makes images of latents."""
    return _held(ref, bench, load_maker, _makers)


def _loaded(ref: str, bench: Bench) -> LoadedModel:
    """The model that `ref` names, read again only when its file is another one: a person who drags
    a slider asks the same one many times."""
    return _held(ref, bench, load_model, _kept)


def _held(ref: str, bench: Bench, read: Callable[[str, Bench], T], held: dict[Key, T]) -> T:
    path = bench.find_model(ref)
    now = path.stat()
    key = str(path), now.st_mtime_ns, now.st_size
    if key not in held:
        found = read(ref, bench)
        held.clear()
        held[key] = found
    return held[key]


def explain_sample(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`run` (an attack or an evaluation), `sample` (its place among the pictures; with `broken`,
    among those that were broken) and `method`: what part of its two decisions rests on which pixel,
    and where that moved. The bytes are float32 (3, H, W), little endian: the shares of the clean
    image, of the adversarial one, and their difference; no side is longer than LONGEST."""
    # Importing captum takes a second, which a run need not wait for.
    import captum.attr  # noqa: F401

    pair = _pair(question, bench)
    yield from ()

    def finish() -> Generator[None, None, Answer]:
        loaded = _asked(pair, bench)
        images = torch.cat([pair.clean, pair.adversarial])
        found = yield from explaining(loaded.module, images, str(question["method"]))
        maps = torch.cat([found.shares, found.moved[None]])
        shown = _shrunk(maps)
        reply = {
            "method": found.method,
            "classes": list(loaded.card.classes),
            "label": pair.label,
            "predictions": list(found.classes),
            "missing": found.missing,
            "empty": [bool((part == 0).all()) for part in found.maps],
            "moved": found.share_moved,
            "places": found.places(),
            "gaps": found.gaps,
            "steps": found.steps,
            "shape": list(shown.shape),
        }
        return reply, shown.contiguous().numpy().astype("<f4").tobytes()

    return finish


def survey_surface(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`run`, `sample` and `broken` as above, `seed` (of the random direction), `start` (a number of
    points, from 0 on): the next points of the loss around it, as many as can be asked for at once;
    see `engine.explain.surface`. The bytes are float32 (N, 6), little endian: row, column, stride,
    loss, margin, predicted class."""
    pair = _pair(question, bench)
    start, seed = int(question["start"]), int(question["seed"])
    if not 0 <= start < SIDE**2:
        raise BadInput(f"the surface has the points 0 to {SIDE**2 - 1}, and no point {start}")
    yield from ()
    plane = plane_through(pair, seed=seed)

    def finish() -> Answer:
        loaded = _asked(pair, bench)
        found = survey(loaded.module, plane, pair.label, start=start)
        columns = (found.row, found.column, found.stride, found.loss, found.margin)
        points = torch.stack([part.float() for part in (*columns, found.prediction)], 1)
        reply = {
            "classes": list(loaded.card.classes),
            "label": pair.label,
            "side": SIDE,
            "reach": plane.reach,
            "norm": plane.norm,
            "distance": plane.distance,
            "eps": pair.eps if plane.norm == pair.norm else None,
            "ball": plane.ball(pair.eps) if pair.eps and plane.norm == pair.norm else [],
            "start": start,
            "done": found.done,
            "points": list(points.shape),
        }
        return reply, points.numpy().astype("<f4").tobytes()

    return finish


def _pair(question: Mapping[str, Any], bench: Bench) -> Pair:
    run = Workspace(bench.workspace, create=False).find(str(question["run"]))
    broken = bool(question.get("broken"))
    return read_pair(run, int(question["sample"]), broken=broken)


def _asked(pair: Pair, bench: Bench) -> LoadedModel:
    """The model that a pair of images was judged by. Raises BadInput if they do not fit it."""
    loaded = _loaded(pair.model, bench)
    if tuple(pair.clean.shape[1:]) != tuple(loaded.card.shape):
        raise BadInput(
            f"the model takes images {tuple(loaded.card.shape)} (channels, height, width), not "
            f"{tuple(pair.clean.shape[1:])}"
        )
    return loaded


def _shrunk(maps: torch.Tensor) -> torch.Tensor:
    """(N, H, W) with no side longer than LONGEST; what is drawn as one pixel is added up."""
    height, width = maps.shape[1:]
    by = max(height, width) / LONGEST
    if by <= 1:
        return maps
    size = [max(1, round(side / by)) for side in (height, width)]
    few: torch.Tensor = F.interpolate(maps[None], size, mode="area")[0]
    return few * (height * width / (size[0] * size[1]))


def embed(question: Mapping[str, Any], bench: Bench) -> Loading:
    """The examples of `run` (an attack or an evaluation) in the plane, clean and adversarial.

    `space`: "features" (the input of the model's last layer) or "pixels". `method`: "pca", or
    "tsne" for the first MOST_TSNE points. `seed`: of t-SNE's draws, 0 if absent. The bytes are, of
    all clean images and then of all adversarial ones: places, float32 (2, N, 2); probabilities,
    float16 (2, N, K), where `known` is not 0; pictures, uint8 `pixels`; all little endian."""
    space, method = question.get("space", "features"), question.get("method", "pca")
    seed = int(question.get("seed", 0))
    for given, known in ((space, SPACES), (method, METHODS)):
        if given not in known:
            raise BadInput(f"there is no {given!r} here; expected one of: {', '.join(known)}")
    run = Workspace(bench.workspace, create=False).find(str(question["run"]))
    examples = read_examples(run)
    yield from ()

    def finish() -> Generator[None, None, Aside]:
        loaded = load_model(examples.model, bench)
        if tuple(loaded.card.shape) != examples.shape:
            raise BadInput(
                f"the model takes images {tuple(loaded.card.shape)} (channels, height, width), not "
                f"{examples.shape}"
            )
        seen = yield from look(loaded.module, examples, space, method, bench.device)
        classes = loaded.card.classes
        return Aside(_placed(examples, seen, classes, method, seed))

    return finish


def _placed(
    examples: Examples, seen: Seen, classes: tuple[str, ...], method: Any, seed: int
) -> Generator[Event, None, Answer]:
    places, shares = yield from plane(seen.values.flatten(0, 1).numpy(), method, seed)
    count, width = seen.values.shape[1:]
    known = seen.probabilities.shape[2] if seen.probabilities.numel() <= MOST_KNOWN else 0
    surrogate = examples.surrogate
    reply = {
        "method": method,
        "layer": seen.layer,
        "width": width,
        "shares": shares,
        "classes": list(classes),
        "count": count,
        "of": len(examples),
        "labels": examples.labels[:count].tolist(),
        "before": seen.predictions[0].tolist(),
        "after": examples.predictions[:count].tolist(),
        "success": examples.success[:count].tolist(),
        "norms": [round(size, 6) for size in examples.norm[:count].tolist()],
        "surrogate": [] if surrogate is None else surrogate[:count].tolist(),
        "norm": examples.measure,
        "known": known,
        "pixels": list(seen.pixels.shape),
    }
    said = seen.probabilities.numpy().astype("<f2").tobytes() if known else b""
    return reply, places.astype("<f4").tobytes() + said + seen.pixels.tobytes()


def _spec(family: type[Any], values: Mapping[str, Any] | None) -> Any:
    if not values:
        return None
    known = kinds(family)
    kind = values.get("kind")
    if kind not in known:
        raise BadInput(f"there is no kind {kind!r}; expected one of: {', '.join(known)}")
    return parse(known[str(kind)], values)


def _load(question: Mapping[str, Any], bench: Bench) -> Generator[Event, None, Dataset]:
    return load(_spec(DataSpec, question.get("data")) or DEFAULT_DATA, bench)


def _pixels(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """float32 (N, C, H, W) in [0, 1] as uint8 (N, H, W, C)."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = as_pixels(images * 255)
    return pixels
