"""Both dictionaries are complete: every text of the window and of the specs, nothing else."""

import ast
import string
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QLocale, QObject

import workbench
from engine.models.card import SEEN
from engine.robustness.flags import FLAGS
from engine.task import Spec, about_spec, discover, extra_of, kind_of, task_kinds
from workbench import i18n
from workbench.forms.presets import presets
from workbench.i18n import name_of, set_language, tr, tr_like
from workbench.words import note_text

SOURCES = sorted(Path(workbench.__file__).parent.rglob("*.py"))


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language("en")


def texts_of_source(path: Path) -> Iterator[tuple[str, str]]:
    """The texts given to `tr` and `mark`, with where they stand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            if name not in ("tr", "mark"):
                continue
            where = f"{path.name}:{node.lineno}"
            match node.args[0]:
                case ast.Constant(value=str(text)):
                    yield text, where
                case ast.IfExp(body=ast.Constant(value=str(one)), orelse=ast.Constant(value=other)):
                    yield one, where
                    yield other, where
                case ast.JoinedStr() | ast.BinOp():
                    pytest.fail(f"{where}: {name}() takes a plain text, with {{names}} for values")


def specs() -> list[type[Spec]]:
    """Those of the modules that are looked for specs; what another module makes for itself nobody
    sees, and is there or not, as other tests have it."""
    discover()
    found: list[type[Spec]] = []
    pending = Spec.__subclasses__()
    while pending:
        spec = pending.pop()
        pending += spec.__subclasses__()
        home = spec.__module__
        seen = home == "engine.task" or (home.startswith("engine.") and "spec" in home.split("."))
        if seen and spec not in found:
            found.append(spec)
    return found


def texts_of_specs() -> Iterator[tuple[str, str]]:
    for task in task_kinds().values():
        if task.__module__.startswith("engine."):  # other tests make tasks of their own
            yield task.title, task.__name__
    for spec in specs():
        if kind_of(spec):
            yield about_spec(spec), spec.__name__
        for name, field in spec.model_fields.items():
            where = f"{spec.__name__}.{name}"
            for text in (field.title, field.description, extra_of(field).get("unit")):
                if text and name != "kind":
                    yield str(text), where


def texts_of_presets() -> Iterator[tuple[str, str]]:
    for preset in presets():
        yield preset.name, "presets.toml"
        yield preset.help, "presets.toml"


def texts_of_flags() -> Iterator[tuple[str, str]]:
    for name, meaning in FLAGS.items():
        for text in (meaning.title, meaning.means, meaning.advice):
            yield text, name


def texts() -> dict[str, str]:
    """Every text there is to translate, and where it stands."""
    found: dict[str, str] = {}
    for path in SOURCES:
        found.update(texts_of_source(path))
    found.update(texts_of_specs())
    found.update(texts_of_presets())
    found.update(texts_of_flags())
    return found


def names() -> set[str]:
    """Every kind, and every choice of every field."""
    found = {kind for spec in specs() if (kind := kind_of(spec))}
    for spec in specs():
        for name, field in spec.model_fields.items():
            if name != "kind":
                for part in (field.annotation, *typing.get_args(field.annotation)):
                    if typing.get_origin(part) is typing.Literal:
                        found |= {c for c in typing.get_args(part) if isinstance(c, str)}
    return found


def test_every_text_has_its_chinese():
    known = i18n._texts("zh")
    missing = [f"{where}: {text!r}" for text, where in texts().items() if text not in known]
    assert missing == []


def test_every_name_has_its_chinese():
    assert sorted(names() - i18n._names("zh").keys()) == []


def test_no_entry_is_left_over():
    assert sorted(i18n._texts("zh").keys() - texts().keys()) == []
    assert sorted(i18n._names("zh").keys() - names()) == []
    assert sorted(i18n._names("en").keys() - names()) == []


def test_translations_take_the_same_values_and_are_chinese():
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    for text, chinese in i18n._texts("zh").items():
        assert fields(text) == fields(chinese), text
        assert chinese
        assert chinese == chinese.strip()


def test_switching_is_told_and_takes_effect():
    told = []

    class Listener(QObject):
        def changed(self):
            told.append(i18n.language)

    listener = Listener()
    i18n.signals.changed.connect(listener.changed)
    assert tr("Learning rate") == "Learning rate"
    set_language("zh")
    set_language("zh")
    assert tr("Learning rate") == "学习率"
    assert name_of("linf") == "L∞"
    assert name_of("cross_entropy") == "交叉熵"
    set_language("en")
    assert name_of("cross_entropy") == "Cross-entropy"
    assert name_of("never_seen") == "Never seen"
    assert told == ["zh", "en"]
    with pytest.raises(ValueError, match="no language"):
        set_language("tlh")


def test_values_are_filled_in():
    assert tr("Range: {range}", range="0 < x") == "Range: 0 < x"
    assert tr("{text} as {braces}", text="a", braces="{}") == "a as {}"
    assert tr("no { values } at all") == "no { values } at all"


def test_composed_text_is_translated_by_its_pattern():
    pattern = "must be below {limit}, but it is {given}"
    text = "must be below 3, but it is {'a': 7, 'b'}"
    set_language("zh")
    assert tr_like(text, (pattern,)) == tr(pattern, limit="3", given="{'a': 7, 'b'}")
    assert tr_like("another thing", (pattern,)) == "another thing"


def test_notes_of_the_engine_are_translated():
    assert note_text("lr set to 0.05") == "Learning rate set to 0.05"
    assert note_text("resumed at step 61, epoch 3") == "resumed at step 61, epoch 3"
    set_language("zh")
    assert note_text("lr set to 0.05") == "学习率 已设为 0.05"
    assert "61" in note_text("resumed at step 61, epoch 3")
    assert "resumed" not in note_text("resumed at step 61, epoch 3")
    assert note_text("something set to music") == "something set to music"
    assert note_text(SEEN) != SEEN


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (["zh-Hans-CN", "en"], "zh"),
        (["zh"], "zh"),
        (["en-GB", "zh"], "en"),
        (["de"], "en"),
        ([], "en"),
    ],
)
def test_first_language_of_the_system(monkeypatch, languages, expected):
    class System:
        def uiLanguages(self):
            return languages

    monkeypatch.setattr(QLocale, "system", staticmethod(System))
    assert i18n.system_language() == expected
