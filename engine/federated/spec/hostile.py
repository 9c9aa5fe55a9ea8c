"""Clients that mean harm."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.task import Spec, param


class HostileSpec(Spec):
    """Clients that do not play by the rules."""

    kind: str
    clients: tuple[int, ...] = param(
        (), "Clients", "Which they are, counted from 0; empty draws them.", max_length=100_000
    )
    count: int = param(
        1, "Count", "How many are drawn, where they are not named.", ge=1, le=100_000
    )


class LabelFlip(HostileSpec):
    """Trains on wrong labels: class k becomes the last class minus k, or one class another."""

    kind: Literal["label_flip"] = "label_flip"
    cite: ClassVar[str] = "Fang et al. 2020, section 5.1"
    source: int = param(
        -1, "Source class", "Only this class is flipped; -1 flips all.", ge=-1, le=100_000
    )
    target: int = param(0, "Target class", "What the source class becomes.", ge=0, le=100_000)


class SignFlip(HostileSpec):
    """Sends its update with the opposite sign."""

    kind: Literal["sign_flip"] = "sign_flip"
    cite: ClassVar[str] = "Li et al. 2019 (RSA), section 5"


class Scaled(HostileSpec):
    """Sends its update times a factor: below zero it destroys, far above one it takes over the
    global model (model replacement)."""

    kind: Literal["scaled"] = "scaled"
    cite: ClassVar[str] = "Bagdasaryan et al. 2020, section 4.2"
    factor: float = param(-5.0, "Factor", "What the update is multiplied by.", ge=-1e6, le=1e6)


class Gaussian(HostileSpec):
    """Sends noise in place of its update."""

    kind: Literal["gaussian_update"] = "gaussian_update"
    cite: ClassVar[str] = "Blanchard et al. 2017, section 5"
    std: float = param(0.1, "Deviation", "Of every coordinate.", gt=0.0, le=1e6)


class Backdoor(HostileSpec):
    """Teaches the global model that a patch in the corner means the target class."""

    kind: Literal["backdoor"] = "backdoor"
    cite: ClassVar[str] = "Gu, Dolan-Gavitt and Garg 2017, section 4; Bagdasaryan et al. 2020"
    target: int = param(0, "Target class", "What the trigger is to mean.", ge=0, le=100_000)
    patch: int = param(
        3, "Patch", "Side of the white square in the lower right corner.", unit="px", ge=1, le=256
    )
    share: float = param(
        0.5, "Poison rate", "Share of its images that carry the trigger.", gt=0.0, le=1.0
    )
    boost: float = param(
        1.0, "Boost", "What its update is multiplied by, to outweigh others.", gt=0.0, le=1e6
    )


class FreeRider(HostileSpec):
    """Trains nothing and sends an update all the same: zeros, or faint noise as a disguise."""

    kind: Literal["free_rider"] = "free_rider"
    cite: ClassVar[str] = "Lin, Du and Liu 2019, section 3"
    std: float = param(0.0, "Deviation", "Of the noise in every coordinate.", ge=0.0, le=1e6)
