"""A person's own model: their function in their file, run only after an explicit yes."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.models.spec import Module

Shape = tuple[int, int, int]

_CODE = "_crucible_code"
"""Attribute of a person's model: the file that made it."""

_PROBE = 2
"""Images that a new model is tried on: two, so that a lost batch dimension shows."""


def call_factory(spec: Module, shape: Shape, classes: int, trust: bool) -> nn.Module:
    """The model that `spec.factory` = "path/to/file.py:function" returns, tried on two images.

    Raises BadInput without `trust`, and where the file or function is missing, raises, or returns
    something other than a module from (N, *shape) to (N, classes).
    """
    if not trust:
        raise BadInput(
            f"{spec.factory} is Python code and would run with your rights. If you trust it, say "
            "so: --trust-code on the command line, or 'Run this file' in the form of the task."
        )
    file, _, name = spec.factory.rpartition(":")
    path = Path(file).expanduser().resolve()
    module = _load(path)
    factory = getattr(module, name, None)
    if not callable(factory):
        there = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        found = f"; it has {', '.join(there)}" if there else ""
        raise BadInput(f"there is no function {name!r} in {path}{found}")
    arguments = _arguments(spec.factory, factory, shape, classes)
    try:
        model = factory(**arguments)
    except (Exception, SystemExit) as error:
        raise BadInput(f"{spec.factory} raised {_told(error, path)}") from error
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"{spec.factory} returned a {type(model).__name__}; expected a torch.nn.Module"
        )
    _probe(spec.factory, path, model, shape, classes)
    model.__dict__[_CODE] = str(path)
    return model


def code_sha256(model: nn.Module) -> str:
    """Of what a model computes besides its weights, as far as its layers tell: how they print, and
    the files that a person's own ones and their function are from."""
    digest = hashlib.sha256(str(model).encode())
    files = set()
    for layer in model.modules():
        of_class = getattr(sys.modules.get(type(layer).__module__), "__file__", None)
        if type(layer).__module__.partition(".")[0] not in ("torch", "torchvision", "engine"):
            files.add(of_class)
        files.add(vars(layer).get(_CODE))
    for file in sorted(file for file in files if file and Path(file).is_file()):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _load(path: Path) -> ModuleType:
    """The file as a fresh module; what lies beside it can be imported from it."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}; expected a Python file with the model's function")
    name = f"crucible_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up
    sys.path.insert(0, str(path.parent))
    try:
        # Not by the loader: its cache takes an edit of the same length and second for the old file.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadInput(f"{path} cannot be run: it raised {_told(error, path)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _arguments(
    name: str, factory: Callable[..., Any], shape: Shape, classes: int
) -> dict[str, Any]:
    """Those of `input_shape` and `classes` that the function takes."""
    given: dict[str, Any] = {"input_shape": shape, "classes": classes}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C
        return given
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return given
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    unknown = [n for n in needed if n not in given]
    if unknown:
        raise BadInput(
            f"{name} needs the arguments {', '.join(unknown)}, which are not known; expected "
            "input_shape=(C, H, W) and classes=N, either or none. Give the others a default."
        )
    return {p.name: given[p.name] for p in parameters if p.name in given}


def _probe(name: str, path: Path, model: nn.Module, shape: Shape, classes: int) -> None:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(torch.full((_PROBE, *shape), 0.5))
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"the model of {name} fails on images {(_PROBE, *shape)}: {_told(error, path)}"
        ) from error
    finally:
        model.train(training)
    expected = (_PROBE, classes)
    if not isinstance(output, Tensor):
        raise BadInput(
            f"the model of {name} returns a {type(output).__name__}; expected logits, a tensor "
            f"{expected} for {_PROBE} images"
        )
    if tuple(output.shape) != expected or not output.is_floating_point():
        raise BadInput(
            f"the model of {name} returns {output.dtype} {tuple(output.shape)} for {_PROBE} "
            f"images {shape}; expected floating-point logits {expected}, one for each of the "
            f"{classes} classes"
        )


def _told(error: BaseException, path: Path) -> str:
    """An exception in one line, with the line of the person's file that it came from."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return text
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{text} (line {frames[-1].lineno}: {frames[-1].line})" if frames else text
