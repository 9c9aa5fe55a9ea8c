"""Layers that torch computes in one piece, written out in linear layers and elementwise functions,
whose per-sample gradients are known.

Opacus' recurrent layers are no stand-in: they drop values inside of the recurrence, and those of
the last layer, where torch drops them between layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""From the input's and the state's products, and the state, to the next state."""


# --- recurrent layers -----------------------------------------------------------------------------


def _lstm_step(given: Tensor, back: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    entry, forget, cell, leave = (given + back).chunk(4, -1)
    memory = forget.sigmoid() * state[1] + entry.sigmoid() * cell.tanh()
    return leave.sigmoid() * memory.tanh(), memory


def _gru_step(given: Tensor, back: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    reset, update, new = given.chunk(3, -1)
    back_reset, back_update, back_new = back.chunk(3, -1)
    fresh = (new + (reset + back_reset).sigmoid() * back_new).tanh()
    keep = (update + back_update).sigmoid()
    return (fresh + keep * (state[0] - fresh),)


def _tanh_step(given: Tensor, back: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((given + back).tanh(),)


def _relu_step(given: Tensor, back: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((given + back).relu(),)


def _recurrent(step: Step) -> Callable[..., Any]:
    """torch.lstm and its kin."""

    def computed(input: Tensor, state: Any, weights: Any, *rest: Any) -> Any:
        if not isinstance(weights, list | tuple):
            return None  # sequences of several lengths, packed
        biased, layers, dropout, training, both_ways, batch_first = rest
        x = input if batch_first else input.transpose(0, 1)
        begin = state if isinstance(state, list | tuple) else (state,)
        ways = 2 if both_ways else 1
        each = len(weights) // (layers * ways)
        last: list[tuple[Tensor, ...]] = []
        for layer in range(layers):
            outs = []
            for way in range(ways):
                k = layer * ways + way
                own = weights[k * each : (k + 1) * each]
                out, end = _along(step, x, tuple(s[k] for s in begin), own, biased, way == 1)
                outs.append(out)
                last.append(end)
            x = torch.cat(outs, 2) if both_ways else outs[0]
            if dropout and training and layer < layers - 1:
                x = F.dropout(x, dropout)
        ends = [torch.stack(parts) for parts in zip(*last, strict=True)]
        return (x if batch_first else x.transpose(0, 1), *ends)

    return computed


def _along(
    step: Step,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    biased: bool,
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction: states (N, T, H), and the last."""
    bias, back_bias = weights[2:4] if biased else (None, None)
    projection = weights[-1] if len(weights) == (5 if biased else 3) else None
    steps = F.linear(x, weights[0], bias).unbind(1)
    states = []
    for given in reversed(steps) if backwards else steps:
        state = step(given, F.linear(state[0], weights[1], back_bias), state)
        if projection is not None:
            state = (F.linear(state[0], projection), *state[1:])
        states.append(state[0])
    return torch.stack(states[::-1] if backwards else states, 1), state


def _cell(step: Step) -> Callable[..., Any]:
    """torch.lstm_cell and its kin."""

    def computed(
        input: Tensor,
        state: Any,
        weight: Tensor,
        back: Tensor,
        bias: Tensor | None = None,
        back_bias: Tensor | None = None,
    ) -> Any:
        begin = tuple(state) if isinstance(state, list | tuple) else (state,)
        given = F.linear(input, weight, bias)
        end = step(given, F.linear(begin[0], back, back_bias), begin)
        return end if len(end) > 1 else end[0]

    return computed


# --- attention ------------------------------------------------------------------------------------


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """F.multi_head_attention_forward of (T, N, D), but for its rarest options."""
    rare = (bias_k, bias_v, static_k, static_v)
    if query.ndim != 3 or add_zero_attn or any(part is not None for part in rare):
        return None
    parts = [part.transpose(0, 1) for part in (query, key, value)]
    if query is key and key is value and in_proj_weight is not None:
        projected = F.linear(parts[0], in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        if use_separate_proj_weight:
            weights: Any = q_proj_weight, k_proj_weight, v_proj_weight
        else:
            assert in_proj_weight is not None
            weights = in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        projected = tuple(map(F.linear, parts, weights, biases))
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in projected)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if attn_mask is not None:
        mask = attn_mask if attn_mask.ndim == 2 else attn_mask.view(scores.shape)
        scores = _masked(scores, mask)
    if key_padding_mask is not None:
        scores = _masked(scores, key_padding_mask[:, None, None])
    attention = F.dropout(scores.softmax(-1), dropout_p, training)
    mixed = (attention @ v).transpose(1, 2).flatten(2)
    out = F.linear(mixed, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return out, None
    return out, attention.mean(1) if average_attn_weights else attention


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Without what a mask of truths hides, or plus one of numbers."""
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Positive values, and negative ones times the weight of their channel."""
    if weight.numel() > 1:
        weight = weight.view(-1, *(1,) * (input.ndim - 2))
    return input.clamp(min=0) + weight * input.clamp(max=0)


UNFUSED: dict[Any, Callable[..., Any]] = {
    torch.lstm: _recurrent(_lstm_step),
    torch.gru: _recurrent(_gru_step),
    torch.rnn_tanh: _recurrent(_tanh_step),
    torch.rnn_relu: _recurrent(_relu_step),
    torch.lstm_cell: _cell(_lstm_step),
    torch.gru_cell: _cell(_gru_step),
    torch.rnn_tanh_cell: _cell(_tanh_step),
    torch.rnn_relu_cell: _cell(_relu_step),
    F.multi_head_attention_forward: _attention,
    torch.prelu: _prelu,
    F.prelu: _prelu,
}
"""What is returned in their place, or None where torch's own must do it."""
