from __future__ import annotations

import sys

import pytest
import torch

from engine.errors import BadInput
from engine.models import build, weights_sha256
from engine.models.spec import Module


def made(factory: str, classes: int = 3):
    return build(Module(factory=factory), (1, 8, 8), classes, trust=True)


GOOD = "return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))"


def test_nothing_is_run_without_an_explicit_yes(write_module, tmp_path):
    factory = write_module(f"open({str(tmp_path / 'was run')!r}, 'w')\ndef make():\n    {GOOD}")
    with pytest.raises(BadInput, match="--trust-code"):
        build(Module(factory=factory), (1, 8, 8), 3)
    assert not (tmp_path / "was run").exists()
    made(factory)
    assert (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    "signature",
    ["", "input_shape", "classes", "input_shape, classes", "*, classes=10, extra=1", "**all"],
)
def test_the_function_takes_what_it_wants(write_module, signature):
    model = made(write_module(f"def make({signature}):\n    {GOOD}"))
    assert model(torch.rand(5, 1, 8, 8)).shape == (5, 3)
    assert model.training


def test_its_weights_depend_on_the_seed_alone(write_module):
    factory = write_module("""
        import random
        import numpy as np
        def make():
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
            with torch.no_grad():
                model[1].bias.copy_(torch.tensor([random.random(), np.random.rand(), 0.0]))
            return model
    """)
    first = weights_sha256(made(factory).state_dict())
    torch.manual_seed(5)
    assert weights_sha256(made(factory).state_dict()) == first


def test_files_beside_it_can_be_imported(write_module, tmp_path):
    write_module("def head(classes):\n    return nn.Linear(64, classes)", "helper_of_mine.py")
    factory = write_module("""
        import helper_of_mine
        def make(classes):
            return nn.Sequential(nn.Flatten(), helper_of_mine.head(classes))
    """)
    before = list(sys.path)
    assert made(factory)(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert sys.path == before
    del sys.modules["helper_of_mine"]


def test_an_edited_file_is_read_again(write_module):
    made(write_module(f"def make():\n    {GOOD}"))
    factory = write_module("def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))")
    assert made(factory, classes=5)(torch.rand(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def make(:\n  pass", "cannot be run: it raised SyntaxError"),
        ("import no_such_module_here\ndef make(): pass", "ModuleNotFoundError.*line 3"),
        ("def other(): pass", "no function 'make' in .*; it has other"),
        ("make = 3", "no function 'make'"),
        ("def make(depth): pass", "needs the arguments depth.*input_shape.*default"),
        (
            "def make():\n    raise ValueError('too wide')",
            r"raised ValueError: too wide \(line 4: ",
        ),
        ("import sys\ndef make():\n    sys.exit(3)", "raised SystemExit"),
        ("def make(): return 7", "returned a int; expected a torch.nn.Module"),
        ("def make(): return nn.Linear(9, 3)", "fails on images .*mat1 and mat2"),
        ("def make(): return nn.Flatten()", r"returns torch.float32 \(2, 64\).*\(2, 3\)"),
        (
            "class M(nn.Module):\n    def forward(self, x): return (x, x)\ndef make(): return M()",
            "returns a tuple; expected logits",
        ),
        (
            "class M(nn.Module):\n    def forward(self, x): return x.flatten(1).argmax(1)\n"
            "def make(): return M()",
            r"returns torch.int64 \(2,\)",
        ),
    ],
)
def test_what_is_wrong_with_it_is_explained(write_module, code, text):
    with pytest.raises(BadInput, match=f"(?s){text}"):
        made(write_module(code))


def test_no_such_file(tmp_path):
    with pytest.raises(BadInput, match="there is no file"):
        made(f"{tmp_path / 'none.py'}:make")
