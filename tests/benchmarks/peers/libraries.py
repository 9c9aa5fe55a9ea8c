"""The peers' attacks, each as a function of model, images and labels. Nothing is imported before
it is called, so that these modules are importable where the peers are not."""

from __future__ import annotations

import logging
import math
import sys
import types
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tests.benchmarks.peers.judging import ORDERS

Attack: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]


def adv_lib() -> Any:
    """adv-lib imports its plotting library everywhere, which is not installed: an empty one."""
    if "visdom" not in sys.modules:
        empty = types.ModuleType("visdom")
        empty.Visdom = type("Visdom", (), {})  # type: ignore[attr-defined]
        sys.modules["visdom"] = empty
    return import_module("adv_lib.attacks")


def pgd(eps: float, steps: int, step_size: float) -> dict[str, Attack]:
    """PGD in linf with a random start, of every library."""

    def of_foolbox(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import foolbox

        attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=step_size)
        return _foolbox(attack, eps)(model, images, labels)

    def of_torchattacks(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import torchattacks

        found: Tensor = torchattacks.PGD(model, eps, step_size, steps)(images, labels)
        return found

    def of_adv_lib(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = adv_lib().pgd_linf(
            model, images, labels, eps, steps=steps, absolute_step_size=step_size
        )
        return found

    def of_cleverhans(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = import_module("cleverhans.torch.attacks.projected_gradient_descent")
        found: Tensor = attack.projected_gradient_descent(
            *(model, images, eps, step_size, steps, math.inf),
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
        )
        return found.detach()

    def of_art(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        evasion = import_module("art.attacks.evasion")
        attack = evasion.ProjectedGradientDescentPyTorch(
            _of_art(model, images, labels),
            eps=eps,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=1,
            batch_size=len(images),
            verbose=False,
        )
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return {
        "Foolbox": of_foolbox,
        "torchattacks": of_torchattacks,
        "adv-lib": of_adv_lib,
        "CleverHans": of_cleverhans,
        "ART": of_art,
    }


def _of_art(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    classification = import_module("art.estimators.classification")
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    return classification.PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def minimal(name: str, norm: str, steps: int) -> dict[str, Attack]:
    """The search for a smallest perturbation `name`, of adv-lib and Foolbox where they have it."""
    order = ORDERS[norm]

    def of_adv_lib(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        lib = adv_lib()
        found: Tensor
        if name == "deepfool":
            found = lib.df(model, images, labels, norm=order, steps=steps)
        elif name == "carliniwagner":
            found = lib.carlini_wagner_l2(model, images, labels, max_iterations=steps)
        elif name == "ddn":
            found = lib.ddn(model, images, labels, steps=steps)
        else:
            found = lib.fmn(model, images, labels, norm=order, steps=steps)
        return found

    def of_foolbox(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        from foolbox import attacks

        made = {
            ("deepfool", "l2"): attacks.L2DeepFoolAttack,
            ("deepfool", "linf"): attacks.LinfDeepFoolAttack,
            ("carliniwagner", "l2"): attacks.L2CarliniWagnerAttack,
            ("ddn", "l2"): attacks.DDNAttack,
            ("fmn", "l0"): attacks.L0FMNAttack,
            ("fmn", "l1"): attacks.L1FMNAttack,
            ("fmn", "l2"): attacks.L2FMNAttack,
            ("fmn", "linf"): attacks.LInfFMNAttack,
        }[name, norm]
        return _foolbox(made(steps=steps), None)(model, images, labels)

    return {"adv-lib": of_adv_lib, "Foolbox": of_foolbox}


def foolbox_pgd(norm: str, eps: float, steps: int, step_size: float) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        from foolbox import attacks

        made = {"l2": attacks.L2PGD, "l1": attacks.L1PGD}[norm]
        return _foolbox(made(steps=steps, abs_stepsize=step_size), eps)(model, images, labels)

    return run


def torchattacks_pgd_l2(eps: float, steps: int, step_size: float) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import torchattacks

        found: Tensor = torchattacks.PGDL2(model, eps, step_size, steps)(images, labels)
        return found

    return run


def art_pgd_l1(eps: float, steps: int, step_size: float) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        evasion = import_module("art.attacks.evasion")
        attack = evasion.ProjectedGradientDescentPyTorch(
            _of_art(model, images, labels),
            norm=1,
            eps=eps,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=1,
            batch_size=len(images),
            verbose=False,
        )
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return run


def foolbox_ead(searches: int, steps: int) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        from foolbox import attacks

        attack = attacks.EADAttack(searches, steps, decision_rule="L1")
        return _foolbox(attack, None)(model, images, labels)

    return run


def torchattacks_jsma(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """It aims at the class after the label; so do we unless told otherwise."""
    import torchattacks

    found: Tensor = torchattacks.JSMA(model, theta=1.0, gamma=0.1)(images.clone(), labels)
    return found


def _foolbox(attack: Any, eps: float | None) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        goal = foolbox.criteria.Misclassification(labels)
        found: Tensor = attack.run(
            wrapped, images, goal, **({} if eps is None else {"epsilon": eps})
        )
        return found

    return run


_THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def autoattack(norm: str, eps: float, seed: int) -> Attack:
    """The standard version, by its authors."""

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        package = import_module("pyautoattack.autoattack")
        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        attack = package.AutoAttack(model, norm=_THEIRS[norm], eps=eps, seed=seed)
        found: Tensor = attack.run_standard_evaluation(images, labels, batch_size=500)[0]
        return found

    return run


def authors_apgd(norm: str, eps: float, seed: int, loss: str, steps: int = 100) -> Attack:
    """APGD as its authors run it: in l1 inside larger balls first."""

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = import_module("pyautoattack.autopgd_base").APGDAttack(
            model,
            n_iter=steps,
            norm=_THEIRS[norm],
            eps=eps,
            seed=seed,
            loss=loss,
            device="cpu",
            use_largereps=norm == "l1",
            logger=logging.getLogger("auto-attack"),
        )
        found: Tensor = attack.perturb(images, labels)
        return found

    return run


def authors_fab(norm: str, eps: float, seed: int) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = import_module("pyautoattack.fab_pt").FABAttack_PT(
            model, norm=_THEIRS[norm], eps=eps, seed=seed, device="cpu"
        )
        found: Tensor = attack.perturb(images, labels)
        return found

    return run


def authors_square(norm: str, eps: float, queries: int, seed: int) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = import_module("pyautoattack.square").SquareAttack(
            model,
            norm=_THEIRS[norm],
            n_queries=queries,
            eps=eps,
            seed=seed,
            resc_schedule=False,
            device="cpu",
        )
        found: Tensor = attack.perturb(images, labels)
        return found

    return run
