"""The files that datasets come in: how a person fetches them, and fetching them, whole and checked."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch


@dataclass(frozen=True)
class Archive:
    """A file to fetch. `keeps`: what of it a dataset needs, as paths below the folder everything is unpacked in."""

    url: str
    size: str
    md5: str | None  # None where none is published
    keeps: tuple[str, ...]
    folder: str = "."  # where to unpack it, below that folder
    registration: bool = False

    @property
    def file(self) -> str:
        """The file's name: the end of the address, or what follows it after a #."""
        return self.url.rsplit("/", 1)[1].split("#")[-1]


def commands(what: str, archives: Sequence[Archive]) -> str:
    """How to fetch and unpack archives, as commands to follow in a shell; `what` they hold stands in the first line."""
    lines = [f"To get {what}, choose a folder for ROOT:", "    mkdir -p ROOT && cd ROOT"]
    for archive in archives:
        if archive.registration:
            lines.append(
                f"    # {archive.size}; with an account, in a browser, saved in ROOT: {archive.url.split('#')[0]}"
            )
        else:
            lines.append(f"    wget -c {archive.url}   # {archive.size}")
        if archive.md5:
            lines.append(f"    echo '{archive.md5}  {archive.file}' | md5sum -c")
        if archive.folder != ".":
            lines.append(f"    mkdir -p {archive.folder}")
        unpack, into = ("unzip -q", "-d") if archive.file.endswith(".zip") else ("tar -xf", "-C")
        lines.append(f"    {unpack} {archive.file} {into} {archive.folder}")
    return "\n".join(lines)


def download(archives: Sequence[Archive], root: Path | str) -> Path:
    """Fetch archives and unpack what is needed of them under `root`, which is returned.

    What is there already is left as it is. Everything else appears whole, after its archive's checksum was found right,
    or not at all. A failed transfer is tried three times more, each time from its first byte: pooch cannot resume one,
    which `wget -c` in `commands` can. Raises ValueError for a wrong checksum, a transfer that failed to the end and an
    archive that was changed.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        lacking = [path for path in archive.keeps if not (root / path).exists()]
        if not lacking:
            continue
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            file, unpacked = Path(temporary) / archive.file, Path(temporary) / "unpacked"
            _fetch(archive, file)
            try:  # members that point out of the folder are kept in it by zipfile, and refused by tarfile when asked
                if file.suffix == ".zip":
                    _refuse_packing(file)
                shutil.unpack_archive(file, unpacked / archive.folder, filter=None if file.suffix == ".zip" else "data")
            except Exception as error:  # whatever a damaged file makes the unpacking raise
                raise ValueError(
                    f"{archive.url} cannot be unpacked ({error!r}): try again, or fetch it by hand"
                ) from error
            if absent := [path for path in lacking if not (unpacked / path).exists()]:
                raise ValueError(
                    f"{archive.url} lacks {', '.join(absent)}: it was changed; fetch it by hand and unpack what it has"
                )
            for path in lacking:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(unpacked / path, root / path)
    return root


def _refuse_packing(file: Path) -> None:
    """Raise ValueError where a zip file is packed otherwise than all of the benchmarks' are: LZMA takes what memory it names."""
    with zipfile.ZipFile(file) as opened:
        if {member.compress_type for member in opened.infolist()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError("its files are packed otherwise than by deflate")


def _fetch(archive: Archive, file: Path) -> None:
    name, known = archive.file, f"md5:{archive.md5}" if archive.md5 else None
    shelf = pooch.create(file.parent, base_url="", registry={name: known}, urls={name: archive.url}, retry_if_failed=3)
    try:
        shelf.fetch(name, downloader=pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20))
    except OSError as error:  # what requests raises is one too
        raise ValueError(f"{archive.url} cannot be fetched ({error}): try again, or fetch it by hand") from error
    except ValueError as error:
        raise ValueError(
            f"{archive.url} came with the checksum of another file, not {archive.md5}: ask who changed it, or fetch it by hand"
        ) from error
