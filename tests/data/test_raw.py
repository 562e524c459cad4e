"""Predictions and explanations of images in whatever form people have them: all the same."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lookalike import LookalikeError, convert, explain, load
from lookalike.data import Preprocessing, load_folder, read_preprocessing
from lookalike.encoder import LoadedClassifier

SPEC = {"source": "file", "name": "net.py:net", "args": {}}
STEPS = transforms.Compose(
    [
        transforms.Resize(20),
        transforms.CenterCrop(16),
        transforms.ToTensor(),
        transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
    ]
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for k, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir()
        for number in range(6):
            pixels = rng.integers(0, 80, (24, 30, 3), dtype=np.uint8)
            pixels[..., k] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def sem(folder):
    return convert(network(), ImageFolder(folder, STEPS), n_prototypes=2, progress=False)


def test_arrays_of_16_bits_are_pictures_like_their_files(sem, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (24, 30), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = sem.predict_proba(tmp_path / "deep.png")
    for given in (values, [values], values[None, ..., None], np.asarray(Image.open(tmp_path / "deep.png"))):
        torch.testing.assert_close(sem.predict_proba(given), expected)


def test_all_forms_of_an_image_have_one_prediction(sem, folder):
    files = sorted(folder.rglob("*.png"))
    images = [Image.open(file) for file in files]
    tensors = torch.stack([STEPS(image) for image in images])
    expected = sem.predict_proba(tensors)
    forms = {
        "paths": files,
        "text paths": [str(file) for file in files],
        "a folder": folder,
        "PIL images": images,
        "pixels": np.stack([np.asarray(image) for image in images]),
        "a list of pixels": [np.asarray(image) for image in images],
        "a list of tensors": list(tensors),
        "an array": tensors.numpy(),
        "a data set": ImageFolder(folder, STEPS),
        "a loader": DataLoader(ImageFolder(folder, STEPS), batch_size=5),
    }
    for form, data in forms.items():
        torch.testing.assert_close(sem.predict_proba(data, batch_size=4), expected, msg=form)
        assert torch.equal(sem.predict(data), expected.argmax(1)), form
        assert len(explain(sem, data)) == len(files), form


def test_a_single_image_needs_no_batch_axis(sem, folder):
    file = folder / "bee" / "3.png"
    image = Image.open(file)
    expected = sem.predict_proba(STEPS(image)[None])
    for single in (file, image, np.asarray(image), STEPS(image), STEPS(image).numpy()):
        torch.testing.assert_close(sem.predict_proba(single), expected)
    assert [one.name for one in explain(sem, file)] == [str(file)]


def test_labels_of_a_data_set_count_where_it_names_the_models_classes(sem, folder, tmp_path):
    explanations = explain(sem, ImageFolder(folder, STEPS))
    assert [one.label for one in explanations] == [0] * 6 + [1] * 6 + [2] * 6
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "0.png").write_bytes((folder / "bee" / "0.png").read_bytes())
    assert [one.label for one in explain(sem, ImageFolder(tmp_path, STEPS))] == [1]  # by its name
    (tmp_path / "bee").rename(tmp_path / "bird")
    assert [one.label for one in explain(sem, ImageFolder(tmp_path, STEPS))] == [None]


def test_what_was_converted_in_python_is_used_with_files_later(sem, folder, tmp_path):
    sem.save(tmp_path / "model")
    again = load(tmp_path / "model", model=network())
    assert again.preprocessing == read_preprocessing(STEPS)
    assert torch.equal(again.predict(folder), sem.predict(folder))


def test_a_folder_is_converted_as_it_is(folder):
    by_path = convert(network(), folder, n_prototypes=2, preprocessing=STEPS, progress=False)
    bundle = load_folder(folder, read_preprocessing(STEPS))
    loaded = convert(network(), bundle, n_prototypes=2, progress=False)
    assert torch.equal(by_path.prototypes.vectors, loaded.prototypes.vectors)
    assert by_path.class_names == ["ant", "bee", "cat"]


def test_tensors_with_a_preprocessing_make_a_model_of_images(folder):
    files = sorted(folder.rglob("*.png"))
    x = torch.stack([STEPS(Image.open(file)) for file in files])
    y = torch.arange(18) // 6
    silent = convert(network(), (x, y), n_prototypes=2, progress=False)
    with pytest.raises(LookalikeError, match=r"does not know what its images go through.*preprocessing="):
        silent.predict(files)
    sem = convert(network(), (x, y), n_prototypes=2, preprocessing=STEPS, progress=False)
    assert torch.equal(sem.predict(files), silent.predict(x))


def test_what_cannot_be_read_is_refused_in_a_line(sem, folder, tmp_path):
    with pytest.raises(LookalikeError, match=r"'.*none.png' does not exist"):
        sem.predict(tmp_path / "none.png")
    with pytest.raises(LookalikeError, match="cannot read inputs from a int"):
        sem.predict(3)
    with pytest.raises(LookalikeError, match="mixes images with ready inputs"):
        sem.predict([folder / "ant" / "0.png", torch.zeros(3, 16, 16)])
    with pytest.raises(LookalikeError, match=r"give its \.test or \.train"):
        sem.predict(load_folder(folder, sem.preprocessing))
    with pytest.raises(LookalikeError, match="empty"):
        sem.predict([])
    for shape in ((16, 16, 3), (2, 20, 20, 3)):
        with pytest.raises(LookalikeError, match="have their channels last"):
            sem.predict(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (STEPS, Preprocessing(20, (16, 16), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))),
        (
            v2.Compose([v2.Resize((18, 22)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
            Preprocessing((18, 22), None, (0.0,) * 3, (1.0,) * 3),
        ),
        (
            transforms.Compose(
                [
                    transforms.Grayscale(),
                    transforms.Resize(20, transforms.InterpolationMode.BICUBIC),
                    transforms.Compose([transforms.CenterCrop((16, 12)), transforms.ToTensor()]),
                    transforms.Normalize([0.5], [0.25]),
                ]
            ),
            Preprocessing(20, (16, 12), (0.5,), (0.25,), interpolation="bicubic"),
        ),
        (transforms.ToTensor(), Preprocessing(None, None, (0.0,) * 3, (1.0,) * 3)),
    ],
)
def test_transforms_are_read_to_the_pixel(steps, expected):
    found = read_preprocessing(steps)
    assert found == expected
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 33, 3), dtype=np.uint8))
    torch.testing.assert_close(found(image), steps(image.convert("L") if found.channels == 1 else image))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (transforms.Compose([transforms.RandomCrop(8), transforms.ToTensor()]), "the step RandomCrop"),
        (transforms.Compose([transforms.CenterCrop(8)]), "returns a Image, not a tensor"),
        (transforms.Compose([transforms.CenterCrop(8), transforms.Resize(4), transforms.ToTensor()]), "Resize"),
        (
            v2.Compose([v2.ToImage(), v2.Resize(20), v2.ToDtype(torch.float32, scale=True)]),
            "differently from its settings",
        ),
        (lambda image: image, "function is no transform of torchvision"),
        ({"input_size": (3, 8, 8)}, "has no 'mean'"),
    ],
)
def test_transforms_that_are_not_understood_are_named(steps, message):
    with pytest.raises(LookalikeError, match=message):
        read_preprocessing(steps)


def test_a_preprocessing_beside_the_datas_own_is_compared_with_it(folder):
    other = Preprocessing(20, (16, 16), (0.5, 0.5, 0.6), (0.2, 0.3, 0.4))
    with pytest.raises(LookalikeError, match=r"transform of their own, and preprocessing=.* is another"):
        convert(network(), ImageFolder(folder, STEPS), 1, preprocessing=other)
    own = transforms.Compose([STEPS, lambda x: x])  # nobody can read it, and it is the same
    sem = convert(network(), ImageFolder(folder, own), 1, preprocessing=STEPS, progress=False)
    assert sem.preprocessing == read_preprocessing(STEPS)
    assert convert(network(), ImageFolder(folder, own), 1, progress=False).preprocessing is None


def test_a_classifiers_own_preprocessing_is_that_of_tensors_of_its_size(folder):
    loaded = LoadedClassifier(network(), SPEC, preprocessing=read_preprocessing(STEPS))
    x, y = torch.rand(18, 3, 16, 16), torch.arange(18) // 6
    assert convert(loaded, (x, y), 1, progress=False).preprocessing == loaded.preprocessing
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    other = LoadedClassifier(net, SPEC, preprocessing=read_preprocessing(STEPS))
    assert convert(other, (torch.rand(18, 3, 12, 12), y), 1, progress=False).preprocessing is None


def test_a_folder_without_a_preprocessing_is_refused_in_python_terms(folder):
    with pytest.raises(LookalikeError, match="say what they go through: preprocessing="):
        convert(network(), folder)


def test_a_transform_of_timm_is_read():
    timm_data = pytest.importorskip("timm.data")
    transform = timm_data.create_transform((3, 32, 32), crop_pct=0.9)
    found = read_preprocessing(transform)
    assert found.crop == (32, 32)


def test_a_preprocessing_that_does_not_make_the_tensors_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    data = (torch.rand(18, 3, 16, 16), torch.arange(18) // 6)
    for wrong in (Preprocessing.square(64), Preprocessing.square(16, mean=(0.5,), std=(0.5,))):
        with pytest.raises(LookalikeError, match=r"does not make inputs of the data's shape \(3, 16, 16\)"):
            convert(net, data, 1, preprocessing=wrong, progress=False)


class Pictures(Dataset):
    """Images of one mode with a transform that does not say which."""

    def __init__(self, mode, transform):
        self.mode, self.transform = mode, transform

    def __len__(self):
        return 12

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(pixels).convert(self.mode)), index % 3


@pytest.mark.parametrize(
    ("mode", "steps", "mean"),
    [
        ("RGB", [transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))], (0.5, 0.5, 0.5)),
        ("L", [transforms.ToTensor()], (0.0,)),
    ],
)
def test_a_transform_alone_need_not_say_grey_or_rgb(mode, steps, mean):
    channels = len(mean)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    data = Pictures(mode, transforms.Compose(steps))
    sem = convert(net, data, 1, progress=False)
    assert sem.preprocessing.mean == mean
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 255, (16, 16, 3), dtype=np.uint8)).convert(mode)
    torch.testing.assert_close(sem.predict_proba(picture), sem.predict_proba(data[3][0]))


def test_a_list_of_files_and_pictures_keeps_the_names_that_there_are(sem, folder):
    file = folder / "ant" / "0.png"
    assert [one.name for one in explain(sem, [file, Image.open(file)])] == [str(file), None]


@pytest.mark.parametrize("value", [transforms.Normalize(0.5, 0.5), {"input_size": 224}])
def test_nonsense_is_refused_in_a_line(value):
    with pytest.raises(LookalikeError, match=r"lookalike\.data\.Preprocessing"):
        read_preprocessing(value)


def test_pixels_with_channels_first_are_no_three_grey_images():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    data = torch.rand(12, 3, 32, 32), torch.arange(12) % 3
    model = convert(network.eval(), data, n_prototypes=1, progress=False, preprocessing=Preprocessing.square(32))
    for given in (np.zeros((3, 40, 50), np.uint8), [np.zeros((3, 40, 50), np.uint8)]):
        with pytest.raises(LookalikeError, match="have their channels first, or are 3 grey images"):
            model.predict(given)
