"""`python -m fsdlib PICTURE...`: named masks of pictures, each as an overlay to look at, a palette PNG and a JSON."""

import argparse
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fsdlib.pictures import SUFFIXES, in_folder, shown

if TYPE_CHECKING:
    import numpy as np

    from fsdlib.pipeline import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment the pictures that the command line names; returns 0, or 1 where a picture or the models could not be read.

    Raises SystemExit with code 2 where the command line itself is wrong.
    """
    parser = _parser()
    asked = parser.parse_args(arguments)
    # torch takes seconds to import, which --help and a slip in the command line need not wait for
    from tqdm import tqdm

    from fsdlib.backbones import check_backbone
    from fsdlib.models import ModelUnavailable, load_models, sources
    from fsdlib.pipeline import as_array, segment
    from fsdlib.recipe import get_recipe, parse_change
    from fsdlib.vocabulary import Vocabulary

    try:
        pictures = list(_pictures(asked.pictures))
        _check_outputs(pictures, asked.out)
        sources(asked.models, backbone=asked.backbone)
        recipe = get_recipe(asked.recipe)
        if asked.set:
            recipe = recipe.with_changes(dict(map(parse_change, asked.set)))
        check_backbone(recipe.features, asked.backbone)
        vocabulary = Vocabulary.of(asked.words) if asked.words else None
    except ValueError as error:
        parser.error(_one_sentence(error))
    if asked.models == "mini":
        print(
            "Models mini: they know only drawings, and what they say about photographs means nothing (--models sd14)."
        )
    models, failed = None, []
    for picture in tqdm(pictures, unit="picture") if len(pictures) > 1 else pictures:
        try:
            image = as_array(picture)
            models = models or load_models(asked.models, backbone=asked.backbone)
            result = segment(image, models, recipe, vocabulary, asked.seed)
            overlay = _save(image, result, asked.out / picture.stem)
        except ModelUnavailable as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except (OSError, ValueError) as error:
            said = _one_sentence(error)
            failed.append(said if shown(picture) in said else f"{shown(picture)}: {said}")
        else:
            tqdm.write(f"{shown(picture)}: {', '.join(result.found) or 'nothing named'} ({shown(overlay)})")
    if failed and len(pictures) > 1:
        print(f"{len(failed)} of {len(pictures)} pictures were left out:", file=sys.stderr)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib",
        description="Segment pictures into named masks. Each gives OUT/NAME_overlay.png to look at, OUT/NAME.png (palette PNG of the "
        "labels) and OUT/NAME.json (caption, words, scores, recipe, models).",
    )
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", type=_path, help="a picture, or a folder of pictures")
    parser.add_argument(
        "--words", metavar='"CAT, SOFA"', type=_names, help="names to choose from; without it the caption names"
    )
    parser.add_argument("--models", default="mini", help="which weights: mini (the default), sd14, ...")
    parser.add_argument(
        "--backbone",
        help="a network whose features take the UNet's place, with --set features=network: scenes-mae, dinov2, ...",
    )
    parser.add_argument(
        "--recipe", default="best", help="how they are used: best (the default), fast, paper, diffcut, sclip, ..."
    )
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="another value of one of the recipe's options, as JSON or a plain word; can be given several times",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("segmented"), help="folder to write to (default: segmented)")
    return parser


def _path(text: str) -> Path:
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.I):
        raise argparse.ArgumentTypeError(f"{text} is an address: save the picture first and give its path")
    return Path(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("no word is given: separate several by commas, or leave --words out")
    return names


def _pictures(paths: Sequence[Path]) -> Iterator[Path]:
    """The files themselves, and of folders the pictures that lie directly in them, by name; raises ValueError for a folder without any."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = in_folder(path)
        if not inside:
            raise ValueError(
                f"{path} holds no picture ({', '.join(SUFFIXES)}): give a folder whose pictures lie directly in it"
            )
        yield from inside


def _check_outputs(pictures: Sequence[Path], out: Path) -> None:
    """Raises ValueError where what is written would take the place of a picture, or of what another picture gives."""
    written: dict[str, Path] = {}
    for picture in pictures:
        if picture.parent.resolve() == out.resolve():
            raise ValueError(f"{picture} lies in --out, where its result could replace it: choose another folder")
        for name in (picture.stem, f"{picture.stem}_overlay"):
            if name in written:
                raise ValueError(
                    f"{written[name]} and {picture} would both be written to {out / name}.png: segment one of them into another folder"
                )
            written[name] = picture


def _save(image: "np.ndarray", result: "Result", stem: Path) -> Path:
    """Write the three files; returns the overlay's path."""
    from matplotlib.figure import Figure

    from fsdlib.figures import show_overlay
    from fsdlib.project import write_atomically

    result.save(stem)
    figure = Figure(figsize=(6, 6))
    show_overlay(image, result.labels, result.names, figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return write_atomically(stem.with_name(f"{stem.name}_overlay.png"), buffer.getvalue())


def _one_sentence(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
