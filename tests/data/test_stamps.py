"""The stamps from a tiny folder in the package's layout: classes, split by object, masks, and how they are fetched."""

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data import HasMasks, Preprocessing, fetch_stamps, load_data, load_stamps
from lookalike.data.stamps import FOLDERS, object_of

NAMES = ["apple_fuji", "apple_gala", "apple3", "pear", "fig-blue", "fig-red", "plum", "kiwi", "lime", "date"]


def write_stamps(folder):
    for k, inside in enumerate(FOLDERS.values()):
        (folder / inside / "cartoon").mkdir(parents=True)
        for i, name in enumerate(NAMES):
            pixels = np.zeros((40, 20, 4), dtype=np.uint8)  # transparent pixels are black here
            pixels[10:30, :10] = (10 * k, 20 * i, 200, 255)
            Image.fromarray(pixels).save(folder / inside / f"{name}.png")
        Image.new("RGBA", (8, 8)).save(folder / inside / "cartoon" / "drawn.png")
        Image.new("RGBA", (8, 8)).save(folder / inside / "pear_mirror.png")
    return folder


@pytest.fixture
def stamps(tmp_path, monkeypatch):
    folder = write_stamps(tmp_path / "usr/share/tuxpaint/stamps")
    monkeypatch.setenv("LOOKALIKE_STAMPS", str(tmp_path))
    return folder


def test_variants_of_one_object_stay_in_one_part(stamps):
    for seed in range(5):
        bundle = load_stamps(seed=seed)
        parts = [{(label, object_of(f)) for f, label in zip(p.files, p.labels, strict=True)}
                 for p in (bundle.train, bundle.test)]  # fmt: skip
        assert not parts[0] & parts[1]
        assert np.bincount(bundle.test.labels).tolist() == [2] * 10  # of ten pictures each
        assert len(bundle.train) + len(bundle.test) == 100  # no drawing, no mirror image
    assert bundle.class_names == sorted(FOLDERS)
    assert load_stamps().test.files == load_stamps(seed=0).test.files != bundle.test.files
    assert bundle.split.seed == 4


def test_objects_are_laid_on_white_and_masks_follow_the_geometry(stamps):
    bundle = load_data("stamps")
    x, _ = bundle.train[0]
    mask = bundle.train.mask(0)
    assert isinstance(bundle.train, HasMasks)
    assert isinstance(bundle.test.select(np.array([1])), HasMasks)
    assert isinstance(bundle.train.joined(bundle.test), HasMasks)
    assert tuple(x.shape) == (3, 224, 224)
    assert tuple(mask.shape) == (224, 224)
    # 40×20 is contained in 224×224: 112 wide, in the middle; the object is its left half and middle rows
    expected = torch.zeros(224, 224, dtype=torch.bool)
    expected[56:168, 56:112] = True
    assert (mask ^ expected).float().mean() < 0.01
    white = (1 - torch.tensor(bundle.preprocessing.mean)) / torch.tensor(bundle.preprocessing.std)
    is_white = (x - white[:, None, None]).abs().amax(0) < 0.01
    assert is_white[~expected].float().mean() > 0.98
    assert not is_white[60:164, 60:108].any()
    cropped = load_data("stamps", Preprocessing.square(20, mean=(0.5,), std=(0.5,)))
    assert cropped.preprocessing.transparency == "white"
    assert cropped.train.mask(0)[:, :9].all()
    assert not cropped.train.mask(0)[:, 11:].any()


def test_masks_need_a_preprocessing(stamps):
    bundle = load_data("stamps")
    bundle.train.transform = lambda image: torch.zeros(3, 8, 8)
    with pytest.raises(LookalikeError, match=r"masks follow a Preprocessing.*evaluate\(\.\.\., masks="):
        bundle.train.mask(0)


def test_what_is_missing_is_named(stamps, tmp_path, monkeypatch):
    with pytest.raises(LookalikeError, match=r"no class 'whale'; its classes are bird, bovine"):
        load_stamps(classes=["bird", "whale"])
    for path in (stamps / FOLDERS["tree"]).glob("*.png"):
        path.unlink()
    with pytest.raises(LookalikeError, match=r"no pictures in .*plants/trees.* not complete"):
        load_stamps()
    monkeypatch.setenv("LOOKALIKE_STAMPS", str(tmp_path / "elsewhere"))
    with pytest.raises(LookalikeError, match=r"LOOKALIKE_STAMPS='.*elsewhere' has no stamps"):
        load_stamps()


def test_fetching_unpacks_the_package_once(tmp_path, monkeypatch):
    """With programs in the place of apt-get and dpkg-deb that do as they do."""
    made, bin_folder = tmp_path / "made", tmp_path / "bin"
    write_stamps(made / "usr/share/tuxpaint/stamps")
    bin_folder.mkdir()
    package = "tuxpaint-stamps-default"
    scripts = {"apt-get": f'test "$1 $2" = "download {package}" && touch {package}_1_all.deb',
               "dpkg-deb": f'test -f "$2" && mkdir -p "$3" && cp -r {made}/. "$3"'}  # fmt: skip
    for name, script in scripts.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.delenv("LOOKALIKE_STAMPS", raising=False)
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    folder = fetch_stamps()
    assert folder == tmp_path / "data/stamps/usr/share/tuxpaint/stamps"
    assert len(load_data("stamps").train) == 80
    (bin_folder / "apt-get").write_text("#!/bin/sh\necho 'E: no such package' >&2\nexit 100\n")
    assert fetch_stamps() == folder  # nothing is run again
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "other"))
    with pytest.raises(LookalikeError, match=r"apt-get failed \(E: no such package\): unpack Debian's package"):
        fetch_stamps()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LookalikeError, match=r"no apt-get and dpkg-deb.*LOOKALIKE_STAMPS=FOLDER"):
        fetch_stamps()
