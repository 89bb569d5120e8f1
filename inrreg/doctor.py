"""What this installation can do."""

import importlib.metadata
import os
import platform

import torch

import inrreg


def findings() -> list[tuple[str, str]]:
    """Name and finding, one a part that matters for a run."""
    libraries = ("numpy", "scipy", "nibabel", "SimpleITK", "safetensors", "networkx", "matplotlib")
    return [
        ("inrreg", inrreg.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads"),
        ("cuda", _cuda()),
        ("tinycudann", tinycudann()[1]),
        *[(name, _version(name)) for name in libraries],
    ]


def tinycudann() -> tuple[bool, str]:
    """Whether tinycudann can be used, and the reason."""
    try:
        import tinycudann as found
    except (ImportError, OSError, RuntimeError) as error:
        return False, f"not usable: {error}; hash grids run on torch"
    return True, f"found at {found.__file__}"


def _cuda() -> str:
    if torch.cuda.is_available():
        return ", ".join(f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB)" for i in range(torch.cuda.device_count()))
    return "none: this torch was built without CUDA" if torch.version.cuda is None else "none: torch has CUDA but finds no device or driver"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing: install it with pip"
