"""How the threads of the CPU are shared out: between compiled loops and torch's own operations, and
between two pieces of work that need nothing of each other.

torch's threads wait for their next operation by spinning, for some milliseconds, on the very cores
that compiled loops then ask for. So where loops do most of the work, torch's own operations are
given one thread, and the loops all of them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from threading import Event
from typing import Any, Generic, Self, TypeVar, overload

import torch

Said = TypeVar("Said")
Value = TypeVar("Value")
Work = Callable[[Callable[[Said], None] | None], Value]
"""What may be given a way to say how far it is, and returns a value."""


class lazy(Generic[Value]):  # noqa: N801, as property is written
    """A property that is computed when it is first asked for, and kept; functools' own locks out
    all other instances meanwhile (Python 3.11), and so the other of two pieces of work.
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
        # where it is found first from now on
        value = instance.__dict__[self._name] = self._function(instance)
        return value


_of_loops: ContextVar[int | None] = ContextVar("threads of compiled loops", default=None)
_END = object()


def kernel_threads() -> int:
    """How many threads a compiled loop may use here: as many as torch, unless ``prefer_kernels``
    has said otherwise.
    """
    return _of_loops.get() or torch.get_num_threads()


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """``count`` threads inside the block, for torch's own operations and for compiled loops."""
    with _numbers(count, None):
        yield


@contextmanager
def prefer_kernels(count: int | None = None) -> Iterator[None]:
    """Inside the block compiled loops have ``count`` threads (as many as before it unless given),
    and torch's own operations one.
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


@contextmanager
def run_in_background(work: Work[Said, Value], device: torch.device) -> Iterator[Work[Said, Value]]:
    """Does ``work`` beside the block, in a thread of its own with half of the threads, and gives
    what waits for its value, to be called once; on a GPU, which one piece of work fills, and with
    one thread, it gives ``work`` itself, which is then done when it is called. Of the context,
    context variables are carried over.

    Either is called with what is to hear how far the work is, if anything, in the thread that
    calls. To leave the block before ends the work: a KeyboardInterrupt is raised in it when it next
    says something.
    """
    threads = kernel_threads()
    if threads == 1 or device.type != "cpu":
        yield work
        return
    said, stopped = SimpleQueue[Any](), Event()

    def say(what: Said) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        said.put(what)

    def done() -> Value:
        try:
            with prefer_kernels(threads // 2):
                return work(say)
        finally:
            said.put(_END)

    with prefer_kernels(threads - threads // 2), ThreadPoolExecutor(1, "aside") as pool:
        try:
            running = pool.submit(copy_context().run, done)

            def value(hear: Callable[[Said], None] | None) -> Value:
                for what in iter(said.get, _END):
                    if hear is not None:
                        hear(what)
                return running.result()

            yield value
        finally:
            stopped.set()
