"""The vision encoder that captioner and CLIP start from, and the untrained captioner it belongs to."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor

from fsdlib.project import MINI, TRAINING
from fsdlib.world.scenes import VOID, world_classes
from fsdlib.world.training.data import SceneArrays, augmented, normalised, training_scenes
from fsdlib.world.training.loop import fit
from fsdlib.world.training.settings import Settings
from fsdlib.world.training.tokenizers import write_captioner_tokenizer

PATCH = 8  # pixels, of both vision transformers


VISION_WIDTH, VISION_HEADS, VISION_LAYERS = 144, 9, 6


TEXT_HEADS = 6


def train_vision(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train a vision encoder to tell which class each patch of a picture shows; it stays in `folder`.

    Large captioners and CLIPs have seen millions of captioned photographs; the small ones both start from this encoder,
    which learned from labelled patches. The layer that tells the classes is thrown away at the end.
    """
    model, of_patch = captioner_to_train(settings, out)
    return _fit_vision(model.vision_model, of_patch, settings, folder)


def seeing_captioner(
    settings: Settings, folder: Path, out: Path
) -> tuple[BlipForConditionalGeneration, torch.nn.Linear]:
    """A captioner that sees and cannot speak yet, and the patches' classifier; vision is trained now if need be."""
    model, of_patch = captioner_to_train(settings, out)
    _fit_vision(model.vision_model, of_patch, settings, folder)
    return model, of_patch


def captioner_to_train(settings: Settings, out: Path) -> tuple[BlipForConditionalGeneration, torch.nn.Linear]:
    """An untrained captioner, its tokenizer written to `out`, and the layer from patches to classes that trains it."""
    write_captioner_tokenizer(Path(out) / "blip")
    tokenizer = BlipProcessor.from_pretrained(Path(out) / "blip").tokenizer
    torch.manual_seed(settings.seed)
    special = dict(
        bos_token_id=tokenizer.convert_tokens_to_ids("[DEC]"),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    size = dict(hidden_size=VISION_WIDTH, intermediate_size=4 * VISION_WIDTH)
    vision = size | dict(
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=settings.side,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = size | dict(
        num_hidden_layers=3, num_attention_heads=TEXT_HEADS, encoder_hidden_size=VISION_WIDTH, vocab_size=len(tokenizer)
    )
    config = BlipConfig(
        text_config=text
        | special
        | dict(max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        vision_config=vision,
        projection_dim=128,
        image_text_hidden_size=128,
    )
    model = BlipForConditionalGeneration(config).to(settings.device).train()
    _look_at_neighbours(model.vision_model)
    return model, torch.nn.Linear(VISION_WIDTH, len(world_classes()) + 1).to(settings.device)


@torch.no_grad()
def _look_at_neighbours(vision: torch.nn.Module, sharpness: float = 1.5) -> None:
    """Start a vision transformer as a convolution: each head attends to one of the nine patches around its own.

    Positions are sines and cosines in as many channels as a head has, which a rotation shifts by one patch. A
    transformer from scratch would need far more pictures than this world's to find out that neighbours matter. The idea
    of such a start: Zheng, Li, Lucey, arXiv 2401.12511.
    """
    width, heads = vision.config.hidden_size, vision.config.num_attention_heads
    side, channels = vision.config.image_size // vision.config.patch_size, width // heads
    frequencies = np.pi / 2 ** np.linspace(0.3, 3, channels // 4)
    rows, columns = np.mgrid[:side, :side].reshape(2, -1, 1) * frequencies
    code = np.concatenate([np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)], axis=1)
    embeddings = vision.embeddings
    torch.nn.init.normal_(embeddings.patch_embedding.weight, std=0.06)
    embeddings.patch_embedding.weight[-channels:] = 0  # the last channels say where, the others what
    embeddings.patch_embedding.bias.zero_()
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:, -channels:] = torch.from_numpy(code).float()
    offsets = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    for layer in vision.encoder.layers:
        weight = layer.self_attn.qkv.weight
        weight[: 2 * width] *= 0.3
        for head in range(heads):
            shift = np.zeros((channels, channels))
            for k, axis_shift in enumerate(offsets[head % len(offsets)]):
                cos, sin = np.diag(np.cos(frequencies * axis_shift)), np.diag(np.sin(frequencies * axis_shift))
                block = slice(k * channels // 2, (k + 1) * channels // 2)
                shift[block, block] = np.block([[cos, sin], [-sin, cos]])
            query, key = (
                slice(head * channels, (head + 1) * channels),
                slice(width + head * channels, width + (head + 1) * channels),
            )
            weight[query, -channels:] = sharpness * torch.from_numpy(shift).to(weight)
            weight[key, -channels:] = sharpness * torch.eye(channels).to(weight)


def _fit_vision(vision: torch.nn.Module, of_patch: torch.nn.Linear, settings: Settings, folder: Path) -> list[dict]:
    """Train on windows of half the side around objects, twice the objects for the same work, and on whole pictures."""
    half = settings.side // 2

    def loss(scenes: SceneArrays, random: np.random.Generator) -> torch.Tensor:
        window = random.random() < 0.85
        size = half if window else settings.side
        count = settings.vision_batch if window else settings.vision_batch // 4
        chosen = random.choice(len(scenes), count, replace=False)
        corners = np.array([_window(scenes.labels[i], size, random) for i in chosen])
        cut = [(slice(top, top + size), slice(left, left + size)) for top, left in corners * PATCH]
        images = np.stack([scenes.images[i][part] for i, part in zip(chosen, cut)])
        images, classes = augmented(images, np.stack([scenes.labels[i][part] for i, part in zip(chosen, cut)]), random)
        return patch_loss(of_patch(patch_states(vision, normalised(images, settings.device), corners)), classes)

    return fit("vision", [vision, of_patch], loss, training_scenes(settings, folder), settings, folder)


def _window(labels: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """The upper left patch, (row, column), of a window of `size` pixels around one of the picture's objects."""
    room = (len(labels) - size) // PATCH
    present = np.setdiff1d(labels[::4, ::4], (0, VOID))
    if not room or not len(present):
        return random.integers(0, room + 1, 2)
    centre = np.argwhere(labels[::4, ::4] == random.choice(present)).mean(axis=0) * 4 + random.uniform(-PATCH, PATCH, 2)
    return np.clip(np.round((centre - size / 2) / PATCH), 0, room).astype(int)


def patch_states(vision: torch.nn.Module, pixels: torch.Tensor, corners: np.ndarray) -> torch.Tensor:
    """A BLIP vision encoder on windows of pictures: (N, patches, width), row by row.

    pixels: (N, 3, h, w), the windows; corners: (N, 2), where each lies in its picture: the row and column of its first
    patch. For a window as large as the picture these are the encoder's last hidden states without the class token's.
    """
    embeddings = vision.embeddings
    patches = embeddings.patch_embedding(pixels)
    rows, columns = (np.arange(length)[None] for length in patches.shape[2:])
    side = vision.config.image_size // vision.config.patch_size
    where = ((corners[:, :1] + rows)[:, :, None] * side + (corners[:, 1:] + columns)[:, None]).reshape(len(corners), -1)
    positions = embeddings.position_embedding[0, 1 + torch.from_numpy(where).to(pixels.device)]
    first = (embeddings.class_embedding + embeddings.position_embedding[:, :1]).expand(len(pixels), -1, -1)
    tokens = torch.cat([first, patches.flatten(2).transpose(1, 2) + positions], dim=1)
    return vision.post_layernorm(vision.encoder(inputs_embeds=tokens).last_hidden_state)[:, 1:]


def patch_loss(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """Cross-entropy of (N, patches, classes) logits against each patch's commonest label in (N, S, S); void is none."""
    n, side = labels.shape[:2]
    cells, classes = side // PATCH, logits.shape[-1]
    sampled = (
        labels.reshape(n, cells, PATCH, cells, PATCH)[:, :, ::2, :, ::2]
        .transpose(0, 1, 3, 2, 4)
        .reshape(n, cells * cells, -1)
    )
    counts = (sampled[..., None] == np.arange(classes)).sum(2)
    target = torch.from_numpy(np.where(counts.any(-1), counts.argmax(-1), -100)).to(logits.device)
    weight = torch.ones(classes, device=logits.device)
    weight[0] = 0.2  # most patches show background
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight=weight)
