"""No program is started for a picture, whatever it is called and wherever it comes from."""

import ast
import io
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import lookalike
from lookalike._core.errors import LookalikeError
from lookalike.cli import app
from lookalike.data import Preprocessing, decode_image, list_images, read_image

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A file that is there once Pillow has started Ghostscript, of which there is a false one."""
    programs, trace = tmp_path / "programs", tmp_path / "started"
    programs.mkdir()
    for name in ("gs", "gswin64c"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {trace}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return trace


def opened(content):
    return Image.open(io.BytesIO(content), formats=["EPS"])


def test_the_trap_works(started):
    with pytest.raises(OSError, match=r".+"):
        opened(POSTSCRIPT).load()
    assert started.exists()


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.ps", "a.jpg", "a.tif"])
def test_a_postscript_file_is_refused_by_every_door(started, tmp_path, image_folder, name):
    path = image_folder / "train" / "ant" / name
    path.write_bytes(POSTSCRIPT)
    prepare = Preprocessing.square(8)
    doors = [
        lambda: read_image(path),
        lambda: decode_image(io.BytesIO(POSTSCRIPT)),
        lambda: prepare.read(path),
        lambda: prepare(opened(POSTSCRIPT)),
    ]
    for door in doors:
        with pytest.raises(LookalikeError):
            door()
    list_images([image_folder])
    done = CliRunner().invoke(app, ["convert", "lookalike:small-cnn", str(image_folder), "-o", str(tmp_path / "m")])
    assert done.exit_code in (0, 2)
    assert not started.exists()


def test_every_image_is_opened_with_a_list_of_formats():
    bare = []
    for path in Path(lookalike.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                bare += [f"{path.name}:{node.lineno}"] * (not any(k.arg == "formats" for k in node.keywords))
            elif isinstance(node, ast.Attribute) and node.attr in ("default_loader", "pil_loader", "accimage_loader"):
                bare.append(f"{path.name}:{node.lineno}")
    assert bare == []
