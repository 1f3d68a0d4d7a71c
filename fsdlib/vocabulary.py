"""Class lists: what label maps count in, how each class is said, and its colour."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VOID = 255


@dataclass(frozen=True)
class Vocabulary:
    """The classes that label maps count in: `names[label]`, with label 0 for background.

    synonyms[label]: every way to say the class, its name first. Names are written as a person would say them
    ("potted plant"), since CLIP reads them.
    background: whether label 0 is a class. Where it is none, ground truth never has it and a prediction of 0 means "no
    name".
    colours[label]: (R, G, B) of each label, or None for Pascal VOC's.
    strings[label]: the class as one text, in which spaces part the words that are encoded for themselves, as
    FreeSeg-Diff's release takes classes ("person man woman"; METHOD, row 2a); the names where none are given.
    finer: for groups of classes, the list of the classes themselves, which masks are named with; groups[label of finer]
    is then the label here.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    background: bool = True
    colours: tuple[tuple[int, int, int], ...] | None = None
    strings: tuple[str, ...] = ()
    finer: "Vocabulary | None" = None
    groups: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "strings", self.strings or self.names)
        for name in (*self.names, *(word for words in self.synonyms for word in words)):
            if not isinstance(name, str) or not name.strip() or any(letter < " " for letter in name):
                raise ValueError(f"a class is called {name!r}: name it in words, in one line")
        if not self.names or self.names[0] != "background":
            raise ValueError(
                f"a vocabulary starts with 'background' at label 0, this one with {self.names[:1]}: put it first"
            )
        if later := [label for label, name in enumerate(self.names) if label and name.casefold() == "background"]:
            raise ValueError(
                f"the class with label {later[0]} is called {self.names[later[0]]!r}, which is label 0: take it out of the "
                "classes, whose labels then follow on, or put it first"
            )
        if len(self.names) == 1:
            raise ValueError("a class list is empty: give at least one class beside the background, or no list at all")
        if len(self.names) != len(self.synonyms):
            raise ValueError(
                f"{len(self.names)} names and {len(self.synonyms)} lists of synonyms: give each class one list"
            )
        if len(self.names) != len(self.strings):
            raise ValueError(f"{len(self.names)} names and {len(self.strings)} strings: give each class one, or none")
        if len(set(self.names)) != len(self.names):
            raise ValueError(
                f"class names are given twice: {sorted(n for n in set(self.names) if self.names.count(n) > 1)}"
            )
        if self.colours is not None and len(self.colours) != len(self.names):
            raise ValueError(
                f"{len(self.names)} names and {len(self.colours)} colours: give each class one colour, or none to any"
            )
        if len(self.groups) != len(self.finer or ()):
            raise ValueError(
                f"{len(self.finer or ())} finer classes and {len(self.groups)} groups: give each of those one group"
            )
        if not all(0 <= group < len(self.names) for group in self.groups):
            raise ValueError(f"groups reach {max(self.groups)}, but there are {len(self.names)} labels: mend them")

    @classmethod
    def of(cls, names: Iterable[str]) -> "Vocabulary":
        """A vocabulary from plain class names without synonyms; background is put before them.

        A list may begin with "background" itself, or with "void" where background is no class. Raises ValueError for
        what is no list of names, or an empty one.
        """
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise ValueError(f"the class names are {names!r} and no list: write ['cat', 'dog']")
        listed = [name.strip() if isinstance(name, str) else name for name in names]
        known, background = _first(listed[0] if listed else None)
        listed = [known or "background", *listed[bool(known) :]]
        if len(listed) == 1:
            raise ValueError("a class list is empty: give at least one class beside the background, or no list at all")
        return cls(tuple(listed), tuple((name,) for name in listed), background)

    @classmethod
    def read(cls, path: Path | str, background: bool = True) -> "Vocabulary":
        """A vocabulary from a CSV with the columns index and name, and where wanted synonyms, colour and string.

        Index 0 is called background, or void where background is no class. Synonyms are separated by semicolons, a
        colour is written as rrggbb; an empty string is the name.
        """
        rows = class_rows(path)
        try:
            colours = [(r, g, b) for r, g, b in (bytes.fromhex(row["colour"]) for row in rows if row.get("colour"))]
        except ValueError as error:
            raise ValueError(
                f"a colour in {path} is not of the form rrggbb ({error}): write 804080 for (128, 64, 128)"
            ) from error
        known, counted = _first(rows[0]["name"])
        rows[0]["name"] = known or rows[0]["name"]
        return cls(
            tuple(row["name"] for row in rows),
            tuple((row["name"], *filter(None, (row.get("synonyms") or "").split(";"))) for row in rows),
            background and counted,
            tuple(colours) or None,
            tuple(row.get("string") or row["name"] for row in rows),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> bytes:
        """The colours of all 256 labels as 768 bytes for PIL's putpalette; 255 has the colour VOC gives to void."""
        own = bytes(channel for colour in self.colours or () for channel in colour)
        return own + palette()[len(own) :]


def class_rows(path: Path | str) -> list[dict[str, str]]:
    """The rows of a class list, by index."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a mark
            reader = csv.DictReader(file)
            columns, found = set(reader.fieldnames or ()), list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table that can be read ({error}): save it anew as CSV in UTF-8") from error
    if not {"index", "name"} <= columns:
        raise ValueError(f"{path} has no columns index and name: write them in its first line")
    by_index = {row["index"]: row for row in found if row["name"]}
    if not found or by_index.keys() != {str(index) for index in range(len(found))}:
        raise ValueError(
            f"the indices in {path} are not 0, 1, 2, ..., each with a name: number the classes without gaps"
        )
    return [by_index[str(index)] for index in range(len(found))]


def _first(name: object) -> tuple[str, bool]:
    """What the first name of a list says of label 0: "background" where it names that, and whether that is a class."""
    said = name.casefold() if isinstance(name, str) else ""
    return "background" if said in ("background", "void") else "", said != "void"


def palette() -> bytes:
    """VOC's 256 colours as 768 bytes for PIL's putpalette: label bits, from the lowest, spread over R, G and B."""
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (
                ((labels >> (3 * place + channel)) & 1) << (7 - place) if 3 * place + channel < 8 else 0
            )
    return colours.tobytes()


_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "sheep": "sheep",
    "fish": "fish",
    "skis": "skis",
    "lens": "lenses",
    "people": "people",
    "plant life": "plant life",
}
# of the words in f and fe those that change it, alone or at the end of another word ("bookshelf")
_TO_VES = ("calf", "elf", "half", "knife", "leaf", "life", "loaf", "scarf", "wife", "wolf")


def plural(word: str) -> str:
    """The plural of a class's name, whose last word takes the ending; what is a plural already ("stairs") stays as it is."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    *before, last = word.split(" ")
    if last.endswith(_TO_VES):
        ending = last.removesuffix("e").removesuffix("f") + "ves"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        ending = last[:-1] + "ies"
    elif last.endswith(("as", "is", "os", "ss", "us", "x", "ch", "sh")):
        ending = last + "es"
    else:
        ending = last if last.endswith("s") else last + "s"
    return " ".join([*before, _IRREGULAR.get(last, ending)])
