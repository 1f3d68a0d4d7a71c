"""Speed: the published flow, written plainly, beside this project's, on the same pictures with the same models.

Both run in one process, picture by picture in turn, so that whatever else the machine does falls on both alike: the
ratios are the result, and the times are this machine's. Beside them stand a stream of pictures on all cores, and what the
models' arithmetic alone would take at the rate of a large matrix product. `make bench` writes reports/speed.json.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.cluster
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels
from sklearn.metrics import silhouette_score
from torch.utils.flop_counter import FlopCounterMode

from fsdlib import clusters as clustering
from fsdlib import words
from fsdlib.caption import BeamSearch
from fsdlib.clusters import KMeans
from fsdlib.features import UNetFeatures, features, image_seed, latents, stack
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.models import MODEL_SETS, REHEARSAL, Models, ModelUnavailable, load_models
from fsdlib.names import BlackFrame, OneClusterPerClass, score
from fsdlib.on_processor import as_without_this, keep_freed_memory
from fsdlib.pipeline import Result, segment_batch
from fsdlib.project import CLASSES, REPORTS, ROOT, write_atomically
from fsdlib.recipe import PAPER, RECIPES, Recipe
from fsdlib.refinement import Crf, paint
from fsdlib.stopwatch import Stopwatch, timed
from fsdlib.stream import stream, threads_of, usable_cores
from fsdlib.vocabulary import Vocabulary

STAGES = ("caption", "features", "words", "clusters", "names", "refinement")
KEPT = REPORTS / "speed.json"
_ONE = dict(OMP_NUM_THREADS="1")  # thread


@dataclass(frozen=True)
class Plain:
    """What the published flow makes of a picture, and what its stages took; see `Result` for the arrays."""

    caption: str
    clusters: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    seconds: dict[str, float]
    processor_seconds: dict[str, float]


def plainly(
    image: np.ndarray, models: Models, vocabulary: Vocabulary, seed: int = 0, lists_once: bool = False
) -> Plain:
    """The recipe `paper` in the closed vocabulary (METHOD, rows 1 and 10, and between), one picture and one mask at a time.

    The UNet runs to its end, k-means and the silhouette see all channels, CLIP gets every mask with all texts, each mask
    has a CRF of its own. The class list is encoded for every picture, and for every mask once more by CLIP, unless
    `lists_once`. Captioner, samplers and seeds are those of `segment`, and so are the labels.
    """
    watch = Stopwatch()
    diffusion, clip = (models.diffusion, models.clip) if lists_once else (replace(models.diffusion), None)
    sentence = BeamSearch().caption([image], models.captioner)[0]
    watch.lap("caption")

    taps = UNetFeatures().taps.find(diffusion)
    with as_without_this(diffusion.encoder, diffusion.unet):
        passed, noise = latents([image], diffusion, seed), [image_seed(image, "noise", seed)]
        maps = [array[0] for array in features(passed, diffusion, taps, noise, to_the_end=True)]
    watch.lap("features")

    choices = PAPER.vocabulary.choices(words.words(sentence), vocabulary, diffusion, (), None, PAPER.wording)
    watch.lap("words")

    stacked = stack(maps)
    positions = stacked.reshape(len(stacked), -1).T
    options = dict(n_init=KMeans().restarts, random_state=image_seed(image, "clusters", seed))
    found = sklearn.cluster.KMeans(KMeans().count, **options).fit_predict(positions)
    clusters = found.reshape(stacked.shape[1:]).astype(np.uint8)
    silhouette_score(positions, found)
    masks = clustering.masks(clusters, *image.shape[:2])
    watch.lap("clusters")

    rows = [score([image * mask[..., None]], choices.texts, clip or replace(models.clip)) for mask in masks]
    assigned = OneClusterPerClass().assign(np.concatenate(rows), choices.eligible, choices.background, masks)
    regions, texts = OneClusterPerClass().regions(masks, assigned)
    watch.lap("names")

    refined = [_crf_of_two_labels(image, mask) for mask in regions]
    labels = paint(np.array(refined, bool).reshape(regions.shape), [choices.label(text) for text in texts])
    watch.lap("refinement")
    return Plain(sentence, clusters, masks, labels, watch.seconds, watch.processor_seconds)


def _crf_of_two_labels(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One mask refined, (H, W) bool, as pydensecrf's documentation has it."""
    own, (height, width) = Crf(), mask.shape
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_from_labels(mask.astype(np.int32), 2, own.gt_prob, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=own.gaussian_sxy, compat=own.gaussian_compat)
    appearance = dict(sxy=own.bilateral_sxy, srgb=own.bilateral_srgb, compat=own.bilateral_compat)
    crf.addPairwiseBilateral(rgbim=np.require(image, np.uint8, ["C", "W"]), **appearance)
    return np.argmax(crf.inference(own.iterations), axis=0).reshape(height, width).astype(bool)


def compared(
    images: Sequence[np.ndarray], models: Models, vocabulary: Vocabulary, seed: int = 0, lists_once: bool = False
) -> dict:
    """Both flows on each of (H, W, 3) uint8 pictures in turn, after the first was run once uncounted.

    Returns ratios of processor and clock time, plain over ours, as the median over pictures with its quartiles; means by
    stage in milliseconds; and the pictures whose caption, clusters and labels are equal.
    """
    plainly(images[0], models, vocabulary, seed, lists_once)
    segment_batch([images[0]], models, PAPER, vocabulary, seed)
    pairs: list[tuple[Plain, Result]] = []
    for number, image in enumerate(images):
        ours = segment_batch([image], models, PAPER, vocabulary, seed)[0] if number % 2 else None
        theirs = plainly(image, models, vocabulary, seed, lists_once)
        pairs.append((theirs, ours or segment_batch([image], models, PAPER, vocabulary, seed)[0]))
    totals = {
        which: np.array([[sum(getattr(one, field).values()) for one in pair] for pair in pairs])
        for which, field in (("cpu", "processor_seconds"), ("wall", "seconds"))
    }
    return dict(
        images=len(images),
        ratio={which: _spread(total[:, 0] / total[:, 1]) for which, total in totals.items()},
        milliseconds={
            which: dict(plain=_mean([one for one, _ in pairs], field), ours=_mean([one for _, one in pairs], field))
            for which, field in (("cpu", "processor_seconds"), ("wall", "seconds"))
        },
        equal=dict(
            captions=sum(a.caption == b.caption for a, b in pairs),
            clusters=sum(np.array_equal(a.clusters, b.clusters) for a, b in pairs),
            labels=sum(np.array_equal(a.labels, b.labels) for a, b in pairs),
        ),
    )


def alone(images: Sequence[np.ndarray], models: Models, recipe: Recipe, vocabulary: Vocabulary, batch: int = 8) -> dict:
    """What a picture takes in batches under a recipe: milliseconds by stage, of the processor and of the clock."""
    segment_batch(images[:batch], models, recipe, vocabulary)
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    results = [result for part in parts for result in segment_batch(part, models, recipe, vocabulary)]
    fields = dict(cpu="processor_seconds", wall="seconds")
    return dict(
        images=len(images), batch=batch, milliseconds={which: _mean(results, field) for which, field in fields.items()}
    )


def streamed(
    images: Sequence[np.ndarray], models: Models, vocabulary: Vocabulary, batch: int = 1, rounds: int = 3
) -> dict:
    """What a picture takes by the clock, in milliseconds, under the recipe `paper`: one batch after another on one core (`one`), and in a stream on all.

    Every picture passes `rounds` times. The start of the stream's processes is within its time.
    """
    pictures, watch = [*images] * rounds, Stopwatch()
    for start in range(0, len(pictures), batch):
        segment_batch(pictures[start : start + batch], models, PAPER, vocabulary)
    watch.lap("one")
    for _ in stream(pictures, models, PAPER, vocabulary, batch=batch):
        pass
    watch.lap("all")
    taken = {which: round(1000 * seconds / len(pictures), 1) for which, seconds in watch.seconds.items()}
    return dict(batch=batch, cores=usable_cores(), milliseconds=taken, ratio=round(taken["one"] / taken["all"], 3))


def arithmetic(image: np.ndarray, models: Models, vocabulary: Vocabulary, gflops: float) -> dict:
    """The models' work on one picture, step by step, in both flows: what it took, and what its sums take at a given rate.

    gflops: thousand million sums and products of float32 a second, such as those of a large matrix product. Of each step
    and flow: `gflop`, as PyTorch counts them (convolutions, matrix products and attention; nothing else), `least`, the
    milliseconds that they take at that rate, and `milliseconds` of the processor. Ours has met the class list before.
    """
    diffusion, clip, wording = models.diffusion, models.clip, PAPER.wording
    taps, passed, texts = UNetFeatures().taps.find(diffusion), latents([image], diffusion), wording.texts(vocabulary)
    frames = BlackFrame().pictures(image, clustering.masks(np.arange(4).reshape(2, 2), *image.shape[:2]))

    def unet(to_the_end: bool):
        return lambda: features(passed, diffusion, taps, [0], to_the_end=to_the_end)

    def named_one_by_one():
        return [score([frame], texts, replace(clip)) for frame in frames]

    steps: dict[str, tuple[Callable, Callable]] = {
        "caption": (lambda: BeamSearch().caption([image], models.captioner),) * 2,
        "latent": (lambda: latents([image], diffusion),) * 2,
        "UNet": (unet(to_the_end=True), unet(to_the_end=False)),
        "class list": (
            lambda: wording.encodings(vocabulary, replace(diffusion)),
            lambda: wording.encodings(vocabulary, diffusion),
        ),
        "CLIP": (named_one_by_one, lambda: score(frames, texts, clip)),
    }
    found: dict[str, dict] = {}
    for step, (plain, ours) in steps.items():
        with as_without_this(diffusion.encoder, diffusion.unet):
            of_plain = _counted(plain, gflops)
        found[step] = dict(plain=of_plain, ours=_counted(ours, gflops))
    return found


def _counted(call: Callable, gflops: float) -> dict[str, float]:
    call()
    _, watch = timed("it", call)
    with FlopCounterMode(display=False) as counter:
        call()
    gflop = counter.get_total_flops() / 1e9
    taken = 1000 * watch.processor_seconds["it"]
    return dict(gflop=round(gflop, 3), least=round(1000 * gflop / gflops, 1), milliseconds=round(taken, 1))


def _mean(results: Sequence[Plain | Result], field: str) -> dict[str, float]:
    """Milliseconds by stage and in all."""
    by_stage = {stage: 1000 * float(np.mean([getattr(one, field)[stage] for one in results])) for stage in STAGES}
    return {stage: round(value, 1) for stage, value in (by_stage | {"all": sum(by_stage.values())}).items()}


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return dict(median=round(middle, 3), quartiles=[round(low, 3), round(high, 3)])


def machine(device: str = "cpu") -> dict:
    """What the figures are of: processor, cores, threads, versions, and the rate of its float32 matrix product in GFLOP/s."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return dict(
        processor=names[0] if names else platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        versions=dict(python=platform.python_version(), torch=torch.__version__, sklearn=sklearn.__version__),
        sgemm_gflops=round(_sgemm(device)),
    )


def _sgemm(device: str, side: int = 2048, times: int = 5) -> float:
    """The best of a few products of square matrices of float32."""
    square, best = torch.ones(side, side, device=device), 0.0
    for _ in range(times):
        watch = Stopwatch()
        (square @ square)[0, 0].item()
        watch.lap("product")
        best = max(best, 2 * side**3 / watch.seconds["product"] / 1e9)
    return best


def measured(
    models: str,
    device: str,
    images: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    recipes: Sequence[Recipe] = tuple(RECIPES.values()),
) -> dict:
    """All of one model set's figures, on one thread."""
    with threads_of(1):
        loaded = load_models(models, device)
        about = machine(device)
        return dict(
            published=compared(images, loaded, vocabulary),
            published_with_lists_once=compared(images, loaded, vocabulary, lists_once=True),
            recipes={recipe.name: alone(images, loaded, recipe, vocabulary) for recipe in recipes},
            stream=[streamed(images, loaded, vocabulary, batch) for batch in (1, 8) if batch <= len(images) / 2],
            arithmetic=arithmetic(images[0], loaded, vocabulary, about["sgemm_gflops"]),
            machine=about,
            weights=loaded.identity,
            random_weights=models != "mini" and (Path(HF_HUB_CACHE) / REHEARSAL).is_file(),
            memory_gib={flow: peak(models, flow) for flow in ("plain", "ours")},
        )


def peak(models: str, flow: str) -> float:
    """The most memory, in GiB, that a process of its own holds which segments one picture by a flow, "plain" or "ours"."""
    call = f"from fsdlib.measure import speed; print(speed.one_picture({models!r}, {flow!r}))"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | _ONE
    )
    return float(done.stdout.splitlines()[-1])


def one_picture(models: str, flow: str) -> float:
    """Segment one picture by a flow and return the most memory, in GiB, that this process has held."""
    (image, *_), vocabulary = pictures_for(models, 1)
    loaded = load_models(models, "cpu")
    if flow == "plain":
        keep_freed_memory(False)
        plainly(image, loaded, vocabulary)
    else:
        segment_batch([image], loaded, PAPER, vocabulary)
    return round(_most_memory() / 2**30, 3)


def _most_memory() -> int:
    """The most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts on Linux what a parent held when it started this process
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0])
    import resource  # Unix only, and nothing else here is

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pictures_for(models: str, count: int) -> tuple[list[np.ndarray], Vocabulary]:
    """Pictures that a model set knows, and their classes: scenes for `mini`, photographs within scikit-image for others."""
    if models == "mini":
        scenes = open_dataset("scenes")
        return [scenes.image(i) for i in range(count)], scenes.vocabulary
    photographs = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    return [photographs[i % len(photographs)] for i in range(count)], Vocabulary.read(CLASSES / "voc12.csv")


def keep(models: str, found: dict, path: Path = KEPT) -> Path:
    """Put a model set's figures among those of its machine; what other machines gave stays beside them."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    about = found["machine"]
    key = f"{about['device'] if about['device'] != 'cpu' else about['processor']}, {about['cores']} cores"
    kept.setdefault(key, {})[models] = found
    return write_atomically(path, json.dumps(kept, indent=1, sort_keys=True) + "\n")


def said(models: str, found: dict) -> str:
    """The figures in a few lines."""
    lines = [f"{models}: the published flow, written plainly, over this project's (median; quartiles)"]
    for which, title in (("published", "as published"), ("published_with_lists_once", "class list encoded once")):
        of = found[which]
        ratios = ", ".join(
            f"{clock} {one['median']:.2f} ({one['quartiles'][0]:.2f} to {one['quartiles'][1]:.2f})"
            for clock, one in of["ratio"].items()
        )
        equal = ", ".join(f"{count} of {of['images']} {what}" for what, count in of["equal"].items())
        lines.append(f"  {title}: {ratios}; equal: {equal}")
    for of in found["stream"]:
        beside = found["published"]["milliseconds"]["wall"]["plain"]["all"] / of["milliseconds"]["all"]
        lines.append(
            f"  a stream in batches of {of['batch']} on {of['cores']} cores: {of['milliseconds']['all']:.0f} ms a picture by the clock, "
            f"{of['ratio']:.2f} times as quick as on one, {beside:.2f} times as the published flow on one"
        )
    for step, both in found["arithmetic"].items():
        said_of = (
            f"{flow} {one['gflop']:.3g} GFLOP, {one['milliseconds']:.0f} ms (at least {one['least']:.0f})"
            for flow, one in both.items()
        )
        lines.append(f"  {step}: {'; '.join(said_of)}")
    stages = found["published"]["milliseconds"]["cpu"]
    lines += [
        f"  {stage:<12}{stages['plain'][stage]:>10.1f} {stages['ours'][stage]:>10.1f} ms" for stage in (*STAGES, "all")
    ]
    for name, recipe in found["recipes"].items():
        lines.append(
            f"  {name}: {recipe['milliseconds']['cpu']['all']:.0f} ms of the processor a picture, in batches of {recipe['batch']}"
        )
    return "\n".join(
        [*lines, f"  memory: {found['memory_gib']['plain']} GiB plain, {found['memory_gib']['ours']} GiB ours"]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.speed", description="The published flow beside this project's, in one process."
    )
    parser.add_argument("--models", default="mini", choices=MODEL_SETS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=0, help="how many (default: 32 scenes, 4 photographs)")
    asked = parser.parse_args()
    count = asked.images or (32 if asked.models == "mini" else 4)
    try:
        found = measured(asked.models, asked.device, *pictures_for(asked.models, count))
    except (ModelUnavailable, FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(said(asked.models, found))
    print(keep(asked.models, found))
