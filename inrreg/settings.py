"""Everything a run was set to, as JSON: what is needed to run it again."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import inrreg
from inrreg.image import Image, Points


def described(value: Any) -> Any:
    """Dataclasses as ``{"type": name, field: value, ...}``, functions and classes by name, the rest as JSON has it."""
    if isinstance(value, Image | Points | nn.Module):
        return repr(value) if isinstance(value, Image) else type(value).__name__
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: described(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [described(item) for item in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return value


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"inrreg": inrreg.__version__, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "system": platform.system(), "machine": platform.machine()}


def fingerprint(image: Image) -> str:
    """SHA-256 of the values and the grid of an image, whatever file or object it came from."""
    digest = hashlib.sha256(image.data.detach().cpu().contiguous().numpy().tobytes())
    digest.update(image.grid.affine.tobytes())
    digest.update(repr(image.grid.shape).encode())
    return digest.hexdigest()


def file_hash(source: Any) -> dict[str, str] | None:
    """File name and SHA-256 of an input given as a path; nothing for objects in memory."""
    if not isinstance(source, str | Path):
        return None
    with Path(source).open("rb") as handle:
        return {"file": Path(source).name, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}
