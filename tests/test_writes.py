"""Every file that the package writes replaces the old one as a whole: a full disk or a kill leaves the old one."""

import ast
from pathlib import Path

import pytest

import lookalike
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.replacing import naming_failed_writes, replacing_file, replacing_folder
from lookalike.metrics import Scorecard

SOURCE = Path(lookalike.__file__).parent
WRITING = {"write_text", "write_bytes", "savefig", "save_file", "to_csv", "to_parquet", "tofile", "savez", "dump"}
IN_MEMORY = ("BytesIO", "StringIO")
SAFE = {"replacing_file", "replacing_folder", "fresh_folder"}
# Functions that write into a folder or file which their caller replaces as a whole, or that have a protocol of their
# own: (module, function).
ASIDE = {
    ("replacing.py", "_create_locked"),
    ("files.py", "path_as_text"),
    ("embedding/writing.py", "_begin"),  # a journal of embeddings, which says how much of them is intact
    ("embedding/writing.py", "_resume"),
    ("saved/folder.py", "_flush_to_disk"),
    ("saved/tensor_file.py", "write_tensors"),
    ("demo/drawing.py", "draw_sheet"),
    ("cli/explain.py", "_draw"),
    ("cli/explain.py", "_draw_parts"),
    ("cli/console.py", ""),  # the system's null device, in place of an output that the shell closed
    ("cli/watch.py", "_append"),  # a log of the user's that grows by a line at a time
    ("audit/suspects.py", "save"),  # its to_csv() returns the text
    ("experiments/large.py", "_compare_methods"),  # in a temporary folder
    ("experiments/large.py", "_reset_peak_memory"),  # tells the system's own file to count anew
}


def unguarded_writes(path):
    """Yields (function, line, call) for each call that writes a file outside of a replacement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def visit(node, function, guarded, buffers):
        if isinstance(node, ast.FunctionDef):
            function = node.name
            buffers = buffers | {
                target.id
                for child in ast.walk(node)
                if isinstance(child, ast.Assign) and any(kind in ast.unparse(child.value) for kind in IN_MEMORY)
                for target in ast.walk(child.targets[0])
                if isinstance(target, ast.Name)
            }
        if isinstance(node, ast.With):
            guarded = guarded or any(name in ast.unparse(item.context_expr) for item in node.items for name in SAFE)
        if isinstance(node, ast.Call) and not guarded and writes(node, buffers):
            yield function, node.lineno, ast.unparse(node)[:80]
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, guarded, buffers)

    yield from visit(tree, "", False, set())


def writes(call, buffers):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = [ast.unparse(argument) for argument in call.args]
    if any(argument in buffers for argument in arguments):
        return False
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name == "open":
        modes = [a for a in arguments + [ast.unparse(k.value) for k in call.keywords] if a[:1] in "'\""]
        return any(set(mode) & set("wax+") for mode in modes if len(mode) <= 6)
    if name == "save":
        return owner in ("np", "torch", "image", "Image") or "convert(" in owner
    return (name in WRITING and owner not in ("json", "yaml")) or (name == "dump" and len(arguments) > 1)


@pytest.mark.slow
def test_no_file_is_written_but_as_a_whole():
    bare = []
    for path in sorted(SOURCE.rglob("*.py")):
        module = str(path.relative_to(SOURCE))
        bare += [
            f"{module}:{line}: {call} in {function}"
            for function, line, call in unguarded_writes(path)
            if (module, function) not in ASIDE
        ]
    assert bare == []


def test_the_search_for_bare_writes_has_eyes(tmp_path):
    path = tmp_path / "bare.py"
    path.write_text(
        "def f(p, q):\n    open(p, 'w')\n    p.write_text('')\n    np.save(p, q)\n    figure.savefig(p)\n"
        "    with replacing_file(p) as aside:\n        aside.write_text('')\n    p.open('rb')\n"
    )
    assert [line for _, line, _ in unguarded_writes(path)] == [2, 3, 4, 5]


def test_a_file_that_came_up_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "card.json"

    def write():
        with replacing_file(path, replace=False) as aside:
            aside.write_text("ours")
            path.write_text("theirs")

    with pytest.raises(LookalikeError, match="was not there before"):
        write()
    assert path.read_text() == "theirs"
    with pytest.raises(LookalikeError, match="was not there before"):
        Scorecard({"accuracy": [1.0]}, {}, ["a"]).save(path, overwrite=False)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("card.json", "theirs")]
    write_whole(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_is_one_line_and_leaves_the_old(tmp_path, kind):
    target = tmp_path / "result"
    replacing = replacing_file(target) if kind == "file" else replacing_folder(target, replace=True)
    if kind == "file":
        target.write_text("old")
    with pytest.raises(LookalikeError, match="No space left on device; nothing that was there before"), replacing:
        raise OSError(28, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == (["result"] if kind == "file" else [])


def test_errors_of_other_kinds_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), naming_failed_writes(tmp_path):
        (tmp_path / "nowhere").read_text()
