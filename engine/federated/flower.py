"""Flower, quiet and without a word to anybody outside; and its records, without copies.

Everything of Flower is imported from here or after this module: what switches its telemetry and its
search for updates off is read when it is imported.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

LOG = logging.getLogger("flwr")


class LiveArray(Array):
    """A Flower Array whose numbers stay where they are until somebody asks for bytes.

    For messages that never leave this process. Who changes `numpy()` changes the array.
    """

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.__dict__.update(
            dtype=str(values.dtype), shape=values.shape, stype="numpy.ndarray", _values=values
        )

    def numpy(self) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = self.__dict__["_values"]
        return values

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """As Flower writes arrays."""
        buffer = BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()


def record(tensors: Mapping[str, Tensor], *, live: bool) -> ArrayRecord:
    """Tensors as Flower sends them; `live` where they stay in this process."""
    found = ArrayRecord()
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().numpy()
        found[name] = LiveArray(values) if live else Array(values)
    return found


def is_live(arrays: ArrayRecord) -> bool:
    """Whether the numbers of a record stay in this process."""
    return any(isinstance(array, LiveArray) for array in arrays.values())


def is_here(grid: object) -> bool:
    """Whether messages on a grid stay in this process."""
    return bool(getattr(grid, "live", False))


def tensors(arrays: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of a record. Those of a live one are not copied: they are not to be changed."""
    return {name: torch.from_numpy(array.numpy()) for name, array in arrays.items()}


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of their numbers. (Of a record that somebody sent it is a mere claim.)"""
    return sum(tensor.nbytes for tensor in tensors.values())


def arrays_in(content: RecordDict, name: str = "arrays") -> ArrayRecord:
    """The arrays of a message. Raises KeyError if there are none, TypeError if they are others."""
    found = content[name]
    if not isinstance(found, ArrayRecord):
        raise TypeError(f"{name} holds no arrays")
    return found


def number_in(content: RecordDict, name: str, default: float | None = None) -> float:
    """A number of a message, among its metrics or in its configuration. Raises KeyError or
    TypeError, where there is no `default`."""
    for found in content.values():
        if isinstance(found, MetricRecord | ConfigRecord) and name in found:
            value = found[name]
            if isinstance(value, int | float):
                return value
            raise TypeError(f"{name} is no number")
    if default is None:
        raise KeyError(name)
    return default


def addressed(content: RecordDict, about: Any) -> Message:
    """A message with these metadata, which Flower's own grids make themselves."""
    make: Any = Message
    message: Message = make(content=content, metadata=about)
    return message


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[str] = deque(maxlen=100)

    def emit(self, line: logging.LogRecord) -> None:
        text = line.getMessage().strip()
        if not text.startswith("DEPRECATED"):  # meant for whoever writes the program
            self.lines.append(text)


_HEARD = _Heard()


def quiet() -> None:
    """Have Flower print nothing in this process; `heard` tells what it warned of."""
    if _HEARD not in LOG.handlers:
        LOG.handlers[:], LOG.propagate = [_HEARD], False
        LOG.setLevel(logging.WARNING)


def heard() -> list[str]:
    """What Flower warned of since this was asked last."""
    return [_HEARD.lines.popleft() for _ in range(len(_HEARD.lines))]
