"""Nothing in a checkpoint is executed: hostile files, each of which would write a marker, are read or refused."""

import argparse
import enum
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike._core.errors import LookalikeError
from lookalike.encoder import read_checkpoint, read_weights
from tests.architectures import plain_cnn

MARKER = Path("/tmp") / f"lookalike-marker-{os.getpid()}"
COMMAND = f"touch {MARKER}".encode()


class Reduced:
    def __reduce__(self):
        return os.system, (COMMAND.decode(),)


class Built:
    def __reduce__(self):
        return eval, ("dict",), {"x": Reduced()}

    def __setstate__(self, state):
        MARKER.touch()


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


HOSTILE = {
    "REDUCE": pickle.dumps(Reduced(), 2),
    "GLOBAL": b"cos\nsystem\n(" + text(COMMAND) + b"tR.",
    "STACK_GLOBAL": b"\x80\x04" + text(b"os") + text(b"system") + b"\x93" + text(COMMAND) + b"\x85R.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(" + text(b"touch") + text(bytes(MARKER)) + b"l\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n)}" + text(b"args") + text(bytes(MARKER)) + b"s\x92.",
    "INST": b"(" + text(COMMAND) + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + text(COMMAND) + b"o.",
    "BUILD": pickle.dumps(Built(), 2),
    "BUILD of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text(b"__code__") + b"Nsb.",
    "EXT": b"\x80\x02\x82\x01" + text(COMMAND) + b"\x85R.",
    "nested calls": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(" + text(b"os") + b"tR" + text(b"system") + b"tR("
    + text(COMMAND) + b"tR.",
    "persistent": b"cos\nsystem\n(" + text(COMMAND) + b"tRQ.",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_marker():
    MARKER.unlink(missing_ok=True)
    yield
    assert not MARKER.exists()


def read(path):
    """Reads a file that may be refused, but in no other way."""
    try:
        return read_checkpoint(path)
    except LookalikeError:
        return None


def in_zip(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_operation_of_a_pickle_runs_anything(tmp_path, name):
    body = HOSTILE[name]
    (tmp_path / "plain.pth").write_bytes(body)
    read(tmp_path / "plain.pth")
    in_zip(tmp_path / "zip.pth", body)
    read(tmp_path / "zip.pth")
    start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    (tmp_path / "legacy.pth").write_bytes(start + body + pickle.dumps([], 2))
    read(tmp_path / "legacy.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_beside_hostile_values_are_read(tmp_path, zipped):
    state = plain_cnn().state_dict()
    content = {"args": Reduced(), "deep": [{"a": (Built(), Reduced())}], "state_dict": state, "epoch": 3}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert list(checkpoint.weights) == ["state_dict"]
    assert checkpoint.metadata["epoch"] == 3
    assert all(torch.equal(tensor, state[name]) for name, tensor in checkpoint.weights["state_dict"].items())


class Colour(enum.Enum):
    RED = "red"


def test_plain_values_beside_the_weights_are_kept(tmp_path):
    values = {
        "classes": ["cat", "dog"],
        "class_to_idx": {"cat": 0, "dog": 1},
        "args": argparse.Namespace(lr=0.1, data=Path("/data/x"), colour=Colour.RED),
        "accuracy": np.float32(0.5),
        "best": (np.int64(3), True, None),
    }
    torch.save({"state_dict": plain_cnn().state_dict(), **values}, tmp_path / "a.pth")
    metadata = read_checkpoint(tmp_path / "a.pth").metadata
    assert {key: metadata[key] for key in values} == {
        "classes": ["cat", "dog"],
        "class_to_idx": {"cat": 0, "dog": 1},
        "args": {"lr": 0.1, "data": "/data/x", "colour": "red"},
        "accuracy": 0.5,
        "best": [3, True, None],
    }


def test_classes_that_are_not_installed_are_read(tmp_path, monkeypatch):
    module = types.ModuleType("omegaconf")
    for name in ("DictConfig", "AnyNode"):
        setattr(module, name, type(name, (), {"__module__": "omegaconf"}))
    config, node = module.DictConfig(), module.AnyNode()
    node._val, node._metadata = 5, None
    config._content, config._parent = {"lr": node}, config
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", module)
        torch.save({"cfg": config, "state_dict": plain_cnn().state_dict()}, tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.metadata["cfg"] == {"lr": 5}
    assert list(checkpoint.weights) == ["state_dict"]


def view_of(offset, shape, stride, bytes_in_file=16):
    """A file with one tensor, whose place in its storage is as given."""
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape)
    steps = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in stride)
    body = (
        b"\x80\x02}" + text(b"a.weight") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text(b"storage")
        + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x04tQ\x8a\x08" + struct.pack("<q", offset)
        + b"(" + numbers + b"t(" + steps + b"t\x89}tRs."
    )  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/data/0", bytes(bytes_in_file))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "held"),
    [
        (1, (4,), (1,), 16),
        (0, (5,), (1,), 16),
        (0, (2, 2), (3, 1), 16),
        (-1, (2,), (1,), 16),
        (0, (2,), (-1,), 16),
        (0, (4,), (1,), 8),
        (0, (2**40, 2**40), (0, 0), 16),
        (0, (2**30,), (0,), 16),
        (2**62, (0,), (1,), 16),
        (0, (4,), (1, 1), 16),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, offset, shape, stride, held):
    (tmp_path / "a.pth").write_bytes(view_of(0, (2, 2), (2, 1)))
    assert read_weights(tmp_path / "a.pth")["a.weight"].shape == (2, 2)
    (tmp_path / "a.pth").write_bytes(view_of(offset, shape, stride, held))
    with pytest.raises(LookalikeError, match="cannot read the weights file"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "body",
    [
        b"(" * 30_000 + b"t" * 30_000 + b".",  # tuples within tuples
        b"\x80\x02)" + b"\x85" * 50_000 + b"}\x94h\x000.",
        b"\x80\x02}" + b")" + b"\x85" * 50_000 + b"K\x01s.",  # as the key of a dictionary
        b"\x80\x02]q\x00" + b"h\x00a" * 1000 + b".",  # a list within itself
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"x.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # remembered under a huge number
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R.",
        b"\x80\x02" + text(b"x" * 100_000) + b"q\x00" + b"0c_codecs\nencode\nh\x00\x85R" * 2000 + b".",
    ],
    ids=range(9),
)
def test_small_files_ask_for_little(tmp_path, body):
    (tmp_path / "a.pth").write_bytes(body)
    assert read(tmp_path / "a.pth") is None
