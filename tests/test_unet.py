"""The UNet's long run: its rate, what it learns from, how it is watched, and how its weights come among the mini models."""

import hashlib
import json
import math
import runpy
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from fsdlib import models
from fsdlib.models import load_diffusion, load_models
from fsdlib.project import MINI
from fsdlib.world.reached import samples
from fsdlib.world.training import Settings, export_unet, fit_unet, status, training_close_ups, training_scenes
from fsdlib.world.training.loop import ConstantThenFall, Cosine, as_line, land, load_average, load_landed
from fsdlib.world.training.status import caption_gap
from fsdlib.world.training.unet import (
    Denoising,
    caption_losses,
    captioned_latents,
    class_list,
    noise_schedule,
    untrained_unet,
)

pytestmark = pytest.mark.slow  # trains a UNet

SETTINGS = Settings.tiny(
    scenes=24,
    close_ups=16,
    held_out=8,
    unet_steps=6,
    unet_batch=4,
    unet_warm_up=2,
    unet_every=2,
    unet_monitor_every=4,
    unet_probes=1,
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run of a few steps on the mini models' autoencoder and text encoder: (its folder, its history)."""
    folder = tmp_path_factory.mktemp("unet")
    return folder, fit_unet(SETTINGS, folder)


@pytest.fixture(scope="module")
def denoising(ran):
    """The UNet with the averaged weights of that run."""
    unet, root = untrained_unet(SETTINGS), MINI / "stable-diffusion"
    load_average(ran[0] / "unet.safetensors", [unet])
    autoencoder = AutoencoderKL.from_pretrained(root / "vae", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(root / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    return Denoising(unet.eval(), text_encoder, tokenizer, noise_schedule(), autoencoder.config.scaling_factor)


def kept_in(folder, ran):
    """A new working folder that has the scenes and latents of the run."""
    folder.mkdir()
    for pattern in ("scenes-*", "close-ups-*", "latents-*"):
        for path in ran[0].glob(pattern):
            (folder / path.name).symlink_to(path)
    return folder


# ------------------------------------------------------------------------------------------------ landed weights


def test_a_run_that_lost_its_checkpoint_goes_on_from_the_landed_weights(ran, tmp_path):
    landed, folder = tmp_path / "landed" / "unet.safetensors", kept_in(tmp_path / "work", ran)
    land(ran[0] / "unet.safetensors", landed)
    of_checkpoint, of_landed = untrained_unet(SETTINGS), untrained_unet(SETTINGS)
    load_average(ran[0] / "unet.safetensors", [of_checkpoint])
    assert load_landed(landed, [of_landed]) == 6
    for a, b in zip(of_checkpoint.parameters(), of_landed.parameters()):
        step = a.abs().flatten(1).amax(1) / 127 if a.ndim > 1 else torch.zeros(len(a))
        assert ((a - b).abs().flatten(1).amax(1) if a.ndim > 1 else (a - b).abs()).le(step / 2 + 1e-7).all()
    assert landed.stat().st_size < 0.3 * sum(4 * p.numel() for p in of_checkpoint.parameters())
    history = fit_unet(SETTINGS.model_copy(update=dict(unet_steps=8)), folder, landed=landed)
    assert [row["step"] for row in history] == [2, 4, 6, 8] and history[:3] == ran[1]
    tensors = load_file(folder / "unet.safetensors")
    assert (int(tensors["step"]), int(tensors["forgot"])) == (8, 6)


def test_landed_weights_of_another_model_are_refused(ran, tmp_path):
    land(ran[0] / "unet.safetensors", tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match="another version of the model"):
        load_landed(tmp_path / "unet.safetensors", [torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="train first"):
        land(tmp_path / "none.safetensors", tmp_path / "other.safetensors")


# ------------------------------------------------------------------------------------------------------- the rate


def test_the_rate_warms_up_stays_and_falls_in_the_last_tenth():
    rate = ConstantThenFall(peak=8.0, warm_up=4, fall=0.1)
    assert [rate(step, 1000) for step in (0, 1, 3, 4, 500, 900)] == [2, 4, 8, 8, 8, 8]
    assert [rate(step, 1000) for step in (925, 950, 990, 999)] == pytest.approx([6, 4, 0.8, 0.08])


@pytest.mark.parametrize("done", [1, 9, 1000, 33_400, 53_999])
def test_a_run_that_is_to_end_sooner_has_had_the_same_rates_so_far(done):
    rate = ConstantThenFall(8e-4, 200, 0.1)
    sooner = math.ceil(done / 0.9)
    assert all(rate(step, sooner) == rate(step, 60_000) for step in range(max(0, done - 500), done))


def test_the_rate_of_the_other_parts_is_a_cosine_after_a_twentieth():
    rate = Cosine(peak=1.0)
    assert rate(0, 40) == 0.5 and rate(20, 40) == pytest.approx(0.5) and rate(39, 40) == 0.01
    assert rate(1, 40) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 40))


# ------------------------------------------------------------------------------------------- what it learns from


@pytest.mark.parametrize(
    ("caption", "listed"),
    [
        ("two dogs and a cat on a striped background", "cat, dog"),
        ("a couch behind three people", "person, sofa"),
        ("a plain background", ""),
    ],
)
def test_the_list_holds_the_classes_that_the_caption_speaks_of_in_the_worlds_order(vocabulary, caption, listed):
    assert class_list(caption, vocabulary) == listed


def test_scenes_come_before_close_ups_with_four_sentences_each(ran, vocabulary):
    autoencoder = AutoencoderKL.from_pretrained(MINI / "stable-diffusion" / "vae", torch_dtype=torch.float32)
    scenes, close_ups = training_scenes(SETTINGS, ran[0]), training_close_ups(SETTINGS, ran[0])
    for part, *kinds in zip(captioned_latents(autoencoder, SETTINGS, ran[0]), scenes, close_ups):
        captions = [captions for kind in kinds for captions in kind.captions]
        assert part.latents.shape == (len(captions), 4, 16, 16) and part.latents.dtype == torch.float32
        assert [sentences[:3] for sentences in part.captions] == captions
        assert all(sentences[3] == class_list(sentences[0], vocabulary) != "" for sentences in part.captions)


def test_the_velocity_of_a_perfect_guess_is_no_error(denoising):
    """A UNet that answers with the velocity of known noise has no loss; one that answers with the noise has some."""
    clean, added = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([100, 800])
    kept = denoising.scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1)

    class Answering(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, noisy, *_):
            assert torch.allclose(noisy, kept.sqrt() * scaled + (1 - kept).sqrt() * added)
            return type("Output", (), dict(sample=self.answer))

    scaled = clean * denoising.scaling_factor
    velocity = kept.sqrt() * added - (1 - kept).sqrt() * scaled
    for answer, right in ((velocity, True), (added, False)):
        loss = replace(denoising, unet=Answering(answer)).loss(clean, added, timesteps, ["a cat", ""])
        assert (loss.item() == 0) == right


# ------------------------------------------------------------------------------------------------ how it is watched


def test_the_rows_of_every_so_many_steps_and_the_last_are_measured(ran):
    measured = {f"{kind}_{t}" for kind in ("features", "smooth") for t in (100, 300)}
    measured |= {f"{kind}_{t}" for kind in ("right", "wrong", "none") for t in (300, 500, 800)}
    assert [row["step"] for row in ran[1]] == [2, 4, 6]
    assert [measured <= row.keys() for row in ran[1]] == [False, True, True]
    assert all(np.isfinite(list(row.values())).all() for row in ran[1])


def test_what_is_measured_is_measured_with_the_averaged_weights(ran, denoising):
    autoencoder = AutoencoderKL.from_pretrained(MINI / "stable-diffusion" / "vae", torch_dtype=torch.float32)
    held_out = captioned_latents(autoencoder, SETTINGS, ran[0])[1][:8]
    found = caption_losses(denoising, held_out)
    assert found == pytest.approx({name: ran[1][-1][name] for name in found}, abs=2e-5)
    tensors = load_file(ran[0] / "unet.safetensors")
    assert not torch.equal(tensors["parameter.0"], tensors["average.0"])


def test_a_run_that_is_stopped_ended_later_and_not_measured_learns_the_same_bit_by_bit(ran, tmp_path):
    folder = kept_in(tmp_path / "again", ran)
    unmeasured = SETTINGS.model_copy(update=dict(unet_monitor_every=100))
    fit_unet(unmeasured.model_copy(update=dict(unet_steps=4)), folder)  # its fall would begin after step 4
    fit_unet(unmeasured, folder)
    first, second = load_file(ran[0] / "unet.safetensors"), load_file(folder / "unet.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_status_says_where_the_run_stands_and_draws_its_curves(ran):
    text = status(SETTINGS, ran[0])
    assert "step 6 of 6, 24 pictures seen, 0.0 hours" in text and as_line(ran[1][-1]) in text.splitlines()
    assert (ran[0] / "unet.png").read_bytes().startswith(b"\x89PNG")


def test_status_shows_the_newest_measures_where_the_newest_row_has_none(ran, tmp_path):
    folder = tmp_path / "status"
    folder.mkdir()
    shutil.copy(ran[0] / "unet.safetensors", folder)
    newest = dict(step=8, train=0.5, validation=0.25, seconds=7200)
    (folder / "unet.json").write_text(json.dumps([*ran[1], newest]))
    lines = status(SETTINGS, folder).splitlines()
    assert "2.0 hours" in lines[0] and lines[1:3] == [as_line(newest), as_line(ran[1][-1])]


def test_the_caption_gap_is_the_rise_of_the_loss_in_percent():
    assert caption_gap(dict(right_500=0.2, wrong_500=0.25), 500) == pytest.approx(25)


def test_a_run_that_never_began_has_neither_status_nor_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training", "--status", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: .* holds no unet.safetensors: begin .* `make train PART=unet`"):
        runpy.run_module("fsdlib.world.training", run_name="__main__")
    with pytest.raises(ValueError, match=r"holds no unet\.safetensors"):
        export_unet(SETTINGS, tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------- what is written


def test_export_exchanges_the_unet_and_its_lines_in_the_manifest_alone(ran, tmp_path, monkeypatch, denoising):
    out = tmp_path / "mini"
    shutil.copytree(MINI, out)
    before = json.loads((out / "manifest.json").read_text())
    manifest = export_unet(SETTINGS, ran[0], out)
    weights = "stable-diffusion/unet/diffusion_pytorch_model.safetensors"

    assert manifest == json.loads((out / "manifest.json").read_text())
    assert {name for name in before["files"] if manifest["files"][name] != before["files"][name]} == {weights}
    assert manifest["files"][weights] == hashlib.sha256((out / weights).read_bytes()).hexdigest()
    assert manifest["history"] == before["history"] | dict(unet=ran[1]) and manifest["reached"] is None
    assert manifest["settings"]["unet_steps"] == 6 and manifest["settings"]["scenes"] == before["settings"]["scenes"]
    changed = {
        path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.read_bytes() != mini_bytes(path, out)
    }
    assert changed == {"manifest.json", weights}  # the shipped UNet has the same shape and scheduler

    for name, value in denoising.unet.half().state_dict().items():
        assert torch.equal(load_file(out / weights)[name], value)
    denoising.unet.float()
    diffusion = load_diffusion(out / "stable-diffusion")
    assert diffusion.scheduler.config.prediction_type == "v_prediction" and diffusion.side == 64
    assert samples(["a cat on a plain background"], out / "stable-diffusion", steps=2).shape == (1, 64, 64, 3)
    monkeypatch.setattr(models, "MINI", out)
    for table in (models.DIFFUSION, models.CAPTIONERS, models.CLIPS):
        monkeypatch.setitem(table, "mini", replace(table["mini"], folder=out / table["mini"].folder.name))
    assert load_models("mini", device="cpu").diffusion.unet.config.block_out_channels == [64, 128, 128]


def mini_bytes(path, out):
    return (MINI / path.relative_to(out)).read_bytes()
