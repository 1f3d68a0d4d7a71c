"""What the choices of all stages share: small frozen classes with typed options, found by their kind, printed, kept as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Item = TypeVar("Item")
# A list will do where it is asked for, since JSON has no tuples.
Several = Annotated[tuple[Item, ...], Field(strict=False)]


class Choice(BaseModel):
    """One way to do something, with its own options. Unknown options and wrong types raise ValueError.

    A stage is a subclass without a field `kind` (`Clustering`); the ways to do it are the subclasses of that, each with a
    `kind: Literal["..."]` of its own (`KMeans`), wherever they are written. Where a stage is asked for, an instance, a
    mapping with its kind, or the kind alone will do.

    >>> from fsdlib.clusters import Clustering
    >>> Clustering.model_validate("kmeans")
    KMeans(count=4, plus_candidates=False, restarts=10)
    >>> Clustering.model_validate({"kind": "normalised_cut", "threshold": 0.4})
    NormalisedCut(threshold=0.4, power=10.0, stretched=False, grid=None)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    if TYPE_CHECKING:
        kind: str = ""  # of every way to do a stage; no field of the stage itself

    @classmethod
    def kinds(cls) -> dict[str, type["Choice"]]:
        """The ways there are to do a stage, by kind."""
        found: dict[str, type[Choice]] = {}
        for way in cls.__subclasses__():
            if "kind" in way.model_fields:
                found[way.model_fields["kind"].default] = way
            found |= way.kinds()
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, value: Any, handler) -> "Choice":
        kinds = cls.kinds()
        if not kinds or "kind" in cls.model_fields or isinstance(value, Choice):
            return handler(value)
        options = dict(value) if isinstance(value, Mapping) else {"kind": value}
        if not isinstance(options.get("kind"), str) or options["kind"] not in kinds:
            said = repr(options["kind"]) if "kind" in options else "left out"
            raise ValueError(f"the kind of {cls.__name__} is {said}: choose one of {', '.join(kinds)}")
        return kinds[options["kind"]].model_validate(options)

    def __repr__(self) -> str:
        own = [f"{name}={getattr(self, name)!r}" for name in self.option_names()]
        return f"{type(self).__name__}({', '.join(own)})"

    __str__ = __repr__

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of its options."""
        return [name for name in cls.model_fields if name != "kind"]

    def with_option(self, path: str, value: Any, whole: str = "") -> Self:
        """The same with another value at a path such as "count" or "taps.grid", validated.

        Raises ValueError, saying what there is, for a path, a type or a value that does not fit. whole: the path from
        further up, for the message.
        """
        whole = whole or path
        name, _, rest = path.partition(".")
        above = whole.removesuffix(path).removesuffix(".")
        if name not in self.option_names():
            there = (
                f"{above or 'it'} is {type(self).__name__} with the options {', '.join(self.option_names()) or 'none'}"
            )
            elsewhere = [other for other, way in self._siblings().items() if name in way.model_fields]
            hint = f"; {name} is an option of {', '.join(elsewhere)}" if elsewhere else ""
            raise ValueError(f"there is no option {whole!r}: {there}{hint}")
        if rest:
            inner = getattr(self, name)
            if not isinstance(inner, Choice):
                raise ValueError(
                    f"there is no option {whole!r}: {whole.removesuffix('.' + rest)} is {inner!r}, which has none"
                )
            value = inner.with_option(rest, value, whole)
        return type(self).model_validate(
            {option: getattr(self, option) for option in self.option_names()} | {name: value}
        )

    @classmethod
    def _siblings(cls) -> dict[str, type["Choice"]]:
        """The other ways to do the same stage, by kind."""
        stages = [base for base in cls.__mro__ if issubclass(base, Choice) and base is not Choice]
        return stages[-1].kinds()

    def parts(self) -> list["Choice"]:
        """The choices it is made of, at any depth."""
        inner = [value for name in self.option_names() if isinstance(value := getattr(self, name), Choice)]
        return [*inner, *(deeper for choice in inner for deeper in choice.parts())]

    def described(self, indent: int = 0) -> list[str]:
        """One line an option: its name, value and meaning; options that are choices have theirs below them."""
        rows = []
        for name in self.option_names():
            value, meaning = getattr(self, name), type(self).model_fields[name].description or ""
            nested = isinstance(value, Choice)
            if nested:
                shown = type(value).__name__
            elif isinstance(value, tuple) and len(value) > 6:
                shown = f"({len(value)} of them) {', '.join(map(str, value[:4]))}, ..."
            else:
                shown = repr(value)
            rows.append(f"{' ' * indent}{name:<{24 - indent}} {shown:<28} {meaning}".rstrip())
            if nested:
                rows += value.described(indent + 2)
        return rows
