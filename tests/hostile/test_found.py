"""What fuzzing found, worked out by hand: the file, the sentence that refuses it, and what is still read as before."""

import io
import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fsdlib import pictures
from fsdlib.measure import report
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import IncompleteDataset
from fsdlib.measure.page import one_page
from fsdlib.measure.run import evaluate
from fsdlib.measure.summary import read_row, sealed
from fsdlib.measure.verify import verify


@pytest.fixture
def context(tmp_path):
    """A function that writes bytes as the one MATLAB file of Pascal Context, and opens the dataset."""
    for folder in ("ImageSets/Main", "JPEGImages", "trainval"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("one")

    def write(content, width=9, height=7):
        Image.new("RGB", (width, height)).save(tmp_path / "JPEGImages/one.jpg")
        (tmp_path / "trainval/one.mat").write_bytes(content)
        return open_dataset("context59", tmp_path)

    return write


def matlab(named, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, named, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 3), (2, 2), (7, 9)])
def test_matrices_are_those_that_scipy_reads(compressed, kind, height, width, context):
    """MATLAB matrices of seven whole types and four sizes, packed or not -> the numbers that scipy reads"""
    values = np.arange(height * width).reshape(height, width).astype(kind) % 100
    content = matlab({"other": np.eye(3), "LabelMap": values, "more": "text"}, do_compression=compressed)
    dataset = context(content, width, height)
    raw, peer = dataset._raw(0), scipy.io.loadmat(io.BytesIO(content))["LabelMap"]
    assert np.array_equal(raw, peer) and raw.dtype.kind in "iu"
    dataset.check()


def with_side(side):
    """A matrix of 7 x 9 whose header says that it has another number of rows."""
    content = matlab({"LabelMap": np.ones((7, 9), np.uint16)})
    place = content.index(b"\7\0\0\0\t\0\0\0")
    return content[:place] + side.to_bytes(4, "little", signed=True) + content[place + 4 :]


def with_type(kind):
    """A matrix whose numbers are said to be of a type that there is not: scipy ends the process over it."""
    content = matlab({"LabelMap": np.ones((7, 9), np.uint16)})
    place = content.index((126).to_bytes(4, "little"), 128)
    return content[: place - 4] + kind.to_bytes(4, "little") + content[place:]


@pytest.mark.parametrize(
    "content, why",
    [
        (with_side(10**9), "cannot reshape"),
        (with_side(-1), "no matrix of whole numbers"),
        (with_type(260), "no matrix of whole numbers"),
        (with_type(9), "no matrix of whole numbers"),  # doubles
        (matlab({"LabelMap": np.ones((7, 9), np.uint16)})[:-20], "it is cut"),
        (matlab({"Labels": np.ones((7, 9), np.uint16)}), "it has no matrix called LabelMap"),
        (matlab({"LabelMap": "text"}), "LabelMap"),
        (matlab({"LabelMap": {"a": 1}}), "LabelMap"),
        (b"MATLAB", "no MATLAB file of level 5"),
    ],
)
def test_a_matrix_that_is_none_is_refused_with_the_reason(content, why, context):
    """a MATLAB file with a false size or type, cut, without the matrix, or none -> refused with its name and the reason"""
    dataset = context(content)
    with pytest.raises(ValueError, match=f"one.mat cannot be read .*{why}"):
        dataset.labels(0)
    with pytest.raises(IncompleteDataset, match="unreadable masks: 1 "):
        dataset.check()


@pytest.mark.parametrize("ending", ["tif", "jpg", "webp"])
@pytest.mark.parametrize("orientation", [1, 5, 6, 8, 9, 99])
def test_a_turned_picture_has_the_size_that_it_is_read_with(ending, orientation, tmp_path):
    """TIFF, JPEG and WebP turned by a tag, also by one that there is not -> the size is that of the picture as it is read"""
    path, turned = tmp_path / f"picture.{ending}", Image.Exif()
    turned[274] = orientation
    Image.new("RGB", (9, 7)).save(path, **dict(tiffinfo={274: orientation}) if ending == "tif" else dict(exif=turned))
    assert pictures.read(path).shape[:2] == pictures.size(path) == ((9, 7) if orientation in (5, 6, 8) else (7, 9))
    assert pictures.read(path, as_stored=True).shape[:2] == pictures.size(path, as_stored=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 5_000,
        b"\xff\xfe",
        b"3",
        b'{"images": [], "annotations": 3}',
        b'{"images": [{"id": 1}], "annotations": []}',
        b'{"images": [], "annotations": [{"image_id": 1, "caption": "a cat"}]}',
        b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": null}]}',
    ],
)
def test_captions_that_are_none_are_an_error_that_names_the_file(content, dataset):
    """captions.json that is empty, nested 5,000 deep, no text, a number, or lacks fields -> refused with the file's name"""
    (dataset.root / "captions.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"captions\.json holds no captions in COCO's form .*: replace it"):
        dataset.captions  # noqa: B018


@pytest.fixture
def run(dataset, method, tmp_path):
    return evaluate(dataset, method, tmp_path / "run", batch_size=2).folder


def found(run, dataset, i):
    digest = json.loads((run / "run.json").read_text())["hash"]
    return read_row(run, dataset.ids[i], digest, dataset.content(i))


def test_a_row_under_another_images_name_is_not_taken_and_is_named(run, dataset, method, contents):
    """an image's row and label map copied under another's name -> not taken, named by verify, made anew with the same bytes

    Also where the label map is the same, so that its hash cannot tell.
    """
    before = contents(run)
    for folder, ending in (("images", "json"), ("labels", "png")):
        (run / folder / f"p1.{ending}").write_bytes((run / folder / f"p0.{ending}").read_bytes())
    assert found(run, dataset, 0) is not None and found(run, dataset, 1) is None
    assert "images/p1.json: missing, or not as it was written" in verify(run, dataset)
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before


def rewritten(path, **changes):
    row = json.loads(path.read_text()) | changes
    row.pop("row_sha256")
    path.write_text(sealed({key: value for key, value in row.items() if value is not ...}))


@pytest.mark.parametrize(
    "changes",
    [
        dict(counts=[[0, 2**63, 5]]),
        dict(counts=[[0, 0, 10**400]]),
        dict(counts=[[0, -1, 5]]),
        dict(counts=3),
        dict(caption=...),
        dict(mapping=[1]),
        dict(masks=7),
        dict(masks={name: dict(majority=[], hungarian=[], boundary_f=10**400) for name in ("clusters", "painted")}),
        dict(masks={name: dict(majority=[], hungarian=[], boundary_f=1.5) for name in ("clusters", "painted")}),
        dict(present=["no class"]),
    ],
)
def test_a_row_that_is_sealed_and_makes_no_sense_is_an_error(changes, run, dataset, method):
    """a row whose hash fits, with impossible counts or without a field -> an error that names the file or the counts"""
    rewritten(run / "images/p2.json", **changes)
    with pytest.raises(ValueError, match=r"p2\.json makes no sense|a confusion count of 3 classes cannot be read"):
        evaluate(dataset, method, run, batch_size=2)


def test_a_negative_seed_in_a_runs_record_is_refused(run, dataset):
    """run.json with a seed of -1, to verify -> refused with the file's name"""
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(seed=-1)))
    with pytest.raises(ValueError, match=r"run\.json is missing or not whole"):
        verify(run, dataset)


@pytest.mark.parametrize(
    "timing", [dict(), dict(batch=2, seconds=3), dict(batch=[2], seconds={}), dict(batch=2, seconds=dict(look="1"))]
)
def test_timings_of_another_form_count_as_cut(timing, run, dataset, method, contents):
    """an image's timings without a field, or with a list or a text for a number -> made anew, the rest with the same bytes"""
    before = contents(run)
    (run / "timings/p2.json").write_text(json.dumps(timing))
    assert found(run, dataset, 2) is None
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before and json.loads((run / "timings/p2.json").read_text())["seconds"] == dict(look=0.1)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["complete"], ...),
        (["expected"], "6"),
        (["images"], 6.5),
        (["failed"], []),
        (["miou", "dataset"], ...),
        (["miou", "per_image"], "0.5"),
        (["miou"], [0.5]),
        (["empty", "per_image_union"], 10**400),
        (["intervals", "dataset"], [0.1]),
        (["intervals", "dataset", 1], "0.2"),
        (["with_background"], None),
        (["without_background", "pixel_accuracy"], ...),
        (["iou_of_classes", "cat"], True),
        (["masks", "painted"], 3),
        (["naming"], ...),
        (["caption", "spoken"], None),
    ],
)
def test_a_summary_without_what_the_report_needs_is_left_out_with_the_entrys_name(
    place, value, run, dataset, method, everything
):
    """a summary of valid JSON that lacks an entry, or has it of another kind -> left out with a warning that names it; made anew"""
    before, path = everything(run), run / "summary.json"
    summary = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    path.write_text(json.dumps(summary))
    named = r"\.".join(map(str, place))
    with pytest.warns(
        UserWarning, match=rf"left out: .*summary\.json is not whole \({named}.* is missing or"
    ) as warned:
        assert report.find_runs(run.parent) == [] and len(warned) == 1
    evaluate(dataset, method, run, batch_size=2)
    assert everything(run) == before and len(report.find_runs(run.parent)) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: content.rindex(b",")] + b"\n",
        lambda content: content + content.splitlines()[-1] + b"\n",
        lambda content: content.replace(content.splitlines()[0], b"a,b"),
        lambda content: content.rsplit(b",", 1)[0] + b",seven\n",
        lambda content: content + b"a" * 200_000 + b",b,1\n",
        lambda content: b"\xff\xfe" + content,
        None,
    ],
    ids=[
        "empty",
        "cut by a byte",
        "a cell short",
        "a line twice",
        "other columns",
        "a word",
        "long",
        "no text",
        "missing",
    ],
)
@pytest.mark.parametrize("name", ["objects", "confusion"])
def test_a_table_that_is_not_whole_is_an_error_with_its_name(name, spoil, run, dataset, method, everything):
    """a table of a run that is missing, cut, or has other columns, lines or letters -> the report names it; made anew"""
    before, path = everything(run), run / f"{name}.csv"
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    (one,) = report.find_runs(run.parent)
    with pytest.raises(ValueError, match=rf"{name}\.csv is missing or not whole .*: evaluate again"):
        getattr(one, name)
    evaluate(dataset, method, run, batch_size=2)
    assert everything(run) == before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"seconds_an_image": 3}', '{"seconds_an_image": {"a": "1"}}']
)
def test_a_runs_timings_that_are_not_whole_are_an_error_with_their_name(content, run, dataset, method, everything):
    """timing.json that is empty, cut, or of another form; none -> the report names it; no timings"""
    before, path = everything(run), run / "timing.json"
    path.write_text(content)
    (one,) = report.find_runs(run.parent)
    with pytest.raises(ValueError, match=r"timing\.json is empty, cut or of another form: evaluate again"):
        one.timing  # noqa: B018
    evaluate(dataset, method, run, batch_size=2)
    assert everything(run) == before and one.timing["images"] == 6
    path.unlink()
    assert one.timing is None


def test_a_run_over_void_alone_stands_in_the_tables_without_scores(dataset, method, tmp_path):
    """a run over a picture whose mask is void alone -> empty cells in the report's tables"""
    Image.new("L", (16, 12), 255).save(dataset.root / "masks/p0.png")
    run = evaluate(open_dataset("folder", dataset.root), method, tmp_path / "runs/one", limit=1)
    runs = report.find_runs(tmp_path / "runs")
    assert run.summary["miou"]["dataset"] is None and "mIoU per_image 52.6 %" in str(run)
    table = report.all_scores(runs)
    assert table["mIoU dataset"].isna().all() and table["interval dataset"].tolist() == [""]
    assert report.other_scores(runs)["empty dataset"].isna().all() and one_page(runs[0])
    compared = report.paired(runs, runs[0])
    assert compared["difference per_image"].tolist() == [0] and compared["difference interval dataset"].tolist() == [""]
    assert report.stage_scores(runs)["caption recall"].isna().all() and runs[0].objects.empty
