from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.data import load, stratified
from engine.data.published import _SOURCES, _fetch, _Meter, training_images
from engine.data.spec import CIFAR10, MNIST, FashionMNIST
from engine.errors import BadInput, Cancelled, UnavailableError
from engine.events import Progress
from tests.data.conftest import idx_files

NOWHERE = ["http://127.0.0.1:9/"]


def test_mnist_is_read_from_the_data_root(bench, drain, tmp_path, write_idx):
    write_idx(tmp_path / "here")
    bench.data_root = tmp_path / "here"
    events, data = drain(load(MNIST(validation=0.2), bench))
    assert events == []
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 20)
    assert data.shape == (1, 28, 28)
    assert data.classes == tuple("0123456789")
    assert data.test.ids.tolist() == list(range(60, 80))
    images, labels = data.test.batch(torch.arange(20))
    raw = np.frombuffer(idx_files()["t10k-images-idx3-ubyte"], np.uint8, offset=16)
    assert np.array_equal(images.flatten().numpy(), raw.astype(np.float32) / 255)
    assert labels.tolist() == [i % 10 for i in range(20)]


def test_the_workspace_is_the_data_root_unless_given(bench, drain, write_idx):
    write_idx(bench.workspace / "data", "FashionMNIST")
    _, data = drain(load(FashionMNIST(), bench))
    assert data.classes[0] == "T-shirt/top"


def test_a_limit_shortens_training_alone(bench, drain, tmp_path, write_idx):
    write_idx(tmp_path)
    bench.data_root = tmp_path
    _, whole = drain(load(MNIST(validation=0.2), bench))
    _, some = drain(load(MNIST(validation=0.2, limit=7), bench))
    assert some.train.ids.tolist() == whole.train.ids[:7].tolist()
    assert torch.equal(some.validation.ids, whole.validation.ids)
    assert torch.equal(some.test.ids, whole.test.ids)


def test_cifar10(bench, drain, tmp_path, write_cifar):
    written = write_cifar(tmp_path)
    bench.data_root = tmp_path
    _, data = drain(load(CIFAR10(), bench))
    assert data.shape == (3, 32, 32)
    assert data.classes == tuple(f"class{i}" for i in range(10))
    images, _ = data.test.batch(torch.arange(len(data.test)))
    expected = written["test_batch"].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    assert np.array_equal(images.numpy(), expected)


def test_a_changed_batch_of_cifar10_is_never_unpickled(bench, drain, tmp_path, write_cifar):
    write_cifar(tmp_path)
    bench.data_root = tmp_path
    proof = tmp_path / "was run"
    code = f"cbuiltins\nexec\n(S'open({str(proof)!r}, \"w\")'\ntR.".encode()
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(code)
    with pytest.raises(BadInput, match=r"CIFAR-10 .* is damaged"):
        drain(load(CIFAR10(), bench))
    assert not proof.exists()


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"\1" + b[1:]])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_is_a_clear_error(bench, drain, tmp_path, write_idx, file, damage):
    path = write_idx(tmp_path) / file
    path.write_bytes(damage(path.read_bytes()))
    bench.data_root = tmp_path
    with pytest.raises(BadInput, match=r"MNIST in .* is damaged.*--data-root"):
        drain(load(MNIST(), bench))


def test_labels_that_are_none(bench, drain, tmp_path, write_idx):
    path = write_idx(tmp_path) / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    bench.data_root = tmp_path
    with pytest.raises(BadInput, match="labels beyond the 10 classes"):
        drain(load(MNIST(), bench))


def test_no_copy_and_no_network(bench, drain, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", NOWHERE)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", NOWHERE)
    monkeypatch.setattr(datasets.CIFAR10, "url", NOWHERE[0] + "cifar-10-python.tar.gz")
    bench.data_root = tmp_path / "data"
    for spec, name in (
        (MNIST(), "MNIST/raw"),
        (FashionMNIST(), "FashionMNIST/raw"),
        (CIFAR10(), "cifar-10-batches-py"),
    ):
        with pytest.raises(UnavailableError) as told:
            drain(load(spec, bench))
        text = str(told.value)
        assert "could not be downloaded" in text
        assert "--data-root" in text
        assert str(bench.data_root / name) in text
    assert list(bench.data_root.iterdir()) == []


def test_a_data_root_that_cannot_be_written(bench, drain, tmp_path):
    (tmp_path / "file").write_text("")
    bench.data_root = tmp_path / "file" / "data"
    with pytest.raises(BadInput, match="nothing can be written there"):
        drain(load(MNIST(), bench))


# --- downloading, from a mirror on this machine ---------------------------------------------------


@contextmanager
def mirror(files: dict[str, bytes], endless: bool = False) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files[self.path.lstrip("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(2**40 if endless else len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
                while endless:
                    self.wfile.write(bytes(1 << 16))
            except OSError:  # the reader has gone
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    work = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    work.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        work.join()


def test_downloaded_once_with_progress(bench, drain, tmp_path, monkeypatch, capfd, serve_idx):
    from torchvision import datasets

    files = serve_idx()
    bench.data_root = tmp_path / "new folder"
    with mirror(files) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        events, data = drain(load(MNIST(), bench))
    assert any(isinstance(event, Progress) and event.unit == "bytes" for event in events)
    assert len(data.test) == 20
    raw = bench.data_root / "MNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == idx_files()
    assert [path.name for path in bench.data_root.iterdir()] == ["MNIST"]
    assert capfd.readouterr() == ("", "")

    events, _ = drain(load(MNIST(), bench))
    assert events == []


def test_a_cancelled_download_stops_and_leaves_nothing(bench, tmp_path, monkeypatch, serve_idx):
    from torchvision import datasets

    bench.data_root = tmp_path / "data"
    with mirror(serve_idx(), endless=True) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        steps = load(MNIST(), bench)
        while not (isinstance(event := next(steps), Progress) and event.done > 100_000):
            pass
        with pytest.raises(Cancelled):
            steps.throw(Cancelled())
        for thread in threading.enumerate():
            if thread.name == "download":
                thread.join(20)
    assert list(bench.data_root.iterdir()) == []


def test_one_download_is_abandoned_and_another_goes_on(tmp_path, monkeypatch):
    """A question's, beside a run's: torchvision has one progress bar for both."""
    from torchvision import datasets
    from torchvision.datasets import utils

    names = ("run", "question")
    begun, go = ({name: threading.Event() for name in names} for _ in range(2))

    def download(folder: str, download: bool) -> None:
        begun[Path(folder).name].set()
        assert go[Path(folder).name].wait(20)
        with utils.tqdm(total=7) as bar:
            bar.update(7)

    monkeypatch.setattr(datasets, "MNIST", download)
    meters = {name: _Meter() for name in names}
    threads = {}
    for name in names:
        arguments = (_SOURCES["mnist"], tmp_path / name, meters[name])
        threads[name] = threading.Thread(target=_fetch, args=arguments)
        threads[name].start()
        assert begun[name].wait(20)
    meters["question"].abandoned = True
    for name in names:
        go[name].set()
        threads[name].join(20)
    assert (meters["run"].done, meters["run"].error) == (7, [])
    assert meters["question"].done == 0


def test_a_download_of_other_content_is_refused(bench, drain, tmp_path, monkeypatch, serve_idx):
    from torchvision import datasets

    files = {name: body + b"more" for name, body in serve_idx().items()}
    bench.data_root = tmp_path
    with mirror(files) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        with pytest.raises(UnavailableError, match=r"could not be downloaded.*corrupted"):
            drain(load(MNIST(), bench))
    assert not (tmp_path / "MNIST").exists()


def test_other_files_beside_a_partial_copy_stay(bench, drain, tmp_path, monkeypatch, serve_idx):
    from torchvision import datasets

    mine: Path = tmp_path / "MNIST" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    bench.data_root = tmp_path
    with mirror(serve_idx()) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        drain(load(MNIST(), bench))
    assert mine.read_text() == "keep"


@pytest.mark.parametrize("spec", [MNIST, FashionMNIST, CIFAR10])
@pytest.mark.parametrize("validation", [0.0, 0.1, 0.137])
def test_the_training_split_is_counted_unread(spec, validation):
    counts = _SOURCES[spec().kind].classes
    assert sum(counts) == (50_000 if spec is CIFAR10 else 60_000)
    labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
    kept, _ = stratified(labels, validation, 0)
    assert training_images(spec(validation=validation)) == len(kept)
    assert training_images(spec(validation=validation, limit=500)) == 500
