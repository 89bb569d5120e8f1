"""Pairs with known truth: a breathing chest that slides along its wall, and small toy shapes."""

from inrreg.phantoms.lung import lung_pair
from inrreg.phantoms.pair import PhantomPair, save_pair
from inrreg.phantoms.shapes import blob_pair, cut_c_pair

__all__ = ["PhantomPair", "blob_pair", "cut_c_pair", "lung_pair", "save_pair"]
