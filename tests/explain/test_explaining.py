"""Attribution maps against gradients by hand, sums and loops; and that they leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BadInput
from engine.explain import METHODS, Explanation, explain
from engine.explain.explaining import COMPLETE, NO_CONVOLUTION, explaining, last_convolution
from engine.models import build
from engine.models.spec import CNN, MLP, RNN, ModelSpec, ResNet18, Transformer
from tests.engine.test_imports import modules_after


def images(channels: int = 1, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Smooth(nn.Module):
    """Two convolutions and a linear layer, smooth, with a known last convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(5, 5, 1)
        self.out = nn.Linear(5 * 4 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.last(torch.tanh(self.first(x)))
        logits: Tensor = self.out(torch.tanh(self.shortcut(features)).flatten(1))
        return logits


def test_saliency_is_the_gradient_of_the_predicted_class() -> None:
    model, x = Smooth().eval(), images(3)
    found = explain(model, x, "saliency")
    for at in range(2):
        one = x[at : at + 1].clone().requires_grad_()
        logits = model(one)
        said = int(logits.argmax())
        assert found.classes[at] == said
        logits[0, said].backward()
        assert one.grad is not None
        torch.testing.assert_close(found.maps[at], one.grad[0].abs().amax(0))


def test_integrated_gradients_add_up_to_the_difference_of_the_outputs() -> None:
    model, x = Smooth().eval(), images(3)
    found = explain(model, x, "integrated_gradients")
    with torch.no_grad():
        rise = (model(x) - model(torch.zeros_like(x)))[torch.arange(2), list(found.classes)]
    torch.testing.assert_close(found.maps.sum((1, 2)), rise, rtol=COMPLETE, atol=1e-4)
    assert found.gaps is not None
    assert max(found.gaps) <= COMPLETE


def test_integrated_gradients_of_a_linear_model_are_known() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images()
    found = explain(model, x, "integrated_gradients")
    weights = model[1].weight.detach()
    for at in range(2):
        expected = (weights[found.classes[at]] * x[at].flatten()).view(8, 8)
        torch.testing.assert_close(found.maps[at], expected, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_take_more_steps_where_few_do_not_add_up() -> None:
    class Jagged(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sum_ = x.flatten(1).sum(1)
            return torch.stack([torch.sin(12 * sum_) + 20 * F.relu(sum_ - 3), 0 * sum_], 1)

    found = explain(Jagged(), images().clamp_min(0.2), "integrated_gradients")
    assert found.steps > 32


def test_grad_cam_is_that_of_a_plain_loop() -> None:
    model, x = Smooth().eval(), images(3)
    found = explain(model, x, "grad_cam")
    for at in range(2):
        kept: list[Tensor] = []
        hook = model.last.register_forward_hook(lambda m, i, out, kept=kept: kept.append(out))
        logits = model(x[at : at + 1])
        hook.remove()
        slope = torch.autograd.grad(logits[0, int(logits.argmax())], kept[0])[0]
        coarse = torch.zeros(4, 4)
        for row in range(4):
            for column in range(4):
                total = 0.0
                for channel in range(5):
                    weight = slope[0, channel].mean().item()
                    total += weight * kept[0][0, channel, row, column].item()
                coarse[row, column] = max(total, 0.0)
        large = F.interpolate(coarse[None, None], (8, 8), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found.maps[at], large[0, 0], rtol=1e-4, atol=1e-6)


def test_the_last_convolution_is_the_last_one_that_runs_and_sees_more_than_a_pixel() -> None:
    model = Smooth()
    assert last_convolution(model, images(3)) is model.last
    resnet = build(ResNet18(), (3, 32, 32), 10)
    found = last_convolution(resnet, torch.rand(1, 3, 32, 32))
    assert isinstance(found, nn.Conv2d)
    assert found.kernel_size == (3, 3)


KINDS: dict[str, ModelSpec] = {"mlp": MLP(), "rnn": RNN(), "transformer": Transformer(patch=2)}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_models_without_convolution_say_so_and_are_explained_otherwise(kind: str) -> None:
    model = build(KINDS[kind], (1, 8, 8), 10).eval()
    cam = explain(model, images(), "grad_cam")
    assert cam.missing == NO_CONVOLUTION
    assert not cam.maps.any()
    for method in ("saliency", "integrated_gradients"):
        found = explain(model, images(), method)
        assert not found.missing
        assert found.maps.shape == (2, 8, 8)
        assert found.maps.any()


def test_what_moved_is_the_difference_of_shares() -> None:
    maps = torch.zeros(2, 6, 6)
    maps[0, 0, 0], maps[0, 5, 5] = 3.0, -1.0
    maps[1, 0, 0], maps[1, 5, 0] = 0.5, 0.5
    found = Explanation("saliency", (0, 1), maps)
    assert found.shares[0, 0, 0] == 0.75
    assert found.shares[0, 5, 5] == -0.25
    assert found.moved[0, 0] == -0.25
    assert found.moved[5, 0] == 0.5
    assert found.moved[5, 5] == -0.25
    assert found.share_moved == 0.5
    lost, gained = found.places()
    assert lost in ((0, 0), (2, 2))
    assert gained == (2, 0)
    assert Explanation("saliency", (0, 1), maps * torch.tensor([[[1.0]], [[0.0]]])).share_moved is (
        None
    )


class Noted(nn.Module):
    """Dropout, batch normalisation, global draws, and an error at the k-th call."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten()
        )
        self.out = nn.Linear(144, 3)
        self.calls, self.fails_at = 0, fails_at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ValueError("no more")
        logits: Tensor = self.out(self.net(x)) + 0.01 * torch.rand(len(x), 3)
        return logits


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_no_trace_is_left(method: str, fails_at: int) -> None:
    model = Noted(fails_at).train()
    model.out.weight.requires_grad_(False)
    model.out.bias.grad = torch.ones_like(model.out.bias)
    before = copy.deepcopy(model.state_dict())
    needs = [p.requires_grad for p in model.parameters()]
    x = images()
    kept, state = x.clone(), torch.get_rng_state()
    with torch.no_grad():
        try:
            explain(model, x, method)
        except ValueError:
            assert fails_at
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == needs
    grads = [name for name, p in model.named_parameters() if p.grad is not None]
    assert grads == ["out.bias"]
    assert torch.equal(model.out.bias.grad, torch.ones(3))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_same_question_has_the_same_answer() -> None:
    model = Noted().eval()
    first, second = (explain(model, images(), "saliency", seed=4).maps for _ in range(2))
    assert torch.equal(first, second)


def faulty(of: Callable[[Tensor], Tensor]) -> nn.Module:
    class Faulty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return of(x.flatten(1))

    return Faulty()


def test_bad_input_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match="no method 'lime'"):
        explain(Smooth(), images(3), "lime")
    with pytest.raises(BadInput, match="not finite numbers"):
        explain(faulty(lambda x: x[:, :3] / 0), images(), "saliency")


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients"])
@pytest.mark.parametrize(
    "of", [lambda x: x.detach()[:, :3], lambda x: torch.ones(len(x), 3, requires_grad=True) * 1]
)
def test_a_model_without_a_gradient_says_so(method: str, of: Callable[[Tensor], Tensor]) -> None:
    found = explain(faulty(of), images(), method)
    assert "gradient of this model cannot be taken" in found.missing
    assert found.share_moved is None


def test_a_cnn_of_the_zoo_is_explained_by_all() -> None:
    model = build(CNN(), (3, 16, 16), 5).eval()
    for method in METHODS:
        found = explain(model, images(3, 16), method)
        assert not found.missing
        assert found.maps.shape == (2, 16, 16)
        assert found.maps.isfinite().all()


def test_captum_and_what_it_drags_in_wait_until_they_are_needed() -> None:
    loaded = modules_after("import engine.questions, engine.explain.explaining")
    assert "torch" in loaded
    assert not loaded & {"captum", "matplotlib"}
    used = modules_after("import captum.attr")
    assert "captum" in used
    assert not used & {"PySide6", "workbench"}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_held_between_its_parts(method: str) -> None:
    """Where a run goes on in between, it finds modes, flags and random state as they were."""
    model = Noted().train()
    state, parts = torch.get_rng_state(), 0
    with torch.no_grad():
        steps = explaining(model, images(), method)
        for _ in steps:
            parts += 1
            assert not torch.is_grad_enabled()
            assert torch.equal(torch.get_rng_state(), state)
            assert all(module.training for module in model.modules())
            assert not any(m._forward_hooks for m in model.modules())
    assert parts >= (8 if method == "integrated_gradients" else 2)
