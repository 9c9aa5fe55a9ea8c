"""The model that a training begins with."""

from __future__ import annotations

from torch import nn

from engine.bench import Bench
from engine.data import Dataset
from engine.errors import BadInput
from engine.models import build, channel_statistics
from engine.models.files import LoadedModel
from engine.models.spec import ModelSpec
from engine.models.trust import trusts
from engine.training.spec import DEFAULT_MODEL


def first_model(
    asked: ModelSpec | None,
    init: str | None,
    start: LoadedModel | None,
    data: Dataset,
    bench: Bench,
    *,
    private: bool,
) -> tuple[nn.Module, ModelSpec]:
    """The model that is `asked` for, with the weights of `start`, which `init` names, if there is
    one; `start` itself where none is asked for, else the default one.

    private: statistics of the training images would be told, and not paid for; it has none then.
    Raises BadInput where it fits neither the data nor the weights.
    """
    if start is not None and asked is None:
        if (data.shape, len(data.classes)) != (start.card.shape, len(start.card.classes)):
            raise BadInput(
                f"the model of {init!r} takes images {start.card.shape} of "
                f"{len(start.card.classes)} classes; the data has {data.shape} of "
                f"{len(data.classes)}"
            )
        return start.module, start.card.model
    spec = asked or DEFAULT_MODEL
    normalised = spec.normalised and not private
    mean, std = channel_statistics(data.train) if normalised else (None, None)
    model = build(
        spec,
        data.shape,
        len(data.classes),
        mean=mean,
        std=std,
        generator_seed=bench.derive("model"),
        trust=trusts(spec, bench),
    )
    if start is not None:
        try:
            model.load_state_dict(start.module.state_dict())
        except RuntimeError as error:
            raise BadInput(f"the weights of {init!r} do not fit the model: {error}") from None
    return model, spec
