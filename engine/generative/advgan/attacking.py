"""A trained generator as an attack: its one point is what the generator makes of the image."""

from __future__ import annotations

from torch import Tensor

from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Point, Problem
from engine.errors import BadInput
from engine.generative.advgan.networks import Perturber
from engine.generative.spec.advgan import AdvGan


def advgan(spec: AdvGan, network: Perturber | None) -> Method[Point]:
    """AdvGAN as a method for the driver. The model is asked once, whether it is deceived."""

    def start(of: Problem) -> Point:
        if network is None:
            raise BadInput(
                f"the generator {spec.generator!r} of this attack has not been loaded, which the "
                "tasks attack, evaluate and train do; in Python call "
                "AdvGan(...).carrying(load_network(...).module)"
            )
        centre = of.ball.centre
        if tuple(centre.shape[1:]) != network.shape:
            raise BadInput(
                f"the generator {spec.generator!r} changes images {network.shape}, and these are "
                f"{tuple(centre.shape[1:])}; train one for them"
            )
        scale = of.ball.eps / network.eps
        return Point(of.ball.project(centre + _changes(network, centre) * scale))

    def step(_: Problem, at: Point, __: Answer, ___: int) -> Point:
        return at

    return Method(start, step, margin, 0)


def _changes(network: Perturber, images: Tensor) -> Tensor:
    if not len(images):
        return images
    found: Tensor = network.to(images.device)(images)
    return found
