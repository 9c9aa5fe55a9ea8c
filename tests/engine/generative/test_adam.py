"""Adam's steps, against torch's own."""

from __future__ import annotations

import torch

from engine.generative.adam import Adam

SHAPES = ((4, 3), (4,), (2, 3, 3, 3), (1, 4))


def new_weights() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in SHAPES]


def gradients(step: int) -> list[torch.Tensor | None]:
    """The second weight has none at first, the third never; some lie in memory otherwise than their
    weights do."""
    draw = torch.Generator().manual_seed(step)
    found: list[torch.Tensor | None] = [torch.randn(shape, generator=draw) for shape in SHAPES]
    assert found[0] is not None
    assert found[3] is not None
    found[0] = found[0].t().contiguous().t()
    found[3] = torch.randn(4, 1, generator=draw).t()
    found[2] = None
    if step < 3:
        found[1] = None
    return found


def test_steps_are_those_of_torch_to_the_last_bit() -> None:
    mine, its = new_weights(), new_weights()
    adam = Adam(mine, (0.5, 0.9))
    torchs = torch.optim.Adam(its, betas=(0.5, 0.9), fused=True)
    for step in range(6):
        rate = 0.1 / (step + 1)
        adam.step(gradients(step), rate)
        for weight, gradient in zip(its, gradients(step), strict=True):
            weight.grad = None if gradient is None else gradient.contiguous()
        torchs.param_groups[0]["lr"] = rate
        torchs.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))
    assert torch.equal(mine[2], new_weights()[2])


def test_state_is_taken_up_to_the_last_bit() -> None:
    whole, weights = new_weights(), new_weights()
    one, first = Adam(whole, (0.5, 0.9)), Adam(weights, (0.5, 0.9))
    for step in range(6):
        one.step(gradients(step), 0.01)
    for step in range(3):
        first.step(gradients(step), 0.01)
    kept = {name: value.clone() for name, value in first.tensors().items()}
    second = Adam(weights, (0.5, 0.9))
    second.step([torch.ones_like(w) for w in weights], 0.0)  # what it held is forgotten
    second.load({name: value for name, value in kept.items() if not name.startswith("2.")})
    for step in range(3, 6):
        second.step(gradients(step), 0.01)
    assert all(torch.equal(a, b) for a, b in zip(whole, weights, strict=True))
