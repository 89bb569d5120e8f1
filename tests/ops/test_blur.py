"""The Gaussian blur against the product of matrices."""

import pytest
import torch

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.threads import limit_threads
from inrreg.ops.blur import blurred, blurred_differences
from inrreg.ops.sampling import smoothed


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
    pairs = [(0, 1), (2, 0)]
    expected = smoothed(
        Image(torch.stack([(views[a] - views[b]).square().sum(0) for a, b in pairs]), grid), 1.5
    ).data
    torch.testing.assert_close(
        blurred_differences(views, pairs, grid, 1.5), expected, rtol=0, atol=1e-12
    )
