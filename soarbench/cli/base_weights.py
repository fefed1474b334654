"""Whether the weights of a base model are here, and how to get them."""

from __future__ import annotations

from evaluators.weights import PublishedWeights
from soarbench.cli.doctor import cached_snapshot
from soarbench.models.base import ModelConfig
from soarbench.models.hub import cached_file, is_directory

HUB_PAGE = "https://huggingface.co/"
_INDEX = "model_index.json"


def is_of_hub(model: ModelConfig) -> bool:
    """Whether a model's path is a hub id."""
    return "/" in model.path and not is_directory(model.path)


def to_get_weights(model: ModelConfig) -> str | None:
    """What gets weights of the hub; nothing where they are in its cache, or a directory."""
    if not is_of_hub(model) or _is_cached(model):
        return None
    revision = f" --revision {model.revision}" if model.revision else ""
    return (
        f"to get {model.name}: hf download {model.path}{revision}; where the hub gates it, accept "
        f"the licence at {HUB_PAGE}{model.path} and hf auth login first; or model.path=DIR"
    )


def _is_cached(model: ModelConfig) -> bool:
    files = PublishedWeights(repo=model.path, files=(_INDEX,), disk_gb=0, memory_gb=0)
    # Of the hub's cache the branch that was fetched last; a commit names its own folder.
    index = cached_file("model.path", model.path, model.revision, _INDEX)
    folders = [cached_snapshot(files), None if index is None else index.parent]
    # The index is there first: a download that was interrupted leaves it alone.
    return any(folder is not None and model.lacks(folder) is None for folder in folders)
