"""What a summary and its timings must have for all who read them: every entry that a report or a resumed run asks for."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

Share = FiniteFloat | None  # 0 to 1; None where there was nothing to take a mean of
Kind = TypeVar("Kind")
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]


class Form(BaseModel):
    """What an object in a summary must have; it may have more."""

    model_config = ConfigDict(strict=True)


class OfProtocols(Form, Generic[Kind]):
    dataset: Kind
    per_image: Kind
    per_image_union: Kind


class Metrics(Form):
    miou: Share
    pixel_accuracy: Share
    mean_accuracy: Share
    frequency_weighted_iou: Share
    per_image_miou: Share
    per_image_union_miou: Share


class OfPartition(Form):
    majority_miou: Share
    hungarian_miou: Share
    boundary_f: Share


class OfPartitions(Form):
    clusters: OfPartition
    painted: OfPartition


class Naming(Form):
    accuracy: Share


class OfWords(Form):
    recall: Share
    precision: Share


# a default is not checked, and so says that an entry may be missing, but not that it may be null
class OfCaption(Form):
    spoken: Annotated[OfWords, Field(default=None)]
    candidates: Annotated[OfWords, Field(default=None)]


class Counted(Form):
    """What every summary says: of which run it is, and over how many images."""

    hash: str
    dataset: str
    centre_crops: bool
    images: NonNegativeInt
    expected: NonNegativeInt | None
    failed: dict
    complete: bool


class Scored(Form):
    """What else a summary says where any image has a mask to compare with."""

    miou: OfProtocols[Share]
    intervals: OfProtocols[Interval]
    empty: OfProtocols[Share]
    with_background: Annotated[Metrics, Field(default=None)]
    without_background: Metrics
    iou_of_classes: dict[str, Share]
    masks: OfPartitions
    naming: Naming
    caption: OfCaption


class Named(Form):
    name: str


class OfRecipe(Form):
    """What else a summary says where its method has a recipe."""

    recipe: Named
    models: str
    vocabulary_mode: str


class OfTimings(Form):
    """timing.json."""

    seconds_an_image: dict[str, Annotated[FiniteFloat, Field(ge=0)]]


def fault_of_summary(summary: dict) -> str | None:
    """The first entry that a summary lacks or has of another kind than its readers expect, None where there is none."""
    forms: list[type[Form]] = [Counted]
    if summary.get("miou"):
        forms.append(Scored)
    if isinstance(summary.get("recipe"), dict):
        forms.append(OfRecipe)
    return fault(summary, *forms)


def fault(content: dict, *forms: type[Form]) -> str | None:
    """The first entry of an object that one of the forms does not take, such as "miou.dataset", None where there is none."""
    for form in forms:
        try:
            form.model_validate(content)
        except ValidationError as error:
            return ".".join(map(str, error.errors()[0]["loc"]))
    return None
