"""HOW models are used: one choice for each stage of the method.

`paper` follows the published method to the letter; `best` starts from it with what is known to help; `fast` is `best` for
those in a hurry; `best_sd` is chosen for the real weights from published figures; the others are the method's peers. Any
recipe runs on any models.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError

import fsdlib.backbones  # noqa: F401  its ways to read features are found by their kind
from fsdlib.caption import BeamSearch, Captioning
from fsdlib.choice import Choice
from fsdlib.clusters import Cells, Clustering, KlMerging, KMeans, NormalisedCut, Pooled
from fsdlib.dense import CrossAttention, SelfCorrelation, ValuePath
from fsdlib.features import AttentionMaps, EncoderLast, Features, UNetFeatures
from fsdlib.names import Assignment, BestProposal, BlackFrame, Crop, Dense, Merge, OneClusterPerClass, View
from fsdlib.refinement import Crf, Pamr, Refinement
from fsdlib.spreading import AttentionSpreading, Spreading, Unspread
from fsdlib.words import ClassStrings, Closed, NamesAndSynonyms, VocabularyMode, Wording

# What an explicit background is made of: stuff that photographs show around objects, and the patterns of the scenes.
BACKGROUND_NAMES = (
    "background",
    "wall",
    "floor",
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
    "plain background",
    "spots",
    "stripes",
    "checks",
    "spotted background",
    "striped background",
    "checked background",
)

# Templates for what may be anywhere in a picture, by size too (Gu et al., arXiv 2104.13921, have sixty-three of such forms).
SCENE_TEMPLATES = tuple(
    form.format(size)
    for form in ("a photo of a {}{{}}.", "this is a photo of a {}{{}}.", "there is a {}{{}} in the scene.")
    for size in ("", "small ", "medium ", "large ")
)


class Recipe(Choice):
    """One choice for each stage, and a name. Unknown options and wrong types raise; `with_changes` makes a variant.

    >>> recipe = Recipe()
    >>> recipe.with_changes({"clusters.count": 8, "refinement": "none"}).clusters
    KMeans(count=8, plus_candidates=False, restarts=10)
    >>> Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    True
    """

    name: str = "paper"
    caption: SerializeAsAny[Captioning] = Field(BeamSearch(), description="how a picture gets its caption")
    wording: SerializeAsAny[Wording] = Field(ClassStrings(), description="how the classes of a list are put in words")
    vocabulary: SerializeAsAny[VocabularyMode] = Field(Closed(), description="what the method is told of the classes")
    features: SerializeAsAny[Features] = Field(UNetFeatures(), description="what positions are compared by")
    clusters: SerializeAsAny[Clustering] = Field(KMeans(), description="how positions are grouped into masks")
    view: SerializeAsAny[View] = Field(BlackFrame(), description="what CLIP is shown of a mask")
    spreading: SerializeAsAny[Spreading] = Field(
        Unspread(), description="how scores reach positions that belong together"
    )
    assignment: SerializeAsAny[Assignment] = Field(OneClusterPerClass(), description="how scores become names")
    refinement: SerializeAsAny[Refinement] = Field(Crf(), description="how masks are fitted to edges")

    def with_changes(self, changes: Mapping[str, Any], name: str | None = None) -> "Recipe":
        """A variant with other values at paths such as "clusters.count", "refinement" or "features.taps.grid", validated.

        A stage takes a choice (`NormalisedCut()`), its kind ("normalised_cut"), or a mapping of its kind and options; an
        option takes its value. The variant's name says what was changed unless one is given. Raises ValueError, in one
        sentence that says what there is, for a path, a type or a value that does not fit.
        """
        changed = self
        for path, value in changes.items():
            try:
                changed = changed.with_option(path, value)
            except ValidationError as error:
                wrong = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
                raise ValueError(f"{path}={value!r} does not fit recipe {self.name!r}: {wrong}") from error
        said = (f"{path}={value.kind if isinstance(value, Choice) else value}" for path, value in changes.items())
        return changed.with_option("name", "-".join([self.name, *said]) if name is None else name)

    def __str__(self) -> str:
        return "\n".join([f"recipe {self.name!r}", *self.described(2)[1:]])


def parse_changes(text: str) -> dict[str, Any]:
    """Changes of a recipe as they are written in a shell, "clusters.count=8 refinement=none", for `Recipe.with_changes`.

    Values are JSON where they can be read as that, else text; spaces separate changes, so a value with spaces in it is
    written as JSON: {"clusters.count": 8, "features.prompt": "a photo"}. Raises ValueError for what has neither form.

    >>> parse_changes("clusters.count=8 refinement=none")
    {'clusters.count': 8, 'refinement': 'none'}
    """
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"the changes {text!r} are no JSON ({error}): write a mapping of paths to values"
            ) from error
    return dict(map(parse_change, text.split()))


def parse_change(text: str) -> tuple[str, Any]:
    """One change as it is written in a shell, PATH=VALUE; raises ValueError where there is no value.

    >>> parse_change("features.prompt=a photo")
    ('features.prompt', 'a photo')
    """
    path, sign, value = text.partition("=")
    if not (path and sign):
        raise ValueError(f"the change {text!r} has no value: write PATH=VALUE, such as clusters.count=8")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value


PAPER = Recipe()
BEST = PAPER.with_changes(
    {
        # each class by its name and its synonyms, whole
        "wording": NamesAndSynonyms(),
        # masks of several groupings, coarse and fine, of which each class takes the one that CLIP is surest of, with an
        # explicit background; one grouping alone loses 13 points to it, pieces joined by their names 22 (reports/ablations.json)
        "clusters": Pooled(),
        "assignment": BestProposal(background_names=BACKGROUND_NAMES),
        # CLIP sees more of a small object in a crop; templates beside it changed nothing on train scenes
        "view": Crop(),
        "features.normalise": True,
        # a little noise, averaged over: published optima lie about 50, on train scenes 100 was better than 0 and 300
        "features.timestep": 100,
        "features.noise_samples": 3,
        # without a background class every pixel of the truth has a class, so a guess costs nothing
        "refinement.fill": True,
    },
    name="best",
)
# Three fifths of the time of `best` (reports/tradeoffs.json has the val split's figures, choice by choice): most is saved by one
# smoothing in place of two, at no cost that 200 scenes can tell. A greedy caption saved nothing; without a CRF 8 points went.
# Scenes are smaller than the CRF's size here: of 20 photographs' pixels 97.6 % kept their label at it, in a third of the time.
FAST = BEST.with_changes(
    {
        "features.noise_samples": 1,
        "clusters.cells": (5,),
        "refinement.iterations": 5,
        "refinement.max_pixels": 50_000,
    },
    name="fast",
)

# Peers of the method, each as its paper describes it, in this project's stages: docs/PEERS.md says what each source has,
# what is done here and what is not. The list of classes is given to those whose papers have no other way.
_PHOTOGRAPH = ("a photo of a {}.",)
DIFFCUT = PAPER.with_changes(
    {
        "wording": NamesAndSynonyms(),
        "vocabulary": "given",
        "features": UNetFeatures(taps=EncoderLast(of="self_attention_output"), timestep=50, grid=64, normalise=True),
        "clusters": NormalisedCut(threshold=0.5, power=10.0, stretched=True, grid=32),
        "view": Dense(templates=SCENE_TEMPLATES),
        "assignment": Merge(background_names=("background",)),
        "refinement": Pamr(iterations=15, dilations=(1, 2, 4, 8, 12, 24, 32, 64)),
    },
    name="diffcut",
)
DIFFSEG = PAPER.with_changes(
    {
        "wording": NamesAndSynonyms(),
        "features": AttentionMaps(timestep=300),
        "clusters": KlMerging(anchors=16, threshold=1.0, iterations=3),
        "view": CrossAttention(templates=_PHOTOGRAPH, timestep=300),
        "assignment": Merge(),
        "refinement": "none",
    },
    name="diffseg",
)
DIFFSEGMENTER = PAPER.with_changes(
    {
        "wording": NamesAndSynonyms(),
        "features": AttentionMaps(timestep=100),
        "clusters": Cells(),
        "view": CrossAttention(templates=_PHOTOGRAPH, timestep=100),
        "spreading": AttentionSpreading(keep_range=True),
        "assignment": Merge(threshold=0.5),
        "refinement": "none",
    },
    name="diffsegmenter",
)
ISEG = DIFFSEGMENTER.with_changes(
    {"spreading": AttentionSpreading(steps=10, sharpness=2.0, keep_range=True)}, name="iseg"
)
MASKCLIP = PAPER.with_changes(
    {
        "wording": NamesAndSynonyms(),
        "vocabulary": "given",
        "features": "clip",
        "clusters": Cells(),
        "view": ValuePath(templates=_PHOTOGRAPH),
        "assignment": Merge(background_names=("background",)),
        "refinement": "none",
    },
    name="maskclip",
)
SCLIP = MASKCLIP.with_changes(
    {
        "view": SelfCorrelation(templates=_PHOTOGRAPH),
        "assignment.background_names": BACKGROUND_NAMES,
    },
    name="sclip",
)
# For the real weights, where nothing could be measured here: of each stage what published figures speak for, with the
# figure and its source in docs/PEERS.md. To be run with the models `ssd1b`.
BEST_SD = DIFFCUT.with_changes(
    {
        "vocabulary": Closed(),
        "assignment": Merge(background_names=BACKGROUND_NAMES, threshold=0.2),
    },
    name="best_sd",
)
PEERS = {recipe.name: recipe for recipe in (DIFFCUT, DIFFSEG, DIFFSEGMENTER, ISEG, MASKCLIP, SCLIP)}
RECIPES = {"paper": PAPER, "best": BEST, "fast": FAST, "best_sd": BEST_SD} | PEERS


def get_recipe(name: str) -> Recipe:
    """A recipe by name; raises ValueError with the names there are."""
    if name not in RECIPES:
        raise ValueError(
            f"no recipe is called {name!r}: choose one of {', '.join(RECIPES)}, or make one with Recipe.with_changes"
        )
    return RECIPES[name]
