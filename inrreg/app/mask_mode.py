"""How lesion masks are used."""

from typing import Literal

MaskMode = Literal["learn", "prior", "fixed"]
"""Find regions without a counterpart without masks, with the help of masks, or use the masks
unchanged.
"""
