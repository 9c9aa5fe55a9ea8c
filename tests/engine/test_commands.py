"""Every command of the command line: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import subprocess
import termios
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from engine.__main__ import main
from engine.attacks.spec import PGD
from engine.events import Progress, Started
from engine.robustness.flags import FLAGS
from engine.screen import Pace, Screen, compose
from engine.store import Run, RunInfo, Workspace
from engine.task import task_kinds
from tests.engine.cli import (
    attack,
    ended,
    engine,
    first,
    process,
    recipe,
    refused,
    tasks,
    train,
    wait_until,
)

ISSUE = """
[[task]]
name = "plain"
kind = "train"
seed = 7
data = {kind = "digits"}
model = {kind = "cnn", width = 16, norm = "batch"}
optimizer = {kind = "adamw", lr = 2e-3}
epochs = 12

[[task]]
name = "broken"
kind = "attack"
model = "plain"                     # the run of that name, an id, or an exported file
attack = {kind = "pgd", norm = "linf", eps = 0.3, steps = 40, step_size = 0.01}
samples = 500

[[task]]
name = "hardened"
kind = "train"
init = "plain"                      # start from its weights; inherits its data, model and split
adversarial = {kind = "mixed", weight = 1.0, attack = {kind = "pgd", norm = "linf", eps = 0.3, \
steps = 7, step_size = 0.1}}
epochs = 12
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A workspace with a trained and an attacked model, a key pair, and the model exported to it
    and to a passphrase."""
    folder = tmp_path_factory.mktemp("commands")
    w, key, secret = folder / "w", folder / "key.txt", folder / "passphrase.txt"
    ran = engine(
        "run",
        recipe(folder / "r.toml", tasks(train(), attack())),
        "--workspace",
        w,
        "--json",
    )
    assert ran.code == 0, ran.err
    recipient = engine("keygen", "--to", key).out.strip()
    secret.write_text("correct horse\nnot this line\n")
    by_key, by_passphrase = folder / "key.safetensors.age", folder / "phrase.safetensors.age"
    exported = [
        engine("export", "plain", "--to", by_key, "--recipient", recipient, "--workspace", w),
        engine(
            "export", "plain", "--to", by_passphrase, "--passphrase-file", secret, "--workspace", w
        ),
    ]
    assert [said.code for said in exported] == [0, 0], exported
    return SimpleNamespace(
        folder=folder,
        w=w,
        key=key,
        secret=secret,
        recipient=recipient,
        by_key=by_key,
        by_passphrase=by_passphrase,
        ran=ran,
        exported=exported,
    )


def shown(run: str, w: Path) -> dict[str, Any]:
    said = engine("show", run, "--workspace", w, "--json")
    assert said.code == 0, said.err
    value: dict[str, Any] = said.json
    return value


# --- asking ---------------------------------------------------------------------------------------


def test_tasks_lists_what_can_be_asked_for() -> None:
    listed = engine("tasks", "--json").json
    assert {"train", "attack", "export", "import"} <= {entry["kind"] for entry in listed}
    text = engine("tasks").out
    assert all(entry["kind"] in text and entry["help"] in text for entry in listed)


@pytest.mark.parametrize("kind", ["train", "attack", "export", "import"])
def test_describe_prints_a_whole_json_schema(kind: str) -> None:
    schema = engine("describe", kind).json
    assert schema["properties"]["kind"]["const"] == kind
    assert schema["additionalProperties"] is False
    assert all(field.get("title") for field in schema["properties"].values())

    def refs(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(refs, value.values()))
        return set().union(*map(refs, value)) if isinstance(value, list) else set()

    assert refs(schema) <= {f"#/$defs/{name}" for name in schema.get("$defs", {})}


def test_describe_prints_a_table_of_any_kind() -> None:
    text = engine("describe", "pgd").out
    assert "Paper: Madry et al. 2018" in text
    assert "`attack` of attack" in " ".join(text.split())
    assert "`attacks` of evaluate" in " ".join(text.split())
    rows = {line.split()[0]: line for line in text.splitlines() if line and line[0] != " "}
    assert set(PGD.model_fields) - {"kind"} <= set(rows)
    assert re.match(r"step_size +number > 0, <= 1000 +0\.01 +Step size\.", rows["step_size"])
    assert re.match(r"norm +linf, l2, l1 +\"linf\" +Norm\.", rows["norm"])
    assert "Tramer and Boneh 2019" in " ".join(text.split())
    assert engine("describe", "pgd", "--json").json == PGD.model_json_schema()
    both = engine("describe", "vat", "--json").json
    assert [schema["title"] for schema in both] == ["VirtualAdversarial", "VAT"]
    assert engine("describe", "vat").out.count("Paper: ") == 2
    refused(engine("describe", "pgdd"), "there is no kind 'pgdd'", "did you mean 'pgd'?")


def test_a_task_is_told_as_a_table_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "120")
    for more, begins in ((), "attack: Search for"), (("--json",), "{"):
        with redirect_stdout(Terminal()) as out:
            assert main(["describe", "attack", *more]) == 0
        assert out.getvalue().startswith(begins)
        assert more or 100 < max(map(len, out.getvalue().splitlines())) <= 120


@pytest.mark.parametrize("kind", sorted(task_kinds()))
def test_every_task_is_told_as_a_table_too(kind: str) -> None:
    said = engine("describe", kind, "--text")
    assert said.code == 0
    firsts = {line.split(" ")[0] for line in said.out.splitlines()}
    assert set(task_kinds()[kind].model_fields) - {"kind"} <= firsts
    assert set(task_kinds()[kind].summary_help) <= firsts
    assert "seed" in firsts
    assert "bench.threads" in firsts
    assert max(map(len, said.out.splitlines())) <= 100


def test_the_flags_are_told_from_the_code_s_own_list() -> None:
    text = " ".join(engine("describe", "flags").out.split())
    for name, meaning in FLAGS.items():
        assert f"{name} {meaning.title}. {meaning.means}" in text
        assert meaning.advice in text
    assert set(engine("describe", "flags", "--json").json) == set(FLAGS)


def test_every_figure_of_a_summary_is_explained(made: SimpleNamespace, tmp_path: Path) -> None:
    more = """
    attacks = [{kind = "pgd", steps = 2}, {kind = "fgsm", norm = "l2", eps = 1.0}]
    certify = {kind = "ibp", radii = [0.1], samples = 8, steps = 1}
    require = {clean_accuracy = ">= 1.0"}
    samples = 16\nchecked = 4\ncurve = 2\nshow = 0"""
    transfer = 'surrogate = "plain"\nattack = {kind = "ddn", steps = 2}\nsamples = 8\nshow = 0'
    named = (
        f'name = "judged"\nkind = "evaluate"\nmodel = "plain"{more}',
        f'name = "moved"\nkind = "attack"\nmodel = "plain"\n{transfer}',
        'name = "median"\nkind = "transform"\nmodel = "plain"',
        'name = "set"\nkind = "export_set"\nsource = "broken"',
    )
    file = recipe(tmp_path / "all.toml", tasks(*named))
    said = engine("run", file, "--workspace", made.w)
    assert said.code == 3, said.err + said.out
    (line,) = [line for line in said.out.splitlines() if line.startswith("moved: done")]
    assert "median_norm" in line
    assert "robust_accuracy" not in line
    kinds = set()
    for run in engine("runs", "--workspace", made.w, "--json").json:
        info = shown(run["id"], made.w)
        assert set(info["summary"]) <= set(task_kinds()[run["kind"]].summary_help), run
        kinds.add(run["kind"])
    assert {"train", "attack", "evaluate", "export", "export_set", "transform"} <= kinds


def test_the_schema_of_train_holds_every_family() -> None:
    defined = engine("describe", "train").json["$defs"]
    assert {"Digits", "Folder", "CNN", "Module", "AdamW", "Cosine", "Mixed", "PGD"} <= set(defined)


def test_runs_lists_exactly_the_five_fields(made: SimpleNamespace) -> None:
    runs = engine("runs", "--workspace", made.w, "--json").json
    assert all(set(run) == {"id", "name", "kind", "status", "created"} for run in runs)
    assert [run["name"] for run in runs][-2:] == ["broken", "plain"]  # the newest first
    text = engine("runs", "--workspace", made.w).out
    assert all(run["id"] in text for run in runs)
    assert len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +[\d.]+ s ", text)) == len(runs)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (("--noise-multiplier", "4", "--steps", "10000"), {"epsilon": 0.9470}),
        (("--epsilon", "0.947", "--steps", "10000"), {"noise_multiplier": 4.0}),
        (("--epsilon", "0.947", "--noise-multiplier", "4"), {"steps": 10_000}),
    ],
)
def test_epsilon_tells_the_third_of_three(given: tuple[str, ...], found: dict[str, float]) -> None:
    asked = ("epsilon", "--sample-rate", "256/25600", *given)
    told = engine(*asked, "--json").json
    assert told["delta"] == 1e-5
    for name, value in found.items():
        assert told[name] == pytest.approx(value, rel=1e-3)
    assert told["epsilon"] <= 0.947
    assert told["epsilon_prv_lower"] < told["epsilon"] < told["epsilon_prv"]
    assert told["epsilon_rdp"] == pytest.approx(1.0355, rel=1e-3)
    text = engine(*asked).out
    assert f"{told['epsilon']:.4f} at delta 1e-05 (PLD)" in text
    assert all(f"epsilon by {name} " in text for name in ("RDP", "PRV"))


def test_epsilon_refuses_what_makes_no_sense() -> None:
    noise, steps = ("--noise-multiplier", "1"), ("--steps", "10")
    for more in ((), noise, (*noise, *steps, "--epsilon", "1")):
        refused(engine("epsilon", "--sample-rate", "0.1", *more), "give two of", "the third")
    for rate in ("a tenth", "1/0", "1/2/3"):
        refused(engine("epsilon", "--sample-rate", rate, *noise, *steps), "is no number")
    refused(engine("epsilon", "--sample-rate", "2", *noise, *steps), "a sample rate of 2.0")
    refused(
        engine("epsilon", "--sample-rate", "0.1", *noise, *steps, "--delta", "1"), "a delta of 1.0"
    )


def test_the_version_is_told() -> None:
    from importlib.metadata import version

    assert engine("--version").out == f"engine {version('crucible-workbench')}\n"


def test_a_workspace_that_is_not_there_has_no_runs_and_is_not_made(tmp_path: Path) -> None:
    said = engine("runs", "--workspace", tmp_path / "none", "--json")
    assert (said.code, said.json) == (0, [])
    assert not (tmp_path / "none").exists()


def test_show_takes_an_id_a_unique_prefix_and_a_name(made: SimpleNamespace) -> None:
    run = shown("plain", made.w)
    assert run["status"] == "done"
    assert run["spec"]["model"]["width"] == 8
    assert 0.0 <= run["summary"]["clean_accuracy"] <= 1.0
    assert run["artifacts"][0]["name"] == "model"
    assert re.fullmatch("[0-9a-f]{64}", run["weights_sha256"])
    assert shown(run["id"], made.w) == shown(run["id"][:-1], made.w) == run

    broken = shown("broken", made.w)
    assert broken["lineage"] == {"model": run["id"]}
    assert 0.0 <= broken["summary"]["robust_accuracy"] <= 1.0
    assert "weights_sha256" not in broken

    text = engine("show", "plain", "--workspace", made.w).out
    assert run["id"] in text
    assert "summary.clean_accuracy" in text
    assert re.search(r"^spec\.model\.width +8$", text, re.MULTILINE)
    assert re.search(r"^duration +[\d.]+ s$", text, re.MULTILINE)
    assert all(f"\n{word} " in text for word in ("created", "started", "ended"))


def test_a_name_means_the_newest_run_of_it(tmp_path: Path) -> None:
    w = Workspace(tmp_path)
    spec = {"kind": "train"}
    old, new = w.create(spec, name="same"), w.create(spec, name="same")
    assert shown("same", tmp_path)["id"] == new.id
    refused(engine("show", "20", "--workspace", tmp_path), "is the beginning of 2 runs")
    assert shown(old.id, tmp_path)["id"] == old.id


# --- running --------------------------------------------------------------------------------------


def test_run_prints_one_json_object_an_event(made: SimpleNamespace) -> None:
    lines = made.ran.lines
    assert all("run" in line and "event" in line for line in lines)
    for run in dict.fromkeys(line["run"] for line in lines):
        events = [line["event"] for line in lines if line["run"] == run]
        assert events[:2] == ["queued", "started"]
        assert events[-1] == "finished"
    said = {line["event"] for line in lines}
    assert {"scalars", "progress", "saved", "table"} <= said


def test_a_number_that_is_none_is_null_in_json() -> None:
    from engine.commands import _Lines
    from engine.events import Scalars

    run = SimpleNamespace(id="x")
    with redirect_stdout(io.StringIO()) as out:
        _Lines().hear(run, [Scalars(1, {"a": float("nan"), "名": float("inf")})])  # type: ignore[arg-type]
    assert "NaN" not in out.getvalue()
    assert json.loads(out.getvalue())["values"] == {"a": None, "名": None}


def test_the_recipe_of_the_issue_runs_as_it_is_written(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", ISSUE)
    quick = ("plain.epochs=1", "hardened.epochs=1", "broken.samples=20")
    said = engine(
        "run", file, "--workspace", tmp_path / "w", *(a for q in quick for a in ("--set", q))
    )
    assert said.code == 0, said.err
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f]", said.out
    )  # no terminal, no control characters
    for name in ("plain", "broken", "hardened"):
        assert f"{name}: done" in said.out
    plain, hardened = shown("plain", tmp_path / "w"), shown("hardened", tmp_path / "w")
    assert plain["spec"]["seed"] == 7
    assert hardened["lineage"] == {"init": plain["id"]}
    assert hardened["weights_sha256"] != plain["weights_sha256"]
    assert shown("broken", tmp_path / "w")["summary"]["samples"] == 20


def test_what_depends_on_a_failure_is_skipped_and_the_rest_is_run(tmp_path: Path) -> None:
    model = 'model = {kind = "mlp", width = 32, depth = 12, activation = "leaky_relu"}'
    hot = f'name = "hot"\nkind = "train"\n{model}\noptimizer = {{kind = "sgd", lr = 1000.0}}'
    text = tasks(hot, attack("after", model="hot"), train("other"))
    said = engine("run", recipe(tmp_path / "r.toml", text), "--workspace", tmp_path, "--json")
    assert said.code == 1, said.err
    runs = engine("runs", "--workspace", tmp_path, "--json").json
    assert {run["name"]: run["status"] for run in runs} == {
        "hot": "failed",
        "after": "skipped",
        "other": "done",
    }
    by_event = {line["event"]: line for line in said.lines}
    assert "is not a finite number at step" in by_event["failed"]["error"]
    assert "which is failed" in by_event["skipped"]["error"]
    again = engine("resume", "hot", "--workspace", tmp_path)
    refused(again, "after: skipped", "which is failed", code=1)
    refused(engine("resume", "other", "--workspace", tmp_path), "is done", "nothing to go on with")


def test_resume_goes_on_with_the_recipe(tmp_path: Path) -> None:
    w = tmp_path / "w"
    file = recipe(tmp_path / "r.toml", tasks(train(epochs=150), attack(), train("last")))
    child = process("run", file, "--workspace", w, "--json")
    assert child.stdout is not None
    first(iter(child.stdout.readline, ""), "scalars")
    os.killpg(child.pid, signal.SIGINT)  # as the terminal does
    said = ended(child)
    assert said.code == 130
    assert said.err == ""
    statuses = {run["name"]: run["status"] for run in engine_runs(w)}
    assert statuses == {"plain": "cancelled", "broken": "skipped", "last": "skipped"}

    resumed = engine("resume", "plain", "--workspace", w)
    assert resumed.code == 0, resumed.err
    assert {run["status"] for run in engine_runs(w)} == {"done"}
    assert shown("plain", w)["summary"]["epochs"] == 150
    refused(engine("resume", "last", "--workspace", w), "is done", "nothing to go on with")


def engine_runs(w: Path) -> list[dict[str, Any]]:
    said = engine("runs", "--workspace", w, "--json")
    assert said.code == 0, said.err
    runs: list[dict[str, Any]] = said.json
    return runs


def test_of_two_that_resume_a_run_the_second_is_refused(tmp_path: Path) -> None:
    w = Workspace(tmp_path)
    run = w.create({"kind": "train"}, name="mine")  # held by this process
    said = ended(process("resume", run.id, "--workspace", tmp_path))
    refused(said, f"run {run.id} is being run by process {os.getpid()}")
    assert Run(run.folder).info().status == "queued"


def test_a_cancelled_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    info = RunInfo("20261120-1", "plain", "train", "cancelled", "", {})
    view = Screen(Path("a w"))
    view.begin(info, 1, 1)
    view.end(info)
    view.close()
    ended, hint = capsys.readouterr().out.splitlines()
    assert ended.startswith("plain: cancelled ")
    assert hint == "go on with: engine resume 20261120-1 --workspace 'a w'"


def test_a_run_whose_input_is_not_finished_says_what_to_resume_first(tmp_path: Path) -> None:
    w = Workspace(tmp_path)
    plain = w.create({"kind": "train"}, name="plain")
    broken = w.create({"kind": "attack"}, name="broken", lineage={"model": plain.id})
    plain.set_state(status="interrupted")
    broken.set_state(status="skipped")
    for run in (plain, broken):
        run.lock.release()
    said = engine("resume", "broken", "--workspace", tmp_path)
    refused(said, "'plain'", "is interrupted", f"engine resume {plain.id} --workspace {tmp_path}")


def test_a_run_without_a_checkpoint_says_that_it_begins_again(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train(), attack()))
    assert engine("run", file, "--workspace", tmp_path / "w").code == 0
    run = Workspace(tmp_path / "w").find("broken")
    run.set_state(status="interrupted")
    said = engine("resume", "broken", "--workspace", tmp_path / "w")
    assert said.code == 0, said.err
    assert "there is no checkpoint to go on from: it begins again" in said.out


def test_the_time_of_a_run_is_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr("engine.screen.time.monotonic", lambda: clock[0])
    info = RunInfo("20261120-1", "plain", "train", "done", "", {})
    view = Screen()
    view.begin(info, 1, 1)
    clock[0] += 8.0  # torch is imported
    view.hear(SimpleNamespace(id="x"), [Started({}, 0)])  # type: ignore[arg-type]
    clock[0] += 1.25
    view.end(info)
    view.close()
    assert "(1.2 s)" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["plain", "[2/4] 一个很长很长很长很长很长的名字-of-a-run"])
def test_the_line_holds_what_fits_and_nothing_is_cut_off(width: int, name: str) -> None:
    from rich.cells import cell_len

    scalars = {
        "train/loss": 0.12345,
        "validation/loss": 0.2,
        "validation/accuracy": 0.9712,
        "train/gradient_norm": 3.0,
    }
    line = compose(name, Progress(546, 1080, "steps"), 106.2, scalars, width)
    assert cell_len(line) <= width
    assert line.startswith(name[:9])
    for part in ("━", "546/1,080 steps", "0:05 left", "106/s"):
        assert part in line
    fits = {60: 0, 80: 1, 120: 3}[width] if name == "plain" else {60: 0, 80: 0, 120: 1}[width]
    for part in ("loss 0.1235", "val. accuracy 97.1 %", "val. loss 0.2")[:fits]:
        assert part in line
    assert "gradient" not in line


def test_the_pace_counts_from_where_a_run_went_on() -> None:
    pace = Pace()
    assert pace.rate(Progress(500, 1000, "steps"), 10.0) is None
    assert pace.rate(Progress(520, 1000, "steps"), 12.0) == 10.0
    assert pace.rate(Progress(5, 100, "images"), 13.0) is None


def test_a_run_remembers_where_its_data_lay(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train(), attack()))
    options = ("--workspace", tmp_path, "--data-root", tmp_path / "数据 d")
    assert engine("run", file, *options).code == 0
    for name in ("plain", "broken"):
        assert shown(name, tmp_path)["data_root"] == str(tmp_path / "数据 d")


# --- stopping -------------------------------------------------------------------------------------


def test_ctrl_c_at_any_moment_leaves_runs_that_can_be_read_and_resumed(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train(epochs=1_000_000), attack()))
    # From the first moment of ours to well into the training.
    groups = ((0.0, 0.1, 0.4), (1.0, 2.5, 6.0))
    for delays in groups:
        children = [
            threading.Thread(target=interrupted, args=(file, tmp_path / f"w{d}", d)) for d in delays
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
    for delay in (delay for delays in groups for delay in delays):
        said = json.loads((tmp_path / f"w{delay}.json").read_text())
        assert said == {"code": 130, "err": ""}, f"after {delay} s"
        for run in engine_runs(tmp_path / f"w{delay}"):
            assert run["status"] in ("cancelled", "skipped"), f"after {delay} s"
            left = Run(tmp_path / f"w{delay}" / "runs" / run["id"])
            assert left.lock.acquire()
            left.lock.release()


def interrupted(file: Path, w: Path, delay: float) -> None:
    """Run, Ctrl-C `delay` seconds after our first line, note how it ended beside `w`."""
    child = process("run", file, "--workspace", w)
    maps = Path(f"/proc/{child.pid}/maps")
    wait_until(lambda: "_pydantic_core" in maps.read_text())  # ours is being imported
    threading.Event().wait(delay)
    os.killpg(child.pid, signal.SIGINT)
    said = ended(child)
    w.with_name(f"{w.name}.json").write_text(json.dumps({"code": said.code, "err": said.err}))


def test_the_second_ctrl_c_kills_what_does_not_yield(tmp_path: Path) -> None:
    module = tmp_path / "stuck.py"
    module.write_text(
        "import sys, threading\n"
        "def make():\n"
        "    print('stuck', file=sys.stderr, flush=True)\n"
        "    threading.Event().wait()\n"
    )
    text = 'name = "stuck"\nkind = "train"\nmodel = {kind = "module", factory = "stuck.py:make"}'
    file = recipe(tmp_path / "r.toml", tasks(text))
    child = process("run", file, "--workspace", tmp_path, "--trust-code")
    assert child.stderr is not None
    assert child.stderr.readline() == "stuck\n"
    os.killpg(child.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    os.killpg(child.pid, signal.SIGINT)
    said = ended(child)
    assert (said.code, said.err) == (130, "")
    assert engine_runs(tmp_path)[0]["status"] == "interrupted"


def test_ctrl_c_while_weights_are_converted_cancels(tmp_path: Path) -> None:
    """The process that converts is in the terminal's foreground too, and is not to hear of it."""
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    options = ("--set", "data.kind=digits", "--set", "model.kind=mlp")
    child = process("import", tmp_path / "w.pt", "--workspace", tmp_path, *options)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    wait_until(lambda: children.read_text() != "")
    os.killpg(child.pid, signal.SIGINT)
    said = ended(child)
    assert (said.code, said.err) == (130, "")
    assert engine_runs(tmp_path)[0]["status"] == "cancelled"


def test_a_closed_terminal_interrupts_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train(epochs=1_000_000)))
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = process(
        "run",
        file,
        "--workspace",
        tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,
        env={"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    while b"accuracy" not in seen:
        seen += os.read(ours, 4096)
    assert re.search(rb"steps .*/s", seen)  # a bar, with its rate
    os.close(ours)  # the kernel sends SIGHUP; what is printed from now on fails
    assert child.wait(60) == 130
    (run,) = engine_runs(tmp_path)
    assert run["status"] == "interrupted"
    assert Run(tmp_path / "runs" / run["id"]).lock.acquire()


def test_nohup_is_respected(tmp_path: Path) -> None:
    from engine.stopping import Stop

    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked == "interrupted"
    finally:
        signal.signal(signal.SIGHUP, old)


@pytest.mark.parametrize("flag", ["--json", "--trust-code"])
def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path, flag: str) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train(epochs=20)))
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -0`
    err = io.StringIO()
    with os.fdopen(writing, "w") as out, redirect_stdout(out), redirect_stderr(err):
        assert main(["run", str(file), "--workspace", str(tmp_path), flag]) == 0
    assert err.getvalue() == ""
    assert engine_runs(tmp_path)[0]["status"] == "done"


def test_a_reader_of_a_list_that_goes_away_is_no_error(made: SimpleNamespace) -> None:
    reading, writing = os.pipe()
    child = process("show", "plain", "--workspace", made.w, stdout=writing)
    os.close(writing)
    os.close(reading)
    said = ended(child)
    assert (said.code, said.err) == (0, "")


# --- keys and files -------------------------------------------------------------------------------


def test_keygen_writes_for_its_owner_alone_and_never_over_a_key(tmp_path: Path) -> None:
    key = tmp_path / "key.txt"
    said = engine("keygen", "--to", key)
    assert said.code == 0
    assert said.out.startswith("age1")
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert said.out.strip() in before.decode()
    refused(engine("keygen", "--to", key), "exists already and is not overwritten")
    assert key.read_bytes() == before


def model_of(made: SimpleNamespace) -> bytes:
    run = shown("plain", made.w)
    return (made.w / "runs" / run["id"] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["identity", "passphrase"])
def test_what_is_exported_opens_bit_equal(made: SimpleNamespace, tmp_path: Path, how: str) -> None:
    source = {"identity": made.by_key, "passphrase": made.by_passphrase}[how]
    option = ("--identity", made.key) if how == "identity" else ("--passphrase-file", made.secret)
    said = engine("open", source, *option, "--to", tmp_path / "m.safetensors")
    assert said.code == 0, said.err
    assert (tmp_path / "m.safetensors").read_bytes() == model_of(made)
    assert shown("plain", made.w)["weights_sha256"] in said.out


def test_export_shows_the_command_that_opens_it(made: SimpleNamespace) -> None:
    by_key, by_passphrase = made.exported
    assert "age -d -i YOUR-KEY.txt" in by_key.out
    assert "Encrypted to one recipient. With the secret key in YOUR-KEY.txt, this" in by_key.out
    assert f"age -d -o ./phrase.safetensors {made.by_passphrase}" in by_passphrase.out
    assert "correct horse" not in by_passphrase.out + by_passphrase.err
    for file in made.w.rglob("*"):
        assert not file.is_file() or b"correct horse" not in file.read_bytes(), file


def test_a_recipe_attacks_an_exported_file(made: SimpleNamespace, tmp_path: Path) -> None:
    by_key = recipe(tmp_path / "k.toml", tasks(attack(model=str(made.by_key))))
    said = engine("run", by_key, "--workspace", tmp_path, "--identity", made.key)
    assert said.code == 0, said.err
    beside = tmp_path / made.by_passphrase.name  # named from the recipe's own folder
    beside.write_bytes(made.by_passphrase.read_bytes())
    by_phrase = recipe(tmp_path / "p.toml", tasks(attack("second", model=beside.name)))
    said = engine("run", by_phrase, "--workspace", tmp_path, "--passphrase-file", made.secret)
    assert said.code == 0, said.err
    first_one, second = (shown(name, tmp_path) for name in ("broken", "second"))
    assert first_one["summary"]["robust_accuracy"] == second["summary"]["robust_accuracy"]
    assert first_one["lineage"] == {}


def test_an_exported_file_is_the_start_of_a_training(made: SimpleNamespace, tmp_path: Path) -> None:
    text = f'name = "on"\nkind = "train"\ninit = "{made.by_key}"\nepochs = 1'
    file = recipe(tmp_path / "r.toml", tasks(text))
    said = engine("run", file, "--workspace", tmp_path, "--identity", made.key)
    assert said.code == 0, said.err


def test_an_exported_file_is_exported_again(made: SimpleNamespace, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors.age"
    options = ("--recipient", made.recipient, "--passphrase-file", made.secret)
    said = engine("export", made.by_passphrase, "--to", again, *options, "--workspace", tmp_path)
    assert said.code == 0, said.err
    opened = tmp_path / "m.safetensors"
    assert engine("open", again, "--identity", made.key, "--to", opened).code == 0
    assert opened.read_bytes() == model_of(made)


@pytest.fixture
def own_model(tmp_path: Path) -> Callable[[str], Path]:
    """A file of a person's own, with the function `make`, and its weights in either form."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, classes):\n"
        "    c, h, w = input_shape\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))\n"
    )
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).state_dict()

    def write(form: str) -> Path:
        file = tmp_path / f"weights.{form}"
        if form == "pt":
            torch.save(state, file)
        else:
            safetensors.torch.save_file(state, file)
        return file

    return write


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_import_takes_a_file_and_its_function(
    own_model: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    weights = own_model(form)
    model = f'model={{kind="module", factory="{tmp_path / "mine.py"}:make"}}'
    common = ("import", weights, "--workspace", tmp_path, "--set", model)
    options = ("--set", "data.kind=digits", "--set", "mean=[0.5]", "--set", "std=[0.25]")
    said = engine(*common, *options, "--name", "mine", "--trust-code")
    assert said.code == 0, said.err
    run = shown("mine", tmp_path)
    assert 0.0 <= run["summary"]["clean_accuracy"] <= 1.0
    file = recipe(tmp_path / "r.toml", tasks(attack(model="mine")))
    assert engine("run", file, "--workspace", tmp_path, "--trust-code").code == 0


def test_import_takes_an_architecture_of_the_zoo(made: SimpleNamespace, tmp_path: Path) -> None:
    run = shown("plain", made.w)
    state = safetensors.torch.load_file(made.w / "runs" / run["id"] / "model.safetensors")
    safetensors.torch.save_file(state, tmp_path / "foreign.safetensors")  # without our card
    options = ("--workspace", tmp_path, "--set", 'data={kind="digits"}')
    said = engine(
        "import",
        tmp_path / "foreign.safetensors",
        *options,
        "--set",
        'model={kind="mlp", width=8, depth=1}',
    )
    assert said.code == 0, said.err
    imported = shown("imported", tmp_path)
    assert imported["weights_sha256"] == run["weights_sha256"]
    assert imported["summary"]["clean_accuracy"] == run["summary"]["clean_accuracy"]


def test_import_takes_an_exported_file_at_its_word(made: SimpleNamespace, tmp_path: Path) -> None:
    options = ("--workspace", tmp_path, "--identity", made.key)
    said = engine("import", made.by_key, *options)
    assert said.code == 0, said.err
    same = shown("plain", made.w)["weights_sha256"]
    assert shown("imported", tmp_path)["weights_sha256"] == same
