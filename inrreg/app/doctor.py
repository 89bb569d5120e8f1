"""What this installation can do."""

import importlib.metadata
import os
import platform

import torch

import inrreg
from inrreg.fields import tinycuda


def findings() -> list[tuple[str, str]]:
    """Name and finding, one a part that matters for a run."""
    libraries = ("numpy", "scipy", "nibabel", "SimpleITK", "safetensors", "networkx", "matplotlib")
    return [
        ("inrreg", inrreg.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        (
            "torch",
            f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads",
        ),
        ("cuda", _cuda()),
        ("tinycudann", _tinycudann()),
        *[(name, _version(name)) for name in libraries],
    ]


def _cuda() -> str:
    if torch.cuda.is_available():
        return ", ".join(
            f"{torch.cuda.get_device_name(i)}"
            f" ({torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB)"
            for i in range(torch.cuda.device_count())
        )
    return (
        "none: this torch was built without CUDA"
        if torch.version.cuda is None
        else "none: torch has CUDA but finds no device or driver"
    )


def _tinycudann() -> str:
    found, reason = tinycuda.usable()
    return reason if found else f"not usable: {reason}; hash grids run on torch"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing: install it with pip"
