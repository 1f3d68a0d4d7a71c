"""The certificate: whole models hold what they recorded, random and damaged ones break the right rungs, a stopped climb goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fsdlib import models
from fsdlib.measure.reproduction.__main__ import main
from fsdlib.measure.reproduction.certificate import reproduce, verdict
from fsdlib.measure.reproduction.climb import SUBJECTS, Climb, Goal, Subject, cells, segmented
from fsdlib.measure.reproduction.evaluations import beside, published
from fsdlib.measure.reproduction.preflight import ROUNDING, arithmetic_error
from fsdlib.measure.reproduction.recorded import (
    Captions,
    ClassVectors,
    Clusters,
    LabelMaps,
    agreement,
    class_vectors,
    described,
    kappa,
    named_alike,
)
from fsdlib.models import MODEL_SETS, ModelSet, Source, sources
from fsdlib.pipeline import Perception, segment
from fsdlib.project import MINI, ROOT
from fsdlib.recipe import PAPER
from fsdlib.world import rehearsal
from fsdlib.world.scenes import write_scenes

RUNGS = ["preflight", "class vectors", "captions", "clusters", "label maps", "sample", "the whole of scenes"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight scenes, the first five of which are recorded."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), val=8)


@pytest.fixture(scope="module")
def start(root, tmp_path_factory):
    """A function that prepares a climb: models by name, in a folder of evaluations of its own unless one is given."""

    def prepared(name="mini", runs=None, subject=SUBJECTS["mini"]):
        runs = runs or tmp_path_factory.mktemp("runs")
        return Climb(ModelSet(name, "cpu"), subject, dict(scenes=root), runs, sample=4)

    return prepared


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A climb of the mini models to the top: (folder, content)."""
    out = tmp_path_factory.mktemp("whole")
    return out, reproduce(start(runs=out / "runs"), out)


def by_name(content):
    return {row["name"]: row for row in content["rungs"]}


# --------------------------------------------------------------------------------------------- models that are whole


def test_the_mini_models_hold_what_an_earlier_version_of_them_recorded(whole):
    rungs = by_name(whole[1])
    assert list(rungs) == RUNGS
    assert [rung["holds"] for rung in rungs.values()] == [True] * 6 + [None], rungs
    numbers = {name: rung["numbers"] for name, rung in rungs.items()}
    assert numbers["class vectors"]["median"] > 0.999 and numbers["captions"]["same"] >= 4
    # another processor may round a cell or a name differently, not many
    assert numbers["clusters"]["agreement"] > 0.9 and numbers["label maps"]["kappa"] > 0.8


def test_nothing_is_published_on_scenes_and_the_last_rung_says_so(whole):
    assert "no figure is published on scenes" in by_name(whole[1])["the whole of scenes"]["sentence"]
    assert whole[1]["verdict"] == "6 of 7 rungs hold, nothing to compare with: the whole of scenes"


def test_sample_and_whole_are_one_run_in_the_folder_of_make_eval(whole):
    folder, rungs = whole[0] / "runs" / "scenes-mini-paper", by_name(whole[1])
    summary = json.loads((folder / "summary.json").read_text())
    assert (rungs["sample"]["numbers"]["images"], summary["images"]) == (4, 8)
    assert rungs["the whole of scenes"]["numbers"]["miou"] == summary["miou"]
    assert rungs["the whole of scenes"]["numbers"]["run_hash"] == summary["hash"]


def test_the_report_says_what_was_held_to_what_on_which_machine(whole):
    out, content = whole
    assert json.loads((out / "reproduction.json").read_text()) == content
    page = (out / "reproduction.md").read_text()
    for said in (*RUNGS, content["verdict"], content["versions"]["torch"], content["identity"]["clip"]["sha256"]):
        assert said in page
    assert content["recipe"] == "paper" and content["record"] == "mini" and content["machine"]["device"] == "cpu"


def test_a_record_is_made_anew_in_one_command(root, tmp_path, monkeypatch):
    monkeypatch.setitem(SUBJECTS, "mini", replace(SUBJECTS["mini"], record=tmp_path / "mini"))
    main(["--record", "--scenes", str(root), "--device", "cpu"])
    made, kept = (
        json.loads(path.with_suffix(".json").read_text()) for path in (tmp_path / "mini", ROOT / "data/recorded/mini")
    )
    assert made.keys() == kept.keys() and made["pictures"].keys() == kept["pictures"].keys()
    main(["--scenes", str(root), "--device", "cpu", "--rungs", "5", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "reproduction.json").read_text())
    assert content["verdict"] == "5 of 7 rungs hold" and by_name(content)["label maps"]["numbers"]["equal"] == 1


# --------------------------------------------------------------------------------------------- stopped and taken up again


def test_a_climb_that_was_killed_goes_on_and_climbs_nothing_twice(start, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Clusters, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            reproduce(start(), tmp_path, rungs=5)
    left = by_name(json.loads((tmp_path / "reproduction.json").read_text()))
    assert list(left) == RUNGS[:3]
    with monkeypatch.context() as patch:
        for done in (ClassVectors, Captions):
            patch.setattr(done, "run", killed)
        content = by_name(reproduce(start(), tmp_path, rungs=5))
    assert list(content) == RUNGS[:5] and all(rung["holds"] for rung in content.values())
    assert all(content[name] == left[name] for name in RUNGS[1:3])


def test_another_record_is_another_configuration(start, tmp_path):
    reproduce(start(), tmp_path, rungs=2)
    for path in (ROOT / "data" / "recorded").iterdir():
        shutil.copy(path, tmp_path)
    vectors = load_file(tmp_path / "mini.safetensors")
    save_file({name: -values for name, values in vectors.items()}, tmp_path / "mini.safetensors")
    other = start(subject=replace(SUBJECTS["mini"], record=tmp_path / "mini"))
    assert by_name(reproduce(other, tmp_path, rungs=2))["class vectors"]["numbers"]["median"] == pytest.approx(
        -1, abs=1e-3
    )


# --------------------------------------------------------------------------------------------- random and damaged models

FILES = {"diffusion": "stable-diffusion", "captioner": "blip", "clip": "clip"}
RANDOM_DIFFUSION, RANDOM_CLIP = ("random", "mini", "mini"), ("mini", "mini", "random")


@pytest.fixture(scope="module")
def random_cache(tmp_path_factory):
    """A hub cache of the mini models' architectures and tokenizers, with random numbers in the weights; it is in use."""
    configurations, cache = tmp_path_factory.mktemp("configurations"), tmp_path_factory.mktemp("hub")
    parts, tables = {}, dict(diffusion=models.DIFFUSION, captioner=models.CAPTIONERS, clip=models.CLIPS)
    for part, folder in FILES.items():
        shutil.copytree(MINI / folder, configurations / f"random--{part}")
        files = [path.relative_to(MINI / folder).as_posix() for path in (MINI / folder).rglob("*") if path.is_file()]
        parts[part] = Source(f"random/{part}", "0" * 40, tuple(sorted(files)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "CONFIGURATIONS", configurations)
        patch.setattr(rehearsal, "_TEXTS", {})  # the mini models have tokenizers of their own
        rehearsal.write_cache(cache, parts.values())
        for part, source in parts.items():
            patch.setitem(tables[part], "random", source)
        for name, one in (("random", ("random",) * 3), ("diffusion", RANDOM_DIFFUSION), ("clip", RANDOM_CLIP)):
            patch.setitem(MODEL_SETS, name, one)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        yield cache


def test_random_weights_break_the_rungs_that_tell_them_from_trained_ones(random_cache, start, tmp_path):
    content = reproduce(start("random"), tmp_path, climb_on=True, rungs=5)
    rungs = by_name(content)
    assert [name for name, rung in rungs.items() if rung["holds"] is False and name != "captions"] == [
        "class vectors",
        "clusters",
        "label maps",
    ], rungs
    assert rungs["preflight"]["holds"] and "REHEARSAL OF RANDOM NUMBERS" in rungs["preflight"]["sentence"]
    assert rungs["preflight"]["numbers"]["found"] == dict.fromkeys(FILES, "the cache")
    assert content["verdict"].startswith("broken: class vectors")


@pytest.mark.parametrize("part, broken", [("diffusion", {"class vectors", "clusters"}), ("clip", {"label maps"})])
def test_one_part_of_random_weights_breaks_the_rungs_that_are_about_it(random_cache, start, tmp_path, part, broken):
    rungs = by_name(reproduce(start(part), tmp_path, climb_on=True, rungs=5))
    assert broken <= {name for name, rung in rungs.items() if not rung["holds"]} <= broken | {"label maps"}, rungs


def test_random_weights_break_them_though_nothing_says_that_they_are_random(random_cache, start, tmp_path):
    (random_cache / "REHEARSAL.txt").rename(tmp_path / "REHEARSAL.txt")
    try:
        rungs = by_name(reproduce(start("random"), tmp_path))
    finally:
        (tmp_path / "REHEARSAL.txt").rename(random_cache / "REHEARSAL.txt")
    assert list(rungs) == RUNGS[:2] and "RANDOM" not in rungs["preflight"]["sentence"]
    assert not rungs["class vectors"]["holds"], "and there the climb stops"


def with_another(value):
    return lambda tensor: torch.full_like(tensor, value)


@pytest.mark.parametrize(
    "part, path, tensor, change, said",
    [
        ("diffusion", "unet/diffusion_pytorch_model.safetensors", "conv_in.weight", None, "conv_in.weight is missing"),
        (
            "captioner",
            "model.safetensors",
            "vision_model.embeddings.class_embedding",
            None,
            "class_embedding is missing",
        ),
        (
            "diffusion",
            "text_encoder/model.safetensors",
            "text_model.final_layer_norm.weight",
            lambda tensor: tensor[1:],
            r"final_layer_norm.weight is \(127,\) where the model has \(128,\)",
        ),
        ("clip", "open_clip_model.safetensors", "text_projection", lambda tensor: tensor[1:], "text_projection"),
        (
            "clip",
            "open_clip_model.safetensors",
            "logit_scale",
            with_another(np.nan),
            "logit_scale of the CLIP .* not finite",
        ),
        (
            "diffusion",
            "vae/diffusion_pytorch_model.safetensors",
            "quant_conv.bias",
            with_another(np.inf),
            "quant_conv.bias of the latent encoder .* not finite",
        ),
    ],
)
def test_a_tensor_that_is_missing_misshapen_or_not_finite_breaks_the_first_rung_by_its_name(
    random_cache, start, tmp_path, part, path, tensor, change, said
):
    weights = random_cache / f"models--random--{part}" / "snapshots" / ("0" * 40) / path
    blob, tensors = weights.resolve(), load_file(weights)
    changed = {tensor: change(tensors[tensor]).contiguous()} if change else {}
    weights.unlink()  # a blob that changes is found by its hash before this rung looks at tensors
    try:
        save_file(
            {name: value for name, value in tensors.items() if name != tensor} | changed, weights, {"format": "pt"}
        )
        content = reproduce(start("random"), tmp_path)
    finally:
        weights.unlink()
        weights.symlink_to(blob)
    (broken,) = content["rungs"]
    assert broken["holds"] is False and content["verdict"] == "broken: preflight"
    assert re.search(said, broken["sentence"]), broken["sentence"]


def test_a_download_that_broke_off_is_named(random_cache, start, tmp_path):
    weights = random_cache / "models--random--clip" / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
    before = weights.read_bytes()
    try:
        weights.resolve().write_bytes(before[:-100])
        content = reproduce(start("random"), tmp_path)
    finally:
        weights.resolve().write_bytes(before)
    assert f"{weights} is damaged" in content["rungs"][0]["sentence"]


def test_where_models_or_pictures_are_missing_the_first_rung_says_how_to_get_them(root, tmp_path, start):
    there_is_none = Climb(ModelSet("sd14", "cpu"), SUBJECTS["mini"], dict(scenes=root), tmp_path / "runs")
    assert "make fetch MODELS=sd14" in reproduce(there_is_none, tmp_path)["rungs"][0]["sentence"]
    without = Climb(ModelSet("mini", "cpu"), replace(SUBJECTS["mini"], goals=(Goal("voc12"),)), {}, tmp_path / "runs")
    assert "dataset 'voc12' needs a root" in reproduce(without, tmp_path)["rungs"][0]["sentence"]
    few = Climb(ModelSet("mini", "cpu"), SUBJECTS["mini"], dict(scenes=write_scenes(tmp_path / "few", val=4)), tmp_path)
    assert "val_000004.png is missing" in reproduce(few, tmp_path)["rungs"][0]["sentence"]


@pytest.mark.slow
def test_sd14_on_random_numbers_breaks_where_it_must(released_root, tmp_path):
    """The five photographs in VOC's layout, those two in its listing that its val split has masks of; two minutes."""
    cache = ROOT / "data" / "rehearsal-cache"
    if not cache.is_dir():
        pytest.skip("no rehearsal's cache: make rehearsal writes data/rehearsal-cache")
    voc, listing = tmp_path / "VOC2012", []
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for path in released_root.glob("*.jpg"):
        (voc / "JPEGImages" / path.name).symlink_to(path)
    for path in released_root.glob("*_truth.png"):
        listing.append(path.name.removesuffix("_truth.png"))
        (voc / "SegmentationClass" / f"{listing[-1]}.png").symlink_to(path)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(listing))
    command = ["-m", "fsdlib.measure.reproduction", "--models", "sd14", "--device", "cpu", "--voc", voc, "--rungs", "5"]
    done = subprocess.run(
        [sys.executable, *command, "--climb-on", "--out", tmp_path],
        env=os.environ | dict(HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1"),
        cwd=ROOT,
    )
    rungs = by_name(json.loads((tmp_path / "reproduction.json").read_text()))
    assert done.returncode == 1 and rungs["preflight"]["holds"], rungs["preflight"]
    assert [rungs[name]["holds"] for name in ("class vectors", "clusters")] == [False, False], rungs
    assert not rungs["label maps"]["holds"]


# --------------------------------------------------------------------------------------------- by hand


def test_arithmetic_is_off_by_what_the_precision_rounds_and_nan_is_no_small_number(monkeypatch):
    assert arithmetic_error("cpu", torch.float32) < 1e-5 < arithmetic_error("cpu", torch.float16) < 0.005
    for spoiled in ("conv2d", "scaled_dot_product_attention"):  # as a float16 kernel that overflows does
        whole = getattr(torch.nn.functional, spoiled)

        def overflowing(numbers, *others, **options):
            scale = 1 if numbers.dtype == torch.float64 else torch.inf
            return whole(numbers, *others, **options) * scale

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, spoiled, overflowing)
            assert not arithmetic_error("cpu", torch.float16) < ROUNDING


def test_clusters_agree_under_the_best_matching_of_their_numbers():
    ours = np.array([[0, 0, 1, 1], [0, 0, 1, 2]], np.uint8)
    assert agreement(ours, np.array([[2, 2, 0, 0], [2, 2, 0, 1]])) == 1
    assert agreement(ours, np.array([[2, 2, 0, 0], [2, 0, 0, 0]])) == 6 / 8  # 3 of one, 3 of the other
    assert agreement(ours, np.zeros((2, 4), int)) == 4 / 8  # one number takes one number
    with pytest.raises(ValueError, match="another grid"):
        agreement(ours, np.zeros((4, 4), int))


def test_kappa_is_agreement_beyond_what_the_shares_give():
    ours = np.array(["cat", "cat", "dog", "dog"])
    assert kappa(ours, np.array(["cat", "dog", "dog", "dog"])) == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert kappa(ours, np.array(["cat"] * 4)) == 0 and kappa(np.array(["cat"] * 4), np.array(["cat"] * 4)) == 1


def test_a_published_figure_is_met_surpassed_or_missed():
    assert beside(53.3, 52.9, (51.0, 54.0)) == (True, "the published 53.3 is within the interval")
    assert beside(53.3, 55.0, (53.9, 56.0)) == (True, "above the published 53.3 by 1.7")
    assert beside(53.3, 50.0, (48.9, 51.0)) == (False, "below the published 53.3 by 3.3")
    assert published("voc21") == ("per_image", 53.3) and published("coco_object") == ("per_image", 31.0)


def test_a_class_vector_is_the_mean_over_as_many_positions_as_the_name_has_tokens_and_one(mini):
    tokens = len(mini.diffusion.tokenizers[0]("hot dog").input_ids) - 2
    hot, dog = mini.diffusion.encode_text(["A photo of hot", "A photo of dog"])
    expected = ((hot + dog) / 2)[1 : tokens + 2].mean(axis=0)
    assert class_vectors(["hot dog"], mini.diffusion)[0] == pytest.approx(expected, abs=1e-6)


def test_the_verdict_names_what_is_broken_or_open():
    rows = [dict(name="a", holds=True), dict(name="b", holds=None), dict(name="c", holds=False)]
    assert verdict(rows[:1], 3, 3) == "1 of 3 rungs hold, still climbing"
    assert verdict(rows[:2], 2, 3) == "1 of 3 rungs hold, nothing to compare with: b"
    assert verdict(rows, 3, 3) == "broken: c"


def with_record(start, pictures, **found):
    """A climb whose record is given, and what was found in its pictures, where that matters."""
    climb = start()
    climb.record = dict(pictures=pictures)
    for name, value in found.items():
        setattr(climb, name, value)
    return climb


@pytest.mark.parametrize("caption, holds", [("", False), ("cat cat cat cat", False), ("a cat on a sofa", True)])
def test_a_caption_that_names_nothing_breaks_its_rung_and_another_one_does_not(start, caption, holds):
    pictures = {"one": dict(caption="a cat on a bed", words=["cat", "bed"])}
    found = Captions().run(with_record(start, pictures, perceptions={"one": Perception(caption, (), ())}))
    assert found.holds is holds and found.numbers["pictures"]["one"]["recorded"] == "a cat on a bed"
    assert holds is False or (found.numbers["shared"], found.numbers["recorded"]) == (1, 2)


@pytest.fixture
def named(mini, scene):
    """A scene with free names."""
    return segment(scene.image, mini, PAPER.with_changes({"vocabulary": "open"}))


def test_a_record_of_a_picture_holds_its_names_cell_by_cell(named):
    recorded = described(named)
    assert recorded["caption"] == named.caption and set(named.found) <= set(recorded["named"].values())
    assert np.array_equal(cells(recorded["clusters"]).astype(int), named.clusters)
    ours, theirs = named_alike(named, recorded)
    assert (
        len(ours) == named.clusters.size and (ours == theirs).all() and set(ours) - {"background"} == set(named.found)
    )


def test_cells_whose_name_is_unknown_do_not_count(named):
    middles = np.array(named.names)[named.labels[48::96, 48::96]]  # of the four quarters of 192 pixels
    recorded = dict(labels=["0-", "?9"], named={"0": middles[0, 0], "9": "unicorn"})
    ours, theirs = named_alike(named, recorded)
    assert list(ours) == [middles[0, 0], middles[0, 1], middles[1, 1]]
    assert list(theirs) == [middles[0, 0], "background", "unicorn"]


def test_recorded_clusters_stand_in_for_our_own_whatever_they_are(start):
    climb = start()
    first = next(iter(climb.paths))
    quarters = ["0" * 16 + "1" * 16] * 16 + ["2" * 16 + "3" * 16] * 16
    (result,) = segmented(climb, {first: "a dog and a cake"}, {first: quarters}).values()
    assert np.array_equal(result.clusters, np.kron([[0, 1], [2, 3]], np.ones((16, 16), int)))
    assert result.names == ("background", "dog", "cake") and result.masks.shape[0] == 4


def test_without_recorded_label_maps_there_is_nothing_to_compare_with(start):
    found = LabelMaps().run(with_record(start, {"one": dict(caption="a cat")}))
    assert found.holds is None and "no label maps are recorded" in found.sentence


def test_every_subject_is_a_model_set_with_a_record_and_the_wheel_carries_it():
    assert SUBJECTS.keys() <= MODEL_SETS.keys()
    for name, subject in SUBJECTS.items():
        assert isinstance(subject, Subject) and sources(name)
        content = json.loads(subject.record.with_suffix(".json").read_text())
        vectors = load_file(subject.record.with_suffix(".safetensors"))
        assert {group: len(names) for group, names in content["class_vectors"].items()} == {
            group: len(values) for group, values in vectors.items()
        }
