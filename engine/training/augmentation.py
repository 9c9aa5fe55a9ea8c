"""Random changes of a batch. Every draw belongs to its sample and epoch, not to the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.random import derive, normal, uniform
from engine.training.spec import AugmentationSpec


def augment(images: Tensor, ids: Tensor, spec: AugmentationSpec, seed: int) -> Tensor:
    """Changed copies of images, float32 (N, C, H, W) in [0, 1]; `ids` int64 (N,) name the samples.

    `seed` is that of the epoch. Without anything asked for, the images themselves.
    """
    ids = ids.to(images.device)
    if spec.policy != "none":
        images = _policy(images, ids, spec.policy, seed)
    if spec.crop:
        images = _crop(images, uniform(derive(seed, "crop"), ids, (2,)), spec.crop)
    if spec.flip:
        mirrored = uniform(derive(seed, "flip"), ids, (1, 1, 1)) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    if spec.noise:
        noise = normal(derive(seed, "noise"), ids, images.shape[1:])
        images = images.add(noise, alpha=spec.noise).clamp_(0.0, 1.0)
    return images


def _crop(images: Tensor, draws: Tensor, reach: int) -> Tensor:
    """Shift each image by -reach..reach pixels in both directions, zeros coming in."""
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (reach, reach, reach, reach))
    top, left = (draws * (2 * reach + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    index = torch.arange(count, device=images.device)
    cut = padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def _policy(images: Tensor, ids: Tensor, policy: str, seed: int) -> Tensor:
    """torchvision's policies, image by image: each draws from torch's global generator, seeded for
    the sample and put back afterwards."""
    from torchvision.transforms import v2

    transform = {
        "auto_augment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        "rand_augment": v2.RandAugment,
        "trivial_augment": v2.TrivialAugmentWide,
    }[policy]()
    pixels = (images * 255).round_().to(torch.uint8).cpu()
    changed = []
    with torch.random.fork_rng(devices=[]):
        for picture, sample in zip(pixels, ids.tolist(), strict=True):
            torch.manual_seed(derive(seed, policy, sample))
            changed.append(transform(picture))
    return torch.stack(changed).to(images.device).float().div_(255)
