"""Maps without gradients beside PRP, LRP and Grad-CAM: deletion, insertion, relevance on the object, cost [ours]."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lookalike.encoder import Encoder
from lookalike.encoder.patches import patch_reader
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.part_models import SLOW_ENCODERS
from lookalike.experiments.part_subjects import PartSubject, lacks_objects, subjects_of
from lookalike.experiments.prp_rules import value_range_of_model
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import Workbench
from lookalike.metrics import deletion, insertion
from lookalike.metrics.localisation import relevance_mass
from lookalike.metrics.maps import mean_of_finite
from lookalike.model import PrototypeModel
from lookalike.parts import contributions
from lookalike.relevance import lrp, prp

Explain = Callable[[Tensor], Tensor]

_BATCH, _STEPS = 50, 10
_PHOTOGRAPHS = 20  # test pictures of each seed's own split: 100 in five seeds
_CONTRIBUTIONS = "contributions"
_COLUMNS = (
    Column("deletion", "deletion"),
    Column("insertion", "insertion"),
    Column("inside", "inside the object"),
    Column("passes", "forward passes", 1, 2, least=True),
)


def run_part_maps(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares maps of contributions with others, on models of whole images."""
    rows: list[Row] = []
    for names, subjects in subjects_of(plan, bench, SLOW_ENCODERS):
        records: dict[str, list[Record]] = {}
        for subject in subjects:
            key = {**subject.key, "n_images": bench.n_images, "steps": _STEPS}
            record = cells.get(f"part-maps-{subject.name}", key, measure_maps, bench, subject)
            for name, figures in (record or {}).items():
                records.setdefault(name, []).append(figures)
        rows += [Row((*names, name), gather(figures, _COLUMNS)) for name, figures in records.items()]
    remark = (
        f"100 test images per seed; of `stamps` {_PHOTOGRAPHS} of each seed's own split. Deletion and insertion, in "
        f"{_STEPS} steps, follow the prototype model's own probability of its predicted class, to black. *inside the "
        "object*: share of the absolute relevance on the object. *forward passes*: CPU time of one map in batches of "
        f"{_BATCH}, divided by that of the embedding; the smallest of three runs, in turn, and over seeds. "
        "`contributions` are timed at the map's own resolution; upsampling is a call of its own."
    )
    return Findings(("data", "network", "maps"), _COLUMNS, rows, {}, [remark])


def measure_maps(bench: Workbench, subject: PartSubject) -> Record:
    """Measures every kind of map on the same images."""
    bench.say(f"comparing maps on {subject.name}")
    model = subject.convert({})
    x = subject.test_images(bench.n_images if subject.is_trained else _PHOTOGRAPHS)
    objects, low = subject.object_masks(model, x), value_range_of_model(model)[0]
    encoder = model.encoder
    assert isinstance(encoder, Encoder)  # conversions make one

    def log_probabilities(embeddings: Tensor) -> Tensor:
        # the constant of each row that `log_probabilities_of` leaves out has a gradient, too
        return model.log_probabilities_of(embeddings).log_softmax(1)

    kinds: dict[str, Explain] = {
        _CONTRIBUTIONS: lambda images: contributions(model, images).upsampled(),
        "PRP, nearest prototype": lambda images: prp(model, images).pixels[:, 0],
        "LRP of the model": lambda images: lrp(model, images, of="probability").pixels,
        "Grad-CAM of the model": lambda images: grad_cam(encoder, images, log_probabilities),
    }
    if subject.is_trained:
        box = subject.classifier.model
        kinds["LRP of the black box"] = lambda images: lrp(box, images).pixels
        kinds["Grad-CAM of the black box"] = lambda images: grad_cam(encoder, images, encoder.head)

    def probabilities(images: Tensor) -> Tensor:
        return model.probabilities_of(encoder(images))

    record: Record = {}
    for name, explain in kinds.items():
        maps = torch.cat([explain(images) for images in x.split(_BATCH)])
        record[name] = {
            "deletion": deletion(probabilities, x, maps, baseline=low, n_steps=_STEPS).area,
            "insertion": insertion(probabilities, x, maps, baseline=low, n_steps=_STEPS).area,
            "inside": mean_of_finite(relevance_mass(maps, objects)),
            "passes": _passes(model, _at_own_resolution(name, explain, model), x[:_BATCH]),
        }
    record["random order"] = {
        "deletion": deletion(probabilities, x, None, baseline=low, n_steps=_STEPS, seed=subject.seed).area,
        "insertion": insertion(probabilities, x, None, baseline=low, n_steps=_STEPS, seed=subject.seed).area,
        "inside": float(objects.double().mean()),
    }
    return record


def _at_own_resolution(name: str, explain: Explain, model: PrototypeModel) -> Explain:
    return (lambda images: contributions(model, images).maps) if name == _CONTRIBUTIONS else explain


def grad_cam(encoder: Encoder, x: Tensor, scores_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns Grad-CAM of the highest score at the last feature map (Selvaraju et al. 2017), upsampled [N, H, W].

    The positive part of Σ_d α_d · a_d, where α_d is the mean over the positions of the score's gradient at channel d.

    Args:
        encoder: Returns embeddings [N, D] that are the averages of a feature map.
        x: Images [N, C, H, W].
        scores_of: Maps embeddings to scores [N, K].
    """
    reader = patch_reader(encoder, x)
    with torch.no_grad():
        maps = reader.maps(x)
    maps = maps.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(scores_of(maps.mean((2, 3))).amax(1).sum(), maps)
    with torch.no_grad():
        cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
        upsampled: Tensor = nn.functional.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return upsampled


def _passes(model: PrototypeModel, explain: Explain, x: Tensor) -> float:
    """Returns the CPU time of maps over that of embeddings: the smallest of three runs each, in turn."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(4):  # the first run of each warms up
        for is_map in (False, True):
            started = time.process_time()
            if is_map:
                explain(x)
            else:
                with torch.no_grad():
                    model.encoder(x)
            times[is_map].append(time.process_time() - started)
    return min(times[True][1:]) / min(times[False][1:])


EXPERIMENTS.register("part-maps")(
    Experiment("Maps without gradients", "open question", run_part_maps, lacking=lacks_objects)
)
