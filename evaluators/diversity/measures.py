"""Vendi score and LPIPS of the images of a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.models import alexnet
from torchvision.transforms.v2 import functional as transforms

from evaluators.clip.encoders import ClipEncoder
from evaluators.clip.open_clip_models import load_strictly, load_tensors
from evaluators.devices import on_device
from evaluators.weights import WeightsError

#: Of ImageNet, which AlexNet was trained on; RGB.
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def vendi_score(embeddings: Tensor) -> float:
    """The effective number of unlike images of unit embeddings (N, D); 1 (all equal) to N."""
    # In double: eigenvalues near 0, of images that are nearly equal, are lost in single.
    vectors = embeddings.double()
    shares = torch.linalg.eigvalsh(vectors @ vectors.T / len(vectors))
    shares = shares[shares > 0]  # 0 log 0 is 0 here
    return float(torch.exp(-(shares * shares.log()).sum()))


class Vendi:
    """The Vendi score of a CLIP's embeddings."""

    def __init__(self, encoder: ClipEncoder, batch_size: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size

    def __call__(self, images: Sequence[Image.Image]) -> float:
        """See ``vendi_score``."""
        pixels = torch.stack([self._encoder.preprocess(image.convert("RGB")) for image in images])
        with torch.inference_mode():
            parts = [self._encoder.images(part) for part in pixels.split(self._batch_size)]
        return vendi_score(torch.cat(parts).cpu())


class Lpips:
    """LPIPS, version 0.1, on AlexNet's five rectified layers."""

    def __init__(self, weights: Path, head: Path, *, batch_size: int, device: torch.device) -> None:
        network = alexnet(weights=None)
        load_strictly(network, load_tensors(weights), weights)
        network.eval().requires_grad_(False).to(device)
        self._layers, self._batch_size, self._device = network.features, batch_size, device
        layers = network.features
        widths = [one.out_channels for one in layers if isinstance(one, torch.nn.Conv2d)]
        self._heads = [one.to(device) for one in _read_heads(head, widths)]

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Unit features after each rectified layer, (B, C, H, W), of pixels in 0..1."""
        x = transforms.normalize(pixels, _MEAN, _STD)
        outputs = []
        for layer in self._layers:
            x = layer(x)
            if isinstance(layer, torch.nn.ReLU):
                # A copy: the next layer may work in place.
                outputs.append(normalize(x, dim=1, eps=1e-10))
        return outputs

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """LPIPS of pairs of pixels in 0..1, (B, 3, H, W) each. -> (B,)."""
        pairs = zip(self._heads, self.features(first), self.features(second), strict=True)
        parts = [(head * (one - other).square()).sum(1).mean((1, 2)) for head, one, other in pairs]
        return torch.stack(parts).sum(0)

    def __call__(self, images: Sequence[Image.Image]) -> float:
        """The mean over all pairs."""
        pixels = torch.stack([transforms.to_image(one.convert("RGB")) for one in images])
        pixels = on_device(pixels.float() / 255, self._device)
        pairs = torch.tensor(list(itertools.combinations(range(len(images)), 2)))
        with torch.inference_mode():
            parts = [
                self.distances(pixels[part[:, 0]], pixels[part[:, 1]])
                for part in pairs.split(self._batch_size)
            ]
        return float(torch.cat(parts).double().mean())


def _read_heads(path: Path, widths: Sequence[int]) -> list[Tensor]:
    """The weights of each layer's channels, (1, C, 1, 1); ``WeightsError`` if they do not fit."""
    state = load_tensors(path)
    names = [f"lin{index}.model.1.weight" for index in range(len(widths))]
    shapes = {name: (1, width, 1, 1) for name, width in zip(names, widths, strict=True)}
    if {name: tuple(one.shape) for name, one in state.items()} != shapes:
        raise WeightsError(
            f"head={path}: holds {', '.join(sorted(state)) or 'nothing'}; give alex.pth of the "
            f"lpips package, version 0.1, which holds {names[0]} to {names[-1]}"
        )
    return [state[name] for name in names]
