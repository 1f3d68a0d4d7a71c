"""What the embedded models reach in the embedded world: captions, names, features and the whole, on val scenes.

`python -m fsdlib.embedded` measures, gathers the evaluation runs, writes reports/embedded.json and prints the tables.
None of these numbers says anything about photographs.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from tqdm import tqdm

from fsdlib import names as naming
from fsdlib import scores
from fsdlib.caption import caption
from fsdlib.clusters import cluster, masks
from fsdlib.datasets import Dataset, Vocabulary, open_dataset
from fsdlib.features import features, find_taps, image_seed, latents, stack
from fsdlib.models import Diffusion, Models, load_models
from fsdlib.project import REPORTS, write_atomically
from fsdlib.recipe import get_recipe
from fsdlib.scenes import Scene, plural, world_classes, write_scenes

PROBE = dict(timestep=300, noise_samples=3)  # chosen on train scenes: see notebooks/90_train_mini.ipynb
GRID = 16


def spoken_classes(sentence: str, vocabulary: Vocabulary) -> set[str]:
    """The classes a caption names by any of their synonyms, in the singular or the plural; longer synonyms first."""
    spoken, rest = set(), f" {sentence.lower().replace(',', ' ')} "
    forms = [(form, name) for name, words in zip(vocabulary.names[1:], vocabulary.synonyms[1:]) for word in words for form in (word, plural(word))]
    for form, name in sorted(forms, key=lambda pair: -len(pair[0])):
        if f" {form} " in rest:
            spoken.add(name)
            rest = rest.replace(f" {form} ", " , ")
    return spoken


def caption_scores(sentences: Sequence[str], present: Sequence[set[str]], vocabulary: Vocabulary) -> dict[str, float]:
    """Recall and precision of the classes named, over all pictures together."""
    spoken = [spoken_classes(sentence, vocabulary) for sentence in sentences]
    hits = sum(len(a & b) for a, b in zip(spoken, present))
    return dict(recall=hits / max(1, sum(map(len, present))), precision=hits / max(1, sum(map(len, spoken))))


def naming_accuracy(dataset: Dataset, count: int, models: Models, view: str = "black_frame") -> float:
    """The share of ground-truth masks whose best name among all classes is right."""
    right = total = 0
    for i in tqdm(range(count), desc=f"naming ({view})"):
        labels = dataset.labels(i)
        present = [label for label in np.unique(labels) if label not in (0, scores.VOID)]
        pictures = naming.views(dataset.image(i), np.stack([labels == label for label in present]), view)
        chosen = naming.score(pictures, dataset.vocabulary.names[1:], models.clip).argmax(axis=1) + 1
        right, total = right + int((chosen == present).sum()), total + len(present)
    return right / total


def matched_counts(array: np.ndarray, truth: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """K-means on (C, h, w) features, K the classes in the truth (background too) plus one, every cluster given its majority class.

    Returns the confusion count of `fsdlib.scores` at the truth's size: what features are worth apart from names.
    """
    k = len(np.setdiff1d(truth, [scores.VOID])) + 1
    regions = masks(cluster(array, k, seed), *truth.shape).argmax(axis=0)
    return scores.confusion(scores.majority_labels(regions, truth), truth, classes)


def feature_scores(dataset: Dataset, count: int, diffusion: Diffusion, seed: int = 0) -> dict[str, float]:
    """What k-means makes of different features: majority-matched dataset mIoU (see `matched_counts`).

    diffusion: the paper's taps, which were the best on train scenes; untrained: the same of random weights;
    self_attention: the encoder's last self-attention; rgb and latents: colours and the autoencoder's latents. All on a
    16 x 16 grid; networks' features normalised, rgb and latents as they are.
    """
    torch.manual_seed(seed)
    random_unet = UNet2DConditionModel.from_config(diffusion.unet.config).to(diffusion.device).eval()
    networks = {
        "diffusion": (diffusion, find_taps(diffusion)),
        "untrained": (replace(diffusion, unet=random_unet, _encoded={}), find_taps(diffusion)),
        "self_attention": (diffusion, find_taps(diffusion, "self_attention_output", "encoder_last")),
    }
    counts: dict[str, list[np.ndarray]] = {}
    for i in tqdm(range(count), desc="features"):
        image, truth = dataset.image(i), dataset.labels(i)
        latent, noise_seed = latents([image], diffusion, seed), image_seed(image, "noise", seed)
        arrays = {name: stack([a[0] for a in features(latent, model, taps, [noise_seed], **PROBE)], GRID, normalise=True) for name, (model, taps) in networks.items()}
        colours = Image.fromarray(image).resize((GRID, GRID), Image.Resampling.BOX)
        arrays |= {"rgb": np.asarray(colours, np.float32).transpose(2, 0, 1), "latents": stack([latent[0]], GRID)}
        for name, array in arrays.items():
            counts.setdefault(name, []).append(matched_counts(array, truth, len(dataset.vocabulary), image_seed(image, "clusters", seed)))
    return {name: scores.miou(of_name)["dataset"] for name, of_name in counts.items()}


def probe_taps(diffusion: Diffusion, scenes: Sequence[Scene], timesteps: Sequence[int] = (10, 100, 300), noise_samples: int = 3) -> pd.DataFrame:
    """Majority-matched mIoU of each self-attention output, and of the paper's queries together, at each timestep.

    For choosing taps: give it scenes of the train split. Rows: tap and timestep.
    """
    grids = {tap.grid for grid in (1, 10**6) for tap in find_taps(diffusion, grid=grid)}
    single = [tap for grid in sorted(grids) for tap in find_taps(diffusion, "self_attention_output", grid=grid)]
    groups = {tap.module: [tap] for tap in single} | {"all queries at 16x16": find_taps(diffusion)}
    rows = []
    for timestep in timesteps:
        counts: dict[str, list[np.ndarray]] = {name: [] for name in groups}
        for scene in scenes:
            latent = latents([scene.image], diffusion)
            everything = [tap for taps in groups.values() for tap in taps]
            found = features(latent, diffusion, everything, [image_seed(scene.image, "noise")], timestep, "", noise_samples)
            maps = {tap: array[0] for tap, array in zip(everything, found)}
            for name, taps in groups.items():
                array = stack([maps[tap] for tap in taps], GRID, normalise=True)
                counts[name].append(matched_counts(array, scene.labels, len(world_classes()) + 1, image_seed(scene.image, "clusters")))
        rows += [dict(tap=name, timestep=timestep, miou=scores.miou(of_name)["dataset"]) for name, of_name in counts.items()]
    return pd.DataFrame(rows)


def measure(dataset: Dataset, models: Models, count: int, seed: int = 0, batch_size: int = 20) -> dict:
    """Captions, naming and features on the dataset's first `count` scenes."""
    present = [{dataset.vocabulary.names[label] for label in np.unique(dataset.labels(i)) if label not in (0, scores.VOID)} for i in range(count)]
    starts = range(0, count, batch_size)
    sentences = [s for start in starts for s in caption([dataset.image(i) for i in range(start, min(start + batch_size, count))], models.captioner)]
    return dict(
        captions=caption_scores(sentences, present, dataset.vocabulary),
        naming=dict(accuracy=naming_accuracy(dataset, count, models), accuracy_on_crops=naming_accuracy(dataset, count, models, "crop")),
        features=feature_scores(dataset, count, models.diffusion, seed),
    )


def report(runs: Sequence[Path], count: int = 200, seed: int = 0, out: Path = REPORTS / "embedded.json") -> dict:
    """Measure the mini models, join the summaries of the evaluation runs by recipe, write the report and return it."""
    root = write_scenes(val=count, seed=seed)
    dataset, models = open_dataset("scenes", root), load_models("mini")
    summaries = {summary["recipe"]["name"]: summary for summary in (json.loads((Path(run) / "summary.json").read_text()) for run in runs)}
    for name, summary in summaries.items():
        if summary["identity"] != models.identity or summary["images"] != count or summary["recipe"] != get_recipe(name).model_dump(mode="json"):
            raise ValueError(f"the run of recipe {name!r} is not of these models, this recipe and {count} scenes: delete reports/runs and evaluate again")
    content = dict(
        about="Measured in the embedded world of generated scenes with the mini models; says nothing about photographs.",
        scenes=dict(split="val", count=count, seed=seed, side=json.loads((root / "scenes.json").read_text())["side"]),
        **measure(dataset, models, count, seed),
        end_to_end={name: summary["miou"] for name, summary in summaries.items()},
        seed=seed,
        models=models.identity,
        runs={name: summary["hash"] for name, summary in summaries.items()},
        recipes={name: summary["recipe"] for name, summary in summaries.items()},
    )
    write_atomically(out, json.dumps(content, indent=1) + "\n")
    return content


def as_text(content: dict) -> str:
    """The report as the tables `make run` prints."""
    c, f = content, content["features"]
    lines = [
        f"Embedded world, {c['scenes']['count']} val scenes, models 'mini' (says nothing about photographs)",
        f"  captions   recall {c['captions']['recall']:.3f}   precision {c['captions']['precision']:.3f}",
        f"  naming     {c['naming']['accuracy']:.3f} of ground-truth masks right on black frames, {c['naming']['accuracy_on_crops']:.3f} on crops",
        "  features   " + "   ".join(f"{name} {value:.3f}" for name, value in f.items()) + "   (majority-matched mIoU)",
        "",
        f"  {'mIoU':<10} {'dataset':>9} {'per_image':>11}",
    ]
    return "\n".join(lines + [f"  {name:<10} {row['dataset']:>9.3f} {row['per_image']:>11.3f}" for name, row in c["end_to_end"].items()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fsdlib.embedded", description="Measure the mini models and write reports/embedded.json.")
    parser.add_argument("runs", nargs="*", type=Path, help="folders of evaluation runs over the val scenes")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    print(as_text(report(arguments.runs, arguments.count)))
