"""What an attack can be given: each argument is looked at before anything is computed.

All of these raise BadInput, which says what was expected and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.attacks.goal import Goal
from engine.attacks.spec import AttackSpec, Fitted, FixedBudget
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.attacks.fitted import Fit


def checked(
    model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments as float32, int64 and int64 on one device, detached from any graph."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"The model must be a torch.nn.Module; got {type(model).__name__}.")
    for name, value in (("images", images), ("labels", labels), ("ids", ids)):
        if not isinstance(value, Tensor):
            raise BadInput(
                f"{name} must be a torch tensor; got {type(value).__name__}. "
                "torch.as_tensor makes one of a NumPy array or a list."
            )
    if images.ndim != 4 or not images.is_floating_point():
        raise BadInput(
            "images must be floating point of shape (N, C, H, W), with values in [0, 1]; "
            f"got {_what(images)}. Bytes are divided by 255; one image gets a first dimension "
            "by images[None]."
        )
    if images.layout != torch.strided or images.is_meta:
        raise BadInput(f"images must be a dense tensor that holds its values; got {_what(images)}.")
    if not images.numel():
        raise BadInput(f"There is nothing to attack: images has shape {tuple(images.shape)}.")
    least, most = (value.item() for value in images.detach().aminmax())
    if not (least >= 0 and most <= 1):
        raise BadInput(
            f"images must lie in [0, 1]; these go from {least:.4g} to {most:.4g}. "
            "Normalisation belongs into the model, as its first layer."
        )
    _check_classes("labels", labels, images)
    if ids.shape != labels.shape or ids.is_floating_point():
        raise BadInput(f"ids must be {len(labels)} integers, one a sample; got {_what(ids)}.")
    own = next((tensor.device for tensor in model.parameters()), images.device)
    if own != images.device:
        raise BadInput(
            f"The model is on {own} and the images are on {images.device}: move one to the other."
        )
    with torch.inference_mode(False):
        images = images.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        # Autograd keeps no labels that were made in inference mode.
        labels = labels.to(torch.int64, copy=labels.is_inference())
        return images, labels, ids.to(images.device, torch.int64)


def checked_spec(spec: object) -> None:
    """Raises BadInput if it says no attack."""
    if not isinstance(spec, AttackSpec):
        shown = repr(spec) if isinstance(spec, str | dict) else type(spec).__name__
        raise BadInput(
            f"The spec must say which attack is to run, as in PGD(eps=0.3) from engine.attacks; "
            f"got {shown}."
        )


def checked_eps(eps: Tensor | None, spec: AttackSpec, labels: Tensor) -> Tensor:
    """A radius for each sample, (N,). Raises BadInput if it is none, or none for this spec."""
    if eps is None:
        radius = float("inf") if spec.eps is None else spec.eps
        eps = torch.full(labels.shape, radius, dtype=torch.float64)
    real = isinstance(eps, Tensor) and not eps.is_complex()
    if not real or eps.shape != labels.shape or not bool((eps >= 0).all()):
        raise BadInput(f"eps must be {len(labels)} radii >= 0, one a sample; got {_what(eps)}.")
    if spec.norm == "linf" and bool((eps.isfinite() & (eps > 1)).any()):
        raise BadInput(
            f"eps must be at most 1 in linf, since images lie in [0, 1] (8/255 is 0.0314); one is "
            f"{float(eps[eps.isfinite()].max()):g}."
        )
    if isinstance(spec, FixedBudget) and not bool(eps.isfinite().all()):
        raise BadInput(
            f"{spec.kind} uses the whole of its ball, which must end somewhere; got an infinite "
            "eps. Give every sample a finite one, or take an attack that looks for the smallest "
            "perturbation."
        )
    return eps


def checked_fit(fitted: Fit | None, spec: Fitted, images: Tensor, targets: Tensor | None) -> Fit:
    """Raises BadInput if it is not of this spec, and for images like these."""
    if fitted is None:
        raise BadInput(
            f"{spec.kind} has one perturbation for all images, which is fitted to training images "
            "first: give fitted=engine.attacks.fit(model, images, labels, spec)."
        )
    if fitted.spec != spec:
        raise BadInput(f"What was fitted is another attack: {fitted.spec!r}, not {spec!r}.")
    if fitted.shape != tuple(images.shape[1:]):
        raise BadInput(
            f"It was fitted to images of (channels, height, width) {fitted.shape}, and these are "
            f"{tuple(images.shape[1:])}."
        )
    if targets is not None:
        raise BadInput(
            f"targets were given to {spec.kind}, which aims at one class for all images: set "
            "target in its spec, and fit it to that."
        )
    return fitted


def checked_mask(mask: Tensor | None, images: Tensor) -> Tensor | None:
    """The mask as bool in the shape of the images. Raises BadInput if it does not fit."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or not bool(((mask == 0) | (mask == 1)).all()):
        raise BadInput("mask must be a tensor of bools, or of zeros and ones: 1 may be changed.")
    try:
        whole = mask.to(images.device, torch.bool).expand_as(images)
    except RuntimeError:
        raise BadInput(
            f"mask must expand to the images' shape, {tuple(images.shape)}; got {_what(mask)}."
        ) from None
    return whole


def checked_starts(starts: Tensor | None, images: Tensor) -> Tensor | None:
    """The starts as float32. Raises BadInput if they are not like the images."""
    if starts is None:
        return None
    if not isinstance(starts, Tensor) or starts.shape != images.shape:
        raise BadInput(
            f"starts must be one image for each of `images`, {tuple(images.shape)}; "
            f"got {_what(starts)}."
        )
    starts = starts.detach().to(images.device, torch.float32, copy=True)
    if not bool(((starts >= 0) & (starts <= 1)).all()):
        raise BadInput("starts must hold values in [0, 1], as images do.")
    return starts


def _check_classes(name: str, classes: Tensor, images: Tensor) -> None:
    whole = classes.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if classes.shape != images.shape[:1] or not whole:
        raise BadInput(
            f"{name} must be {len(images)} integers, one an image; got {_what(classes)}."
        )
    if classes.device != images.device:
        raise BadInput(f"{name} must be on {images.device}, like the images; got {_what(classes)}.")
    if int(classes.min()) < 0:
        raise BadInput(f"{name} must not be negative; one is {int(classes.min())}.")


def checked_goal(labels: Tensor, targets: Tensor | None, images: Tensor, spec: AttackSpec) -> Goal:
    """Raises BadInput if the targets do not fit labels or spec."""
    top = int(labels.max())
    if targets is None:
        return Goal(labels, None, spec.targeted, top, spec.lead())
    if not spec.targeted:
        raise BadInput("targets were given to an attack that is not targeted: set targeted=True.")
    if not isinstance(targets, Tensor):
        raise BadInput(f"targets must be a torch tensor; got {type(targets).__name__}.")
    _check_classes("targets", targets, images)
    same = int((targets == labels).sum())
    if same:
        raise BadInput(
            f"{same} of {len(labels)} targets equal their label; a target is another class."
        )
    with torch.inference_mode(False):
        targets = targets.to(torch.int64, copy=targets.is_inference())
    return Goal(labels, targets, True, max(top, int(targets.max())), spec.lead())


def _what(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
