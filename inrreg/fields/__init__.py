"""Coordinate networks: cube coordinates in, values out. Any module of that shape can be a field.

``FIELDS`` names those that a saved transform or a preset can hold; a field of your own is added to it in one line.
"""

from collections.abc import Callable

from torch import nn

from inrreg.fields.siren import Siren

FIELDS: dict[str, Callable[..., nn.Module]] = {"siren": Siren}

__all__ = ["FIELDS", "Siren"]
