"""Coordinate networks: cube coordinates in, values out. Any module of that shape can be a field.

``FIELDS`` names those that a saved transform or a preset can hold; a field of your own is added to
it in one line.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from inrreg.core.errors import TransformError
from inrreg.fields.coarse_fine import Annealed, CoarseFine
from inrreg.fields.hashgrid import HashGrid
from inrreg.fields.nephi import NePhi, TwoWay
from inrreg.fields.perceptron import FourierPerceptron, Perceptron
from inrreg.fields.siren import Siren
from inrreg.fields.tangents import Field, value_and_jacobian

FIELDS: dict[str, Callable[..., nn.Module]] = {
    "siren": Siren,
    "fourier": FourierPerceptron,
    "mlp": Perceptron,
    "coarse_fine": CoarseFine,
    "hashgrid": HashGrid,
    "nephi": NePhi,
}
EXECUTION = ("backend", "precision")
"""Options that say how a field is computed, not what it is: they are not saved with it."""


def built(name: str, **options: Any) -> nn.Module:
    """The field of that name.

    Raises:
        TransformError: there is none.
    """
    if name not in FIELDS:
        raise TransformError(f"no field is called {name!r}; choose one of {', '.join(FIELDS)}")
    return FIELDS[name](**options)


__all__ = [
    "EXECUTION",
    "FIELDS",
    "Annealed",
    "CoarseFine",
    "Field",
    "FourierPerceptron",
    "HashGrid",
    "NePhi",
    "Perceptron",
    "Siren",
    "TwoWay",
    "built",
    "value_and_jacobian",
]
