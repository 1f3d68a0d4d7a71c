"""The CLIP, whose text tower becomes the diffusion model's text encoder."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fsdlib.models import quiet
from fsdlib.project import MINI, TRAINING, write_atomically
from fsdlib.world.scenes import PATTERNS, VOID, world_classes
from fsdlib.world.training.data import (
    MEAN,
    STD,
    SceneArrays,
    augmented,
    normalised,
    training_close_ups,
    training_scenes,
)
from fsdlib.world.training.loop import fit
from fsdlib.world.training.settings import Settings
from fsdlib.world.training.tokenizers import ABSENT, PATTERN_WORDS, TEMPLATES, write_clip_tokenizer
from fsdlib.world.training.vision import PATCH, VISION_HEADS, VISION_LAYERS, VISION_WIDTH, seeing_captioner

CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "quick_gelu": False,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": PATCH,
            "width": VISION_WIDTH,
            "layers": VISION_LAYERS,
            "head_width": VISION_WIDTH // VISION_HEADS,
            "no_ln_pre": True,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 0,
            "hf_tokenizer_name": "mini",
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    },
    # whole pictures and crops of any shape are squashed to the square, as in training
    "preprocess_cfg": {"mean": MEAN.tolist(), "std": STD.tolist(), "resize_mode": "squash"},
}


def train_clip(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the CLIP on masked objects, crops and background regions against names, and scenes against captions.

    Its image tower starts from the vision encoder that `train_vision` taught to see. Beside it two linear layers,
    thrown away at the end, learn which class a region is and which a scene holds. The text tower, converted, becomes
    the diffusion model's text encoder, as OpenAI's did for Stable Diffusion.
    """
    torch.manual_seed(settings.seed)
    clip_folder, encoder_folder = Path(out) / "clip", Path(out) / "stable-diffusion"
    write_clip_tokenizer(clip_folder)
    write_clip_tokenizer(encoder_folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    config["model_cfg"]["vision_cfg"]["image_size"] = settings.side
    seeing, _ = seeing_captioner(settings, folder, out)
    model = open_clip.CLIP(**config["model_cfg"]).to(settings.device)
    model.visual.load_state_dict(_open_clip_vision(seeing.vision_model), strict=False)  # all but the projection
    names = (
        [(c.name, *c.synonyms) for c in world_classes()]
        + [PATTERN_WORDS[p] for p in PATTERNS]
        + [(word,) for word in ABSENT]
    )

    width = config["model_cfg"]["embed_dim"]
    of_region, of_scene = (
        torch.nn.Linear(width, count).to(settings.device) for count in (len(names), len(world_classes()))
    )

    def tokens(texts: Sequence[str]) -> torch.Tensor:
        return tokenizer(list(texts), padding="longest", truncation=True, return_tensors="pt").input_ids.to(
            settings.device
        )

    def encode_text(texts: Sequence[str]) -> torch.Tensor:
        ids = tokens(texts)
        # causal attention: padding after the end changes nothing before it, so shorter rows give the same vectors
        x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[: ids.shape[1], : ids.shape[1]]))
        return F.normalize(x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection, dim=-1)

    def loss(scenes: SceneArrays, random: np.random.Generator) -> torch.Tensor:
        masked = settings.clip_batch // 2
        chosen = random.choice(len(scenes), settings.clip_batch, replace=False)
        images, labels = augmented(scenes.images[chosen], scenes.labels[chosen], random)
        near, closer = random.choice(len(near_by[id(scenes)]), masked // 2, replace=False), near_by[id(scenes)]
        near_images, near_labels = augmented(closer.images[near], closer.labels[near], random)
        apart = zip(images[: masked - len(near)], labels, scenes.patterns[chosen])
        regions, targets = zip(
            *(
                *(_named_region(*arrays, random) for arrays in apart),
                *(
                    _named_region(*arrays, random, cropped=1.0)
                    for arrays in zip(near_images, near_labels, closer.patterns[near])
                ),
            )
        )
        said = [word[random.integers(len(word))] if random.random() < 0.5 else word[0] for word in names]
        texts = [TEMPLATES[random.integers(len(TEMPLATES))].format(word) for word in said]
        captions = [scenes.captions[i][random.integers(3)] for i in chosen[masked:]]
        seen = model.encode_image(normalised(np.concatenate([np.stack(regions), images[masked:]]), settings.device))
        vision, text = F.normalize(seen, dim=-1), encode_text(texts + captions)
        scale = model.logit_scale.exp().clamp(max=100)
        which = torch.tensor(targets, device=settings.device)
        named = F.cross_entropy(scale * vision[:masked] @ text[: len(texts)].T, which) + F.cross_entropy(
            of_region(seen[:masked]), which
        )
        pairs, diagonal = (
            scale * vision[masked:] @ text[len(texts) :].T,
            torch.arange(len(captions), device=settings.device),
        )
        present = (labels[masked:, None] == np.arange(1, len(world_classes()) + 1)[:, None, None]).any((2, 3))
        held = F.binary_cross_entropy_with_logits(
            of_scene(seen[masked:]), torch.from_numpy(present).float().to(settings.device)
        )
        return named + 0.5 * (F.cross_entropy(pairs, diagonal) + F.cross_entropy(pairs.T, diagonal)) + 5 * held

    scenes = training_scenes(settings, folder)
    near_by = {id(part): close for part, close in zip(scenes, training_close_ups(settings, folder))}
    history = fit("clip", [model, of_region, of_scene], loss, scenes, settings, folder)
    half = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    write_atomically(clip_folder / "open_clip_model.safetensors", save(half))
    write_atomically(clip_folder / "open_clip_config.json", json.dumps(config, indent=2))
    text_encoder = text_encoder_from_clip(model.cpu(), config["model_cfg"]["text_cfg"], tokenizer)
    with quiet():
        text_encoder.half().save_pretrained(encoder_folder / "text_encoder")
    return history


def _named_region(
    image: np.ndarray, labels: np.ndarray, patterns: np.ndarray, random: np.random.Generator, cropped: float = 0.2
) -> tuple[np.ndarray, int]:
    """One region of one scene as CLIP will see it, (S, S, 3) uint8, and the number of its name.

    A region is the pixels of one class, or of one background pattern, on black; often with the coarse outline, the
    missing half or the stray patch that a cluster has. A share `cropped` of them is cut to its box, some of those
    without the black.
    """
    side = len(labels)
    present = np.setdiff1d(labels, (0, VOID))
    if random.random() < 0.12 or not len(present):
        kinds = np.bincount(patterns[labels == 0], minlength=len(PATTERNS))
        kind = int(random.choice(len(PATTERNS), p=kinds / kinds.sum()))
        mask, target = (labels == 0) & (patterns == kind), len(world_classes()) + kind
    else:
        label = int(random.choice(present))
        mask, target = labels == label, label - 1
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
    if random.random() < 0.4:  # as coarse as a cluster on a 16 x 16 grid
        coarse = mask.reshape(16, side // 16, 16, side // 16).mean((1, 3)) > random.uniform(0.2, 0.6)
        mask = np.kron(coarse, np.ones((side // 16, side // 16), bool)) if coarse.any() else mask
    if random.random() < 0.2:  # only a part of it
        y, x = np.mgrid[:side, :side]
        angle = random.uniform(0, 2 * np.pi)
        half = (y - np.mean(box[:2])) * np.sin(angle) + (x - np.mean(box[2:])) * np.cos(angle) > -random.uniform(0, 8)
        mask = mask & half if (mask & half).sum() > 30 else mask
    if random.random() < 0.2:  # something else beside it
        top, left, size = random.integers(0, side - 8), random.integers(0, side - 8), random.integers(6, 20)
        mask = mask.copy()
        mask[top : top + size, left : left + size] = True
    on_black = image * mask[..., None]
    if random.random() < cropped:
        on_black = on_black if random.random() < 0.75 else image
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
        margin = random.choice([0, 0, int(random.integers(1, 8))])
        crop = (
            max(box[2] - margin, 0),
            max(box[0] - margin, 0),
            min(box[3] + margin, side),
            min(box[1] + margin, side),
        )
        on_black = np.asarray(Image.fromarray(on_black).crop(crop).resize((side, side), Image.Resampling.BICUBIC))
    return on_black[:, :: random.choice([-1, 1])], target


def _open_clip_vision(vision: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a BLIP vision encoder under open_clip's names; with `no_ln_pre` the hidden states are equal."""
    source, positions = vision.state_dict(), vision.embeddings.position_embedding[0].detach().clone()
    positions[1:] += source["embeddings.patch_embedding.bias"]  # open_clip's patch embedding has none
    renamed = {
        "conv1.weight": source["embeddings.patch_embedding.weight"],
        "class_embedding": source["embeddings.class_embedding"].flatten(),
        "positional_embedding": positions,
        "ln_post.weight": source["post_layernorm.weight"],
        "ln_post.bias": source["post_layernorm.bias"],
    }
    names = {"ln_1.": "layer_norm1.", "ln_2.": "layer_norm2.", "mlp.c_fc.": "mlp.fc1.", "mlp.c_proj.": "mlp.fc2."}
    names |= {"attn.in_proj_": "self_attn.qkv.", "attn.out_proj.": "self_attn.projection."}
    for layer in range(len(vision.encoder.layers)):
        for kind in ("weight", "bias"):
            block, origin = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            renamed |= {f"{block}{new}{kind}": source[f"{origin}{old}{kind}"] for new, old in names.items()}
    return renamed


def text_encoder_from_clip(clip: torch.nn.Module, text_config: dict, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of an open_clip CLIP as transformers' CLIPTextModel; the final hidden states are equal."""
    width = text_config["width"]
    config = CLIPTextConfig(
        vocab_size=text_config["vocab_size"],
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=text_config["layers"],
        num_attention_heads=text_config["heads"],
        max_position_embeddings=text_config["context_length"],
        hidden_act="gelu",
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    source = clip.state_dict()
    renamed = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for layer in range(text_config["layers"]):
        block, target = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            renamed |= {f"{target}{new}.{kind}": source[f"{block}{old}.{kind}"] for old, new in names.items()}
            projections = source[f"{block}attn.in_proj_{kind}"].chunk(3)
            renamed |= {f"{target}self_attn.{name}_proj.{kind}": value for name, value in zip("qkv", projections)}
    prefix = "text_model." if any(name.startswith("text_model.") for name in encoder.state_dict()) else ""
    encoder.load_state_dict({prefix + name: value for name, value in renamed.items()}, strict=False)
    return encoder
