"""HOW models are used: every choice of the method as a typed, validated, printable option.

`paper` follows the published method to the letter; `best` starts from it with what is known to help. Any recipe runs on
any models.
"""

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

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


class Recipe(BaseModel):
    """All options of the method, stage by stage. Unknown names and wrong types raise; `with_changes` makes a variant."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = "paper"

    # caption
    caption_prompt: str = Field("a picture of ", description="what the captioner continues")
    caption_beams: PositiveInt = Field(3, description="beams of the beam search")
    caption_min_tokens: NonNegativeInt = Field(10, description="shortest caption, in tokens, prompt included")
    caption_max_tokens: PositiveInt = Field(30, description="longest caption, in tokens, prompt included")

    # words
    vocabulary_mode: Literal["closed", "given", "open", "oracle"] = Field(
        "closed",
        description="closed: class list given, the caption predicts presence; given: all of the list; open: the caption's words are the names; oracle: the classes truly present",
    )
    class_prompt: str = Field(
        "A photo of {}", description="how a class is put to the text encoder when words are compared with it"
    )

    # features
    timestep: NonNegativeInt = Field(0, description="diffusion timestep at which the latent is noised, 0 to 999")
    prompt: str = Field("", description="what conditions the UNet; the paper gives it nothing")
    noise_samples: PositiveInt = Field(1, description="noises over which features are averaged")
    taps: Literal["cross_attention_query", "self_attention_output"] = Field(
        "cross_attention_query", description="what is read from the UNet's attention layers"
    )
    tap_blocks: Literal["all", "encoder_last", "decoder_last"] = Field(
        "all",
        description="all: every block at tap_grid; encoder_last: the encoder's last attention block only; decoder_last: the last block at tap_grid only",
    )
    tap_grid: PositiveInt = Field(
        16, description="cells a side of the maps to tap; the model's attention resolution nearest to it is used"
    )
    feature_grid: PositiveInt = Field(32, description="cells a side that all taps are resized to, bilinearly")
    normalise: bool = Field(False, description="scale every tap's vector to unit length at each position")

    # clusters
    clustering: Literal["kmeans", "agglomerative", "spectral", "normalised_cut"] = Field(
        "kmeans", description="how positions are grouped; normalised_cut finds K itself"
    )
    cluster_choice: Literal["fixed", "candidates"] = Field(
        "fixed", description="fixed: K = clusters; candidates: K = number of candidate classes + clusters"
    )
    clusters: PositiveInt = Field(4, description="K, or what is added to the number of candidates")
    restarts: PositiveInt = Field(10, description="k-means++ initialisations")
    ncut_threshold: float = Field(
        0.5, gt=0, lt=1, description="normalised_cut cuts a part while its best cut's value is at most this"
    )
    ncut_power: PositiveFloat = Field(10.0, description="power of the cosine affinity, for spectral and normalised_cut")

    # names
    view: Literal["black_frame", "crop", "dense"] = Field(
        "black_frame",
        description="what CLIP sees of a mask: the frame, black outside it; that cropped to the mask; or the picture's patches under it",
    )
    text_templates: tuple[str, ...] = Field(("{}",), description="templates for CLIP's texts, averaged")
    assignment: Literal["one_cluster_per_class", "merge"] = Field(
        "one_cluster_per_class", description="merge: every cluster takes its best name, clusters of one name are joined"
    )
    background_names: tuple[str, ...] = Field((), description="names that stand for background")
    background_threshold: NonNegativeFloat = Field(
        0.0, le=1, description="a mask whose best probability is below this is background"
    )

    # refinement
    refinement: Literal["crf", "pamr", "none"] = Field(
        "crf", description="dense CRF with two labels a mask, pixel-adaptive mask refinement, or as it is"
    )
    crf_gt_prob: float = Field(0.90, gt=0, lt=1, description="certainty of the unary")
    crf_gaussian_sxy: PositiveFloat = Field(20.0, description="position deviation of the smoothness term, pixels")
    crf_gaussian_compat: PositiveFloat = Field(5.0, description="weight of the smoothness term")
    crf_bilateral_sxy: PositiveFloat = Field(20.0, description="position deviation of the appearance term, pixels")
    crf_bilateral_srgb: PositiveFloat = Field(
        20.0, description="colour deviation of the appearance term, levels of 255"
    )
    crf_bilateral_compat: PositiveFloat = Field(100.0, description="weight of the appearance term")
    crf_iterations: PositiveInt = Field(10, description="mean-field iterations")
    pamr_iterations: PositiveInt = Field(10, description="how often PAMR averages over neighbours")
    pamr_dilations: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 8, 12, 24), description="distances of PAMR's neighbours, pixels"
    )

    @model_validator(mode="after")
    def _consistent(self):
        if self.caption_min_tokens > self.caption_max_tokens:
            raise ValueError(
                f"caption_min_tokens is {self.caption_min_tokens}, above caption_max_tokens, {self.caption_max_tokens}: swap them"
            )
        if self.timestep > 999:
            raise ValueError(f"timestep is {self.timestep}: Stable Diffusion's schedule has 0 to 999")
        if not self.text_templates or any(
            "{}" not in template for template in (self.class_prompt, *self.text_templates)
        ):
            raise ValueError("class_prompt and each of text_templates need a {} where the name goes")
        return self

    def with_changes(self, **changes) -> "Recipe":
        """A variant with other values, validated; its name says what was changed unless one is given."""
        name = changes.pop("name", "-".join([self.name, *(f"{key}={value}" for key, value in changes.items())]))
        return Recipe(**{**self.model_dump(), **changes, "name": name})

    def __str__(self) -> str:
        rows = [f"recipe {self.name!r}"]
        for key, info in type(self).model_fields.items():
            if key != "name":
                value = getattr(self, key)
                shown = (
                    f"({len(value)} names) {', '.join(value[:4])}, ..."
                    if isinstance(value, tuple) and len(value) > 6
                    else repr(value)
                )
                rows.append(f"  {key:<22} {shown:<28} {info.description}")
        return "\n".join(rows)


PAPER = Recipe()
BEST = PAPER.with_changes(
    name="best",
    # over-segment and merge by class
    assignment="merge",
    # CLIP sees more of a small object in a crop; templates beside it changed nothing on train scenes
    view="crop",
    # normalised features, and six clusters more than there are candidates
    normalise=True,
    cluster_choice="candidates",
    clusters=6,
    # an explicit background; the published threshold of about 0.2 beside it lost what was right on train scenes
    background_names=BACKGROUND_NAMES,
    # a little noise, averaged over: published optima lie about 50, on train scenes 100 was better than 0 and 300
    timestep=100,
    noise_samples=3,
)
RECIPES = {"paper": PAPER, "best": BEST}


def get_recipe(name: str) -> Recipe:
    """A recipe by name; raises ValueError with the names there are."""
    if name not in RECIPES:
        raise ValueError(
            f"no recipe is called {name!r}: choose one of {', '.join(RECIPES)}, or make one with Recipe.with_changes"
        )
    return RECIPES[name]
