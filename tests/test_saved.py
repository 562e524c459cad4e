"""A saved folder may come from anyone: it is refused in one line, or it works."""

import json
import os
import random
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tools.fuzz_saved import alter, make_models, recompute, use, write_config
from torch import nn
from typer.testing import CliRunner

from lookalike import load
from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike._core.provenance import fingerprint_json
from lookalike._core.working_folder import read_record, write_record
from lookalike.cli import app
from lookalike.conversion.convert import convert
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import LoadedClassifier, load_classifier
from lookalike.metrics import Scorecard, evaluate
from lookalike.networks import NETWORKS

ARGS = {"n_classes": 3, "width": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of four models, by name; not to be altered."""
    return {folder.name: folder for folder in make_models(tmp_path_factory.mktemp("models"))}


@pytest.fixture
def folder(models, tmp_path):
    """A copy of a saved model, to be altered."""
    return shutil.copytree(models["mahalanobis"], tmp_path / "saved")


def refusal(folder):
    with pytest.raises(LookalikeError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def changed(folder, **changes):
    """Changes entries of a configuration, named with double underscores, and its fingerprint."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        entry = config
        for name in outer:
            entry = entry[name]
        entry[last] = value
    write_config(folder, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": "abc"}, "class_names must be a list, not 'abc'"),
        ({"classifier__options__temperature": "warm"}, "classifier.options.temperature must be a number, not 'warm'"),
        ({"classifier__options__temperature": -1}, "temperature must be a number above 0, not -1"),
        ({"class_names": ["a", "a", "b"]}, "two classes are called 'a'"),
        ({"class_names": ["a", "", "b"]}, r"class_names\[1\] is empty"),
        ({"class_names": ["a", 1, "b"]}, r"class_names\[1\] must be text, not 1"),
        ({"class_names": ["a", "b"]}, "labels must be classes from 0 to 1"),
        ({"class_names": ["a", "b", "c", "d"]}, "class 'd' has no prototypes"),
        ({"value_range": [[0.0] * 3, [0.0] * 3]}, "black below white"),
        ({"value_range": [[0.0] * 3]}, "must be a list of 2"),
        ({"value_range": [[0.0], [1.0]]}, "pictures have 3 channels, its value_range 1"),
        ({"value_range": 7}, "value_range must be"),
        ({"images": [["images/00000-0.png"]]}, "pictures of 1 prototypes; there are 6"),
        ({"images": [[], []]}, "equally many pictures"),
        ({"images": [["../a.png"]] * 6}, "no fingerprint of"),
        ({"images": "x"}, "images must be"),
        ({"preprocessing": {"resize": 8}}, "preprocessing has no entry 'crop'"),
        ({"preprocessing": {"resize": 8, "crop": None, "mean": ["x"]}}, r"mean\[0\] must be a number"),
        ({"preprocessing": {"resize": 10**9, "crop": None}}, "resize must be at most 1,000,000,000 pixels in all"),
        ({"preprocessing": {"resize": 8, "crop": [40_000, 1]}}, "must lie between 1 and"),
        ({"preprocessing": {"resize": 8, "crop": None, "blur": 1}}, "unknown entry 'blur'"),
        ({"encoder__spec": {"source": "pickle", "name": "x"}}, "source must be one of"),
        ({"encoder__spec__args": {"n_classes": 3, "width": 10**6}}, "far larger than its weights"),
        ({"encoder__spec__args": {"n_classes": {"a": 1}}}, "must be a plain value"),
        ({"encoder__inputs": {"shape": [3, 10**6, 10**6], "dtype": "float32"}}, "more than 67,108,864 values"),
        ({"encoder__inputs": {"shape": [3, -1, 4], "dtype": "float32"}}, "must not be negative"),
        ({"encoder__inputs": {"shape": [3, 8, 8], "dtype": "load"}}, "dtype must be one of"),
        ({"encoder__inputs": {"shape": [5], "dtype": "float32"}}, "cannot run inputs of"),
        ({"encoder__embedding_dim": 15}, r"must have the shape \(6, 15\)"),
        ({"encoder__embedding_dim": True}, "must be a whole number"),
        ({"similarity__name": "psychic"}, "no similarity is called 'psychic'"),
        ({"similarity__options": {"shrinkage": "a"}}, "shrinkage must be a number, not 'a'"),
        ({"similarity__options": {"colour": 1}}, "no option 'colour'"),
        ({"classifier__options": {"reading": "mean"}}, "reading must be 'max' or 'sum'"),
        ({"classifier__name": "linear", "classifier__options": {}}, "'classifier.weight' is missing"),
        ({"provenance": []}, "provenance must be an object"),
        ({"gallery": 1}, "gallery must be true or false"),
        ({"kind": "oracle"}, "unknown kind 'oracle'"),
        ({"surprise": 1}, "unknown entry 'surprise'"),
        ({"files__../x": {"sha256": "0"}}, "a file outside of it"),
        ({"files__/etc/passwd": {"sha256": "0"}}, "a file outside of it"),
        ({"files__a\0b": {"sha256": "0"}}, "a file outside of it"),
        ({"files__README.md": "0"}, "must be an object"),
        (
            {"format": 3},
            "written by a later version of lookalike .it has format 3; this version reads up to 2",
        ),
        ({"format": "2"}, "no known format: '2'"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", str(value))[:50] if isinstance(value, dict) else "",
)
def test_nonsense_in_the_configuration_is_named(folder, changes, message):
    changed(folder, **changes)
    assert re.search(message, refusal(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 200 + b"1" + b"}" * 200, "nested too deeply"),
        (b'{"format": 1e400}', "a number that is too large: '1e400'"),
        (b'{"format": NaN}', "the number NaN"),
        (b'{"format": ' + b"9" * 5_000 + b"}", "a number of 5000 digits"),
        (b'{"a": 1, "a": 2}', "repeats the entry 'a'"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": "\\ud800"}', "text that is not valid Unicode"),
        (b"[" + b"{}," * 5_000_000 + b"{}]", "more than 4,000,000 values"),
        (b"[1]", "is not that of a saved lookalike model"),
    ],
    ids=range(11),
)
def test_what_is_no_strict_json_is_refused(folder, content, message):
    (folder / "config.json").write_bytes(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("prototypes.counts", None, "'prototypes.counts' is missing"),
        ("prototypes.purity", None, "'prototypes.purity' is missing"),
        ("prototypes.vectors", None, "'prototypes.vectors' is missing"),
        ("prototypes.extra", lambda _: torch.zeros(1), "'prototypes.extra' is unknown"),
        ("similarity.extra", lambda _: torch.zeros(1), "'similarity.extra' is unknown"),
        ("classifier.weight", lambda _: torch.zeros(1), "'classifier.weight' is unknown"),
        ("extra", lambda _: torch.zeros(1), "unknown tensor 'extra'"),
        ("probe", None, "'probe' is missing"),
        ("probe", lambda t: t * torch.nan, "does not compute what the one saved"),
        ("prototypes.vectors", lambda t: t.fill_(torch.nan), "vectors has values that are not finite"),
        ("prototypes.vectors", lambda t: t[:, :3].contiguous(), "must have the shape"),
        ("prototypes.vectors", lambda t: t.long(), "must be floating-point numbers"),
        ("prototypes.labels", lambda t: t.int(), "must be torch.int64"),
        ("prototypes.labels", lambda t: t - 1, "must be classes from 0 to 2"),
        ("prototypes.counts", lambda t: -t, "has negative numbers"),
        ("prototypes.purity", lambda t: t + 1, "between 0 and 1"),
        ("prototypes.nearest", lambda t: t - 100, "has numbers below -1"),
        ("prototypes.distances", lambda t: -t - 1, "finite and not negative"),
        ("prototypes.percentiles", lambda t: t + 1, "between 0 and 100"),
        ("prototypes.quantiles", lambda t: t.flip(1).contiguous(), "must not fall"),
        ("prototypes.quantiles", lambda t: t * torch.nan, "must be given where"),
        ("similarity.transform", lambda t: t.fill_(torch.inf), "not finite"),
        ("similarity.transform", lambda t: t[:2, :2].contiguous(), "do not fit"),
        ("similarity.transform", None, "must be fitted"),
        ("encoder.model.head.weight", lambda t: t.fill_(torch.nan), "'head.weight' has values that are not finite"),
        ("encoder.model.stage1.1.running_var", lambda t: -t, "'stage1.1.running_var' has negative values"),
        ("encoder.model.head.weight", None, "missing: head.weight"),
        ("encoder.model.head.weight", lambda t: t[:2].contiguous(), "of another shape: head.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_in_the_tensors_is_named(folder, name, change, message):
    tensors = load_file(folder / "model.safetensors")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name].clone() if name in tensors else None)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / "model.safetensors")
    assert recompute(folder)
    assert message in refusal(folder)


def test_declared_sizes_are_compared_with_the_file(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def declared(**changes):
        text = json.dumps(header | {"probe": header["probe"] | changes}).encode()
        return struct.pack("<Q", len(text)) + text + data

    for altered, message in (
        (b"", "which is no safetensors file"),
        (struct.pack("<Q", 2**60) + content[8:], "its header declares"),
        (content[:-1], "cut off or damaged"),
        (content + b"\0", "cut off or damaged"),
        (declared(shape=[10**12]), "does not fit its 64 bytes"),
        (declared(shape=[10**12], data_offsets=[0, 4 * 10**12]), "cut off or damaged"),
        (declared(dtype="F128"), "unknown type 'F128'"),
        (declared(shape="x"), "shape must be a list"),
        (struct.pack("<Q", 4) + b"null", "no table of tensors"),
    ):
        path.write_bytes(altered)
        assert recompute(folder)
        assert message in refusal(folder), message


def test_pictures_are_bounded_before_they_are_decoded(folder):
    path = folder / "images" / "00002-1.png"
    for picture, options, message in (
        (Image.new("L", (11_000, 8_000)), {}, "8,000 × 11,000 pixels, which is too large"),
        (Image.new("RGB", (17, 16)), {}, "is 16 × 17 pixels in RGB"),
        (Image.new("RGBA", (16, 16)), {}, "no PNG file of 8-bit grey or RGB"),
        (Image.fromarray(np.zeros((16, 16), dtype=np.uint16)), {}, "no PNG file of 8-bit grey or RGB"),
        (Image.new("RGB", (16, 16)), {"format": "JPEG"}, "is no PNG file"),
    ):
        picture.save(path, **options)
        assert recompute(folder)
        assert re.search(rf"'images/00002-1\.png'.*{message}", refusal(folder))
    path.write_bytes(path.read_bytes()[:40])
    Image.new("RGB", (16, 16)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    assert recompute(folder)
    assert "'images/00002-1.png' cannot be decoded" in refusal(folder)


def test_links_pipes_and_folders_are_no_files(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for name in ("model.safetensors", "config.json"):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert "is a pipe" in refusal(folder)
        path.unlink()
        path.symlink_to("/dev/zero")
        assert "is a link" in refusal(folder)
        path.unlink()
        path.mkdir()
        assert "is a folder" in refusal(folder)
        path.rmdir()
        path.write_bytes(content)
    (folder / "images").rename(folder / "elsewhere")
    (folder / "images").symlink_to("elsewhere")
    assert "behind a link" in refusal(folder)
    assert "folder must be the name of a file or folder" in refusal("a\0b")


def test_a_flipped_bit_is_named_with_its_file(folder):
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            assert f"'{path.relative_to(folder)}'" in refusal(folder)
        path.write_bytes(content[: len(content) // 2])
        assert f"'{path.relative_to(folder)}'" in refusal(folder)
        path.write_bytes(content)
    load(folder)


def test_folders_of_the_first_format_are_read(models, folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    del config["kind"], config["fingerprint"]
    config["format"] = 1
    config["encoder"]["class"] = config["encoder"].pop("network")
    config["files"] = {name: file["sha256"] for name, file in config["files"].items()}
    config["fingerprint"] = fingerprint_json(config)
    (folder / "config.json").write_text(json.dumps(config))
    x = torch.rand(3, 3, 16, 16)
    assert torch.equal(load(folder)(x), load(models["mahalanobis"])(x))


def test_a_classifier_is_checked_likewise(models, tmp_path):
    folder = shutil.copytree(models["classifier"], tmp_path / "net")
    tensors = load_file(folder / "model.safetensors")
    for changes, message in (
        ({"class_names": [1]}, r"class_names\[0\] must be text"),
        ({"encoder": {"network": "SmallCNN", "spec": None}}, "nothing says how to build"),
        ({"encoder": {"network": "SmallCNN", "spec": {"source": "lookalike", "name": "big-cnn"}}}, "big-cnn"),
    ):
        changed(folder, **changes)
        with pytest.raises(LookalikeError, match=message):
            load_classifier(str(folder))
        shutil.copy(models["classifier"] / "config.json", folder)
    save_file(tensors | {"head.weight": tensors["head.weight"] * torch.nan}, folder / "model.safetensors")
    assert recompute(folder)
    with pytest.raises(LookalikeError, match=r"'head\.weight' has values that are not finite"):
        load_classifier(str(folder))


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    network = NETWORKS["small-cnn"](**ARGS).eval()
    loaded = LoadedClassifier(network, {"source": "lookalike", "name": "small-cnn", "args": ARGS})
    sem = convert(loaded, (torch.rand(9, 3, 8, 8), torch.arange(9) % 3), 1, progress=False)
    sem.prototypes.purity.fill_(7)
    with pytest.raises(LookalikeError, match=r"cannot be saved: prototypes\.purity must lie between 0 and 1"):
        sem.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


class WithCache(nn.Module):
    """A network that keeps a buffer which nothing reads."""

    def __init__(self, cache):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(27, 4), nn.ReLU())
        self.head = nn.Linear(4, 3)
        self.register_buffer("cache", cache)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_buffers_that_nothing_reads_need_not_be_finite(tmp_path, value, dtype):
    torch.manual_seed(0)
    x = torch.rand(9, 3, 3, 3)
    sem = convert(WithCache(torch.full((2,), value, dtype=dtype)), (x, torch.arange(9) % 3), 1, progress=False)
    sem.save(tmp_path / "m")
    loaded = load(tmp_path / "m", model=WithCache(torch.zeros(2, dtype=dtype)))
    assert torch.equal(loaded.predict(x), sem.predict(x))
    assert not loaded.encoder.model.cache.isfinite().any()
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    changed(tmp_path / "m", encoder={**config["encoder"], "not_finite": ["cache", "head.weight"]})
    with pytest.raises(LookalikeError, match=r"'head.weight' must be finite"):
        load(tmp_path / "m", model=WithCache(torch.zeros(2, dtype=dtype)))


def test_altered_folders_are_refused_or_work(models, tmp_path):
    """A sample of what ``tools/fuzz_saved.py`` tries by the thousand."""
    for number in range(16):
        chance = random.Random(f"sample/{number}")
        model = models[chance.choice(sorted(models))]
        folder = shutil.copytree(model, tmp_path / f"{model.name}-{number}")
        done = alter(folder, chance)
        assert use(folder).startswith(("refused", "works")), (number, done, use(folder))


def test_other_files_that_are_read_again_are_checked(tmp_path):
    network = NETWORKS["small-cnn"](**ARGS).eval()
    x, y = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    store = embed(network, (x, y), folder=tmp_path / "z", progress=False)
    meta = read_record(tmp_path / "z" / "embeddings.json")
    for changes, message in (
        ({"rows": "x"}, "rows must be a whole number, not 'x'"),
        ({"arrays": ["embeddings"]}, "arrays lacks 'labels'"),
        ({"arrays": [*meta["arrays"], "../x"]}, r"arrays has '\.\./x'"),
        ({"class_names": ["a", "b"]}, "'labels' has 0 to 2, which is impossible"),
        ({"skipped": 3}, "skipped must be a list"),
    ):
        write_record(tmp_path / "z" / "embeddings.json", meta | changes)
        with pytest.raises(LookalikeError, match=message):
            EmbeddingStore.open(tmp_path / "z")
    write_record(tmp_path / "z" / "embeddings.json", meta)
    for array, message in (
        (store.labels - 1, "labels must not be negative; there is a -1"),
        (store.labels[:5], "rows, not 12"),
        (store.labels.astype(float), "labels must be an array of 12 whole numbers"),
        (np.array([{}] * 12), "'labels.npy' cannot be read"),
    ):
        np.save(tmp_path / "z" / "labels.npy", array)
        with pytest.raises(LookalikeError, match=message):
            EmbeddingStore.open(tmp_path / "z")
    (tmp_path / "z" / "labels.npy").write_bytes(b"")
    with pytest.raises(LookalikeError, match=r"'labels\.npy' cannot be read"):
        EmbeddingStore.open(tmp_path / "z")

    card, path = Scorecard({"accuracy": [0.5]}, {}, ["a"]), tmp_path / "card.json"
    for changes, message in (
        ({"runs": {"accuracy": ["x"]}}, r"runs\.accuracy\[0\] must be a number, not 'x'"),
        ({"runs": {"accuracy": []}}, "a figure without a value"),
        ({"runs": 5}, "runs must be an object"),
        ({"notes": {}}, "notes must be a list"),
    ):
        path.write_text(json.dumps(card.to_dict() | changes))
        with pytest.raises(LookalikeError, match=message):
            Scorecard.read(path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(LookalikeError, match=r"cannot read the scorecard .* nested too deeply"):
        Scorecard.read(path)

    sem = convert(network, (x, y), 1, progress=False)
    for content, message in (
        (b"[]", "it has no fingerprint"),
        (b'{"key": {}, "done": {}}', "it has no fingerprint"),
        ({"key": {}, "done": {"a/0": 3}}, "must be a list of 2"),
    ):
        if isinstance(content, bytes):
            (tmp_path / "parts.json").write_bytes(content)
        else:
            write_record(tmp_path / "parts.json", content)
        with pytest.raises(LookalikeError, match=f"cannot resume the evaluation in .*{message}"):
            evaluate(sem, (x, y), only=["transparency"], train=(x, y), resume=tmp_path / "parts.json", progress=False)


@pytest.mark.parametrize("command", ["predict", "evaluate", "convert"])
def test_on_the_command_line_it_is_one_line_and_exit_code_2(folder, image_folder, tmp_path, command):
    changed(folder, value_range="wide")
    further = ["-o", str(tmp_path / "new")] if command == "convert" else []
    result = CliRunner().invoke(app, [command, str(folder), str(image_folder), *further])
    assert result.exit_code == 2
    assert "value_range must be" in result.output
    assert len(result.output.strip().splitlines()) == 1


def write_journal(path, *lines):
    """Writes a journal whose lines fit their checksums."""
    checked = [{**line, "crc32": zlib.crc32(json.dumps(line).encode())} for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in checked))


def test_a_journal_that_is_nonsense_is_not_resumed(tmp_path):
    network = NETWORKS["small-cnn"](**ARGS).eval()
    x, y = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    expected = embed(network, (x, y), folder=tmp_path / "z", progress=False)
    (tmp_path / "z").rename(tmp_path / "ready")
    full_key = {name: expected.info[name] for name in ("weights", "data", "transform", "head", "layers", "outputs")}
    full_key |= {"dtype": "float32", "precision": "auto"}
    lines = (
        {"read": "x"},
        {"read": 4, "rows": 4, "checksums": {"labels": 0}},
        {"read": 4, "rows": 4, "checksums": {"labels": 0}, "arrays": {"labels": {"dtype": "O", "row": []}}},
        {"read": 4, "rows": -4, "checksums": {}, "arrays": {"labels": {"dtype": "<i8", "row": []}}},
        {"notes": 3},
    )
    for number, line in enumerate(lines):
        part = tmp_path / f"{number}.part"
        part.mkdir()
        key = {"key": {"weights": expected.info["weights"]}}
        write_journal(part / "journal.jsonl", key, line)
        with pytest.raises(LookalikeError, match="made with other data and transform and head"):
            embed(network, (x, y), folder=tmp_path / str(number), resume=True, progress=False)
        write_journal(part / "journal.jsonl", {"key": full_key}, line)
        with pytest.warns(LookalikeWarning, match="1 batches in .* do not fit their checksums"):
            store = embed(network, (x, y), folder=tmp_path / str(number), resume=True, progress=False)
        np.testing.assert_array_equal(store.embeddings, expected.embeddings)
