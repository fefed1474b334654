"""The laboratory's shipped weights; every file is verified by its sha256 before it is used."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from soarbench.common.errors import UserError
from soarbench.common.files import short_digest

ASSETS = Path(__file__).parent / "assets"
#: Of the aesthetic head.
HEAD_FILE = "aesthetic_head.safetensors"
_MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(assets: Path = ASSETS) -> None:
    """Record the digest of every file under ``assets``."""
    files = sorted(p for p in assets.rglob("*") if p.is_file() and p.name != _MANIFEST)
    digests = {str(path.relative_to(assets)): file_sha256(path) for path in files}
    (assets / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")


def manifest(assets: Path = ASSETS) -> dict[str, str]:
    """Recorded digests by relative path; ``UserError`` where the laboratory was not built."""
    path = assets / _MANIFEST
    if not path.is_file():
        raise UserError(
            f"the laboratory has no assets at {assets}; run 'python -m soarbench lab build'"
        )
    digests: dict[str, str] = json.loads(path.read_text())
    return digests


@functools.cache
def asset_dir(name: str, assets: Path = ASSETS) -> Path:
    """Folder of one asset (``base``, ``clip``, ``aesthetic``), verified once a process.

    ``UserError`` where a file is missing or is not the one that was recorded.
    """
    recorded = _recorded(name, assets)
    if not recorded:
        raise UserError(
            f"the laboratory has no asset {name!r}; run 'python -m soarbench lab build'"
        )
    for relative, digest in recorded.items():
        path = assets / relative
        # Hashed and not only counted: a checkout without its large files leaves pointers of the
        # same names.
        if not path.is_file() or file_sha256(path) != digest:
            state = "is corrupted" if path.is_file() else "is missing"
            raise UserError(
                f"laboratory asset {path} {state}; restore it from the repository "
                f"or rebuild it with 'python -m soarbench lab build stage={name}'"
            )
    return assets / name


def weights_hash(name: str) -> str:
    """One digest for all files of an asset, for fingerprints."""
    rows = sorted(_recorded(name, ASSETS).items())
    return short_digest(json.dumps(rows).encode())


def _recorded(name: str, assets: Path) -> dict[str, str]:
    return {k: v for k, v in manifest(assets).items() if k.startswith(f"{name}/")}
