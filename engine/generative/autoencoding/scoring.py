"""How odd an image is to an autoencoder: what it cannot make again it has not seen.

The score is the length of `x_hat - x`, over all values of the image; the threshold is learnt from
images that were not trained on, as the quantile of their scores that leaves a chosen share above.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.generative.autoencoding.networks import AutoencoderNet

TOGETHER = 500
"""Images that are scored in one pass."""


def anomaly_score(model: nn.Module, images: Tensor) -> Tensor:
    """`||x_hat - x||` of each image, float32 (N,).

    model: an autoencoder (`engine.models.load_network`), run in eval mode and left as it
    was. images: float32 (N, C, H, W) in [0, 1], on its device. Raises BadInput if they do not fit.
    """
    net = _autoencoder(model)
    if images.ndim != 4 or tuple(images.shape[1:]) != net.shape or not images.is_floating_point():
        raise BadInput(
            f"images must be floating point of shape (N, {', '.join(map(str, net.shape))}) with "
            f"values in [0, 1]; got {str(images.dtype).removeprefix('torch.')} "
            f"{tuple(images.shape)}"
        )
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            parts = [(net(part) - part).flatten(1).norm(dim=1) for part in images.split(TOGETHER)]
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(parts).float() if parts else images.new_zeros(0)


def is_anomalous(model: nn.Module, images: Tensor) -> Tensor:
    """Whether each image scores above the threshold that the model has learnt, bool (N,). Raises
    BadInput where it has none, its run having been stopped before."""
    net = _autoencoder(model)
    if not math.isfinite(float(net.threshold)):
        raise BadInput(
            "this autoencoder has no threshold: its run was stopped before it was learnt. Resume "
            "the run, or compare anomaly_score with a threshold of your own"
        )
    return anomaly_score(net, images) > net.threshold


def threshold_of(scores: Tensor, false_alarms: float) -> float:
    """The score that a share `false_alarms` of `scores`, (N,), is above, as near as there is one:
    the smallest of them with at most so many above it."""
    ordered = scores.sort().values
    place = math.ceil((1 - false_alarms) * len(ordered)) - 1
    return float(ordered[min(max(place, 0), len(ordered) - 1)])


def auroc(odd: Tensor, usual: Tensor) -> float:
    """How likely one of the scores `odd`, (M,), is above one of `usual`, (N,), half of a tie
    counted."""
    ordered = usual.sort().values
    below = torch.searchsorted(ordered, odd, side="left")
    ties = torch.searchsorted(ordered, odd, side="right") - below
    return float((below + ties / 2).double().mean() / len(usual))


def _autoencoder(model: nn.Module) -> AutoencoderNet:
    if not isinstance(model, AutoencoderNet):
        raise BadInput(
            f"expected an autoencoder, as an autoencoder run hands over; got {type(model).__name__}"
        )
    return model
