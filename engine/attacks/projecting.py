"""Many numbers a point become two: PCA and t-SNE, in a process of its own.

That process can be ended at once, which scikit-learn's t-SNE cannot, and is the last to get
processor time, so that neither a run nor the window waits for it: `python -m
engine.attacks.projecting FOLDER METHOD SEED` reads `points.npy` in FOLDER, writes `plane.npy` and
`shares.npy` beside it. Torch-free.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Method: TypeAlias = Literal["pca", "tsne"]
METHODS: tuple[Method, ...] = ("pca", "tsne")

LEAST = 3
"""Points that are needed."""

MOST_TSNE = 2000
"""Points that t-SNE takes."""

_PERPLEXITY = 30.0
"""van der Maaten and Hinton 2008, section 2: between 5 and 50."""

_WIDTH = 50
"""Numbers a point that t-SNE works on: of more, so many principal components (the same, section
4.2)."""

_EXACT = 2048
"""Order of a matrix that all eigenvectors are taken of: seconds; of larger ones only the first."""

_PRECISE = 2**24
"""Numbers that double precision is taken for."""

_STILL = 1e-13
"""Variance of a number, about, that is nothing but rounding."""

_SETTLED = 1e-9
_MOST_STEPS = 300


def project(
    points: NDArray[np.float32], method: Method, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """`points`, (N, D), in the plane, (N, 2); of PCA also the shares of the variance that its two
    axes explain, (2,), largest first. The entry of largest size in each principal axis is positive:
    that fixes the signs, which the method leaves open (as scikit-learn does). The same points and
    seed give the same."""
    import numpy as np

    if method == "pca":
        plane, shares = _principal(points, 2, seed)
        return plane.astype(np.float32), shares
    from sklearn.manifold import TSNE

    if points.shape[1] > _WIDTH:
        points = _principal(points, _WIDTH, seed)[0].astype(np.float32)
    found = TSNE(
        2,
        perplexity=min(_PERPLEXITY, (len(points) - 1) / 3),
        init="pca" if points.shape[1] > 1 else "random",
        random_state=seed,
        n_jobs=1,
    ).fit_transform(points)
    return found.astype(np.float32), np.zeros(2)


def _principal(
    points: NDArray[Any], wanted: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates along the first `wanted` principal axes, (N, wanted), zero where there are fewer,
    and the shares of the variance that they explain.

    The axes are eigenvectors of the covariance, or come from those of the products of the points
    with each other, whichever are fewer."""
    import numpy as np

    precision: Any = np.float64 if points.size <= _PRECISE else np.float32
    values: NDArray[Any] = points - points.mean(0, dtype=np.float64).astype(precision)
    total = float(np.einsum("ij,ij->", values, values))
    plane, shares = np.zeros((len(points), wanted)), np.zeros(wanted)
    if not total > _STILL * max(points.size, 1):  # all alike, but for rounding
        return plane, shares
    count, width = values.shape
    if min(count, width) > _EXACT:
        axes = _iterated(values, wanted, seed)
    elif width <= count:
        axes = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :wanted]
    else:
        sizes, sides = np.linalg.eigh(values @ values.T)
        kept = sizes[::-1][:wanted] > _STILL * total
        axes = values.T @ sides[:, ::-1][:, :wanted][:, kept]
        axes /= np.linalg.norm(axes, axis=0)
    found = axes.shape[1]
    peaks = np.abs(axes).argmax(0)
    axes = axes * np.sign(axes[peaks, np.arange(found)])
    plane[:, :found] = values @ axes
    shares[:found] = (plane[:, :found] ** 2).sum(0) / total
    return plane, shares


def _iterated(values: NDArray[Any], wanted: int, seed: int) -> NDArray[Any]:
    """The first axes, (D, wanted), by orthogonal iteration (Golub and Van Loan 2013, section 8.2),
    on a few more, which brings them about the faster."""
    import numpy as np

    rng = np.random.default_rng(seed)
    axes = rng.standard_normal((values.shape[1], wanted + 8)).astype(values.dtype)
    before = np.zeros(wanted)
    for _ in range(_MOST_STEPS):
        axes = np.linalg.qr(values.T @ (values @ axes))[0]
        seen = values @ axes
        sizes, turn = np.linalg.eigh(seen.T @ seen)
        axes = axes @ turn[:, ::-1]
        now = sizes[::-1][:wanted]
        if np.abs(now - before).max() <= _SETTLED * now[0]:
            break
        before = now
    return axes[:, :wanted]


def main(folder: Path, method: Method, seed: int) -> None:
    import numpy as np

    if hasattr(os, "nice"):
        os.nice(10)
    plane, shares = project(np.load(folder / "points.npy"), method, seed)
    np.save(folder / "plane.npy", plane)
    np.save(folder / "shares.npy", shares)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))  # type: ignore[arg-type]
