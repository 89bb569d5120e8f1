"""Everything a run was set to, as JSON: what is needed to run it again."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import inrreg
from inrreg.core.hashes import hash_bytes, hash_file
from inrreg.core.image import Image, Points

LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK")
"""Whose versions the numbers depend on."""


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the kind of machine."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "inrreg": inrreg.__version__,
        "python": platform.python_version(),
        **libraries,
        "system": platform.system(),
        "machine": platform.machine(),
    }


def input_entry(source: object, content: Image | tuple[Points, Points]) -> dict[str, Any]:
    """Where an input came from (absolute paths with their SHA-256, an object in memory by its type,
    or the preset) and its content (grid or count, SHA-256).
    """
    if isinstance(source, str | Path):
        entry: dict[str, Any] = {
            "file": str(Path(source).absolute()),
            "file_sha256": hash_file(source),
        }
    elif isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        entry = {
            "files": [str(Path(one).absolute()) for one in source],
            "files_sha256": [hash_file(one) for one in source],
        }
    else:
        entry = {"object": "found by the preset" if source is None else type(source).__name__}
    if isinstance(content, Image):
        return {**entry, "grid": content.grid.to_json(), "sha256": image_hash(content)}
    return {
        **entry,
        "n": len(content[0]),
        "sha256": hash_bytes(*[points.coords.numpy().tobytes() for points in content]),
    }


def image_hash(image: Image) -> str:
    """SHA-256 of the values and the grid of an image, whatever file or object it came from."""
    return hash_bytes(
        image.data.detach().cpu().contiguous().numpy().tobytes(),
        image.grid.affine.tobytes(),
        repr(image.grid.shape).encode(),
    )
