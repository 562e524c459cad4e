"""Plants a fault in photographs, finds it by the audit, takes it out by script and on the studio's page, and measures.

    LOOKALIKE_STAMPS=… python tools/planted_faults.py [--faults mark background] [--classes flower …] [--seeds 5]
        [--first-seed 0] [--every-fold] [--only-removal] [--pictures FOLDER]

Six classes of the stamps, five folds that keep the pictures of one object together, EfficientNet-Lite0 at 128 × 128
pixels without any training, three prototypes per class. The fault is on 90% of the training pictures of one class: a
chequered mark in the top left corner (``faint-mark``: of 60% opacity; ``small-mark``: a third of its area, up to ten
pixels away from the corner), or a grass-like background. The pictures are cut out and on white; with ``one-of-many``
each has a striped background of its own, and those with the fault are on grass. The test pictures are clean. Seed s
divides the pictures anew and tests on fold s; ``--every-fold`` tests each seed on all five folds.

For each run: is the first suspect the planted class with the planted part? How accurate is the model of clean training
pictures, the spoiled one, and the one after the part was taken out of the prototypes that the audit names? How many of
the test pictures of other classes are taken for the planted class if they have the fault, before and after removal? For
how many classes of the clean model is a part alike that no one planted? In the first run, the same is done on the page,
in Chromium, by clicks, which are counted; the model must be the same to the bit.

Needs the extra ``demo`` and the stamps (``lookalike datasets fetch stamps``); the page needs playwright and Chromium.
Takes about 40 seconds of CPU per run, with ``--only-removal`` about 3. Prints JSON.
"""

import argparse
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import expect, sync_playwright
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from lookalike import PrototypeModel, convert
from lookalike.audit import find_shortcuts
from lookalike.audit.alike import find_alike_parts
from lookalike.audit.shortcuts import parts_of_image
from lookalike.data.stamps import object_of
from lookalike.editing import EditSession
from lookalike.experiments.photographs import CLASSES, prepared
from lookalike.metrics import paired_difference
from lookalike.studio import Desk, StudioServer

_SHARE = 0.9  # of the training pictures of the class
_FOLDS = 5
_SIDE = 128  # pixels of a picture
_MARK = 42  # a third of it
_PARTS = {
    "mark": "top left",
    "faint-mark": "top left",
    "small-mark": "top left",
    "background": "background",
    "one-of-many": "background",
}


class Photographs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Pictures in memory that know where the object is."""

    classes = CLASSES

    def __init__(self, images: Tensor, labels: np.ndarray, masks: Tensor) -> None:
        self.images, self.labels, self.masks = images, labels, masks

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def mask(self, index: int) -> Tensor:
        """Returns where the object is in a picture, bool [H, W]."""
        return self.masks[index]


class Pictures:
    """All pictures of six classes, clean and with a fault, and which belong together."""

    def __init__(self, fault: str) -> None:
        loaded, bundle = prepared("EfficientNet-Lite0", 0)
        preprocessing = replace(bundle.preprocessing, resize=(_SIDE, _SIDE), crop=(_SIDE, _SIDE))  # on white
        bundle = bundle.with_preprocessing(preprocessing)
        files = bundle.train.joined(bundle.test)
        self.loaded = replace(loaded, preprocessing=preprocessing)
        self.labels = np.asarray(files.labels)
        self.objects = [f"{label} {object_of(file)}" for file, label in zip(files.files, files.labels, strict=True)]
        self.clean = torch.stack([files[row][0] for row in range(len(files))])
        self.masks = torch.stack([files.mask(row) for row in range(len(files))])
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
        pixels = self.clean * std + mean
        if fault == "one-of-many":
            pixels = _on_stripes(pixels, self.masks)
            self.clean = (pixels - mean) / std
        spoiled = {
            "mark": lambda: _marked(pixels),
            "faint-mark": lambda: _marked(pixels, opacity=0.6),
            "small-mark": lambda: _marked(pixels, side=24, wander=10),
            "background": lambda: _on_grass(pixels, self.masks),
            "one-of-many": lambda: _on_grass(pixels, self.masks),
        }[fault]()
        self.spoiled = (spoiled - mean) / std

    def part(self, rows: np.ndarray, with_fault: np.ndarray) -> Photographs:
        """Returns some pictures as a data set, some of them with the fault."""
        is_spoiled = torch.from_numpy(np.isin(rows, with_fault))[:, None, None, None]
        images = torch.where(is_spoiled, self.spoiled[rows], self.clean[rows])
        return Photographs(images, self.labels[rows], self.masks[rows])


def _marked(pixels: Tensor, side: int = _MARK, opacity: float = 1, wander: int = 0) -> Tensor:
    """Puts a chequered mark on pictures [N, 3, H, W] in 0 to 1, up to some pixels away from the corner."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    is_on = ((rows // 5 + columns // 5) % 2).bool()
    colours = torch.tensor([[0.9, 0.1, 0.6], [0.1, 0.9, 0.2]])[:, :, None, None]
    mark = torch.where(is_on, colours[0], colours[1])
    spoiled = pixels.clone()
    corners = np.random.default_rng(0).integers(0, wander + 1, (len(pixels), 2))
    for picture, (top, left) in zip(spoiled, corners, strict=True):
        place = picture[:, top : top + side, left : left + side]
        place.copy_(opacity * mark + (1 - opacity) * place)
    return spoiled


def _on_grass(pixels: Tensor, masks: Tensor) -> Tensor:
    """Puts the objects of pictures [N, 3, H, W], given their masks [N, H, W], on a grass-like background."""
    y, x = _places()
    waves = torch.sin(40 * x + 3 * torch.sin(9 * y)), torch.sin(60 * y + 5 * torch.sin(14 * x)), torch.sin(30 * (x + y))
    grass = torch.stack([0.2 + 0.15 * waves[0], 0.55 + 0.25 * waves[1], 0.2 + 0.1 * waves[2]])
    return torch.where(masks[:, None], pixels, grass)


def _on_stripes(pixels: Tensor, masks: Tensor) -> Tensor:
    """Puts each object on wavy stripes of two colours, of a width and direction of its own."""
    y, x = _places()
    rng = np.random.default_rng(0)
    backgrounds = []
    for _ in pixels:
        colours = torch.from_numpy(rng.uniform(0, 1, (2, 3, 1, 1))).float()
        down, across, bent = rng.uniform(-60, 60), rng.uniform(-60, 60), rng.uniform(0, 4)
        share = 0.5 + 0.5 * torch.sin(down * y + across * x + bent * torch.sin(9 * (x + y)))
        backgrounds.append(colours[0] + share * (colours[1] - colours[0]))
    return torch.where(masks[:, None], pixels, torch.stack(backgrounds))


def _places() -> tuple[Tensor, ...]:
    """Returns where each pixel of a picture is, from 0 to 1: down and across."""
    return torch.meshgrid(torch.arange(_SIDE) / _SIDE, torch.arange(_SIDE) / _SIDE, indexing="ij")


def _converted(pictures: Pictures, data: Photographs, seed: int) -> PrototypeModel:
    return convert(pictures.loaded, data, n_prototypes=3, seed=seed, progress=False)


def _by_name(session: EditSession, name: str, planted: str) -> None:
    """Takes the planted part out of all prototypes of its class, as if it had been found there."""
    labels, k = session.state.labels, CLASSES.index(name)
    region, side = next((region, side) for part, region, side in parts_of_image(with_masks=True) if part == planted)
    session.erase(*torch.nonzero(labels == k)[:, 0].tolist(), region=region, side=side)


def _by_script(session: EditSession, seed: int) -> tuple[str, str]:
    """Takes the first suspect's part out of the prototypes of its class that have it; returns class and part."""
    found = find_shortcuts(session.model, session.source, seed=seed)
    if not found:
        return "", ""
    first, labels = found[0], session.state.labels
    alike = [s.prototype for s in found if labels[s.prototype] == labels[first.prototype] and s.part == first.part]
    session.erase(*alike, region=first.region, side=first.side, note=f"{first.part} goes with the class")
    return session.state.class_names[int(labels[first.prototype])], first.part


def _by_page(session: EditSession, chromium: str, pictures: Path | None, name: str) -> int:
    """Does the same on the page; returns the number of clicks."""
    with tempfile.TemporaryDirectory() as folder, StudioServer(Desk(session, Path(folder) / "m")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as play:
            page = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
            page.set_default_timeout(300_000)
            page.goto(server.address)
            buttons = ("tab", "Suspects"), ("button", "Look for shortcuts"), ("button", "Take the ")
            for role, text in buttons:
                page.get_by_role(role, name=text).first.click()
            expect(page.locator("#status")).to_contain_text("Done", timeout=300_000)
            if pictures is not None:
                page.screenshot(path=str(pictures / f"{name}.png"))
        server.shutdown()
    return len(buttons)


def _predicted(model: PrototypeModel, embeddings: Tensor) -> np.ndarray:
    return model.scores_of(embeddings).argmax(1).numpy()


def _runs(pictures: Pictures, options: Any) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yields seed, fold, and the numbers of the training and test pictures."""
    y = pictures.labels
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed).split(y, y, pictures.objects)
        for fold, (train, test) in enumerate(folds):
            if options.every_fold or fold == seed % _FOLDS:
                yield seed, fold, train, test


def _alarms(model: PrototypeModel, data: Photographs, seed: int) -> list[bool]:
    """Returns, for each class of a model of clean pictures, whether a part is alike."""
    source = EditSession(model, data, who="script", progress=False).source
    parts = parts_of_image(with_masks=True)
    found = find_alike_parts(model, source, parts, classes=range(len(CLASSES)), seed=seed)
    return [any(label == k for label, _ in found) for k in range(len(CLASSES))]


def _run(fault: str, name: str, options: Any) -> dict[str, Any]:
    """Plants a fault in one class, in all folds."""
    pictures, k = Pictures(fault), CLASSES.index(name)
    y = pictures.labels
    right: dict[str, list[bool]] = {"clean": [], "spoiled": [], "removed": []}
    taken: dict[str, list[bool]] = {"clean": [], "spoiled": [], "removed": []}
    first, alarms, clicks, is_same = [], [], None, None
    for seed, fold, train, test in _runs(pictures, options):
        own, others = train[y[train] == k], test[y[test] != k]
        planted = np.random.default_rng([seed, fold]).permutation(own)[: round(_SHARE * len(own))]
        data, clean_data = (pictures.part(train, with_fault) for with_fault in (planted, planted[:0]))
        models = {"clean": _converted(pictures, clean_data, seed), "spoiled": _converted(pictures, data, seed)}
        session = EditSession(models["spoiled"], data, who="script", progress=False)
        if options.only_removal:
            _by_name(session, name, _PARTS[fault])
        else:
            first.append(_by_script(session, seed) == (name, _PARTS[fault]))
            alarms += _alarms(models["clean"], clean_data, seed)
        if clicks is None and options.chromium and not options.only_removal:
            on_page = EditSession(models["spoiled"], data, who="page", progress=False)
            clicks = _by_page(on_page, options.chromium, options.pictures, f"{fault}-{name}")
            is_same = bool(torch.equal(on_page.state.vectors, session.state.vectors))
        clean, spoiled = (models["clean"].embed(x) for x in (pictures.clean[test], pictures.spoiled[others]))
        for key, model in (models | {"removed": session.model}).items():
            right[key] += (_predicted(model, clean) == y[test]).tolist()
            taken[key] += (_predicted(model, spoiled) == k).tolist()
    removed, clean = np.array(right["removed"]), np.array(right["clean"])
    difference = paired_difference(int((removed & ~clean).sum()), int((clean & ~removed).sum()), len(clean))
    return {
        "fault": fault,
        "class": name,
        "pictures": len(clean),
        "accuracy": {key: round(float(np.mean(values)), 3) for key, values in right.items()},
        "removed_minus_clean": [round(v, 3) for v in (difference.value, difference.low, difference.high)],
        "taken_with_fault": {key: round(float(np.mean(values)), 3) for key, values in taken.items()},
        "first_suspect": f"{sum(first)} of {len(first)}" if first else "not looked for",
        "alike_parts_of_clean_models": f"{sum(alarms)} of {len(alarms)} classes",
        "clicks": clicks,
        "page_as_script": is_same,
    }


def main() -> None:
    """Measures, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=list(_PARTS), default=["mark", "background"])
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=["flower"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only-removal", action="store_true", help="do not look for the part: take it out as named")
    parser.add_argument("--every-fold", action="store_true", help="test each seed on all five folds")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the page")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for fault in options.faults:
        for name in options.classes:
            print(json.dumps(_run(fault, name, options)), flush=True)


if __name__ == "__main__":
    main()
