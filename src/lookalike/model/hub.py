"""Saved models on the Hugging Face Hub: safetensors and JSON alone, checked like any folder from anyone."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.files import write_whole
from lookalike.saved import CONFIG, listed_files, without_checksum

if TYPE_CHECKING:
    from lookalike.model.prototype_model import PrototypeModel

PREFIX = "hub:"
CARD = "README.md"
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_LARGEST_CONFIG = 64 * 2**20  # bytes
_MEASURES = {"accuracy": ("accuracy", "accuracy"), "agreement": ("agreement", "agreement with the original network")}


class PushOptions(TypedDict, total=False):
    """The options of ``push_model``, which says what they mean and what they are if not given."""

    images: bool
    names: bool
    licence: str | None
    private: bool | None
    message: str


def push_model(
    model: "PrototypeModel",
    repo: str,
    *,
    images: bool = True,
    names: bool = True,
    licence: str | None = None,
    private: bool | None = None,
    message: str = "Upload a prototype model",
) -> str:
    """Uploads a model to a repository of the Hub, which is created if there is none.

    The repository gets the files of a saved model and a card with metadata that the Hub reads. Pictures of an earlier
    upload are removed from its newest revision; its history keeps them.

    Args:
        model: The model.
        repo: ``"owner/name"``.
        images: False leaves out all pixels of training images.
        names: False leaves out the file names of training images.
        licence: Identifier of the model's licence, such as ``"apache-2.0"``.
        private: Whether a new repository is private; None takes the owner's default.
        message: Message of the commit.

    Returns:
        Address of the commit.

    Raises:
        LookalikeError: If ``huggingface_hub`` is not installed, or the Hub refuses.
    """
    _check_repo(repo)
    checks.flag("images", images)
    checks.flag("names", names)
    checks.optional(checks.text, "licence", licence)
    checks.optional(checks.flag, "private", private)
    checks.text("message", message)
    api = _library().HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        model.save(folder, images=images, names=names)
        # people edit cards on the Hub, which must not make the model unreadable
        without_checksum(folder, CARD)
        _add_metadata(folder, repo, model.provenance, licence)
        with _readable_errors(repo):
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=message,
                delete_patterns=["images/*", "gallery.png"],
            )
    return str(commit.commit_url)


def _add_metadata(folder: Path, repo: str, provenance: Mapping[str, Any], licence: str | None) -> None:
    """Writes the metadata that the Hub reads on top of a model's card."""
    library = _library()
    name = repo.partition("/")[2]
    test = provenance.get("test")
    measured = test if isinstance(test, Mapping) else {}
    dataset = provenance.get("dataset")
    results = [
        library.EvalResult(
            task_type="image-classification",
            dataset_type=str(dataset or "unknown"),
            dataset_name=f"{dataset or 'unknown'} ({measured.get('n_samples')} test images)",
            metric_type=metric,
            metric_name=title,
            metric_value=measured[key],
        )
        for key, (metric, title) in _MEASURES.items()
        if isinstance(measured.get(key), int | float)
    ]
    data = library.ModelCardData(
        library_name="lookalike",
        license=licence,
        pipeline_tag="image-classification",
        tags=["lookalike", "prototypes", "explainable-ai"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    card = (folder / CARD).read_text(encoding="utf-8")
    write_whole(folder / CARD, f"---\n{data.to_yaml()}\n---\n\n{card}")


def is_address(folder: str | Path) -> bool:
    """Returns whether a model's folder is an address on the Hub, ``"hub:owner/name"``."""
    return str(folder).startswith(PREFIX)


@contextmanager
def downloaded(address: str) -> Iterator[Path]:
    """Yields a folder with a model's files from the Hub, as long as the block runs.

    Only files that the model's ``config.json`` lists are downloaded, and only if they have the size that it says. The
    Hub's own cache keeps them.

    Args:
        address: ``"hub:owner/name"``, or ``"hub:owner/name@revision"``.

    Raises:
        LookalikeError: If there is no such repository, or it holds no saved model.
    """
    repo, _, revision = address.removeprefix(PREFIX).partition("@")
    _check_repo(repo)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo.replace("/", "--")
        with _readable_errors(repo):
            _download(repo, revision or None, folder)
        yield folder  # errors of the block are its own


def _download(repo: str, revision: str | None, folder: Path) -> None:
    """Puts the files of a saved model into a folder."""
    sizes, commit = _sizes_of_files(repo, revision)
    if sizes is not None and CONFIG not in sizes:
        raise LookalikeError(f"the repository {repo!r} holds no saved model: {CONFIG!r} is missing")
    if sizes is not None and (sizes[CONFIG] or 0) > _LARGEST_CONFIG:
        raise LookalikeError(f"{CONFIG!r} of {repo!r} is too large: {sizes[CONFIG]:,} bytes")
    _fetch(repo, CONFIG, commit, folder)
    listed = listed_files(folder)
    for name, size in listed.items():
        if sizes is not None and name not in sizes:
            raise LookalikeError(f"the saved model in {repo!r} is incomplete: {name!r} is missing")
        if sizes is not None and size is not None and sizes[name] not in (None, size):
            raise LookalikeError(f"{name!r} of {repo!r} was altered: it has {sizes[name]:,} bytes, not {size:,}")
    for name in listed:
        _fetch(repo, name, commit, folder)


def _sizes_of_files(repo: str, revision: str | None) -> tuple[dict[str, int | None] | None, str | None]:
    """Returns the sizes of a repository's files in bytes, by name, and its commit; no sizes without a network."""
    library = _library()
    if library.constants.HF_HUB_OFFLINE:
        return None, revision
    info = library.HfApi().model_info(repo, revision=revision, files_metadata=True)
    return {file.rfilename: file.size for file in info.siblings or []}, info.sha


def _fetch(repo: str, name: str, revision: str | None, folder: Path) -> None:
    """Puts a file of a repository into a folder. Loading refuses links, which the Hub's cache is made of."""
    cached = Path(_library().hf_hub_download(repo, name, revision=revision)).resolve()
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached, target)
    except OSError:  # another disk
        shutil.copyfile(cached, target)


def _check_repo(repo: str) -> None:
    if not isinstance(repo, str) or _REPO.fullmatch(repo) is None:
        raise LookalikeError(f"a repository of the Hub is 'owner/name', not {repo!r}")


def _library() -> Any:
    try:
        import huggingface_hub.constants
    except ImportError as error:
        raise LookalikeError("the Hub needs the extra 'hub': pip install huggingface_hub") from error
    return huggingface_hub


@contextmanager
def _readable_errors(repo: str) -> Iterator[None]:
    """Turns errors of the Hub and of the network into one line."""
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:  # the Hub's client raises those of whatever it uses for HTTP
        if not _is_of_the_hub(error):
            raise
        raise LookalikeError(f"the Hub refuses {repo!r}: {first_line(error)}") from error


def _is_of_the_hub(error: Exception) -> bool:
    root = type(error).__module__.partition(".")[0]
    return root in ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3") or isinstance(
        error, OSError
    )
