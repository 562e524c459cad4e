"""What of the machine this process may use: cores and memory."""

import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container: versions 2, 1
_UNKNOWN = 2**62


def n_cores() -> int:
    """Returns the number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(limits: tuple[str, ...] = _LIMITS) -> int:
    """Returns the bytes of memory that this process may use: the machine's, or what its container may have.

    Args:
        limits: Files with the limits of a container.
    """
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):  # a system without these figures, such as Windows
        sizes = [_UNKNOWN]
    for file in limits:
        try:
            sizes.append(int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return min(sizes)
