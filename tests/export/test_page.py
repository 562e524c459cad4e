"""The page answers in a browser as the model does in Python, asks nobody for anything, and runs no one's names."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import LookalikeError, convert, explain
from lookalike.data import ImageArray, Preprocessing
from lookalike.export import write_page
from tests.export.test_file import PREPROCESSING, pixels
from tests.export.test_plain import network

ROOT = Path(__file__).parents[2]
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT / "node_modules" / "onnxruntime-web"))
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
# what a browser hands over when a picture is dropped
TRANSFER = """bytes => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "0.png", {type: "image/png"}));
  return data;
}"""
RESIZE = ROOT / "src/lookalike/export/templates/resize.js"
# a runtime of three names, which no browser could run
STUB = 'var a=1,b={wasm:{}},c="</script>";export{a as InferenceSession,a as Tensor,b as env,c as default};\n//# end\n'


@pytest.fixture(scope="module")
def model():
    values, labels = pixels()
    preprocessing = Preprocessing.square(12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    data = ImageArray(values, labels, ["ant", HOSTILE, "cat", "dog"], preprocessing)
    return convert(network(), data, 2, progress=False)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("page") / "exported"
    model.export(folder, pixels=True)
    return folder


@pytest.fixture
def stub(tmp_path):
    package = tmp_path / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "dist" / "ort.wasm.bundle.min.mjs").write_text(STUB)
    (package / "dist" / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm")
    return package


def test_the_page_is_one_file_whose_policy_forbids_every_request(folder, stub):
    page = write_page(folder, stub, title=HOSTILE).read_text(encoding="utf-8")
    assert page.count("<script") == 4
    assert page.count("</script>") == 4
    assert HOSTILE not in page
    assert "default-src 'none'; img-src data: blob:; style-src 'sha256-" in page
    assert "const ort = {InferenceSession: a, Tensor: a, env: b};" in page


def test_a_calibrated_page_says_what_unfamiliar_means_there(folder, stub, tmp_path):
    farther = "farther from its nearest prototype than every training image behind that prototype"
    assert farther in write_page(folder, stub).read_text(encoding="utf-8")
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("page.html"))
    described = json.loads((folder / "prototypes.json").read_text())
    described["calibration"] = {"false_alarm": 0.05}
    (tmp_path / "other" / "prototypes.json").write_text(json.dumps(described))
    page = write_page(tmp_path / "other", stub).read_text(encoding="utf-8")
    why = "its novelty score is higher than that of nearly all validation images"
    assert f"Unfamiliar: {why}. At most 5% of familiar images are called so. This may" in page
    assert farther not in page


@pytest.mark.parametrize(("calibration", "said"), [(None, "Farther from it than all 7"), ({}, "As far from it as")])
def test_only_distances_are_said_to_be_farther_than_all(browser, calibration, said):
    prototype = {"class": "ant", "count": 7, "image": None}
    described = {"prototypes": [prototype], "calibration": calibration, "evidence": False, "preprocessing": {}}
    data = json.dumps({"described": described, "colours": []})
    tab = browser.new_page()
    tab.set_content(f'<script type="application/json" id="data">{data}</script>')
    tab.evaluate("document.head.append(Object.assign(document.createElement('script'), {textContent: `var ort = {}`}))")
    tab.add_script_tag(path=RESIZE.with_name("page.js"))
    answer = {"nearest": [0], "percentiles": [100], "unfamiliar": True}
    assert said in tab.evaluate("answer => likeness(answer, 0, null, 1).textContent", answer)
    assert tab.evaluate("doubtOf({inSet: null})") == ""
    tab.close()


def test_a_page_says_the_set_and_whether_to_answer(browser):
    calibration = {"coverage": 0.95, "abstention": {"error": 0.05}}
    described = {"class_names": ["ant", "bee", "cat"], "calibration": calibration, "preprocessing": {}}
    data = json.dumps({"described": described, "colours": []})
    tab = browser.new_page()
    tab.set_content(f'<script type="application/json" id="data">{data}</script>')
    tab.evaluate("document.head.append(Object.assign(document.createElement('script'), {textContent: `var ort = {}`}))")
    tab.add_script_tag(path=RESIZE.with_name("page.js"))
    assert [tab.evaluate("inSet => doubtOf({inSet})", inside) for inside in ([0, 0, 0], [0, 1, 0], [1, 1, 1])] == [
        "Nothing I know, with 95% coverage.",
        "Only “bee”, with 95% coverage.",
        "Either “ant”, “bee” or “cat”, with 95% coverage.",
    ]
    assert tab.evaluate("doubtOf({inSet: [0, 0, 1], answered: false})").endswith(
        "Too unsure for an answer, if at most 5% of the answers may be wrong."
    )
    tab.close()


def test_what_a_page_cannot_show_is_refused(model, folder, stub, tmp_path):
    with pytest.raises(LookalikeError, match=r"does not hold onnxruntime-web .* npm install onnxruntime-web"):
        write_page(folder, tmp_path / "elsewhere")
    with pytest.raises(LookalikeError, match="holds no model exported to ONNX"):
        write_page(tmp_path, stub)
    shutil.copytree(folder, tmp_path / "other")
    described = json.loads((folder / "prototypes.json").read_text())
    (tmp_path / "other" / "prototypes.json").write_text(json.dumps({**described, "inputs": "inputs of the network"}))
    with pytest.raises(LookalikeError, match=r"export it with pixels=True \(--pixels\)"):
        write_page(tmp_path / "other", stub)
    (stub / "dist" / "ort.wasm.bundle.min.mjs").write_text("var a=1;")
    with pytest.raises(LookalikeError, match="not a script that this version of lookalike knows"):
        write_page(folder, stub)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("../secret.txt", "must be 'prototypes/NNNNN.png' or a PNG as a data URI, not '../secret.txt'"),
        ("prototypes/../../secret.txt", "must be 'prototypes/NNNNN.png'"),
        ("data:text/html;base64,AAAA", "must be 'prototypes/NNNNN.png'"),
        ("prototypes/00000.png", "it is a link, not a file"),
        ("prototypes/00001.png", "is no PNG"),
        ("prototypes/00099.png", "it does not exist"),
        (3, "a prototype's image must be text"),
    ],
)
def test_a_page_takes_no_file_but_the_pictures_of_prototypes(folder, stub, tmp_path, image, message):
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("page.html"))
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (tmp_path / "other" / "prototypes" / "00000.png").unlink()
    (tmp_path / "other" / "prototypes" / "00000.png").symlink_to(secret)
    (tmp_path / "other" / "prototypes" / "00001.png").write_text("secret")
    described = json.loads((folder / "prototypes.json").read_text())
    described["prototypes"] = [{**described["prototypes"][0], "image": image}]
    (tmp_path / "other" / "prototypes.json").write_text(json.dumps(described))
    with pytest.raises(LookalikeError, match=message):
        write_page(tmp_path / "other", stub)
    assert not (tmp_path / "other" / "page.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessing": None}, "prototypes.json.preprocessing must be"),
        ({"prototypes": [{"name": "a"}]}, "has no entry 'image'"),
        ({"prototypes": 3}, "prototypes.json.prototypes must be a list"),
        ({"class_names": [1]}, r"prototypes.json.class_names\[0\] must be text"),
    ],
)
def test_a_damaged_description_is_refused_in_one_line(folder, stub, tmp_path, change, message):
    shutil.copytree(folder, tmp_path / "other")
    described = json.loads((folder / "prototypes.json").read_text())
    (tmp_path / "other" / "prototypes.json").write_text(json.dumps({**described, **change}))
    with pytest.raises(LookalikeError, match=message):
        write_page(tmp_path / "other", stub)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing.square(24),
        Preprocessing((40, 50), None, interpolation="lanczos"),
        Preprocessing((40, 50), (60, 60), fit="contain", interpolation="hamming", fill=(3, 4, 5)),
        Preprocessing((41, 50), (41, 50), fit="cover", interpolation="bicubic"),
        Preprocessing(33, (30, 30), interpolation="nearest"),
        Preprocessing(33, (30, 31), mean=(0.5,), std=(0.5,), window=(0.8, 0.7), interpolation="box"),
    ],
    ids=lambda p: p.interpolation,
)
def test_pictures_are_resized_as_in_python(browser, preprocessing):
    tab = browser.new_page()
    tab.add_script_tag(path=RESIZE)
    rng = np.random.default_rng(0)
    for height, width in ((61, 103), (52, 66)):
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rgba = np.dstack([picture, np.full((height, width), 255, np.uint8)])
        call = "prepared(new Uint8Array(pixels), width, height, options)"
        script = f"([pixels, width, height, options]) => {{ const r = {call}; return [r.height, r.width, ...r.data]; }}"
        rows, columns, *found = tab.evaluate(script, [rgba.ravel().tolist(), width, height, preprocessing.to_dict()])
        expected = preprocessing.pixels(preprocessing(Image.fromarray(picture))).permute(1, 2, 0)
        assert (rows, columns) == tuple(expected.shape[:2])
        np.testing.assert_array_equal(np.reshape(found, expected.shape), (expected * 255).round().numpy())
    tab.close()


def test_a_picture_gets_the_same_answer_as_in_python(browser, model, folder, tmp_path):
    """Needs the npm package ``onnxruntime-web``, beside the project or where ONNXRUNTIME_WEB says."""
    if not (RUNTIME / "dist").is_dir():
        pytest.skip("onnxruntime-web is not installed (npm install onnxruntime-web)")
    page = write_page(folder, RUNTIME)
    tab, said, asked = browser.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    for number, (height, width) in enumerate(((12, 12), (20, 31), (30, 25))):
        file = tmp_path / f"{number}.png"
        values = np.random.default_rng(number).integers(0, 150, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(file)
        if number == 0:
            tab.dispatch_event(
                "#drop", "drop", {"dataTransfer": tab.evaluate_handle(TRANSFER, list(file.read_bytes()))}
            )
        else:
            tab.set_input_files("#file", file)
        tab.locator("#status", has_text=f"{file.name}: answered").wait_for()
        answer, (expected,) = json.loads(tab.get_attribute("body", "data-answer")), explain(model, file)
        np.testing.assert_allclose(answer["probabilities"], expected.probabilities, atol=1e-5)
        assert answer["nearest"] == [near.prototype for near in expected.likenesses]
        assert answer["unfamiliar"] == expected.unfamiliar
        assert tab.locator("#likenesses article").count() == 3
    (tmp_path / "text.png").write_text("no picture")
    tab.set_input_files("#file", tmp_path / "text.png")
    tab.locator("#status", has_text="text.png: no picture that this browser can read").wait_for()
    see_through = np.full((12, 12, 4), 200, np.uint8)
    Image.fromarray(see_through).save(tmp_path / "through.png")
    tab.set_input_files("#file", tmp_path / "through.png")
    tab.locator("#status", has_text="through.png: no picture that this browser can read (it has transparent").wait_for()
    assert asked == [page.as_uri()]
    assert said == []
    tab.close()


def test_images_that_are_padded_take_no_bytes(tmp_path):
    values, labels = pixels()
    padded = Preprocessing((12, 10), None, PREPROCESSING.mean, PREPROCESSING.std, pad=(12, 12))
    model = convert(network(), ImageArray(values, labels, list("abcd"), padded), 2, progress=False)
    with pytest.raises(LookalikeError, match="padded after they are normalised"):
        model.export(tmp_path / "padded", kind="pt2", pixels=True)
