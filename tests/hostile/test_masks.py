"""Masks that are not what they look like, and masks that were edited."""

import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import IncompleteDataset


@pytest.fixture
def own(tmp_path):
    """A function that writes a folder with a picture for each array or image given as a mask, and opens it."""

    def write(*masks, classes=("cat", "dog")):
        for number, mask in enumerate(masks):
            mask = mask if isinstance(mask, Image.Image) else Image.fromarray(np.array(mask, np.uint8))
            for kind, content in (("images", Image.new("RGB", mask.size)), ("masks", mask)):
                (tmp_path / kind).mkdir(exist_ok=True)
                content.save(tmp_path / kind / f"{number}.png")
        return open_dataset("folder", tmp_path, classes=list(classes) if classes else None)

    return write


# -- 0 and 255


@pytest.mark.parametrize("masks", [[[[0, 255]]], [[[0, 255]], [[0, 0]]], [[[255]]]])
def test_masks_of_0_and_255_are_refused_with_what_to_do(own, masks):
    """masks of 0 and 255 alone -> refused, with the lines of a class list that reads them"""
    with pytest.raises(ValueError, match="has a class: they hold .*255.* alone, and 255 is void. .*1,cat,255"):
        own(*masks)


def test_what_the_refusal_says_helps(own, tmp_path):
    """the same masks with that class list -> 255 is the class"""
    (tmp_path / "classes.csv").write_text("index,name,official\n0,background,0\n1,cat,255\n")
    dataset = own([[0, 255]], classes=None)
    assert dataset.labels(0).tolist() == [[0, 1]]
    dataset.check()


@pytest.mark.parametrize("masks", [[[[0, 255]], [[0, 2]]], [[[0, 0]]], [[[1, 255]]], [[[0, 255]], [[9, 0]]]])
def test_other_masks_are_opened(own, masks):
    """masks with any class, or with background alone -> opened"""
    assert len(own(*masks)) == len(masks)


def test_a_broken_mask_does_not_hide_what_the_others_are(own, tmp_path):
    """an empty and a missing mask beside others -> judged by the others"""
    own([[0, 1]], [[0, 1]], [[0, 1]])
    (tmp_path / "masks/0.png").write_bytes(b"")
    (tmp_path / "masks/1.png").unlink()
    assert len(open_dataset("folder", tmp_path, classes=["cat"])) == 3
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "masks/2.png")
    with pytest.raises(ValueError, match="has a class"):
        open_dataset("folder", tmp_path, classes=["cat"])


# -- forms


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_masks_in_colours_are_told_from_broken_ones(own, tmp_path, mode):
    """masks in RGB, RGBA, grey with alpha, floats -> refused, and counted apart by check()"""
    own([[0, 1]])
    Image.new(mode, (2, 1)).save(tmp_path / "masks/0.png", "TIFF" if mode == "F" else "PNG")
    dataset = open_dataset("folder", tmp_path, classes=["cat"])
    with pytest.raises(ValueError, match="has no single number a pixel but .*: save it as palette or grey PNG"):
        dataset.labels(0)
    with pytest.raises(
        IncompleteDataset, match=r"masks in colours, to be saved as palette or grey PNG: 1 \(masks/0.png\)"
    ):
        dataset.check()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_mask_of_few_bits_has_the_numbers_that_stand_in_it(own, tmp_path, bits):
    """masks of 1, 2 and 4 bits -> the numbers that stand in them"""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    own([[0, 1]], classes=[f"class {number}" for number in range(1, 100)])
    labels = list(range(2**bits))
    per_byte = 8 // bits
    packed = bytes(
        sum(label << bits * (per_byte - 1 - place) for place, label in enumerate(labels[start : start + per_byte]))
        for start in range(0, len(labels), per_byte)
    )
    head = struct.pack(">IIBBBBB", len(labels), 1, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" + packed)) + chunk(b"IEND", b"")
    (tmp_path / "masks/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    dataset = open_dataset("folder", tmp_path, classes=[f"class {number}" for number in range(1, 100)])
    assert dataset.labels(0).tolist() == [labels]


def test_masks_in_a_16_bit_png_are_read(own, tmp_path):
    """a mask of 16 bits -> its numbers"""
    own([[0, 1]])
    Image.fromarray(np.array([[0, 2]], np.uint16)).save(tmp_path / "masks/0.png")
    assert open_dataset("folder", tmp_path, classes=["cat", "dog"]).labels(0).tolist() == [[0, 2]]


# -- edited files


def fingerprint_of(root):
    """From another process, which has read nothing yet."""
    code = f"from fsdlib.measure.benchmarks import open_dataset as o; print(o('folder', {str(root)!r}, classes=['cat', 'dog']).fingerprint)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_hash_of_an_image_follows_its_files_alone(own, tmp_path):
    """a mask edited, another deleted -> another hash of each image, and of no other"""
    dataset = own([[0, 1]], [[1, 2]])
    before = [dataset.content(index) for index in range(2)]
    Image.fromarray(np.array([[2, 1]], np.uint8)).save(tmp_path / "masks/1.png")
    assert dataset.content(0) == before[0] and dataset.content(1) != before[1]
    (tmp_path / "masks/0.png").unlink()
    assert dataset.content(0) != before[0]


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_file_edited_to_one_of_the_same_size_is_another_dataset(own, tmp_path, kind):
    """a byte changed in a file of the same size -> another fingerprint, and the first when it is put back"""
    before = own(Image.fromarray(np.arange(2, dtype=np.uint8)[None]), [[1, 2]]).fingerprint
    path = tmp_path / kind / "1.png"
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-20] ^= 1  # within the last chunks; what it means does not matter
    path.write_bytes(bytes(changed))
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    assert open_dataset("folder", tmp_path, classes=["cat", "dog"]).fingerprint != before
    path.write_bytes(content)
    assert open_dataset("folder", tmp_path, classes=["cat", "dog"]).fingerprint == before  # the time does not count


def test_a_file_edited_under_its_old_time_is_another_dataset_to_a_new_process(own, tmp_path):
    """a byte changed under the file's old time -> another fingerprint in a new process"""
    before = own([[0, 1]]).fingerprint
    assert fingerprint_of(tmp_path) == before
    path = tmp_path / "masks/0.png"
    times, content = os.stat(path), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_of(tmp_path) != before


def test_a_missing_file_costs_no_more_than_itself(own, tmp_path):
    """a missing mask -> another fingerprint, and the other images are read"""
    before = own([[0, 1]], [[1, 2]]).fingerprint
    (tmp_path / "masks/0.png").unlink()
    dataset = open_dataset("folder", tmp_path, classes=["cat", "dog"])
    assert dataset.fingerprint != before and dataset.labels(1).tolist() == [[1, 2]]
