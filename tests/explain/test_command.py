"""`engine explain`."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from engine.explain.surface import SIDE
from engine.models.spec import MLP
from tests.engine.cli import engine, refused
from tests.explain.test_questions import ask, attacked


def test_it_writes_what_the_window_shows(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path)
    out = tmp_path / "out" / "here"
    said = engine(
        "explain", run.id, "--sample", "2", "--to", out, "--workspace", tmp_path / "w", "--json"
    )
    assert said.code == 0, said.err
    shown = {m: ask(run, kind="explain", sample=1, method=m)[0] for m in said.json["moved"]}
    assert said.json["moved"] == pytest.approx({m: a["moved"] for m, a in shown.items()})
    assert said.json["predictions"] == shown["saliency"]["predictions"]
    rows = list(csv.reader((out / "explanation.csv").open()))
    assert len(rows) == 1 + 3 * 64
    sums = sum(abs(float(row[3])) for row in rows if row[0] == "saliency")
    assert sums == pytest.approx(1, rel=1e-5)
    points = list(csv.reader((out / "surface.csv").open()))
    assert points[0] == ["along", "across", "loss", "margin", "predicted"]
    assert len(points) == 1 + SIDE**2
    places = [tuple(map(float, row[:2])) for row in points[1:]]
    assert places[0] == pytest.approx((-0.25, -0.25), rel=1e-4)
    assert places[1][0] > places[0][0]
    assert places[SIDE**2 // 2] == (0, 0)


def test_it_says_in_words_what_there_is_and_what_there_is_not(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path, model=MLP(width=8, depth=1))
    said = engine(
        "explain", run.id, "--sample", "3", "--to", tmp_path, "--workspace", run.folder.parents[1]
    )
    assert said.code == 0, said.err
    assert "no convolution" in said.out
    assert "saliency: 0% rests on other pixels now" in said.out
    assert not (tmp_path / "surface.csv").exists()  # the attack left it as it was


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    run, _ = attacked(tmp_path)
    place = ("--workspace", tmp_path / "w")
    refused(engine("explain", run.id, "--sample", "0", "--to", tmp_path, *place), "no sample 0")
    refused(engine("explain", "nobody", "--sample", "1", "--to", tmp_path, *place), "nobody")
    (tmp_path / "file").touch()
    refused(
        engine("explain", run.id, "--sample", "1", "--to", tmp_path / "file", *place),
        "cannot be made",
    )
