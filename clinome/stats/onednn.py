"""The 8-bit matrix product of oneDNN's C library: torch's own product is the same, but costs a second's import.

``dnnl_gemm_s8s8s32`` (oneDNN developer guide, BLAS functions) multiplies row-major 8-bit integers into 32-bit ones. The library
comes with `pip install onednn-cpu-gomp` (into the environment's ``lib``), with Debian's ``libdnnl3``, or with conda's ``onednn``.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_NAME = "libdnnl.so.3"
_BYTE, _SIZE, _REAL = ctypes.c_char, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = (
    *(_BYTE, _BYTE, _BYTE, _SIZE, _SIZE, _SIZE, _REAL, ctypes.c_void_p, _SIZE, ctypes.c_int8),
    *(ctypes.c_void_p, _SIZE, ctypes.c_int8, _REAL, ctypes.c_void_p, _SIZE, ctypes.c_void_p),
)


@cache
def library() -> ctypes.CDLL | None:
    """Return the library when it is there and has the product."""
    for name in (str(Path(sys.prefix) / "lib" / _NAME), _NAME):
        try:
            found = ctypes.CDLL(name)
            found.dnnl_gemm_s8s8s32.argtypes = _ARGUMENTS
        except (OSError, AttributeError):
            continue
        return found
    return None


def multiply(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return ``left`` (M, K) × ``right`` (K, N), both C-contiguous, in 32-bit integers.

    Raises
    ------
    RuntimeError
        When the library is not there, or refuses.
    """
    found = library()
    (m, k), n = left.shape, right.shape[1]
    result = np.zeros((m, n), np.int32)
    if not result.size or not k:
        return result
    a, b, c = (array.ctypes.data for array in (left, right, result))
    offset = np.zeros(1, np.int32)
    status = 1
    if found is not None:
        status = found.dnnl_gemm_s8s8s32(b"N", b"N", b"F", m, n, k, 1.0, a, k, 0, b, n, 0, 0.0, c, n, offset.ctypes.data)
    if status:
        raise RuntimeError("oneDNN's 8-bit product is not to be had here")
    return result


def use_threads(threads: int) -> int:
    """Let products that the calling thread asks for use so many processors; return how many they used, or 0: not known."""
    found = library()
    if found is None or not hasattr(found, "omp_set_num_threads"):
        return 0
    before = int(found.omp_get_max_threads())
    found.omp_set_num_threads(threads)
    return before
