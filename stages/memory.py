"""Memory of a process that computes on a CPU."""

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2
"""Parameters of mallopt(3) (glibc, malloc.h)."""


def prepare_memory() -> None:
    """Sets up how the process keeps memory; before torch is imported."""
    keep_freed_memory()
    limit_kernel_caches()


def keep_freed_memory() -> None:
    """Lets glibc reuse the memory of freed tensors instead of giving it back; elsewhere (macOS, musl) without effect.

    By default each tensor of more than 32 MiB, and many a smaller one, is mapped and unmapped each time, and the kernel
    fills its pages with zeros at the first touch: up to two thirds of the CPU time of a small model.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, 1 << 30)
    mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(TOP_PAD, 64 << 20)


def limit_kernel_caches() -> None:
    """Limits how many compiled kernels oneDNN and torch's layer around it keep: by default 1,024 each.

    There is one for each shape. Where lengths vary from batch to batch they grow to some 700 MiB; a model of fixed
    lengths needs a few dozen. What the environment says already stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "128")
