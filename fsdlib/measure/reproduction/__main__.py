"""The certificate from a shell: `python -m fsdlib.measure.reproduction --models sd14 --voc ROOT`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fsdlib.measure.reproduction.certificate import reproduce
from fsdlib.measure.reproduction.climb import SUBJECTS, Climb
from fsdlib.measure.reproduction.recorded import record
from fsdlib.models import (
    ModelSet,
)
from fsdlib.project import REPORTS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.reproduction",
        description="Climb from the machine to the published figure; say where a rung breaks.",
    )
    parser.add_argument("--models", default="mini", choices=SUBJECTS)
    parser.add_argument("--voc", type=Path, metavar="ROOT", help="Pascal VOC 2012, whole: .../VOCdevkit/VOC2012")
    parser.add_argument("--coco", type=Path, metavar="ROOT", help="COCO 2017, for the last rung")
    parser.add_argument(
        "--scenes", type=Path, metavar="ROOT", help="the scenes, if not where `make scenes` writes them"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: the GPU where there is one")
    parser.add_argument("--sample", type=int, default=100, help="images of the sixth rung")
    parser.add_argument("--rungs", type=int, help="climb these many; default: all")
    parser.add_argument("--climb-on", action="store_true", help="do not stop where a rung breaks")
    parser.add_argument(
        "--out", type=Path, default=REPORTS, help="folder of reproduction.md, reproduction.json and runs/"
    )
    parser.add_argument(
        "--record", action="store_true", help="instead: make what the mini models give now their record"
    )
    a = parser.parse_args(arguments)
    roots = dict(voc12=a.voc, coco_object=a.coco, scenes=a.scenes)
    climb = Climb(ModelSet(a.models, a.device), SUBJECTS[a.models], roots, a.out / "runs", a.sample)
    if a.record:
        if a.models != "mini":
            parser.error("only the mini models record themselves; what the real ones are held to is their authors'")
        record(climb)
        print(f"recorded in {climb.subject.record}.json and .safetensors")
        return
    content = reproduce(climb, a.out, a.climb_on, a.rungs)
    print(f"{content['verdict']}; {a.out / 'reproduction.md'} is fit for an issue")
    if any(row["holds"] is False for row in content["rungs"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
