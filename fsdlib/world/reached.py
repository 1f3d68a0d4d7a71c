"""What the embedded models reach in the embedded world: captions, names, features and the whole, on val scenes.

`python -m fsdlib.world.reached` measures, gathers the evaluation runs, writes reports/embedded.json and prints the tables.
None of these numbers says anything about photographs.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from tqdm import tqdm

from fsdlib.backbones import captioner_patches, clip_patches, mean_colours
from fsdlib.caption import caption
from fsdlib.features import features, find_taps, image_seed, latents, stack
from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.summary import read_summary
from fsdlib.models import Captioner, Clip, Diffusion, Models, load_captioner, load_clip, load_models, quiet
from fsdlib.names import BlackFrame, Crop, View, score_vectors
from fsdlib.pipeline import segment_batch
from fsdlib.project import MINI, REPORTS, TRAINING, write_atomically
from fsdlib.recipe import BEST, Recipe, get_recipe
from fsdlib.vocabulary import Vocabulary, plural
from fsdlib.words import spoken_classes
from fsdlib.world.probes import GRID, PROBE_PASS, PROBE_TAPS, matched_counts, pointing_game
from fsdlib.world.scenes import STYLES, Scene, close_up, scene_of_split, write_scenes
from fsdlib.world.training import TRAINERS, Settings
from fsdlib.world.training.unet import LOSSES_AT, CaptionedLatents, Denoising, caption_losses


def caption_scores(sentences: Sequence[str], present: Sequence[set[str]], vocabulary: Vocabulary) -> dict[str, float]:
    """Recall and precision of the classes named, over all pictures together."""
    spoken = [spoken_classes(sentence, vocabulary) for sentence in sentences]
    hits = sum(len(a & b) for a, b in zip(spoken, present))
    return dict(recall=hits / max(1, sum(map(len, present))), precision=hits / max(1, sum(map(len, spoken))))


def naming_confusion(dataset: Dataset, count: int, clip: Clip, view: View | None = None) -> np.ndarray:
    """How ground-truth masks are named among all classes: (classes - 1, classes - 1) int64 counts of masks, rows the truth.

    The background is no row and no column: row 0 is the class with label 1.
    """
    names = dataset.vocabulary.names[1:]
    counts = np.zeros((len(names), len(names)), np.int64)
    view = view or BlackFrame()
    for i in tqdm(range(count), desc=f"naming ({view.kind})"):
        labels = dataset.labels(i)
        present = np.setdiff1d(labels, (0, scores.VOID))
        vectors = view.vectors(dataset.image(i), labels == present[:, None, None], clip)
        chosen = score_vectors(vectors, names, clip, view.templates).argmax(axis=1)
        np.add.at(counts, (present - 1, chosen), 1)
    return counts


def accuracy(confusion: np.ndarray) -> float:
    """The share of counts on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def retrieval(dataset: Dataset, sentences: Sequence[str], clip: Clip) -> dict[str, float]:
    """How often CLIP ranks a whole scene's own sentence first among all of them, and a sentence's own scene.

    sentences: one a scene, true captions, the first `len(sentences)` scenes in order.
    """
    pictures = clip.encode_images([dataset.image(i) for i in range(len(sentences))])
    similarity, own = pictures @ clip.encode_text(sentences).T, np.arange(len(sentences))
    return dict(
        caption_at_1=float((similarity.argmax(axis=1) == own).mean()),
        scene_at_1=float((similarity.argmax(axis=0) == own).mean()),
    )


def feature_scores(dataset: Dataset, count: int, models: Models, seed: int = 0) -> dict[str, float]:
    """What k-means makes of different features: majority-matched dataset mIoU (see `matched_counts`).

    diffusion: the taps of PROBE_TAPS, the best on train scenes; self_attention: the encoder's last self-attention;
    untrained: the better of the two in a UNet of random weights; rgb, rgb_position: colours, without and with the
    position, all from 0 to 1; latents: the autoencoder's; clip, captioner: the patch features of the two other models
    (see `clip_patches`, `captioner_patches`). All on a 16 x 16 grid; networks' features normalised, the others as they are.
    """
    diffusion = models.diffusion
    torch.manual_seed(seed)
    random_unet = UNet2DConditionModel.from_config(diffusion.unet.config).to(diffusion.device).eval()
    untrained = replace(diffusion, unet=random_unet)
    best, encoder = find_taps(diffusion, **PROBE_TAPS), find_taps(diffusion, "self_attention_output", "encoder_last")
    networks = {
        "diffusion": (diffusion, best),
        "self_attention": (diffusion, encoder),
        "untrained_best": (untrained, best),
        "untrained_encoder": (untrained, encoder),
    }
    y, x = np.mgrid[:GRID, :GRID].astype(np.float32) / (GRID - 1)
    counts: dict[str, list[np.ndarray]] = {}
    for i in tqdm(range(count), desc="features"):
        image, truth = dataset.image(i), dataset.labels(i)
        latent, noise_seed = latents([image], diffusion, seed), image_seed(image, "noise", seed)
        arrays = {
            name: features(latent, model, taps, [noise_seed], **PROBE_PASS) for name, (model, taps) in networks.items()
        }
        arrays = {name: stack([array[0] for array in found], GRID, normalise=True) for name, found in arrays.items()}
        rgb = mean_colours(image, GRID)
        arrays |= {
            "rgb": rgb,
            "rgb_position": np.concatenate([rgb, y[None], x[None]]),
            "latents": stack([latent[0]], GRID),
            "clip": stack([clip_patches([image], models.clip)[0]], GRID, normalise=True),
            "captioner": stack([captioner_patches([image], models.captioner)[0]], GRID, normalise=True),
        }
        for name, array in arrays.items():
            counts.setdefault(name, []).append(
                matched_counts(array, truth, len(dataset.vocabulary), image_seed(image, "clusters", seed))
            )
    found = {name: scores.miou(of_name)["dataset"] for name, of_name in counts.items()}
    return found | dict(untrained=max(found.pop("untrained_best"), found.pop("untrained_encoder")))


def open_words(
    dataset: Dataset,
    count: int,
    models: Models,
    left_out: Sequence[str],
    recipe: Recipe = BEST,
    seed: int = 0,
    batch_size: int = 20,
) -> dict:
    """How often objects of classes that no list holds get their name from the caption's words.

    The vocabulary is the dataset's without `left_out`; the caption's words are the names (the mode "open"). An
    object's class is named right where most of its pixels carry one of the class's words. Returns `scenes`, the number
    that hold a left-out class, and `named_right`, the share of those in which every such class is named right.
    """
    everything = dataset.vocabulary
    kept = [i for i, name in enumerate(everything.names) if name not in left_out]
    listed = Vocabulary(tuple(everything.names[i] for i in kept), tuple(everything.synonyms[i] for i in kept))
    forms_of = {
        label: {form for word in everything.synonyms[label] for form in (word, plural(word))}
        for label in map(everything.names.index, left_out)
    }
    holding = [i for i in range(count) if forms_of.keys() & set(np.unique(dataset.labels(i)).tolist())]
    right = 0
    for start in tqdm(range(0, len(holding), batch_size), desc="open vocabulary"):
        chosen = holding[start : start + batch_size]
        results = segment_batch(
            [dataset.image(i) for i in chosen], models, recipe.with_changes({"vocabulary": "open"}), listed, seed
        )
        for i, result in zip(chosen, results):
            truth = dataset.labels(i)
            named = [
                result.names[np.bincount(result.labels[truth == label]).argmax()] in forms
                for label, forms in forms_of.items()
                if (truth == label).any()
            ]
            right += all(named)
    return dict(left_out=list(left_out), scenes=len(holding), named_right=right / max(1, len(holding)))


def samples(
    captions: Sequence[str],
    folder: Path = MINI / "stable-diffusion",
    steps: int = 30,
    guidance: float = 3.0,
    seed: int = 0,
) -> np.ndarray:
    """Pictures that the diffusion model makes of captions, (N, side, side, 3) uint8: diffusers' own pipeline, one seed a picture."""
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, dtype=torch.float32, local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    generators = [
        torch.Generator().manual_seed(image_seed(np.frombuffer(caption.encode(), np.uint8), "sample", seed))
        for caption in captions
    ]
    return np.stack(
        pipeline(
            list(captions), num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        * 255
    ).astype(np.uint8)


def painted_right(
    clip: Clip, vocabulary: Vocabulary, count: int, folder: Path = MINI / "stable-diffusion", seed: int = 0
) -> dict[str, float]:
    """How often CLIP names a picture that the diffusion model made by the one class that its prompt speaks of.

    The prompts are captions of close-ups of val scenes, each once, the names all classes. Returns `pictures`, their
    number; `named_right`, the share; and `chance`.
    """
    names = vocabulary.names[1:]
    of_caption: dict[str, Scene] = {}
    for i in itertools.count():
        one = close_up(scene_of_split("val", i, seed), np.random.default_rng([seed, i]))
        of_caption.setdefault(one.captions[0], one)
        if len(of_caption) == count:
            break
    wanted = list(of_caption.values())
    right = 0
    for start in tqdm(range(0, count, 25), desc="painting"):
        part = wanted[start : start + 25]
        pictures = samples([one.captions[0] for one in part], folder, steps=20, seed=seed)
        chosen = score_vectors(clip.encode_images(list(pictures)), names, clip, Crop().templates).argmax(axis=1)
        right += sum(names[number] == one.objects[0] for number, one in zip(chosen, part))
    return dict(pictures=count, named_right=right / count, chance=1 / len(names))


def losses_under_captions(diffusion: Diffusion, scenes: Sequence[Scene], seed: int = 0) -> dict[str, float]:
    """What a caption is worth to the diffusion model: its losses under the right one, a wrong one and none (see `caption_losses`)."""
    encoded = torch.from_numpy(latents([one.image for one in scenes], diffusion, seed))
    scale = diffusion.encoder.config.scaling_factor
    denoising = Denoising(
        diffusion.unet, diffusion.text_encoders[0], diffusion.tokenizers[0], diffusion.scheduler, scale
    )
    return caption_losses(denoising, CaptionedLatents(encoded / scale, [list(one.captions) for one in scenes]))


def drawn_again(dataset: Dataset, count: int) -> list[Scene]:
    """The first `count` scenes of a dataset that `write_scenes` wrote, with all that is known of them."""
    made = json.loads((dataset.root / "scenes.json").read_text())
    return [scene_of_split(dataset.split, i, made["seed"], made["side"], tuple(made["styles"])) for i in range(count)]


def measure(
    dataset: Dataset, models: Models, count: int, seed: int = 0, batch_size: int = 20, folder: Path = MINI
) -> dict:
    """All that the models reach apart from whole runs, on the dataset's first `count` scenes; they came from `folder`."""
    scenes = drawn_again(dataset, count)
    return dict(
        captions=_spoken(dataset, models.captioner, count),
        naming=dict(
            accuracy=accuracy(naming_confusion(dataset, count, models.clip)),
            accuracy_on_crops=accuracy(naming_confusion(dataset, count, models.clip, Crop())),
        ),
        retrieval=retrieval(dataset, [dataset.captions[dataset.ids[i]][0] for i in range(count)], models.clip),
        features=feature_scores(dataset, count, models, seed),
        open_vocabulary=open_words(
            dataset, count, models, dataset.vocabulary.names[4::5], seed=seed, batch_size=batch_size
        ),
        attention=pointing_game(models.diffusion, scenes, dataset.vocabulary, seed=seed),
        losses=losses_under_captions(models.diffusion, scenes, seed),
        painting=painted_right(models.clip, dataset.vocabulary, count, folder / "stable-diffusion", seed),
    )


def style_transfer(trained_on: str, settings: Settings, folder: Path, count: int = 100) -> dict:
    """What a style of drawing that was never trained on costs a captioner and a CLIP.

    Both are trained in `folder` on scenes of one style alone (resuming where that was begun), then measured on `count`
    val scenes of each style. Returns {"trained_on", "settings", "measured": {style: {"captions", "naming"}}}.
    """
    settings = Settings(**settings.model_dump() | dict(styles=(trained_on,)))
    for part in ("vision", "clip", "captioner"):
        TRAINERS[part](settings, folder, folder / "mini")
    captioner, clip, measured = load_captioner(folder / "mini" / "blip"), load_clip(folder / "mini" / "clip"), {}
    for style in STYLES:
        dataset = open_dataset("scenes", write_scenes(folder / style, val=count, styles=(style,), seed=settings.seed))
        measured[style] = dict(
            captions=_spoken(dataset, captioner, count), naming=accuracy(naming_confusion(dataset, count, clip))
        )
    return dict(
        trained_on=trained_on,
        settings=settings.model_dump(mode="json", exclude={"device", "workers"}),
        measured=measured,
    )


def _spoken(dataset: Dataset, captioner: Captioner, count: int, batch_size: int = 20) -> dict[str, float]:
    """How well a captioner names what the first `count` scenes hold, and the share of its sentences that differ from each other."""
    present = [
        {dataset.vocabulary.names[label] for label in np.setdiff1d(dataset.labels(i), (0, scores.VOID))}
        for i in range(count)
    ]
    starts = range(0, count, batch_size)
    sentences = [
        s
        for start in starts
        for s in caption([dataset.image(i) for i in range(start, min(start + batch_size, count))], captioner)
    ]
    return caption_scores(sentences, present, dataset.vocabulary) | dict(different=len(set(sentences)) / count)


def report(runs: Sequence[Path], count: int = 200, seed: int = 0, out: Path = REPORTS / "embedded.json") -> dict:
    """Measure the mini models, join the summaries of the evaluation runs by recipe, write the report and return it."""
    root = write_scenes(val=count, seed=seed)
    dataset, models = open_dataset("scenes", root), load_models("mini")
    summaries = {summary["recipe"]["name"]: summary for summary in map(read_summary, map(Path, runs))}
    for name, summary in summaries.items():
        if (
            summary["identity"] != models.identity
            or summary["images"] != count
            or summary["recipe"] != get_recipe(name).model_dump(mode="json")
        ):
            raise ValueError(
                f"the run of recipe {name!r} is not of these models, this recipe and {count} scenes: delete reports/runs and evaluate again"
            )
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
    c, f, o = content, content["features"], content["open_vocabulary"]
    a, p, losses = content["attention"], content["painting"], content["losses"]
    cost = [100 * (losses[f"wrong_{t}"] / losses[f"right_{t}"] - 1) for t in LOSSES_AT]
    lines = [
        f"Embedded world, {c['scenes']['count']} val scenes, models 'mini' (says nothing about photographs)",
        f"  captions   recall {c['captions']['recall']:.3f}   precision {c['captions']['precision']:.3f}   of the objects present",
        f"  naming     {c['naming']['accuracy']:.3f} of ground-truth masks right on black frames, {c['naming']['accuracy_on_crops']:.3f} on crops",
        f"  retrieval  {c['retrieval']['caption_at_1']:.3f} of scenes rank their own caption first, {c['retrieval']['scene_at_1']:.3f} of captions their scene",
        f"  open words {o['named_right']:.3f} of the {o['scenes']} scenes with a class that the list lacks have it named right",
        f"  attention  {a['right']:.3f} of class words look at their object, by chance {a['chance']:.3f}",
        f"  prompts    a wrong caption costs {', '.join(f'{share:.1f}' for share in cost)} % of the loss at t = {', '.join(map(str, LOSSES_AT))}",
        f"  painting   {p['named_right']:.3f} of {p['pictures']} samples are named as prompted, by chance {p['chance']:.3f}",
        "",
        "  features (majority-matched mIoU)",
        *(f"    {name:<18} {value:.3f}" for name, value in sorted(f.items(), key=lambda pair: -pair[1])),
        "",
        f"  {'mIoU':<10} {'dataset':>9} {'per_image':>11}",
    ]
    return "\n".join(
        lines
        + [f"  {name:<10} {row['dataset']:>9.3f} {row['per_image']:>11.3f}" for name, row in c["end_to_end"].items()]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.reached", description="Measure the mini models and write reports/embedded.json."
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of evaluation runs over the val scenes")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument(
        "--style", choices=STYLES, help="instead: train on this style alone, measure on both, write reports/style.json"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the scenes and the training steps, with --style")
    parser.add_argument("--device", default="cpu", help="for training, with --style")
    a = parser.parse_args()
    if a.style:
        content = style_transfer(a.style, Settings(device=a.device).shorter(a.share), TRAINING / a.style, a.count)
        write_atomically(REPORTS / "style.json", json.dumps(content, indent=1) + "\n")
        print(json.dumps(content["measured"], indent=1))
    else:
        print(as_text(report(a.runs, a.count)))
