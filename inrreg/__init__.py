"""inrreg: registration of the pair at hand, by continuous deformation fields, without training data."""

__version__ = "0.1.0"
