"""Options of ``lookalike convert --cluster``."""

from pathlib import Path
from typing import Any


def cluster_options(
    address: str, folder: Path, batch_size: int, on_error: str, class_names: list[str]
) -> dict[str, Any]:
    """Returns the options of a conversion on a Ray cluster."""
    from lookalike.conversion.on_ray import Ray

    return {
        "backend": Ray(address),
        "working_folder": folder,
        "batch_size": batch_size,
        "on_error": on_error,
        "class_names": class_names,
    }


def check_with_cluster(
    folder: Path | None,
    precision: str,
    memory_limit: str | None,
    workers: int | None,
    profile: Path | None,
    devices: list[str],
) -> None:
    """Checks that a conversion on a cluster has its folder, and no option that applies to one machine only.

    Raises:
        LookalikeError: If not.
    """
    from lookalike._core.errors import LookalikeError

    if folder is None:
        raise LookalikeError("--cluster needs --working-folder: a folder that all nodes reach")
    for name, is_given in (
        ("--precision", precision not in ("auto", "float32")),
        ("--memory-limit", memory_limit is not None),
        ("--workers", bool(workers)),
        ("--device with several devices", len(devices) > 1),
        ("--profile", profile is not None),
    ):
        if is_given:
            raise LookalikeError(f"{name} is for one machine; leave it out with --cluster")
