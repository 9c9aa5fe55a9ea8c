"""What the engine refuses, in the person's language."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import engine
from engine.store.workspace import Lock
from workbench import i18n
from workbench.refusals import HOLDER, PARTS, REFUSALS, error_text, holder_text


def sentences(source: str) -> Iterator[str]:
    """Every text of a module, `{}` for each value that an f-string puts in."""
    for found in ast.walk(ast.parse(source)):
        if isinstance(found, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in found.values)
            yield "".join(map(str, parts))
        elif isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield found.value


def test_every_sentence_is_one_of_the_engine() -> None:
    said: set[str] = set()
    for path in Path(engine.__file__).parent.rglob("*.py"):
        said.update(sentences(path.read_text(encoding="utf-8")))
    known = (HOLDER, *PARTS, *REFUSALS)
    assert [text for text in known if re.sub(r"\{\w+\}", "{}", text) not in said] == []


def test_what_is_known_is_translated_and_the_rest_stays() -> None:
    told = "run 'plain' (1-a) is failed; start a new one instead"
    assert error_text(told) == told
    assert error_text("nobody knows {this}") == "nobody knows {this}"
    i18n.set_language("zh")
    assert error_text(told) == "实验 'plain'（1-a）的状态为：失败；请另开一个新实验"
    assert error_text("nobody knows {this}") == "nobody knows {this}"
    assert error_text("") == ""


def test_who_holds_a_lock_is_translated(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    holder = lock.holder()
    lock.release()
    assert holder is not None
    assert holder_text(holder) == holder
    i18n.set_language("zh")
    shown = holder_text(holder)
    assert shown != holder
    assert error_text(f"run 1-a is being run by {holder}") == f"实验 1-a 正由 {shown} 运行"
