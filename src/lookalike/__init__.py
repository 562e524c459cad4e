"""lookalike: turns a trained classifier into one that explains itself by example.

The public names are loaded when first used, so that importing the package, and the command line's help,
cost nothing of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookalike import relevance
    from lookalike._core.errors import LookalikeError, LookalikeWarning
    from lookalike.conversion.convert import convert
    from lookalike.embedding import EmbeddingStore, embed
    from lookalike.encoder import Encoder, load_classifier
    from lookalike.estimator import PrototypeClassifier
    from lookalike.explanation import Explanation, explain
    from lookalike.metrics import Scorecard, evaluate
    from lookalike.model import PrototypeModel, Prototypes, load
    from lookalike.watching import Watch

__version__ = "0.1.0"

_HOME = {
    "EmbeddingStore": "embedding",
    "Encoder": "encoder",
    "Explanation": "explanation",
    "LookalikeError": "_core.errors",
    "LookalikeWarning": "_core.errors",
    "PrototypeClassifier": "estimator",
    "PrototypeModel": "model",
    "Prototypes": "model",
    "Scorecard": "metrics",
    "Watch": "watching",
    "convert": "conversion.convert",
    "embed": "embedding",
    "evaluate": "metrics",
    "explain": "explanation",
    "load": "model",
    "load_classifier": "encoder",
}

_MODULES = frozenset({"relevance"})

__all__ = [
    "EmbeddingStore",
    "Encoder",
    "Explanation",
    "LookalikeError",
    "LookalikeWarning",
    "PrototypeClassifier",
    "PrototypeModel",
    "Prototypes",
    "Scorecard",
    "Watch",
    "__version__",
    "convert",
    "embed",
    "evaluate",
    "explain",
    "load",
    "load_classifier",
    "relevance",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"lookalike.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
    value = getattr(import_module(f"lookalike.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
