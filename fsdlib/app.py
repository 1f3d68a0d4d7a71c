"""The page of `40_your_pictures`: a picture and its result as what a browser shows and keeps, and the controls around it.

What is shown is SVG without a script: names and scores appear under the pointer wherever SVG is drawn, in JupyterLab, in a
page of Voilà and in a saved notebook. ipywidgets and scikit-image are imported where they are used: the extra `notebooks`
brings them.
"""

import base64
import html
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import distance_transform_edt

import fsdlib
from fsdlib import pictures
from fsdlib.figures import label_colours, show_overlay
from fsdlib.models import MODEL_SETS, ModelUnavailable, load_models
from fsdlib.pipeline import Result, segment
from fsdlib.project import CLASSES
from fsdlib.recipe import BACKGROUND_NAMES, RECIPES, get_recipe
from fsdlib.vocabulary import Vocabulary

SIDE = 1000  # pixels of the longer side of a picture on the page; files keep the picture's own
SPECK = 8  # pixels: smaller ones are not outlined on the page; the files have them
MOST = 40  # pictures at once: each is kept on the page, with its files
MAY_NAME = {
    "what the recipe says": "",
    "those that the caption speaks of": "closed",
    "any mask": "given",
}
_STYLE = """<style>
.fsd-picture {display: block; width: 100%; height: auto; border-radius: 6px; background: #ddd}
.fsd-rest {fill: #999; fill-opacity: .55}
.fsd-mask path {fill-opacity: .5; stroke: #fff; stroke-opacity: .9; vector-effect: non-scaling-stroke; stroke-width: 1.5px}
.fsd-mask:hover path {fill-opacity: .15; stroke-width: 3px}
.fsd-mask text {font-family: sans-serif; font-weight: 600; text-anchor: middle; dominant-baseline: middle; fill: #fff;
  stroke: #111; stroke-width: .22em; stroke-linejoin: round; paint-order: stroke; pointer-events: none}
.fsd-mask .fsd-score, .fsd-mask:hover .fsd-name {display: none}
.fsd-mask:hover .fsd-score {display: inline}
.fsd-result {display: flex; flex-wrap: wrap; gap: 20px; max-width: 1000px; margin: 0 0 28px; font: 15px/1.5 sans-serif}
.fsd-result > div {flex: 1 1 260px; min-width: 0}
.fsd-result > .fsd-left {flex: 1 1 420px; max-width: 560px}
.fsd-result h3 {margin: 0 0 6px; font: 600 17px/1.4 sans-serif; overflow-wrap: anywhere}
.fsd-result p {margin: 0 0 10px}
.fsd-result table {border-collapse: collapse; margin: 0 0 12px; font: inherit; border: 0}
.fsd-result td, .fsd-result th {padding: 2px 16px 2px 0; text-align: left; border: 0; background: none; white-space: nowrap}
.fsd-result td.fsd-number {text-align: right; font-variant-numeric: tabular-nums}
.fsd-swatch {display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 3px}
.fsd-result .fsd-files a {display: inline-block; margin: 0 8px 8px 0; padding: 3px 10px; border: 1px solid #1b6ca8;
  border-radius: 5px; color: #1b6ca8; text-decoration: none}
.fsd-result small {color: #666; line-height: 1.4; display: block}
.fsd-said {font: 15px/1.5 sans-serif; margin: 4px 0}
.fsd-wrong {color: #a3123a}
</style>"""


def found(result: Result) -> list[dict]:
    """The classes that some pixel carries, largest first: label, name, score, share of the picture, colour.

    score: of the mask that CLIP was surest of among those with this name, None where no mask has it.

    >>> from fsdlib.recipe import PAPER
    >>> [one["name"] for one in found(segment(picture, models, PAPER, ["dog", "pizza"]))]
    ['dog']
    """
    best: dict[int, float] = {}
    for mask, (text, label) in enumerate(zip(result.assigned, result.cluster_labels)):
        if label:
            best[int(label)] = max(best.get(int(label), 0.0), float(result.scores[mask, text]))
    labels, sizes = np.unique(result.labels[result.labels > 0], return_counts=True)
    return [
        dict(
            label=int(label),
            name=result.names[label],
            score=best.get(int(label)),
            share=float(size / result.labels.size),
            colour="#" + bytes(label_colours(label).tolist()).hex(),
        )
        for size, label in sorted(zip(sizes, labels), reverse=True)
    ]


def facts(result: Result, picture: str, models: str) -> dict:
    """What the JSON of a picture holds: its classes with scores, the caption, and all that it takes to get them again.

    picture, models: the names of both.
    """
    whole = result.as_dict()
    kept = ("caption", "words", "candidates", "names", "seeds", "recipe", "notes")
    return dict(
        picture=picture,
        height=result.labels.shape[0],
        width=result.labels.shape[1],
        classes=[{key: one[key] for key in ("label", "name", "score", "share")} for one in found(result)],
        **{key: whole[key] for key in kept},
        model_set=models,
        models=whole["models"],
        version=fsdlib.__version__,
    )


def overlay_png(image: np.ndarray, result: Result) -> bytes:
    """The picture with its named masks and their legend, as `show_overlay` draws them, as a PNG."""
    figure, buffer = Figure(figsize=(6, 6)), io.BytesIO()
    show_overlay(image, result.labels, result.names, figure.subplots())
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return buffer.getvalue()


def files(image: np.ndarray, result: Result, picture: str, models: str) -> dict[str, bytes]:
    """What can be kept of a picture, by file name: the overlay, the indexed label map, the facts as JSON."""
    stem = Path(picture).stem
    said = json.dumps(facts(result, picture, models), indent=1, ensure_ascii=False, allow_nan=False)
    return {
        f"{stem}_overlay.png": overlay_png(image, result),
        f"{stem}_labels.png": pictures.label_png(result.labels),
        f"{stem}.json": said.encode(),
    }


def hover(image: np.ndarray, result: Result) -> str:
    """The picture, (H, W, 3) uint8, as SVG with its masks over it: each says its name, under the pointer its score too.

    Larger pictures are shown at `SIDE` pixels.
    """
    size = np.array(image.shape[1::-1])
    width, height = np.maximum(1, size * min(1, SIDE / size.max())).round().astype(int).tolist()
    shown = Image.fromarray(image).resize((width, height))
    labels = np.asarray(Image.fromarray(result.labels).resize((width, height), Image.Resampling.NEAREST))
    drawn = [_mask(labels == one["label"], one) for one in found(result) if (labels == one["label"]).any()]
    return (
        f'<svg class="fsd-picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        f'<image width="{width}" height="{height}" href="{_address(*_compressed(shown))}"></image>'
        f'<path class="fsd-rest" fill-rule="evenodd" d="{_outline(labels == 0)}">'
        f"<title>background: no name was given here</title></path>{''.join(drawn)}</svg>"
    )


def shown(image: np.ndarray, result: Result, picture: str, models: str) -> str:
    """A picture's whole result as HTML: what `hover` draws, caption, classes, and links that save the files."""
    name = html.escape(picture)
    rows = "".join(
        f'<tr><td><span class="fsd-swatch" style="background:{one["colour"]}"></span>{html.escape(one["name"])}</td>'
        f'<td class="fsd-number">{_score(one)}</td><td class="fsd-number">{one["share"]:.1%}</td></tr>'
        for one in found(result)
    )
    table = f"<table><tr><th>class</th><th>score</th><th>share</th></tr>{rows}</table>"
    kinds = {"_overlay.png": "overlay (PNG)", "_labels.png": "label map (PNG)", ".json": "classes and scores (JSON)"}
    links = "".join(
        f'<a download="{html.escape(file)}" href="{_address(content, _type(file))}">{kind}</a>'
        for (file, content), kind in zip(files(image, result, picture, models).items(), kinds.values())
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in result.notes)
    return (
        f'{_STYLE}<div class="fsd-result"><div class="fsd-left">{hover(image, result)}</div><div><h3>{name}</h3>'
        f"<p>Caption: <i>{html.escape(result.caption)}</i></p>{table if rows else '<p>Nothing was named.</p>'}{notes}"
        f'<p class="fsd-files">{links}</p><small>Models {html.escape(models)}, recipe {html.escape(result.recipe.name)}. '
        "A score is how probable CLIP finds the name for the mask among all names it chose from. Names appear with their "
        "scores under the pointer.</small></div></div>"
    )


def words_of(text: str) -> list[str]:
    """The words that were typed, apart by commas, semicolons or line ends; none where there is no letter.

    >>> words_of("cat, potted plant;\\ncat ,")
    ['cat', 'potted plant']
    """
    for sign in ";\n":
        text = text.replace(sign, ",")
    return list(dict.fromkeys(word for part in text.split(",") if (word := " ".join(part.split()))))


def unknown(words: Sequence[str]) -> list[str]:
    """Those of the words that the world of the mini models has no object or pattern for.

    >>> unknown(["dog", "submarine"])
    ['submarine']
    """
    return [word for word in words if word.casefold() not in _known()]


@cache
def _known() -> frozenset[str]:
    synonyms = Vocabulary.read(CLASSES / "scenes.csv").synonyms
    return frozenset({word.casefold() for words in synonyms for word in words} | set(BACKGROUND_NAMES))


def uploaded(files: Sequence[Mapping]) -> Iterator[tuple[str, np.ndarray | Exception]]:
    """Pictures as ipywidgets' FileUpload gives them: name and picture, or why that file is none.

    files: mappings with a name and a content, of which the content is anything that holds bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            # under a name of our own, since that of an upload is whatever a browser says
            path = Path(folder) / f"{number}"
            path.write_bytes(bytes(file["content"]))
            name = pictures.shown(file["name"])
            try:
                image: np.ndarray | Exception = pictures.read(path)
            except ValueError as error:
                image = ValueError(str(error).replace(repr(str(path)), repr(name)))
            path.unlink()
            yield name, image


def lying_in(folder: str) -> Iterator[tuple[str, np.ndarray | Exception]]:
    """The pictures that lie directly in a folder: name and picture, or why that file is none.

    Raises ValueError where there is no such folder, or no picture in it.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder!r}: give the path of one that holds pictures")
    inside = pictures.in_folder(path)
    if not inside:
        raise ValueError(f"{folder!r} holds no picture ({', '.join(pictures.SUFFIXES)}): give another folder")
    return _read(inside)


def _read(paths: Sequence[Path]) -> Iterator[tuple[str, np.ndarray | Exception]]:
    for path in paths:
        try:
            yield pictures.shown(path.name), pictures.read(path)
        except (OSError, ValueError) as error:
            yield pictures.shown(path.name), error


def page(
    example: tuple[np.ndarray, Result, str] | None = None,
    models: str = "mini",
    recipe: str = "best",
    words: str = "",
    folder: str = "",
    seed: int = 0,
):
    """The controls, and below them what they gave: an ipywidgets box.

    example: a picture, (H, W, 3) uint8, its result and its name, shown until the first pictures are segmented. The others
    are what the controls begin with. Errors are said on the page, a sentence each.
    """
    import ipywidgets as widgets

    wide, long = widgets.Layout(width="auto"), dict(description_width="90px")
    upload = widgets.FileUpload(accept="image/*", multiple=True, description="Choose pictures", layout=wide)
    path = widgets.Text(folder, placeholder="or the path of a folder", layout=wide)
    asked = widgets.Text(words, placeholder="cat, sofa (empty: the caption's words)", layout=wide)
    mode = widgets.Dropdown(options=MAY_NAME, description="they name", style=long, layout=wide)
    which = widgets.Dropdown(options=list(MODEL_SETS), value=models, description="models", style=long, layout=wide)
    how = widgets.Dropdown(options=list(RECIPES), value=recipe, description="recipe", style=long, layout=wide)
    start = widgets.Button(description="Segment", button_style="primary", layout=wide)
    status, results = widgets.HTML(), widgets.VBox()
    loaded: dict = {}
    if example:
        image, result, name = example
        results.children = (widgets.HTML(shown(image, result, name, models)),)

        status.value = _said(["An example, until you choose pictures of your own and press Segment."])

    def run(_) -> None:
        start.disabled = True
        try:
            status.value = _said(*segment_all())
        except ModelUnavailable as error:
            status.value = _said(wrong=[f"The models {which.value} are not here: {error}."])
        except ValueError as error:
            status.value = _said(wrong=[_sentence(error)])
        finally:
            start.disabled = False

    def segment_all() -> tuple[list[str], list[str]]:
        """What to say when all is done: of the pictures segmented, and of those that were not."""
        given = words_of(asked.value)
        vocabulary = Vocabulary.of(given) if given else None
        chosen = get_recipe(how.value)
        chosen = chosen.with_changes({"vocabulary": mode.value}, chosen.name) if mode.value else chosen
        chosen.vocabulary.check(vocabulary)
        if not upload.value and not path.value.strip():
            raise ValueError("no picture is chosen: choose some, or give the path of a folder")
        boxes: list = []
        wrong: list[str] = []
        chosen_pictures = uploaded(upload.value) if upload.value else lying_in(path.value.strip())
        for number, (name, image) in enumerate(chosen_pictures, 1):
            if number > MOST:
                wrong.append(f"Only the first {MOST} pictures are taken: python -m fsdlib FOLDER takes any number.")
                break
            try:
                if isinstance(image, Exception):
                    raise image
                if which.value not in loaded:
                    status.value = _said([f"Loading the models {which.value} ..."])
                    loaded.clear()  # one set in memory at a time
                    loaded[which.value] = load_models(which.value)
                status.value = _said([f"Picture {number}, {name} ..."], wrong)
                result = segment(image, loaded[which.value], chosen, vocabulary, seed)
            except (OSError, ValueError) as error:
                said = _sentence(error)
                wrong.append(said if name in said else f"{name}: {said}")
                continue
            boxes.append(widgets.HTML(shown(image, result, name, which.value)))
            results.children = tuple(boxes)
        count = f"{len(boxes)} picture{'s' * (len(boxes) != 1)} segmented."
        return [count, *_notes(which.value, given)], wrong

    start.on_click(run)
    controls = [_heading("Pictures"), upload, path, _heading("Words"), asked, mode, _heading("How"), which, how, start]
    left = widgets.VBox(controls, layout=widgets.Layout(width="280px", flex="0 0 280px"))
    right = widgets.VBox([status, results], layout=widgets.Layout(flex="1 1 420px", min_width="0"))
    layout = widgets.Layout(flex_flow="row wrap", grid_gap="24px", align_items="flex-start")
    return widgets.Box([left, right], layout=layout)


def show(box, otherwise: str) -> None:
    """Show a box of widgets; where no program stands behind them, in a saved notebook or a printed page, `otherwise`, HTML."""
    from IPython.display import display

    bundle = box._repr_mimebundle_()
    display({**bundle, "text/html": otherwise, "text/plain": "a page with controls"}, raw=True)


def _heading(text: str):
    import ipywidgets as widgets

    return widgets.HTML(f'<b style="font: 600 15px sans-serif">{text}</b>')


def _notes(models: str, words: Sequence[str]) -> list[str]:
    """What a person should know of the models that were chosen, and of the words."""
    if models != "mini":
        return []
    notes = ["The mini models know only drawings: what they say of photographs means nothing. Choose sd14 for those."]
    if strange := unknown(words):
        notes.append(f"Their world has no {', no '.join(strange)}: a mask with such a name means nothing.")
    return notes


def _said(right: Sequence[str] = (), wrong: Sequence[str] = ()) -> str:
    """Sentences as HTML, those about what went wrong in red."""
    kinds = [(one, "fsd-said") for one in right] + [(one, "fsd-said fsd-wrong") for one in wrong]
    return _STYLE + "".join(f'<p class="{kind}">{html.escape(one)}</p>' for one, kind in kinds)


def _sentence(error: Exception) -> str:
    """An error as a sentence on the page."""
    said = " ".join(str(error).split())
    return f"{said[:1].upper()}{said[1:]}."


def _mask(mask: np.ndarray, one: Mapping) -> str:
    """A class's pixels, (H, W) bool, as a group of SVG: outline, name, name and score."""
    height, width = mask.shape
    depth = distance_transform_edt(np.pad(mask, 1))
    y, x = np.unravel_index(depth.argmax(), depth.shape)  # the middle of the widest place, where the name stands
    letters = max(width, height) / 32
    name, score = html.escape(one["name"]), _score(one)
    place = 'x="{:g}" y="{:g}" font-size="{:g}"'
    texts = "".join(
        f'<text class="{kind}" {place.format(_inside(x - 0.5, len(text), letters, width), np.clip(y - 0.5, letters, height - letters), letters)}>{said}</text>'
        for kind, text, said in (
            ("fsd-name", one["name"], name),
            ("fsd-score", f"{one['name']} {score}", f"{name} {score}"),
        )
    )
    return (
        f'<g class="fsd-mask"><path fill-rule="evenodd" fill="{one["colour"]}" stroke="{one["colour"]}" d="{_outline(mask)}">'
        f"<title>{name}, {score}</title></path>{texts}</g>"
    )


def _inside(x: float, count: int, letters: float, width: int) -> float:
    """Where a text of so many letters is centred, moved so that it is not cut off by the picture's edge."""
    half = min(0.32 * letters * count, width / 2)
    return round(float(np.clip(x, half, width - half)), 1)


def _outline(mask: np.ndarray) -> str:
    """The edges of a mask, (H, W) bool, as an SVG path, specks and gaps of a few pixels left out; holes are those of the even-odd rule."""
    from skimage.measure import approximate_polygon, find_contours

    edges = sorted(find_contours(np.pad(mask, 1).astype(np.float32), 0.5), key=_area, reverse=True)
    large = [edge for edge in edges if _area(edge) >= SPECK] or edges[:1]
    polygons = (approximate_polygon(edge, 0.5) - 0.5 for edge in large)
    return "".join(f"M{' '.join(f'{x:g},{y:g}' for y, x in polygon)}Z" for polygon in polygons)


def _area(edge: np.ndarray) -> float:
    """What a closed line, (N, 2), encloses, in pixels (Gauss's formula)."""
    y, x = edge.T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _score(one: Mapping) -> str:
    return "none" if one["score"] is None else f"{one['score']:.2f}"


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _compressed(picture: Image.Image) -> tuple[bytes, str]:
    """A picture as a JPEG, or as a PNG where that is smaller, as it is of drawings."""
    buffer, exact = io.BytesIO(), _png(picture)
    picture.save(buffer, "JPEG", quality=88)
    return min((buffer.getvalue(), "image/jpeg"), (exact, "image/png"), key=lambda pair: len(pair[0]))


def _type(file: str) -> str:
    return "application/json" if file.endswith(".json") else "image/png"


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
