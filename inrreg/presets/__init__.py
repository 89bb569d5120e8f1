"""Named strategies, one file each; ``docs/presets.md`` holds the measurements behind each choice.

A preset is chosen by anatomy; ``default`` fits any pair.
"""

from collections.abc import Callable

from inrreg.core.errors import InputError
from inrreg.presets import brain, default, graph, idir, liver, lung, neural, pathology
from inrreg.presets.base import Preset
from inrreg.presets.settings import setting_names, with_settings

__all__ = ["PRESETS", "Preset", "preset", "setting_names", "with_settings"]

PRESETS: dict[str, Callable[[], Preset]] = {
    "default": default.default,
    "lung": lung.lung,
    "liver": liver.liver,
    "brain": brain.brain,
    "pathology": pathology.pathology,
    "neural": neural.neural,
    "graph": graph.graph,
    "idir": idir.idir,
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()
