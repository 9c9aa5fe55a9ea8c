"""What the tests of this room share: digits, and nets that have learnt them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.data import Dataset
from tests.robustness.masked import Net
from tests.robustness.zoo import digits, saved, train


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def net(data: Dataset) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    train(model, data)
    return model


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Path:
    return saved(tmp_path_factory.mktemp("models"), data)
