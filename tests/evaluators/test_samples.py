import pytest
from PIL import Image

from evaluators.images import ImageError
from evaluators.samples import CoverageError, SampleFile, check_counts, iter_samples


@pytest.fixture
def files(tmp_path):
    found = []
    for prompt in range(2):
        for number in range(2):
            path = tmp_path / f"{prompt}-{number}.png"
            Image.new("RGB", (8 + number, 8)).save(path)
            found.append(
                SampleFile(
                    sample_id=path.stem,
                    prompt_id=str(prompt),
                    prompt=f"prompt {prompt}",
                    path=path,
                    metadata={"tag": prompt},
                )
            )
    return found


def test_samples_come_in_order_with_their_pixels(files):
    samples = list(iter_samples(files, lambda sample: sample))
    assert [sample.sample_id for sample in samples] == ["0-0", "0-1", "1-0", "1-1"]
    assert [sample.image.width for sample in samples] == [8, 9, 8, 9]
    assert samples[2].prompt == "prompt 1"
    assert samples[2].metadata == {"tag": 1}


def test_pixels_are_read_late(files):
    files[3].path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    stream = iter_samples(files, lambda sample: sample, ahead=1)
    assert [next(stream).sample_id for _ in range(3)] == ["0-0", "0-1", "1-0"]
    with pytest.raises(ImageError, match=r"1-1\.png"):
        next(stream)


def test_count_mismatch_lists_the_prompts(files):
    check_counts(files, ["0", "1"])
    check_counts(files, ["0", "1"], images_per_prompt=2)
    with pytest.raises(CoverageError, match="1 of 2 prompts do not have 2 images: 1 has 1"):
        check_counts(files[:3], ["0", "1"])
    with pytest.raises(CoverageError, match="2 of 2 prompts do not have 4 images"):
        check_counts(files, ["0", "1"], images_per_prompt=4)
