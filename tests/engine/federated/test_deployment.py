"""The grid deployment: certificates and keys, Flower's own processes, and what is said when one of
them is not there, or not who it should be."""

from __future__ import annotations

import base64
import json
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors
import tomli
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from engine import resources
from engine.__main__ import main
from engine.errors import BadInput, Cancelled, CrucibleError, LostError, UnavailableError
from engine.events import Note, Progress, Scalars, Table, drain, to_message
from engine.federated import apps, deploying, reaching
from engine.federated.app_folder import write_app
from engine.federated.certificates import make_certificates
from engine.federated.charging import SESSION, Account
from engine.federated.command_line import NAME, answer, connection, flwr
from engine.federated.deploying import UNKNOWN
from engine.federated.federating import run_federate
from engine.federated.hosting import start_superlink, start_supernode
from engine.federated.keeping import Kept
from engine.federated.local import LocalGrid
from engine.federated.noising import LEDGER
from engine.federated.reaching import (
    check_free,
    check_secure,
    ended,
    free_port,
    host_and_port,
    is_loopback,
    reach,
    runs,
    takes_strangers,
)
from engine.federated.relaying import begun, marked, rounds_begun, with_files
from engine.federated.spec import ClientPrivacy, Deployment, Federate
from engine.models import load_model
from engine.privacy import epsilon
from engine.privacy.canaries import FILE as CANARIES
from engine.privacy.ledger import read_charges
from engine.recipe import read_recipe
from engine.runner import Runner
from engine.store import Workspace
from engine.task import parse_task
from tests.engine.federated.fleet import QUICK, changed, new_bench
from tests.engine.federated.test_ray import running, within

PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys of two nodes."""
    folder = tmp_path_factory.mktemp("made") / "certificates"
    make_certificates(folder, ["superlink.example", "192.0.2.7"], 2)
    return folder


# --- certificates and keys ------------------------------------------------------------------------


def test_certificates_are_for_whom_they_say(made: Path) -> None:
    server = x509.load_pem_x509_certificate((made / "server.crt").read_bytes())
    authority = x509.load_pem_x509_certificate((made / "ca.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "superlink.example"]
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1", "192.0.2.7"}
    assert not list(made.glob("ca.key"))


def test_a_nodes_key_is_its_own_and_read_by_nobody_else(made: Path) -> None:
    for node in (0, 1):
        secret = made / "nodes" / f"node-{node}"
        assert secret.stat().st_mode & 0o077 == 0
        public: Any = load_ssh_public_key((made / "nodes" / f"node-{node}.pub").read_bytes())
        private: Any = load_ssh_private_key(secret.read_bytes(), None)
        assert private.public_key().public_numbers() == public.public_numbers()
    one, other = ((made / "nodes" / f"node-{node}.pub").read_bytes() for node in (0, 1))
    assert one != other
    assert (made / "server.key").stat().st_mode & 0o077 == 0


def test_certificates_are_not_made_twice_nor_for_nonsense(made: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has certificates already"):
        make_certificates(made, [], 2)
    with pytest.raises(BadInput, match="no host"):
        make_certificates(tmp_path / "new", ["https://here"], 2)
    assert not (tmp_path / "new").exists()


# --- what is refused before anything is started ---------------------------------------------------


def deployed(superlink: str, root: Path | str = "", **values: Any) -> Federate:
    grid = Deployment(superlink=superlink, root_certificates=str(root), wait=0.0)
    return changed(QUICK, clients=2, rounds=1, grid=grid, **values)


def test_other_machines_need_tls(made: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is another machine: without TLS"):
        next(run_federate(deployed("192.0.2.7:9093"), new_bench(tmp_path)))
    with pytest.raises(BadInput, match="can be reached from other machines"):
        start_superlink(None, "0.0.0.0", 9093)
    with pytest.raises(BadInput, match="is another machine"):
        start_supernode("192.0.2.7:9093", 0, None)
    check_secure("192.0.2.7:9093", str(made / "ca.crt"))
    check_secure("127.0.0.1:9093", "")


def test_files_that_are_missing_or_something_else_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no file 'nowhere.crt'"):
        check_secure("127.0.0.1:9093", "nowhere.crt")
    (tmp_path / "text").write_text("text")
    with pytest.raises(BadInput, match="holds no certificate"):
        check_secure("127.0.0.1:9093", str(tmp_path / "text"))
    with pytest.raises(BadInput, match="there is no ca.crt in"):
        start_superlink(tmp_path, "127.0.0.1", free_port())
    with pytest.raises(BadInput, match="there is no key .*node-7"):
        start_supernode("127.0.0.1:9093", 7, made)


@pytest.mark.parametrize("address", ["nothing", "host:", ":80", "host:0", "host:70000"])
def test_addresses_are_checked(address: str) -> None:
    with pytest.raises(BadInput, match="expected host:port"):
        host_and_port(address)


def test_addresses_are_read() -> None:
    assert host_and_port("[::1]:9093") == ("::1", 9093)
    assert [is_loopback(h) for h in ("localhost", "127.3.2.1", "::1", "10.0.0.1", "a.b")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    values = {"kind": "federate", "grid": {"kind": "deployment", "superlink": "no port"}}
    with pytest.raises(BadInput, match="a host and a port, as in"):
        parse_task(values)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        line.listen()
        port = line.getsockname()[1]
        with pytest.raises(CrucibleError, match=f"port {port} of 127.0.0.1 cannot be had"):
            check_free("127.0.0.1", port)
        with pytest.raises(CrucibleError, match="cannot be had"):
            start_superlink(None, "127.0.0.1", port)


def test_no_superlink_is_said(made: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError, match=f"there is no SuperLink at {address}"):
        drain(run_federate(deployed(address, made / "ca.crt"), new_bench(tmp_path)))


def test_a_start_from_a_run_is_refused(made: Path, tmp_path: Path) -> None:
    spec = deployed("127.0.0.1:9093", made / "ca.crt", init="before")
    with pytest.raises(BadInput, match="whose files its server does not have"):
        next(run_federate(spec, new_bench(tmp_path)))


@pytest.fixture
def tls(made: Path) -> Iterator[str]:
    """The address of somebody who speaks TLS with the certificate that was made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.crt", made / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                    with line, context.wrap_socket(line, server_side=True) as each:
                        each.recv(1)
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5.0)


def test_the_certificate_is_checked(made: Path, tls: str, tmp_path: Path) -> None:
    reach(tls, str(made / "ca.crt"))
    make_certificates(tmp_path / "other", [], 1)
    other = tmp_path / "other" / "ca.crt"
    with pytest.raises(CrucibleError, match=r"does not match: .*Expected one that .* has signed"):
        drain(run_federate(deployed(tls, other), new_bench(tmp_path)))
    with pytest.raises(CrucibleError, match="wants TLS; give root_certificates"):
        reach(tls, "")


def test_the_name_in_the_certificate_is_checked(
    made: Path, tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a machine of that address would be, whose certificate names another."""
    connect = socket.create_connection

    def elsewhere(address: tuple[str, int], timeout: float) -> socket.socket:
        return connect(("127.0.0.1", address[1]), timeout)

    monkeypatch.setattr(socket, "create_connection", elsewhere)
    port = tls.rpartition(":")[2]
    reach(f"192.0.2.7:{port}", str(made / "ca.crt"))
    with pytest.raises(CrucibleError, match="does not match: .*192.0.2.8"):
        reach(f"192.0.2.8:{port}", str(made / "ca.crt"))


def test_what_speaks_no_tls_is_said(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                line.recv(4096)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(CrucibleError, match="does not speak TLS"):
            reach(f"127.0.0.1:{server.getsockname()[1]}", str(made / "ca.crt"))
        thread.join(5.0)


@pytest.mark.parametrize(
    ("way", "why"),
    [("nothing", "timed out"), ("nonsense", "Invalid"), ("half a log", "timed out")],
)
def test_a_superlink_that_does_not_answer_as_one_is_said(
    monkeypatch: pytest.MonkeyPatch, way: str, why: str
) -> None:
    """Before it hangs up."""
    monkeypatch.setattr(reaching, "ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(line,), daemon=True).start()

        def answer(line: socket.socket) -> None:
            line.settimeout(8.0)
            with line, suppress(OSError):
                while asked := line.recv(65536):
                    if way == "nothing" or not asked.startswith(b"POST"):
                        continue
                    body = b"\xff\xff" if way == "nonsense" else b"\x08\x01"
                    length = 99 if b"stream-logs" in asked else 2
                    line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length + body)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        asks: list[Any] = [lambda: ended(address, "", 5)]
        if way != "half a log":
            asks += [lambda: runs(address, ""), lambda: takes_strangers(address, "")]
        for ask in asks:
            with pytest.raises(UnavailableError, match=rf"not answer as one does \({why}"):
                ask()
        server.shutdown(socket.SHUT_RDWR)


# --- a SuperLink without nodes --------------------------------------------------------------------


@pytest.fixture(scope="module")
def superlink(made: Path) -> Iterator[tuple[str, Kept]]:
    port = free_port()
    kept = start_superlink(made, "127.0.0.1", port)
    yield f"127.0.0.1:{port}", kept
    kept.end()
    assert kept.wait(20.0)


@pytest.mark.timeout(400)
def test_it_knows_the_keys_that_were_made_and_no_others(
    superlink: tuple[str, Kept], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that takes others is refused where it is on another machine."""
    address, _ = superlink
    root = str(made / "ca.crt")
    assert not takes_strangers(address, root)
    grid = Deployment(superlink=address, root_certificates=root)
    listed = answer(flwr(connection(grid), "supernode", "list", NAME, "--format", "json"), 60.0)
    assert listed.count('"node-id"') == 2
    monkeypatch.setattr(deploying, "is_loopback", lambda host: False)
    monkeypatch.setattr(deploying, "takes_strangers", lambda *_: True)
    with pytest.raises(BadInput, match="takes SuperNodes that it does not know"):
        drain(run_federate(deployed(address, made / "ca.crt"), new_bench(tmp_path)))


@pytest.mark.timeout(400)
def test_cancelling_stops_the_run_there_and_a_superlink_that_goes_is_told(
    superlink: tuple[str, Kept], made: Path, tmp_path: Path
) -> None:
    address, kept = superlink
    grid = Deployment(superlink=address, root_certificates=str(made / "ca.crt"), wait=500.0)
    spec = changed(QUICK, clients=2, grid=grid)
    steps = run_federate(spec, new_bench(tmp_path))
    while next(steps) != Progress(0, 2, "nodes"):
        pass
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
        drain(steps)
    listed = answer(flwr(connection(grid), "ls", NAME, "--format", "json"), 60.0)
    assert "stopped" in listed
    steps = run_federate(spec, new_bench(tmp_path, "b"))
    while next(steps) != Progress(0, 2, "nodes"):
        pass
    kept.end()
    with pytest.raises(LostError, match="the SuperLink is gone in the middle of the run"):
        drain(steps)


# --- the budget of a private run ------------------------------------------------------------------

SPENDS = changed(
    QUICK,
    clients=2,
    rounds=30,
    privacy=ClientPrivacy(noise_multiplier=4.0, secure=True),
    grid=Deployment(),
)


class Link:
    """A SuperLink that is none: its server plays in this process, on the local grid, as far as its
    log is read. `ends` is the round in which the server is killed, before the noise of it; `dies`
    whether the SuperLink is killed with it, `knows` whether it can be asked for the log of a run.
    It has had a run before, of somebody else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logs: list[str] = ["of somebody else"]
        self.numbers = {"somebody/else": 0}
        self.stopped: list[int] = []
        self.ends = 0
        self.dies = self.gone = False
        self.knows = True
        monkeypatch.setattr(deploying, "reach", lambda *_: None)
        monkeypatch.setattr(deploying, "runs", self.runs)
        monkeypatch.setattr(deploying, "ended", self.log_of)
        monkeypatch.setattr(deploying, "flwr", self.run)

    def runs(self, address: str, root: str) -> dict[str, int]:
        if self.gone:
            raise UnavailableError("it is off")
        return self.numbers

    def log_of(self, address: str, root: str, run: int) -> str | None:
        self.stopped.append(run)
        return self.logs[run] if self.knows else None

    def run(self, home: Path, command: str, app: str, *_: str) -> Link:
        settings = tomli.loads((Path(app) / "pyproject.toml").read_text())
        flower = settings["tool"]["flwr"]["app"]
        self.task = json.loads(flower["config"]["task"])
        self.numbers[f"{flower['publisher']}/{settings['project']['name']}"] = len(self.logs)
        self.logs.append("")
        self.left = ["Successfully started run 1234"]
        self.complaints: list[str] = []
        self.folder = home / "server"
        self.folder.mkdir()
        (self.folder / LEDGER).write_text(self.task["ledger"])
        spec = {"spec": self.task["spec"]}
        self.grid = LocalGrid(apps.client, 2, {apps.TASK: json.dumps(spec)}, 1)
        say = apps.counted(with_files(self.say, self.folder), self.log)
        self.played = self.steps(say)
        return self

    def steps(self, say: Any) -> Iterator[None]:
        playing = apps.conduct(self.task, self.folder, self.grid)
        while True:
            try:
                event = next(playing)
            except StopIteration as end:
                say({"summary": end.value})
                return
            say(to_message(event)[0])
            if isinstance(event, Table) and event.name == "picked" and self.at == self.ends:
                self.gone = self.dies
                return
            yield

    @property
    def at(self) -> int:
        """The round that its log tells of last."""
        return rounds_begun(self.logs[-1])

    def log(self, text: str) -> None:
        self.logs[-1] += text
        self.left += text.splitlines()

    def say(self, body: Any) -> None:
        self.log(marked(json.dumps(body)))

    def next(self, seconds: float) -> str | None:
        while not self.left:
            if next(self.played, "over") == "over":
                break
        return self.left.pop(0) if self.left else None

    def end(self) -> None:
        self.grid.close()

    def wait(self, seconds: float) -> bool:
        return True


def session(tmp_path: Path, rounds: int, spec: Federate = SPENDS) -> tuple[list[float], list[str]]:
    """Play a deployment in the folder of the run until so many rounds are over, then cancel it: the
    epsilon of each, and the notes."""
    steps = run_federate(spec, new_bench(tmp_path))
    spent: list[float] = []
    said: list[str] = []
    with pytest.raises(Cancelled):
        while True:
            event = next(steps) if len(spent) < rounds else steps.throw(Cancelled())
            if isinstance(event, Scalars):
                spent.append(event.values["privacy/epsilon"])
            if isinstance(event, Note):
                said.append(event.text)
    return spent, said


def charged(tmp_path: Path) -> int:
    return sum(charge.steps for charge in read_charges(tmp_path / "runs" / "a" / LEDGER))


def test_a_deployment_that_goes_on_has_the_budget_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every session has spent counts in the next, and is in the run's folder."""
    Link(monkeypatch)
    first, _ = session(tmp_path, 3)
    assert first == [pytest.approx(epsilon(4.0, 1.0, n, 1e-5)) for n in (1, 2, 3)]
    assert charged(tmp_path) == 3
    second, said = session(tmp_path, 2)
    assert second == [pytest.approx(epsilon(4.0, 1.0, n, 1e-5)) for n in (4, 5)]
    assert charged(tmp_path) == 5
    assert UNKNOWN not in said
    summary = drain(run_federate(SPENDS, new_bench(tmp_path)))
    assert summary["epsilon"] == pytest.approx(epsilon(4.0, 1.0, 35, 1e-5))
    assert charged(tmp_path) == 35


def test_rounds_are_charged_at_home_before_the_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(monkeypatch)
    right = link.run

    def look(*about: Any) -> Link:
        assert charged(tmp_path) == 30
        return right(*about)

    monkeypatch.setattr(deploying, "flwr", look)
    session(tmp_path, 1)
    assert len(link.numbers) == 2


def test_a_server_that_is_killed_in_a_round_has_spent_that_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the engine after it, without a word: the log at the SuperLink tells, at the resume."""
    link = Link(monkeypatch)
    link.ends = 4
    with pytest.raises(LostError, match="run 1 of .* has ended without a result"):
        drain(run_federate(SPENDS, new_bench(tmp_path)))
    assert charged(tmp_path) == 4
    link.ends = 0
    steps = run_federate(SPENDS, new_bench(tmp_path))
    while not isinstance(next(steps), Scalars):
        pass
    monkeypatch.setattr(deploying._Run, "end", lambda self: None)  # it is killed: nothing is said
    steps.close()
    assert charged(tmp_path) == 4 + 30
    begun = link.at
    third, _ = session(tmp_path, 1)
    assert begun >= 1
    assert third == [pytest.approx(epsilon(4.0, 1.0, 4 + begun + 1, 1e-5))]


def test_what_nobody_can_tell_any_more_counts_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(monkeypatch)
    link.knows = False
    session(tmp_path, 2)
    assert charged(tmp_path) == 30
    spent, said = session(tmp_path, 1)
    assert UNKNOWN in said
    assert spent == [pytest.approx(epsilon(4.0, 1.0, 31, 1e-5))]
    target = epsilon(4.0, 1.0, 40, 1e-5) + 1e-3
    privacy = ClientPrivacy(noise_multiplier=4.0, epsilon=target, secure=True)
    with pytest.raises(BadInput, match="is used up: it allows 40 rounds, and 60 count already"):
        drain(run_federate(changed(SPENDS, privacy=privacy), new_bench(tmp_path)))


def test_a_run_that_the_superlink_never_took_has_spent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(monkeypatch)

    def refused(*about: Any) -> Link:
        link.left, link.complaints, link.played = [], ["Error: no"], iter(())
        link.grid = LocalGrid(apps.client, 2, {}, 1)
        return link

    monkeypatch.setattr(deploying, "flwr", refused)
    with pytest.raises(CrucibleError, match="did not take the run"):
        drain(run_federate(SPENDS, new_bench(tmp_path)))
    assert charged(tmp_path) == 0


def test_a_deployment_without_its_ledger_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(monkeypatch)
    session(tmp_path, 1)
    (tmp_path / "runs" / "a" / LEDGER).unlink()
    with pytest.raises(BadInput, match=r"the privacy ledger .* is missing"):
        drain(run_federate(SPENDS, new_bench(tmp_path)))
    assert len(link.numbers) == 2


def test_the_target_of_a_deployment_holds_over_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Link(monkeypatch)
    target = epsilon(4.0, 1.0, 5, 1e-5) + 1e-3
    privacy = ClientPrivacy(noise_multiplier=4.0, epsilon=target, secure=True)
    spec = changed(SPENDS, privacy=privacy)
    session(tmp_path, 3, spec)
    summary = drain(run_federate(spec, new_bench(tmp_path)))
    assert summary["rounds"] == 2
    assert summary["epsilon"] <= target


@pytest.mark.parametrize("dies", [False, True])
def test_a_run_that_has_lost_its_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """The server is killed, or the SuperLink with it, in the first session."""
    link = Link(monkeypatch)
    link.ends, link.dies = 2, dies
    workspace = Workspace(tmp_path)
    run = workspace.create(changed(SPENDS, rounds=3).to_dict(), name="private")
    runner = Runner(workspace, lambda *_: None)
    assert runner.run(run) == "interrupted"
    assert isinstance(runner.failure, LostError)
    link.ends, link.gone = 0, False
    assert runner.run(run) == "done"
    assert [charge.steps for charge in read_charges(run.folder / LEDGER)] == [2 + 3]


def test_a_server_cannot_rewrite_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(monkeypatch)
    right = link.run

    def hostile(*about: Any) -> Link:
        server = right(*about)
        data = base64.b64encode(server.task["ledger"].encode()).decode()
        server.say({"file": LEDGER, "data": data, "first": True})
        return server

    monkeypatch.setattr(deploying, "flwr", hostile)
    link.knows = False
    with pytest.raises(CrucibleError, match="a file that is not its to write"):
        drain(run_federate(SPENDS, new_bench(tmp_path)))
    assert charged(tmp_path) == 30
    assert link.stopped == [1]


def test_what_a_client_says_begins_no_round() -> None:
    for reason in (begun(30), begun(30).strip(), "crucible: begun " + "9" * 5000):
        said = marked(json.dumps({"event": "note", "level": "warning", "text": reason}))
        assert rounds_begun(begun(1) + said + begun(2) + f"client 1: {reason.strip()}") == 2
    assert rounds_begun(marked("begun " + "9" * 5000)) == 0
    assert rounds_begun("a progress bar" + begun(3) + "goes on") == 3


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"over": false}', '{"app": "a"', "\x00"])
def test_a_damaged_session_is_told_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / SESSION).write_text(text)
    with pytest.raises(BadInput, match=r"deployment\.json is damaged"):
        Account(SPENDS, tmp_path)


@pytest.mark.parametrize("what", ["write_app", "flwr"])
def test_what_could_not_be_started_has_spent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    link = Link(monkeypatch)
    right = getattr(deploying, what)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deploying, what, full)
    with pytest.raises(OSError, match="No space"):
        drain(run_federate(SPENDS, new_bench(tmp_path)))
    assert charged(tmp_path) == 0
    monkeypatch.setattr(deploying, what, right)
    spent, said = session(tmp_path, 1)
    assert spent == [pytest.approx(epsilon(4.0, 1.0, 1, 1e-5))]
    assert UNKNOWN not in said
    assert link.stopped == [1]


def test_a_run_that_had_just_been_taken_when_the_engine_was_killed_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything was heard of it. And nobody else's is, which began since."""
    link = Link(monkeypatch)
    with monkeypatch.context() as killed:
        killed.setattr(Link, "next", lambda self, seconds: waited(seconds))
        killed.setattr(deploying._Run, "end", lambda self: None)
        steps = run_federate(SPENDS, new_bench(tmp_path))
        while len(link.numbers) < 2:
            next(steps)
        steps.close()
    link.numbers["somebody/new"] = len(link.logs)
    link.logs.append("of somebody else")
    steps = run_federate(SPENDS, new_bench(tmp_path))
    while not isinstance(next(steps), Scalars):
        pass
    assert link.stopped == [1]
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
        drain(steps)


def waited(seconds: float) -> str:
    """As of a command that says nothing."""
    time.sleep(seconds)
    raise queue.Empty


class Slow:
    """An answer that lets itself be waited for, until it is `free`."""

    def __init__(self, answer: Any) -> None:
        self.free = threading.Event()
        self.answer = answer
        self.asked = 0

    def __call__(self, *about: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            assert self.free.wait(60.0)
        return self.answer(*about)


@pytest.mark.parametrize("what", ["reach", "runs"])
def test_a_superlink_that_does_not_answer_keeps_no_cancel_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    link = Link(monkeypatch)
    slow = Slow(getattr(deploying, what))
    monkeypatch.setattr(deploying, what, slow)
    steps = run_federate(SPENDS, new_bench(tmp_path))
    assert next(steps) == next(steps) == Progress(0, 0, "nodes")
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    assert not slow.free.is_set()
    slow.free.set()
    assert charged(tmp_path) == 0
    assert len(link.numbers) == 1


def test_a_session_that_is_over_writes_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run is stopped later than it would wait for, while the next session is under way."""
    link = Link(monkeypatch)
    slow = Slow(link.log_of)
    monkeypatch.setattr(deploying, "ended", slow)
    monkeypatch.setattr(deploying, "STOPPING", 0.2)
    first, _ = session(tmp_path, 2)
    assert len(first) == 2
    assert charged(tmp_path) == 30
    monkeypatch.setattr(deploying, "STOPPING", 60.0)
    steps = run_federate(SPENDS, new_bench(tmp_path))
    while not isinstance(next(steps), Scalars):
        pass
    before = (tmp_path / "runs" / "a" / SESSION).read_text()
    assert charged(tmp_path) == 2 + 30
    slow.free.set()
    assert within(15.0, lambda: link.stopped == [1, 1])
    for thread in threading.enumerate():
        if thread.name.startswith("superlink"):
            thread.join(15.0)
    assert (tmp_path / "runs" / "a" / SESSION).read_text() == before
    assert charged(tmp_path) == 2 + 30
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
        drain(steps)
    assert charged(tmp_path) == 2 + link.at


def test_what_canaries_saw_comes_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Link(monkeypatch)
    privacy = ClientPrivacy(noise_multiplier=4.0, secure=True, canaries=40)
    drain(run_federate(changed(SPENDS, privacy=privacy, rounds=3), new_bench(tmp_path)))
    with safetensors.safe_open(tmp_path / "runs" / "a" / CANARIES, "pt") as file:
        assert file.get_tensor("included").shape == (40,)
        assert float(file.get_tensor("noise")[0]) == 3


# --- all of it ------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_the_loopback_script_plays_a_federation_and_leaves_nothing(tmp_path: Path) -> None:
    """With TLS and keys, from the certificates to the end: the model is that of the local grid."""
    folder = tmp_path / "deployment"
    env = {**os.environ, "ENGINE": str(PYTHON.parent / "engine"), "CRUCIBLE_MARK": tmp_path.name}
    recipe = resources.path("federated", "loopback.toml")
    script = resources.path("federated", "loopback.sh")
    done = subprocess.run(
        ["bash", str(script), str(folder), "deployed.rounds=1"],
        env=env,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert within(15.0, lambda: running(f"CRUCIBLE_MARK={tmp_path.name}") == [])
    (model,) = folder.glob("workspace/runs/*/model.safetensors")
    bench = new_bench(tmp_path, "look")
    there = load_model(str(model), bench).module.state_dict()
    (entry,) = read_recipe(recipe, {"deployed.rounds": 1, "deployed.grid.kind": "deployment"})
    values = entry.task.to_dict() | {"grid": {"kind": "local"}}
    local = new_bench(tmp_path, "local", entry.task.seed)
    drain(run_federate(parse_task(values), local))  # type: ignore[arg-type]
    here = load_model(str(local.folder / "model.safetensors"), bench).module.state_dict()
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        assert float((tensor.double() - there[name].double()).abs().max()) < 1e-6


@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_cancel_and_a_superlink_that_goes_in_a_round_leave_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the run has started. And what was spent before counts after."""
    monkeypatch.setenv("CRUCIBLE_MARK", tmp_path.name)

    def there(*names: str) -> list[str]:
        found = running(f"CRUCIBLE_MARK={tmp_path.name}")
        return [line for line in found if not names or any(name in line for name in names)]

    def in_a_round(steps: Any) -> float:
        """Play until the second round has begun: what the first has spent."""
        spent = 0.0
        for event in steps:
            if isinstance(event, Scalars):
                spent = event.values["privacy/epsilon"]
            if spent and isinstance(event, Table) and event.name == "picked":
                break
        return spent

    address = f"127.0.0.1:{free_port()}"
    superlink = start_superlink(made, *host_and_port(address))
    nodes = [start_supernode(address, client, made) for client in (0, 1)]
    try:
        grid = Deployment(superlink=address, root_certificates=str(made / "ca.crt"), wait=400.0)
        spec = changed(SPENDS, grid=grid, rounds=1000)
        steps = run_federate(spec, new_bench(tmp_path))
        assert in_a_round(steps) == pytest.approx(epsilon(4.0, 1.0, 1, 1e-5))
        assert there("flwr-serverapp")
        with pytest.raises(Cancelled):
            steps.throw(Cancelled())
            drain(steps)
        assert within(15.0, lambda: there("flwr-serverapp", "flwr.cli.app") == [])
        # Flower does not tell a node: its client goes when its training is over.
        assert within(200.0, lambda: there("flwr-clientapp") == [])
        before = charged(tmp_path)
        assert before >= 2
        steps = run_federate(spec, new_bench(tmp_path))
        assert in_a_round(steps) == pytest.approx(epsilon(4.0, 1.0, before + 1, 1e-5))
        superlink.end()
        with pytest.raises(LostError, match="the SuperLink is gone in the middle of the run"):
            drain(steps)
        assert within(
            15.0, lambda: there("flwr-serverapp", "flwr.cli.app", "flower-superlink") == []
        )
        assert charged(tmp_path) == before + 1000
    finally:
        for each in (superlink, *nodes):
            each.end()
    assert within(20.0, lambda: there() == [])


def test_the_app_folder_is_what_flower_takes(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate

    app = write_app(tmp_path / "app", {"spec": QUICK.to_dict()})
    settings, warnings = load_and_validate(app / "pyproject.toml")
    assert warnings == []
    assert settings == tomli.loads((app / "pyproject.toml").read_text())
    assert build_fab_from_disk(app)


# --- the commands ---------------------------------------------------------------------------------


def test_the_commands_make_what_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert main(["federated", "certificates", "--to", str(made), "--nodes", "3"]) == 0
    assert sorted(path.name for path in (made / "nodes").iterdir()) == [
        "node-0",
        "node-0.pub",
        "node-1",
        "node-1.pub",
        "node-2",
        "node-2.pub",
    ]
    recipe = resources.path("federated", "loopback.toml")
    app = tmp_path / "app"
    assert main(["federated", "app", str(recipe), "--to", str(app)]) == 0
    settings = tomli.loads((app / "pyproject.toml").read_text())
    task = json.loads(settings["tool"]["flwr"]["app"]["config"]["task"])
    assert task["spec"]["clients"] == 2
    assert main(["federated", "port"]) == 0
    assert 0 < int(capsys.readouterr().out.split()[-1]) < 65536


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["certificates", "--to", "TMP", "--nodes", "0"], "must be at least 1"),
        (["certificates", "--to", "TMP/new", "--host", "a b"], "is no host"),
        (["superlink", "--host", "0.0.0.0"], "needs certificates and keys"),
        (["supernode", "--superlink", "192.0.2.7:9093", "--client", "0"], "without TLS"),
        (["app", "RECIPES/first_minute.toml", "--to", "TMP/app"], "has no task of kind federate"),
        (["app", "RECIPES/federated_minute.toml", "--to", "TMP"], "give --to a new folder"),
    ],
)
def test_the_commands_refuse_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    recipes = str(resources.path("recipes"))
    filled = [each.replace("TMP", str(tmp_path)).replace("RECIPES", recipes) for each in arguments]
    assert main(["federated", *filled]) == 2
    assert words in capsys.readouterr().err
