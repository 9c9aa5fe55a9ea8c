"""What the window asks about one sample of an attack."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from engine.attacks.running import FILE
from engine.errors import BadInput
from engine.explain import METHODS, explain, plane_through, read_pair, survey
from engine.explain.surface import SIDE
from engine.models import ModelCard, build, save_model
from engine.models.spec import CNN, ModelSpec
from engine.questions import LONGEST, prepare
from engine.store import Run, Workspace

MODEL = CNN(width=4, depth=1)


def attacked(
    folder: Path,
    shape: tuple[int, int, int] = (1, 8, 8),
    *,
    model: ModelSpec = MODEL,
    takes: tuple[int, int, int] | None = None,
    attack: Mapping[str, Any] = {"kind": "pgd", "norm": "linf", "eps": 0.2},
) -> tuple[Run, nn.Module]:
    """The run of an attack on 3 images, the last of which it left as it was."""
    takes = takes or shape
    torch.manual_seed(0)
    module = build(model, takes, 4).eval()
    card = ModelCard(model=model, shape=takes, classes=("a", "b", "c", "d"))
    save_model(folder / "m.safetensors", module, card)
    spec = {"kind": "attack", "model": str(folder / "m.safetensors"), "attack": dict(attack)}
    run = Workspace(folder / "w").create(spec, name="broken")
    clean = torch.rand(3, *shape)
    change = 0.2 * torch.randn(3, *shape).sign()
    change[2] = 0
    kept = {
        "clean": clean,
        "adversarial": (clean + change).clamp(0, 1),
        "labels": torch.tensor([1, 0, 2]),
    }
    safetensors.torch.save_file(kept, run.folder / FILE)
    return run, module


def ask(run: Run, **question: Any) -> tuple[dict[str, Any], bytes]:
    workspace = Workspace(run.folder.parents[1])
    loading = prepare({"run": run.id, **question}, workspace, None)
    while True:
        try:
            next(loading)
        except StopIteration as end:
            finish = end.value
            break
    answer = finish()
    while isinstance(answer, Generator):
        try:
            next(answer)
            assert not torch.is_inference_mode_enabled()
        except StopIteration as end:
            answer = end.value
    return answer


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_is_that_of_the_images_of_the_run(tmp_path: Path, method: str) -> None:
    run, module = attacked(tmp_path)
    answer, payload = ask(run, kind="explain", sample=1, method=method)
    pair = read_pair(run, 1)
    assert (pair.label, pair.norm, pair.eps) == (0, "linf", 0.2)
    expected = explain(module, torch.cat([pair.clean, pair.adversarial]), method)
    maps = torch.from_numpy(np.frombuffer(payload, "<f4").reshape(answer["shape"]).copy())
    torch.testing.assert_close(maps[:2], expected.shares)
    torch.testing.assert_close(maps[2], expected.moved)
    assert answer["predictions"] == list(expected.classes)
    assert answer["moved"] == pytest.approx(expected.share_moved)
    assert answer["label"] == 0
    assert answer["classes"] == ["a", "b", "c", "d"]


def test_large_maps_are_added_up_to_fewer_pixels(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path, (3, 2 * LONGEST, LONGEST))
    answer, payload = ask(run, kind="explain", sample=0, method="saliency")
    assert answer["shape"] == [3, LONGEST, LONGEST // 2]
    maps = np.frombuffer(payload, "<f4").reshape(answer["shape"])
    assert maps[:2].sum((1, 2)) == pytest.approx([1, 1], rel=1e-4)


def test_a_surface_comes_in_pieces(tmp_path: Path) -> None:
    run, module = attacked(tmp_path)
    found, start = [], 0
    while start < SIDE**2:
        answer, payload = ask(run, kind="surface", sample=0, seed=5, start=start)
        found.append(np.frombuffer(payload, "<f4").reshape(answer["points"]))
        assert answer["start"] == start
        start = answer["done"]
    pair = read_pair(run, 0)
    plane = plane_through(pair, seed=5)
    expected = survey(module, plane, pair.label, seconds=1e9)
    points = np.concatenate(found)
    assert (points[:, 0] == expected.row.numpy()).all()
    assert (points[:, 5] == expected.prediction.numpy()).mean() > 0.99
    assert points[:, 3] == pytest.approx(expected.loss.numpy(), abs=1e-4)
    assert points[:, 4] == pytest.approx(expected.margin.numpy(), abs=1e-4)
    assert answer["distance"] == pytest.approx(0.2, rel=1e-4)
    assert answer["reach"] == pytest.approx(0.25, rel=1e-4)
    assert answer["eps"] == 0.2
    assert len(answer["ball"]) == 360


@pytest.mark.parametrize(
    "attack", [{"kind": "deepfool", "norm": "l2"}, {"kind": "jsma", "norm": "l0", "eps": 9}]
)
def test_without_a_radius_or_with_one_in_pixels_there_is_no_ball(
    tmp_path: Path, attack: dict[str, Any]
) -> None:
    run, _ = attacked(tmp_path, attack=attack)
    answer, _ = ask(run, kind="surface", sample=0, seed=0, start=0)
    assert answer["norm"] == "l2"
    assert answer["eps"] is None
    assert answer["ball"] == []


def test_what_makes_no_sense_is_refused_in_words(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path)
    with pytest.raises(BadInput, match="no sample 4; the run kept 3"):
        ask(run, kind="explain", sample=3, method="saliency")
    with pytest.raises(BadInput, match="no method 'shap'"):
        ask(run, kind="explain", sample=0, method="shap")
    with pytest.raises(BadInput, match="left this sample as it was"):
        ask(run, kind="surface", sample=2, seed=0, start=0)
    with pytest.raises(BadInput, match="no point 1681"):
        ask(run, kind="surface", sample=0, seed=0, start=SIDE**2)
    (run.folder / FILE).write_bytes(b"torn")
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        ask(run, kind="explain", sample=0, method="saliency")
    (run.folder / FILE).unlink()
    with pytest.raises(BadInput, match="has kept no examples"):
        ask(run, kind="explain", sample=0, method="saliency")
    other = Workspace(tmp_path / "w").create({"kind": "train"}, name="plain")
    with pytest.raises(BadInput, match="is of kind train"):
        ask(other, kind="explain", sample=0, method="saliency")


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path, takes=(1, 6, 6))
    with pytest.raises(BadInput, match="takes images"):
        ask(run, kind="explain", sample=0, method="saliency")


def test_a_sample_that_was_left_as_it_was_has_not_moved(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path)
    answer, _ = ask(run, kind="explain", sample=2, method="saliency")
    assert answer["moved"] == 0


# --- of an evaluation -----------------------------------------------------------------------------


def judged(folder: Path) -> Run:
    """The run of an evaluation by two attacks: of 4 images the second and the last were broken, one
    by each."""
    torch.manual_seed(0)
    module = build(MODEL, (1, 8, 8), 4).eval()
    save_model(
        folder / "m.safetensors",
        module,
        ModelCard(model=MODEL, shape=(1, 8, 8), classes=("a", "b", "c", "d")),
    )
    attacks = [
        {"kind": "pgd", "norm": "linf", "eps": 0.1},
        {"kind": "pgd", "norm": "linf", "eps": 0.2},
        {"kind": "pgd", "norm": "l2", "eps": 2.0},
    ]
    spec = {"kind": "evaluate", "model": str(folder / "m.safetensors"), "attacks": attacks}
    run = Workspace(folder / "w").create(spec, name="judged")
    clean = 0.3 + 0.4 * torch.rand(4, 1, 8, 8)
    change = torch.zeros(4, 1, 8, 8)
    change[1], change[3] = 0.2 * torch.randn(1, 8, 8).sign(), 0.2
    sizes = torch.tensor([0.0, 0.2, 0.0, 0.2 * 8], dtype=torch.float64)
    kept = {
        "clean": clean,
        "adversarial": clean + change,
        "labels": torch.arange(4),
        "success": torch.tensor([False, True, False, True]),
        "norm": sizes,
    }
    safetensors.torch.save_file(kept, run.folder / FILE)
    return run


def test_a_sample_of_an_evaluation_is_explained_in_the_norm_that_broke_it(tmp_path: Path) -> None:
    run = judged(tmp_path)
    one, other = read_pair(run, 1), read_pair(run, 3)
    assert (one.label, one.norm, one.eps) == (1, "linf", 0.2)
    assert (other.label, other.norm, other.eps) == (3, "l2", 2.0)
    among = read_pair(run, 1, broken=True)  # the second of those that were broken
    assert torch.equal(among.adversarial, other.adversarial)
    answer, _ = ask(run, kind="surface", sample=1, broken=True, seed=0, start=0)
    assert (answer["norm"], answer["eps"]) == ("l2", 2.0)
    assert answer["distance"] == pytest.approx(1.6, rel=1e-5)
    found, _ = ask(run, kind="explain", sample=0, broken=True, method="saliency")
    assert found["label"] == 1


def test_of_an_evaluation_only_what_was_broken_is_kept(tmp_path: Path) -> None:
    run = judged(tmp_path)
    with pytest.raises(BadInput, match="what they tried is not kept.* 2 were broken, .*: 2, 4$"):
        ask(run, kind="explain", sample=0, method="saliency")
    with pytest.raises(BadInput, match="no sample 3; the run kept 2"):
        ask(run, kind="explain", sample=2, broken=True, method="saliency")
    path = run.folder / FILE
    tensors = safetensors.torch.load_file(path)
    many = {name: torch.cat([tensor] * 12) for name, tensor in tensors.items()}
    safetensors.torch.save_file(many, path)
    with pytest.raises(BadInput, match=r"24 were broken, the first: 2, 4, (\d+, ){7}20$"):
        read_pair(run, 0)
    safetensors.torch.save_file({**tensors, "success": torch.zeros(4, dtype=torch.bool)}, path)
    with pytest.raises(BadInput, match="broke any sample"):
        read_pair(run, 0)
