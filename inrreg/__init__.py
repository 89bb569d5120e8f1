"""inrreg: registration of the pair at hand, by continuous deformation fields, without training data.

import inrreg
result = inrreg.register("fixed.nii.gz", "moving.nii.gz", preset="lung")
moving_points = result.transform(fixed_points)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from inrreg.errors import RegistrationError as RegistrationError
    from inrreg.image import Image as Image
    from inrreg.image import LabelImage as LabelImage
    from inrreg.image import Points as Points
    from inrreg.presets import Preset as Preset
    from inrreg.presets import preset as preset
    from inrreg.recipes import register as register
    from inrreg.registration import Registration as Registration
    from inrreg.registration import Scale as Scale
    from inrreg.result import Result as Result
    from inrreg.result import load as load
    from inrreg.space import Grid as Grid
    from inrreg.transforms import Transform as Transform

_HOMES = {
    "Grid": "space",
    "Image": "image",
    "LabelImage": "image",
    "Points": "image",
    "Preset": "presets",
    "Registration": "registration",
    "RegistrationError": "errors",
    "Result": "result",
    "Scale": "registration",
    "Transform": "transforms",
    "load": "result",
    "preset": "presets",
    "register": "recipes",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import inrreg`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'inrreg' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"inrreg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
