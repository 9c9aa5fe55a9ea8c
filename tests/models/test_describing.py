"""Counts against the same worked out by hand."""

from __future__ import annotations

import torch
from torch import nn

from engine.models import build, describe
from engine.models.describing import describe_module
from engine.models.spec import CNN, MLP, RNN, Module, ResNet18, Transformer


def flops_of(description, kind: str) -> list[int]:
    return [layer.flops for layer in description.layers if layer.type == kind]


def test_mlp():
    found = describe(MLP(width=256, depth=2), (1, 28, 28), 10)
    assert found.parameters == (784 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
    assert found.flops == 2 * (784 * 256 + 256 * 256 + 256 * 10)
    assert [layer.type for layer in found.layers] == [
        "Normalise",
        "Flatten",
        "Linear",
        "ReLU",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert found.layers[2].output == (256,)
    assert found.layers[2].parameters == 784 * 256 + 256
    assert found.layers[0].output == (1, 28, 28)


def test_cnn():
    found = describe(CNN(width=16, depth=2, norm="batch"), (3, 32, 32), 10)
    convolutions = [3 * 16 * 9, 16 * 16 * 9, 16 * 32 * 9, 32 * 32 * 9]
    assert flops_of(found, "Conv2d") == [
        2 * weights * side * side
        for weights, side in zip(convolutions, (32, 32, 16, 16), strict=True)
    ]
    assert flops_of(found, "Linear") == [2 * 16 * 32 * 10]
    assert flops_of(found, "BatchNorm2d") == [0] * 4
    assert found.parameters == sum(convolutions) + 2 * (16 + 16 + 32 + 32) + 16 * 32 * 10 + 10


def test_rnn():
    lstm = describe(RNN(width=64, depth=2), (1, 28, 28), 10)
    matrices = 4 * 64 * (28 + 64) + 4 * 64 * (64 + 64)
    assert flops_of(lstm, "LSTM") == [2 * 28 * matrices]
    assert lstm.parameters == matrices + 2 * 2 * 4 * 64 + 64 * 10 + 10
    gru = describe(RNN(width=64, cell="gru"), (3, 8, 6), 10)
    assert flops_of(gru, "GRU") == [2 * 8 * 3 * 64 * (18 + 64)]


def test_transformer():
    found = describe(Transformer(patch=4, width=64, depth=3, heads=4), (1, 28, 28), 10)
    tokens = 7 * 7 + 1
    block = tokens * 64 * (3 * 64 + 64 + 4 * 64 + 4 * 64) + 2 * tokens * tokens * 64
    assert found.flops == 2 * (49 * 16 * 64 + 3 * block + 64 * 10)
    assert flops_of(found, "Attention") == [2 * 2 * tokens * tokens * 64] * 3
    model = build(Transformer(patch=4, width=64, depth=3, heads=4), (1, 28, 28), 10)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert sum(layer.parameters for layer in found.layers) == found.parameters


def test_resnet18_is_as_published():
    """1.8 GFLOPs of multiply-adds for 224 x 224 and 11.69 million parameters (He et al. 2016)."""
    found = describe(ResNet18(stem="imagenet"), (3, 224, 224), 1000)
    assert found.parameters == 11_689_512
    assert found.flops == 2 * 1_814_073_344


def test_a_model_too_large_for_memory_can_be_described():
    found = describe(MLP(width=65536, depth=20), (1, 28, 28), 10)
    assert found.parameters > 19 * 65536**2
    assert sum(layer.parameters for layer in found.layers) == found.parameters


def test_layers_that_run_twice_and_share():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once = nn.Linear(4, 4)
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.once.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.tied(self.once(self.once(x.flatten(1))))

    found = describe_module(Twice(), (1, 2, 2))
    assert found.parameters == 16 + 4 + 4
    assert [(layer.name, layer.parameters, layer.flops) for layer in found.layers] == [
        ("once", 20, 64),
        ("tied", 4, 32),
    ]


def test_torchs_own_attention_and_other_convolutions():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 4, 3, stride=2)
            self.grouped = nn.Conv2d(4, 8, (1, 5), groups=2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.grouped(self.up(x)).flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0][:, 0]

    found = {layer.name: layer for layer in describe_module(Mixed().eval(), (2, 4, 4)).layers}
    assert found["up"].output == (4, 9, 9)
    assert found["up"].flops == 2 * 2 * 16 * 4 * 9
    assert found["grouped"].flops == 2 * 8 * 9 * 5 * 2 * 5
    assert found["attention"].flops == 2 * (45 * 4 * 8 * 8 + 2 * 45 * 45 * 8)
    assert found["attention"].parameters == 4 * 8 * 8 + 4 * 8


def test_frozen_parameters_are_not_trainable():
    model = build(MLP(width=4), (1, 4, 4), 2)
    model.body[1].requires_grad_(False)
    found = describe_module(model, (1, 4, 4))
    assert found.parameters - found.trainable == sum(p.numel() for p in model.body[1].parameters())


def test_a_persons_module(write_module):
    factory = write_module("""
        def make(input_shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    """)
    found = describe(Module(factory=factory), (1, 8, 8), 3, trust=True)
    assert found.flops == 2 * 64 * 3


def test_describing_leaves_no_trace():
    model = build(CNN(width=2), (1, 8, 8), 3).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    describe_module(model.eval(), (1, 8, 8))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
