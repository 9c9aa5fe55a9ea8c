from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from engine.data import load
from engine.data.digits import read_digits
from engine.data.spec import Digits


def test_they_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels, classes = read_digits()
    theirs = load_digits()
    assert np.array_equal(labels.numpy(), theirs.target)
    assert np.array_equal(images[:, 0].numpy(), np.rint(theirs.images * 255 / 16))
    assert classes == tuple("0123456789")


def test_scikit_learn_is_not_imported():
    code = (
        "import sys; from engine.data.digits import read_digits; read_digits(); "
        "sys.exit(any(name.split('.')[0] == 'sklearn' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_upsampled_on_request(bench, drain):
    _, data = drain(load(Digits(size=20), bench))
    assert data.shape == (1, 20, 20)
    images, _ = data.test.batch(torch.arange(5))
    assert images.shape == (5, 1, 20, 20)
    _, small = drain(load(Digits(), bench))
    assert torch.equal(small.test.ids, data.test.ids)
    again, _ = small.test.batch(torch.arange(5))
    assert abs(float(images.mean() - again.mean())) < 0.02


def test_the_shares_are_kept(bench, drain):
    _, data = drain(load(Digits(test=0.25, validation=0.2), bench))
    assert abs(len(data.test) - 0.25 * 1797) <= 5
    assert abs(len(data.validation) - 0.2 * 0.75 * 1797) <= 5
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
