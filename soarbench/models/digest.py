"""What identifies weights that are not loaded; imports no framework."""

from __future__ import annotations

from pathlib import Path

from soarbench.common.files import files_digest


def folder_digest(folder: Path, *parts: str) -> str:
    """Of names, sizes and ends of a folder's files, or of those in subfolders that match a part."""
    # Hashing all of 15 GB before every run would take a minute.
    folders = [found for part in parts for found in folder.glob(part)] if parts else [folder]
    files = (path for found in folders for path in found.rglob("*") if path.is_file())
    return files_digest(sorted(files), folder)
