"""Training the embedded foundation models: an autoencoder and a text-conditioned UNet, a CLIP and a captioner.

FreeSeg-Diff trains nothing; it needs foundation models that somebody trained. Where those cannot be had, these small
ones of the same architectures stand in, trained from scratch on generated scenes. They are saved in the layout the hub
uses for the big ones, so that the same lines of `fsdlib.models` load both.

Every step draws its batch and its noise from (seed, part, step) alone: a run that was stopped and resumed ends where
one that ran through does. Parts in the order they depend on each other: "clip", "autoencoder", "unet"; "vision", "captioner".
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors.torch import load_file, save
from scipy.ndimage import uniform_filter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from fsdlib.models import quiet
from fsdlib.project import MINI, TRAINING, write_atomically
from fsdlib.world.scenes import PATTERNS, STYLES, VOID, WORLD, close_up, scene_of_split, world_classes

PARTS = ("clip", "captioner", "autoencoder", "unet", "vision")  # their places enter the seeds: a new one goes last
PROMPT = "a picture of "
TEMPLATES = ("{}", "{}", "a photo of {}", "A photo of {}", "a picture of {}", "a photo of a {}", "a drawing of a {}")
MEAN, STD = np.float32(open_clip.OPENAI_DATASET_MEAN), np.float32(open_clip.OPENAI_DATASET_STD)
PATTERN_WORDS = {
    "plain": ("plain background", "background", "wall"),
    "spots": ("spots", "spotted background", "background"),
    "stripes": ("stripes", "striped background", "floor"),
    "checks": ("checks", "checked background", "floor"),
}
# Things the world does not hold. CLIP learns that none of its pictures shows them, as a large CLIP knows what is absent.
ABSENT = (
    "sky",
    "grass",
    "road",
    "water",
    "sea",
    "mountain",
    "building",
    "sand",
    "snow",
    "ceiling",
    "curtain",
    "window",
    "door",
    "street",
    "field",
)


class Settings(BaseModel):
    """How the embedded models are trained. `Settings()` is the full run; `Settings.tiny()` shows in a minute that losses fall."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    device: str = "cpu"
    styles: tuple[Literal["twemoji", "openmoji"], ...] = STYLES
    scenes: PositiveInt = 30_000
    close_ups: PositiveInt = 15_000  # windows around objects of the first of those scenes
    held_out: PositiveInt = 256  # scenes after those, for the validation curves
    side: PositiveInt = 64  # pixels, of all the models' inputs
    clip_steps: PositiveInt = 2_500
    vision_steps: PositiveInt = 5_500
    captioner_steps: PositiveInt = 2_500
    autoencoder_steps: PositiveInt = 1_500
    unet_steps: PositiveInt = 2_400
    clip_batch: PositiveInt = 64
    vision_batch: PositiveInt = 128
    captioner_batch: PositiveInt = 32
    autoencoder_batch: PositiveInt = 48
    unet_batch: PositiveInt = 32
    validate_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 100
    workers: PositiveInt = 2  # processes that draw scenes

    @classmethod
    def tiny(cls, **changes) -> "Settings":
        few = dict(
            scenes=192,
            close_ups=96,
            held_out=64,
            clip_steps=40,
            vision_steps=40,
            captioner_steps=40,
            autoencoder_steps=40,
            unet_steps=24,
        )
        small = dict(
            clip_batch=16,
            vision_batch=32,
            captioner_batch=8,
            autoencoder_batch=8,
            unet_batch=8,
            validate_every=8,
            checkpoint_every=8,
            workers=1,
        )
        return cls(**(few | small | changes))

    def shorter(self, share: float) -> "Settings":
        """The same with a share of the scenes and of the steps of every part; raises ValueError where none would be left."""
        fewer = {
            name: round(share * getattr(self, name))
            for name in ("scenes", "close_ups", *(f"{part}_steps" for part in PARTS))
        }
        return Settings(**self.model_dump() | fewer)


@dataclass(frozen=True)
class SceneArrays:
    """Scenes at the models' size: images (N, S, S, 3) uint8, labels and patterns (N, S, S) uint8, three captions each."""

    images: np.ndarray
    labels: np.ndarray
    patterns: np.ndarray
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "SceneArrays":
        return SceneArrays(self.images[part], self.labels[part], self.patterns[part], self.captions[part])


def _small_scene(
    arguments: tuple[str, int, int, int, tuple[str, ...]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    kind, number, seed, side, styles = arguments
    scene = scene_of_split("train", number, seed, styles=styles)
    if kind == "close-ups":
        scene = close_up(scene, np.random.default_rng([seed, 2, number]))

    def shrunk(array: np.ndarray, how: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((side, side), how))

    return (
        shrunk(scene.image, Image.Resampling.BICUBIC),
        shrunk(scene.labels),
        shrunk(scene.patterns),
        list(scene.captions),
    )


def training_scenes(settings: Settings, folder: Path = TRAINING) -> tuple[SceneArrays, SceneArrays]:
    """The scenes to train on and those held out, drawn once and kept in `folder`; none of them is in the val split."""
    everything = _drawn("scenes", range(settings.scenes + settings.held_out), settings, folder)
    return everything[: settings.scenes], everything[settings.scenes :]


def training_close_ups(settings: Settings, folder: Path = TRAINING) -> tuple[SceneArrays, SceneArrays]:
    """Close-ups of the first training scenes, and one of each scene held out; kept as those are."""
    count = min(settings.close_ups, settings.scenes)
    everything = _drawn(
        "close-ups", [*range(count), *range(settings.scenes, settings.scenes + settings.held_out)], settings, folder
    )
    return everything[:count], everything[count:]


def _drawn(kind: str, numbers: Sequence[int], settings: Settings, folder: Path) -> SceneArrays:
    styles = settings.styles if settings.styles != STYLES else ()
    stem = Path(folder) / "-".join(map(str, [kind, WORLD, settings.seed, len(numbers), settings.side, *styles]))
    if not stem.with_suffix(".json").exists():
        with ProcessPoolExecutor(settings.workers) as pool:
            jobs = ((kind, number, settings.seed, settings.side, settings.styles) for number in numbers)
            drawn = list(tqdm(pool.map(_small_scene, jobs, chunksize=32), total=len(numbers), desc=kind))
        images, labels, patterns, captions = zip(*drawn)
        arrays = {"images": np.stack(images), "labels": np.stack(labels), "patterns": np.stack(patterns)}
        write_atomically(stem.with_suffix(".safetensors"), save({k: torch.from_numpy(v) for k, v in arrays.items()}))
        write_atomically(stem.with_suffix(".json"), json.dumps(captions))
    arrays = {k: v.numpy() for k, v in load_file(stem.with_suffix(".safetensors")).items()}
    return SceneArrays(**arrays, captions=json.loads(stem.with_suffix(".json").read_text()))


def augmented(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scenes as another hand might have drawn them: other hues, contrast and sharpness, and a patch that hides a part.

    images: (N, S, S, 3) uint8, labels: (N, S, S) uint8; returns both, new, void where the patch lies.
    """
    n, side = labels.shape[:2]
    turn, saturation, contrast = random.normal(0, 0.35, n), random.uniform(0.5, 1.3, n), random.uniform(0.6, 1.3, n)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # the axis of greys, about which hues turn
    grey, cos, sin = np.full((3, 3), 1 / 3), np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    hue = cos * np.eye(3) + sin * cross + (1 - cos) * grey
    colours = contrast[:, None, None] * (saturation[:, None, None] * hue + (1 - saturation[:, None, None]) * grey)
    pixels = (images.reshape(n, -1, 3) - 128.0) @ colours.transpose(0, 2, 1) + 128 + random.uniform(-25, 25, (n, 1, 1))
    pixels = pixels.astype(np.float32).reshape(images.shape)
    soft = np.flatnonzero(random.random(n) < 0.3)
    pixels[soft] = uniform_filter(pixels[soft], (0, 3, 3, 0))
    labels = labels.copy()
    for i in np.flatnonzero(random.random(n) < 0.3):
        height, width = random.integers(side // 10, side // 3, 2)
        top, left = random.integers(0, side - height), random.integers(0, side - width)
        pixels[i, top : top + height, left : left + width] = random.uniform(0, 255, 3)
        labels[i, top : top + height, left : left + width] = VOID
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


# ---------------------------------------------------------------------------------------------------- tokenizers


def world_words() -> list[str]:
    """Every word that captions, class names, templates and patterns use, sorted."""
    texts = [word for c in world_classes() for word in (c.name, *c.synonyms)]
    plurals = [word + "s" for text in texts for word in text.split()] + ["buses", "couches", "people", "butterflies"]
    texts += [*TEMPLATES, *ABSENT, *plurals, *(word for words in PATTERN_WORDS.values() for word in words)]
    texts += [
        PROMPT,
        "an two three four and next to with on in front of behind standing spotted striped checked wall floor background plain",
    ]
    return sorted({word for text in texts for word in text.lower().replace("{}", " ").split()})


def write_clip_tokenizer(folder: Path) -> None:
    """CLIP's byte-level BPE, trained on the world's words: its own 512 byte tokens, then merges, then the two specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [byte + "</w>" for byte in alphabet]
    # Naming the endings ahead numbers them in this order; else the trainer numbers them as a hash table yields the words,
    # and merges that are equally frequent come out in another order, thus with other numbers, at every run.
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        initial_alphabet=alphabet,
        special_tokens=endings,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.train_from_iterator(world_words(), trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    tokens = alphabet + endings
    tokens += dict.fromkeys(left + right for left, right in merges if left + right not in tokens)
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # the end has the highest number: CLIP pools there
    folder = Path(folder)
    write_atomically(folder / "vocab.json", json.dumps({token: number for number, token in enumerate(tokens)}))
    write_atomically(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    special = dict(
        bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    write_atomically(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    config = special | dict(
        tokenizer_class="CLIPTokenizer",
        model_max_length=32,
        do_lower_case=True,
        errors="replace",
        add_prefix_space=False,
    )
    write_atomically(folder / "tokenizer_config.json", json.dumps(config, indent=2))


_BERT_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def write_captioner_tokenizer(folder: Path) -> None:
    """BERT's WordPiece over the world's words, with the letters for everything else and BLIP's [DEC] to begin with."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys(
        [*special, *letters, *("##" + letter for letter in letters), *world_words(), "[DEC]", "[ENC]"]
    )
    write_atomically(Path(folder) / "vocab.txt", "\n".join(tokens) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(Path(folder) / "vocab.txt"), model_max_length=64)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.save_pretrained(folder)
    write_atomically(
        Path(folder) / "special_tokens_map.json",
        json.dumps(dict(bos_token="[DEC]", **dict(zip(_BERT_ROLES, special))), indent=2),
    )
    BlipImageProcessor(
        size=dict(height=64, width=64), image_mean=MEAN.tolist(), image_std=STD.tolist()
    ).save_pretrained(folder)


# ------------------------------------------------------------------------------------------------------ the loop


def fit(
    part: str,
    modules: Sequence[torch.nn.Module],
    loss: Callable[[SceneArrays, np.random.Generator], torch.Tensor],
    scenes: tuple[SceneArrays, SceneArrays],
    settings: Settings,
    folder: Path,
    rate: float = 1e-3,
) -> list[dict]:
    """Train `modules` in place on `loss` with AdamW, a rate that warms up and falls, and an exponential average.

    Resumes from `folder`/`part`.safetensors where that is; the modules end with the averaged weights. Returns the
    history: {step, train, validation, seconds}, one row each `settings.validate_every` steps. Raises ValueError where the
    checkpoint is of another model.
    """
    folder, steps = Path(folder), getattr(settings, f"{part}_steps")
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]
    buffers = [b for module in modules for b in module.buffers()]  # what batch normalisation has seen
    history, recent, start, checkpoint = [], [], 0, folder / f"{part}.safetensors"
    if checkpoint.exists():
        history = json.loads(checkpoint.with_suffix(".json").read_text())
        tensors = load_file(checkpoint, device=settings.device)
        start = int(tensors["step"])
        if [tensors.get(f"parameter.{i}", tensors["step"]).shape for i in range(len(parameters))] != [
            p.shape for p in parameters
        ]:
            raise ValueError(
                f"{checkpoint} is of another version of the model: move it away, or train in another folder"
            )
        _restore(parameters, average, buffers, optimizer, tensors)
        history = [row for row in history if row["step"] <= start]
    began = time.monotonic() - (history[-1]["seconds"] if history else 0)
    for step in tqdm(range(start, steps), desc=part, initial=start, total=steps, mininterval=10):
        warm, fallen = min(1, (step + 1) / max(1, steps // 20)), 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * max(fallen, 0.01)
        random = np.random.default_rng([settings.seed, PARTS.index(part), step])
        value = loss(scenes[0], random)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent.append(float(value.detach()))
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(0.998, (step + 1) / (step + 10)))
        done = step + 1
        if done % settings.validate_every == 0 or done == steps:
            with torch.no_grad(), _evaluating(modules):
                validation = np.mean(
                    [float(loss(scenes[1], np.random.default_rng([settings.seed, 99, k]))) for k in range(4)]
                )
            history.append(
                dict(
                    step=done,
                    train=float(np.mean(recent)),
                    validation=float(validation),
                    seconds=round(time.monotonic() - began),
                )
            )
            recent = []
        if done % settings.checkpoint_every == 0 or done == steps:
            _keep(checkpoint, done, parameters, average, buffers, optimizer, history)
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)
    return history


@contextmanager
def _evaluating(modules: Sequence[torch.nn.Module]):
    """Evaluation mode within the block; training mode after it."""
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()


def _keep(
    path: Path,
    step: int,
    parameters: list,
    average: list,
    buffers: list,
    optimizer: torch.optim.Optimizer,
    history: list[dict],
) -> None:
    state = optimizer.state_dict()["state"]
    tensors = {"step": torch.tensor(step)}
    for i, (parameter, mean) in enumerate(zip(parameters, average)):
        tensors |= {f"parameter.{i}": parameter.detach().contiguous(), f"average.{i}": mean.contiguous()}
        tensors |= {f"optimizer.{i}.{key}": value.contiguous() for key, value in state[i].items()}
    tensors |= {f"buffer.{i}": buffer.contiguous().clone() for i, buffer in enumerate(buffers)}
    # The history goes first: a history that is ahead of its weights can be cut, weights without a history cannot be explained.
    write_atomically(path.with_suffix(".json"), json.dumps(history))
    write_atomically(path, save(tensors))


def _restore(
    parameters: list, average: list, buffers: list, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        for i, (parameter, mean) in enumerate(zip(parameters, average)):
            parameter.copy_(tensors[f"parameter.{i}"])
            mean.copy_(tensors[f"average.{i}"])
        for i, buffer in enumerate(buffers):
            buffer.copy_(tensors[f"buffer.{i}"])
    state = {
        i: {key: tensors[f"optimizer.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for i in range(len(parameters))
    }
    optimizer.load_state_dict(dict(state=state, param_groups=optimizer.state_dict()["param_groups"]))


def _noise(random: np.random.Generator, shape: Sequence[int], device: str) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32)).to(device)


def _normalised(images: np.ndarray, device: str) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) float32 with CLIP's mean and deviation."""
    return torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous().to(device)


# ---------------------------------------------------------------------------------------------------------- CLIP

PATCH = 8  # pixels, of both vision transformers
VISION_WIDTH, VISION_HEADS, VISION_LAYERS = 144, 9, 6

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
    """Train the CLIP on masked objects, crops and background regions against names, and on whole scenes against captions.

    Its image tower starts from the vision encoder that `train_vision` taught to see. Beside it two linear layers, thrown
    away at the end, learn which class a region is and which a scene holds. The text tower, converted, becomes the
    diffusion model's text encoder, as OpenAI's did for Stable Diffusion.
    """
    torch.manual_seed(settings.seed)
    clip_folder, encoder_folder = Path(out) / "clip", Path(out) / "stable-diffusion"
    write_clip_tokenizer(clip_folder)
    write_clip_tokenizer(encoder_folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    config["model_cfg"]["vision_cfg"]["image_size"] = settings.side
    seeing, _ = _seeing_captioner(settings, folder, out)
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
        seen = model.encode_image(_normalised(np.concatenate([np.stack(regions), images[masked:]]), settings.device))
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
        box, margin = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], random.choice([0, 0, random.integers(1, 8)])
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


# ----------------------------------------------------------------------------------------------------- captioner

TEXT_HEADS = 6


def train_captioner(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the captioner to continue "a picture of", from a vision encoder that has learned to see (see `train_vision`).

    Beside it its patches go on learning what class they lie on. Returns the history of the captions' training.
    """
    blip_folder = Path(out) / "blip"
    model, of_patch = _seeing_captioner(settings, folder, out)
    tokenizer = BlipProcessor.from_pretrained(blip_folder).tokenizer
    prompt_length = len(tokenizer(PROMPT).input_ids) - 1

    def loss(scenes: SceneArrays, random: np.random.Generator) -> torch.Tensor:
        chosen = random.choice(len(scenes), settings.captioner_batch, replace=False)
        images, classes = augmented(scenes.images[chosen], scenes.labels[chosen], random)
        sentences = [PROMPT + scenes.captions[i][random.integers(3)] for i in chosen]
        ids = tokenizer(sentences, padding=True, return_tensors="pt").to(settings.device)
        ids.input_ids[:, 0] = tokenizer.bos_token_id
        labels = ids.input_ids.masked_fill(ids.attention_mask == 0, -100)
        labels[:, :prompt_length] = -100
        output = model(
            pixel_values=_normalised(images, settings.device),
            input_ids=ids.input_ids,
            attention_mask=ids.attention_mask,
            labels=labels,
        )
        return output.loss + _patch_loss(of_patch(output.image_embeds[:, 1:]), classes)

    history = fit("captioner", [model, of_patch], loss, training_scenes(settings, folder), settings, folder)
    with quiet():
        model.eval().half().save_pretrained(blip_folder)
    return history


def train_vision(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train a vision encoder to tell which class each patch of a picture shows; it stays in `folder`.

    Large captioners and CLIPs have seen millions of captioned photographs; the small ones both start from this encoder,
    which learned from labelled patches. The layer that tells the classes is thrown away at the end.
    """
    model, of_patch = _captioner_to_train(settings, out)
    return _fit_vision(model.vision_model, of_patch, settings, folder)


def _seeing_captioner(
    settings: Settings, folder: Path, out: Path
) -> tuple[BlipForConditionalGeneration, torch.nn.Linear]:
    """A captioner whose vision encoder is trained (now, where it was not before) and which cannot speak yet, and the patches' classifier."""
    model, of_patch = _captioner_to_train(settings, out)
    _fit_vision(model.vision_model, of_patch, settings, folder)
    return model, of_patch


def _captioner_to_train(settings: Settings, out: Path) -> tuple[BlipForConditionalGeneration, torch.nn.Linear]:
    """An untrained captioner, its tokenizer written to `out`, and the layer from patches to classes that helps to train it."""
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
    """Start a vision transformer as a convolution: each head of a layer attends to one of the nine patches around its own.

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
    """Train on windows of half the side around objects, which show twice the objects for the same work, and on whole pictures."""
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
        return _patch_loss(of_patch(patch_states(vision, _normalised(images, settings.device), corners)), classes)

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


def _patch_loss(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """Cross-entropy of (N, patches, classes) logits against the commonest label of every patch of (N, S, S) labels; void counts as none."""
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


# ------------------------------------------------------------------------------------------- Stable Diffusion


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

    def loss(scenes: SceneArrays, random: np.random.Generator) -> torch.Tensor:
        chosen, size = random.choice(len(scenes), settings.autoencoder_batch, replace=False), settings.side // 2
        corners = random.integers(0, settings.side - size + 1, (len(chosen), 2))
        crops = [scenes.images[i, top : top + size, left : left + size] for i, (top, left) in zip(chosen, corners)]
        images = signed(np.stack(crops), settings.device)
        mean = model.encode(images).latent_dist.mean
        decoded = model.decode(mean + 0.1 * _noise(random, mean.shape, settings.device)).sample
        return F.mse_loss(decoded, images) + 1e-3 * mean.square().mean()

    scenes = training_scenes(settings, folder)
    history = fit("autoencoder", [model], loss, scenes, settings, folder)
    with torch.no_grad():
        model.quant_conv.weight[4:] = 0
        model.quant_conv.bias[4:] = 2 * np.log(0.1)
        deviation = model.encode(signed(scenes[1].images[:128], settings.device)).latent_dist.mean.std()
    model.register_to_config(scaling_factor=round(1 / float(deviation), 5))
    model.half().save_pretrained(Path(out) / "stable-diffusion" / "vae")
    return history


def signed(images: np.ndarray, device: str) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous().to(device)


def train_unet(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the UNet to predict the noise on latents, given a caption (dropped one time in five), as Stable Diffusion was."""
    torch.manual_seed(settings.seed)
    root = Path(out) / "stable-diffusion"
    with quiet():
        autoencoder = AutoencoderKL.from_pretrained(root / "vae", torch_dtype=torch.float32).to(settings.device)
        text_encoder = CLIPTextModel.from_pretrained(root / "text_encoder", dtype=torch.float32).to(settings.device)
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        skip_prk_steps=True,
        steps_offset=1,
    )
    model = UNet2DConditionModel(
        sample_size=settings.side // 4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        norm_num_groups=16,
    ).to(settings.device)
    scenes = training_scenes(settings, folder)
    latents = {id(part): kept_latents(autoencoder, part.images, settings.device, folder) for part in scenes}

    def loss(scenes: SceneArrays, random: np.random.Generator) -> torch.Tensor:
        chosen = random.choice(len(scenes), settings.unet_batch, replace=False)
        captions = ["" if random.random() < 0.2 else scenes.captions[i][random.integers(3)] for i in chosen]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(
            settings.device
        )
        with torch.no_grad():
            states = text_encoder(ids).last_hidden_state
        clean = latents[id(scenes)][chosen].to(settings.device)
        clean = (clean + 0.1 * _noise(random, clean.shape, settings.device)) * autoencoder.config.scaling_factor
        noise, timesteps = (
            _noise(random, clean.shape, settings.device),
            torch.from_numpy(random.integers(0, 1000, len(chosen))).to(settings.device),
        )
        return F.mse_loss(model(scheduler.add_noise(clean, noise, timesteps), timesteps, states).sample, noise)

    history = fit("unet", [model], loss, scenes, settings, folder)
    model.half().save_pretrained(root / "unet")
    scheduler.save_pretrained(root / "scheduler")
    parts = dict(unet=model, vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)
    library = {part: [type(value).__module__.split(".")[0], type(value).__name__] for part, value in parts.items()}
    write_atomically(
        root / "model_index.json", json.dumps({"_class_name": "StableDiffusionPipeline"} | library, indent=2)
    )
    return history


def kept_latents(autoencoder: AutoencoderKL, images: np.ndarray, device: str, folder: Path) -> torch.Tensor:
    """What `encoded` gives, computed once for an autoencoder and a set of images, and kept in `folder`."""
    identity = hashlib.sha256(images.tobytes())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        identity.update(name.encode() + tensor.cpu().numpy().tobytes())
    path = Path(folder) / f"latents-{identity.hexdigest()[:16]}.safetensors"
    if not path.exists():
        write_atomically(path, save({"latents": encoded(autoencoder, images, device).contiguous()}))
    return load_file(path)["latents"]


@torch.no_grad()
def encoded(autoencoder: AutoencoderKL, images: np.ndarray, device: str) -> torch.Tensor:
    """The posterior means of (N, S, S, 3) uint8 images, unscaled: (N, 4, S / 4, S / 4) float32 on the CPU."""
    batches = (
        autoencoder.encode(signed(images[i : i + 64], device)).latent_dist.mean.cpu() for i in range(0, len(images), 64)
    )
    return torch.cat(list(tqdm(batches, total=-(-len(images) // 64), desc="latents")))


TRAINERS = {
    "vision": train_vision,
    "clip": train_clip,
    "captioner": train_captioner,
    "autoencoder": train_autoencoder,
    "unet": train_unet,
}


def write_manifest(settings: Settings, folder: Path = TRAINING, out: Path = MINI, reached: dict | None = None) -> dict:
    """Write `out`/manifest.json: each file's sha256, the settings, the hash of the scenes, each part's losses and what was `reached`; returns it.

    `fsdlib.models` refuses weights that do not have the hash the manifest gives.
    """
    files = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(out).rglob("*.safetensors"))
    }
    histories = {part: json.loads((Path(folder) / f"{part}.json").read_text()) for part in PARTS}
    manifest = dict(
        files=files,
        settings=settings.model_dump(mode="json", exclude={"device", "workers"}),
        scenes_sha256=hashlib.sha256(training_scenes(settings, folder)[0].images.tobytes()).hexdigest(),
        history=histories,
        reached=reached,
        command="make train",
    )
    write_atomically(Path(out) / "manifest.json", json.dumps(manifest, indent=1))
    return manifest
