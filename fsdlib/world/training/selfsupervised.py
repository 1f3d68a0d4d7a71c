"""A backbone that was told nothing: a vision transformer that learns to fill in what is hidden of scenes."""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from fsdlib.project import MINI, TRAINING, write_atomically
from fsdlib.world.training.data import normalised, training_scenes
from fsdlib.world.training.loop import ConstantThenFall, fit, load_average, noise
from fsdlib.world.training.manifest import renew_manifest
from fsdlib.world.training.settings import Settings

PATCH, WIDTH, LAYERS, HEADS = 4, 128, 6, 4
DECODER_WIDTH, DECODER_LAYERS, DECODER_HEADS = 64, 1, 4
HIDDEN = 0.75  # the share of a picture's patches that are hidden
PEAK_RATE, WARM_UP, FALL = (
    1.5e-3,
    50,
    0.3,
)  # the rate stays until the last steps, so that a run may be ended at any time


def train_selfsupervised(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the backbone (see `fit_selfsupervised`) and write it to `out`/mae."""
    history = fit_selfsupervised(settings, folder)
    write_selfsupervised(settings, folder, out)
    return history


def fit_selfsupervised(settings: Settings, folder: Path = TRAINING) -> list[dict]:
    """Train a masked autoencoder (He et al., arXiv 2111.06377) on scenes and keep it in `folder`; resumes.

    Of the scenes it sees the pictures alone, mirrored half of the time: no label, no caption, and no close-up, since those
    are windows around objects, which labels found. Three of four patches are hidden, and the loss is the squared error of
    their pixels, each patch's scaled to mean 0 and deviation 1.
    """
    model = untrained_autoencoder(settings).train()

    def loss(images: np.ndarray, random: np.random.Generator) -> torch.Tensor:
        chosen = random.choice(len(images), settings.selfsupervised_batch, replace=False)
        mirrored = random.random(len(chosen)) < 0.5
        batch = np.where(mirrored[:, None, None, None], images[chosen][:, :, ::-1], images[chosen])
        order = noise(random, (len(chosen), (settings.side // PATCH) ** 2), settings.device)
        return model(pixel_values=normalised(batch, settings.device), noise=order).loss

    train, held_out = training_scenes(settings.model_copy(update=dict(scenes=settings.selfsupervised_scenes)), folder)
    rate = ConstantThenFall(PEAK_RATE, WARM_UP, FALL)
    return fit("selfsupervised", [model], loss, (train.images, held_out.images), settings, folder, rate)


def untrained_autoencoder(settings: Settings) -> ViTMAEForPreTraining:
    """The masked autoencoder with random weights, and sines and cosines for positions, which are not learned."""
    torch.manual_seed(settings.seed)
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=settings.side,
            patch_size=PATCH,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            decoder_hidden_size=DECODER_WIDTH,
            decoder_intermediate_size=4 * DECODER_WIDTH,
            decoder_num_hidden_layers=DECODER_LAYERS,
            decoder_num_attention_heads=DECODER_HEADS,
            mask_ratio=HIDDEN,
            norm_pix_loss=True,
            layer_norm_eps=1e-6,
        )
    )
    # transformers 5 leaves both at zero in a model that is not read from a file, and patches would not know where they lie
    for positions in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        positions.data[0, 1:] = torch.from_numpy(position_code(settings.side // PATCH, positions.shape[-1]))
    return model.to(settings.device)


def position_code(side: int, channels: int) -> np.ndarray:
    """Where each cell of a grid lies, row by row, in sines and cosines of its row and its column: (side^2, channels) float32.

    The waves are from 2 pi to some 2,000 pi cells long: this grid is small, and longer ones would say nothing of it.
    """
    frequencies = 1 / 1000 ** np.linspace(0, 1, channels // 4)
    rows, columns = np.mgrid[:side, :side].reshape(2, -1, 1) * frequencies
    return np.concatenate([np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)], axis=1).astype(np.float32)


def as_timm(model: ViTMAEForPreTraining) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names of timm's vision transformer, whose blocks compute the same."""
    encoder = model.vit
    tensors = {
        "cls_token": encoder.embeddings.cls_token,
        "pos_embed": encoder.embeddings.position_embeddings,
        "patch_embed.proj.weight": encoder.embeddings.patch_embeddings.projection.weight,
        "patch_embed.proj.bias": encoder.embeddings.patch_embeddings.projection.bias,
        "norm.weight": encoder.layernorm.weight,
        "norm.bias": encoder.layernorm.bias,
    }
    for number, layer in enumerate(encoder.layers):
        of_three = (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
        parts = {
            "norm1": layer.layernorm_before,
            "attn.proj": layer.attention.o_proj,
            "norm2": layer.layernorm_after,
            "mlp.fc1": layer.mlp.fc1,
            "mlp.fc2": layer.mlp.fc2,
        }
        for kind in ("weight", "bias"):
            tensors[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([getattr(part, kind) for part in of_three])
            tensors |= {f"blocks.{number}.{name}.{kind}": getattr(part, kind) for name, part in parts.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def configuration(settings: Settings) -> dict:
    """What config.json says in timm's layout: the architecture, and how pictures are scaled."""
    return dict(
        architecture="vit_tiny_patch16_224",  # of which nothing is left but the kind of network
        num_classes=0,
        model_args=dict(
            img_size=settings.side,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=LAYERS,
            num_heads=HEADS,
            global_pool="token",
        ),
        pretrained_cfg=dict(
            input_size=[3, settings.side, settings.side],
            fixed_input_size=True,
            interpolation="bicubic",
            mean=open_clip.OPENAI_DATASET_MEAN,
            std=open_clip.OPENAI_DATASET_STD,
            num_classes=0,
        ),
    )


def write_selfsupervised(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> None:
    """Write the encoder with the checkpoint's averaged weights, as float16, to `out`/mae in timm's layout.

    Raises ValueError where there is no checkpoint or it is of another model.
    """
    checkpoint = Path(folder) / "selfsupervised.safetensors"
    if not checkpoint.exists():
        raise ValueError(f"{folder} holds no {checkpoint.name}: train with `make train PART=selfsupervised` first")
    model = untrained_autoencoder(settings)
    load_average(checkpoint, [model])
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in as_timm(model).items()}
    write_atomically(Path(out) / "mae" / "config.json", json.dumps(configuration(settings), indent=1) + "\n")
    write_atomically(Path(out) / "mae" / "model.safetensors", save(tensors))


def export_selfsupervised(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> dict:
    """Exchange the backbone of the models in `out` for the checkpoint's in `folder`; returns the manifest that says so.

    What the other models reached stays, since none of them has a part in it. Raises ValueError as `write_selfsupervised`,
    before anything is written.
    """
    write_selfsupervised(settings, folder, out)
    return renew_manifest("selfsupervised", "mae", settings, folder, out, apart=True)
