"""inrreg: registration of the pair at hand, by continuous deformation fields, without training
data.

import inrreg
result = inrreg.register("fixed.nii.gz", "moving.nii.gz", preset="lung")
moving_points = result.transform(fixed_points)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from inrreg.app.register import register as register
    from inrreg.app.result import Result as Result
    from inrreg.app.result import load as load
    from inrreg.core.errors import RegistrationError as RegistrationError
    from inrreg.core.grid import Grid as Grid
    from inrreg.core.image import Points as Points
    from inrreg.io import Image as Image
    from inrreg.io import LabelImage as LabelImage
    from inrreg.presets import Preset as Preset
    from inrreg.presets import preset as preset
    from inrreg.stages.gradient_registration import Registration as Registration
    from inrreg.stages.gradient_registration import Scale as Scale
    from inrreg.transforms import Transform as Transform

_HOMES = {
    "Grid": "core.grid",
    "Image": "io",
    "LabelImage": "io",
    "Points": "core.image",
    "Preset": "presets",
    "Registration": "stages.gradient_registration",
    "RegistrationError": "core.errors",
    "Result": "app.result",
    "Scale": "stages.gradient_registration",
    "Transform": "transforms",
    "load": "app.result",
    "preset": "presets",
    "register": "app.register",
}
"""Where each public name lives."""
_ROOMS = (
    "amortised",
    "app",
    "core",
    "evaluation",
    "fields",
    "io",
    "metamorphosis",
    "objective",
    "ops",
    "optimisation",
    "penalties",
    "phantoms",
    "presets",
    "report",
    "similarity",
    "stages",
    "transforms",
)
"""Folders, there as attributes after ``import inrreg``."""
__all__ = ["__version__", *_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import inrreg`` costs nothing."""
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"inrreg.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'inrreg' has no attribute {name!r}")
    value = getattr(import_module(f"inrreg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
