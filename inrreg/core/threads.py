"""How the threads of the CPU are divided: between compiled loops and torch's own operations, and
between two independent pieces of work.

torch's threads spin for some milliseconds while they wait for their next operation, on the cores
that compiled loops need. So where loops do most of the work, torch's own operations get one thread
and the loops get all of them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from threading import Event
from typing import Any, Generic, Self, TypeVar, overload

import torch

Report = TypeVar("Report")
Value = TypeVar("Value")
Work = Callable[[Callable[[Report], None] | None], Value]
"""A function that takes a callback for its progress reports, or None, and returns a value."""


class lazy(Generic[Value]):  # noqa: N801, as property is written
    """A property that is computed at its first use and then cached in the instance.

    ``functools.cached_property`` of Python 3.11 holds one lock for all instances while it computes,
    which would make one of two threads wait for the other.
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Value: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Self | Value:
        if instance is None:
            return self
        # from now on the attribute is looked up in the instance, not here
        value = instance.__dict__[self._name] = self._function(instance)
        return value


_of_loops: ContextVar[int | None] = ContextVar("threads of compiled loops", default=None)
_END = object()


def kernel_threads() -> int:
    """How many threads a compiled loop may use: as many as torch, unless ``prefer_kernels`` has set
    another number.
    """
    return _of_loops.get() or torch.get_num_threads()


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """``count`` threads inside the block, for torch's own operations and for compiled loops."""
    with _numbers(count, None):
        yield


@contextmanager
def prefer_kernels(count: int | None = None) -> Iterator[None]:
    """Inside the block compiled loops use ``count`` threads (by default as many as before the
    block), and torch's own operations use one.
    """
    with _numbers(1, count or kernel_threads()):
        yield


@contextmanager
def _numbers(of_torch: int, of_loops: int | None) -> Iterator[None]:
    before, token = torch.get_num_threads(), _of_loops.set(of_loops)
    torch.set_num_threads(of_torch)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _of_loops.reset(token)


class Cancelled(Exception):  # noqa: N818, for it reports no error
    """Raised in a background thread at its next report, after the block that started it was left.

    An optimiser stops on it as it does on a KeyboardInterrupt.
    """


@contextmanager
def run_in_background(
    work: Work[Report, Value], device: torch.device
) -> Iterator[Work[Report, Value]]:
    """Run ``work`` in a thread of its own during the block, and give a function that waits for its
    value. Call that function at most once.

    The thread gets half of the threads of the compiled loops and a copy of the context variables.
    On a GPU, and where there is only one thread, nothing runs in the background: the function is
    ``work`` itself.

    The function takes a callback for the reports of the work, or None. It runs the callback in the
    thread of its caller, and raises what the work raised. Leaving the block without calling it
    cancels the work: its next report raises ``Cancelled``.
    """
    threads = kernel_threads()
    if threads == 1 or device.type != "cpu":
        yield work
        return
    reports, cancelled = SimpleQueue[Any](), Event()

    def report(item: Report) -> None:
        if cancelled.is_set():
            raise Cancelled
        reports.put(item)

    def run() -> Value:
        try:
            with prefer_kernels(threads // 2):
                return work(report)
        finally:
            reports.put(_END)

    with prefer_kernels(threads - threads // 2), ThreadPoolExecutor(1, "background") as pool:
        try:
            future = pool.submit(copy_context().run, run)

            def value(on_report: Callable[[Report], None] | None) -> Value:
                for item in iter(reports.get, _END):
                    if on_report is not None:
                        on_report(item)
                return future.result()

            yield value
        finally:
            cancelled.set()
