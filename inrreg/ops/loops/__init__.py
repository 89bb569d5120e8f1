"""Loops over plain arrays, compiled for the processor at hand: what torch does in some fifty passes
over the memory is done in one or two.

A kernel does the rows ``first`` to ``stop`` of its work, so that threads can share it. It is
compiled when it is first called, for the types it is called with, and kept on disk for the next
time. Importing this room imports numba, which takes a moment: other rooms import a kernel inside
the function that calls it. On a GPU torch's own operations serve, and tests hold both to the same
values.

How to write one: inner loops index whole arrays by unsigned numbers (``image[i, j, k]``, i, j and k
made by ``range(np.uint64(n))`` or ``np.uint64``), also where one kernel calls another. Only then
does the compiler see that no index is negative and use whole vectors; a slice (``row = image[i, j,
a:b]``, k from 0) says so too, but to make one takes as long as to work off a row of a hundred
numbers.
"""

import inspect
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.dispatcher import Dispatcher

from inrreg.core.threads import kernel_threads

log = logging.getLogger(__name__)

Index = Any
"""An unsigned number, ``np.uint64``."""
REORDERED = {"contract", "reassoc", "nsz", "arcp"}
"""What the compiler may assume of arithmetic, so that sums can be vectors: not that numbers are
finite.
"""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as machine code that does not hold Python's lock; kernels may call it."""
    return njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDERED)(
        inspect.unwrap(function)
    )


@cache
def _tell(module_cache: str) -> None:
    """Say, before the first loop is compiled, why the first run on a machine takes longer."""
    if not any(Path(module_cache).glob("*.nbi")):
        log.info("loops are compiled for this processor: up to a minute, once")


@cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that do parts of loops for any that asks; a part never asks for another."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "loops")


if hasattr(os, "register_at_fork"):
    # threads do not live on in a forked process
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def in_parallel(kernel: Callable[..., Any], rows: int | range, *arguments: Any) -> None:
    """``kernel(first, stop, *arguments)`` for parts of ``rows`` (or so many from 0), one for each
    thread that loops may use; sums over rows are the caller's, so as not to depend on their number.
    """
    if isinstance(kernel, Dispatcher):
        _tell(kernel.stats.cache_path)
    begin, n = (rows.start, len(rows)) if isinstance(rows, range) else (0, rows)
    threads = min(kernel_threads(), n)
    if n == 0:
        return
    if threads <= 1:
        kernel(begin, begin + n, *arguments)
        return
    own, *others = pairwise(begin + n * part // threads for part in range(threads + 1))
    parts = [_helpers().submit(kernel, first, stop, *arguments) for first, stop in others]
    try:
        kernel(*own, *arguments)
    finally:
        wait(parts)  # after an interrupt, too, nothing writes any more
    for part in parts:
        part.result()
