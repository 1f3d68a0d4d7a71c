"""The diffusion model's autoencoder, and the latents that it makes of the scenes."""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save
from tqdm import tqdm

from fsdlib.project import MINI, TRAINING, write_atomically
from fsdlib.world.training.data import read_tensors, signed, training_scenes
from fsdlib.world.training.loop import fit, noise
from fsdlib.world.training.settings import Settings


def train_autoencoder(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the autoencoder: the squared error of the decoded posterior mean with a little noise on it.

    Sampling a learned posterior from the first step left it unlearned; so the posterior's deviation is fixed to the
    noise it was trained with (0.1), and the latents are held near unit size by a small penalty. Crops of half the side
    show four times as many scenes for the same work. One normalisation group, since each group forgets its mean and its
    deviation: with 8 groups of so few channels colours came through far later.
    """
    torch.manual_seed(settings.seed)
    blocks = 3
    model = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=settings.side,
    ).to(settings.device)

    def loss(images: np.ndarray, random: np.random.Generator) -> torch.Tensor:
        chosen, size = random.choice(len(images), settings.autoencoder_batch, replace=False), settings.side // 2
        corners = random.integers(0, settings.side - size + 1, (len(chosen), 2))
        cut = [images[i, top : top + size, left : left + size] for i, (top, left) in zip(chosen, corners)]
        crops = signed(np.stack(cut), settings.device)
        mean = model.encode(crops).latent_dist.mean
        decoded = model.decode(mean + 0.1 * noise(random, mean.shape, settings.device)).sample
        return F.mse_loss(decoded, crops) + 1e-3 * mean.square().mean()

    train, held_out = training_scenes(settings, folder)
    history = fit("autoencoder", [model], loss, (train.images, held_out.images), settings, folder)
    with torch.no_grad():
        model.quant_conv.weight[4:] = 0
        model.quant_conv.bias[4:] = 2 * np.log(0.1)
        deviation = model.encode(signed(held_out.images[:128], settings.device)).latent_dist.mean.std()
    model.register_to_config(scaling_factor=round(1 / float(deviation), 5))
    model.half().save_pretrained(Path(out) / "stable-diffusion" / "vae")
    return history


def kept_latents(autoencoder: AutoencoderKL, images: np.ndarray, device: str, folder: Path) -> torch.Tensor:
    """What `encoded` gives, computed once for an autoencoder and a set of images, and kept in `folder`."""
    identity = hashlib.sha256(images.tobytes())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        identity.update(name.encode() + tensor.cpu().numpy().tobytes())
    path = Path(folder) / f"latents-{identity.hexdigest()[:16]}.safetensors"
    if not path.exists():
        write_atomically(path, save({"latents": encoded(autoencoder, images, device).contiguous()}))
    return read_tensors(path)["latents"]


@torch.no_grad()
def encoded(autoencoder: AutoencoderKL, images: np.ndarray, device: str) -> torch.Tensor:
    """The posterior means of (N, S, S, 3) uint8 images, unscaled: (N, 4, S / 4, S / 4) float32 on the CPU."""
    batches = (
        autoencoder.encode(signed(images[i : i + 64], device)).latent_dist.mean.cpu() for i in range(0, len(images), 64)
    )
    return torch.cat(list(tqdm(batches, total=-(-len(images) // 64), desc="latents")))
