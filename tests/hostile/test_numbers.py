"""NaN and infinity, wherever a model may give them: an error of that picture or done again, never "nothing found"."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fsdlib.caption import caption
from fsdlib.clusters import Agglomerative, KMeans, NormalisedCut, Spectral
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import EvaluationFailed, evaluate
from fsdlib.measure.scores import rounded
from fsdlib.measure.segmenters import FreeSegDiff, Prediction
from fsdlib.models import NotFinite, load_models
from fsdlib.names import nearest_classes, score_vectors
from fsdlib.pipeline import perceive, segment, segment_batch
from fsdlib.recipe import BEST, PAPER
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import write_scenes

LIMIT = 65504  # the largest float16
MODES = ["closed", "given", "open", "oracle"]


@pytest.fixture
def own():
    """The mini models, for a test that spoils them."""
    return load_models("mini", device="cpu")


@pytest.fixture(scope="module")
def overflowing(scenes):
    """The mini models in float16, with a first layer so strong that one of two scenes overflows; its picture is the second."""
    models, pictures = load_models("mini", device="cpu", dtype=torch.float16), [scene.image for scene in scenes[:2]]
    layer = models.diffusion.unet.conv_in
    weights = [parameter.data.float() for parameter in layer.parameters()]

    def whole(strength):
        """Of which of the pictures the features are finite."""
        for parameter, weight in zip(layer.parameters(), weights):
            parameter.data = (strength * weight).half()
        _, maps = PAPER.features.read(pictures, models)
        return [all(np.isfinite(array[i]).all() for array in maps) for i in range(2)]

    weak, strong = 1.0, LIMIT / max(weight.abs().max().item() for weight in weights)
    while sum(found := whole((weak * strong) ** 0.5)) != 1:
        weak, strong = ((weak * strong) ** 0.5, strong) if all(found) else (weak, (weak * strong) ** 0.5)
    return models, pictures if found[0] else pictures[::-1]


def spoiled(parameter, value=torch.nan):
    parameter.data.view(-1)[0] = value


# ------------------------------------------------------------------------------------------------- features


def test_a_picture_that_overflows_is_done_again_in_float32_and_that_is_noted(overflowing):
    """a picture whose features overflow in float16 -> read again in float32, with a note; its neighbour as ever"""
    models, pictures = overflowing
    first, second = perceive(pictures, models, PAPER)
    assert first.notes == () and second.notes == ("features overflow in float16: read again in float32",)
    assert all(np.isfinite(array).all() for perception in (first, second) for array in perception.maps)
    (expected,) = PAPER.features.read(pictures[1:], full(models))[1][:1]
    assert np.array_equal(second.maps[0], expected[0])
    assert models.diffusion.unet.dtype == torch.float16, "the next picture goes on as before"


def full(models):
    from dataclasses import replace

    return replace(models, diffusion=models.diffusion.in_float32())


def test_the_note_is_in_the_result_and_its_neighbour_has_none(overflowing, vocabulary, tmp_path):
    """the same picture, segmented and saved -> the note is in its JSON"""
    models, pictures = overflowing
    results = segment_batch(pictures, models, PAPER, vocabulary)
    assert [len(result.notes) for result in results] == [0, 1]
    _, path = results[1].save(tmp_path / "one")
    assert "float32" in json.loads(path.read_text())["notes"][0]


def test_a_run_keeps_the_note_in_the_pictures_row(overflowing):
    """the same picture in an evaluation -> the note is in its row"""
    models, pictures = overflowing
    predictions = FreeSegDiff(models, PAPER).segment(pictures, Vocabulary.of(["cat", "dog"]), [[], []], 0)
    assert "notes" not in predictions[0].details and "float32" in predictions[1].details["notes"][0]


@pytest.mark.parametrize("part", ["unet", "encoder"])
def test_what_is_not_finite_in_float32_either_is_an_error(own, scene, part):
    """NaN in the UNet or the encoder -> an error that says so"""
    spoiled(next(getattr(own.diffusion, part).parameters()))
    with pytest.raises(NotFinite, match="features of 1 of 1 pictures are not finite, in float32 either"):
        segment(scene.image, own, PAPER)


@pytest.mark.parametrize("way", [KMeans(), Agglomerative(), Spectral(), NormalisedCut()], ids=lambda way: way.kind)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_not_grouped(way, value):
    """features with NaN or infinity, to every clustering -> refused"""
    features = np.random.default_rng(0).normal(size=(3, 4, 4))
    features[1, 2, 3] = value
    with pytest.raises(ValueError, match="features hold numbers that are not finite: read them again in float32"):
        way.group(features)


# ------------------------------------------------------------------------------------------------- words and names


@pytest.mark.parametrize("recipe", [PAPER, BEST], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tower", ["pictures", "texts"])
def test_nan_from_clip_is_an_error_in_every_mode(own, scene, vocabulary, recipe, mode, tower):
    """NaN in either of CLIP's towers, in every vocabulary mode -> an error, and no names"""
    model = own.clip.model
    spoiled(model.visual.proj if tower == "pictures" else model.text_projection)
    with pytest.raises(NotFinite, match="CLIP makes of .* numbers that are not finite: load the models with"):
        segment(scene.image, own, recipe.with_changes({"vocabulary": mode}), vocabulary, present=[1, 2])


def test_nan_from_clips_patches_is_an_error(own, scene, vocabulary):
    """NaN in CLIP's patches -> an error"""
    spoiled(own.clip.model.visual.proj)
    with pytest.raises(NotFinite, match="CLIP makes of a picture's patches"):
        segment(scene.image, own, PAPER.with_changes({"view": "dense"}), vocabulary)


def test_nan_from_clip_takes_no_free_name_for_a_class(own, vocabulary):
    """NaN where a free name is compared with classes -> an error, and no class"""
    spoiled(own.clip.model.text_projection)
    with pytest.raises(NotFinite, match="CLIP makes of 'kitten'"):
        nearest_classes(["kitten"], vocabulary, own.clip)


def test_an_infinite_temperature_is_an_error(own):
    """an infinite temperature of CLIP -> an error"""
    vectors = own.clip.encode_text(["cat", "dog"])
    own.clip.model.logit_scale.data.fill_(1000)  # e to that power is infinite
    with pytest.raises(NotFinite, match="similarities to names are not finite"):
        score_vectors(vectors, ["cat", "dog"], own.clip)


@pytest.mark.parametrize("mode", ["closed", "given", "oracle"])
def test_nan_from_the_text_encoder_is_an_error_in_every_mode_that_asks_it(own, scene, vocabulary, mode):
    """NaN in the text encoder, in every mode that asks it -> an error, and no candidates"""
    own.diffusion._encoded.clear()
    perceived = own.diffusion.condition("", 1)  # what conditions the UNet is encoded before
    spoiled(own.diffusion.text_encoders[0].final_layer_norm.weight)
    assert torch.isfinite(perceived["encoder_hidden_states"]).all()
    with pytest.raises(NotFinite, match="the text encoder makes of '.*' numbers that are not finite"):
        segment(scene.image, own, PAPER.with_changes({"vocabulary": mode}), vocabulary, present=[1, 2])


def test_nan_of_what_conditions_the_unet_is_an_error(own, scene):
    """NaN in what conditions the UNet -> an error"""
    spoiled(own.diffusion.text_encoders[0].final_layer_norm.weight)
    with pytest.raises(NotFinite, match="the text encoder makes of ''"):
        segment(scene.image, own, PAPER.with_changes({"vocabulary": "open"}))


def test_text_vectors_that_do_not_vary_are_an_error_and_not_an_empty_list_of_candidates(own, scene, vocabulary):
    """text vectors that are all alike -> an error, and no empty list of candidates"""
    norm = own.diffusion.text_encoders[0].final_layer_norm
    norm.weight.data.zero_(), norm.bias.data.zero_()
    with pytest.raises(NotFinite, match="words cannot be compared with classes"):
        segment(scene.image, own, PAPER, vocabulary)


def test_nan_from_the_captioner_is_an_error_and_no_caption(own, scene):
    """NaN in the captioner -> an error, and no caption"""
    spoiled(own.captioner.model.vision_model.post_layernorm.weight)
    with pytest.raises(NotFinite, match="the captioner gives numbers that are not finite"):
        caption([scene.image], own.captioner)


def test_in_a_run_nan_is_the_pictures_error_with_its_reason_and_no_label_map(own, tmp_path):
    """NaN within an evaluation -> that picture failed with its reason, no label map"""
    dataset = open_dataset("scenes", write_scenes(tmp_path / "scenes", val=2))
    spoiled(own.clip.model.visual.proj)
    with pytest.raises(EvaluationFailed, match="2 of 2 images failed.*NotFinite: CLIP makes of a picture numbers"):
        evaluate(dataset, FreeSegDiff(own, PAPER), tmp_path / "run", batch_size=2)
    assert not list((tmp_path / "run").glob("labels/*"))


# ------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_json_has_a_number_that_it_does_not_know(value, own, scene, tmp_path):
    """NaN or infinity among results -> refused where JSON is written"""
    assert rounded(value) is None
    labels = np.zeros((4, 4), np.uint8)
    for given in (dict(details={"score": value}), dict(mapping={"kitten": ("cat", value)})):
        with pytest.raises(ValueError, match="not JSON compliant"):
            Prediction(labels, labels, **given)
    result = segment(scene.image, own, PAPER)
    result.scores[0, 0] = value
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.save(tmp_path / "one")


class Unfinished:
    """A method whose configuration has a number that JSON has not."""

    def __init__(self, number):
        self.number = number

    def configuration(self):
        return dict(method="own", threshold=self.number)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_configuration_with_a_number_that_is_none_is_refused(number, dataset, tmp_path):
    """NaN or infinity in a method's configuration -> refused before anything is written"""
    with pytest.raises(ValueError, match="threshold is (nan|inf): a configuration holds finite numbers alone"):
        evaluate(dataset, Unfinished(number), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_file_of_a_run_has_a_word_that_json_has_not(dataset, method, tmp_path):
    """a class that no image has, no caption to compare with -> null in every JSON, where Python would write NaN"""
    run = evaluate(dataset, method, tmp_path / "run")
    texts = [path.read_text() for path in run.folder.rglob("*.json")]
    assert len(texts) > 6 and "null" in (run.folder / "summary.json").read_text()

    def refuse(word):
        raise AssertionError(word)

    for text in texts:
        json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("seconds", ["1", None, True, [1.0]])
def test_seconds_that_are_no_number_cost_the_image_alone(seconds, dataset, method, tmp_path):
    """a method that says its seconds in words -> that image has failed and says why"""

    class Spoken(type(method)):
        def segment(self, images, *arguments):
            return [replace(one, seconds=dict(look=seconds)) for one in super().segment(images, *arguments)]

    run = evaluate(dataset, Spoken(), tmp_path / "run", tolerated_failures=1)
    assert set(run.summary["failed"].values()) == {f"ValueError: the seconds of 'look' are {seconds!r}: give a number"}


def test_details_cannot_take_the_place_of_what_a_row_says_of_itself(dataset, method, tmp_path):
    """a method whose details are called id, run and files -> the row's own stand, and the run finishes"""

    class Posing(type(method)):
        def segment(self, images, *arguments):
            details = dict(id="p0", run="another", files="none", more=1)
            return [replace(one, details=details) for one in super().segment(images, *arguments)]

    run = evaluate(dataset, Posing(), tmp_path / "run")
    row = json.loads((run.folder / "images/p3.json").read_text())
    assert run.finished and row["id"] == "p3" and row["run"] == run.summary["hash"] and row["more"] == 1
