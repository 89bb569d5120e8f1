"""The estimate of memory, and the limit that is held against it before any work."""

import pytest
import torch
from roof_cases import ALARM, TINY, pair_3d

import inrreg
from inrreg.errors import InputError
from inrreg.image import Image
from inrreg.memory import BASE_MB, LEVEL_BYTES, MEASURING_BYTES, check_memory, estimated_mb, scales_of
from inrreg.pair import Pair
from inrreg.presets import PRESETS, preset
from inrreg.space import Grid


def pair_of(n: int, spacing: float = 1.0) -> Pair:
    image = Image(torch.zeros(1, 1, 1, 1).expand(1, n, n, n), Grid.from_spacing((n, n, n), spacing))
    return Pair(image, image)


def test_the_finest_level_counts() -> None:
    brain = preset("brain")  # down to 1 mm
    n = 100**3
    assert estimated_mb(pair_of(100), brain) == pytest.approx(BASE_MB + (24 * n + LEVEL_BYTES * n) / 1e6)
    assert estimated_mb(pair_of(100, 0.5), brain) == pytest.approx(BASE_MB + (24 * n + MEASURING_BYTES * n) / 1e6)  # levels are an eighth of the image


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "graph"])
def test_every_preset_shows_its_levels(name: str) -> None:
    assert any(scales_of(stage) for stage in preset(name).stages[-1:])


def test_a_limit_is_held_before_any_work() -> None:
    pair = pair_3d()
    with pytest.raises(InputError, match=r"needs about \d+ MB for these images, and 100 MB are allowed; no image would fit"):
        inrreg.register(pair.fixed, pair.moving, preset=ALARM, max_memory_mb=100)
    with pytest.raises(InputError, match="must be above 0 MB"):
        inrreg.register(pair.fixed, pair.moving, preset=ALARM, max_memory_mb=0)
    assert inrreg.register(pair.fixed, pair.moving, preset=TINY, max_memory_mb=1000).outcome.usable


def test_it_says_what_would_fit() -> None:
    brain, pair = preset("brain"), pair_of(100)
    half = BASE_MB + 0.5 * (estimated_mb(pair, brain) - BASE_MB)
    with pytest.raises(InputError, match="images of 50 % as many voxels would fit"):
        check_memory(pair, brain, half)
    check_memory(pair, brain, 1.01 * estimated_mb(pair, brain))
