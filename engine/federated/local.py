"""The grid in this process: clients in threads, messages that nobody copies.

Clients are begun in the order of their messages, and each answers when it is done; who puts the
answers together sorts them, so that the number of threads does not matter.

A client works on a copy of what it keeps, and keeps what it made of that when its answer is taken
(`pull_messages`). Of an answer that nobody wanted nothing stays: what a client does next depends on
which of its answers were taken, and not on when it got through with the others.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
import traceback
from collections.abc import Iterable
from typing import Any

import torch

from engine.federated.flower import addressed
from engine.federated.learning import Stopped

# isort: split
from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

FAILED = 1000
"""Error code of a client that raised."""

SERVER = 1
"""Flower's own number of a server."""

WAIT = 0.04
"""Seconds that `pull_messages` waits for an answer."""


class Turns:
    """A lock for what clients do to state that is the whole process's, as torch's global generator.
    The thread that pulls answers has it (`take`) whenever it does not wait for one, so that what
    it does between, and whoever pulls it, never sees that state changed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = self._taken = self._ended = False

    def __enter__(self) -> None:
        """Raises Stopped after `end`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not (self._busy or self._taken))
            if self._ended:
                raise Stopped
            self._busy = True

    def __exit__(self, *about: object) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def take(self) -> None:
        """Before anybody who waits in `with`."""
        with self._changed:
            self._taken = True
            self._changed.wait_for(lambda: not self._busy)

    def give(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def end(self) -> None:
        """Let nobody in any more."""
        self.take()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class LocalGrid(Grid):
    """Clients 0 to `clients` - 1 of an app, at nodes 1 to `clients`, whichever thread is free."""

    live = True

    def __init__(
        self, app: ClientApp, clients: int, run_config: dict[str, Any], threads: int
    ) -> None:
        """`threads` is how many clients train at a time."""
        self.contexts = {
            client + 1: Context(1, client + 1, {"partition-id": client}, RecordDict(), run_config)
            for client in range(clients)
        }
        """Of each node; replaced, and never changed, while clients are at work."""
        self.turns = Turns()
        self._app = app
        self._wanted = max(1, min(threads, clients))
        self._tasks: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._done: dict[str, tuple[Message, Context]] = {}
        self._under_way: dict[str, threading.Thread] = {}
        self._given_up: set[str] = set()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._count = 0

    # --- Flower's ---------------------------------------------------------------------------------

    def set_run(self, run: Any) -> None:
        """There is one run only."""

    @property
    def run(self) -> Any:
        raise NotImplementedError("a grid in this process has no SuperLink to keep runs")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        at = time.time()
        about = Metadata(1, "", SERVER, dst_node_id, "", group_id, at, ttl or 43200.0, message_type)
        return addressed(content, about)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.turns.take()
        ids = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            ids.append(str(self._count))
            self._tasks.put(message)
        self._fill_up()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers that are there, waiting a moment for the first. Their clients keep what they
        learnt for them."""
        wanted, waited = set(message_ids), False
        with self._changed:
            if not wanted & self._done.keys():
                self.turns.give()
                self._changed.wait(WAIT)
                waited = True
        if waited:
            self.turns.take()
        with self._changed:
            found = [self._done.pop(each) for each in sorted(wanted & self._done.keys(), key=int)]
        self.contexts |= {context.node_id: context for _, context in found}
        return [answer for answer, _ in found]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        left = set(self.push_messages(messages))
        answers: list[Message] = []
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        while left and time.monotonic() < end:
            for answer in self.pull_messages(left):
                left.discard(answer.metadata.reply_to_message_id)
                answers.append(answer)
        self.give_up(left)
        return answers

    # --- ours -------------------------------------------------------------------------------------

    def give_up(self, message_ids: Iterable[str]) -> None:
        """Wait for these no longer. A thread that is still at one is left to itself, and another
        takes its place."""
        with self._changed:
            self._given_up |= set(message_ids)
            for each in message_ids:
                self._done.pop(each, None)
                thread = self._under_way.pop(each, None)
                if thread is not None:
                    self._threads.remove(thread)
        self._fill_up()

    def close(self, patience: float = 0.5) -> None:
        """End the threads. One whose client is in the middle of a step after so many seconds is
        left to itself, and ends with that step, or with the process."""
        self.turns.end()
        with self._changed:
            while not self._tasks.empty():
                self._tasks.get()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._threads = []

    def _fill_up(self) -> None:
        before = torch.get_num_threads()
        ready = []
        while len(self._threads) < self._wanted:
            begun = threading.Event()
            thread = threading.Thread(target=self._work, args=(begun,), name="client", daemon=True)
            self._threads.append(thread)
            thread.start()
            ready.append(begun)
        for begun in ready:
            begun.wait()
        if ready:
            torch.set_num_threads(before)

    def _work(self, begun: threading.Event) -> None:
        torch.set_num_threads(1)  # of this thread; who started it puts the others' right again
        begun.set()
        me = threading.current_thread()
        while (message := self._tasks.get()) is not None:
            name = message.metadata.message_id
            with self._changed:
                if name in self._given_up:
                    continue
                self._under_way[name] = me
            done = self._answer(message)
            with self._changed:
                self._under_way.pop(name, None)
                if name in self._given_up:  # too late: another thread has this one's place
                    return
                self._done[name] = done
                self._changed.notify_all()

    def _answer(self, message: Message) -> tuple[Message, Context]:
        """The answer, and what the client keeps if it is taken."""
        before = self.contexts[message.metadata.dst_node_id]
        context = copy.copy(before)
        context.state = RecordDict(dict(before.state))  # records are replaced, and never changed
        try:
            return self._app(message, context), context
        except (Exception, SystemExit) as error:  # the latter where its model asks to leave
            about = "".join(traceback.format_exception_only(error)).strip()
            return Message(Error(FAILED, about), reply_to=message), before
