"""HPSv3 against transformers' own Qwen2-VL with the head applied by hand."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from evaluators.base import Sample
from evaluators.vlm.hpsv3 import INSTRUCTION, HpsV3Config
from evaluators.vlm.hpsv3_model import REWARD_TOKEN, resized
from evaluators.vlm.local import chat_inputs
from evaluators.weights import WeightsError

LAYERS = ((0, 1024, 32), (3, 16, 1024), (5, 2, 16))


@pytest.fixture(scope="module")
def reference(vlm_dir):
    """The tiny Qwen2-VL with as many embeddings as tokens, its processor, and a head."""
    processor = AutoProcessor.from_pretrained(vlm_dir)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Qwen2VLForConditionalGeneration.from_pretrained(vlm_dir)
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
        head = {}
        for index, rows, columns in LAYERS:
            head[f"rm_head.{index}.weight"] = torch.randn(rows, columns) * columns**-0.5
            head[f"rm_head.{index}.bias"] = torch.randn(rows)
    return model.eval(), processor, head


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    """As the authors save it: all of the model, and the head."""
    model, _, head = reference
    path = tmp_path_factory.mktemp("hpsv3") / "HPSv3.safetensors"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state | head, path)
    return path


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [
        Sample(
            sample_id=str(i), prompt_id=str(i), prompt="a {blue} circle" * (i + 1),
            image=Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
        )
        for i, size in enumerate([(64, 64), (40, 80)])
    ]  # fmt: skip


def evaluator(checkpoint, base, **values):
    config = HpsV3Config(
        weights=str(checkpoint), base=str(base), dtype="float32", device="cpu", **values
    )
    return config.build()


@torch.no_grad()
def expected(reference, sample):
    """Mean and second output, of positions as of a text."""
    model, processor, head = reference
    text = INSTRUCTION.replace("{prompt}", sample.prompt)
    inputs = chat_inputs(processor, [(text, resized(sample.image))])
    ids = inputs["input_ids"]
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    states = model.model(**inputs, position_ids=positions).last_hidden_state
    (place,) = (ids[0] == processor.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)).nonzero()
    values = states[0, place]
    for index, *_ in LAYERS:
        values = values @ head[f"rm_head.{index}.weight"].T + head[f"rm_head.{index}.bias"]
        values = values if index == 5 else values.relu()
    return values[0].tolist()


def test_it_is_the_head_on_the_reward_token(reference, checkpoint, vlm_dir, samples):
    wanted = [expected(reference, sample) for sample in samples]
    for batch_size in (1, 2):
        scores = evaluator(checkpoint, vlm_dir, batch_size=batch_size).score(samples)
        pairs = [(score.value, score.details["second_output"]) for score in scores]
        np.testing.assert_allclose(pairs, wanted, atol=1e-4)
    assert abs(wanted[0][0] - wanted[1][0]) > 1e-3


def test_older_names_are_the_same_weights(checkpoint, vlm_dir, samples, tmp_path):
    old = {}
    for name, tensor in load_file(checkpoint).items():
        plain = name.replace("model.language_model.", "model.")
        old[plain.replace("model.visual.", "visual.")] = tensor
    assert not old.keys() <= load_file(checkpoint).keys()
    save_file(old, tmp_path / "old.safetensors")
    one, other = (
        evaluator(path, vlm_dir).score(samples[:1])[0].value
        for path in (checkpoint, tmp_path / "old.safetensors")
    )
    assert one == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("rm_head.5.bias"), "head.5.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is unknown"),
    ],
)
def test_another_checkpoint_is_one_line(checkpoint, vlm_dir, samples, tmp_path, change, message):
    state = load_file(checkpoint)
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        evaluator(tmp_path / "other.safetensors", vlm_dir).score(samples)
    assert "\n" not in str(caught.value)


def test_a_base_without_a_processor_is_one_line(checkpoint, vlm_dir, samples, tmp_path):
    shutil.copy(vlm_dir / "config.json", tmp_path)
    with pytest.raises(WeightsError, match="no configuration and processor") as caught:
        evaluator(checkpoint, tmp_path).score(samples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "model_size"),
    [((512, 512), (448, 448)), ((1024, 1024), (448, 448)), ((768, 512), (532, 364))],
)
def test_images_get_about_as_many_pixels_whatever_their_size(size, model_size):
    assert resized(Image.new("RGB", size)).size == model_size
