"""What is said of models that hide their gradients, in the person's language."""

from __future__ import annotations

import pytest

from engine.models import build, transforms
from engine.models.spec import CNN, JPEG, BitDepth, Median
from workbench import i18n
from workbench.panels import detail_of
from workbench.panels.evaluate_view import attack_name
from workbench.words import hidden_text, note_text


@pytest.mark.parametrize("spec", [BitDepth(), JPEG(), Median()], ids=lambda s: s.kind)
def test_what_the_engine_says_is_known(spec: BitDepth | JPEG | Median) -> None:
    model = build(CNN(width=4, transform=spec, activation_bits=2), (1, 8, 8), 10)
    said = transforms.warning(model)
    assert note_text(said) == said
    i18n.set_language("zh")
    shown = note_text(said)
    assert "本身不是防御" in shown
    assert "激活值舍入为 2 位" in shown
    assert not [word for word in ("depth", "quality", "median", "gradients") if word in shown]
    evidence = hidden_text(f"found in the model: {transforms.hidden_by(model)}")
    assert evidence is not None
    assert evidence.startswith("在模型中发现：")
    assert hidden_text("2 of 3 clean images") is None


def test_an_attack_straight_through_has_a_name() -> None:
    assert [attack_name(n) for n in ("pgd", "pgd-through", "pgd-2-through")] == [
        "PGD",
        "BPDA PGD",
        "BPDA PGD 2",
    ]


def test_a_run_of_a_transform_is_described() -> None:
    spec = {"kind": "transform", "model": "plain", "transform": {"kind": "bit_depth", "bits": 3}}
    assert detail_of("transform", spec) == "Bit depth · on plain"
