"""What the hardware could do, what a user's plain loop does, and what this package does, on a GPU or on the CPU.

    python benchmarks/gpu.py [--device cuda] [--minutes 6] [--only embed,files,…]
    python benchmarks/gpu.py --device cpu --small

Prints Markdown: one table of ratios side by side, and one of whether the device gives the CPU's results. It needs this
package and nothing else; Zennit is measured beside it if it is installed. What no longer fits into the minutes is named
and left out. On a GPU times are wall-clock seconds after synchronisation; on a CPU they are CPU seconds, which hold on
a busy machine too.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from common import machine, table
from embedding import write_photographs
from lookalike import LookalikeError, convert, embed, parts, relevance
from lookalike.conversion.clustering import cluster, clustering_on
from lookalike.data import Batches, Preprocessing, load_folder
from lookalike.data.fitted import n_cores
from lookalike.embedding.precision import has_bfloat16
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.encoder.packaged import load_efficientnet_lite0
from lookalike.metrics import Noise, relevance_ordering
from networks import network as made
from reading import MEAN, STD, write_files

Runs = dict[str, Callable[[], object]]
_PEER_REPEATS = 3
_LONG = 4  # times as many images, for the share of what a pass needs once
_CALLS_BEFORE_REPLAY = 4  # what is asked for repeatedly is recorded on a GPU


@dataclass(frozen=True)
class Scale:
    """How much is measured: sizes in pixels, numbers of images, repeats."""

    side: int
    in_memory: int
    files: int
    batch: int
    maps: int
    ordered: int
    points: int
    repeats: int


FULL = Scale(side=224, in_memory=4096, files=6144, batch=256, maps=64, ordered=20, points=200_000, repeats=5)
SMALL = Scale(side=64, in_memory=256, files=128, batch=64, maps=2, ordered=2, points=5_000, repeats=3)


class Clock:
    """Times runs on a device.

    Args:
        device: The device.
        repeats: Number of timed runs of each.
        warm_up: Number of runs before them.
    """

    def __init__(self, device: torch.device, repeats: int, warm_up: int = 1) -> None:
        self.device, self.repeats, self.warm_up = device, repeats, warm_up

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def __call__(self, runs: Runs) -> dict[str, float]:
        """Returns the median seconds of each run; the runs alternate, a plain loop or a peer at most three times."""
        for name, run in list(runs.items()):
            try:
                for _ in range(1 if name == "plain" else self.warm_up):
                    run()
            except Exception as error:
                if name != "plain":
                    raise
                print(f"The peer failed, and is left out ({type(error).__name__}: {error}).\n", flush=True)
                del runs[name]
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(self.repeats):
            for name, run in runs.items():
                if name == "plain" and turn >= _PEER_REPEATS:
                    continue
                started = self._now()
                run()
                seconds[name].append(self._now() - started)
        return {name: statistics.median(taken) for name, taken in seconds.items()}


def network(name: str, device: torch.device) -> nn.Module:
    """Makes an untrained network on a device."""
    return made(name).to(device)


def half_precision(device: torch.device) -> torch.dtype:
    """The type that the device is fastest with."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if has_bfloat16() else torch.float32


def bare_passes(net: nn.Module, device: torch.device, scale: Scale, n: int) -> Callable[[], None]:
    """Returns passes of n images from bytes in memory, at the best precision and layout, and with nothing else."""
    best = copy.deepcopy(net).to(half_precision(device), memory_format=torch.channels_last)
    as_bytes = torch.randint(0, 256, (scale.batch, 3, scale.side, scale.side), dtype=torch.uint8)
    pinned = as_bytes.pin_memory() if device.type == "cuda" else as_bytes
    chunk = scale.batch if device.type == "cuda" else 16

    @torch.no_grad()
    def bare() -> None:
        for _ in range(0, n, scale.batch):
            moved = pinned.to(device, non_blocking=True)
            for part in moved.split(chunk):
                values = part.to(half_precision(device), memory_format=torch.channels_last)
                best(values.div_(255).sub_(0.45).div_(0.22))

    return bare


def embed_from_memory(device: torch.device, clock: Clock, scale: Scale, names: tuple[str, ...]) -> list[list[str]]:
    """Embeds tensors in memory: bare passes at the best precision and layout, a plain loop, this package."""
    longest = torch.rand(_LONG * scale.in_memory, 3, scale.side, scale.side)
    rows = []
    for name, n in [*((name, scale.in_memory) for name in names), (names[0], len(longest))]:
        net, x, y = network(name, device), longest[:n], np.arange(n) % 10
        encoder = Encoder(net, x[:2].to(device))

        @torch.no_grad()
        def plain(net: nn.Module = net, x: Tensor = x) -> None:
            for part in x.split(scale.batch):
                net(part.to(device)).cpu()

        runs: Runs = {
            "limit": bare_passes(net, device, scale, len(x)),
            "plain": plain,
            "ours": lambda encoder=encoder, x=x, y=y: embed(encoder, (x, y), batch_size=scale.batch, progress=False),
        }
        rows.append(_rates(f"embed {len(x):,} tensors, {name}, {scale.side}²", clock(runs), len(x)))
    return rows


def decoder(device: torch.device) -> Callable[[Tensor], object]:
    """Returns what decodes a file fastest: libjpeg-turbo by torchvision in threads, by simplejpeg in one."""
    if device.type == "cuda":
        from torchvision.io import decode_jpeg

        return decode_jpeg
    from lookalike.data.turbo import decode_jpeg as decode_in_one_thread

    return lambda content: decode_in_one_thread(content.numpy().tobytes(), 3)


def embed_from_files(device: torch.device, clock: Clock, scale: Scale) -> list[list[str]]:
    """Embeds JPEG files of 320²: the slower of decoding alone and arithmetic alone, a plain loop, this package."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    preprocessing = Preprocessing.square(scale.side, mean=MEAN, std=STD)
    net = network("resnet34", device)
    decode = decoder(device)
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place) / "train", scale.files)
        data = load_folder(place, preprocessing).train
        contents = [torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in data.files]
        encoder = Encoder(net, data[0][0][None].to(device))
        steps = transforms.Compose(
            [
                transforms.Resize(scale.side),
                transforms.CenterCrop(scale.side),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

        def decoding() -> None:
            with ThreadPoolExecutor(n_cores()) as pool:
                list(pool.map(decode, contents))

        @torch.no_grad()
        def plain() -> None:
            workers = min(16, n_cores()) if device.type == "cuda" else 0
            loader = torch.utils.data.DataLoader(
                ImageFolder(str(Path(place) / "train"), steps), 64, num_workers=workers
            )
            for part, _ in loader:
                net(part.to(device)).cpu()

        runs: Runs = {
            "decoding": decoding,
            "arithmetic": bare_passes(net, device, scale, scale.files),
            "plain": plain,
            "ours": lambda: embed(encoder, data, batch_size=scale.batch, progress=False),
        }
        if device.type == "cuda":
            runs["nvJPEG"] = lambda: embed(encoder, Batches(data, scale.batch, decode_on=device), progress=False)
        seconds = clock(runs)
    # CPU seconds of decoding and arithmetic add up; on a GPU both run at the same time.
    both = seconds.pop("decoding"), seconds.pop("arithmetic")
    seconds["limit"] = max(both) if device.type == "cuda" else sum(both)
    rows = [_rates(f"embed {scale.files:,} JPEG files of 320², ResNet34, {scale.side}²", seconds, scale.files)]
    if "nvJPEG" in seconds:
        rows.append(_rates("the same, decoded by nvJPEG", {**seconds, "ours": seconds["nvJPEG"]}, scale.files))
    return rows


def _rates(what: str, seconds: dict[str, float], n: int) -> list[str]:
    rates = [f"{n / seconds[name]:,.0f}/s" for name in ("limit", "plain", "ours")]
    return [what, *rates, f"{seconds['limit'] / seconds['ours']:.2f}", f"{seconds['plain'] / seconds['ours']:.2f}"]


def relevance_maps(device: torch.device, clock: Clock, scale: Scale) -> list[list[str]]:
    """LRP and PRP maps, in forward passes."""
    cases = [("resnet34", scale.side, scale.maps), ("resnet50", scale.side, -(-scale.maps // 2))]
    cases += [("vgg16_bn", scale.side, -(-scale.maps // 2)), ("resnet34", 32, 4 * scale.maps)]
    rows = []
    for name, side, n in cases:
        net, x = network(name, device), torch.rand(n, 3, side, side, device=device)
        runs: Runs = {
            "limit": torch.no_grad()(lambda net=net, x=x: net(x)),
            "ours": lambda net=net, x=x, n=n: relevance.lrp(net, x, 0, batch_size=n),
        }
        if zennit_map is not None and "resnet" in name:
            peers_net = copy.deepcopy(net)  # where Zennit fails, it leaves the network changed
            runs["plain"] = lambda net=peers_net, x=x: zennit_map(net, x)  # type: ignore[misc]
        rows.append(_passes(f"one LRP map, {name}, {side}² ×{n}", clock(runs)))
    net, x = network("resnet34", device), torch.rand(scale.maps, 3, scale.side, scale.side, device=device)
    train = torch.rand(20, 3, scale.side, scale.side), np.arange(20) % 2
    model = convert(net, train, n_prototypes=5, n_images=0, progress=False)
    runs = {
        "limit": torch.no_grad()(lambda: net(x)),
        "ours": lambda: relevance.prp(model, x, [0, 1, 2, 3, 4], batch_size=len(x)),
    }
    rows.append(_passes(f"five PRP maps, resnet34, {scale.side}² ×{len(x)}", clock(runs)))
    return rows


def contributions(device: torch.device, clock: Clock, scale: Scale) -> list[list[str]]:
    """What each position adds to the lead of a prototype, beside a pass of the network whose answer is read."""
    net, x = network("resnet34", device), torch.rand(scale.maps, 3, scale.side, scale.side, device=device)
    model = convert(net, (torch.rand(40, 3, scale.side, scale.side), np.arange(40) % 2), n_images=0, progress=False)
    runs: Runs = {
        "limit": torch.no_grad()(lambda: net(x).argmax(1).cpu()),
        "ours": lambda: parts.contributions(model, x, batch_size=len(x)),
    }
    return [_passes(f"what each position adds, resnet34, {scale.side}² ×{len(x)}", clock(runs))]


def ordering(device: torch.device, clock: Clock, scale: Scale) -> list[list[str]]:
    """Relevance ordering beside as many rows through the network."""
    net, x = network("resnet34", device), torch.rand(scale.ordered, 3, scale.side, scale.side, device=device)
    maps = torch.rand(len(x), scale.side, scale.side)
    noise, batch, steps = Noise(torch.zeros(3), torch.ones(3), 5), 50, 20
    rows = x.repeat(batch // len(x) + 1, 1, 1, 1)[:batch]
    runs: Runs = {
        "limit": torch.no_grad()(lambda: [net(rows) for _ in range(len(x) * steps * 5 // batch)]),
        "ours": lambda: relevance_ordering(
            lambda images: net(images).softmax(1), x, maps, noise, n_steps=steps, batch_size=batch
        ),
    }
    return [_passes(f"relevance ordering, {len(x)} images, resnet34, {scale.side}²", clock(runs))]


def prediction(device: torch.device, clock: Clock, scale: Scale) -> list[list[str]]:
    """A prediction beside the black box's, of which the answer is read; a prediction is checked before it returns."""
    net = network("resnet34", device)
    train = torch.rand(40, 3, scale.side, scale.side), np.arange(40) % 10
    model = convert(net, train, n_prototypes=2, n_images=0, progress=False)
    rows = []
    for n, repeats in ((1, 20), (64, 1)):
        x = torch.rand(n, 3, scale.side, scale.side, device=device)
        runs: Runs = {
            "limit": torch.no_grad()(lambda x=x, repeats=repeats: [net(x).argmax(1).cpu() for _ in range(repeats)]),
            "ours": lambda x=x, repeats=repeats: [model.predict(x) for _ in range(repeats)],
        }
        rows.append(_passes(f"predict, {n} image{'s' if n > 1 else ''}, resnet34, {scale.side}²", clock(runs)))
    return rows


def _passes(what: str, seconds: dict[str, float]) -> list[str]:
    limit, ours, peer = seconds["limit"], seconds["ours"], seconds.get("plain")
    peers = ["–", "–"] if peer is None else [f"{peer / limit:.2f}", f"{peer / ours:.2f}"]
    return [what, f"{limit * 1e3:.1f} ms", f"{ours / limit:.2f}", *peers]


try:
    from relevance import zennit_map as _zennit_map  # the benchmark beside this one

    def zennit_map(net: nn.Module, x: Tensor) -> Tensor:
        """One map per image by Zennit."""
        with torch.device(x.device):
            return _zennit_map(net, x)

    import zennit  # noqa: F401
except ImportError:
    zennit_map = None  # type: ignore[assignment]


def clustering(device: torch.device, clock: Clock, scale: Scale) -> list[list[str]]:
    """K-means of embeddings on the device, beside a simple Lloyd iteration from the same number of passes."""
    points = torch.rand(scale.points, 256, generator=torch.Generator().manual_seed(0)).numpy()
    on_device = torch.from_numpy(points).to(device)

    def lloyd() -> Tensor:
        centres = on_device[:50].clone()
        for _ in range(100):
            nearest = torch.cdist(on_device, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, on_device)
            centres = sums / torch.bincount(nearest, minlength=50).clamp_min(1)[:, None]
        return centres

    def ours() -> object:
        with clustering_on(device):
            return cluster(points, 50, n_init=1, seed=0)

    runs: Runs = {"limit": lloyd, "ours": ours}
    return [_passes(f"k-means, {scale.points:,} × 256, k = 50, beside 100 simple steps", clock(runs))]


def compare_with_cpu(device: torch.device, scale: Scale) -> list[list[str]]:
    """Checks that the device gives the CPU's classes, prototypes, maps and AUROC; [what, found, bound, holds]."""
    n = 60 if scale is SMALL else 200
    generator = torch.Generator().manual_seed(0)
    y = np.arange(n) % 5
    colours = torch.rand(5, 3, 1, 1, generator=generator)
    x = 0.2 * torch.randn(n, 3, 64, 64, generator=generator) + colours[y]
    untrained = LoadedClassifier(made("resnet34"), {"source": "torchvision", "name": "resnet34", "args": {}})
    rows = _compare("random ResNet34", untrained, x, y, device)
    try:
        trained = load_efficientnet_lite0()
    except LookalikeError as error:
        print(f"Without a trained network: {error}.\n", flush=True)
    else:
        rows += _compare("trained Lite0", trained, *_photographs(40, trained.preprocessing), device)
    return rows + (_pixels_by_nvjpeg(device) if device.type == "cuda" else [])


def _photographs(n: int, preprocessing: Preprocessing | None) -> tuple[Tensor, np.ndarray]:
    """Returns pieces of scikit-learn's two photographs as a network takes them, and which photograph each is of."""
    assert preprocessing is not None
    with tempfile.TemporaryDirectory() as place:
        write_photographs(Path(place) / "train", n)
        data = load_folder(place, preprocessing).train
        return torch.stack([image for image, _ in data]), np.asarray(data.labels)


def _compare(
    title: str, classifier: LoadedClassifier, x: Tensor, y: np.ndarray, device: torch.device
) -> list[list[str]]:
    """Compares one network's results on the device with those on the CPU."""
    found: dict[str, dict[str, object]] = {}
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for name, where, exact in (("cpu", torch.device("cpu"), True), ("float32", device, True), ("tf32", device, False)):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
        net = classifier.model.to(where)
        model = convert(classifier, (x, y), n_prototypes=2, precision="float32", n_images=0, progress=False)
        few = x[:4].to(where)
        maps = relevance.lrp(net, few, 0).pixels.cpu().double()
        order = relevance_ordering(
            lambda images, net=net: net(images).softmax(1), few, maps.float(), Noise(torch.zeros(3), torch.ones(3), 2),
            n_steps=5,
        )  # fmt: skip
        found[name] = {
            "classes": model.predict(x.to(where)).cpu(),
            "prototypes": model.prototypes.vectors.cpu(),
            "LRP maps": maps,
            "PRP maps": relevance.prp(model, few, "nearest").pixels.cpu().double(),
            "AUROC": torch.tensor(float(order.auroc)),
        }
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    bounds = {"classes": 0.0, "prototypes": 1e-4, "LRP maps": 1e-5, "PRP maps": 1e-5, "AUROC": 1e-3}
    rows = []
    for name, values in list(found.items())[1:]:
        for what, bound in bounds.items():
            limit = 1e-3 if name == "tf32" and what != "classes" else bound
            deviation = _deviation(values[what], found["cpu"][what])
            holds = "yes" if deviation <= limit else "NO"
            rows.append([f"{title}: {what}, {name}", f"{deviation:.1e}", f"{limit:.0e}", holds])
    return rows


def _pixels_by_nvjpeg(device: torch.device) -> list[list[str]]:
    """Compares pixels decoded on a GPU with those decoded on the CPU."""
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place) / "train", 64)
        data = load_folder(place, Preprocessing.square(224, mean=(0.0,) * 3, std=(1.0,) * 3)).train
        by_cpu, by_gpu = (next(iter(Batches(data, 64, decode_on=where))).inputs.cpu() for where in (None, device))
    deviation, bound = _deviation(by_gpu, by_cpu), 1e-2
    return [["pixels, nvJPEG", f"{deviation:.1e}", f"{bound:.0e}", "yes" if deviation <= bound else "NO"]]


def _deviation(first: object, second: object) -> float:
    """Returns the relative deviation; of classes the share that differs."""
    a, b = torch.as_tensor(first), torch.as_tensor(second)
    if not a.is_floating_point():
        return float((a != b).double().mean())
    return float((a - b).double().norm() / b.double().norm().clamp_min(1e-30))


EMBEDDED = ["", "limit", "plain loop", "lookalike", "lookalike / limit", "lookalike / plain loop"]
IN_PASSES = ["", "forward passes", "lookalike / passes", "peer / passes", "peer / lookalike"]
COMPARED = ["", "deviation", "bound", "holds"]


def main() -> None:
    """Runs all that fits into the minutes, and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small images, few of them")
    parser.add_argument("--minutes", type=float, default=5.5, help="nothing new is begun after these")
    parser.add_argument("--only", help="names of sections, with commas between them")
    arguments = parser.parse_args()
    device, scale = torch.device(arguments.device), SMALL if arguments.small else FULL
    clock, repeated = Clock(device, scale.repeats), Clock(device, scale.repeats, _CALLS_BEFORE_REPLAY)
    often = Clock(device, 4 * scale.repeats)  # for what is short, and so changes with everything else on the machine
    started = time.monotonic()
    names = ("resnet34",) if arguments.small else ("resnet34", "resnet50", "vit_b_16")
    sections: dict[str, tuple[str, list[str], Callable[[], list[list[str]]]]] = {
        "compare": ("The device beside the CPU", COMPARED, lambda: compare_with_cpu(device, scale)),
        "embed": ("Embedding from memory", EMBEDDED, lambda: embed_from_memory(device, clock, scale, names)),
        "files": ("Embedding from files", EMBEDDED, lambda: embed_from_files(device, clock, scale)),
        "maps": ("Relevance maps, from the fourth call on", IN_PASSES, lambda: relevance_maps(device, repeated, scale)),
        "parts": ("Maps without gradients", IN_PASSES, lambda: contributions(device, often, scale)),
        "predict": ("Prediction", IN_PASSES, lambda: prediction(device, often, scale)),
        "ordering": ("Relevance ordering", IN_PASSES, lambda: ordering(device, clock, scale)),
        "kmeans": ("Clustering", IN_PASSES, lambda: clustering(device, clock, scale)),
    }
    chosen = arguments.only.split(",") if arguments.only else list(sections)
    if unknown := [name for name in chosen if name not in sections]:
        parser.error(f"there is no section {unknown[0]!r}; there are {', '.join(sections)}")
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU seconds"
    print(
        f"# {device_name}\n\n{machine()}; {n_cores()} cores, {torch.get_num_threads()} threads of torch\n", flush=True
    )
    left_out = []
    for name in chosen:
        title, columns, run = sections[name]
        if time.monotonic() - started > 60 * arguments.minutes:
            left_out.append(title)
            continue
        try:
            print(table(title, columns, run()), flush=True)
        except Exception as error:  # what was measured before is not lost
            print(f"### {title}\n\n{type(error).__name__}: {error}\n", flush=True)
    if left_out:
        print(f"Not measured, since {arguments.minutes:g} minutes were over: {', '.join(left_out)}.\n")
    print(f"{time.monotonic() - started:.0f} s in all.")


if __name__ == "__main__":
    main()
