"""How compiled loops are run."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from inrreg.kernels import in_parallel


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_every_row_is_done_once_whatever_the_threads(n: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    done = np.zeros(n)

    def kernel(first: int, stop: int, step: float) -> None:
        done[first:stop] += step

    try:
        in_parallel(kernel, n, 1.0)
    finally:
        torch.set_num_threads(before)
    assert done.tolist() == [1.0] * n


def test_a_failing_part_is_told() -> None:
    def kernel(first: int, stop: int) -> None:
        raise ValueError(f"rows {first} to {stop}")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="rows"):
            in_parallel(kernel, 4)
    finally:
        torch.set_num_threads(before)


def test_the_compiler_is_not_loaded_before_it_is_needed() -> None:
    script = "import sys, inrreg, graphreg; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "False"
