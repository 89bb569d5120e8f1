"""Window sums tile by tile against box sums of whole arrays, and what the tiles cover."""

import pytest
import torch
from torch import Tensor

import inrreg.windows
from inrreg.separable import box_sum
from inrreg.windows import WindowSumsBySize, tiles

SHAPES = [(2, 3, 9, 8, 11), (40, 1, 5, 5, 5), (1, 2, 17, 13), (1, 1, 1, 6, 4)]


@pytest.fixture(params=[1, 300, 1 << 16], ids=["tiny tiles", "small tiles", "one tile"], autouse=True)
def tile_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(inrreg.windows, "TILE", request.param)
    return request.param


def summed(data: Tensor, weight: Tensor, radii: tuple[int, ...]) -> Tensor:
    """Window sums put together from their tiles, NaN where there is none."""
    result, sums = torch.full_like(data, torch.nan), WindowSumsBySize(radii, data)
    for tile in tiles(weight, data.shape[1], radii):
        result[tile.inner] = sums(tile, lambda out, outer=tile.outer: out.copy_(data[outer]))
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("radii", [(0, 1, 2), (3, 2, 1), (6, 4, 5)], ids=str)
def test_sums_are_box_sums(shape: tuple[int, ...], radii: tuple[int, ...], generator: torch.Generator, device: torch.device) -> None:
    radii = radii[: len(shape) - 2]
    data = torch.rand(shape, generator=generator, dtype=torch.float64).to(device)
    found = summed(data, torch.ones_like(data[:, :1]), radii)
    torch.testing.assert_close(found, box_sum(data, radii), rtol=0, atol=1e-11)


def test_tiles_cover_what_has_weight_once(generator: torch.Generator, tile_size: int) -> None:
    weight = torch.zeros(2, 1, 20, 16, 18)
    weight[0, 0, 3:7, 5:9, 2:4] = 0.5
    covered = torch.zeros(2, 3, *weight.shape[2:])
    for tile in tiles(weight, 3, (2, 1, 1)):
        covered[tile.inner] += 1
    assert int(covered.max()) == 1
    assert bool((covered[(weight > 0).expand_as(covered)] == 1).all())
    if tile_size < 1000:
        assert float(covered.mean()) < 0.5


def test_nothing_has_no_tiles() -> None:
    assert list(tiles(torch.zeros(1, 1, 9, 9), 1, (1, 1))) == []
