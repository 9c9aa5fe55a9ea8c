"""Whether a SuperLink can be reached, and may be trusted with a run: what can be told before."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from engine.errors import BadInput, CrucibleError, UnavailableError

PATIENCE = 5.0
"""Seconds that a SuperLink has to take a connection."""
ANSWER = 10.0
"""Seconds that it has to answer, or to go on with an answer."""
NEWEST = 10_000
"""Runs of a SuperLink that are looked at."""


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port`. Raises BadInput."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(
            f"{address!r} is no SuperLink's address; expected host:port, as in 192.168.1.7:9093"
        )
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_secure(address: str, root_certificates: str) -> None:
    """Raises BadInput where TLS is needed and not there, without asking the network."""
    host, _ = host_and_port(address)
    if root_certificates:
        try:
            ssl.create_default_context(cafile=str(Path(root_certificates).expanduser()))
        except FileNotFoundError:
            raise BadInput(
                f"there is no file {root_certificates!r}; expected the certificate by which the "
                "SuperLink is known, as `engine federated certificates` writes it (ca.crt)"
            ) from None
        except (ssl.SSLError, OSError) as error:
            raise BadInput(f"{root_certificates!r} holds no certificate: {error}") from None
    elif not is_loopback(host):
        raise BadInput(
            f"{host} is another machine: without TLS anybody on the way could read and change the "
            "models. Give root_certificates, the ca.crt that `engine federated certificates` wrote."
        )


def reach(address: str, root_certificates: str) -> None:
    """Raises UnavailableError where no SuperLink answers, or one that is not who it should be, or
    speaks another language."""
    host, port = host_and_port(address)
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as line:
            if root_certificates:
                context = ssl.create_default_context(
                    cafile=str(Path(root_certificates).expanduser())
                )
                with context.wrap_socket(line, server_hostname=host):
                    return
            _check_plain(line, address)
    except ssl.SSLCertVerificationError as error:
        raise UnavailableError(
            f"the certificate of the SuperLink at {address} does not match: "
            f"{error.verify_message or error}. Expected one that {root_certificates} has signed, "
            f"for {host}; make them with `engine federated certificates --host {host}`, and give "
            "the ca.crt that was made with it."
        ) from None
    except ssl.SSLError as error:
        raise UnavailableError(
            f"what answers at {address} does not speak TLS ({error.reason or error}). Start the "
            "SuperLink with its certificate, or leave root_certificates out on this machine."
        ) from None
    except TimeoutError:
        raise UnavailableError(
            f"nothing answers at {address} within {PATIENCE:g} s; is the machine on, and the port "
            "open?"
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"there is no SuperLink at {address} ({error.strerror or error}); start one there with "
            "`engine federated superlink`"
        ) from None


def _check_plain(line: socket.socket, address: str) -> None:
    """A server that wants TLS answers plain HTTP with an alert, or hangs up."""
    line.sendall(b"GET / HTTP/1.1\r\nHost: superlink\r\nConnection: close\r\n\r\n")
    try:
        answer = line.recv(16)
    except ConnectionError:
        answer = b""
    if not answer.startswith(b"HTTP/"):
        raise UnavailableError(
            f"the SuperLink at {address} wants TLS; give root_certificates, the ca.crt that was "
            "made with its certificate"
        )


def takes_strangers(address: str, root_certificates: str) -> bool:
    """Whether a SuperLink takes SuperNodes whose keys it was not told. Asks as such a node, and
    takes that back. Raises UnavailableError where it does not answer."""
    from engine.federated.flower import quiet

    # isort: split
    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest, UnregisterNodeFleetRequest
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from httpx import HTTPStatusError

    quiet()
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    with _client(FleetHttpClient, address, root_certificates, "SuperNode") as client:
        try:
            node = client.RegisterNode(RegisterNodeFleetRequest(public_key=key)).node_id
        except HTTPStatusError:
            return False
        client.UnregisterNode(UnregisterNodeFleetRequest(node_id=node))
        return True


def runs(address: str, root_certificates: str) -> dict[str, int]:
    """The numbers of the runs that a SuperLink knows, the newest NEWEST, by the names of their
    apps. Raises UnavailableError where it does not answer."""
    with _control(address, root_certificates) as client:
        from flwr.proto.control_pb2 import ListRunsRequest

        found = client.ListRuns(ListRunsRequest(limit=NEWEST)).run_dict
        return {run.fab_id: number for number, run in found.items()}


def ended(address: str, root_certificates: str, run: int) -> str | None:
    """Stop a run of a SuperLink, if it is not over, and give all of its log; None where the
    SuperLink does not know the run. Raises UnavailableError where it does not answer."""
    from httpx import HTTPStatusError, codes

    with _control(address, root_certificates) as client:
        from flwr.proto.control_pb2 import StopRunRequest, StreamLogsRequest

        try:
            try:
                if not client.StopRun(StopRunRequest(run_id=run)).success:
                    return None
            except HTTPStatusError as error:
                if error.response.status_code != codes.PRECONDITION_FAILED:  # it is over
                    raise
            # Of a run that is over the SuperLink gives the whole log, and no more.
            log = client.StreamLogs(StreamLogsRequest(run_id=run, after_timestamp=0.0))
            return "".join(part.log_output for part in log)
        except HTTPStatusError as error:
            if error.response.status_code != codes.NOT_FOUND:
                raise
            return None


def _control(address: str, root_certificates: str) -> AbstractContextManager[Any]:
    """What Flower's command line asks a SuperLink by, without the second that it takes to start."""
    from engine.federated.flower import quiet

    # isort: split
    from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
    from flwr.supercore.control import ControlHttpClient

    quiet()
    about = CliClientHttpInterceptor()
    return _client(ControlHttpClient, address, root_certificates, "flwr CLI", about)


@contextmanager
def _client(
    kind: Any, address: str, root_certificates: str, component: str, *interceptors: Any
) -> Iterator[Any]:
    """One of Flower's clients, for a SuperLink. Raises UnavailableError where that does not answer
    in time, or not as one does."""
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from httpx import HTTPError

    root = str(Path(root_certificates).expanduser()) if root_certificates else None
    client = kind(
        f"{'https' if root else 'http'}://{address}",
        interceptors=[
            _Impatience(),
            *interceptors,
            RuntimeVersionHttpInterceptor(component_name=component),
        ],
        verify=ssl.create_default_context(cafile=root) if root else False,
        timeout=ANSWER,
    )
    try:
        yield client
    except (HTTPError, ValueError) as error:  # ValueError: what it said is no message of Flower's
        why = str(error).partition("\n")[0] or type(error).__name__
        raise UnavailableError(
            f"the SuperLink at {address} does not answer as one does ({why})"
        ) from None
    finally:
        client.close()


class _Impatience:
    """Flower waits for ever where an answer has begun and does not go on."""

    def intercept(self, context: Any, call_next: Any) -> Any:
        response = call_next(context)
        context.request.extensions["timeout"]["read"] = ANSWER
        return response


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as line:
        line.bind((host, 0))
        port: int = line.getsockname()[1]
        return port


def check_free(host: str, port: int) -> None:
    """Raises CrucibleError where a port is taken, or no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            line.bind((host, port))
        except OSError as error:
            raise CrucibleError(
                f"port {port} of {host} cannot be had ({error.strerror}): another program uses it, "
                "or the address is not this machine's. Stop that program, or take another --port."
            ) from None
