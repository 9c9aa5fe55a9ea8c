"""What it costs that a person watches an attack."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from engine.attacks.driver import perturb
from engine.attacks.spec import PGD, Attack
from engine.events import drain
from engine.runner import Runner
from engine.store import Workspace
from engine.task import BenchSpec
from engine.worker import Outbox
from tests.benchmarks.peers.judging import duel
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, spread

TARGET = 0.02

SHOWN = 24
"""Samples, as many as the window asks for."""


def main(setting: Setting) -> list[Row]:
    """A row for each net."""
    return [_compare(on, setting) for on in subjects(setting)]


def _compare(on: Subject, setting: Setting) -> Row:
    """The same attack run by the engine as the window has it run: events stored, packed and sent;
    with pictures and without. Loading is in both, so it falls out of the difference."""
    attack = PGD(eps=on.eps, steps=40, step_size=on.eps / 30, restarts=3 if on.hardened else 10)
    forward: dict[int, int] = {}
    ids = torch.arange(len(on.labels))

    def run(show: int) -> Tensor:
        spec = Attack(
            model=str(on.path),
            attack=attack,
            samples=len(on.labels),
            show=show,
            bench=BenchSpec(device="cpu", threads=1),
        )
        with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("wb") as nowhere:
            outbox = Outbox()
            sender = threading.Thread(target=outbox.send_to, args=(nowhere,))
            sender.start()
            workspace = Workspace(Path(folder))
            runner = Runner(
                workspace,
                lambda run, events: outbox.events(run.id, events),
                data_root=setting.data_root,
            )
            made = workspace.create(spec.to_dict(), name="watched")
            status = runner.run(made)
            outbox.close()
            sender.join()
            assert status == "done", made.info().error
            forward[show] = made.info().summary["forward_evaluations"]
        return ids

    def bare(_: int) -> Tensor:
        return drain(perturb(on.model, on.images, on.labels, attack, seed=0, ids=ids)).adversarial

    began = time.process_time()
    ways = {"on": lambda turn: run(SHOWN), "off": lambda turn: run(0), "attack": bare}
    seconds, _ = duel(ways, setting.repeats * 3)
    share = [
        (on_ - off) / alone
        for on_, off, alone in zip(seconds["on"], seconds["off"], seconds["attack"], strict=True)
    ]
    extra = forward[SHOWN] - forward[0]
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return Row(
        f"live view of {SHOWN} samples, PGD-40 with {attack.restarts} restarts, {on.name} net, "
        f"{len(ids)} images: CPU it adds to the attack",
        f"<= {TARGET}, no extra pass",
        spread(share),
        (statistics.median(share) <= TARGET and extra == 0) if setting.whole else None,
        f"whole run {middle['on']:.2f} s with and {middle['off']:.2f} s without, the attack alone "
        f"{middle['attack']:.2f} s; {extra} images more put through the model; measured for "
        f"{time.process_time() - began:.0f} s",
    )
