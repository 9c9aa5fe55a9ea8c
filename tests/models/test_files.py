from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from engine.data.spec import Digits
from engine.errors import BadInput, CrucibleError
from engine.models import ModelCard, build, load_model, read_card, save_model, weights_sha256
from engine.models.card import parse_card
from engine.models.spec import CNN, MLP, RNN, Module, ResNet18, Transformer
from engine.vault import age
from engine.vault.keys import own_identity

SHAPE = (1, 8, 8)
CLASSES = ("a", "b", "c")


def card_of(spec, **fields) -> ModelCard:
    return ModelCard(model=spec, data=Digits(), shape=SHAPE, classes=CLASSES, **fields)


def by_hand(state: dict[str, np.ndarray]) -> str:
    """The hash as its definition says, from arrays, without torch."""
    stream = b""
    for name, array in sorted(state.items()):
        shape = ",".join(str(n) for n in array.shape)
        stream += name.encode() + b"\0" + array.dtype.name.encode() + b"\0" + shape.encode() + b"\0"
        stream += array.astype(array.dtype.newbyteorder("<")).tobytes(order="C")
    return hashlib.sha256(stream).hexdigest()


def test_a_card_of_an_older_version_knows_no_fingerprints(tmp_path):
    path = tmp_path / "m.safetensors"
    written = card_of(MLP(width=4), data_fingerprint="ab", learnt=("cd",))
    values = written.to_dict()
    assert parse_card("m", {"card": json.dumps(values)}) == written
    del values["data_fingerprint"], values["learnt"]
    path.write_bytes(save({"a": torch.zeros(1)}, {"card": json.dumps(values)}))
    older = read_card(path)
    assert (older.data_fingerprint, older.learnt) == ("", ())


@pytest.mark.parametrize(
    "spec",
    [MLP(width=4), CNN(width=2), ResNet18(), RNN(width=4), Transformer(width=8, depth=1)],
    ids=lambda spec: spec.kind,
)
def test_saved_and_loaded_bit_equal(spec, bench, tmp_path):
    model = build(spec, SHAPE, 3, mean=(0.3,), std=(0.4,), generator_seed=9)
    model(torch.rand(4, *SHAPE))  # running statistics
    path = tmp_path / "模型 file.safetensors"
    card = save_model(path, model, card_of(spec, metrics={"clean_accuracy": 0.5}, run="r1"))
    loaded = load_model(str(path), bench)
    assert loaded.card == card == read_card(path) == read_card(path.read_bytes())
    assert card.weights_sha256 == weights_sha256(model.state_dict())
    assert not loaded.module.training
    state = loaded.module.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    images = torch.rand(4, *SHAPE)
    assert torch.equal(loaded.module(images), model.eval()(images))


def test_the_hash_is_what_its_definition_says():
    state = build(CNN(width=2), SHAPE, 3).state_dict()
    assert weights_sha256(state) == by_hand({name: t.numpy() for name, t in state.items()})
    backwards = dict(reversed(state.items()))
    assert weights_sha256(backwards) == weights_sha256(state)


def test_the_hash_sees_names_types_shapes_and_bits():
    plain = {"w": torch.tensor([[1.0, 0.0]]), "n": torch.tensor(3)}
    seen = {weights_sha256(plain)}
    for changed in (
        {"v": plain["w"], "n": plain["n"]},
        {**plain, "w": plain["w"].T.contiguous()},
        {**plain, "w": plain["w"].to(torch.bfloat16)},
        {**plain, "w": torch.tensor([[1.0, -0.0]])},
        {**plain, "n": torch.tensor(3, dtype=torch.int32)},
        {"w": plain["w"]},
    ):
        seen.add(weights_sha256(changed))
    assert len(seen) == 7
    strided = torch.tensor([[1.0, 9.0], [0.0, 9.0]]).T[:1]
    assert weights_sha256({**plain, "w": strided}) == weights_sha256(plain)
    assert weights_sha256({"e": torch.empty(0, 3)}) == by_hand({"e": np.empty((0, 3), np.float32)})


def test_tied_tensors_are_stored_once_and_stay_tied(bench, tmp_path, write_module):
    factory = write_module("""
        def make(classes):
            tied = nn.Linear(8, 8, bias=False)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), tied, tied, nn.Linear(8, classes))
    """)
    bench.trust_code = True
    model = build(Module(factory=factory), SHAPE, 3, trust=True)
    path = tmp_path / "m.safetensors"
    save_model(path, model, card_of(Module(factory=factory)))
    loaded = load_model(str(path), bench).module
    assert loaded.body[2].weight is loaded.body[3].weight
    assert weights_sha256(loaded.state_dict()) == weights_sha256(model.state_dict())
    header = path.read_bytes()
    length = struct.unpack("<Q", header[:8])[0]
    names = json.loads(header[8 : 8 + length])
    assert "body.2.weight" in names
    assert "body.3.weight" not in names


def test_awkward_memory_layouts(tmp_path):
    whole = torch.arange(24.0)
    state = {
        "part": whole[:12],
        "overlap": whole[6:18],
        "last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "turned": torch.rand(3, 5).T,
        "scalar": torch.tensor(7),
        "half": torch.rand(3).to(torch.bfloat16),
        "flags": torch.tensor([True, False]),
    }
    path = tmp_path / "m.safetensors"
    card = save_model(path, state, card_of(MLP()))
    from engine.models.card import read_metadata
    from engine.models.files import read_tensors

    back = read_tensors(path, "m", read_metadata(path)[1])
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert weights_sha256(back) == card.weights_sha256


def test_a_card_is_read_without_torch(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, build(MLP(width=4), SHAPE, 3), card_of(MLP(width=4)))
    code = (
        "import sys; from pathlib import Path; from engine.models import read_card\n"
        "import engine.models.spec, engine.data.spec\n"
        f"assert read_card(Path({str(path)!r})).model.width == 4\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_existing_file_is_replaced_whole(tmp_path, bench):
    path = tmp_path / "m.safetensors"
    save_model(path, build(MLP(width=4), SHAPE, 3), card_of(MLP(width=4)))
    save_model(path, build(MLP(width=8), SHAPE, 3), card_of(MLP(width=8)))
    assert read_card(path).model.width == 8
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["m.safetensors"]


def test_a_model_of_a_run(bench):
    model = build(MLP(width=4), SHAPE, 3)
    save_model(bench.folder / "model.safetensors", model, card_of(MLP(width=4)))
    loaded = load_model(str(bench.folder / "model.safetensors"), bench)
    assert weights_sha256(loaded.module.state_dict()) == loaded.card.weights_sha256


def test_an_encrypted_model(bench, tmp_path):
    path = tmp_path / "m.safetensors"
    card = save_model(path, build(MLP(width=4), SHAPE, 3), card_of(MLP(width=4)))
    _, identity = own_identity(bench.workspace / "keys")
    sealed = tmp_path / "m.safetensors.age"
    with path.open("rb") as source, sealed.open("w+b") as target:
        age.encrypt(source, target, recipients=[identity.recipient])
    assert load_model(str(sealed), bench).card == card


# --- files that are no models ---------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, build(MLP(width=4), SHAPE, 3), card_of(MLP(width=4)))
    return path


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_cut_short(path, bench, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadInput, match="safetensors file|cut short"):
        load_model(str(path), bench)


def test_longer_than_it_says(path, bench):
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BadInput, match="cut short or damaged"):
        load_model(str(path), bench)


def test_a_changed_weight(path, bench):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CrucibleError, match="not those that its card vouches for"):
        load_model(str(path), bench)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        bytes(100),
        b"\xff" * 100,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 400_000) + b"[" * 200_000 + b"]" * 200_000,
        struct.pack("<Q", 35) + b'{"w": {"data_offsets": ["x", "y"]}}',
    ],
    ids=range(7),
)
def test_other_files(path, bench, content):
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a safetensors file|damaged"):
        load_model(str(path), bench)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_unread(path, bench, zipped):
    state = {"w": torch.zeros(3)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"is a pickle.*`import` task"):
        load_model(str(path), bench)


def test_a_header_whose_length_looks_like_a_pickle(tmp_path, bench):
    """Whatever the length of the card, and so the first byte of the file, it is read."""
    first = set()
    for size in range(0, 256, 8):
        path = tmp_path / "m.safetensors"
        save_model(path, build(MLP(width=4), SHAPE, 3), card_of(MLP(width=4), run="x" * size))
        first.add(path.read_bytes()[0])
        assert load_model(str(path), bench).card.run == "x" * size
    assert 0x80 in first


def test_tensors_without_a_card(path, bench):
    path.write_bytes(save({"w": torch.zeros(3)}))
    with pytest.raises(BadInput, match="no model card.*`import` task"):
        load_model(str(path), bench)


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ("{", "damaged"),
        ("[" * 200_000 + "]" * 200_000, "damaged"),
        ("{}", "does not fit this version"),
        ('{"model": {"kind": "mlp"}, "shape": [1, -8, 8], "classes": ["a", "b"]}', "shape.1"),
        (
            '{"model": {"kind": "transformer"}, "shape": [1, 4294967296, 4294967296], '
            '"classes": ["a", "b"]}',
            "shape.1",
        ),
        ('{"model": {"kind": "perceptron"}, "shape": [1, 8, 8], "classes": ["a"]}', "perceptron"),
    ],
    ids=range(6),
)
def test_a_card_that_is_none(path, bench, card, text):
    path.write_bytes(save({"w": torch.zeros(3)}, {"card": card}))
    with pytest.raises(BadInput, match=text):
        load_model(str(path), bench)


def test_weights_of_another_architecture(tmp_path, bench):
    path = tmp_path / "m.safetensors"
    save_model(path, build(MLP(width=4), SHAPE, 3), card_of(CNN()))
    with pytest.raises(BadInput, match="do not fit the cnn that its card describes"):
        load_model(str(path), bench)


def test_a_strangers_card_cannot_say_that_code_is_trusted(tmp_path, bench, write_module):
    factory = write_module(f"open({str(tmp_path / 'was run')!r}, 'w')\ndef make(): pass")
    spec = Module(factory=factory, trust=True)
    path = tmp_path / "m.safetensors"
    save_model(path, {"w": torch.zeros(1)}, card_of(spec))
    with pytest.raises(BadInput, match="--trust-code"):
        load_model(str(path), bench)
    assert not (tmp_path / "was run").exists()


def test_a_yes_is_remembered_for_that_content_alone(bench, write_module):
    factory = write_module("def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))")
    spec = Module(factory=factory, trust=True)
    path = bench.folder / "model.safetensors"
    save_model(path, build(spec, SHAPE, 3, trust=True), card_of(spec))
    with pytest.raises(BadInput, match="--trust-code"):
        load_model(str(path), bench)
    bench.trust_code = True
    load_model(str(path), bench)
    bench.trust_code = False
    assert load_model(str(path), bench).card.model == spec
    file = Path(factory.rpartition(":")[0])
    file.write_text(file.read_text() + "# changed")
    with pytest.raises(BadInput, match="--trust-code"):
        load_model(str(path), bench)
