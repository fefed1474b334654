"""VQAScore against what transformers itself generates, and by a server."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLForConditionalGeneration,
)

from evaluators.base import EvaluatorError, Sample
from evaluators.vlm import local
from evaluators.vlm.base import QuestionsEvaluator
from evaluators.vlm.local import last_alone
from evaluators.vlm.questions import YES, Answer
from evaluators.vlm.vqascore import VqaScoreConfig
from evaluators.weights import WeightsError
from tests.evaluators.chat_server import listing

SIZES = ((56, 56), (84, 56), (56, 112))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [
        Sample(
            sample_id=str(i),
            prompt_id=str(i),
            prompt="a {red} circle" * (i + 1),
            image=Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)),
        )
        for i, (width, height) in enumerate(SIZES)
    ]


def evaluator(folder, **values):
    return VqaScoreConfig(weights=str(folder), dtype="float32", device="cpu", **values).build()


def test_it_is_the_probability_that_generation_begins_with_yes(vlm_dir, samples):
    model = AutoModelForImageTextToText.from_pretrained(vlm_dir)
    processor = AutoProcessor.from_pretrained(vlm_dir)
    expected = []
    for sample in samples:
        text = f'Does this image show "{sample.prompt}"? Answer the question with Yes or No.'
        content = [{"type": "image", "image": sample.image}, {"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
        output = model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        tokens = {processor.tokenizer.encode(answer)[0] for answer in YES}
        assert len(tokens) == 3  # "Y", "y", and the space that both others begin with
        expected.append(output.scores[0].softmax(-1)[0, sorted(tokens)].sum().item())
    scores = evaluator(vlm_dir, batch_size=1).score(samples)
    np.testing.assert_allclose([score.value for score in scores], expected, rtol=1e-4)
    assert np.ptp(expected) > 1e-3
    together = evaluator(vlm_dir, batch_size=3).score(samples)
    np.testing.assert_allclose([score.value for score in together], expected, rtol=1e-4)


def test_on_a_gpu_only_the_last_tokens_logits_are_computed(vlm_dir, samples, monkeypatch):
    expected = [score.value for score in evaluator(vlm_dir, batch_size=3).score(samples)]
    shapes, gpu = [], torch.device("cuda")
    monkeypatch.setattr(local, "last_alone", lambda forward, _: last_alone(forward, gpu))

    load = local._loaded

    def watched(*args):
        model, processor = load(*args)
        model.register_forward_hook(lambda *args: shapes.append(args[-1].logits.shape[1]))
        return model, processor

    monkeypatch.setattr(local, "_loaded", watched)
    scores = evaluator(vlm_dir, batch_size=3).score(samples)
    np.testing.assert_allclose([score.value for score in scores], expected, rtol=1e-5)
    assert shapes == [1]
    assert last_alone(lambda input_ids: input_ids, gpu) == {}
    forward = Qwen2VLForConditionalGeneration.forward
    assert last_alone(forward, torch.device("cpu")) == {}


def test_weights_that_are_not_whole_are_refused(vlm_dir, samples, tmp_path):
    shutil.copytree(vlm_dir, tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    state = load_file(path)
    state.pop(next(name for name in sorted(state) if "mlp" in name))
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit their config\.json: .*mlp") as caught:
        evaluator(tmp_path / "cut").score(samples)
    assert "\n" not in str(caught.value)
    (tmp_path / "cut" / "config.json").unlink()
    with pytest.raises(WeightsError, match="no vision-language model"):
        evaluator(tmp_path / "cut").score(samples)


def choice(**tokens):
    """A completion with the logarithms of probabilities of first tokens."""
    top = [{"token": name, "logprob": math.log(value)} for name, value in tokens.items()]
    content = [{"token": "Yes", "logprob": 0.0, "top_logprobs": top}]
    message = {"message": {"content": "Yes"}, "logprobs": {"content": content}}
    return 200, {}, json.dumps({"choices": [message]})


def served(url, **values):
    return VqaScoreConfig(server=url, model="qwen", max_retries=0, **values).build()


def test_a_server_answers_by_its_first_tokens(serve, samples):
    url, server = serve(lambda *_: choice(Yes=0.5, yes=0.25, No=0.2))
    judge = served(url)
    assert [score.value for score in judge.score(samples)] == pytest.approx([0.75] * 3)
    body = server.requests[0][2]
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert "a {red} circle" in body["messages"][0]["content"][1]["text"]
    assert judge.weights_hash == "served:qwen"
    server.listed = listing("llava")
    with pytest.raises(EvaluatorError, match=r"serves llava, not model='qwen'; set judge\.vqascor"):
        served(url).score(samples)


def test_a_server_without_probabilities_leaves_images_unscored(serve, samples):
    url, _ = serve(lambda *_: (200, {}, '{"choices": [{"message": {"content": "Yes"}}]}'))
    score = served(url).score(samples[:1])[0]
    assert math.isnan(score.value)
    assert "logprobs" in score.reason


class Seeing:
    """Says yes where the colour that a question names is in the middle of the image."""

    weights_hash = "seeing"

    def __init__(self, *, is_honest=True):
        self.is_honest = is_honest

    def answer(self, questions):
        return [Answer(0.9 if self.sees(q) == self.is_honest else 0.1) for q in questions]

    @staticmethod
    def sees(question):
        red, _, blue = question.image.getpixel((128, 128))
        return ("red" in question.text) == (red > blue)


def test_canaries_refuse_a_model_that_does_not_see():
    QuestionsEvaluator(VqaScoreConfig(), Seeing()).check_canaries()
    with pytest.raises(EvaluatorError, match="canary"):
        QuestionsEvaluator(VqaScoreConfig(), Seeing(is_honest=False)).check_canaries()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"server": "localhost:80"}, "server"),
        ({"server": "http://localhost/v1"}, "model is empty"),
        ({"model": "Foo/Bar"}, "model='Foo/Bar': is what a server calls it, and server is empty"),
        ({"question": "Is it good?"}, "must hold"),
        ({"batch_size": 0}, "batch_size"),
        ({"weights": ""}, "weights is empty"),
    ],
)
def test_impossible_configs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        VqaScoreConfig(**values)


def test_the_identity_names_the_model_that_answers_and_not_where():
    here, there = (VqaScoreConfig(server=f"http://{host}/v1", model="qwen") for host in "ab")
    assert here.identity() == there.identity()
    assert here.identity() != VqaScoreConfig().identity()
    assert VqaScoreConfig(weights="other/model").identity() != VqaScoreConfig().identity()
