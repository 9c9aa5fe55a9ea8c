import threading

import numpy as np

from engine.events import Change, Finished, Images, Note, Progress, Saved, Scalars, Started, Table
from workbench import mailbox
from workbench.mailbox import Mailbox


def picture(step: int) -> Images:
    return Images("adversarial", np.full((1, 2, 2, 1), step, np.uint8), step=step)


def test_newest_of_what_replaces_itself_and_all_scalars():
    box = Mailbox()
    for step in range(3):
        box.put("a", Scalars(step, {"train/loss": step / 2, "train/lr": 0.1}))
        box.put("a", picture(step))
        box.put("a", Progress(step, 3, "steps"))
    box.put("a", Table("parameters", ("layer",), (("conv",),)))
    box.put("a", Note("info", "hello"))
    box.put("a", Saved("model", "model.safetensors", 3, "00"))
    box.put("a", Started())
    box.put("a", Finished({"clean_accuracy": 0.9}))
    box.put("b", Note("warning", "other"))

    news = box.drain()

    assert set(news) == {"a", "b"}
    a = news["a"]
    assert a.scalars["train/loss"] == ([0, 1, 2], [0.0, 0.5, 1.0])
    assert a.images["adversarial"].step == 2
    assert a.progress == Progress(2, 3, "steps")
    assert a.tables["parameters"].rows == (("conv",),)
    assert [note.text for note in a.notes] == ["hello"]
    assert a.saved[0].name == "model"
    assert a.started is not None
    assert isinstance(a.ended, Finished)
    assert not a.missed
    assert box.drain() == {}


def test_a_live_change_is_a_line_of_the_log():
    box = Mailbox()
    box.put("a", Change("lr", 0.05, 12))
    assert box.drain()["a"].notes == [Note("info", "lr set to 0.05")]


def test_backlog_is_bounded_and_says_so(monkeypatch):
    monkeypatch.setattr(mailbox, "BACKLOG", 100)
    box = Mailbox()
    for step in range(1000):
        box.put("a", Scalars(step, {"train/loss": 0.0}))
    news = box.drain()["a"]
    steps, values = news.scalars["train/loss"]
    assert len(steps) == len(values) <= 100
    assert steps[-1] == 999
    assert news.missed


def test_points_that_the_engine_has_gathered():
    box = Mailbox()
    box.put_series("a", {"train/loss": ([1, 2], [0.5, 0.25])})
    box.put_series("a", {"train/loss": ([3], [0.125])})
    box.miss("a")
    news = box.drain()["a"]
    assert news.scalars == {"train/loss": ([1, 2, 3], [0.5, 0.25, 0.125])}
    assert news.missed


def test_nothing_is_lost_between_threads():
    box = Mailbox()
    total = 50_000

    def fill() -> None:
        for step in range(total):
            box.put("a", Scalars(step, {"train/loss": 1.0}))

    writer = threading.Thread(target=fill)
    writer.start()
    steps: list[int] = []
    while writer.is_alive():
        for news in box.drain().values():
            steps += news.scalars["train/loss"][0]
    for news in box.drain().values():
        steps += news.scalars["train/loss"][0]
    writer.join()
    assert steps == list(range(total))
