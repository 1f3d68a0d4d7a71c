"""Every kind of picture is read as its plain RGB twin, or refused with the reason."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fsdlib.__main__ import main
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import IncompleteDataset
from fsdlib.pictures import LARGEST, rgb
from fsdlib.pipeline import as_array

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # which Pillow has a limit for

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def in_grey(values):
    return np.repeat(values[..., None], 3, axis=2)


def png(bits, kind, values, *chunks, size=None):
    """A PNG in bytes, of values as they stand in it; `kind` is its own number for grey (0) and colour (2).

    size: (width, height) that it says it has.
    """
    values = values.astype(">u2" if bits == 16 else np.uint8)
    width, height = size or values.shape[1::-1]

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            head,
            *(chunk(*c) for c in chunks),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def tiff(bits, values, inverted=False):
    """A TIFF in bytes, grey, with its values as they stand in it."""
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: 0 if inverted else 1, 277: 1}
    tags |= {273: 8, 278: values.shape[0], 279: values.nbytes}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\0"
        + struct.pack("<I", 8 + values.nbytes)
        + values.tobytes()
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def half_zeros():
    """A PNG whose second half is zeros, as a copy that was cut short leaves it: Pillow reads it without a word."""
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    stored = saved(Image.fromarray(noise), "PNG")
    return stored[: len(stored) // 2] + bytes(len(stored) - len(stored) // 2)


def exchanged():
    """A colour profile whose red is the screen's green and whose green its red."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return plain.replace(b"rXYZ", b"____", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"____", b"gXYZ", 1)


def saved(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def palette(alpha=None):
    """Nine colours, the first of which may be transparent to a degree, and what they look like on white."""
    picture = Image.fromarray(np.arange(9, dtype=np.uint8)[None] % 3, "P")
    picture.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    twin = np.array([(200, 0, 0), (0, 100, 0), (0, 0, 50)], np.uint8)[np.arange(9)[None] % 3]
    if alpha is not None:
        twin[:, ::3] = np.round((np.array((200, 0, 0)) * alpha + 255 * (255 - alpha)) / 255)
    return picture, twin


def masked(alpha):
    """A random picture with an alpha of 255 on the left and `alpha` on the right half of it."""
    layers = np.dstack([COLOURS, np.full(GREY.shape, 255, np.uint8)])
    layers[:, 5:, 3] = alpha
    return Image.fromarray(layers)


ON_WHITE = COLOURS.copy()
ON_WHITE[:, 5:] = 255
IN_COLOURS = Image.fromarray(COLOURS)
BITS = GREY > 127

# fmt: off
TWINS = {
    "grey of 16 bits": ("a.png", png(16, 0, GREY * np.uint16(257)), in_grey(GREY)),
    "grey of 16 bits, by its upper eight": ("a.png", png(16, 0, np.array([[255, 256, 65279, 65280]])), in_grey(np.array([[0, 1, 254, 255]], np.uint8))),
    "grey of 16 bits in a TIFF": ("a.tif", tiff(16, GREY * np.uint16(257)), in_grey(GREY)),
    "colour of 16 bits": ("a.png", png(16, 2, COLOURS * np.uint16(257)), COLOURS),
    "an alpha that is full": ("a.png", saved(masked(255), "PNG"), COLOURS),
    "colours under transparency": ("a.png", saved(masked(0), "PNG"), ON_WHITE),
    "colours under transparency in a WebP": ("a.webp", saved(masked(0), "WEBP", lossless=True, exact=True), ON_WHITE),
    "grey under transparency": ("a.png", saved(Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]), "LA"), "PNG"), np.full_like(COLOURS, 255)),
    "a colour that is transparent": ("a.png", png(8, 2, np.array([[[9, 8, 7], [9, 8, 6]]], np.uint8), (b"tRNS", struct.pack(">HHH", 9, 8, 7))), np.array([[[255] * 3, [9, 8, 6]]], np.uint8)),
    "a palette": ("a.png", saved(palette()[0], "PNG"), palette()[1]),
    "a palette in a GIF": ("a.gif", saved(palette()[0], "GIF"), palette()[1]),
    "a palette with a transparent colour": ("a.png", saved(palette()[0], "PNG", transparency=0), palette(0)[1]),
    "a palette with alpha": ("a.png", saved(palette()[0], "PNG", transparency=bytes([102, 255, 255])), palette(102)[1]),
    "a GIF with a transparent colour": ("a.gif", saved(palette()[0], "GIF", transparency=0), palette(0)[1]),
    "CMYK": ("a.tif", saved(IN_COLOURS.convert("CMYK"), "TIFF"), COLOURS),
    "black and white": ("a.png", saved(Image.fromarray(BITS), "PNG"), in_grey(BITS.astype(np.uint8) * 255)),
    "black and white in a TIFF": ("a.tiff", saved(Image.fromarray(BITS), "TIFF"), in_grey(BITS.astype(np.uint8) * 255)),
    "a BMP": ("a.bmp", saved(IN_COLOURS, "BMP"), COLOURS),
    "another colour profile": ("a.png", saved(IN_COLOURS, "PNG", icc_profile=exchanged()), COLOURS[..., [1, 0, 2]]),
    "another colour profile under transparency": ("a.png", saved(masked(0), "PNG", icc_profile=exchanged()), ON_WHITE[..., [1, 0, 2]]),
    "a colour profile of a grey picture": ("a.png", saved(Image.fromarray(GREY), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()), in_grey(GREY)),
}
FRAMES = [Image.new("RGB", (9, 6), colour) for colour in ("red", "blue", "lime")]
REFUSED = {
    "floats": ("a.tif", saved(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"), "its pixels are floating-point numbers, of which nothing says what is black"),
    "32 bits": ("a.tif", saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "its pixels are 32-bit numbers"),
    "LAB": ("a.tif", saved(Image.new("LAB", (9, 6)), "TIFF"), "of Pillow's mode LAB"),
    "inverted grey of 16 bits": ("a.tif", tiff(16, GREY.astype(np.uint16), inverted=True), "of 12 bits, or inverted"),
    "grey of 12 bits": ("a.tif", tiff(12, np.zeros((6, 15), np.uint8)), "of 12 bits, or inverted"),
    "16 bits with a transparent grey": ("a.png", png(16, 0, np.zeros((6, 9)), (b"tRNS", b"\0\0")), "16 bits and a colour that is transparent"),
    "16 bits with a transparent colour": ("a.png", png(16, 2, np.zeros((6, 9, 3)), (b"tRNS", struct.pack(">HHH", 9000, 8, 7))), "16 bits and a colour that is transparent"),
    "an animated GIF": ("a.gif", saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "an animated PNG": ("a.png", saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "an animated WebP": ("a.webp", saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "a TIFF of pages": ("a.tif", saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "several frames or pages"),
    "a broken colour profile": ("a.png", saved(IN_COLOURS, "PNG", icc_profile=b"no profile"), "its colour profile cannot be read"),
    "the colour profile of another kind": ("a.tif", saved(IN_COLOURS.convert("CMYK"), "TIFF", icc_profile=exchanged()), "mode CMYK and its colour profile is for RGB"),
    "a bomb": ("a.png", png(8, 0, np.zeros((1, 1)), size=(15000, 10001)), "15000 x 10001 pixels, and 150,000,000 are the limit"),
    "a larger bomb": ("a.png", png(8, 0, np.zeros((1, 1)), size=(65535, 65535)), "more than 150,000,000 pixels, which is the limit"),
    "a picture without pixels": ("a.png", png(8, 0, np.zeros((1, 1)), size=(0, 9)), None),
    "a program for a printer": ("a.png", saved(IN_COLOURS, "EPS"), None),
    "half a file": ("a.png", saved(IN_COLOURS, "PNG")[:150], "Truncated"),
    "half a file of zeros": ("a.png", half_zeros(), "checksum"),
    "an empty file": ("a.jpg", b"", None),
}
# fmt: on
# told by the header, so that `check` says so before anything is decoded
BY_HEADER = [name for name in REFUSED if "profile" not in name and name not in ("half a file", "half a file of zeros")]


def put(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("case", TWINS)
def test_a_picture_is_read_as_its_plain_twin(case, tmp_path):
    """16 bits, alpha, palettes, GIF, CMYK, TIFF, WebP, colour profiles -> the pixels of the plain RGB picture"""
    name, content, twin = TWINS[case]
    path = put(tmp_path, name, content)
    for pixels in (
        as_array(path),
        as_array(Image.open(path)),
        open_dataset("folder", tmp_path, classes=["cat"]).image(0),
    ):
        assert pixels.dtype == np.uint8 and pixels.shape == twin.shape
        assert np.abs(pixels.astype(int) - twin).max() <= (1 if "profile" in case or "alpha" in case else 0)


@pytest.mark.parametrize("case", REFUSED)
def test_a_picture_that_has_no_twin_is_refused_with_the_reason(case, tmp_path):
    """floats, 32 bits, LAB, animations, pages, bombs, EPS, cut and empty files -> refused with the reason"""
    name, content, reason = REFUSED[case]
    path = put(tmp_path, name, content)
    for read in (as_array, lambda _: open_dataset("folder", tmp_path, classes=["cat"]).image(0)):
        with pytest.raises(ValueError, match="is no picture that can be read") as caught:
            read(path)
        said = str(caught.value)
        assert str(path) in said and said.endswith(": save it anew") and (reason or "") in said and "\n" not in said


@pytest.mark.parametrize("case", BY_HEADER)
def test_check_finds_what_will_be_refused_and_says_why(case, tmp_path):
    """the same in a dataset, as far as headers tell -> found by check() with the reason"""
    name, content, reason = REFUSED[case]
    put(tmp_path, name, content)
    with pytest.raises(IncompleteDataset, match=rf"unreadable pictures: 1 \({name}") as caught:
        open_dataset("folder", tmp_path, classes=["cat"]).check()
    assert (reason or "") in str(caught.value)


def test_a_cmyk_profile_is_looked_through():
    """a CMYK picture with a broken colour profile -> refused with the reason"""
    picture = Image.new("CMYK", (2, 2))
    picture.info["icc_profile"] = b"no profile"
    with pytest.raises(ValueError, match="what was given is no picture that can be read .its colour profile"):
        rgb(picture)


def test_a_photograph_that_a_phone_saved_with_its_preview_is_read(tmp_path):
    """a photograph with a preview behind it, as phones save it -> the photograph"""
    IN_COLOURS.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[IN_COLOURS.resize((3, 2))])
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.format == "MPO" and stored.is_animated
        twin = np.asarray(stored.convert("RGB"))
    assert np.array_equal(as_array(tmp_path / "a.jpg"), twin)


def test_a_large_picture_is_read_and_the_limit_lies_above_it(tmp_path):
    """a picture of 12,000 x 9,000 pixels -> read"""
    assert 12_000 * 9_000 < LARGEST
    Image.new("1", (12_000, 9_000)).save(tmp_path / "a.png")
    assert open_dataset("folder", tmp_path, classes=["cat"]).size(0) == (9_000, 12_000)
    open_dataset("folder", tmp_path, classes=["cat"]).check()


def test_a_grey_picture_of_16_bits_stands_upright(tmp_path):
    """16 bits of grey, turned by EXIF -> upright"""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    values = (GREY.astype(np.uint16) << 8) + 77
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(as_array(tmp_path / "a.png"), np.rot90(in_grey(GREY), -1))


def test_pictures_of_benchmarks_keep_the_numbers_they_are_stored_with(tmp_path):
    """a benchmark's picture with a colour profile -> the numbers it is stored with, as the published methods read them"""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    IN_COLOURS.save(tmp_path / "JPEGImages/a.jpg", icc_profile=exchanged())
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    with Image.open(tmp_path / "JPEGImages/a.jpg") as stored:
        assert np.array_equal(open_dataset("voc12", tmp_path).image(0), np.asarray(stored))


def test_every_ending_in_a_folder_is_read(tmp_path):
    """a folder with every kind of picture, and a hidden one -> all but the hidden one"""
    for name in ("a.bmp", "b.gif", "c.jpeg", "d.jpg", "e.png", "f.tif", "g.TIFF", "h.webp"):
        IN_COLOURS.convert("P" if "gif" in name else "RGB").save(tmp_path / name)
    (tmp_path / ".hidden.png").write_text("left by another system")
    dataset = open_dataset("folder", tmp_path, classes=["cat"])
    assert dataset.ids == tuple("abcdefgh")
    dataset.check()
    assert all(dataset.image(i).shape == COLOURS.shape for i in range(8))


def test_a_pipe_is_not_waited_for(tmp_path):
    """a pipe in the place of a picture -> refused at once"""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png' is no picture that can be read \(it is no file\)"):
        as_array(tmp_path / "a.png")
    dataset = open_dataset("folder", tmp_path, classes=["cat"])
    assert dataset.fingerprint
    with pytest.raises(IncompleteDataset, match="unreadable pictures: 1 "):
        dataset.check()


def test_the_command_reads_what_the_library_reads(tmp_path, capsys):
    """good and bad pictures to the command -> the good ones segmented, the bad ones named, exit status 1"""
    put(tmp_path / "in", "good.gif", TWINS["a GIF with a transparent colour"][1])
    put(tmp_path / "in", "floats.tif", REFUSED["floats"][1])
    put(tmp_path / "in", "moving.png", REFUSED["an animated PNG"][1])
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == ["good.json"]
    assert json.loads((tmp_path / "out/good.json").read_text())["clusters"]
    said = capsys.readouterr().err
    assert "floating-point numbers" in said and "several frames or pages" in said and "2 of 3 pictures" in said


def test_the_command_takes_a_name_that_is_no_utf_8(tmp_path):
    """file names that are no UTF-8 to the command -> segmented or refused by a name that can be printed"""
    (tmp_path / "in").mkdir()
    IN_COLOURS.save(tmp_path / "in/caf\udce9.png")
    (tmp_path / "in/\udce9.png").write_bytes(b"")
    command = [sys.executable, "-m", "fsdlib", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, env=os.environ | dict(PYTHONIOENCODING="utf-8:strict"))
    assert done.returncode == 1 and b"caf\\udce9.png: " in done.stdout and b"Traceback" not in done.stderr
    assert b"\\udce9.png' is no picture" in done.stderr
    assert (tmp_path / "out/caf\udce9.json").exists()
