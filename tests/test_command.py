"""`python -m fsdlib`: pictures and folders in, three files each out, and what it says where it cannot."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fsdlib.__main__ import main
from fsdlib.models import untrained_backbone
from fsdlib.pipeline import segment
from fsdlib.recipe import get_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scenes):
    """Two scenes as pictures, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, scene in enumerate(scenes[:2]):
        Image.fromarray(scene.image).save(folder / f"scene{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def written(out) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_a_picture_gives_overlay_labels_and_json(folder, tmp_path, scene, mini, capsys):
    out = tmp_path / "out"
    asked = [str(folder / "scene1.png"), "--words", "dog, pizza,boat", "--seed", "3", "--out", str(out)]
    assert main(asked) == 0
    assert written(out) == ["scene1.json", "scene1.png", "scene1_overlay.png"]
    same = segment(scene.image, mini, get_recipe("best"), ["dog", "pizza", "boat"], seed=3)
    with Image.open(out / "scene1.png") as labels:
        assert labels.mode == "P" and np.array_equal(np.asarray(labels), same.labels)
    assert json.loads((out / "scene1.json").read_text())["names"] == ["background", "dog", "pizza", "boat"]
    assert np.ptp(np.asarray(Image.open(out / "scene1_overlay.png").convert("RGB"))) > 100
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "only drawings" in said[0]
    assert all(name in said[1] for name in (*same.found, "scene1_overlay.png"))


def test_a_folder_gives_all_its_pictures_and_a_broken_one_costs_itself_alone(folder, tmp_path, capsys):
    mixed, out = tmp_path / "mixed", tmp_path / "out"
    shutil.copytree(folder, mixed)
    whole = (folder / "scene0.png").read_bytes()
    (mixed / "broken.png").write_bytes(whole[: len(whole) // 2])
    asked = [str(mixed), str(tmp_path / "nowhere.jpg"), "--recipe", "paper", "--out", str(out)]
    assert main(asked) == 1
    assert {name.split(".")[0] for name in written(out)} == {"scene0", "scene0_overlay", "scene1", "scene1_overlay"}
    assert json.loads((out / "scene0.json").read_text())["recipe"]["name"] == "paper"
    ending = capsys.readouterr().err.splitlines()[-3:]
    assert ending[0].endswith("2 of 4 pictures were left out:")
    assert ending[1].startswith(f"error: {str(mixed / 'broken.png')!r} is no picture that can be read")
    assert ending[2].startswith(f"error: there is no file {str(tmp_path / 'nowhere.jpg')!r}")


def test_a_photograph_that_was_held_sideways_is_turned_upright(folder, tmp_path):
    with Image.open(folder / "scene0.png") as picture:
        wide = picture.crop((0, 0, picture.width, picture.height // 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    wide.save(tmp_path / "sideways.jpg", exif=exif)
    assert main([str(tmp_path / "sideways.jpg"), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "sideways.png") as labels:
        assert labels.size == (wide.height, wide.width)


def test_options_of_the_recipe_can_be_set(folder, tmp_path):
    changes = ["--set", "clusters.count=3", "--set", "refinement=none"]
    assert main([str(folder / "scene0.png"), "--recipe", "paper", "--out", str(tmp_path), *changes]) == 0
    segments = json.loads((tmp_path / "scene0.json").read_text())["segments"]
    assert len(segments) == 3


def test_another_networks_features_take_the_unets_place(folder, tmp_path, scene, mini):
    asked = ["--backbone", "scenes-mae-untrained", "--set", "features=network", "--recipe", "paper"]
    assert main([str(folder / "scene1.png"), "--out", str(tmp_path), *asked]) == 0
    models = replace(mini, backbone=untrained_backbone("scenes-mae"))
    same = segment(scene.image, models, get_recipe("paper").with_changes({"features": "network"}))
    said = json.loads((tmp_path / "scene1.json").read_text())
    with Image.open(tmp_path / "scene1.png") as labels:
        assert np.array_equal(np.asarray(labels), same.labels)
    assert said["recipe"]["features"]["kind"] == "network"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["https://example.org/cat.jpg"], "is an address: save the picture first and give its path"),
        (["{folder}/scene0.png", "--models", "sd99"], "no model set is called 'sd99': choose one of mini, sd14"),
        (["{folder}/scene0.png", "--backbone", "sam"], "no backbone is called 'sam': choose one of scenes-mae"),
        (["{folder}/scene0.png", "--backbone", "dino"], "unet, do not read the backbone 'dino'"),
        (["{folder}/scene0.png", "--set", "features=network"], "features=network needs a backbone to read"),
        (["{folder}/scene0.png", "--recipe", "worst"], "no recipe is called 'worst': choose one of paper, best"),
        (["{folder}/scene0.png", "--set", "clusters"], "'clusters' has no value: write PATH=VALUE"),
        (
            ["{folder}/scene0.png", "--recipe", "paper", "--set", "clusters.count=many"],
            "clusters.count='many' does not fit recipe",
        ),
        (["{folder}/scene0.png", "--words", " , "], "no word is given"),
        (["{folder}/scene0.png", "--words", "cat,cat"], "class names are given twice: ['cat']"),
        (["{folder}/scene0.png", "--out", "{folder}"], "lies in --out, where its result could replace it"),
        (["{folder}/scene0.png", "{folder}"], "would both be written to"),
        (["{folder}/empty"], "holds no picture"),
        ([], "required: PICTURE"),
    ],
)
def test_a_slip_in_the_command_line_is_one_sentence_and_writes_nothing(
    arguments, says, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(folder=folder) for argument in arguments])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m fsdlib: error: ") and says in last
    assert not list(tmp_path.iterdir())


def test_a_single_file_that_is_no_picture_is_an_error(folder, tmp_path, capsys):
    assert main([str(folder / "notes.txt"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: {str(folder / 'notes.txt')!r} is no picture that can be read: save it anew"
    ]
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_had_are_one_sentence(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    assert main([str(folder / "scene0.png"), "--models", "sd14", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "make fetch MODELS=sd14" in said.err and "drawings" not in said.out
