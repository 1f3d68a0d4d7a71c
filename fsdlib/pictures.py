"""Any picture as RGB of eight bits, as a person sees it on a white page, or a refusal that says why; label maps as PNG."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from fsdlib.vocabulary import palette

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # what counts as a picture in a folder
UNREAD = (".avif", ".heic", ".heif", ".j2k", ".jp2", ".jpx", ".jxl")  # pictures too, of kinds that are not read
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # of those that Pillow knows, some run other programs
LARGEST = 150_000_000  # pixels: 12,000 x 9,000 is read

_GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
_PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_OF_PROFILE = {"GRAY": ("1", "L", "LA", "La"), "CMYK": ("CMYK",), "RGB": tuple(m for m in _PLAIN if m != "CMYK")}


def in_folder(folder: Path) -> list[Path]:
    """The pictures that lie directly in a folder, by name, without hidden ones; those of other kinds are named in a warning.

    >>> from fsdlib.project import MINI
    >>> in_folder(MINI)
    []
    """
    seen = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if unread := [shown(path.name) for path in seen if path.suffix.lower() in UNREAD]:
        said = f"{', '.join(unread[:3])}{', ...' if len(unread) > 3 else ''}"
        told = f"{len(unread)} pictures in {shown(folder)} are of kinds that are not read: save them as PNG or JPEG ({said})"
        warnings.warn(told, stacklevel=2)
    return [path for path in seen if path.suffix.lower() in SUFFIXES]


def shown(path: Path | str) -> str:
    """A file's name as text that can be printed and kept: what is no UTF-8 in it stands as \\udcXX.

    >>> shown("cat-\\udcff.png") == r"cat-\\udcff.png"
    True
    """
    return str(path).encode("utf-8", "backslashreplace").decode()


def read(path: Path | str, as_stored: bool = False) -> np.ndarray:
    """A picture's file as `rgb`, (H, W, 3) uint8, turned upright as EXIF says.

    as_stored: neither turned (but for TIFF, which Pillow turns itself) nor taken through its colour profile, as
    benchmarks and the published methods read theirs.
    Raises FileNotFoundError for a path where nothing is, and ValueError, with the reason, for all that cannot be read.
    """
    with _told(repr(str(path))), opened(path) as picture:
        _refuse_kind(picture)
        if picture.format == "PNG":  # Pillow fills up one whose rest is zeros, without a look at its checksums
            with opened(path) as again:
                again.verify()
        return _rgb(picture if as_stored else ImageOps.exif_transpose(picture), as_stored)


def size(path: Path | str, as_stored: bool = False) -> tuple[int, int]:
    """(height, width) of what `read` gives, from the file's header alone; refuses what that tells to be no picture."""
    with _told(repr(str(path))), opened(path) as picture:
        _refuse_kind(picture)
        turned = not as_stored and picture.format != "TIFF"  # whose header Pillow gives as it will be turned
        lying = turned and picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # a quarter
        return (picture.width, picture.height) if lying else (picture.height, picture.width)


def rgb(picture: Image.Image) -> np.ndarray:
    """A PIL image as (H, W, 3) uint8: 16 bits by their upper eight, colour profiles in sRGB, transparency on white.

    Raises ValueError for several frames or pages, more pixels than `LARGEST`, and numbers of which nothing says what is
    black and what white.

    >>> rgb(Image.new("RGBA", (4, 2), (200, 0, 0, 0)))[0, 0].tolist()
    [255, 255, 255]
    """
    with _told("what was given"):
        _refuse_size(picture)
        _refuse_kind(picture)
        return _rgb(picture)


def label_png(labels: np.ndarray, colours: bytes | None = None) -> bytes:
    """A label map as the bytes of an indexed PNG, in which a pixel's index is its label.

    labels: (H, W) uint8; colours: 768 bytes, as `Vocabulary.palette` has them, VOC's by default.

    >>> stored = Image.open(io.BytesIO(label_png(np.array([[0, 15]], np.uint8))))
    >>> np.asarray(stored).tolist(), stored.convert("RGB").getpixel((1, 0))
    ([[0, 15]], (192, 128, 128))
    """
    picture, buffer = Image.fromarray(labels, "P"), io.BytesIO()
    picture.putpalette(palette() if colours is None else colours)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def opened(path: Path | str) -> Iterator[Image.Image]:
    """A picture's file, whose header alone was read.

    Raises ValueError for what is no regular file, for several frames or pages and for more pixels than `LARGEST`, and
    whatever Pillow raises on a damaged file.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is no file")  # a pipe would be waited for
    with _Bounded(path) as file:
        try:
            picture = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(f"it has more than {LARGEST:,} pixels, which is the limit") from error
        with picture:
            _refuse_size(picture)
            yield picture


class _Bounded(io.BufferedReader):
    """A file of which no more is asked for than it has: room for all of what a header claims would be made first."""

    def __init__(self, path: Path | str):
        super().__init__(io.FileIO(path))
        self.length = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 0 else min(size, max(0, self.length - self.tell())))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever goes wrong, as one sentence about `what`."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {what}: give the path of a picture") from error
    except Exception as error:  # decoders raise whatever comes to them on a damaged file
        why = f" ({reason(error)})" if reason(error) else ""
        raise ValueError(f"{what} is no picture that can be read{why}: save it anew") from error


def reason(error: BaseException) -> str:
    """What an error that came with a file says, in one line without the file's name; nothing where it is no picture at all.

    >>> reason(FileNotFoundError(2, "No such file or directory", "cat.png"))
    'No such file or directory'
    """
    if isinstance(error, Image.UnidentifiedImageError):
        return ""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _refuse_size(picture: Image.Image) -> None:
    if not 0 < picture.width * picture.height <= LARGEST:
        raise ValueError(f"it has {picture.width} x {picture.height} pixels, and {LARGEST:,} are the limit")
    # what phones save beside a photograph (MPO) are previews of it
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise ValueError("it has several frames or pages, of which nothing says which is meant")


def _refuse_kind(picture: Image.Image) -> None:
    if picture.mode not in (*_GREY16, *_PLAIN):
        kind = dict(F="floating-point numbers", I="32-bit numbers").get(
            picture.mode, f"of Pillow's mode {picture.mode}"
        )
        raise ValueError(f"its pixels are {kind}, of which nothing says what is black and what white")
    if picture.mode in _GREY16:
        tags = getattr(picture, "tag_v2", {})  # of a TIFF: bits a pixel; whether 0 is black
        if tags.get(258, (16,)) != (16,) or tags.get(262, 1) != 1:
            raise ValueError("its grey is of 12 bits, or inverted, which is not read as such")
    key = picture.info.get("transparency")
    if key is not None and (picture.mode in _GREY16 or (isinstance(key, tuple) and max(key) > 255)):
        raise ValueError("it has 16 bits and a colour that is transparent, which is not read as such")


def _rgb(picture: Image.Image, as_stored: bool = False) -> np.ndarray:
    profile, mode, alpha = picture.info.get("icc_profile"), picture.mode, None
    if mode in _GREY16:
        picture, mode = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)), "L"
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    coloured = picture.convert("RGB") if as_stored or not profile else _in_srgb(picture, mode, profile)
    if alpha is None:
        return np.asarray(coloured)
    page = Image.new("RGB", coloured.size, "white")
    page.paste(coloured, mask=alpha)
    return np.asarray(page)


def _in_srgb(picture: Image.Image, mode: str, profile: bytes) -> Image.Image:
    """A picture, of `mode` before its transparency was parted from it, from its profile's colours to those of screens."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if mode not in _OF_PROFILE.get(space, ()):
            raise ValueError(f"its pixels are of mode {mode} and its colour profile is for {space}")
        plain = picture.convert(dict(GRAY="L").get(space, space))
        screen = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(plain, source, screen, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f"its colour profile cannot be read: {error}") from error
    assert converted is not None  # as it is where the picture is changed in place
    return converted
