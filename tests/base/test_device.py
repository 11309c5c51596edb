"""What the machine is told before a training."""

import platform
import subprocess
import sys

import pytest
import torch

from athanor.base import device

FAULTS = """
import ctypes, resource, sys
from athanor.base.device import keep_freed_memory
assert keep_freed_memory() != ("--default" in sys.argv)
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for size in [2**26] * 5:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = malloc(ctypes.c_size_t(size))
    ctypes.memset(piece, 1, size)
    free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    """The pages of 64 MiB are mapped once, not each time; and each time where a user has set malloc otherwise."""
    env = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    kept = subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True)
    env |= {"MALLOC_MMAP_THRESHOLD_": "131072"}
    given = subprocess.run(
        [sys.executable, "-c", FAULTS, "--default"], env=env, capture_output=True, text=True, check=True
    )
    assert int(kept.stdout) < 20 < int(given.stdout)  # 32 where pages are of 2 MiB


def test_as_many_threads_as_a_person_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not so among several processes, where torchrun sets the variable by itself."""
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(device, "usable_cores", lambda: 3)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        found = {}
        for wished in ("1", "2,4", "64", "many", ""):
            monkeypatch.setenv("OMP_NUM_THREADS", wished)
            found[wished] = device.set_threads()
        assert found == {"1": 1, "2,4": 2, "64": 3, "many": 3, "": 3}
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        assert device.set_threads() == 3 and device.set_threads(2) == 2
    finally:
        torch.set_num_threads(before)
