"""An exported model as one HTML file that answers in a browser, without a server and without a network."""

import base64
import gzip
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lookalike._core import checks
from lookalike._core.display import policy_hash
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.names import visible
from lookalike._core.records import from_json, parse_json, read_bytes
from lookalike._core.wording import why_unfamiliar
from lookalike.data import Preprocessing

PAGE = "page.html"
_RUNTIME = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_EXPORTS = re.compile(r"export\s*\{([^{}]*)\}\s*;?\s*(//[^\n]*\s*)*$")
_COLOURS = 64  # of the map's scale
_PICTURE = re.compile(r"prototypes/\d{5,}\.png")  # any other name could be a file that nobody means to publish
_PICTURE_INSIDE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]*=*")
_PNG = b"\x89PNG\r\n\x1a\n"
_INSTALL = "npm install onnxruntime-web"


def write_page(exported: str | Path, runtime: str | Path, *, title: str | None = None) -> Path:
    """Writes ``page.html`` into an exported folder: drop a photograph, and see what it looks like and why.

    The page is one file with the model, its prototypes and ONNX Runtime for browsers inside. It works without a server
    and without a network, from a disk too. Its content security policy forbids every request.

    Args:
        exported: A folder that ``export_model`` wrote with ``pixels=True`` as ONNX.
        runtime: The npm package ``onnxruntime-web``: its folder, or the folder in which npm installed it.
        title: Title of the page; None names the classes.

    Returns:
        The page.

    Raises:
        LookalikeError: If the folder has no such export, the package is not there, or the model's images are prepared
            in a way that the page cannot repeat.
    """
    checks.path("exported", exported)
    checks.path("runtime", runtime)
    checks.optional(checks.text, "title", title)
    folder = Path(exported)
    described = _description(folder)
    script, wasm = _runtime_files(Path(runtime))
    data = {
        "described": {**described, "prototypes": [_with_picture(folder, row) for row in described["prototypes"]]},
        "colours": _colours(),
    }
    write_whole(folder / PAGE, _rendered(title or _title(described), data, script, folder / "model.onnx", wasm))
    return folder / PAGE


@dataclass(frozen=True)
class _Described:
    """What a page needs of an export's description."""

    class_names: list[str]
    fingerprint: str
    evidence: bool
    preprocessing: dict[str, Any]
    prototypes: list[dict[str, Any]]
    parts: dict[str, Any] | None = None  # earlier exports do not say


def _description(folder: Path) -> dict[str, Any]:
    """Reads and checks what an export says of itself."""
    file = folder / "prototypes.json"
    if not file.is_file() or not (folder / "model.onnx").is_file():
        raise LookalikeError(
            f"{str(folder)!r} holds no model exported to ONNX: 'model.onnx' or 'prototypes.json' is missing"
        )
    if (folder / "model.onnx").is_symlink():
        raise LookalikeError(f"{str(folder / 'model.onnx')!r} is a link; copy the file to there")
    try:
        described = parse_json(read_bytes(file))
    except (LookalikeError, OSError) as error:
        raise LookalikeError(f"{str(file)!r} cannot be read: {error}") from error
    if not isinstance(described, dict) or not str(described.get("inputs")).startswith("uint8"):
        raise LookalikeError("a page needs a model that takes bytes: export it with pixels=True (--pixels)")
    names = {field.name for field in fields(_Described)}
    needed = {key: value for key, value in described.items() if key in names}
    checked: _Described = from_json(_Described, needed, "prototypes.json")
    if Preprocessing.from_dict(checked.preprocessing).value_range is not None:
        raise LookalikeError("the model's images have a value_range; browsers decode pictures to 8 bits only")
    return described


def _with_picture(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Returns a prototype's row with its picture inside.

    Raises:
        LookalikeError: If the row names anything but a prototype's picture: a folder made by someone else must not
            bring other files into a page that is published.
    """
    if "image" not in row:
        raise LookalikeError("a prototype in prototypes.json has no entry 'image'; export the model again")
    image = from_json(str | None, row["image"], "a prototype's image")
    if image is None or _PICTURE_INSIDE.fullmatch(image):
        return row
    if not _PICTURE.fullmatch(image):
        raise LookalikeError(
            f"a prototype's image must be 'prototypes/NNNNN.png' or a PNG as a data URI, not {checks.shown(image)}"
        )
    file = folder / image
    if file.parent.is_symlink():
        raise LookalikeError(f"{str(file.parent)!r} is a link; copy the folder to there")
    try:
        content = read_bytes(file)
    except (LookalikeError, OSError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise LookalikeError(f"{str(file)!r} cannot be read: {reason}; export the model again") from error
    if not content.startswith(_PNG):
        raise LookalikeError(f"{str(file)!r} is no PNG; export the model again")
    return {**row, "image": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


def _runtime_files(given: Path) -> tuple[str, Path]:
    """Returns ONNX Runtime's script, with its exports as an object ``ort``, and the path of its WebAssembly."""
    package = Path("onnxruntime-web", "dist")
    for folder in (given, given / "dist", given / package, given / "node_modules" / package):
        if all((folder / name).is_file() for name in _RUNTIME):
            break
    else:
        raise LookalikeError(
            f"{str(given)!r} does not hold onnxruntime-web ({' and '.join(_RUNTIME)}); get it with: {_INSTALL}"
        )
    script = (folder / _RUNTIME[0]).read_text(encoding="utf-8")
    exported_names = _EXPORTS.search(script)
    if exported_names is None:
        raise LookalikeError(f"{str(folder / _RUNTIME[0])!r} is not a script that this version of lookalike knows")
    pairs = [pair.strip().partition(" as ") for pair in exported_names[1].split(",")]
    names = {name: local for local, _, name in pairs if name}
    missing = {"InferenceSession", "Tensor", "env"} - set(names)
    if missing:
        raise LookalikeError(f"{str(folder / _RUNTIME[0])!r} does not export {', '.join(sorted(missing))}")
    exports = ", ".join(f"{name}: {local}" for name, local in names.items() if name != "default")
    return f"{script[: exported_names.start()]}\nconst ort = {{{exports}}};\n", folder / _RUNTIME[1]


def _colours() -> list[list[int]]:
    """Returns the colours of the heat-maps' scale, from against to for, each as red, green and blue."""
    from matplotlib import colormaps

    from lookalike.plots.heatmap import COLOUR_MAP

    return [
        [round(255 * channel) for channel in colormaps[COLOUR_MAP](k / (_COLOURS - 1))[:3]] for k in range(_COLOURS)
    ]


def _title(described: dict[str, Any]) -> str:
    names = [visible(name) for name in described["class_names"]]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _packed(content: bytes, level: int) -> str:
    """Returns bytes as text, compressed first."""
    return base64.b64encode(gzip.compress(content, level, mtime=0)).decode()


def _rendered(title: str, data: dict[str, Any], runtime: str, model: Path, wasm: Path) -> str:
    """Returns the page. Its policy names the hashes of its script and style, so that nothing else can run."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lookalike.export"), undefined=StrictUndefined, autoescape=True, keep_trailing_newline=True
    )
    templates = Path(__file__).with_name("templates")
    page_script = "\n".join((templates / name).read_text(encoding="utf-8") for name in ("resize.js", "page.js"))
    # inside a script element only "</script" and "<!--" mean something to the browser
    script = f"\n{runtime}{page_script}\n".replace("</script", "<\\/script").replace("<!--", "<\\!--")
    calibration = data["described"].get("calibration")
    style = "\n" + (templates / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        title=title,
        script=script,
        style=style,
        script_hash=policy_hash(script),
        style_hash=policy_hash(style),
        data=json.dumps(data).replace("<", "\\u003c"),
        # weights are noise to a compressor, so that more effort gains nothing
        model=_packed(model.read_bytes(), 1),
        wasm=_packed(wasm.read_bytes(), 9),
        licence=data["described"].get("licence"),
        fingerprint=data["described"]["fingerprint"][:12],
        n_prototypes=len(data["described"]["prototypes"]),
        n_classes=len(data["described"]["class_names"]),
        has_evidence=data["described"]["evidence"],
        has_parts=bool(data["described"].get("parts")),
        why_unfamiliar=why_unfamiliar(
            is_calibrated=calibration is not None, of_patches=bool(data["described"].get("parts"))
        ),
        familiar_share=None if calibration is None else f"{100 * calibration['false_alarm']:g}%",
    )
