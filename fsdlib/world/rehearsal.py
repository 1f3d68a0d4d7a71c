"""A Hugging Face hub cache filled with random weights, to run a published model set where the hub cannot be reached.

    python -m fsdlib.world.rehearsal --cache FOLDER --models sd14 --run
    HF_HUB_CACHE=FOLDER HF_HUB_OFFLINE=1 ...

`write_cache` lays out the cache as the hub's own client does (`models--ORG--NAME/{blobs,refs,snapshots}`), with the
true repository, folder and file names, the true configurations (kept under `data/rehearsal`) and, in every weight
file, the tensor names, shapes and precision of the published file. Only the numbers differ: they are drawn from a seed.
What loads from such a cache therefore loads from the real one too; what it computes is meaningless. `run` segments a
photograph with it and says how long that takes and how much memory.

CLIP's tokenizer files are the published ones byte for byte, derived from the merges that open_clip ships. BLIP's
WordPiece vocabulary is in no package this project installs: it is synthesised with the published size and layout
(30,522 entries; [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103), its words taken from CLIP's merges.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BlipConfig, BlipForConditionalGeneration, CLIPTextConfig, CLIPTextModel

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import MODEL_SETS, REHEARSAL, ModelSet, Source, load_models, sources
from fsdlib.pipeline import segment
from fsdlib.project import DATA, REPORTS, ROOT, write_atomically
from fsdlib.recipe import RECIPES, get_recipe

NOISE = "random weights: the times and the memory mean something, the caption and the names do not"
CONFIGURATIONS = DATA / "rehearsal"  # ORG--NAME/PATH, each file as it stands in that repository
_BERT_ENTRIES = 30_522
_BERT_WORDS = 24_000  # whole words; what is left of the vocabulary are word endings
_LARGE = 10_000_000  # bytes; the hub keeps larger files in its large-file storage


def write_cache(cache: Path | str, parts: Iterable[Source], seed: int = 0) -> dict[str, Path]:
    """Write the repositories of `parts` into the hub cache folder `cache`; return each one's snapshot folder by name.

    The folder is what HF_HUB_CACHE names (HF_HOME's `hub`). The same seed gives the same bytes. One model at a time is
    held in memory. Raises FileExistsError where `cache` holds anything that is no rehearsal, and ValueError where a
    file cannot be made; nothing is written in either case.
    """
    cache, parts = Path(cache), list(parts)
    if cache.exists() and not (cache / REHEARSAL).is_file() and (not cache.is_dir() or any(cache.iterdir())):
        raise FileExistsError(
            f"{cache} holds files that are no rehearsal: give a new or empty folder, never a cache of real models."
        )
    for part in parts:
        lacking = [path for path in part.files if not _can_make(part.repository, path)]
        if lacking:
            raise ValueError(
                f"{part.repository} cannot be rehearsed: data/rehearsal says nothing of its {', '.join(lacking)}."
            )
    write_atomically(
        cache / REHEARSAL,
        f"Random weights (seed {seed}) from fsdlib.world.rehearsal: no result made with them means anything.\n",
    )
    return {part.repository: _write_repository(cache, part, seed) for part in parts}


def commit(part: Source) -> str:
    """The commit that `part.revision` resolves to in a rehearsal: itself if a full hash, else one made of the name."""
    if re.fullmatch("[0-9a-f]{40}", part.revision):
        return part.revision
    return hashlib.sha1(f"rehearsal of {part.repository}".encode()).hexdigest()


def configurations(repository: str) -> Path:
    """The folder that holds the configuration files of `repository` ("ORG/NAME")."""
    return CONFIGURATIONS / repository.replace("/", "--")


def _can_make(repository: str, path: str) -> bool:
    folder = configurations(repository)
    needed = _WEIGHTS[path].configuration if path in _WEIGHTS else path
    return folder.is_dir() and (path in _TEXTS or (folder / needed).is_file())


def _write_repository(cache: Path, part: Source, seed: int) -> Path:
    """Write each file as a blob and a link to it, then the reference, as a download would; return the snapshot folder."""
    folder = cache / f"models--{part.repository.replace('/', '--')}"
    snapshot, blobs = folder / "snapshots" / commit(part), folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for path in part.files:
        descriptor, name = tempfile.mkstemp(dir=blobs, prefix=".")
        os.close(descriptor)
        temporary = Path(name)
        try:
            _write_file(configurations(part.repository), path, temporary, seed)
            temporary.chmod(0o644)  # mkstemp makes files private
            blob = temporary.replace(blobs / _blob_name(temporary))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _link(snapshot / path, blob)
    if commit(part) != part.revision:
        write_atomically(folder / "refs" / part.revision, commit(part))
    return snapshot


def _write_file(folder: Path, path: str, target: Path, seed: int) -> None:
    if path in _WEIGHTS:
        metadata = None if path.startswith("open_clip") else {"format": "pt"}  # as each library saves its own
        save_file(
            {
                name: _draw(name, tensor, f"{folder.name}/{seed}")
                for name, tensor in published_tensors(folder, path).items()
            },
            target,
            metadata,
        )
    elif path in _TEXTS:
        target.write_text(_TEXTS[path](), encoding="utf-8")
    else:
        shutil.copyfile(folder / path, target)


def _blob_name(path: Path) -> str:
    """A file's name among the blobs, as the hub gives it: SHA-256 of a large file, git's object hash of any other."""
    size = path.stat().st_size
    digest = hashlib.sha256() if size > _LARGE else hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _link(path: Path, blob: Path) -> None:
    """Make `path` a relative link to `blob`, or move `blob` there where links cannot be made, as the hub's client does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = path.resolve() if path.is_symlink() else None
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        blob.replace(path)
    if earlier not in (None, path.resolve()):
        earlier.unlink(missing_ok=True)  # another seed's blob, which nothing points to any more


# --------------------------------------------------------------------------------------------- weights


class Tensor(NamedTuple):
    """What a weight file says of one tensor, and the name that its numbers are drawn under (one name for tied tensors)."""

    shape: tuple[int, ...]
    drawn_as: str
    positions: bool = False  # int64 0, 1, 2, ... where the others are float32 draws


def published_tensors(folder: Path, path: str) -> dict[str, Tensor]:
    """The tensors of the published weight file `path`, from the configurations in `folder`, by name.

    The architecture is built on PyTorch's meta device, which takes no memory for weights.
    """
    weights = _WEIGHTS[path]
    with torch.device("meta"):
        return weights.tensors(json.loads((folder / weights.configuration).read_text()))


def _of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: Tensor(tuple(value.shape), name) for name, value in model.state_dict().items()}


def _unet(configuration: dict) -> dict[str, Tensor]:
    return _of(UNet2DConditionModel.from_config(configuration))


def _autoencoder(configuration: dict) -> dict[str, Tensor]:
    # the file is older than the present names of the attention layers; diffusers renames them while loading
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(?<=mid_block\.attentions\.0\.)(to_q|to_k|to_v|to_out\.0)(?=\.)")
    return {
        pattern.sub(lambda match: earlier[match[0]], name): tensor
        for name, tensor in _of(AutoencoderKL.from_config(configuration)).items()
    }


def _text_encoder(configuration: dict) -> dict[str, Tensor]:
    # transformers 5 dropped the prefix and the positions from its module; the file has both
    model = CLIPTextModel(CLIPTextConfig(**configuration))
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in _of(model).items()}
    return tensors | _positions("text_model.embeddings.position_ids", model.config.max_position_embeddings)


def _captioner(configuration: dict) -> dict[str, Tensor]:
    # the file holds the output matrix beside the word embeddings it is tied to, and the output bias under one name
    model = BlipForConditionalGeneration(BlipConfig(**configuration))
    tensors, words = _of(model), "text_decoder.bert.embeddings.word_embeddings.weight"
    tensors["text_decoder.cls.predictions.decoder.weight"] = tensors[words]
    tensors.pop("text_decoder.cls.predictions.decoder.bias", None)
    return tensors | _positions(
        "text_decoder.bert.embeddings.position_ids", model.config.text_config.max_position_embeddings
    )


def _clip(configuration: dict) -> dict[str, Tensor]:
    return _of(open_clip.model.CLIP(**configuration["model_cfg"]))


def _positions(name: str, count: int) -> dict[str, Tensor]:
    return {name: Tensor((1, count), name, positions=True)}


def _draw(name: str, tensor: Tensor, seed: str) -> torch.Tensor:
    """Numbers for one tensor: float32, scaled so that activations neither vanish nor overflow, or int64 positions."""
    if tensor.positions:
        return torch.arange(math.prod(tensor.shape)).reshape(tensor.shape)
    if name.endswith("logit_scale"):
        return torch.full(tensor.shape, math.log(1 / 0.07))
    embedding = "embedding" in tensor.drawn_as
    if len(tensor.shape) == 1 and not embedding:
        return torch.ones(tensor.shape) if name.endswith("weight") else torch.zeros(tensor.shape)
    # a generator for each tensor, so that its numbers depend on nothing but the seed and its name
    digest = hashlib.sha256(f"{seed}/{tensor.drawn_as}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    deviation = 0.02 if embedding else math.prod(tensor.shape[1:]) ** -0.5
    # strong positions and weak branches let the captioner's layers tell positions apart: no caption of one word repeated
    if embedding and "position" in name:
        deviation *= 10
    elif "output.dense" in name:
        deviation /= 5
    return torch.empty(tensor.shape).normal_(0, deviation, generator=generator)


class _Weights(NamedTuple):
    configuration: str  # the file that describes the architecture
    tensors: Callable[[dict], dict[str, Tensor]]


_WEIGHTS = {
    "unet/diffusion_pytorch_model.safetensors": _Weights("unet/config.json", _unet),
    "vae/diffusion_pytorch_model.safetensors": _Weights("vae/config.json", _autoencoder),
    "text_encoder/model.safetensors": _Weights("text_encoder/config.json", _text_encoder),
    "model.safetensors": _Weights("config.json", _captioner),
    "open_clip_model.safetensors": _Weights("open_clip_config.json", _clip),
}


# --------------------------------------------------------------------------------------------- tokenizers


@lru_cache
def _clip_merges() -> tuple[str, ...]:
    """CLIP's byte-pair merges in rank order, each as two symbols with a space between them."""
    ranks = SimpleTokenizer().bpe_ranks
    return tuple(" ".join(pair) for pair in sorted(ranks, key=ranks.get))


def clip_vocabulary() -> dict[str, int]:
    """CLIP's 49,408 tokens and their ids: the bytes, the bytes that end a word, the merges, and two special tokens."""
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [f"{symbol}</w>" for symbol in symbols] + [merge.replace(" ", "") for merge in _clip_merges()]
    return {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def bert_vocabulary() -> list[str]:
    """A stand-in for BLIP's 30,522 WordPiece entries: special tokens at their published ids, CLIP's words by rank."""
    specials = ["[PAD]", *(f"[unused{index}]" for index in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    specials += [f"[unused{index}]" for index in range(99, 994)]
    characters = [character for character in map(chr, range(33, 127)) if not character.isupper()]
    inner = [f"##{character}" for character in characters if character.isalnum()]
    tokens = (merge.replace(" ", "") for merge in _clip_merges())
    words = [token.removesuffix("</w>") for token in tokens if re.fullmatch("[a-z]{2,}</w>", token)]
    entries = specials + characters + inner + words[:_BERT_WORDS]
    return entries + [f"##{ending}" for ending in words[: _BERT_ENTRIES - len(entries)]]


def _clip_vocabulary_text() -> str:
    return json.dumps(clip_vocabulary(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _clip_merges_text() -> str:
    return "\n".join(["#version: 0.2", *_clip_merges(), ""])


def _bert_vocabulary_text() -> str:
    return "\n".join([*bert_vocabulary(), ""])


def _bert_tokenizer_text() -> str:
    """The vocabulary with BERT's normaliser, splitter and frame of [CLS] and [SEP], as the tokenizers library saves it."""
    ids = {token: index for index, token in enumerate(bert_vocabulary())}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", frame)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer.to_str(pretty=True)


_TEXTS: dict[str, Callable[[], str]] = {
    "tokenizer/vocab.json": _clip_vocabulary_text,
    "tokenizer/merges.txt": _clip_merges_text,
    "vocab.txt": _bert_vocabulary_text,
    "tokenizer.json": _bert_tokenizer_text,
}


# --------------------------------------------------------------------------------------------- the rehearsal itself


def run(cache: Path | str, models: str = "sd14", recipe: str = "paper") -> dict:
    """Segment a photograph with `models` from `cache`, offline; return the times in seconds, the peak memory and what was found."""
    return _offline(cache, "measure", models, recipe)


def needs(
    cache: Path | str, root: Path | str, models: str = "sd14", images: int = 4, batch_sizes: Sequence[int] = (1, 4)
) -> dict:
    """What an evaluation on Pascal VOC 2012's val split at `root` needs with each recipe and batch size: time and memory.

    The first `images` are evaluated from `cache`, offline, each setting in a process of its own; the whole split is their mean
    times its number of images.
    """
    rows = [
        _offline(cache, "measure_evaluation", models, recipe, str(root), images, size)
        for recipe in RECIPES
        for size in batch_sizes
    ]
    common = {key: next(row.pop(key) for row in rows) for key in ("images", "threads")}
    return dict(models=models, dataset="voc12", images_measured=images, **common, settings=rows, note=NOISE)


def _offline(cache: Path | str, function: str, *arguments) -> dict:
    """What a function of this module returns in a process of its own, since the hub's client reads its settings when it is imported."""
    call = f"import json; from fsdlib.world import rehearsal; print(json.dumps(rehearsal.{function}(*{arguments!r})))"
    settings = dict(HF_HUB_CACHE=str(Path(cache).resolve()), HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, "-c", call], env=os.environ | settings, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_evaluation(models: str, recipe: str, root: str, images: int, batch_size: int) -> dict:
    """One setting of what `needs` reports, from the models that this process finds."""
    dataset = open_dataset("voc12", root)
    with tempfile.TemporaryDirectory() as folder:
        method = FreeSegDiff(ModelSet(models, "cpu"), get_recipe(recipe))
        run = evaluate(dataset, method, folder, images, batch_size=batch_size, threads=torch.get_num_threads())
        timing = json.loads((run.folder / "timing.json").read_text())
    seconds = timing["seconds_an_image"]
    return dict(
        images=dataset.expected,
        recipe=recipe,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        seconds_an_image=seconds,
        hours_in_all=round(sum(seconds.values()) * dataset.expected / 3600, 1),
        peak_memory_gib=round(timing["memory_mib"] / 1024, 2),
    )


def measure(models: str, recipe: str) -> dict:
    """What `run` reports, from the models that this process finds."""
    import resource  # Unix only, and nothing else here is

    import skimage

    started = time.perf_counter()
    loaded = load_models(models, device="cpu")
    ready = time.perf_counter()
    result = segment(skimage.data.astronaut(), loaded, get_recipe(recipe))
    finished = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return dict(
        models=loaded.identity,
        recipe=recipe,
        photograph="skimage.data.astronaut(), 512 x 512",
        seconds=dict(load=round(ready - started, 1), segment=round(finished - ready, 1)),
        processor_seconds=round(time.process_time(), 1),
        peak_memory_gib=round(peak / 2**30, 2),
        threads=torch.get_num_threads(),
        caption=result.caption,
        found=list(result.found),
        note=NOISE,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.rehearsal",
        description="Write a hub cache of random weights, to run a model set offline.",
    )
    parser.add_argument("--cache", type=Path, required=True, help="a new or empty folder; sd14 takes 5.9 GB")
    parser.add_argument("--models", default="sd14", choices=MODEL_SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--run", action="store_true", help="then segment a photograph offline and write reports/rehearsal.json"
    )
    parser.add_argument("--recipe", default="paper", choices=RECIPES, help="the recipe to run")
    parser.add_argument(
        "--voc",
        type=Path,
        metavar="ROOT",
        help="then evaluate a few images of Pascal VOC 2012 offline and write reports/voc12_needs.json",
    )
    parser.add_argument("--images", type=int, default=4, help="how many, with --voc")
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        written = write_cache(arguments.cache, sources(arguments.models).values(), arguments.seed)
    except (FileExistsError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for repository, snapshot in written.items():
        size = sum(path.stat().st_size for path in snapshot.rglob("*") if path.is_file())
        print(f"{repository}: {size / 1e9:.2f} GB of random numbers in {snapshot}")
    print(
        f"{time.perf_counter() - started:.0f} s; use it with HF_HUB_CACHE={arguments.cache.resolve()} HF_HUB_OFFLINE=1"
    )
    if arguments.run:
        report = run(arguments.cache, arguments.models, arguments.recipe)
        path = write_atomically(REPORTS / "rehearsal.json", json.dumps(report, indent=2) + "\n")
        print("{load} s to load, {segment} s to segment one photograph, ".format(**report["seconds"]), end="")
        print(f"{report['peak_memory_gib']} GiB at most, {report['threads']} threads; written to {path}")
    if arguments.voc:
        report = needs(arguments.cache, arguments.voc, arguments.models, arguments.images)
        write_atomically(REPORTS / "voc12_needs.json", json.dumps(report, indent=1) + "\n")
        for row in report["settings"]:
            print(
                "{recipe}, {batch_size} images a batch: {hours_in_all} h for the whole split, {peak_memory_gib} GiB at most".format(
                    **row
                )
            )
