from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from engine.attacks import PGD
from engine.attacks.running import TARGETED, run_attack
from engine.attacks.spec import FMN, Attack, DeepFool, Patch, Shift, Spatial
from engine.attacks.tally import wilson
from engine.data import Dataset
from engine.errors import BadInput, Cancelled, SpecError
from engine.events import Event, Images, Note, Progress, Saved, Table
from engine.models import load_model
from engine.robustness.spec import Evaluate, IntervalBounds, Require
from engine.robustness.verdict import Standing, unmet_of
from engine.runner import Runner
from engine.store import Workspace
from engine.task import Summary, parse_task
from tests.engine.cli import engine
from tests.robustness.zoo import bench_in, saved

FIRST = PGD(eps=0.1, steps=10, step_size=0.02)
SECOND = FIRST.model_copy(update={"loss": "margin"})


def small(model: Path, **values: Any) -> Evaluate:
    quick = {"samples": 60, "curve": 0, "checked": 0, "corruptions": False, "noise": False}
    return Evaluate(model=str(model), **{"attacks": (FIRST, SECOND), **quick, **values})


def pull(steps: Any, stop_at: int = -1) -> tuple[list[Event], Summary]:
    events: list[Event] = []
    while True:
        try:
            events.append(steps.throw(Cancelled()) if len(events) == stop_at else next(steps))
        except StopIteration as end:
            return events, end.value


def tables(events: list[Event]) -> dict[str, Table]:
    return {event.name: event for event in events if isinstance(event, Table)}


def test_one_attack_says_what_the_attack_task_says(model_file: Path, tmp_path: Path) -> None:
    _, ours = pull(small(model_file, attacks=(FIRST,)).run(bench_in(tmp_path / "a")))
    task = Attack(model=str(model_file), attack=FIRST, samples=60, show=0)
    _, theirs = pull(run_attack(task, bench_in(tmp_path / "b")))
    for name in ("clean_accuracy", "robust_accuracy", "robust_accuracy_interval", "broken"):
        assert ours[name] == theirs[name]
    assert ours["robust_accuracy_by_attack"] == {"pgd": theirs["robust_accuracy"]}


def test_the_worst_case_of_all(model_file: Path, tmp_path: Path) -> None:
    bench = bench_in(tmp_path / "a")
    spec = small(model_file, curve=8, checked=20, queries=30, corruptions=True, noise=True)
    events, summary = pull(spec.run(bench))
    _, alone = pull(small(model_file, every=True).run(bench_in(tmp_path / "b")))
    each = alone["robust_accuracy_by_attack"]
    assert list(each) == ["pgd", "pgd-2"]
    # Who is attacked again makes no difference to who is robust after the attacks.
    after = summary["robust_accuracy_by_attack"]
    assert after["pgd-2"] == alone["robust_accuracy"] <= min(each.values())
    assert after["pgd-2"] - summary.get("broken_by_curve", 0) / 60 == pytest.approx(
        summary["robust_accuracy"]
    )
    assert summary["by_attack"] == "after that attack and all before it"
    assert alone["by_attack"] == "after that attack alone"
    robust = round(summary["robust_accuracy"] * 60)
    assert summary["robust_accuracy_interval"] == list(wilson(robust, 60))
    assert 0 < summary["max_norm"]["linf"] <= 0.1
    assert summary["flags"] == []
    assert "unmet" not in summary

    found = tables(events)
    assert {"attacks", "flags", "curve", "by_class", "confusion"} < found.keys()
    assert {"corruptions", "input_noise", "weight_noise"} < found.keys()
    shares = [row[1] for row in found["curve"].rows]
    assert len(shares) == 9
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == summary["clean_accuracy"]
    at_eps = next(row[1] for row in found["curve"].rows if row[0] == pytest.approx(0.1))
    assert at_eps == summary["robust_accuracy"]
    assert summary["curve_runs"] <= 3
    confusion = torch.tensor([row[1:] for row in found["confusion"].rows])
    assert int(confusion.sum()) == 60
    assert int(confusion.diagonal().sum()) == robust
    assert sum(row[1] for row in found["by_class"].rows) == 60
    assert len(found["corruptions"].rows) == 14

    report = json.loads((bench.folder / "report.json").read_text())
    assert report["summary"] == json.loads(json.dumps(summary))
    assert report["attacks"][1]["settings"]["loss"] == "margin"
    assert report["seed"] == 0
    assert "torch" in report["environment"]["versions"]
    kept = safetensors.torch.load_file(bench.folder / "adversarial.safetensors")
    assert int(kept["success"].sum()) == summary["broken"]
    size = (kept["adversarial"] - kept["clean"]).flatten(1).abs().amax(1)
    assert torch.allclose(size.double(), kept["norm"], atol=1e-6)
    assert [event.name for event in events if isinstance(event, Saved)] == ["report", "adversarial"]


def test_a_search_for_the_smallest_perturbation_needs_a_radius(
    model_file: Path, tmp_path: Path
) -> None:
    alone = {"kind": "evaluate", "model": "m", "attacks": [{"kind": "deepfool", "norm": "linf"}]}
    with pytest.raises(SpecError, match="say with eps at which one it counts"):
        parse_task(alone)
    both = small(model_file, attacks=(FIRST, DeepFool(norm="linf", steps=20)))
    events, summary = pull(both.run(bench_in(tmp_path)))
    (row,) = tables(events)["smallest_perturbations"].rows
    # It is run on all that are correct, not on those alone that PGD left.
    assert row[:3] == ("deepfool", "linf", summary["correct"])
    quantiles = [value for value in row[4:] if value is not None]
    assert quantiles == sorted(quantiles)
    after = summary["robust_accuracy_by_attack"]
    assert after["deepfool"] <= after["pgd"]


def test_what_the_curve_breaks_inside_the_radius_counts(model_file: Path, tmp_path: Path) -> None:
    """One weak attack, and a curve that finds more inside the same ball: every example that was
    verified there is part of the worst case, of its images, and of what is judged."""
    weak = PGD(eps=0.15, steps=1, step_size=0.15, random_start=False)
    need = Require(robust_accuracy=">= 0.01", despite_flags=True)
    spec = small(model_file, attacks=(weak,), curve=4, require=need)
    bench = bench_in(tmp_path / "a")
    events, summary = pull(spec.run(bench))
    _, without = pull(small(model_file, attacks=(weak,)).run(bench_in(tmp_path / "b")))
    more = summary["broken_by_curve"]
    assert more > 3
    assert "broken_by_curve" not in without
    assert summary["broken"] == without["broken"] + more
    by_attack = {"pgd": without["robust_accuracy"]}
    assert summary["robust_accuracy_by_attack"] == without["robust_accuracy_by_attack"] == by_attack
    assert summary["robust_accuracy"] == pytest.approx(without["robust_accuracy"] - more / 60)

    found = tables(events)
    at = {row[0]: row[1] for row in found["curve"].rows}
    assert at[0.15] == summary["robust_accuracy"]
    # The attack's own row stays what the attack did.
    assert found["attacks"].rows[0][4:6] == (without["broken"], without["robust_accuracy"])
    robust = sum(row[1] * row[3] for row in found["by_class"].rows)
    assert robust == pytest.approx(60 * summary["robust_accuracy"])
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(text.startswith(f"{more} samples that withstood the attacks") for text in notes)

    (worst,) = (e for e in events if isinstance(e, Images) and e.name == "worst_adversarial")
    by = [caption["attack"] for caption in worst.captions]
    assert (by.count("curve"), by.count("pgd")) == (more, without["broken"])

    kept = safetensors.torch.load_file(bench.folder / "adversarial.safetensors")
    hit = kept["success"]
    assert int(hit.sum()) == summary["broken"]
    size = (kept["adversarial"] - kept["clean"]).flatten(1).abs().amax(1)
    assert float(size.max()) <= 0.15 + 1e-6
    assert summary["max_norm"]["linf"] == pytest.approx(float(size.max()), abs=1e-6)
    with torch.no_grad():
        taken = load_model(str(model_file), bench).module(kept["adversarial"]).argmax(1)
    assert bool((taken != kept["labels"])[hit].all())
    assert torch.equal(taken[hit], kept["predictions"][hit])
    low = wilson(round(summary["robust_accuracy"] * 60), 60)[0]
    assert bool(summary.get("unmet")) == (low < 0.01)


def test_a_curve_that_is_stopped_keeps_what_it_broke(model_file: Path, tmp_path: Path) -> None:
    weak = PGD(eps=0.15, steps=1, step_size=0.15, random_start=False)
    spec = small(model_file, attacks=(weak,), curve=4, batch_size=20)
    _, whole = pull(spec.run(bench_in(tmp_path / "a")))
    steps = spec.run(bench_in(tmp_path / "b"))
    # After the first of three batches of the curve: nothing else counts "samples" here.
    while not (isinstance(event := next(steps), Progress) and event.unit == "samples"):
        pass
    while not (isinstance(event, Progress) and event.done == 20):
        event = next(steps)
    steps.throw(Cancelled())
    _, partial = pull(steps)
    assert partial["partial"]
    assert 0 < partial["broken_by_curve"] < whole["broken_by_curve"]
    assert (
        partial["broken"]
        == whole["broken"] - whole["broken_by_curve"] + (partial["broken_by_curve"])
    )


@pytest.mark.parametrize(
    "attacks",
    [
        [{"kind": "pgd", "eps": 0}],
        [{"kind": "pgd", "eps": 0.0}, {"kind": "deepfool", "norm": "linf"}],
        [{"kind": "noise", "eps": 0}, {"kind": "fgsm", "norm": "l2", "eps": 0}],
    ],
)
def test_attacks_that_can_change_nothing_are_refused(attacks: list[dict[str, Any]]) -> None:
    with pytest.raises(SpecError, match="none of them can change anything, and the robust accur"):
        parse_task({"kind": "evaluate", "model": "m", "attacks": attacks})
    parse_task({"kind": "evaluate", "model": "m", "attacks": [*attacks, {"kind": "pgd"}]})


def test_norms_that_the_checks_do_not_know_are_named(model_file: Path, tmp_path: Path) -> None:
    attacks = (PGD(eps=0.0), FMN(norm="l0", eps=3.0, steps=5), Spatial())
    events, summary = pull(small(model_file, attacks=attacks).run(bench_in(tmp_path)))
    assert summary["unchecked"][-1] == (
        "The checks know no attack in free, l0: they looked at a ball of linf of 0.0314."
    )
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(text.startswith("epsilon is 0: pgd can change nothing") for text in notes)


def test_a_weak_attack_does_not_hide_behind_one_in_another_norm(
    model_file: Path, tmp_path: Path
) -> None:
    sound = PGD(norm="l2", eps=0.3, steps=20, step_size=0.05)
    weak = PGD(eps=0.1, steps=1, step_size=1e-4, random_start=False)
    for folder, attacks in (("a", (sound, weak)), ("b", (weak, sound))):
        spec = small(model_file, attacks=attacks, checked=60, queries=30)
        events, summary = pull(spec.run(bench_in(tmp_path / folder)))
        assert summary["flags"] == ["weak_attacks"]
        (flag,) = tables(events)["flags"].rows
        assert any("within 0.1 in linf" in str(value) for value in flag)
        assert summary["broken_by_checks"] > 0
        assert summary["max_norm"]["linf"] == pytest.approx(0.1, abs=1e-6)


def test_a_targeted_attack_says_what_counts(model_file: Path, tmp_path: Path) -> None:
    aimed = FIRST.model_copy(update={"targeted": True})
    bench = bench_in(tmp_path)
    events, _ = pull(small(model_file, attacks=(aimed, SECOND), every=True).run(bench))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert TARGETED.format("pgd") in notes
    first, second = json.loads((bench.folder / "report.json").read_text())["attacks"]
    assert first["counts_as_broken"] == "taken for the class that the attack aims at"
    assert second["counts_as_broken"] == "taken for any wrong class"
    assert first["robust_accuracy_alone"] > second["robust_accuracy_alone"]


def test_requirements_are_judged_at_the_lower_end() -> None:
    both = Require(clean_accuracy=">= 0.97", robust_accuracy=">=0.85")

    def standing(clean: int, robust: int, samples: int, *doubts: str) -> dict[str, Standing]:
        return {
            "clean_accuracy": Standing("clean accuracy", clean, samples),
            "robust_accuracy": Standing("robust accuracy", robust, samples, doubts),
            "certified_accuracy": Standing("certified accuracy", 0, samples),
        }

    assert unmet_of(both, standing(990, 880, 1000)) == []
    text = unmet_of(both, standing(99, 88, 100))
    assert len(text) == 2
    assert text[1].startswith("robust accuracy >= 0.85 is required; it is 0.8800 on 100 samples")
    (doubt,) = unmet_of(both, standing(990, 880, 1000, "nobody believes it"))
    assert doubt == "robust accuracy >= 0.85 is required; it is 0.8800, but nobody believes it"


@pytest.mark.parametrize("text", ["0.85", "> 0.85", ">= 85 %", ">= 1.2", "<= 0.5", ">= -1"])
def test_only_lower_bounds_of_fractions_can_be_required(text: str) -> None:
    with pytest.raises(SpecError, match="robust_accuracy"):
        parse_task({"kind": "evaluate", "model": "m", "require": {"robust_accuracy": text}})


def test_a_rejected_run_says_so_first(model_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""[[task]]
name = "judged"
kind = "evaluate"
model = "{model_file}"
samples = 40
curve = 0
checked = 0
corruptions = false
noise = false
attacks = [{{kind = "pgd", eps = 0.3, step_size = 0.05, steps = 10}}]
require = {{robust_accuracy = ">= 0.85"}}
"""
    )
    said = engine("run", recipe, "--workspace", tmp_path / "w")
    assert said.code == 3, said.out + said.err
    first, *_, last = said.out.splitlines()
    assert first.startswith("error: rejected: robust accuracy >= 0.85 is required; it is 0.")
    assert last.startswith("judged: rejected  robust accuracy >= 0.85 is required")
    workspace = Workspace(tmp_path / "w")
    info = workspace.find("judged").info()
    assert info.status == "rejected"
    assert info.summary["unmet"]
    shown = engine("show", "judged", "--workspace", tmp_path / "w").out
    assert shown.splitlines()[0].startswith("rejected: robust accuracy >= 0.85")
    again = Runner(workspace, lambda run, events: None)
    with pytest.raises(BadInput, match="is rejected; start a new one instead"):
        again.run(workspace.find("judged"))


@pytest.mark.timeout(900)
def test_a_cancel_anywhere_keeps_what_was_found(model_file: Path, tmp_path: Path) -> None:
    def spec() -> Evaluate:
        return small(
            model_file,
            samples=30,
            batch_size=10,
            curve=4,
            noise=True,
            require=Require(robust_accuracy=">= 1.0"),
        )

    events, whole = pull(spec().run(bench_in(tmp_path / "whole")))
    begun = next(k for k, event in enumerate(events) if isinstance(event, Table)) + 5
    partial = 0
    for stop in range(begun, len(events), 3):
        folder = tmp_path / str(stop)
        said, summary = pull(spec().run(bench_in(folder)), stop)
        assert summary["robust_accuracy"] >= whole["robust_accuracy"]
        assert (folder / "report.json").is_file()
        errors = [event for event in said if isinstance(event, Note) and event.level == "error"]
        # Nothing is judged by what was found so far.
        assert bool(errors) == ("unmet" in summary) == ("partial" not in summary)
        partial += "partial" in summary
    assert partial > 5


def test_other_seeds_of_the_same_recipe(model_file: Path, data: Dataset, tmp_path: Path) -> None:
    other = saved(tmp_path / "models", data, seed=1)
    spec = small(model_file, also=(str(other), str(model_file)))
    events, summary = pull(spec.run(bench_in(tmp_path / "run")))
    first, second = tables(events)["agreement"].rows
    assert 0.5 < first[2] < 1.0
    assert 0.0 < first[3] < 1.0
    assert second[1:] == (summary["clean_accuracy"], 1.0, 1.0)


def test_faults_in_a_list_of_attacks_have_their_place() -> None:
    wrong: list[dict[str, Any]] = [{"kind": "pgd"}, {"kind": "pgd", "eps": -1}]
    with pytest.raises(SpecError) as raised:
        parse_task({"kind": "evaluate", "model": "m", "attacks": wrong})
    (problem,) = raised.value.problems
    assert problem.path == ("attacks", "1", "eps")
    with pytest.raises(SpecError) as raised:
        parse_task({"kind": "evaluate", "model": "m", "attacks": [{"kind": "pdg"}]})
    assert "did you mean 'pgd'" in str(raised.value)


def test_a_strength_bounds_no_size() -> None:
    """Of an attack that only the box bounds every success counts, however large in l2."""
    radii = Evaluate(model="x", attacks=(Spatial(), PGD(eps=0.1), Patch(eps=0.05))).radii()
    assert radii == (math.inf, 0.1, math.inf)


def test_certified_accuracy_can_be_required(model_file: Path, tmp_path: Path) -> None:
    """Of what is proved at the largest radius or the one that is named, on the lower end."""
    proof = IntervalBounds(radii=(0.002, 0.01), samples=50, steps=1)
    judged = {}
    for number, (least, radius) in enumerate(
        ((">= 0.99", None), (">= 0.01", None), (">= 0.5", 0.002), (">= 0.5", 0.0005))
    ):
        need = Require(certified_accuracy=least, certified_radius=radius)
        spec = small(model_file, attacks=(FIRST,), certify=proof, require=need)
        bench = bench_in(tmp_path / str(number))
        _, summary = pull(spec.run(bench))
        at = 0.01 if radius is None else radius
        share = summary["certified_accuracy"][f"{at:g}"]
        low, _ = wilson(round(share * 50), 50)
        judged[least, radius] = "unmet" not in summary
        assert judged[least, radius] == (low >= float(least.removeprefix(">=")))
        for text in summary.get("unmet", ()):
            assert text == (
                f"certified accuracy {least} at linf {at:g} is required; it is {share:.4f} on 50 "
                f"samples, so at least {low:.4f}"
            )
        verdict = json.loads((bench.folder / "report.json").read_text())["verdict"]
        assert verdict == ("met" if judged[least, radius] else "rejected")
    assert not judged[">= 0.99", None]
    assert judged[">= 0.5", 0.0005]


def test_a_contradicted_certificate_meets_no_requirement() -> None:
    need = Require(certified_accuracy=">= 0.5")
    found = Standing("certified accuracy", 99, 100, ["the certificate is contradicted"], "l2 0.5")
    assert unmet_of(need, {"certified_accuracy": found}) == [
        "certified accuracy >= 0.5 at l2 0.5 is required; it is 0.9900, but the certificate is "
        "contradicted"
    ]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"require": {"certified_accuracy": ">= 0.9"}}, "nothing proves a certified accuracy"),
        ({"require": {"certified_radius": 0.1}}, "none is required"),
        (
            {
                "require": {"certified_accuracy": ">= 0.9"},
                "certify": {"kind": "ibp", "radii": []},
            },
            "at which radius certified accuracy is judged is not said",
        ),
        (
            {"require": {"certified_accuracy": "0.9"}, "certify": {"kind": "ibp"}},
            "certified_accuracy",
        ),
    ],
)
def test_what_nothing_certifies_cannot_be_required(values: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        parse_task({"kind": "evaluate", "model": "m", **values})


def test_a_radius_that_only_a_negative_control_has_reached_is_no_robustness(
    model_file: Path, tmp_path: Path
) -> None:
    """A tiny attack beside noise that goes far: nobody has attacked the model where it went."""
    tiny = PGD(eps=0.001, steps=5, step_size=0.0005)
    values = {"attacks": (tiny, Shift(eps=0.15)), "checked": 40, "queries": 50}
    events, summary = pull(small(model_file, **values).run(bench_in(tmp_path)))
    assert "weak_attacks" in summary["flags"]
    (row,) = (row for row in tables(events)["flags"].rows if row[0] == "weak_attacks")
    assert "within 0.15 in linf" in str(row)


def test_what_the_checks_break_inside_the_radius_counts(model_file: Path, tmp_path: Path) -> None:
    """A weak attack without a curve: what the lie detector's own attacks find on the samples that
    they look at is in the same ball and verified, so that nobody counts as robust there."""
    weak = PGD(eps=0.15, steps=1, step_size=0.15, random_start=False)
    values = {"attacks": (weak,), "checked": 40, "queries": 50}
    bench = bench_in(tmp_path / "a")
    events, summary = pull(small(model_file, **values).run(bench))
    _, without = pull(small(model_file, attacks=(weak,)).run(bench_in(tmp_path / "b")))
    more = summary["broken_by_checks"]
    assert more > 3
    assert summary["broken"] == without["broken"] + more
    assert summary["robust_accuracy_by_attack"] == without["robust_accuracy_by_attack"]
    assert "weak_attacks" in summary["flags"]
    assert not any("Too few samples to compare" in text for text in summary.get("unchecked", ()))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(
        text.startswith(f"{more} samples that withstood the attacks were broken by the checks")
        for text in notes
    )
    (worst,) = (e for e in events if isinstance(e, Images) and e.name == "worst_adversarial")
    by = [caption["attack"] for caption in worst.captions]
    assert (by.count("checks"), by.count("pgd")) == (more, without["broken"])

    kept = safetensors.torch.load_file(bench.folder / "adversarial.safetensors")
    hit = kept["success"]
    assert int(hit.sum()) == summary["broken"]
    size = (kept["adversarial"].double() - kept["clean"].double()).flatten(1).abs().amax(1)
    assert float(size.max()) <= 0.15
    assert summary["max_norm"]["linf"] == pytest.approx(float(size.max()))
    with torch.no_grad():
        taken = load_model(str(model_file), bench).module(kept["adversarial"]).argmax(1)
    assert bool((taken != kept["labels"])[hit].all())

    # The curve knows of them too: at the radius of the attacks it says what is said of the model.
    events, both = pull(small(model_file, **values, curve=4).run(bench_in(tmp_path / "c")))
    at = {row[0]: row[1] for row in tables(events)["curve"].rows}
    assert at[0.15] == both["robust_accuracy"]
    assert both["broken"] == without["broken"] + both["broken_by_curve"] + both.get(
        "broken_by_checks", 0
    )


def test_checks_in_another_ball_count_for_nothing(model_file: Path, tmp_path: Path) -> None:
    """What they find says nothing of a radius that they did not look at."""
    attacks = (FMN(norm="l0", eps=1.0, steps=5),)
    _, summary = pull(small(model_file, attacks=attacks, checked=40).run(bench_in(tmp_path)))
    assert "broken_by_checks" not in summary
    assert summary["robust_accuracy"] == summary["robust_accuracy_by_attack"]["fmn"]


def test_checks_that_are_stopped_keep_what_they_broke(model_file: Path, tmp_path: Path) -> None:
    weak = PGD(eps=0.15, steps=1, step_size=0.15, random_start=False)
    steps = small(model_file, attacks=(weak,), checked=40, queries=50, batch_size=20).run(
        bench_in(tmp_path)
    )
    while not (isinstance(event := next(steps), Progress) and event.unit == "samples"):
        pass
    while not (isinstance(event, Progress) and event.done == 20):
        event = next(steps)
    steps.throw(Cancelled())
    _, partial = pull(steps)
    assert partial["partial"]
    assert partial["broken_by_checks"] > 0
