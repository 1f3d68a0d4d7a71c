"""Half-written and half-there: what is cut, empty or changed counts as not done, is made anew and said once."""

import json
import shutil

import pytest
from six_pictures import Brightness

from fsdlib import models
from fsdlib.measure.report import find_runs
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import MODEL_SETS, ModelSet, ModelUnavailable, Source
from fsdlib.project import MINI
from fsdlib.recipe import PAPER

FILES = ["images/p2.json", "labels/p2.png", "timings/p2.json", "run.json", "summary.json", "timing.json"]
WAYS = {
    "empty": lambda content: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "zeros of a crash": lambda content: bytes(len(content)),
    "no text": lambda content: b"\xff\xfe" + content,
    "another kind of JSON": lambda content: b"[1]",
}


@pytest.fixture
def run(dataset, method, tmp_path):
    return evaluate(dataset, method, tmp_path / "run", batch_size=2).folder


def spoil(path, way):
    path.write_bytes(WAYS[way](path.read_bytes()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_whole_is_made_anew_and_said_once(name, way, run, dataset, method, contents, capsys):
    """every file of a run empty, cut, zeros, no text or other JSON -> made anew with the same bytes, said once"""
    before, timing = contents(run), json.loads((run / "timing.json").read_text())
    spoil(run / name, way)
    capsys.readouterr()
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before
    assert json.loads((run / "timing.json").read_text()).keys() == timing.keys()
    json.loads((run / "timings/p2.json").read_text())
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "made anew" in line]
    assert len(said) == 1 and f"1 files were cut, changed or missing and are made anew ({name})" in said[0]
    evaluate(dataset, method, run, batch_size=2)
    assert "made anew" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", FILES[:2])
def test_a_file_that_is_not_whole_does_not_count_as_done(name, run, dataset, method):
    """an image of another shard whose file is cut -> does not count as done, no summary"""
    spoil(run / name, "cut by a byte")
    (run / "summary.json").unlink()
    part = evaluate(dataset, method, run, batch_size=2, shard="0/3")
    assert not part.finished and "p2" not in set(part.table.id) and not (run / "summary.json").exists()


def test_all_files_at_once(run, dataset, method, contents, capsys):
    """all files of a run empty but one row, as a full disk leaves them -> made anew with the same bytes"""
    before = contents(run)
    for path in run.rglob("*"):
        if path.is_file() and path.name != "p0.json":
            path.write_bytes(b"")
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before
    assert "made anew (run.json, summary.json, timing.json, ...)" in "".join(capsys.readouterr())


def test_a_row_or_label_map_of_another_configuration_is_not_taken(run, dataset, method, tmp_path, contents):
    """a row and a label map of another configuration -> made anew with the same bytes"""
    other = evaluate(dataset, type(method)(threshold=64), tmp_path / "other", batch_size=2).folder
    before = contents(run)
    shutil.copy(other / "images/p1.json", run / "images/p1.json")
    shutil.copy(other / "labels/p3.png", run / "labels/p3.png")
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before


def test_a_row_with_one_number_changed_is_not_taken(run, dataset, method, contents):
    """a row with one number changed -> made anew with the same bytes"""
    before = contents(run)
    row = json.loads((run / "images/p1.json").read_text())
    row["counts"][0][2] += 1
    (run / "images/p1.json").write_text(json.dumps(row))
    evaluate(dataset, method, run, batch_size=2)
    assert contents(run) == before


@pytest.mark.parametrize("way", WAYS)
def test_whoever_looks_at_a_label_map_that_is_not_whole_hears_its_name(way, run, dataset, method):
    """a stored label map that is not whole, to whoever asks for it -> an error with its name"""
    found = evaluate(dataset, method, run, batch_size=2)
    spoil(run / "labels/p2.png", way)
    if way == "cut by a byte":  # all pixels are there
        assert found.prediction("p2").shape == (12, 16)
    else:
        with pytest.raises(ValueError, match="labels/p2.png cannot be read .*: evaluate again"):
            found.prediction("p2")
    assert found.prediction("p9") is None


@pytest.mark.parametrize("way", WAYS)
def test_the_report_leaves_out_a_run_whose_summary_is_not_whole_and_says_so(way, dataset, tmp_path):
    """a report over two runs, the summary of one not whole -> a warning, and the other"""
    for name, threshold in (("one", 64), ("two", 128)):
        evaluate(dataset, Brightness(threshold), tmp_path / "runs" / name)
    spoil(tmp_path / "runs/one/summary.json", way)
    with pytest.warns(UserWarning, match=r"left out: .*one/summary.json is missing, empty or cut: evaluate again"):
        assert [run.folder.name for run in find_runs(tmp_path / "runs")] == ["two"]


# --------------------------------------------------------------------------------------------- models


def test_a_method_whose_models_cannot_be_loaded_ends_the_run_at_the_first_image(dataset, method, tmp_path):
    """a method whose models cannot be loaded -> the run ends at the first image, and nothing is written"""
    asked = []

    def load(*arguments):
        asked.append(arguments)
        raise ModelUnavailable("model.safetensors is cut: fetch it again")

    segment, method.segment = method.segment, load
    with pytest.raises(ModelUnavailable, match="model.safetensors is cut: fetch it again"):
        evaluate(dataset, method, tmp_path / "run", batch_size=2)
    assert len(asked) == 1 and not list((tmp_path / "run").glob("*/*"))
    method.segment, method.name_masks = segment, load
    with pytest.raises(ModelUnavailable):
        evaluate(dataset, method, tmp_path / "run", batch_size=2)
    assert len(asked) == 2 and not list((tmp_path / "run").glob("images/*"))


@pytest.mark.parametrize("file", ["unet/config.json", "tokenizer/vocab.json"])
def test_a_model_set_with_a_damaged_file_ends_the_run_with_where_it_lies_and_what_to_do(
    file, dataset, tmp_path, monkeypatch
):
    """a model set with half a configuration or tokenizer -> the run ends with the folder and what to do"""
    folder = shutil.copytree(MINI / "stable-diffusion", tmp_path / "damaged")
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    monkeypatch.setattr(models, "locate", lambda source, *_: (source.folder, dict(repository=source.repository)))
    monkeypatch.setitem(models.DIFFUSION, "damaged", Source("fsdlib/damaged", "main", (), folder))
    monkeypatch.setitem(MODEL_SETS, "damaged", ("damaged", "mini", "mini"))
    method = FreeSegDiff(ModelSet("damaged", "cpu"), PAPER)
    with pytest.raises(ModelUnavailable, match=f"{folder}.*(fetch|restore)"):
        evaluate(dataset, method, tmp_path / "run", batch_size=2)
    assert not list((tmp_path / "run").glob("images/*"))


def test_a_summary_with_half_a_character_is_left_out_of_the_report(run):
    """a summary with half of a character in it, which no table can hold -> left out of the report, named, with the remedy"""
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text.replace('"folder"', '"\\ud800"', 1))
    with pytest.warns(UserWarning, match="summary.json has a text that is none: evaluate again"):
        assert find_runs(run.parent) == []
