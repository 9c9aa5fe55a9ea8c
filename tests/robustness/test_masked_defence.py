"""Defences that are none: what PGD says of them, what an honest attack says, what is flagged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import PGD, attack
from engine.attacks.driver import perturb
from engine.attacks.running import run_attack
from engine.attacks.spec import Attack, Square
from engine.data import Dataset
from engine.data.spec import Digits
from engine.events import Note, drain
from engine.models import ModelCard, build, load_model, save_model
from engine.models.spec import CNN, JPEG, BitDepth, Median, ModelSpec, Strided, TransformSpec
from engine.models.transforms import Masking, masking
from engine.robustness import lies
from engine.robustness.spec import Evaluate
from engine.store import Workspace
from tests.engine.cli import ROOT, engine
from tests.robustness.masked import Net
from tests.robustness.zoo import bench_in, subject, train

EPS = 0.25
PLAIN = PGD(eps=EPS, steps=20, step_size=0.03)
STRAIGHT = PLAIN.model_copy(update={"through_transforms": True})
TRANSFORMS: dict[str, tuple[TransformSpec, str]] = {
    "bit depth": (BitDepth(bits=2), "bit depth of 2"),
    "JPEG": (JPEG(quality=60), "JPEG of quality 60"),
    "median": (Median(), "median of 3 x 3 pixels"),
}
MODELS: dict[str, tuple[ModelSpec, str]] = {
    **{
        name: (CNN(width=8, depth=1, transform=spec), words)
        for name, (spec, words) in TRANSFORMS.items()
    },
    "rounded activations": (
        Strided(channels=(8, 16), hidden=32, activation_bits=2),
        "activations rounded to 2 bits",
    ),
}


@pytest.fixture(scope="session")
def masked(data: Dataset) -> dict[str, nn.Module]:
    """Trained, each with what hides its gradients."""
    return {
        name: train(build(spec, data.shape, 10, generator_seed=1), data, epochs=6)
        for name, (spec, _) in MODELS.items()
    }


def batch(data: Dataset) -> tuple[Tensor, Tensor]:
    return data.test.batch(torch.arange(120))


@pytest.mark.parametrize("name", MODELS)
def test_pgd_stands_still_and_straight_through_it_does_not(
    name: str, masked: dict[str, nn.Module], data: Dataset
) -> None:
    model, (x, labels) = masked[name], batch(data)
    plain = attack(model, x, labels, PLAIN)
    assert plain.zero_gradients == plain.gradient_evaluations > 0
    straight = attack(model, x, labels, STRAIGHT)
    black = attack(model, x, labels, Square(eps=EPS, steps=300))
    assert plain.correct.double().mean() > 0.75
    assert straight.robust_accuracy < plain.robust_accuracy - 0.3
    assert black.robust_accuracy < plain.robust_accuracy - 0.3
    # What counts was looked at without anything let through.
    with torch.no_grad():
        wrong = model(straight.adversarial).argmax(1) != labels
    assert bool(wrong[straight.success].all())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_straight_through_is_the_gradient_behind_the_transform(
    name: str, masked: dict[str, nn.Module], data: Dataset
) -> None:
    """BPDA by hand: one signed step along the gradient at the transformed image."""
    model, (x, labels) = masked[name], batch(data)
    step = PGD(eps=0.1, steps=1, step_size=0.1, random_start=False, through_transforms=True)
    search = perturb(model, x, labels, step, seed=0, ids=torch.arange(len(x)), early_exit=False)
    with torch.no_grad():
        seen = masking(model)[0](x)
    seen.requires_grad_()
    behind = nn.Sequential(model.normalise, model.body)
    loss = nn.functional.cross_entropy(behind(seen), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, seen)
    expected = (x + 0.1 * gradient.sign()).clamp(0, 1)
    assert torch.allclose(drain(search).adversarial, expected, atol=1e-6)


def test_an_attack_leaves_nothing_open(masked: dict[str, nn.Module], data: Dataset) -> None:
    model, (x, labels) = masked["JPEG"], batch(data)
    (part,) = masking(model)
    before = dict(vars(part))
    attack(model, x, labels, STRAIGHT)
    assert vars(part) == before
    search = perturb(model, x, labels, STRAIGHT, seed=0, ids=torch.arange(len(x)))
    next(search)
    assert not part.straight_through  # nothing is held across a yield
    search.close()

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("it fails")

    hook = model.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="it fails"):
        attack(model, x, labels, STRAIGHT)
    hook.remove()
    assert vars(part) == before


def test_a_training_attacks_straight_through(masked: dict[str, nn.Module], data: Dataset) -> None:
    """Its examples have to be strong, whatever its attack says."""
    model, (x, labels) = masked["bit depth"], batch(data)
    search = perturb(model, x, labels, PLAIN, seed=0, ids=torch.arange(len(x)), early_exit=False)
    found = drain(search)
    assert found.zero_gradients == 0
    assert found.success.double().mean() > 0.5


# --- the lie detector -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_each_is_named_by_the_lie_detector(
    name: str, masked: dict[str, nn.Module], data: Dataset, tmp_path: Path
) -> None:
    on = subject(masked[name], data, bench_in(tmp_path), 100)
    flags = {flag.name: flag for flag in drain(lies.look_at(on))}
    assert {"hidden_gradients", "zero_gradients"} <= flags.keys()
    flag = flags["hidden_gradients"]
    assert flag.evidence == f"found in the model: {MODELS[name][1]}"
    assert "not a defence by itself" in flag.meaning.means
    assert "BPDA" in flag.meaning.advice
    found = {flag.name for flag in drain(lies.compare(on, "linf", EPS, None, 100, 200))}
    assert {"black_box_wins", "unbounded_fails"} <= found


def test_a_persons_own_part_is_known_if_it_says_so(net: Net, data: Dataset, tmp_path: Path) -> None:
    class Squares(Masking):
        words = "a rounding to halves"

        def change(self, x: Tensor) -> Tensor:
            return (x * 2).round() / 2

    model = nn.Sequential(Squares(), net)
    on = subject(model, data, bench_in(tmp_path), 60)
    flags = {flag.name: flag.evidence for flag in drain(lies.look_at(on))}
    assert flags["hidden_gradients"] == "found in the model: a rounding to halves"
    x, labels = batch(data)
    assert attack(model, x, labels, STRAIGHT).robust_accuracy < 0.3


def test_nothing_is_said_of_a_model_that_hides_nothing(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    on = subject(net, data, bench_in(tmp_path), 60)
    assert drain(lies.look_at(on)) == []
    x, labels = batch(data)
    plain, straight = (attack(net, x, labels, spec) for spec in (PLAIN, STRAIGHT))
    assert torch.equal(plain.adversarial, straight.adversarial)


# --- tasks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def file(
    masked: dict[str, nn.Module], data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    spec = MODELS["JPEG"][0]
    card = ModelCard(model=spec, data=Digits(), shape=data.shape, classes=data.classes)
    path = tmp_path_factory.mktemp("masked") / "model.safetensors"
    save_model(path, masked["JPEG"], card)
    return path


def run(steps: Any) -> tuple[list[str], dict[str, Any]]:
    notes = []
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return notes, end.value
        if isinstance(event, Note):
            notes.append(event.text)


def test_an_attack_that_stands_still_says_so(file: Path, tmp_path: Path) -> None:
    def said(spec: Any, folder: str) -> bool:
        task = Attack(model=str(file), attack=spec, samples=40, show=0)
        notes, _ = run(run_attack(task, bench_in(tmp_path / folder)))
        return any("JPEG of quality 60" in n and "this attack stands still" in n for n in notes)

    assert said(PLAIN, "plain")
    assert not said(STRAIGHT, "straight")
    assert not said(Square(eps=EPS, steps=10), "square")


def test_an_evaluation_tries_both_and_takes_the_worst(file: Path, tmp_path: Path) -> None:
    quick = {"samples": 80, "checked": 0, "corruptions": False, "noise": False}
    both = Evaluate(model=str(file), attacks=(PLAIN, Square(eps=EPS, steps=5)), curve=4, **quick)
    _, summary = run(both.run(bench_in(tmp_path / "both")))
    found = summary["robust_accuracy_by_attack"]
    assert list(found) == ["pgd", "square", "pgd-through"]
    assert found["pgd"] > 0.6
    assert summary["robust_accuracy"] == found["pgd-through"] < 0.3
    assert {"hidden_gradients", "zero_gradients"} <= set(summary["flags"])

    taken_in = both.model_copy(update={"through_transforms": False, "attacks": (PLAIN,)})
    _, summary = run(taken_in.run(bench_in(tmp_path / "alone")))
    assert summary["robust_accuracy_by_attack"] == {"pgd": found["pgd"]}
    assert summary["robust_accuracy"] > 0.6  # its curve is taken in too
    assert "hidden_gradients" in summary["flags"]

    straight = both.model_copy(update={"attacks": (STRAIGHT,), "curve": 0})
    _, summary = run(straight.run(bench_in(tmp_path / "straight")))
    assert list(summary["robust_accuracy_by_attack"]) == ["pgd"]  # once is enough


def test_the_curve_goes_straight_through(file: Path, tmp_path: Path) -> None:
    quick = {"samples": 80, "checked": 0, "corruptions": False, "noise": False}
    spec = Evaluate(model=str(file), attacks=(PGD(eps=EPS, steps=1),), curve=4, **quick)
    bench = bench_in(tmp_path)
    events = []
    steps = spec.run(bench)
    while True:
        try:
            events.append(next(steps))
        except StopIteration:
            break
    curve = [e for e in events if getattr(e, "name", "") == "curve"][-1]
    assert load_model(str(file), bench).card.model.transform == JPEG(quality=60)
    assert curve.rows[-1][1] < 0.2


def test_the_demonstration(tmp_path: Path) -> None:
    """The recipe on fewer samples: PGD is taken in, Square is not, and the verdict is a no."""
    recipe = ROOT / "resources" / "recipes" / "masked_defence.toml"
    fewer = ("pgd", "square", "straight_through", "taken_in", "judged")
    quick = [f"--set={name}.samples=60" for name in fewer]
    quick += [f"--set={name}.show=0" for name in ("pgd", "square", "straight_through")]
    quick += [
        "--set=judged.samples=100",  # or the clean accuracy is not sure enough
        "--set=taken_in.checked=60",
        "--set=judged.checked=60",
        "--set=judged.curve=4",
        "--set=judged.corruptions=false",
        "--set=judged.noise=false",
    ]
    said = engine("run", recipe, "--workspace", tmp_path, *quick)
    assert said.code == 3, said.err + said.out
    workspace = Workspace(tmp_path)

    def summary(name: str) -> dict[str, Any]:
        return dict(workspace.find(name).info().summary)

    assert summary("masked")["clean_accuracy"] > 0.95
    assert summary("pgd")["robust_accuracy"] > 0.9
    assert summary("pgd")["zero_gradients"] == summary("pgd")["gradient_evaluations"]
    assert summary("square")["robust_accuracy"] < 0.2
    assert summary("straight_through")["robust_accuracy"] < 0.2
    believed = summary("taken_in")
    assert believed["robust_accuracy_by_attack"]["pgd"] > 0.9
    assert believed["robust_accuracy"] < 0.2  # the checks break all that they look at, as Square
    assert believed["broken_by_checks"] > 40
    hidden = {"hidden_gradients", "zero_gradients"}
    assert hidden | {"black_box_wins", "unbounded_fails"} <= set(believed["flags"])
    judged = summary("judged")
    assert judged["robust_accuracy_by_attack"]["pgd"] > 0.9
    assert judged["robust_accuracy_by_attack"]["square"] < 0.2
    assert hidden <= set(judged["flags"])
    # It is the worst of all that was found: its own curve says nothing else at the same radius.
    (path,) = workspace.find("judged").folder.glob("report.json")
    curve = json.loads(path.read_text())["tables"]["curve"]["rows"]
    assert [row[1] for row in curve if row[0] == 0.2] == [judged["robust_accuracy"]]
    assert workspace.find("judged").info().status == "rejected"
    assert len(judged["unmet"]) == 1  # the clean accuracy is as required
