"""Every preset, shortened, gives the map of the CPU on another device, and its result is saved."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from roof_cases import pair_2d, pair_3d

import inrreg
from inrreg.app.register import register
from inrreg.app.result import Result
from inrreg.core.image import Image
from inrreg.phantoms import PhantomPair
from inrreg.presets import PRESETS, Preset, preset
from inrreg.stages.gradient_registration import Scale

FLOOR_MM = 1e-3
PAIRS = {"2-D": pair_2d, "3-D": pair_3d}


def shortened(settings: Any) -> Any:
    """The settings with at most two iterations a scale, at 6 mm or coarser."""
    if isinstance(settings, Scale):
        return replace(
            settings,
            spacing_mm=max(settings.spacing_mm, 6.0),
            iterations=min(settings.iterations, 2),
        )
    if isinstance(settings, tuple):
        return tuple(shortened(entry) for entry in settings)
    if is_dataclass(settings) and not isinstance(settings, type):
        changes = {f.name: shortened(getattr(settings, f.name)) for f in fields(settings) if f.init}
        return replace(settings, **changes)
    return settings


def registered(pair: PhantomPair, chosen: Preset, device: str, noise: float = 0.0) -> Result:
    """The result where each moving intensity is changed by about ``noise`` of their range.

    The background is changed too: where no structure holds the map, it follows the rounding.
    """
    data = pair.moving.data
    change = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    moving = replace(pair.moving, data=data + noise * (data.max() - data.min()) * change)
    return register(
        pair.fixed,
        moving,
        preset=chosen,
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
        device=device,
    )


def distance_mm(one: Result, other: Result, mask: Image | None = None) -> float:
    """The largest distance between two maps on the fixed grid, or in a mask on it."""
    fields_mm = [result.transform.displacement_on(result.grid) for result in (one, other)]
    distances = (fields_mm[0] - fields_mm[1]).norm(dim=-1)
    return float((distances if mask is None else distances[mask.data[0] > 0]).max())


@pytest.mark.parametrize("dimension", PAIRS)
@pytest.mark.parametrize("name", PRESETS)
def test_the_map_is_that_of_the_cpu(
    name: str, dimension: str, accelerator: torch.device, tmp_path: Path
) -> None:
    pair, chosen = PAIRS[dimension](), shortened(preset(name))
    expected = registered(pair, chosen, "cpu")
    nudged = registered(pair, chosen, "cpu", noise=1e-6)
    found = registered(pair, chosen, str(accelerator))
    for mask in (None, pair.fixed_mask):
        change = distance_mm(nudged, expected, mask)
        assert distance_mm(found, expected, mask) <= max(FLOOR_MM, 3 * change)
    found.save(tmp_path / "result")
    loaded = inrreg.load(tmp_path / "result")
    assert distance_mm(loaded, found) < FLOOR_MM
