"""GenEval as the public code does it: the oracle for verdicts, and for what ours saves.

Shares with ``evaluators`` the models, the resizing of the input and the pure ``judge``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from torch.utils.data import DataLoader, Dataset

from evaluators.clip.open_clip_models import (
    Preprocess,
    build_open_clip,
    image_preprocess,
    read_config,
)
from evaluators.geneval.detectors import Detection
from evaluators.geneval.mask2former import load_detector, model_input, resized_size
from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from evaluators.geneval.verdict import Verdict, judge

# As published, down to a loader of four worker processes for the crops of every clause.
NUM_PAIRS, NUM_WORKERS, CROPS_A_BATCH = 100, 4, 16
Instances = Sequence[tuple[Detection, np.ndarray]]
"""Objects, each with its mask, (H, W)."""


class Crops(Dataset[Tensor]):
    """Objects of one image on grey, as the colour model takes them."""

    def __init__(self, image: Image.Image, instances: Instances, preprocess: Preprocess) -> None:
        self.image, self.instances, self.preprocess = image, instances, preprocess

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, index: int) -> Tensor:
        detection, mask = self.instances[index]
        pixels = np.full((*mask.shape, 3), 0x99, dtype=np.uint8)
        pixels[mask] = np.asarray(self.image)[mask]
        x1, y1, x2, y2 = (int(edge) for edge in detection.box)
        return self.preprocess(Image.fromarray(pixels).crop((x1, y1, x2, y2)))


class NaiveGenEval:
    """Both models, on one device."""

    def __init__(self, detector: str, color_model: Path, device: torch.device) -> None:
        self.device = device
        self.detector, _ = load_detector(detector)
        self.detector.to(device).eval()  # type: ignore[arg-type]
        config = read_config(color_model)
        model_config = config["model_cfg"]
        assert isinstance(model_config, dict)
        # OpenAI's weights need it, and nothing but worse answers shows that it is missing.
        config["model_cfg"] = {**model_config, "quick_gelu": True}
        self.clip = build_open_clip(config)
        weights = next(color_model.glob("*.safetensors"))
        self.clip.load_state_dict(open_clip.factory.load_state_dict(str(weights)))
        self.clip.to(device).eval()
        self.preprocess = image_preprocess(config)
        self.texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def verdict(self, path: Path, metadata: Mapping[str, object]) -> Verdict:
        """The verdict on one image by its prompt's metadata."""
        # One image at a time: this is what ours saves.
        image = Image.open(path).convert("RGB")
        objects = self.detect(image)
        threshold = 0.9 if metadata["tag"] == "counting" else 0.3
        colors: dict[int, str] = {}
        clauses = metadata.get("include", [])
        assert isinstance(clauses, list)
        for clause in clauses:
            if clause.get("color") is None:
                continue
            rows = [
                i
                for i, (one, _) in enumerate(objects)
                if one.label == clause["class"] and one.score > threshold
            ]
            if len(rows) < clause["count"]:
                continue
            rows.sort(key=lambda i: (objects[i][0].score, i), reverse=True)
            rows = rows[: clause["count"]]
            named = self.colors(image, [objects[i] for i in rows], clause["class"])
            colors |= dict(zip(rows, named, strict=True))
        detections = [
            Detection(one.label, one.box, one.score, colors.get(i))
            for i, (one, _) in enumerate(objects)
        ]
        return judge(detections, metadata)

    def detect(self, image: Image.Image) -> Instances:
        """The 100 best pairs by falling score, each with its mask."""
        pixels = model_input(image, device=self.device)
        output = self.detector(pixels[None])
        height, width = resized_size((image.height, image.width))
        bilinear = partial(interpolate, mode="bilinear", align_corners=False)
        # Without the padding of the input; then all of full size at once.
        masks = bilinear(output.masks_queries_logits, pixels.shape[-2:])[..., :height, :width]
        masks = bilinear(masks, (image.height, image.width))[0]
        chances = output.class_queries_logits[0].softmax(-1)[:, :-1]
        best, order = chances.flatten().sort(descending=True, stable=True)
        detections = []
        for chance, place in zip(best[:NUM_PAIRS], order[:NUM_PAIRS].tolist(), strict=True):
            query, label = divmod(place, chances.shape[1])
            logits = masks[query]
            mask = logits > 0
            if not mask.any():
                continue
            score = chance * (logits.sigmoid() * mask).sum() / (mask.sum() + 1e-6)
            own = mask.cpu().numpy()
            ys, xs = np.nonzero(own)
            box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
            detections.append((Detection(CLASS_NAMES[label], box, score.item()), own))
        return sorted(detections, key=lambda pair: -pair[0].score)

    def colors(self, image: Image.Image, instances: Instances, name: str) -> list[str]:
        """Colours of one image's objects of one class, through a loader of their own."""
        loader = DataLoader(
            Crops(image, instances, self.preprocess),
            batch_size=CROPS_A_BATCH,
            num_workers=NUM_WORKERS,
            multiprocessing_context="fork",
        )
        answers: list[str] = []
        for batch in loader:
            features = normalize(self.clip.encode_image(batch.to(self.device)), dim=-1)
            best = (features @ self.class_texts(name).T).argmax(1)
            answers += [COLORS[i] for i in best.tolist()]
        return answers

    def class_texts(self, name: str) -> Tensor:
        """Mean text vector of every colour of a class; (colours, D)."""
        if name not in self.texts:
            rows = []
            for color in COLORS:
                texts = [
                    f"a photo of a {color} {name}",
                    f"a photo of a {color}-colored {name}",
                    f"a photo of a {color} object",
                ]
                tokens = open_clip.tokenize(texts).to(self.device)
                vectors = normalize(self.clip.encode_text(tokens), dim=-1)
                rows.append(normalize(vectors.mean(0), dim=0))
            self.texts[name] = torch.stack(rows)
        return self.texts[name]
