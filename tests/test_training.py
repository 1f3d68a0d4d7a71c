import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch

from fsdlib import models
from fsdlib.models import load_backbone, load_models
from fsdlib.world.scenes import VOID, world_classes
from fsdlib.world.training import (
    PARTS,
    TRAINERS,
    Settings,
    augmented,
    export_selfsupervised,
    fit_selfsupervised,
    loop,
    selfsupervised,
    training_close_ups,
    training_scenes,
    write_manifest,
)
from fsdlib.world.training.clip import CLIP_CONFIG, _named_region, _open_clip_vision
from fsdlib.world.training.data import MEAN, signed
from fsdlib.world.training.selfsupervised import untrained_autoencoder
from fsdlib.world.training.tokenizers import PROMPT, world_words, write_captioner_tokenizer, write_clip_tokenizer
from fsdlib.world.training.vision import _window, captioner_to_train, patch_loss, patch_states, seeing_captioner

SETTINGS = Settings.tiny(
    scenes=48,
    close_ups=40,
    held_out=16,
    clip_steps=24,
    vision_steps=16,
    captioner_steps=16,
    autoencoder_steps=24,
    unet_steps=8,
    selfsupervised_steps=16,
    selfsupervised_scenes=40,
    clip_batch=8,
    vision_batch=16,
    captioner_batch=4,
    autoencoder_batch=4,
    unet_batch=4,
    selfsupervised_batch=4,
    validate_every=4,
    checkpoint_every=4,
    unet_warm_up=2,
    unet_every=4,
    unet_monitor_every=8,
    unet_probes=1,
)

pytestmark = pytest.mark.slow  # trains all six parts


class Stopped(BaseException):
    """As a key pressed or a machine switched off: nothing in the training catches it."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All parts trained for a few steps: (working folder, the models' folder, histories)."""
    folder, out = tmp_path_factory.mktemp("training"), tmp_path_factory.mktemp("mini")
    histories = {
        part: TRAINERS[part](SETTINGS, folder, out)
        for part in ("vision", "clip", "autoencoder", "unet", "captioner", "selfsupervised")
    }
    return folder, out, histories


def weights_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


# --------------------------------------------------------------------------------------------------------- scenes


def test_no_scene_to_train_on_is_in_the_val_split(trained, scenes):
    from PIL import Image

    some, others = training_scenes(SETTINGS, trained[0])
    shrunk = {
        np.asarray(Image.fromarray(scene.image).resize((64, 64), Image.Resampling.BICUBIC)).tobytes()
        for scene in scenes
    }
    drawn = [image.tobytes() for image in (*some.images, *others.images)]
    assert len(some) == 48 and len(others) == 16 and len(set(drawn)) == 64 and not shrunk & set(drawn)


def test_scenes_are_drawn_once_and_kept(trained):
    kept = next(trained[0].glob("scenes-*-64-64.safetensors"))
    before = kept.stat().st_mtime_ns
    some, _ = training_scenes(SETTINGS, trained[0])
    assert (
        kept.stat().st_mtime_ns == before
        and some.images.shape == (48, 64, 64, 3)
        and {len(c) for c in some.captions} == {3}
    )


def test_scenes_of_one_style_are_kept_apart_from_those_of_both(tmp_path):
    one = training_scenes(Settings.tiny(scenes=2, held_out=1, styles=("twemoji",)), tmp_path)[0]
    both = training_scenes(Settings.tiny(scenes=2, held_out=1), tmp_path)[0]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and not np.array_equal(one.images, both.images)


def test_close_ups_are_of_the_first_scenes_and_of_those_held_out(trained):
    some, others = training_close_ups(SETTINGS, trained[0])
    scenes, held_out = training_scenes(SETTINGS, trained[0])
    assert len(some) == 40 and len(others) == 16 and some.images.shape[1:] == (64, 64, 3)
    for close, whole in zip((*some.labels, *others.labels), (*scenes.labels[:40], *held_out.labels)):
        assert set(np.unique(close)) <= set(np.unique(whole)) | {VOID, 0}


def test_augmented_scenes_differ_in_colour_and_keep_their_labels_but_where_something_hides_them(trained):
    scenes, _ = training_scenes(SETTINGS, trained[0])
    images, labels = augmented(scenes.images, scenes.labels, np.random.default_rng(3))
    again, _ = augmented(scenes.images, scenes.labels, np.random.default_rng(3))
    assert (
        np.array_equal(images, again)
        and images.dtype == labels.dtype == np.uint8
        and images.shape == scenes.images.shape
    )
    hidden = labels != scenes.labels
    assert (labels[hidden] == VOID).all() and 0.1 < hidden.any((1, 2)).mean() < 0.5
    for i in np.flatnonzero(hidden.any((1, 2))):  # what hides a part is one colour
        rows, columns = np.flatnonzero((hidden[i]).any(1)), np.flatnonzero(hidden[i].any(0))
        assert np.ptp(images[i, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3), axis=0).max() == 0
    assert (np.abs(images.astype(int) - scenes.images).mean((1, 2, 3)) > 3).all()


# ----------------------------------------------------------------------------------------------------- tokenizers


def test_tokenizers_have_the_same_bytes_whenever_they_are_written(tmp_path):
    for write in (write_clip_tokenizer, write_captioner_tokenizer):
        first, second = tmp_path / f"{write.__name__}-1", tmp_path / f"{write.__name__}-2"
        write(first), write(second)
        assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_every_word_of_the_world_is_one_token_for_both(mini):
    clip, captioner = mini.clip.tokenizer.tokenizer, mini.captioner.processor.tokenizer
    for word in world_words():
        assert len(clip.tokenize(word)) == 1
        assert captioner.unk_token_id not in captioner(word).input_ids and len(captioner.tokenize(word)) == 1


def test_captions_come_back_whole_from_the_captioners_tokenizer(mini, trained):
    tokenizer = mini.captioner.processor.tokenizer
    for captions in training_scenes(SETTINGS, trained[0])[0].captions:
        for caption in captions:
            assert tokenizer.decode(tokenizer(PROMPT + caption).input_ids, skip_special_tokens=True) == PROMPT + caption


# ----------------------------------------------------------------------------------------------------------- loop


def test_losses_are_finite_and_recorded_as_asked(trained):
    steps = dict(clip=24, autoencoder=24, unet=8, vision=16, captioner=16, selfsupervised=16)
    for part in PARTS:
        history = trained[2][part]
        assert [row["step"] for row in history] == list(range(4, steps[part] + 1, 4))
        assert all(np.isfinite([row["train"], row["validation"]]).all() for row in history)
        assert json.loads((trained[0] / f"{part}.json").read_text()) == history


@pytest.mark.parametrize("part", PARTS)
def test_every_part_learns(trained, part):
    history = trained[2][part]
    assert history[-1]["train"] < history[0]["train"] and history[-1]["validation"] < history[0]["validation"]


def test_a_run_that_was_stopped_and_resumed_ends_as_one_that_ran_through(trained, tmp_path, monkeypatch):
    folder, out, histories = trained
    shutil.copytree(out, tmp_path / "mini", ignore=shutil.ignore_patterns("unet"))
    (tmp_path / "training").mkdir()
    for kept in folder.glob("scenes-*"):
        (tmp_path / "training" / kept.name).symlink_to(kept)

    def stopping(steps):
        for step in steps:
            if step == 5:  # after the checkpoint of step 4, so that one step is lost
                raise Stopped
            yield step

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "tqdm", lambda steps, **_: stopping(steps) if isinstance(steps, range) else steps)
        TRAINERS["unet"](SETTINGS, tmp_path / "training", tmp_path / "mini")
    assert not (tmp_path / "mini" / "stable-diffusion" / "unet").exists()
    history = TRAINERS["unet"](SETTINGS, tmp_path / "training", tmp_path / "mini")

    for name, root in (
        ("unet.safetensors", "training"),
        ("stable-diffusion/unet/diffusion_pytorch_model.safetensors", "mini"),
    ):
        assert (tmp_path / root / name).read_bytes() == ((folder if root == "training" else out) / name).read_bytes()
    assert [row | dict(seconds=0) for row in history] == [row | dict(seconds=0) for row in histories["unet"]]


def test_a_finished_part_is_not_trained_again(trained, tmp_path):
    before = weights_in(trained[0])["captioner.safetensors"]
    history = TRAINERS["captioner"](SETTINGS, trained[0], tmp_path)
    assert history == trained[2]["captioner"] and weights_in(trained[0])["captioner.safetensors"] == before
    assert (tmp_path / "blip" / "model.safetensors").read_bytes() == (
        trained[1] / "blip" / "model.safetensors"
    ).read_bytes()


def test_clips_image_tower_starts_as_the_vision_encoder(trained, tmp_path):
    """open_clip's transformer with the converted weights holds the same hidden states as transformers' own."""
    model, _ = seeing_captioner(SETTINGS, trained[0], tmp_path)
    clip = open_clip.CLIP(
        **CLIP_CONFIG["model_cfg"] | dict(text_cfg=CLIP_CONFIG["model_cfg"]["text_cfg"] | dict(vocab_size=9))
    )
    missing = clip.visual.load_state_dict(_open_clip_vision(model.vision_model), strict=False)
    assert missing.missing_keys == ["proj"] and not missing.unexpected_keys
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model.vision_model.eval()(pixels).last_hidden_state[:, 1:]
        assert torch.allclose(clip.visual.eval()(pixels), states.mean(1) @ clip.visual.proj, atol=1e-5)
    assert states.std() > 0.1


def test_a_checkpoint_of_another_model_is_refused_and_kept(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "captioner.safetensors").read_bytes()
    (tmp_path / "unet.safetensors").write_bytes(before)
    shutil.copytree(trained[1], tmp_path / "mini")
    with pytest.raises(ValueError, match="unet.safetensors is of another version"):
        TRAINERS["unet"](SETTINGS, tmp_path, tmp_path / "mini")
    assert (tmp_path / "unet.safetensors").read_bytes() == before


def test_a_share_of_the_training_leaves_all_else_and_never_nothing():
    shorter = Settings().shorter(0.25)
    assert (
        shorter.clip_steps == 625
        and shorter.unet_steps == 6_000
        and shorter.scenes == 7500
        and shorter.clip_batch == Settings().clip_batch
    )
    with pytest.raises(ValueError, match="scenes"):
        Settings().shorter(0)


def test_settings_refuse_unknown_names_and_impossible_values():
    for wrong in (dict(unet_step=3), dict(unet_steps=0), dict(scenes="many")):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings.tiny(**wrong)


# --------------------------------------------------------------------------------------------- how the captioner sees


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    return captioner_to_train(SETTINGS, folder)[0].vision_model.eval()


@torch.no_grad()
def test_a_window_as_large_as_the_picture_gives_the_encoders_own_states(vision):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        patch_states(vision, pixels, np.zeros((2, 2), int)), vision(pixels).last_hidden_state[:, 1:], atol=1e-6
    )


@torch.no_grad()
def test_a_windows_patches_know_where_in_the_picture_they_lie(vision):
    pixels = torch.zeros(2, 3, 32, 32)
    states = patch_states(vision, pixels, np.array([[0, 0], [4, 3]]))
    assert states.shape == (2, 16, vision.config.hidden_size) and not torch.allclose(states[0], states[1], atol=1e-2)


@torch.no_grad()
def test_the_heads_of_the_first_layer_start_by_looking_at_the_nine_patches_around_each(vision):
    attention = vision.encoder.layers[0].self_attn
    found = []
    hook = attention.register_forward_hook(
        lambda _, inputs, kwargs, __: found.append(kwargs.get("hidden_states", inputs[0] if inputs else None)),
        with_kwargs=True,
    )
    vision(torch.zeros(1, 3, 64, 64))
    hook.remove()
    width, heads = vision.config.hidden_size, vision.config.num_attention_heads
    query, key = (part.unflatten(-1, (heads, -1)) for part in attention.qkv(found[0]).split(width, dim=-1)[:2])
    row, column = 3, 4
    scores = torch.einsum("hd,phd->hp", query[0, 1 + 8 * row + column], key[0, 1:])
    looked_at = [divmod(int(best), 8) for best in scores.argmax(dim=1)]
    assert looked_at == [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


def test_windows_lie_in_the_picture_and_hold_an_object(trained):
    scenes, _ = training_scenes(SETTINGS, trained[0])
    random = np.random.default_rng(0)
    for labels in scenes.labels:
        top, left = _window(labels, 32, random) * 8
        window = labels[top : top + 32, left : left + 32]
        assert window.shape == (32, 32) and ((window > 0) & (window < VOID)).any()


def test_a_patch_counts_as_what_most_of_it_shows_and_not_at_all_where_it_is_void():
    labels = np.zeros((1, 16, 16), np.uint8)
    labels[0, :8, 8:] = 3
    labels[0, 8:, :8] = VOID
    labels[0, :4, 8:12] = VOID
    logits = torch.zeros(1, 4, 45)
    logits[0, 0, 0] = logits[0, 1, 3] = logits[0, 3, 0] = 50.0  # right where it counts
    logits[0, 2, 7] = 50.0
    assert patch_loss(logits, labels).item() == pytest.approx(0, abs=1e-6)
    logits[0, 1] = 0
    assert patch_loss(logits, labels).item() == pytest.approx(np.log(45) * 1 / 1.4, abs=1e-5)  # weights 0.2, 1, 0.2


# ------------------------------------------------------------------------------- the backbone that was told nothing


@torch.no_grad()
def test_the_backbone_in_timms_layout_computes_what_the_encoder_does(trained):
    """The masked autoencoder of transformers with nothing hidden, beside timm's vision transformer as it was written."""
    folder, out, _ = trained
    model = untrained_autoencoder(SETTINGS).eval()
    loop.load_average(folder / "selfsupervised.safetensors", [model])
    model.vit.config.mask_ratio = 0.0
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    states = model.vit(pixels, noise=torch.arange(256.0).expand(2, -1)).last_hidden_state
    network = load_backbone(out / "mae")
    found = network.model.forward_features(pixels)
    assert torch.allclose(found, states, atol=2e-2) and states.std() > 0.5  # the file is in float16
    assert (network.side, network.interpolation) == (64, "bicubic") and np.allclose(network.mean, MEAN)


def test_patches_know_where_they_lie_before_anything_is_learned():
    model = untrained_autoencoder(SETTINGS)
    for positions in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        distance = torch.cdist(positions[0, 1:], positions[0, 1:]) + 1e9 * torch.eye(256)
        neighbours = distance.argmin(dim=1)
        rows, columns = (
            (torch.arange(256) // 16 - neighbours // 16).abs(),
            (torch.arange(256) % 16 - neighbours % 16).abs(),
        )
        assert not positions.requires_grad and ((rows + columns) == 1).all()


def test_the_backbone_sees_neither_labels_nor_captions_nor_close_ups(tmp_path, monkeypatch):
    """What it is given to learn from are pictures, and a folder without anything else is enough for it."""
    seen = []
    monkeypatch.setattr(selfsupervised, "fit", lambda *arguments: seen.append(arguments) or [])
    fit_selfsupervised(SETTINGS, tmp_path)
    part, _, loss, data, *_ = seen[0]
    assert part == "selfsupervised" and [kind.shape for kind in data] == [(40, 64, 64, 3), (16, 64, 64, 3)]
    assert not list(tmp_path.glob("close-ups-*"))
    one, again, other = (float(loss(data[0], np.random.default_rng(seed)).detach()) for seed in (3, 3, 4))
    assert one == again != other


def test_export_puts_the_backbone_and_its_lines_into_the_manifest_and_leaves_all_others(trained, tmp_path):
    folder, out, histories = trained
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    before = write_manifest(SETTINGS, folder, tmp_path, reached=dict(some=1))
    for left in ("selfsupervised_batch", "selfsupervised_steps", "selfsupervised_scenes"):
        del before["settings"][left]
    del before["history"]["selfsupervised"], before["files"]["mae/model.safetensors"]
    (tmp_path / "manifest.json").write_text(json.dumps(before))
    manifest = export_selfsupervised(SETTINGS, folder, tmp_path)
    assert manifest["history"] == before["history"] | dict(selfsupervised=histories["selfsupervised"])
    assert manifest["reached"] == dict(some=1) and manifest["settings"]["selfsupervised_steps"] == 16
    assert manifest["files"].keys() - before["files"].keys() == {"mae/model.safetensors"}
    with pytest.raises(ValueError, match="holds no selfsupervised.safetensors: train with `make train PART=selfs"):
        export_selfsupervised(SETTINGS, tmp_path / "nowhere", tmp_path)


# ----------------------------------------------------------------------------------------------- what is written


def test_what_training_writes_is_what_the_loaders_read(trained, monkeypatch, scene, vocabulary):
    from fsdlib.pipeline import segment
    from fsdlib.recipe import PAPER

    folder, out, _ = trained
    write_manifest(SETTINGS, folder, out)
    monkeypatch.setattr(models, "MINI", out)
    for table in (models.DIFFUSION, models.CAPTIONERS, models.CLIPS):
        monkeypatch.setitem(table, "mini", replace(table["mini"], folder=out / table["mini"].folder.name))
    loaded = load_models("mini", device="cpu")
    assert segment(scene.image, loaded, PAPER, vocabulary).labels.shape == scene.labels.shape
    texts = ["a cat next to a bus", "two dogs on a striped background"]
    tokens = loaded.clip.tokenizer(texts)
    with torch.no_grad():
        states = loaded.clip.model.transformer(
            loaded.clip.model.token_embedding(tokens) + loaded.clip.model.positional_embedding,
            attn_mask=loaded.clip.model.attn_mask,
        )
        states = loaded.clip.model.ln_final(states)
    assert np.allclose(loaded.diffusion.encode_text(texts), states.numpy(), atol=1e-4)


def test_the_manifest_says_what_the_weights_are_and_how_far_they_were_trained(trained):
    folder, out, histories = trained
    manifest = write_manifest(SETTINGS, folder, out)
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["files"] == {path: hashlib.sha256(content).hexdigest() for path, content in weights_in(out).items()}
    assert manifest["history"] == histories and manifest["settings"]["scenes"] == 48


def test_latents_of_the_trained_autoencoder_have_about_unit_size(trained):
    encoder = models.load_diffusion(trained[1] / "stable-diffusion").encoder
    images = training_scenes(SETTINGS, trained[0])[1].images
    with torch.no_grad():
        posterior = encoder.encode(signed(images, "cpu")).latent_dist
    assert (posterior.mean * encoder.config.scaling_factor).std().item() == pytest.approx(1, abs=0.02)
    assert posterior.std.numpy() == pytest.approx(0.1, abs=1e-3)  # the noise that the decoder was trained against


def test_the_regions_clip_learns_from_show_the_class_they_are_named(trained):
    scenes, _ = training_scenes(SETTINGS, trained[0])
    names = [c.index for c in world_classes()]
    random, seen = np.random.default_rng(0), set()
    for i in random.integers(len(scenes), size=60):
        picture, target = _named_region(scenes.images[i], scenes.labels[i], scenes.patterns[i], random)
        assert picture.shape == (64, 64, 3) and picture.any()
        seen.add("class" if target < len(names) else "pattern")
        assert target < len(names) + 4
        if target < len(names):
            assert (scenes.labels[i] == target + 1).any()
    assert seen == {"class", "pattern"}
