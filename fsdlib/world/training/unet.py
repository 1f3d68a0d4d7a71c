"""The text-conditioned UNet: its long training in the background, how that is watched, what is written at the end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from fsdlib.models import Diffusion, quiet
from fsdlib.project import CLASSES, MINI, TRAINING, write_atomically
from fsdlib.vocabulary import Vocabulary
from fsdlib.words import spoken_classes
from fsdlib.world.probes import feature_scores_at
from fsdlib.world.scenes import Scene, scene_of_split
from fsdlib.world.training.autoencoder import kept_latents
from fsdlib.world.training.data import training_close_ups, training_scenes
from fsdlib.world.training.loop import ConstantThenFall, fit, load_average, noise
from fsdlib.world.training.manifest import renew_manifest
from fsdlib.world.training.settings import Settings

PEAK_RATE, AVERAGE_DECAY = 8e-4, 0.9995
LATENT_DEVIATION = 0.1  # the noise that the decoder was trained against
DROPPED = 0.2  # the share of captions left out
FEATURES_AT, LOSSES_AT = (100, 300), (300, 500, 800)  # timesteps at which the run is measured


@dataclass(frozen=True)
class CaptionedLatents:
    """What the UNet learns from, which holds no labels.

    latents: (N, 4, S / 4, S / 4) float32, the autoencoder's posterior means; captions: four sentences each.
    """

    latents: torch.Tensor
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, part: slice) -> "CaptionedLatents":
        return CaptionedLatents(self.latents[part], self.captions[part])


@dataclass(frozen=True)
class Denoising:
    """The UNet with what its loss needs: the text encoder, the noise schedule, the autoencoder's scaling factor."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: PNDMScheduler
    scaling_factor: float

    def loss(
        self, clean: torch.Tensor, added: torch.Tensor, timesteps: torch.Tensor, captions: Sequence[str]
    ) -> torch.Tensor:
        """The squared error of the velocity that the UNet predicts (Salimans and Ho, arXiv 2202.00512, appendix D).

        clean: (N, 4, h, w), unscaled latents; added: noise of the same shape; timesteps: (N,) int64.
        """
        device = self.unet.device
        kept = self.scheduler.alphas_cumprod[timesteps][:, None, None, None].to(device)
        clean, added = clean.to(device) * self.scaling_factor, added.to(device)
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * added
        velocity = kept.sqrt() * added - (1 - kept).sqrt() * clean
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return F.mse_loss(self.unet(noisy, timesteps.to(device), self._states(captions)).sample, velocity)

    @torch.no_grad()
    def _states(self, captions: Sequence[str]) -> torch.Tensor:
        ids = self.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state


def train_unet(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the UNet on the latents and captions of scenes and close-ups (see `fit_unet`) and write it to `out`."""
    history = fit_unet(settings, folder, out)
    write_unet(settings, folder, out)
    return history


def fit_unet(
    settings: Settings, folder: Path = TRAINING, models: Path = MINI, landed: Path | None = None
) -> list[dict]:
    """Train the UNet to predict the velocity on latents, given a caption, and keep it in `folder`; resumes.

    Autoencoder, text encoder and tokenizer come from `models`, which is only read. A caption is one of three, or the
    list of the classes that they speak of; one time in five it is left out. With it the timesteps lean a little to the
    noisy end, where a caption says most; without it to the clean end, where features are read under no caption. The
    rate stays constant until the last steps, so that the end can be chosen while the run goes on (see `Settings`). Without a
    checkpoint the run begins with the weights in `landed`, where that is.
    """
    root = Path(models) / "stable-diffusion"
    with quiet():
        autoencoder = AutoencoderKL.from_pretrained(root / "vae", torch_dtype=torch.float32).to(settings.device)
        text_encoder = CLIPTextModel.from_pretrained(root / "text_encoder", dtype=torch.float32).to(settings.device)
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    data = captioned_latents(autoencoder, settings, folder)
    torch.manual_seed(settings.seed)
    # batches lie channels-last in memory, which makes a step faster
    unet = untrained_unet(settings).train().to(settings.device, memory_format=torch.channels_last)
    denoising = Denoising(unet, text_encoder, tokenizer, noise_schedule(), autoencoder.config.scaling_factor)

    def loss(data: CaptionedLatents, random: np.random.Generator) -> torch.Tensor:
        chosen = random.choice(len(data), settings.unet_batch, replace=False)
        dropped = random.random(len(chosen)) < DROPPED
        times = np.where(dropped, random.beta(1.5, 3, len(chosen)), random.beta(1.5, 1.2, len(chosen)))
        said = [data.captions[i][random.integers(4)] for i in chosen]
        captions = ["" if drop else sentence for drop, sentence in zip(dropped, said)]
        clean = data.latents[torch.from_numpy(chosen)]
        clean = clean + LATENT_DEVIATION * noise(random, clean.shape, "cpu")
        added, timesteps = noise(random, clean.shape, "cpu"), torch.from_numpy((times * 1000).astype(np.int64))
        return denoising.loss(clean, added, timesteps, captions)

    probes = [scene_of_split("train", 10**6 + i, settings.seed) for i in range(settings.unet_probes)]
    diffusion = Diffusion(unet, autoencoder, [text_encoder], [tokenizer], denoising.scheduler)
    held_out = data[1][: settings.held_out]  # the whole scenes among them
    return fit(
        "unet",
        [unet],
        loss,
        data,
        settings,
        folder,
        ConstantThenFall(PEAK_RATE, settings.unet_warm_up, settings.unet_fall),
        AVERAGE_DECAY,
        settings.unet_every,
        lambda: features_found(diffusion, probes) | caption_losses(denoising, held_out),
        settings.unet_monitor_every,
        landed,
    )


def untrained_unet(settings: Settings) -> UNet2DConditionModel:
    """A UNet of three levels with random weights."""
    channels = (64, 128, 128)
    return UNet2DConditionModel(
        sample_size=settings.side // 4,
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        norm_num_groups=16,
    )


def noise_schedule() -> PNDMScheduler:
    """Stable Diffusion's, for a UNet that predicts velocity."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def captioned_latents(
    autoencoder: AutoencoderKL, settings: Settings, folder: Path
) -> tuple[CaptionedLatents, CaptionedLatents]:
    """Scenes and then their close-ups, to train on and held out; each one's last sentence lists its classes."""
    vocabulary = Vocabulary.read(CLASSES / "scenes.csv")

    def described(kinds: Sequence) -> CaptionedLatents:
        latents = [kept_latents(autoencoder, kind.images, settings.device, folder) for kind in kinds]
        captions = [[*three, class_list(three[0], vocabulary)] for kind in kinds for three in kind.captions]
        return CaptionedLatents(torch.cat(latents), captions)

    train, held_out = zip(training_scenes(settings, folder), training_close_ups(settings, folder))
    return described(train), described(held_out)


def class_list(caption: str, vocabulary: Vocabulary) -> str:
    """The names of the classes that a caption speaks of, in the vocabulary's order, with commas between."""
    return ", ".join(sorted(spoken_classes(caption, vocabulary), key=vocabulary.names.index))


# ------------------------------------------------------------------------------------------------- how it fares


def features_found(diffusion: Diffusion, scenes: Sequence[Scene]) -> dict[str, float]:
    """What the features are worth at several timesteps: features_T as they are, smooth_T as the mean of 3 x 3 cells.

    The scenes' labels are used here, to measure; the UNet never learns from them.
    """
    found: dict[str, float] = {}
    for timestep in FEATURES_AT:
        plain, smooth = feature_scores_at(diffusion, scenes, timestep)
        found |= {f"features_{timestep}": round(plain, 4), f"smooth_{timestep}": round(smooth, 4)}
    return found


@torch.no_grad()
def caption_losses(denoising: Denoising, data: CaptionedLatents, batch_size: int = 64) -> dict[str, float]:
    """The losses at several timesteps under a scene's own caption, another scene's and none: right_T, wrong_T, none_T.

    All three see the same noise.
    """
    captions = [sentences[0] for sentences in data.captions]
    found: dict[str, float] = {}
    told = dict(right=captions, wrong=captions[1:] + captions[:1], none=[""] * len(captions))
    for timestep in LOSSES_AT:
        added = noise(np.random.default_rng([7, timestep]), data.latents.shape, "cpu")
        for kind, sentences in told.items():
            values = []
            for start in range(0, len(data), batch_size):
                batch = slice(start, start + batch_size)
                timesteps = torch.full((len(sentences[batch]),), timestep)
                values.append(denoising.loss(data.latents[batch], added[batch], timesteps, sentences[batch]).item())
            found[f"{kind}_{timestep}"] = round(float(np.mean(values)), 5)
    return found


# -------------------------------------------------------------------------------------------- what is written


def write_unet(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> None:
    """Write the checkpoint's averaged weights, as float16, and the scheduler to `out`/stable-diffusion.

    Raises ValueError where there is no checkpoint or it is of another model.
    """
    checkpoint, root = Path(folder) / "unet.safetensors", Path(out) / "stable-diffusion"
    if not checkpoint.exists():
        raise ValueError(f"{folder} holds no unet.safetensors: train with `make train PART=unet` first")
    unet = untrained_unet(settings)
    load_average(checkpoint, [unet])
    with TemporaryDirectory() as whole:
        unet.half().save_pretrained(Path(whole) / "unet")
        noise_schedule().save_pretrained(Path(whole) / "scheduler")
        for path in sorted(Path(whole).rglob("*.*")):
            write_atomically(root / path.relative_to(whole), path.read_bytes())
    kinds = dict(
        unet=UNet2DConditionModel,
        vae=AutoencoderKL,
        text_encoder=CLIPTextModel,
        tokenizer=CLIPTokenizer,
        scheduler=PNDMScheduler,
    )
    library = {part: [kind.__module__.split(".")[0], kind.__name__] for part, kind in kinds.items()}
    write_atomically(
        root / "model_index.json", json.dumps({"_class_name": "StableDiffusionPipeline"} | library, indent=2)
    )


def export_unet(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> dict:
    """Exchange the UNet of the models in `out` for the checkpoint's in `folder`; returns the manifest that says so.

    Raises ValueError as `write_unet`, before anything is written.
    """
    write_unet(settings, folder, out)
    return renew_manifest("unet", "stable-diffusion/unet", settings, folder, out)
