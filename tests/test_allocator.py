"""Commands keep freed memory, so that the activations of a layer are not mapped and cleared again for the next."""

import os
import subprocess
import sys

import pytest

# as large as activations: blocks of 24 MB and 72 MB in turn, whose freed memory glibc would hand back by default
FAULTS = """
import resource, sys, threading
from lookalike._core.allocator import keep_freed_memory

print(keep_freed_memory())
def layers():
    blocks = [bytes([number + 1]) * 24_000_000 for number in range(4)]
for _ in range(2):
    layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=lambda: [layers() for _ in range(5)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return result.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_used_again():
    kept, n_faults, n_in_thread = faults()
    assert kept == "True"
    assert int(n_faults) < 500  # 5 × 4 blocks of 5,860 pages
    assert int(n_in_thread) < 500


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_settings_of_the_user_are_kept():
    kept, n_faults, _ = faults(MALLOC_TRIM_THRESHOLD_="100000")
    assert kept == "False"
    assert int(n_faults) > 50_000
