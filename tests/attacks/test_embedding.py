"""Where a model puts images: its features, PCA against an SVD, t-SNE, and the question for it."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks import embedding, projecting
from engine.attacks.embedding import look, plane
from engine.attacks.projecting import project
from engine.attacks.saved import read_examples
from engine.desk import Desk
from engine.errors import BadInput
from engine.events import drain
from engine.models import ModelCard, build, load_model, save_model
from engine.models.spec import MLP
from engine.store import Run, Workspace
from tests.workbench.stored import make_run

PATIENCE = 60.0


def examples_of(
    root: Path,
    count: int = 6,
    side: int = 4,
    attack: dict[str, Any] | None = None,
    nearest: bool = False,
) -> Run:
    """A run that attacked an MLP, with `count` samples of random pixels, all right when clean. Of
    the `nearest` the adversarial image lies just beyond the border, on the way from the clean one.
    """
    classes = ("a", "b", "c")
    model = MLP(width=5)
    torch.manual_seed(0)
    module = build(model, (1, side, side), 3)
    images = torch.rand(2, count, 1, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # so that it takes them for different classes
        [m for m in module.modules() if isinstance(m, nn.Linear)][-1].bias -= module(
            images[0]
        ).mean(0)
    trained = make_run(root, "plain")
    card = ModelCard(model=model, shape=(1, side, side), classes=classes)
    save_model(trained.folder / "model.safetensors", module, card)
    attack = attack or {"kind": "pgd", "norm": "linf", "eps": 0.5}
    run = make_run(
        root, "broken", {"kind": "attack", "model": trained.id, "attack": attack, "seed": 0}
    )
    labels, after = (module(half).argmax(1) for half in images)
    if nearest:
        low, high = torch.zeros(count, 1, 1, 1), (after != labels).float().view(-1, 1, 1, 1)
        for _ in range(20):
            middle = (low + high) / 2
            there = module(torch.lerp(images[0], images[1], middle)).argmax(1) != labels
            beyond = there.view(-1, 1, 1, 1)
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        images[1] = torch.lerp(images[0], images[1], high)
        after = module(images[1]).argmax(1)
    tensors = {
        "clean": images[0].contiguous(),
        "adversarial": images[1].contiguous(),
        "labels": labels,
        "predictions": after,
        "success": after != labels,
        "norm": (images[1] - images[0]).flatten(1).abs().amax(1).double(),
        "queries": torch.ones(count, dtype=torch.int64),
        "ids": torch.arange(count) + 100,
    }
    safetensors.torch.save_file(tensors, run.folder / "adversarial.safetensors")
    return run


# --- the projection -------------------------------------------------------------------------------


def by_svd(points: np.ndarray[Any, Any], wanted: int = 2) -> tuple[Any, Any]:
    """PCA as the books write it, with the signs as we promise them."""
    centred = points.astype(float) - points.mean(0, dtype=float)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:wanted]
    axes *= np.sign(axes[np.arange(wanted), np.abs(axes).argmax(1)])[:, None]
    return centred @ axes.T, (sizes**2 / (sizes**2).sum())[:wanted]


@pytest.mark.parametrize("shape", [(60, 7), (9, 40), (40, 40), (5, 3)])
@pytest.mark.parametrize("exact", [2048, 4])
def test_pca_is_that_of_a_singular_value_decomposition(
    shape: tuple[int, int], exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both with all eigenvectors and by iteration, with more points than numbers and with fewer."""
    monkeypatch.setattr(projecting, "_EXACT", exact)
    scales = np.linspace(1, 3, shape[1])
    points = (np.random.default_rng(0).normal(size=shape) * scales + 5).astype(np.float32)
    found, shares = project(points, "pca", 0)
    expected, explained = by_svd(points)
    assert shares == pytest.approx(explained, rel=1e-4)
    assert found == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())


def test_pca_knows_signs_shares_and_degenerate_points() -> None:
    line = np.outer([-3.0, -1.0, 1.0, 3.0], [0.0, -2.0, 1.0]).astype(np.float32)
    found, shares = project(line, "pca", 0)
    # Along (0, -2, 1), whose largest entry is made positive: the other way round.
    assert found[:, 0] == pytest.approx(np.sqrt(5) * np.array([3, 1, -1, -3]), rel=1e-5)
    assert found[:, 1] == pytest.approx(0, abs=1e-5)
    assert shares == pytest.approx([1.0, 0.0], abs=1e-9)
    assert not project(np.full((5, 3), 0.3, np.float32), "pca", 0)[0].any()
    thin, alone = project(np.array([[1.0], [2.0], [6.0]], np.float32), "pca", 0)
    assert thin[:, 0] == pytest.approx([-2, -1, 3])
    assert alone == pytest.approx([1, 0])


def test_tsne_keeps_neighbours_together_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 60) * 30
    points = np.concatenate([rng.normal(c, 1, (20, 60)) for c in centres]).astype(np.float32)
    first, shares = project(points, "tsne", 3)
    assert not shares.any()
    group = np.repeat(np.arange(3), 20)
    away = np.linalg.norm(first[:, None] - first[None], axis=2) + np.eye(60) * 1e9
    assert (group[away.argmin(1)] == group).all()
    assert np.array_equal(project(points, "tsne", 3)[0], first)
    assert project(points[:4], "tsne", 0)[0].shape == (4, 2)


def test_a_process_of_its_own_says_the_same_and_ends_with_the_question() -> None:
    points = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)
    found, shares = drain(plane(points, "pca", 0))
    expected = project(points, "pca", 0)
    assert found == pytest.approx(expected[0], abs=1e-6)
    assert shares == pytest.approx(expected[1])
    steps = plane(np.random.default_rng(2).normal(size=(2000, 50)).astype(np.float32), "tsne", 0)
    next(steps)
    process = steps.gi_frame.f_locals["process"]
    folder = Path(steps.gi_frame.f_locals["name"])
    assert process.poll() is None
    assert folder.is_dir()
    steps.close()
    assert process.poll() is not None
    assert not folder.exists()
    with pytest.raises(BadInput, match="3 or more"):
        drain(plane(points[:2], "pca", 0))


# --- features -------------------------------------------------------------------------------------


def test_features_are_the_inputs_of_the_last_layer(bench: Any) -> None:
    run = examples_of(bench.workspace)
    examples = read_examples(run)
    model = load_model(examples.model, bench).module
    before = torch.get_rng_state()
    seen = drain(look(model, examples, "features", "pca", torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module._forward_pre_hooks for module in model.modules())
    last = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    assert seen.layer == last
    head = model.get_submodule(last)
    with torch.no_grad():
        for end, images in enumerate(examples.images(slice(0, 6))):
            logits = model(images)
            assert torch.allclose(head(seen.values[end]), logits, atol=1e-6)
            assert torch.allclose(seen.probabilities[end], logits.softmax(1), atol=1e-6)
            assert seen.predictions[end].tolist() == logits.argmax(1).tolist()
            pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(seen.pixels[end], pixels)
    flat = drain(look(model, examples, "pixels", "pca", torch.device("cpu")))
    assert torch.equal(flat.values, torch.stack(examples.images(slice(0, 6))).flatten(2))
    assert flat.layer == ""


def test_of_many_samples_the_first_are_taken(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = read_examples(examples_of(bench.workspace, count=40))
    model = load_model(examples.model, bench).module
    monkeypatch.setattr(embedding, "MOST_TSNE", 20)
    assert drain(look(model, examples, "pixels", "tsne", bench.device)).values.shape == (2, 10, 16)
    assert drain(look(model, examples, "pixels", "pca", bench.device)).values.shape == (2, 40, 16)
    monkeypatch.setattr(embedding, "VALUES", 2 * 16 * 30)
    assert drain(look(model, examples, "pixels", "pca", bench.device)).values.shape == (2, 30, 16)
    monkeypatch.setattr(embedding, "PICTURES", 2 * 30 * 4)
    assert drain(look(model, examples, "pixels", "pca", bench.device)).pixels.shape[2:4] == (4, 4)


class Functional(nn.Module):
    """No layer with weights at all; or one that sees all images at once."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3) if mixed else None

    def forward(self, x: Tensor) -> Tensor:
        if self.layer is not None:
            return x.flatten(1)[:, :3] + self.layer(x.flatten(1).mean(0, keepdim=True))
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize("mixed", [True, False])
def test_a_model_whose_features_cannot_be_told_is_refused(bench: Any, mixed: bool) -> None:
    examples = read_examples(examples_of(bench.workspace))
    model = Functional(mixed)
    with pytest.raises(BadInput, match="Take the pixels instead"):
        drain(look(model, examples, "features", "pca", bench.device))
    drain(look(model, examples, "pixels", "pca", bench.device))


# --- the question ---------------------------------------------------------------------------------


class Asking:
    """A desk whose computing thread is the test's."""

    def __init__(self, root: Path) -> None:
        self.said: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue()
        self.woken = threading.Event()
        self.desk = Desk(Workspace(root), None, self._say, self.woken.set)
        self.desk.open()

    def _say(self, what: str, payload: bytes = b"", **fields: Any) -> None:
        self.said.put((fields, payload))

    def work(self) -> None:
        """Compute what is ready, once."""
        if self.woken.wait(0.01):
            self.woken.clear()
            self.desk.compute()

    def answer(self) -> tuple[dict[str, Any], bytes]:
        until = time.monotonic() + PATIENCE
        while self.said.empty() and time.monotonic() < until:
            self.work()
        return self.said.get_nowait()


@pytest.fixture
def asking(tmp_path: Path) -> Any:
    asking = Asking(tmp_path)
    yield asking
    asking.desk.close()
    asking.desk.join(PATIENCE)


def test_the_question_is_answered_with_places_and_pictures(asking: Asking, tmp_path: Path) -> None:
    examples = read_examples(run := examples_of(tmp_path))
    asking.desk.ask(1, {"kind": "embed", "run": run.id, "space": "pixels", "method": "pca"})
    reply, payload = asking.answer()
    said = reply["answer"]
    points = torch.stack(examples.images(slice(0, 6))).flatten(2).flatten(0, 1).numpy()
    places = np.frombuffer(payload, "<f4", 24).reshape(12, 2)
    expected, shares = by_svd(points)
    assert places == pytest.approx(expected, abs=1e-4)
    assert said["shares"] == pytest.approx(shares, rel=1e-5)
    known = np.frombuffer(payload, "<f2", 36, 96).reshape(2, 6, 3)
    assert known.sum(2) == pytest.approx(1, abs=2e-3)
    assert known[1].argmax(1).tolist() == said["after"] == examples.predictions.tolist()
    pixels = np.frombuffer(payload, np.uint8, offset=96 + 72).reshape(said["pixels"])
    assert pixels.shape == (2, 6, 4, 4, 1)
    assert said["labels"] == said["before"]  # the model is right about all of them when clean
    assert said["success"] == examples.success.tolist()
    assert 0 < sum(said["success"]) < 6
    assert (said["count"], said["of"], said["classes"]) == (6, 6, ["a", "b", "c"])
    again = {"kind": "embed", "run": run.id, "space": "features", "method": "pca"}
    asking.desk.ask(2, again)
    asking.desk.ask(3, again)  # one that is replaced says so, the other is answered
    replies = [asking.answer()[0], asking.answer()[0]]
    assert {r["id"]: "answer" in r for r in replies} == {2: False, 3: True}


def test_a_long_projection_stops_no_other_question_and_can_be_given_up(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(*_: Any) -> Any:
        begun.set()
        try:
            while True:
                time.monotonic()
                yield None
        finally:
            ended.set()

    monkeypatch.setattr("engine.questions.plane", endless)
    run = examples_of(tmp_path)
    asking.desk.ask(1, {"kind": "embed", "run": run.id, "method": "tsne"})
    until = time.monotonic() + PATIENCE
    while not begun.is_set() and time.monotonic() < until:
        asking.work()
    asking.desk.ask(2, {"kind": "preview_data"})
    assert asking.answer()[0]["id"] == 2
    assert not ended.is_set()
    asking.desk.drop("embed")
    assert ended.wait(PATIENCE)
    assert asking.said.empty()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"run": "nobody"}, "there is no run 'nobody'"),
        ({"run": "plain"}, "has no adversarial examples: a task of kind 'train' makes none"),
        ({"run": "broken", "method": "umap"}, "expected one of: pca, tsne"),
        ({"run": "broken", "space": "logits"}, "expected one of: features, pixels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    asking: Asking, tmp_path: Path, question: dict[str, Any], words: str
) -> None:
    examples_of(tmp_path)
    asking.desk.ask(1, {"kind": "embed", **question})
    assert words in asking.answer()[0]["error"]


def test_examples_that_are_not_there_yet_or_no_more(tmp_path: Path) -> None:
    run = examples_of(tmp_path)
    path = run.folder / "adversarial.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match="not a whole set"):
        read_examples(run)
    safetensors.torch.save_file({"clean": torch.zeros(1, 1, 2, 2)}, path)
    with pytest.raises(BadInput, match="no set of adversarial examples: no adversarial, labels"):
        read_examples(run)
    path.unlink()
    with pytest.raises(BadInput, match="written when it is over"):
        read_examples(run)
