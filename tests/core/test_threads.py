"""How threads are shared out, and two pieces of work at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
import torch

from inrreg.core.threads import (
    Cancelled,
    kernel_threads,
    lazy,
    limit_threads,
    prefer_kernels,
    run_in_background,
)
from inrreg.fields.tangents import forward_mode

CPU = torch.device("cpu")
Say = Callable[[str], None] | None


def test_loops_have_torchs_number_unless_they_come_first() -> None:
    before = torch.get_num_threads()
    with limit_threads(3):
        assert (torch.get_num_threads(), kernel_threads()) == (3, 3)
        with prefer_kernels():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
            with prefer_kernels(2):
                assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
            with limit_threads(4):
                assert (torch.get_num_threads(), kernel_threads()) == (4, 4)
        assert (torch.get_num_threads(), kernel_threads()) == (3, 3)
    assert torch.get_num_threads() == before


def test_a_function_may_put_loops_first() -> None:
    """With the number of whoever calls it, not of whoever wrote it."""

    @prefer_kernels()
    def numbers() -> tuple[int, int]:
        return torch.get_num_threads(), kernel_threads()

    for count in (2, 5):
        with limit_threads(count):
            assert numbers() == (1, count)


@pytest.mark.parametrize(("count", "here", "there"), [(1, 1, 1), (2, 1, 1), (3, 2, 1), (4, 2, 2)])
def test_threads_are_halved_between_both_and_given_back(count: int, here: int, there: int) -> None:
    def work(say: Say) -> tuple[int, int]:
        return torch.get_num_threads(), kernel_threads()

    with limit_threads(count):
        with run_in_background(work, CPU) as result:
            assert (torch.get_num_threads(), kernel_threads()) == (1, here)
            assert result(print) == (1, there)
        assert (torch.get_num_threads(), kernel_threads()) == (count, count)


def test_both_are_done_at_once_and_heard_by_the_caller() -> None:
    """Neither could go on without the other here."""
    first, second = threading.Event(), threading.Event()

    def work(say: Say) -> str:
        say("one")
        second.set()
        assert first.wait(10)
        say("two")
        return threading.current_thread().name

    heard = list[tuple[str, str]]()
    with limit_threads(2), run_in_background(work, CPU) as result:
        assert second.wait(10)
        first.set()
        name = result(lambda what: heard.append((what, threading.current_thread().name)))
    assert name != threading.current_thread().name
    assert heard == [
        ("one", threading.current_thread().name),
        ("two", threading.current_thread().name),
    ]


def test_with_one_thread_the_work_is_done_when_asked_for() -> None:
    order = list[str]()

    def work(say: Say) -> None:
        say("work")

    with limit_threads(1), run_in_background(work, CPU) as result:
        order.append("block")
        result(order.append)
    assert order == ["block", "work"]


def test_to_leave_the_block_ends_the_work() -> None:
    begun, ended = threading.Event(), list[str]()

    def work(say: Say) -> None:
        begun.set()
        try:
            while True:
                say("on")
        except Cancelled:
            ended.append("cancelled")
            raise

    with limit_threads(2), run_in_background(work, CPU):
        assert begun.wait(10)
    assert ended == ["cancelled"]


@pytest.mark.parametrize("count", [1, 2])
def test_what_fails_aside_is_told_with_the_value(count: int) -> None:
    def work(say: Say) -> None:
        raise ValueError("no such thing")

    with (
        limit_threads(count),
        run_in_background(work, CPU) as result,
        pytest.raises(ValueError, match="no such thing"),
    ):
        result(print)


def test_the_work_knows_its_context() -> None:
    """As whoever keeps the warnings of a run does."""
    whose = ContextVar("whose", default="nobody's")
    token = whose.set("mine")
    with limit_threads(2), run_in_background(lambda say: whose.get(), CPU) as result:
        assert result(print) == "mine"
    whose.reset(token)


def test_a_gpu_is_given_one_piece_of_work_at_a_time() -> None:
    with (
        limit_threads(2),
        run_in_background(
            lambda say: threading.current_thread().name, torch.device("cuda")
        ) as result,
    ):
        assert result(print) == threading.current_thread().name


def test_a_lazy_property_is_computed_once_and_kept() -> None:
    asked = list[int]()

    class Asked:
        @lazy
        def value(self) -> int:
            """What it is."""
            asked.append(1)
            return 7

    instance = Asked()
    assert (instance.value, instance.value, asked) == (7, 7, [1])
    assert Asked.value.__doc__ == "What it is."


def test_lazy_properties_of_two_instances_are_computed_at_once() -> None:
    meeting = threading.Barrier(2, timeout=10)

    class Meeting:
        @lazy
        def place(self) -> int:
            return meeting.wait()

    with ThreadPoolExecutor(2) as pool:
        places = [pool.submit(getattr, Meeting(), "place") for _ in range(2)]
        assert sorted(place.result() for place in places) == [0, 1]


def test_forward_mode_is_right_in_two_threads() -> None:
    points = torch.rand(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def off(_: int) -> float:
        return float(
            (forward_mode(torch.sin, points)[1].diagonal(dim1=-2, dim2=-1) - points.cos())
            .abs()
            .max()
        )

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(off, range(200))) < 1e-12
