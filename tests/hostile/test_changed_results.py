"""Results that were changed behind a run's back: `verify` says which numbers do not follow from label maps and truth."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import evaluate
from fsdlib.measure.summary import sealed
from fsdlib.measure.verify import main, verify


@pytest.fixture
def run(dataset, method, tmp_path):
    return evaluate(dataset, method, tmp_path / "run", batch_size=2).folder


def changed(path, change):
    """A record with something in it changed, and for a row its hash of itself with it."""
    content = json.loads(path.read_text())
    change(content)
    content.pop("row_sha256", None)
    path.write_text(sealed(content) if path.parent.name == "images" else json.dumps(content))


def test_a_run_that_nobody_touched_agrees(run, dataset, method, tmp_path, everything):
    """a run that nobody touched, whole or in part -> agrees, and nothing is written"""
    before = everything(run)
    assert verify(run, dataset) == []
    assert everything(run) == before
    part = evaluate(dataset, method, tmp_path / "part", limit=3).folder
    assert verify(part, dataset) == []


def test_a_run_without_masks_agrees(dataset, method, tmp_path):
    """a run without ground truth, then a label map exchanged -> agrees, then the map and what follows from it"""
    shutil.rmtree(dataset.root / "masks")
    pictures = open_dataset("folder", dataset.root)
    run = evaluate(pictures, method, tmp_path / "run").folder
    assert verify(run, pictures) == []
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(run / "labels/p1.png")
    assert verify(run, pictures) == [
        "labels/p1.png: missing, or not as it was written",
        "images/p1.json: found: 1 entries, recomputed 0 entries",
        "images.csv[1]: found: 'cat', recomputed ''",
    ]


def test_a_failed_image_has_no_numbers_to_differ(dataset, method, tmp_path):
    """a run of which an image failed -> agrees"""
    (dataset.root / "images/p1.png").write_bytes((dataset.root / "images/p1.png").read_bytes()[:60])
    damaged = open_dataset("folder", dataset.root)
    run = evaluate(damaged, method, tmp_path / "run", tolerated_failures=0.5).folder
    assert list(json.loads((run / "summary.json").read_text())["failed"]) == ["p1"]
    assert verify(run, damaged) == []


def test_a_label_map_with_one_pixel_changed(run, dataset):
    """a label map with one pixel changed -> the map, its counts, the means and the summary"""
    labels = np.array(Image.open(run / "labels/p2.png"))
    labels[0, 0] = 1 - labels[0, 0]
    Image.fromarray(labels).save(run / "labels/p2.png")
    findings = verify(run, dataset)
    assert findings[0] == "labels/p2.png: missing, or not as it was written"
    assert any(finding.startswith("images/p2.json: counts") for finding in findings)
    assert any(finding.startswith("summary.json: miou: dataset: ") for finding in findings)
    assert any(finding.startswith("images.csv[2]: miou: ") for finding in findings)
    assert not any("p1" in finding for finding in findings)


@pytest.mark.parametrize(
    "key, change",
    [
        ("counts[0][2]", lambda row: row["counts"][0].__setitem__(2, row["counts"][0][2] + 1)),
        ("present", lambda row: row["present"].pop()),
        ("regions", lambda row: row.update(regions=row["regions"] + 1)),
        ("masks: painted: boundary_f", lambda row: row["masks"]["painted"].update(boundary_f=0.123)),
        ("found", lambda row: row.update(found=[])),
    ],
)
def test_a_row_changed_with_its_hash(key, change, run, dataset):
    """a number in a row, with its hash made to fit, and the summary as before -> that number, by the truth"""
    changed(run / "images/p3.json", change)
    findings = verify(run, dataset)
    assert len(findings) == 1 and findings[0].startswith(f"images/p3.json: {key}: ")


def test_a_row_changed_without_its_hash_where_only_the_hash_can_tell(run, dataset):
    """a caption changed, which follows from nothing -> the row, by its hash"""
    row = json.loads((run / "images/p3.json").read_text())
    (run / "images/p3.json").write_text(json.dumps(row | dict(caption="two dogs")))
    assert "images/p3.json: missing, or not as it was written" in verify(run, dataset)


def test_a_summary_with_a_better_number(run, dataset):
    """a better mIoU in the summary -> the number with the one that follows from the rows"""
    was = json.loads((run / "summary.json").read_text())["miou"]["dataset"]
    changed(run / "summary.json", lambda summary: summary["miou"].update(dataset=0.9))
    assert verify(run, dataset) == [f"summary.json: miou: dataset: 0.9, recomputed {was!r}"]


@pytest.mark.parametrize("table", ["images", "objects", "confusion"])
def test_a_table_that_is_cut_changed_missing_or_not_of_the_run(table, run, dataset):
    """a table that is cut, changed, missing, or of no run -> the table"""
    path = run / f"{table}.csv"
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert verify(run, dataset) == [f"{table}.csv: {len(lines) - 2} entries, recomputed {len(lines) - 1} entries"]
    path.write_text(text.replace(",", ",9", 1) if table == "confusion" else text.replace("p3,", "p9,", 1))
    assert [finding.split("[")[0].split(":")[0] for finding in verify(run, dataset)][:1] == [f"{table}.csv"]
    path.unlink()
    assert verify(run, dataset) == [f"{table}.csv: None, recomputed {len(lines) - 1} entries"]
    path.write_text(text)
    (run / "mapping.csv").write_text("name,taken_for\na,b\n")
    assert verify(run, dataset) == ["mapping.csv: 1 entries, recomputed None"]


def test_a_mask_changed_to_a_file_of_the_same_size(run, dataset):
    """ground truth exchanged for a file of the same size -> the counts and the summary"""
    path = dataset.root / "masks/p4.png"
    before = path.read_bytes()
    mask = np.array(Image.open(path))
    mask[:6] = mask[6:]
    Image.fromarray(mask).save(path)
    path.write_bytes(path.read_bytes()[: len(before)].ljust(len(before), b"\0"))
    findings = verify(run, open_dataset("folder", dataset.root))
    assert any(finding.startswith("images/p4.json: counts") for finding in findings)
    assert any(finding.startswith("summary.json: miou: dataset") for finding in findings)


@pytest.mark.parametrize("name", ["images/p0.json", "labels/p0.png"])
def test_what_is_missing_or_cut_is_named(name, run, dataset):
    """a row or label map that is cut or missing -> its name, and that the summary cannot be compared"""
    (run / name).write_bytes((run / name).read_bytes()[:20])
    cut = verify(run, dataset)
    (run / name).unlink()
    for findings in (cut, verify(run, dataset)):
        assert findings[0].startswith(f"{name}: ")
        assert findings[-1] == "summary.json: not compared, since 1 images have no row or no label map"


def test_a_configuration_that_was_changed(run, dataset):
    """an entry of run.json changed -> its hash does not fit"""
    changed(run / "run.json", lambda settings: settings.update(threshold=3))
    assert "run.json: its hash is not that of the configuration in it" in verify(run, dataset)


def test_another_class_list_or_no_run_at_all_is_refused(run, dataset, tmp_path):
    """another class list, no run, a run without a summary -> refused, each with its reason"""
    (dataset.root / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(ValueError, match="of another dataset: its class_list"):
        verify(run, open_dataset("folder", dataset.root))
    with pytest.raises(ValueError, match=r"run.json is missing or not whole"):
        verify(tmp_path, dataset)
    (run / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"summary.json is missing, empty or cut"):
        verify(run, dataset)


def test_the_command_says_what_differs_and_fails(run, dataset, capsys):
    """a whole and a changed run to the command -> that all agrees; every difference, and a failure"""
    main([str(run), "--root", str(dataset.root)])
    assert capsys.readouterr().out.startswith("every number follows")
    changed(run / "summary.json", lambda summary: summary["miou"].update(dataset=0.9))
    with pytest.raises(SystemExit, match="1 numbers or files differ"):
        main([str(run), "--root", str(dataset.root)])
    assert capsys.readouterr().out.startswith("summary.json: miou: dataset: 0.9, recomputed ")
    with pytest.raises(SystemExit, match="error: .*run.json is missing"):
        main([str(dataset.root), "--root", str(dataset.root)])


# --------------------------------------------------------------------------------------------- pictures and masks changed


def repaint(path):
    """Other pixels in a picture or a mask, as a file of the same size."""
    Image.fromarray(np.array(Image.open(path))[::-1]).save(path)


def rows_of(run):
    return {path.stem: path.stat().st_ino for path in run.glob("images/*.json")}  # a file written anew is another


@pytest.mark.parametrize("which", ["images/p3.png", "masks/p3.png"])
def test_a_picture_or_mask_that_is_changed_after_its_row_costs_its_batch_alone(
    which, run, dataset, method, tmp_path, contents
):
    """another picture or mask in place of one -> verify says so, that batch is done again, and the bytes are a fresh run's"""
    before = rows_of(run)
    repaint(dataset.root / which)
    changed = open_dataset("folder", dataset.root)
    assert "images/p3.json: its picture or its mask is no longer the one that it is of" in verify(run, changed)
    evaluate(changed, method, run, batch_size=2)
    assert {name for name, file in rows_of(run).items() if before[name] != file} == {"p2", "p3"}
    evaluate(changed, method, tmp_path / "fresh", batch_size=2)
    assert contents(run) == contents(tmp_path / "fresh") and verify(run, changed) == []


def test_a_picture_that_is_changed_while_the_run_goes_on(dataset, method, tmp_path, contents):
    """a picture changed after its row, in the same run -> the run is not finished, and the next makes the row anew"""

    class Meanwhile(type(method)):
        def segment(self, images, *arguments):
            if any((image == dataset.image(4)).all() for image in images):
                repaint(dataset.root / "images/p1.png")
            return super().segment(images, *arguments)

    first = evaluate(dataset, Meanwhile(), tmp_path / "run", batch_size=2)
    assert not first.finished and not (tmp_path / "run/summary.json").exists()
    assert evaluate(dataset, method, tmp_path / "run", batch_size=2).finished
    evaluate(dataset, method, tmp_path / "fresh", batch_size=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


def test_a_picture_that_is_changed_while_it_is_read(dataset, method, tmp_path, monkeypatch):
    """a picture written while it is read -> its image has failed, no row of the old or of the new one"""
    read = type(dataset).image

    def rewritten(self, index):
        image = read(self, index)
        if index == 1:
            repaint(self.root / "images/p1.png")
        return image

    monkeypatch.setattr(type(dataset), "image", rewritten)
    run = evaluate(dataset, method, tmp_path / "run", tolerated_failures=0.5)
    assert json.loads((run.folder / "images/p1.json").read_text())["failed"].startswith(
        "ValueError: its files were written while"
    )
    assert not run.finished


def test_a_seed_that_no_run_can_have(run, dataset):
    """a run.json with a seed below 0 -> verify says that it is no run's record"""
    changed(run / "run.json", lambda settings: settings.update(seed=-1))
    with pytest.raises(ValueError, match="run.json is missing or not whole"):
        verify(run, dataset)


def test_a_row_whose_score_is_no_number(run, dataset, method):
    """a sealed row whose boundary F is an object -> an error that names the row, not one of the mean over all"""
    changed(run / "images/p1.json", lambda row: row["masks"]["painted"].update(boundary_f={}))
    with pytest.raises(ValueError, match="p1.json makes no sense"):
        evaluate(dataset, method, run, batch_size=2)


@pytest.mark.parametrize("reason", [float("inf"), 1e999, 3, None, ["a"]])
def test_a_failure_without_a_reason_in_words(reason, run, dataset, method, contents):
    """a sealed row that failed for a number or nothing -> not whole, made anew, the same bytes as before"""
    before = contents(run)
    row = dict(id="p1", run=json.loads((run / "run.json").read_text())["hash"], files=dataset.content(1), failed=reason)
    digest = hashlib.sha256(json.dumps(row).encode()).hexdigest()
    (run / "images/p1.json").write_text(json.dumps(row | dict(row_sha256=digest)).replace("Infinity", "1e999"))
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before
