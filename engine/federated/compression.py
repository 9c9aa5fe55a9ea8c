"""Updates in fewer bytes: top-k and 8 bits, there and back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.federated.spec import CompressionSpec, Int8, TopK
from engine.random import derive, uniform

Update = dict[str, Tensor]
LEVELS = 127


def compressed(
    spec: CompressionSpec | None, update: Update, memory: Update, seed: int
) -> tuple[Update, Update]:
    """What is sent of an update, and what is kept for the client's next one. `memory` is what was
    kept before, empty at first; `seed` is of this client in this round."""
    match spec:
        case None:
            return update, {}
        case TopK():
            return _top(spec, update, memory)
        case Int8():
            sent: Update = {}
            for name, tensor in update.items():
                sent |= _rounded(name, tensor, derive(seed, "int8", name))
            return sent, {}
    raise BadInput(f"there is no compression {spec.kind!r}")


def expanded(spec: CompressionSpec | None, sent: Update, like: Mapping[str, Tensor]) -> Update:
    """The update that was sent, by name; `like` are tensors of the right names and shapes.

    Raises BadInput where what was sent cannot be one.
    """
    match spec:
        case None:
            return sent
        case TopK():
            return _spread(sent, like)
        case Int8():
            return {name: _back(name, sent, tensor) for name, tensor in like.items()}
    raise BadInput(f"there is no compression {spec.kind!r}")


def _top(spec: TopK, update: Update, memory: Update) -> tuple[Update, Update]:
    flat = torch.cat([tensor.flatten() for tensor in update.values()])
    if memory:
        flat = flat + memory["rest"]
    count = max(1, math.ceil(spec.share * len(flat)))
    # A value that is no number would be sent last or first; it is to be seen by the server.
    order = flat.abs().nan_to_num(nan=math.inf).topk(count).indices
    places = order.sort().values
    values = flat[places]
    kept: Update = {}
    if spec.memory:
        kept["rest"] = flat.index_fill(0, places, 0.0)
    return {"places": places.to(torch.int32), "values": values}, kept


def _spread(sent: Update, like: Mapping[str, Tensor]) -> Update:
    total = sum(tensor.numel() for tensor in like.values())
    places, values = sent.get("places"), sent.get("values")
    if places is None or values is None or places.shape != values.shape or places.ndim != 1:
        raise BadInput("it does not hold the coordinates that top-k sends")
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < total:
        raise BadInput("it names coordinates that the model does not have")
    flat = torch.zeros(total).index_copy_(0, places.long(), values.float())
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {
        name: part.view(tensor.shape)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def _rounded(name: str, tensor: Tensor, seed: int) -> Update:
    top = tensor.abs().max() if tensor.numel() else tensor.new_zeros(())
    if not bool(top > 0):  # zero, or no number: the server sees which
        return {name: torch.zeros_like(tensor, dtype=torch.int8), f"{name}/size": top.view(1)}
    draws = uniform(seed, torch.zeros(1, dtype=torch.int64), (tensor.numel(),)).view(tensor.shape)
    whole = (tensor * (LEVELS / top) + draws).floor_().clamp_(-LEVELS, LEVELS)
    return {name: whole.to(torch.int8), f"{name}/size": top.view(1)}


def _back(name: str, sent: Update, like: Tensor) -> Tensor:
    whole, top = sent.get(name), sent.get(f"{name}/size")
    if whole is None or top is None or whole.dtype != torch.int8 or top.numel() != 1:
        raise BadInput(f"it does not hold {name} in 8 bits")
    return whole.float() * (float(top) / LEVELS)
