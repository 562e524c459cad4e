"""Files are told by their first bytes; what is not read is refused in one line with a way out."""

import gzip
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.encoder import read_checkpoint, read_weights
from tests.architectures import plain_cnn

REFUSED = {
    "empty": (b"", "is empty; its download or copy broke off"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102530333\n",
        "is a Git LFS pointer for 102,530,333 bytes, not the weights; run 'git lfs pull'",
    ),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page; the download led to a page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x80\x01", "is an ONNX model"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file, as Keras and TensorFlow write it"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(20), "is a TensorFlow Lite model"),
    "gguf": (b"GGUF\x03" + bytes(20), "is a GGUF file of quantised weights"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(50), "is one NumPy array"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "is a 7-Zip archive; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), "is a Zstandard archive; unpack it"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a picture"),
    "json": (b'{"model_type": "vit"}', "is JSON text that names no weights"),
    "yaml": (b"model:\n  name: resnet\n", "is text \\('model:'\\)"),
    "noise": (bytes(range(255, 150, -1)), "is damaged or of an unknown kind"),
    "AppleDouble": (b"\x00\x05\x16\x07\x00\x02" + bytes(50), "is a companion file of macOS"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_told_by_their_first_bytes(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(LookalikeError, match=message) as raised:
        read_checkpoint(tmp_path / "model.pth")
    assert "weights_only" not in str(raised.value)


def test_archives_are_refused_by_what_is_in_them(tmp_path):
    torch.save(plain_cnn().state_dict(), tmp_path / "a.pth")
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.pth", "a.pth")
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    for name, inner in (("zipped.zip", "a.pth"), ("k.keras", "model.weights.h5"), ("s.mar", "MAR-INF/MANIFEST.json")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inner, b"x")
    torch.jit.save(torch.jit.script(plain_cnn()), tmp_path / "script.pt")
    for name, message in (
        ("a.gz", "a gzip archive; unpack it"),
        ("a.tar", "a tar archive; unpack it"),
        ("a.npz", "a NumPy archive of 1 arrays"),
        ("zipped.zip", r"a zip archive of 1 files \('a.pth'\); unpack it"),
        ("k.keras", "a Keras model"),
        ("s.mar", "a TorchServe archive"),
        ("script.pt", r"a TorchScript program, whose code is not run; save the state_dict\(\)"),
    ):
        with pytest.raises(LookalikeError, match=message) as raised:
            read_checkpoint(tmp_path / name)
        assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors", "pickle", "pickle of arrays", "whole", "whole legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_weights_are_read_under_any_suffix(tmp_path, how, suffix):
    net = plain_cnn()
    state, path = net.state_dict(), tmp_path / f"a{suffix}"
    if how == "safetensors":
        save_file(state, path)
    elif how.startswith("pickle"):
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps(arrays if "arrays" in how else state))
    else:
        torch.save(net if "whole" in how else state, path, _use_new_zipfile_serialization="legacy" not in how)
    found = read_weights(path)
    assert (sorted if how == "safetensors" else list)(found) == (sorted if how == "safetensors" else list)(state)
    assert all(found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]) for name in state)


def test_types_and_views_are_read_as_they_were_saved(tmp_path):
    base = torch.arange(24.0)
    state = {
        "a.weight": base[4:16].view(3, 4).t(),
        "b.weight": base[::2],
        "c.weight": torch.randn(3, 2).to(torch.bfloat16),
        "d.weight": torch.tensor([True, False]),
        "e.weight": torch.tensor(3),
        "f.weight": torch.empty(0, 3),
        "g.weight": torch.randn(2, 2, dtype=torch.float64),
        "h.weight": torch.ones(1).expand(5),
        "i.weight": nn.Parameter(torch.randn(2, 3).half()),
        "j.weight": torch.randn(2, dtype=torch.complex64),
        "k.weight": torch.tensor([-3], dtype=torch.int8),
    }
    for zipped in (True, False):
        torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        found = read_weights(tmp_path / "a.pth")
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor.detach()), name


def test_a_flipped_bit_is_named(tmp_path):
    torch.save({"a.weight": torch.randn(1000)}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(LookalikeError, match="the checksum of 'a/data/0' in it is wrong"):
        read_weights(tmp_path / "a.pth")


def shards(folder, suffix, save, map_name):
    state = plain_cnn().state_dict()
    names = list(state)
    parts = [{name: state[name] for name in names[:3]}, {name: state[name] for name in names[3:]}]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-00002{suffix}"
        save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / map_name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return state


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_by_their_index_or_folder(tmp_path, kind):
    index = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[kind]
    state = shards(tmp_path, f".{kind}", save_file if kind == "safetensors" else torch.save, index)
    for path in (tmp_path / index, tmp_path):
        found = read_weights(path)
        assert list(found) == list(state)
        assert all(torch.equal(found[name], state[name]) for name in state)
    (tmp_path / index).unlink()
    assert set(read_weights(tmp_path)) == set(state)
    (tmp_path / f"model-00002-of-00002.{kind}").unlink()
    (tmp_path / "model-00003-of-00003.bin").touch()
    with pytest.raises(LookalikeError, match=r"holds 2 files of weights .* give one file"):
        read_weights(tmp_path)


def test_indices_that_lie_are_refused(tmp_path):
    shards(tmp_path, ".safetensors", save_file, "a.index.json")
    for weight_map, message in (
        ({"a": "../other.safetensors"}, "outside of its folder"),
        ({"a": "/etc/passwd"}, "outside of its folder"),
        ({"a": "model-00007-of-00009.safetensors"}, "of 1 shards .* 1 are missing: model-00007"),
        ({"a": "model-00001-of-00002.safetensors"}, "lack 'a'"),
        ({"a": "a.index.json"}, "is an index itself"),
        ({"a": 3}, "is damaged"),
        ({}, "is damaged"),
    ):
        (tmp_path / "a.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(LookalikeError, match=message):
            read_checkpoint(tmp_path / "a.index.json")


def test_folders_without_weights_are_refused(tmp_path):
    for name, message in (
        ("saved_model.pb", "TensorFlow SavedModel"),
        ("__0_0.distcp", "distributed checkpoint of torch"),
        ("data.pkl", "an unpacked file of torch.save"),
        ("config.json", "holds no weights"),
        ("notes.txt", "holds no file of weights"),
    ):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(LookalikeError, match=message):
            read_checkpoint(folder)
