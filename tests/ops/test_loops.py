"""How compiled loops are run."""

import subprocess
import sys
import time

import numpy as np
import pytest

from inrreg.core.threads import limit_threads
from inrreg.ops.loops import in_parallel


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_every_row_is_done_once_whatever_the_threads(n: int, threads: int) -> None:
    done = np.zeros(n)

    def kernel(first: int, stop: int, step: float) -> None:
        done[first:stop] += step

    with limit_threads(threads):
        in_parallel(kernel, n, 1.0)
        in_parallel(kernel, range(n // 2, n), 2.0)
    assert done.tolist() == [1.0] * (n // 2) + [3.0] * (n - n // 2)


def test_a_failing_part_is_told() -> None:
    def kernel(first: int, stop: int) -> None:
        raise ValueError(f"rows {first} to {stop}")

    with limit_threads(2), pytest.raises(ValueError, match="rows"):
        in_parallel(kernel, 4)


def test_after_an_interrupt_no_part_writes_any_more() -> None:
    done = np.zeros(2)

    def kernel(first: int, stop: int) -> None:
        if first == 0:
            raise KeyboardInterrupt
        time.sleep(0.3)
        done[first:stop] = 1

    with limit_threads(2), pytest.raises(KeyboardInterrupt):
        in_parallel(kernel, 2)
    assert done.tolist() == [0.0, 1.0]  # it had ended before the interrupt was heard


def test_the_compiler_is_not_loaded_before_it_is_needed() -> None:
    script = "import sys, inrreg, graphreg; print('numba' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )
