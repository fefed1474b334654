"""Pictures are preprocessed ahead of forwards, in batches by what the model takes of each."""

from pathlib import Path

import pytest
import torch

from evaluators.preference.base import LoadedScorer, PreferenceEvaluator
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.samples import SampleFile, iter_samples


@pytest.fixture(params=["open_clip_dir", "transformers_clip_dir"])
def judge(request):
    config = ClipScoreConfig(weights=str(request.getfixturevalue(request.param)), device="cpu")
    return PreferenceEvaluator(config)


def test_what_threads_prepare_has_the_bits_of_the_transform_itself(judge, samples):
    encoder = judge._scorer.values.args[0]
    whole = getattr(encoder, "_transform", None)
    for sample in samples:
        image = sample.image
        expected = (
            encoder.preprocess(image)
            if whole is None
            else whole(images=[image], return_tensors="pt")["pixel_values"][0]
        )
        assert torch.equal(judge.prepared(sample).pixels, expected)
    together = [judge.prepared(sample) for sample in samples]
    if whole is not None:
        batch = whole(images=[s.image for s in samples], return_tensors="pt")["pixel_values"]
        assert torch.equal(torch.stack([sample.pixels for sample in together]), batch)
    assert judge.score(together) == judge.score(samples)


def test_files_are_prepared_while_they_are_decoded(judge, samples, tmp_path: Path):
    files = []
    for sample in samples:
        path = tmp_path / f"{sample.sample_id}.png"
        sample.image.save(path)
        names = {"sample_id": path.name, "prompt_id": path.name, "prompt": sample.prompt}
        files.append(SampleFile(**names, path=path, metadata={}))
    decoded = list(iter_samples(files, judge.prepared))
    assert all(sample.pixels is not None for sample in decoded)
    values = [score.value for score in judge.score(samples)]
    assert [score.value for score in judge.score(decoded)] == values


@pytest.mark.parametrize(("side", "expected"), [(32, [5, 1]), (224, [5, 1]), (448, [1] * 6)])
def test_models_of_larger_images_take_fewer(side, expected, samples):
    sizes = []

    def values(prompts, pixels):
        sizes.append(len(prompts))
        assert pixels.shape == (len(prompts), 3, 1, 1)
        return [0.5] * len(prompts)

    class Config(ClipScoreConfig):
        def load(self):
            return LoadedScorer(values, lambda _: torch.zeros(3, 1, 1), side, "")

    judge = PreferenceEvaluator(Config(weights="x", batch_size=5))
    assert [score.value for score in judge.score(samples)] == [0.5] * 6
    assert sizes == expected
