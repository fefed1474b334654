import contextlib
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from evaluators import images
from evaluators.images import ImageError, decode_image, image_size, in_threads, load_image

RAMP = np.linspace(0, 255, 48).reshape(6, 8).astype(np.uint8)


def rgb_picture():
    return Image.fromarray(np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2))


def test_rgb_is_unchanged(tmp_path):
    rgb_picture().save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert loaded.mode == "RGB"
    assert np.array_equal(np.asarray(loaded), np.asarray(rgb_picture()))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    name = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    rgb_picture().convert(mode).save(name)
    loaded = load_image(name)
    assert (loaded.mode, loaded.size) == ("RGB", (8, 6))
    expected = rgb_picture().convert(mode).convert("RGB")
    assert np.abs(np.asarray(loaded, int) - np.asarray(expected, int)).max() <= 1


def test_cmyk_jpeg_keeps_its_colors(tmp_path):
    Image.new("RGB", (16, 16), (220, 30, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red = np.asarray(load_image(tmp_path / "a.jpg"), int).reshape(-1, 3).mean(0)
    assert np.abs(red - (220, 30, 40)).max() < 8


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_pixels_show_white(tmp_path):
    picture = np.zeros((1, 3, 4), np.uint8)
    picture[0, :, 3] = (0, 255, 51)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 0, 204]


def test_transparent_palette_entry_shows_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(load_image(tmp_path / "a.png"))[0].tolist() == [[255] * 3, [200, 100, 50]]


def test_exif_orientation_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    rgb_picture().save(tmp_path / "a.png", exif=exif)
    loaded = load_image(tmp_path / "a.png")
    assert loaded.size == (6, 8)
    assert np.array_equal(np.asarray(loaded), np.rot90(np.asarray(rgb_picture()), -1))


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (1, 2, 3)


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif.*mode 'F'.*8-bit RGB"):
        load_image(tmp_path / "a.tif")


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"no image file .*a\.png"):
        load_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"b\.png is not an image"):
        load_image(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"c\.png"):
        load_image(tmp_path / "c.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_truncated_files_are_one_clear_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, size=(40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for keep in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(ImageError, match=rf"a\.{suffix}"):
            load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif"])
def test_damaged_bytes_never_raise_anything_else(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    rgb_picture().resize((64, 48)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(3)
    for _ in range(60):
        damaged = whole.copy()
        damaged[rng.integers(8, len(whole), size=4)] = rng.integers(0, 256, size=4)
        path.write_bytes(damaged.tobytes())
        # Whatever the damage, it is an image or this one error.
        with contextlib.suppress(ImageError):
            assert load_image(path).mode == "RGB"


def test_a_tag_of_another_type_is_the_same_clear_error(tmp_path):
    """Pillow raises a TypeError for an XMP tag (700) without bytes, seen as a traceback."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700], tags.tagtype[700] = 1, 3
    rgb_picture().save(tmp_path / "a.tif", tiffinfo=tags)
    with pytest.raises(ImageError, match=r"a\.tif"):
        load_image(tmp_path / "a.tif")


def test_images_come_in_order_and_only_a_few_ahead(monkeypatch):
    decoded, lock = [], threading.Lock()

    def fake_load(path: Path):
        with lock:
            decoded.append(path)
        return Image.new("RGB", (int(path), 1))

    monkeypatch.setattr(images, "load_image", fake_load)
    widths = []
    for image in in_threads(images.load_image, map(str, range(1, 40)), workers=2, ahead=5):
        assert len(decoded) <= len(widths) + 5
        widths.append(image.width)
    assert widths == list(range(1, 40))


def test_a_bad_image_stops_the_stream_when_its_turn_comes(tmp_path):
    for name in ("0", "2"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")
    stream = in_threads(load_image, [tmp_path / f"{n}.png" for n in range(3)])
    assert next(stream).size == (2, 2)
    with pytest.raises(ImageError, match=r"1\.png"):
        next(stream)


# From 9 on EXIF knows none: such images were measured as if on their sides.
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8, 9])
def test_the_size_is_the_decoded_images(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    rgb_picture().save(stream, "JPEG", exif=exif)
    decoded = decode_image(stream, "a.jpg")
    assert image_size(stream, "a.jpg") == decoded.size == ((8, 6), (6, 8))[orientation in (6, 8)]


def test_the_size_of_what_is_no_image_is_refused():
    with pytest.raises(ImageError, match=r"a\.jpg is not an image"):
        image_size(io.BytesIO(b"text"), "a.jpg")
