"""Which post-training of a text-to-image diffusion model is better, and how sure are we?"""

import importlib
import sys
from pathlib import Path

__version__ = "0.1.0"


def _import_own(name: str) -> None:
    """Import a package that lies beside this one, whatever else goes by its name."""
    root = Path(__file__).resolve().parents[1]
    # OpenAI's is called baselines, too, and many a working directory has such a folder; python -m
    # looks there first.
    sys.path.insert(0, str(root))
    try:
        package = importlib.import_module(name)
    finally:
        sys.path.remove(str(root))
    place = Path(package.__file__ or "nowhere").resolve().parent
    if place != root / name:
        raise ImportError(
            f"soarbench needs its own package {name!r}, but {place} was imported by that name "
            "before; import soarbench first"
        )


for _name in ("baselines", "evaluators"):
    _import_own(_name)
