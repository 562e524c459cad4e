"""The operating system's lock of a file (``flock``), which ends with its process, even if that is killed."""

import sys
from typing import IO

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

HAS_LOCKS = fcntl is not None


def lock_file(file: int | IO[bytes], *, wait: bool = False) -> bool | None:
    """Locks an open file until it is closed.

    Args:
        file: The file, or its descriptor.
        wait: Wait until no other process has the lock.

    Returns:
        Whether it succeeded; None if the system or the storage has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
