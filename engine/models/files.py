"""Model files: written whole or not at all, and never taken at their word.

One safetensors file, with the model card in its metadata (see `engine.models.card`). Tensors that
are tied are stored once, with a table of aliases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from engine.errors import BadInput, CrucibleError
from engine.files import atomic
from engine.models.building import build
from engine.models.card import (
    AnyCard,
    C,
    ModelCard,
    NetworkCard,
    keep_learnt,
    of_classifier,
    parse_card,
    read_metadata,
    with_learnt,
)
from engine.models.spec import NetworkSpec
from engine.models.trust import trusts
from engine.task import kind_of, kinds

if TYPE_CHECKING:
    from engine.bench import Bench


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the device of the bench, in eval mode, and its card."""

    module: nn.Module
    card: ModelCard


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """What is no classifier, on the device of the bench, in eval mode, and its card."""

    module: nn.Module
    card: NetworkCard


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over a state dict sorted by name.

    Of each tensor: its name (UTF-8), its dtype (as in "float32"), its shape (as in "16,1,3,3",
    empty for a scalar), each followed by a zero byte, then its elements in row-major order,
    little-endian.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}\0{dtype}\0{shape}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_model(path: Path, model: nn.Module | Mapping[str, Tensor], card: C) -> C:
    """Write a model, or its state dict, to `path`; what was there is replaced in one step.

    Returns the card with the hash of the weights in it; what it withholds is kept in a file beside
    the model's. Raises BadInput or
    CrucibleError where the file cannot be written, with the old one intact.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    card = card.model_copy(update={"weights_sha256": weights_sha256(state)})
    stored, aliases = _untie(state)
    told: C = card
    if card.withheld:  # both tell who was trained on
        keep_learnt(path.parent, card.learnt)
        told = card.model_copy(update={"learnt": (), "data_fingerprint": ""})
    metadata = {"card": json.dumps(told.to_dict())}
    if aliases:
        metadata["aliases"] = json.dumps(aliases)
    content = safetensors.torch.save(stored, metadata)
    with atomic(path) as file:
        file.write(content)
    return card


def load_model(ref: str, bench: Bench) -> LoadedModel:
    """The model of a run, or of a model file, encrypted or not, that `ref` names.

    Raises BadInput if there is none, it cannot be opened, or it is no file of a classifier;
    CrucibleError if its weights are not those that its card vouches for.
    """
    path = bench.find_model(ref)
    card, state = read_model(path, bench)
    module = build(card.model, card.shape, len(card.classes), trust=trusts(card.model, bench))
    _fill(module, state, path, card)
    return LoadedModel(module.to(bench.device).eval(), with_learnt(card, path.parent))


def load_network(ref: str, bench: Bench, wanted: type[NetworkSpec]) -> LoadedNetwork:
    """What `ref` names that is no classifier, of the family or kind `wanted`. Raises as
    `load_model` does."""
    path = bench.find_model(ref)
    card, state = _read(path, bench)
    if not isinstance(card, NetworkCard) or not isinstance(card.model, wanted):
        raise BadInput(
            f"{path} holds a network of kind {card.model.kind!r}; expected one of: "
            f"{', '.join(kinds(wanted)) or kind_of(wanted)}"
        )
    with torch.random.fork_rng(devices=[]):  # initialisers draw from the global state
        module = card.model.network(card.shape, len(card.classes))
    _fill(module, state, path, card)
    return LoadedNetwork(module.to(bench.device).eval(), with_learnt(card, path.parent))


def _fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, card: AnyCard) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(
            f"the weights in {path} do not fit the {card.model.kind} that its card describes: "
            f"{error}"
        ) from None


def read_model(path: Path, bench: Bench) -> tuple[ModelCard, dict[str, Tensor]]:
    """The card and the state dict, on the CPU, of a classifier's file. Raises as `load_model`
    does."""
    card, state = _read(path, bench)
    return of_classifier(str(path), card), state


def _read(path: Path, bench: Bench) -> tuple[AnyCard, dict[str, Tensor]]:
    source: Path | bytes = path
    if path.suffix == ".age":
        from engine.vault.opening import open_on_bench

        source = open_on_bench(path, bench)
    _, metadata = read_metadata(source)
    card = parse_card(str(path), metadata)
    state = read_tensors(source, str(path), metadata)
    if weights_sha256(state) != card.weights_sha256:
        raise CrucibleError(
            f"the weights in {path} are not those that its card vouches for: the file was changed "
            "or damaged. Take another copy."
        )
    return card, state


def read_tensors(source: Path | bytes, name: str, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, tied ones under each of their names."""
    try:
        if isinstance(source, bytes):
            state = safetensors.torch.load(source)
        else:
            state = safetensors.torch.load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{name} is not a whole safetensors file: {error}") from None
    try:
        aliases: dict[str, str] = json.loads(metadata.get("aliases", "{}"))
        return state | {alias: state[stored] for alias, stored in aliases.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise BadInput(f"{name} is damaged: its table of tied tensors cannot be read") from None


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What is stored, contiguous, on the CPU, and which other names stand for the same tensor."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        place = (
            tensor.device,
            tensor.data_ptr(),
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        # A copy, so that tensors that merely share memory in part are stored apart.
        stored[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return stored, aliases
