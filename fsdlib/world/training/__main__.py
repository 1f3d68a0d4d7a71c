"""The trainings that run alone, from a shell: the UNet's long one, and that of the self-supervised backbone.

`python -m fsdlib.world.training --part unet` trains and `--export unet` puts what came of it into data/mini; so with
`selfsupervised`. `--status` and `--land` are of the UNet's run.
"""

import argparse
import os
from pathlib import Path

import torch

from fsdlib.project import TRAINING, UNFINISHED
from fsdlib.world.training import (
    Settings,
    export_selfsupervised,
    export_unet,
    fit_selfsupervised,
    fit_unet,
    status,
)
from fsdlib.world.training.loop import land

ALONE = ("unet", "selfsupervised")  # parts that no other part waits for

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.training",
        description="Train one of the mini models in the background; all parts: notebooks/90_train_mini.ipynb.",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--part", choices=ALONE, help="train this part, at the lowest priority; resumes")
    task.add_argument("--land", action="store_true", help="keep the UNet's weights in version control, unfinished")
    task.add_argument("--status", action="store_true", help="say where the UNet's run stands and draw its curves")
    task.add_argument(
        "--export", nargs="?", const="unet", choices=ALONE, help="put a run's averaged weights into data/mini"
    )
    parser.add_argument("--steps", type=int, help="of the whole run; the rate falls in the last of them")
    parser.add_argument("--threads", type=int, default=1, help="the bytes depend on how many")
    parser.add_argument("--folder", type=Path, default=TRAINING, help="of the checkpoint and the scenes")
    a = parser.parse_args()
    part = a.part or a.export or "unet"
    if a.threads < 1:
        parser.error(f"--threads {a.threads}: a training needs at least one thread")
    try:
        settings = Settings(**{} if a.steps is None else {f"{part}_steps": a.steps})
        if a.part:
            os.nice(19)
            torch.set_num_threads(a.threads)
        if a.part == "unet":
            fit_unet(settings, a.folder, landed=UNFINISHED / "unet.safetensors")
        elif a.part:
            fit_selfsupervised(settings, a.folder)
        elif a.land:
            land(a.folder / "unet.safetensors", UNFINISHED / "unet.safetensors")
            print(
                "data/unfinished holds the run's weights now; commit it, and a run without a checkpoint goes on from there"
            )
        elif a.status:
            print(status(settings, a.folder))
        elif a.export == "unet":
            export_unet(settings, a.folder)
            print("data/mini holds the run's UNet now; measure it with `make run`, and commit the folder")
        else:
            export_selfsupervised(settings, a.folder)
            print("data/mini holds the run's backbone now; measure it with `make backbones`, and commit the folder")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
