"""The small network that rates an embedding, shared by two judges."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from safetensors.torch import save_file
from torch import Tensor, nn

from evaluators.clip.open_clip_models import load_strictly, load_tensors
from evaluators.weights import WeightsError


class AestheticHead(nn.Module):
    """Linear D-1024-128-64-16-1 for embeddings of width D, dropout in training.

    Source: christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE.pth.
    """

    def __init__(self, embedding_width: int = 768) -> None:
        super().__init__()
        # Without activations, and numbered with the dropouts, as the published file was trained:
        # its keys are layers.0, 2, 4, 6 and 7.
        self.layers = nn.Sequential(
            nn.Linear(embedding_width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Ratings (B,), about 1..10, of unit embeddings (B, D)."""
        return cast(Tensor, self.layers(embedding)).squeeze(-1)


def save_head(path: Path, head: AestheticHead) -> None:
    """Write a head as safetensors."""
    state = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})


def load_head(path: Path, embedding_width: int) -> AestheticHead:
    """Read a head for embeddings of a width; ``WeightsError`` where it is for another."""
    state = load_tensors(path)
    first = state.get("layers.0.weight")
    if first is not None and first.shape[-1] != embedding_width:
        raise WeightsError(
            f"aesthetic head {path} rates embeddings of width {first.shape[-1]}, but the CLIP "
            f"gives {embedding_width}; use the pair that belongs together"
        )
    head = AestheticHead(embedding_width)
    load_strictly(head, state, path)
    return head.eval().requires_grad_(False)
