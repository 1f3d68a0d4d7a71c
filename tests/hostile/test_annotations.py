"""Annotations in COCO's form that would end the process, or ask for more memory than there is, are one image's error.

Each in a process of its own with a limit of memory: a crash is an exit status here, and none of the tests' end.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as codes

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import IncompleteDataset

HEIGHT, WIDTH = 40, 60
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]


def coco(root, *outlines, images=None, **changes):
    """An image for each outline, with one cat of it."""
    for folder in ("val2017", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    pictures, annotations = [], []
    for number, outline in enumerate(outlines):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"val2017/{number}.jpg")
        pictures.append(dict(id=number, file_name=f"{number}.jpg", height=HEIGHT, width=WIDTH) | (images or {}))
        one = dict(id=number, image_id=number, category_id=17, segmentation=outline, area=100, iscrowd=0)
        annotations.append(one | changes)
    content = dict(images=pictures, annotations=annotations, categories=[])
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return root


ASKED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import IncompleteDataset
dataset = open_dataset("coco_object", sys.argv[1])
for index in range(len(dataset)):
    try:
        print(index, "drawn", int((dataset.labels(index) > 0).sum()))
    except ValueError as error:
        print(index, error)
try:
    dataset.check()
    print("all whole")
except IncompleteDataset as error:
    print(str(error).splitlines()[1].split(" (")[0])
"""


def asked(root):
    """What a process with 3 GiB of memory says of each image, and of all."""
    done = subprocess.run([sys.executable, "-c", ASKED, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FAR = 1e9
BAD = {
    "a polygon with null": [[None, 5, 15, 5, 15, 15]],
    "a polygon with NaN": [[float("nan"), 5, 15, 5, 15, 15]],
    "a polygon with infinity": [[5, 5, float("inf"), 5, 15, 15]],
    "a polygon that leads far out": [[5, 5, FAR, 5, 15, 15]],
    "a polygon that leads far out to the left": [[5, 5, -FAR, 5, 15, 15]],
    "a polygon with a number of 400 digits": [[5, 5, 10**400, 5, 15, 15]],
    "a polygon of texts": [["5", "5", "15", "5", "15", "15"]],
    "a polygon of truths": [[True, False, True, True, False, True]],
    "a polygon of two points": [[5, 5, 15, 15]],
    "a polygon of half a point": [[5, 5, 15, 5, 15, 15, 5]],
    "a polygon longer than all the pixels": [[0, 0, WIDTH, HEIGHT] * 20_000],
    "a second polygon with null": [SQUARE, [None] * 6],
    "a polygon that is a number": [5, 5, 15, 5, 15, 15],
    "no polygon": [],
    "an outline that is null": None,
    "an outline that is a text": "outline",
    "a code of another size": dict(size=[HEIGHT, WIDTH + 1], counts=[HEIGHT * (WIDTH + 1)]),
    "a code of a size beyond memory": dict(size=[10**6, 10**6], counts=[10**12]),
    "a packed code of a size beyond memory": dict(size=[10**6, 10**6], counts="0"),
    "a code that is too short": dict(size=[HEIGHT, WIDTH], counts=[5, 5]),
    "a code that is too long": dict(size=[HEIGHT, WIDTH], counts=[0, 10**9]),
    "a code with a negative run": dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * WIDTH + 5, -5]),
    "a code with null": dict(size=[HEIGHT, WIDTH], counts=[None]),
    "a code without counts": dict(size=[HEIGHT, WIDTH]),
    "a packed code that ends within a number": dict(size=[HEIGHT, WIDTH], counts="oooo"),
    "a packed code of other letters": dict(size=[HEIGHT, WIDTH], counts="~~~~猫"),
    "a packed code of a number without end": dict(size=[HEIGHT, WIDTH], counts="o" * 100_000 + "0"),
    "an empty packed code": dict(size=[HEIGHT, WIDTH], counts=""),
}


def test_no_outline_ends_the_process_and_each_costs_its_image_alone(tmp_path):
    """28 outlines with null, NaN, numbers beyond memory, broken codes, in 3 GiB -> an error of each image alone"""
    *images, whole = asked(coco(tmp_path, [SQUARE], *BAD.values()))
    found = open_dataset("coco_object", tmp_path)
    said = {found.ids[int(line.split()[0])]: line for line in images}
    assert said["0"].endswith("drawn 100")
    for number, case in enumerate(BAD, 1):
        assert f"instances_val2017.json (image {number}) cannot be read (" in said[str(number)], case
    assert whole == f"  unreadable masks: {len(BAD)}"


@pytest.mark.parametrize(
    "height, width", [(10**6, 10**6), (0, 60), (-40, 60), (None, 60), (40.0, 60), ("40", 60), (True, 60), (40, 10**300)]
)
def test_a_size_that_is_none_or_beyond_memory_is_an_error(tmp_path, height, width):
    """an image of 10^12 pixels, of none, of a negative, broken or written number of rows -> an error of that image"""
    dataset = open_dataset("coco_object", coco(tmp_path, [SQUARE], images=dict(height=height, width=width)))
    with pytest.raises(
        ValueError, match=r"\(image 0\) cannot be read \(it is .* pixels, and 150,000,000 are the limit"
    ):
        dataset.labels(0)


@pytest.mark.parametrize(
    "changes",
    [
        dict(area=float("nan")),
        dict(area=None),
        dict(iscrowd=None, area="large"),
        *(dict(category_id=category) for category in (None, 17.5, -1, 300, True)),
    ],
)
def test_an_annotation_that_makes_no_sense_is_an_error(tmp_path, changes):
    """an area of NaN or null, a category of null, 17.5, -1, 300 or true -> an error of that image, found by check()"""
    dataset = open_dataset("coco_object", coco(tmp_path, [SQUARE], **changes))
    with pytest.raises(ValueError, match=r"\(image 0\) cannot be read"):
        dataset.labels(0)
    with pytest.raises(IncompleteDataset, match="unreadable masks: 1 "):
        dataset.check()


@pytest.mark.parametrize(
    "content", ['{"images": 3}', '{"images": [{"file_name": 7, "id": 1}]}', "[[", "3", '{"annotations": [3]}', "\0"]
)
def test_json_that_is_no_annotation_is_an_error_that_names_it(tmp_path, content):
    """JSON that is cut, a number, a list, or has others' fields -> refused with the file's name"""
    root = coco(tmp_path)
    (root / "annotations/instances_val2017.json").write_text(content)
    with pytest.raises(ValueError, match="instances_val2017.json is no annotation in COCO's form"):
        open_dataset("coco_object", root)


def test_polygons_that_lie_a_little_outside_are_drawn_as_ever(tmp_path):
    """polygons that lie partly outside the picture -> drawn as pycocotools draws them"""
    outlines = [
        [[-10.5, -3, 70, 5.25, 30, 45.5]],
        [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]],
        [SQUARE, [50, 30, 70, 30, 70, 50]],
    ]
    dataset = open_dataset("coco_object", coco(tmp_path, *outlines))
    for index, outline in enumerate(outlines):
        peer = codes.decode(codes.merge(codes.frPyObjects(outline, HEIGHT, WIDTH)))
        assert np.array_equal(dataset.labels(index) > 0, peer > 0) and peer.any()


@pytest.mark.parametrize("seed", range(5))
def test_packed_codes_are_those_that_pycocotools_packs(tmp_path, seed):
    """packed codes of empty, sparse, dense and full masks -> the masks that pycocotools packed"""
    random = np.random.default_rng(seed)
    masks = [random.random((HEIGHT, WIDTH)) < share for share in (0, 0.001, 0.3, 0.9, 1)]
    packed = [codes.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    dataset = open_dataset(
        "coco_object", coco(tmp_path, *(dict(size=p["size"], counts=p["counts"].decode()) for p in packed))
    )
    for index, mask in enumerate(masks):
        assert np.array_equal(dataset.labels(index) > 0, mask)
