"""What tasks say while they work, in the person's language: every note, and every unit of progress.

A new one that nobody has translated fails here: the places where the engine makes notes are looked
up in its source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

import engine
from engine.attacks.running import _BLIND, TARGETED
from engine.attacks.spec import APGD, PGD
from engine.data.folder import _skipped
from engine.data.listing import Listing
from engine.events import Change
from engine.federated.deploying import UNKNOWN
from engine.federated.noising import Exhausted
from engine.federated.telling import _trouble
from engine.generative.metrics.reference import few
from engine.models.answers import PROBABILITIES
from engine.models.card import SEEN
from engine.models.transforms import warning
from engine.robustness.flags import FLAGS
from engine.robustness.spec import Mixed
from engine.runner import _versions_differ
from engine.training.loop import _of_start
from workbench import i18n
from workbench.bars import UNITS, unit_text
from workbench.words import note_text

ROOT = Path(engine.__file__).parent
WEAK, WEAKER = PGD(steps=3, step_size=0.01), PGD(eps=0.2, steps=2, step_size=0.01)


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of `name` in the engine, with its module."""
    for path in sorted(ROOT.rglob("*.py")):
        module = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield module, node


def written_out(text: ast.expr) -> str | None:
    """The text of a literal, with a number for each value that an f-string puts in; None if it is
    made elsewhere."""
    match text:
        case ast.Constant(value=str(words)):
            return words
        case ast.JoinedStr(values=parts):
            return "".join(p.value if isinstance(p, ast.Constant) else "7" for p in parts)
    return None


def skipped() -> str:
    names = tuple(f"{k}.png" for k in range(9))
    listing = Listing.__new__(Listing)
    object.__setattr__(listing, "names", names)
    return _skipped(listing, dict.fromkeys(range(9), "not an image"))


def hidden() -> str:
    from engine.models.transforms import JPEG

    return warning(nn.Sequential(JPEG(50)))


MADE_ELSEWHERE = {
    "SEEN": lambda: [SEEN],
    "text": lambda: [
        WEAK.advice(),
        *(APGD(loss="dlr").advice(classes) for classes in (1, 2)),
        APGD(loss="dlr", targets=9).advice(3),
        PGD(eps=0.0).oddity((1, 8, 8)),
        PGD(norm="l2", eps=9.0).oddity((1, 8, 8)),
    ],
    "TARGETED.format(kind)": lambda: [TARGETED.format("pgd")],
    "TARGETED.format(spec.attack.kind)": lambda: [TARGETED.format("pgd")],
    "UNKNOWN": lambda: [UNKNOWN],
    "str(error)": lambda: [str(Exhausted(3.0, 2))],
    "PROBABILITIES": lambda: [PROBABILITIES],
    "hiding": lambda: [hidden()],
    "warning(module)": lambda: [hidden()],
    "_BLIND.format(hiding)": lambda: [_BLIND.format("JPEG of quality 50")],
    "_skipped(listing, faults)": lambda: [skipped()],
    "_versions_differ(before.environment, bench.environment)": lambda: [
        _versions_differ({"versions": {"torch": "1"}}, {"versions": {"torch": "2"}})
    ],
    "_trouble(state, reason, clients, seen.number)": lambda: [
        _trouble(state, "NaN", clients, 3)
        for state in ("late", "failed", "rejected")
        for clients in ([1], [1, 2])
    ],
    "_of_start(spec.init or '', past)": lambda: [
        _of_start("plain", SimpleNamespace(metrics=metrics)) for metrics in ({}, {"epsilon": 3.0})
    ],
    "short": lambda: [few(5, 20)],
    "line": lambda: [],  # those of another process: see `test_what_a_conversion_notes`
}
"""By the expression that stands in the source, what it may be. (What a writer calls `text` is a
literal beside it, and stands in `FURTHER`.)"""

FURTHER = (
    "The picture budget of the run is spent: later iterations are not stored.",
    Change("lr", 0.05, 3).note().text,
    f"adversarial training: {Mixed(attack=WEAK, mixture=(WEAKER,)).advice()}",
    "rejected: robust accuracy >= 0.5 is required; it is 0.4000 on 100 samples, so at least 0.3095",
    *(f"{f.title}: all outputs lie between 0 and 1 and add up to 1. {f.means} {f.advice}"
      for f in FLAGS.values()),
)  # fmt: skip
ENCRYPTED = (
    "with a passphrase. Whoever knows it opens the file anywhere, with:",
    "to one recipient. With the secret key in YOUR-KEY.txt, this opens it anywhere:",
)


def notes() -> list[str]:
    """At least one of every kind of note that the engine makes."""
    found = list(FURTHER)
    for module, call in calls("Note"):
        words = written_out(call.args[1])
        if words is None:
            source = ast.unparse(call.args[1])
            assert source in MADE_ELSEWHERE, f"{module}: {source}: say what it may be, above"
            found += MADE_ELSEWHERE[source]()
        elif words.startswith("Encrypted "):
            found += [f"Encrypted {how}\nage -d" for how in ENCRYPTED]
        elif not re.match(r"7 set to 7|7: 7|rejected|adversarial training", words):
            found.append(words)  # the others are in FURTHER, with what they are about
    return found


def is_chinese(text: str) -> bool:
    """Nothing of it is an English sentence: names and commands may stay."""
    rest = re.sub(r"'[^']*'|\([^)]*\)|through_transforms|index\.csv|\n.*", "", text)
    return bool(re.search(r"[\u4e00-\u9fff]", text)) and not re.search(
        r"[a-z]+ [a-z]+ [a-z]+", rest
    )


def test_every_note_has_its_chinese() -> None:
    every = notes()
    assert len(every) > 40
    i18n.set_language("zh")
    assert [text for text in every if not is_chinese(note_text(text))] == []


def test_what_is_not_known_counts_as_not_translated() -> None:
    i18n.set_language("zh")
    assert not is_chinese(note_text("nobody has heard of this before"))
    assert not is_chinese("停止：nobody has heard of this")


def test_in_english_notes_stay_as_they_are() -> None:
    changed = {text: note_text(text) for text in notes() if note_text(text) != text}
    begun = tuple(text.partition(" ")[0] for text in changed)
    assert set(begun) <= {"lr", "rejected:"}, changed


def test_the_advice_of_a_mixture_is_translated_one_by_one() -> None:
    text = f"adversarial training: {WEAK.advice()} {WEAKER.advice()}"
    i18n.set_language("zh")
    one, other = note_text(WEAK.advice()), note_text(WEAKER.advice())
    assert note_text(text) == f"对抗训练：{one} {other}"
    assert "0.03" in one
    assert "0.25" in one  # 2.5 x .3 / 3
    assert "0.02" in other


def test_of_skipped_images_the_reasons_are_translated() -> None:
    i18n.set_language("zh")
    said = note_text("2 of 9 images cannot be read and are skipped: a (1).png (not an image); "
                     "b.png (Permission denied); and 7 more")  # fmt: skip
    assert "a (1).png (不是图像); b.png (Permission denied); 另有 7 张" in said


def test_what_a_conversion_notes(tmp_path: Path) -> None:
    import torch

    from engine.events import Note
    from engine.vault.convert import converting

    weights = {"module.a": torch.zeros(2)}
    torch.save({"epoch": 3, "state_dict": {**weights, "best": 1}}, tmp_path / "m.pt")
    said = [e.text for e in converting(tmp_path / "m.pt", tmp_path) if isinstance(e, Note)]
    assert len(said) == 3
    i18n.set_language("zh")
    assert [text for text in said if not is_chinese(note_text(text))] == []


# --- units of progress ----------------------------------------------------------------------------


def units() -> set[str]:
    """What progress is counted in, of all that the engine says; "by" an attack aside."""
    found = set()
    for module, call in calls("Progress"):
        unit = written_out(call.args[2])
        if unit is None:
            source = ast.unparse(call.args[2])
            known = ("what", "unit", "self.unit", "waiting", "STAGES[now.stage]")
            assert source in known, f"{module}: {source}"
        else:
            found.add(unit)
    for path in (ROOT / "robustness").rglob("*.py"):  # given to `search`
        found.update(re.findall(r'\bwhat ?= ?"([a-z ]+)"', path.read_text(encoding="utf-8")))
    return found


def test_every_unit_is_known_to_the_window() -> None:
    unheard = {"points"}  # of an embedding, which has a line of its own
    assert sorted(units() - UNITS.keys() - unheard) == []
    assert len(units()) > 12


@pytest.mark.parametrize("unit", [*UNITS, "by pgd-2"])
def test_units_are_translated(unit: str) -> None:
    english = unit_text(unit)
    i18n.set_language("zh")
    assert unit_text(unit) != english
