"""Prompts that a user brings: plain text, one a line, or JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

from soarbench.common.errors import UserError
from soarbench.data.prompts import PromptItem


def read_prompts(path: Path, suite: str) -> list[PromptItem]:
    """A prompt a line of a file; ``UserError`` where it is missing, empty or malformed.

    Args:
        path: JSON Lines with ``prompt``, or plain text.
        suite: Its name, with which ids begin.
    """
    if not path.is_file():
        raise UserError(f"prompts={path}: no such file")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"prompts={path} is not UTF-8 text ({error})") from error
    if not lines:
        raise UserError(f"prompts={path} is empty")
    numbers: dict[str, int] = {}
    items = []
    for position, line in enumerate(lines, start=1):
        entry = read_entry(line, f"{path} line {position}") if path.suffix == ".jsonl" else None
        text = line.strip() if entry is None else str(entry["prompt"])
        # Equal lines are one prompt: a file that repeats each prompt names several images of it.
        index = numbers.setdefault(text, len(numbers))
        items.append(PromptItem(f"{suite}/{index:05d}", text, entry or {"prompt": text}))
    return items


def read_entry(line: str | bytes, where: str) -> dict[str, object]:
    """A line's object; ``UserError`` where it is none, or its ``prompt`` is no text."""
    entry = read_object(line, where)
    if not isinstance(entry.get("prompt"), str) or not entry["prompt"]:
        raise UserError(f"{where}: prompt is {entry.get('prompt')!r}; it must be the prompt's text")
    return entry


def read_object(line: str | bytes, where: str) -> dict[str, object]:
    """A line's object; ``UserError`` where it is none."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object: {entry!r}")
    return entry
