"""How compiled loops are run."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.threads import limit_threads
from inrreg.ops.loops import in_parallel
from inrreg.ops.loops.blur import blurred, blurred_differences
from inrreg.ops.sampling import smoothed


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma_mm", [0.0, 0.7, 1.9, 30.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_blur_equals_the_product_of_matrices(
    grid: Grid, sigma_mm: float, threads: int, dtype: torch.dtype
) -> None:
    """Gaussians of no width, of an even and an odd reach, and wider than the image."""
    image = Image(
        torch.randn(2, *grid.shape, generator=torch.Generator().manual_seed(1), dtype=dtype), grid
    )
    with limit_threads(threads):
        found = blurred(image.data, grid, sigma_mm)
    torch.testing.assert_close(
        found,
        smoothed(image, sigma_mm).data,
        rtol=0,
        atol=1e-6 if dtype == torch.float32 else 1e-13,
    )


def test_blurred_differences_equal_their_parts(grid: Grid) -> None:
    views = torch.randn(
        3, 2, *grid.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    pairs = [(views[0], views[1]), (views[2], views[0])]
    expected = smoothed(
        Image(torch.stack([(a - b).square().sum(0) for a, b in pairs]), grid), 1.5
    ).data
    torch.testing.assert_close(blurred_differences(pairs, grid, 1.5), expected, rtol=0, atol=1e-12)
