"""What identifies weights that are not loaded; imports no framework."""

from __future__ import annotations

from pathlib import Path

from soarbench.common.files import files_digest


def folder_digest(folder: Path) -> str:
    """Of names and sizes of all files and of the content of their ends.

    Hashing all of 15 GB before every run would take a minute.
    """
    return files_digest(sorted(path for path in folder.rglob("*") if path.is_file()), folder)


def encoder_files_digest(folder: Path) -> str:
    """The same, of a pipeline's text encoders and tokenizers alone."""
    folders = (*folder.glob("text_encoder*"), *folder.glob("tokenizer*"))
    files = (path for part in folders for path in part.rglob("*") if path.is_file())
    return files_digest(sorted(files), folder)
