"""What is fuzzed: for each kind of file that the project reads, valid tiny ones made here, and all that reads them."""

import contextlib
import functools
import gzip
import http.server
import io
import json
import os
import struct
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import scipy.io
from mutations import with_header_length, with_png_sums, with_tar_sums
from PIL import Image, ImageCms
from six_pictures import Brightness, write_pictures


class Reader:
    """Files of one kind, by the path at which each is looked for, and what reads them.

    declared: all that reading may raise, as the docstrings of what reads say.
    """

    declared: tuple[type[BaseException], ...] = (ValueError, FileNotFoundError)

    def prepare(self, folder: Path) -> None:
        """Write, in an empty folder, all that lies around the file, and load what takes long."""
        self.folder = folder

    def seeds(self) -> list[tuple[str, bytes]]:
        """Valid files: where each lies below the folder, and what it holds."""
        raise NotImplementedError

    def mended(self, content: bytes, random: Random) -> bytes:
        """A changed file whose checksums hold again, so that what lies behind them is reached: in half of the cases."""
        return content

    def read(self, where: str, content: bytes) -> None:
        """Write the file and read it; raises one of `declared` where it is refused."""
        raise NotImplementedError

    def write(self, where: str, content: bytes) -> Path:
        path = self.folder / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def each(self, *actions: Callable) -> None:
        """Do all of it, and raise what refused it last, if anything did."""
        refused = None
        for action in actions:
            try:
                action()
            except self.declared as error:
                refused = error
        if refused:
            raise refused


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(mode: str, width: int = 9, height: int = 7) -> Image.Image:
    """A small picture of numbers drawn at random, always the same."""
    bands = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}.get(mode)
    random = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 2**16, (height, width), np.uint16))
    if mode == "F":
        return Image.fromarray(random.random((height, width), np.float32))
    numbers = random.integers(0, 256, width * height * bands, np.uint8).tobytes()
    if mode == "1":
        return Image.frombytes("L", (width, height), numbers).convert("1")
    picture = Image.frombytes(mode, (width, height), numbers)
    if mode == "P":
        picture.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
    return picture


class Pictures(Reader):
    """Every format and kind of pixels that is read, turned, profiled, transparent, of several frames."""

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib import pictures

        self.pictures = pictures

    def seeds(self):
        turned = Image.Exif()
        turned[274] = 6
        dated = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        profile = dated[:24] + bytes(12) + dated[36:]  # without the second in which it was made
        rgb, frames = _noise("RGB"), [_noise("P"), _noise("P").rotate(180)]
        made = [("png", _saved(_noise(mode), "PNG")) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
        made += [("jpg", _saved(_noise(mode), "JPEG")) for mode in ("L", "RGB", "CMYK")]
        made += [("tif", _saved(_noise(mode), "TIFF")) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")]
        ways = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")
        made += [("tif", _saved(_noise("1" if way == "group4" else "RGB"), "TIFF", compression=way)) for way in ways]
        made += [("bmp", _saved(_noise(mode), "BMP")) for mode in ("1", "L", "P", "RGB", "RGBA")]
        made += [
            ("webp", _saved(_noise(mode), "WEBP", lossless=lossless)) for mode in ("RGB", "RGBA") for lossless in (0, 1)
        ]
        made += [("gif", _saved(_noise("P"), "GIF")), ("gif", _saved(_noise("P"), "GIF", transparency=3))]
        made += [
            ("gif", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])),
            ("png", _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)])),
            ("tif", _saved(rgb, "TIFF", save_all=True, append_images=[rgb])),
            ("webp", _saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)])),
            ("jpg", _saved(rgb, "JPEG", exif=turned, icc_profile=profile)),
            ("jpg", _saved(rgb, "JPEG", progressive=True, comment="a comment")),
            ("jpg", _saved(rgb, "MPO", save_all=True, append_images=[rgb])),
            ("png", _saved(rgb, "PNG", exif=turned, icc_profile=profile, transparency=(1, 2, 3), dpi=(72, 72))),
            ("png", _saved(_noise("P"), "PNG", transparency=bytes(range(256)))),
            ("webp", _saved(rgb, "WEBP", exif=turned.tobytes(), icc_profile=profile)),
            ("tif", _saved(rgb, "TIFF", icc_profile=profile, tiffinfo={274: 8})),
        ]
        return [(f"picture.{ending}", content) for ending, content in made]

    def mended(self, content, random):
        return with_png_sums(content)

    def read(self, where, content):
        path, found = self.write(where, content), {}

        def look(as_stored):
            found[as_stored] = size = self.pictures.size(path, as_stored)
            rgb = self.pictures.read(path, as_stored)
            assert rgb.dtype == np.uint8 and rgb.shape == (*size, 3), (rgb.shape, size)

        self.each(lambda: look(False), lambda: look(True))


def _without_date(matrix: bytes) -> bytes:
    """A MATLAB file whose first line is always the same."""
    return matrix.replace(matrix[:116], b"MATLAB 5.0 MAT-file".ljust(116)) if matrix.startswith(b"MATLAB") else matrix


class Masks(Reader):
    """Masks in every layout: a folder of one's own, VOC's, Pascal Context's matrices, ADE20K's pictures with their JSON."""

    OWN, VOC = "own/masks/one.png", "voc/SegmentationClass/one.png"
    MATRIX, STUFF = "context/trainval/one.mat", "stuff/stuffthingmaps/val2017/one.png"
    ADE, SAID = "ade/images/ADE/validation/one_seg.png", "ade/images/ADE/validation/one.json"
    DATASETS = {"own": "folder", "voc": "voc12", "context": "context59", "stuff": "coco_stuff", "ade": "ade20k_full"}

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib.measure.benchmarks import open_dataset

        self.open_dataset = open_dataset
        picture = _saved(_noise("RGB"), "JPEG")
        listings = {"voc": "ImageSets/Segmentation/val.txt", "context": "ImageSets/Main/val.txt"}
        for root, listing in listings.items():
            self.write(f"{root}/{listing}", b"one\n")
            self.write(f"{root}/JPEGImages/one.jpg", picture)
        self.write("own/images/one.png", _saved(_noise("RGB"), "PNG"))
        self.write("own/classes.txt", b"cat\ndog\n")
        self.write("stuff/val2017/one.jpg", picture)
        self.write("ade/objects.txt", b"cat\ndog, hound\n")
        self.write("ade/images/ADE/validation/one.jpg", picture)
        for where, content in self.seeds():
            self.write(where, content)
        self.valid = {where: content for where, content in self.seeds() if where in (self.ADE, self.SAID)}

    def seeds(self):
        random = np.random.default_rng(0)
        labels = random.integers(0, 3, (7, 9), np.uint8)
        palette = Image.fromarray(labels, "P")
        palette.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
        grey = [Image.fromarray(labels), _noise("1"), _noise("I;16"), _noise("LA"), palette]
        made = [(self.OWN, _saved(one, "PNG")) for one in grey]
        made += [(self.OWN, _saved(palette, "PNG", bits=bits)) for bits in (2, 4)]
        made += [(self.OWN, _saved(Image.fromarray(labels), kind)) for kind in ("TIFF", "GIF", "BMP", "JPEG", "WEBP")]
        made += [(root, _saved(palette, "PNG")) for root in (self.VOC, self.STUFF)]
        for options in (
            dict(),
            dict(do_compression=True),
            dict(format="4"),
            dict(oned_as="column", long_field_names=True),
        ):
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, {"LabelMap": labels.astype(np.uint16) + 1}, **options)
            made.append((self.MATRIX, _without_date(buffer.getvalue())))
        buffer = io.BytesIO()
        cells = np.array([labels, "text", {"a": 1.5}], dtype=object)
        scipy.io.savemat(buffer, {"LabelMap": labels, "cells": cells, "struct": {"b": labels[:1], "c": "d"}})
        made.append((self.MATRIX, _without_date(buffer.getvalue())))
        numbers = np.zeros((7, 9, 3), np.uint8)
        numbers[2:, :4, 1] = 1
        numbers[4:, 4:] = 10, 2, 0
        made.append((self.ADE, _saved(Image.fromarray(numbers), "PNG")))
        objects = [("cat", 1), ("dog, hound", 258), ("wall", 300)]
        said = [dict(name=name, name_ndx=number, parts=dict(part_level=0)) for name, number in objects]
        made.append((self.SAID, json.dumps(dict(annotation=dict(filename="one.jpg", object=said))).encode()))
        return made

    def mended(self, content, random):
        return with_png_sums(content)

    def read(self, where, content):
        for path, valid in self.valid.items():
            self.write(path, valid)
        self.write(where, content)
        root = where.split("/")[0]
        dataset = self.open_dataset(self.DATASETS[root], self.folder / root)

        def look():
            labels = dataset.labels(0)
            known = np.unique(labels[labels != 255])
            assert labels.dtype == np.uint8 and labels.ndim == 2 and (known < len(dataset.vocabulary)).all()

        self.each(dataset.check, look, lambda: dataset.fingerprint)


class Coco(Reader):
    """Annotations and captions in COCO's form, with polygons and run-length codes of both kinds."""

    OBJECTS, CAPTIONS = "annotations/instances_val2017.json", "annotations/captions_val2017.json"

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib.measure.benchmarks import open_dataset
        from fsdlib.measure.run import of_dataset

        self.open_dataset, self.of_dataset = open_dataset, of_dataset
        for number in range(2):
            self.write(f"val2017/{number}.jpg", _saved(_noise("RGB"), "JPEG"))

    def seeds(self):
        square, height, width = [1, 1, 6, 1, 6, 5, 1, 5], 7, 9
        outlines = [
            [square],
            [square, [0, 0, 3, 0.5, 2.5, 6]],
            dict(size=[height, width], counts=[10, 5, 20, 8, 20]),
            dict(size=[height, width], counts=":5e08d0"),
        ]
        pictures = [dict(id=i, file_name=f"{i}.jpg", height=height, width=width) for i in range(2)]
        made = []
        for number, outline in enumerate(outlines):
            one = dict(id=number, image_id=0, category_id=17, segmentation=outline, area=20.5, iscrowd=int(number > 1))
            content = dict(
                images=pictures, annotations=[one], categories=[dict(id=17, name="cat", supercategory="animal")]
            )
            made.append((self.OBJECTS, json.dumps(content).encode()))
            every = [
                one | dict(id=i, image_id=i % 2, segmentation=o, area=i, iscrowd=0) for i, o in enumerate(outlines)
            ]
        made.append((self.OBJECTS, json.dumps(content | dict(info=dict(year=2017), annotations=every)).encode()))
        said = [dict(id=i, image_id=i, caption=f"a cat {i}") for i in range(2)]
        made.append((self.CAPTIONS, json.dumps(dict(images=pictures, annotations=said)).encode()))
        return made

    def read(self, where, content):
        for path, valid in ((self.OBJECTS, self.seeds()[0][1]), (self.CAPTIONS, self.seeds()[-1][1])):
            self.write(path, valid)
        self.write(where, content)
        dataset = self.open_dataset("coco_object", self.folder)

        def look(i):
            labels = dataset.labels(i)
            assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {*range(len(dataset.vocabulary)), 255}

        images = [functools.partial(look, i) for i in range(min(3, len(dataset)))]
        self.each(dataset.check, *images, lambda: dataset.captions, lambda: self.of_dataset(dataset))


class VocLists(Reader):
    """Listings in VOC's folders: what stands in them is in paths, tables and names of files."""

    SEGMENTATION, CONTEXT, MAIN = (
        f"{root}/ImageSets/{kind}/val.txt"
        for root, kind in (("voc", "Segmentation"), ("context", "SegmentationContext"), ("main", "Main"))
    )
    DATASETS = {"voc": "voc12", "context": "context60", "main": "context59"}

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib.measure.benchmarks import open_dataset
        from fsdlib.measure.run import of_dataset
        from fsdlib.measure.summary import files_of

        self.open_dataset, self.of_dataset, self.files_of = open_dataset, of_dataset, files_of
        matrix = io.BytesIO()
        scipy.io.savemat(matrix, {"LabelMap": np.ones((7, 9), np.uint16)})
        mask = _saved(Image.new("P", (9, 7), 1), "PNG")
        masks = {
            "voc": ("SegmentationClass", ".png", mask),
            "context": ("SegmentationClassContext", ".png", mask),
            "main": ("trainval", ".mat", matrix.getvalue()),
        }
        for root, (below, ending, content) in masks.items():
            for name in ("2007_000033", "2007_000042", "one two", "x"):
                self.write(f"{root}/JPEGImages/{name}.jpg", _saved(_noise("RGB"), "JPEG"))
                self.write(f"{root}/{below}/{name}{ending}", content)

    def seeds(self):
        places = (self.SEGMENTATION, self.CONTEXT, self.MAIN)
        listings = (
            b"2007_000033\n2007_000042\nx\n",
            b"2007_000033 1\r\n2007_000042 -1\r\n",
            b"x",
            "x\n\u732b\n".encode(),
        )
        return [(place, listing) for place in places for listing in listings]

    def read(self, where, content):
        self.write(where, content)
        root = where.split("/")[0]
        dataset = self.open_dataset(self.DATASETS[root], self.folder / root)
        for image_id in dataset.ids[:50]:
            json.dumps(image_id)
            assert all(len(path.name) < 180 for path in self.files_of(self.folder, image_id))
        images = range(min(5, len(dataset)))
        looks = [functools.partial(look, i) for look in (dataset.image, dataset.labels, dataset.size) for i in images]
        self.each(dataset.check, *looks, lambda: self.of_dataset(dataset), lambda: dataset.captions)


class ClassLists(Reader):
    """classes.txt, classes.csv, and the list of objects that ADE20K's full release comes with."""

    TEXT, TABLE, OBJECTS = "text/classes.txt", "table/classes.csv", "ade/objects.txt"

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib.measure.benchmarks import open_dataset
        from fsdlib.measure.run import of_dataset
        from fsdlib.vocabulary import Vocabulary

        self.open_dataset, self.of_dataset, self.vocabulary = open_dataset, of_dataset, Vocabulary
        for root in ("text", "table"):
            self.write(f"{root}/images/one.png", _saved(_noise("RGB"), "PNG"))
            self.write(f"{root}/masks/one.png", _saved(Image.new("L", (9, 7), 1), "PNG"))
        self.write("ade/images/ADE/validation/one.jpg", _saved(_noise("RGB"), "JPEG"))

    def seeds(self):
        texts = (
            b"cat\ndog\n",
            b"background\ncat\n",
            b"void\ncat\r\nsports ball\r\n",
            "\ufeffcat\nm\u00f6we\n".encode(),
        )
        tables = (
            b"index,name\n0,background\n1,cat\n2,dog\n",
            b"index,name,synonyms,colour,string,official\n0,background,,000000,,0\n1,cat,kitten;puss,804080,cat kitten,1;7\n",
            b'index,name,official\r\n0,void,0;255\r\n1,"cat, big",4000\r\n2,dog,2\r\n',
        )
        objects = (
            b"cat\t12\t3\ndog, hound\t4\n",
            b"wall\nbuilding, edifice\nwall\n",
            "m\u00f6we\tx\n".encode("latin-1"),
        )
        made = [(self.TEXT, content) for content in texts] + [(self.TABLE, content) for content in tables]
        return made + [(self.OBJECTS, content) for content in objects]

    def read(self, where, content):
        path = self.write(where, content)
        root = where.split("/")[0]
        dataset = self.open_dataset("ade20k_full" if root == "ade" else "folder", self.folder / root)
        known = dataset.vocabulary
        assert len(known.palette) == 768 and len(known) == len(known.synonyms) <= 255
        self.each(lambda: self.of_dataset(dataset), dataset.check, lambda: dataset.labels(0))
        if path.suffix == ".csv":
            assert self.vocabulary.read(path).names == known.names


class Archives(Reader):
    """Archives that are fetched, from a server on this machine, and unpacked; nothing may lie outside their folder then."""

    declared = (ValueError,)
    KEEPS = ("data/one.txt", "data/more")

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib.measure.archives import Archive, download

        self.archive, self.download = Archive, download
        reader = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(reader.served)))
                self.end_headers()
                self.wfile.write(reader.served)

            def log_message(self, *arguments):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"

    def seeds(self):
        files = {"data/one.txt": b"one", "data/more/two.txt": b"two" * 300, "data/more/three": bytes(2000)}
        made = []
        for ending, kind in (
            *(("tar", kind) for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
            ("tar.gz", tarfile.GNU_FORMAT),
        ):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
                for name, content in files.items():
                    one = tarfile.TarInfo(name)
                    one.size = len(content)
                    tar.addfile(one, io.BytesIO(content))
                for number, what in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)):
                    one = tarfile.TarInfo(f"data/more/{number}")
                    one.type, one.linkname = what, "data/one.txt" if what == tarfile.LNKTYPE else "../one.txt"
                    tar.addfile(one)
                if kind != tarfile.USTAR_FORMAT:
                    tar.addfile(tarfile.TarInfo("data/more/" + "long" * 40))
            content = buffer.getvalue()
            made.append((f"archive.{ending}", gzip.compress(content, mtime=0) if ending == "tar.gz" else content))
        for way in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", way) as packed:
                for name, content in files.items():
                    packed.writestr(zipfile.ZipInfo(name), content, way)
                packed.writestr(zipfile.ZipInfo("data/more/\u732b"), b"")
                packed.comment = b"a comment"
            made.append(("archive.zip", buffer.getvalue()))
        return made

    def mended(self, content, random):
        return with_tar_sums(content)

    def read(self, where, content):
        self.served, root = content, self.folder / "around" / "root"
        try:
            self.download([self.archive(f"{self.address}/{where}", "", None, self.KEEPS)], root)
        finally:
            for parent, inside in ((self.folder, {"around"}), (root.parent, {"root"}), (root, {"data"})):
                assert {path.name for path in parent.iterdir()} <= inside, sorted(parent.iterdir())
            _delete(root.parent)


def _delete(folder: Path) -> None:
    """A folder and all in it, whatever rights it has."""
    for parent, below, files in os.walk(folder, topdown=False):
        os.chmod(parent, 0o700)
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in below:
            path = os.path.join(parent, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    os.rmdir(folder)


class Named(Brightness):
    """As a run of the method has them: a recipe, a model set and a vocabulary mode."""

    def configuration(self):
        return super().configuration() | dict(recipe=dict(name="paper"), models="mini", vocabulary_mode="closed")


class Runs(Reader):
    """A run's folder, whose every file is read by whoever goes on with it, verifies it, or reports on it.

    What depends on the code or on other files stands in the files as a word, "@run" for the configuration's hash, "@label map"
    and "@seal" for those in a row, and is put in at the end: so a row that was changed is as whole as its seal can say.
    """

    def prepare(self, folder):
        super().prepare(folder)
        from fsdlib.measure import report
        from fsdlib.measure.benchmarks import open_dataset
        from fsdlib.measure.run import EvaluationFailed, configuration, evaluate
        from fsdlib.measure.summary import files_of, read_row, read_summary, stored_labels
        from fsdlib.measure.verify import verify

        self.declared = (ValueError, FileNotFoundError, EvaluationFailed)
        self.report, self.evaluate, self.verify = report, evaluate, verify
        self.read_row, self.read_summary, self.stored_labels, self.files_of = (
            read_row,
            read_summary,
            stored_labels,
            files_of,
        )
        self.method = Named()
        self.dataset = open_dataset("folder", write_pictures(folder / "pictures", ("p0", "p1", "p2")))
        self.digest = configuration(self.dataset, self.method)["hash"]
        self.contents = dict(zip(self.dataset.ids, self.dataset.contents(range(3))))
        self.run = folder / "runs" / "run"
        evaluate(self.dataset, self.method, self.run, batch_size=2)
        timing = json.dumps(dict(batch=2, seconds=dict(look=0.1), memory_mib=100))
        self.files = {}
        for path in sorted(path for path in self.run.rglob("*") if path.is_file()):
            content = timing.encode() if path.parent.name == "timings" else path.read_bytes()
            self.files[path.relative_to(folder).as_posix()] = content

    def seeds(self):
        made = []
        for where, content in self.files.items():
            if where.endswith(".json"):
                known = json.loads(content)
                words = dict(
                    hash="@run", run="@run", row_sha256="@seal", label_map="@label map", scoring="@", files="@files"
                )
                content = json.dumps(known | {key: word for key, word in words.items() if key in known}).encode()
            made.append((where, content))
        failed = dict(id="p1", run="@run", files="@files", failed="ValueError: a reason", row_sha256="@seal")
        made.append(("runs/run/images/p1.json", json.dumps(failed).encode()))
        made.append(("runs/run/.running/0-of-1.json", json.dumps(dict(process=1, host="h", shard="0/1")).encode()))
        return made

    def mended(self, content, random):
        return with_png_sums(content)

    def read(self, where, content):
        from fsdlib.measure.summary import label_map_hash, sealed

        for path in set(self.folder.glob("runs/**/*")) - {self.folder / name for name in self.files}:
            if path.is_file():
                path.unlink()
        for path, valid in self.files.items():
            self.write(path, valid)
        content = content.replace(b"@run", self.digest.encode())
        content = content.replace(b"@files", self.contents.get(Path(where).stem, "").encode())
        labels = self.run / "labels" / Path(where).with_suffix(".png").name
        if b"@label map" in content and labels.is_file():
            content = content.replace(b"@label map", label_map_hash(labels.read_bytes())["label_map"].encode())
        with contextlib.suppress(RecursionError, ValueError):
            row = json.loads(content)
            if isinstance(row, dict) and row.get("row_sha256") == "@seal":
                row.pop("row_sha256")
                content = sealed(row).encode()
        self.write(where, content)
        if where.startswith("runs/run/labels"):  # the row takes the changed label map for its own
            of_row = self.run / "images" / Path(where).with_suffix(".json").name
            row = json.loads(of_row.read_bytes())
            row.pop("row_sha256")
            of_row.write_text(sealed(row | label_map_hash(content)))
        reads = [
            functools.partial(self.read_row, self.run, one, self.digest, content)
            for one, content in self.contents.items()
        ]
        maps = [functools.partial(self.stored_labels, self.run, one) for one in self.dataset.ids]
        going_on = functools.partial(self.evaluate, self.dataset, self.method, self.run, batch_size=2)
        self.each(*reads, *maps, lambda: self.verify(self.run, self.dataset), self.reported, going_on)

    def reported(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = self.report.find_runs(self.run.parent)
        for table in (self.report.all_scores, self.report.other_scores, self.report.stage_scores):
            assert len(table(runs)) == len(runs)
        as_voc = [self.report.Run(run.folder, run.summary | dict(dataset="voc12")) for run in runs]
        for protocol in self.report.PROTOCOLS:
            self.report.beside_published(as_voc, protocol)
        for run in runs:
            assert isinstance(run.title, str)
            looks = [
                functools.partial(look, run) for look in (self.report.best_median_worst, self.report.worst_confusions)
            ]
            self.each(*looks, lambda: run.objects.share.mean(), lambda: run.images.regions.max(), lambda: run.timing)


class Weights(Reader):
    """Heads of safetensors files, before the true numbers: of every model, of a record and of unfinished weights."""

    PARTS = {
        "clip/open_clip_model.safetensors": "clip",
        "blip/model.safetensors": "blip",
        "stable-diffusion/unet/diffusion_pytorch_model.safetensors": "stable-diffusion",
        "stable-diffusion/vae/diffusion_pytorch_model.safetensors": "stable-diffusion",
        "stable-diffusion/text_encoder/model.safetensors": "stable-diffusion",
    }
    RECORDED, UNFINISHED = "record/mini.safetensors", "unfinished/unet.safetensors"

    def prepare(self, folder):
        super().prepare(folder)
        import torch

        from fsdlib import models
        from fsdlib.measure.reproduction.climb import Climb, Subject
        from fsdlib.project import DATA, MINI
        from fsdlib.world.training.loop import load_landed

        self.declared = (ValueError, FileNotFoundError, models.ModelUnavailable)
        self.load = dict(clip=models.load_clip, blip=models.load_captioner)
        self.load["stable-diffusion"] = models.load_diffusion
        self.climb = Climb(models.ModelSet("mini", "cpu"), Subject(folder / "record/mini", (), 0, 0), {})
        self.load_landed, self.modules = load_landed, [torch.nn.Linear(2, 2)]
        self.torch = torch
        self.where = {where: MINI / where for where in self.PARTS}
        self.where |= {self.RECORDED: DATA / "recorded" / "mini.safetensors"}
        for path in MINI.rglob("*.json"):
            self.write(path.relative_to(MINI), path.read_bytes())
        for path in MINI.rglob("*.txt"):
            self.write(path.relative_to(MINI), path.read_bytes())
        self.whole = {where: path.read_bytes() for where, path in self.where.items()}
        self.whole[self.UNFINISHED] = self.landed()
        for where, whole in self.whole.items():
            self.write(where, whole)

    def landed(self):
        from safetensors.torch import save

        torch = self.torch
        numbers = {"step": torch.tensor(7), "average.0": torch.ones(2, 2, dtype=torch.int8), "level.0": torch.ones(2)}
        return save(numbers | {"average.1": torch.zeros(2)})

    def head(self, whole):
        return whole[: 8 + struct.unpack("<Q", whole[:8])[0]]

    def seeds(self):
        return [(where, self.head(whole)) for where, whole in self.whole.items()]

    def mended(self, content, random):
        return with_header_length(content)

    def read(self, where, content):
        whole = self.whole[where]
        path = self.write(where, content + whole[len(self.head(whole)) :])
        try:
            if where in self.PARTS:
                part = self.PARTS[where]
                self.load[part](self.folder / part)
            elif where == self.RECORDED:
                self.climb.__dict__.pop("recorded_vectors", None)
                assert self.climb.recorded_vectors is not None
            else:
                self.load_landed(path, self.modules)
        finally:
            self.write(where, whole)


READERS = dict(
    pictures=Pictures,
    masks=Masks,
    coco=Coco,
    voc=VocLists,
    classes=ClassLists,
    archives=Archives,
    runs=Runs,
    weights=Weights,
)
