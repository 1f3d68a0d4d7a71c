"""The UNet's long training from a shell: `python -m fsdlib.world.training --part unet`, `--status`, `--export`."""

import argparse
import os
from pathlib import Path

import torch

from fsdlib.project import TRAINING, UNFINISHED
from fsdlib.world.training import Settings, export_unet, fit_unet, status
from fsdlib.world.training.loop import land

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.training",
        description="Train the mini models' UNet in the background; all parts: notebooks/90_train_mini.ipynb.",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument(
        "--part", choices=("unet",), help="train this part, at the lowest priority on one thread; resumes"
    )
    task.add_argument("--land", action="store_true", help="keep the run's weights in version control, unfinished")
    task.add_argument("--status", action="store_true", help="say where the run stands and draw its curves")
    task.add_argument("--export", action="store_true", help="put the run's averaged weights into data/mini")
    parser.add_argument("--steps", type=int, help="of the whole run; the rate falls in the last tenth")
    parser.add_argument("--folder", type=Path, default=TRAINING, help="of the checkpoint and the scenes")
    a = parser.parse_args()
    try:
        settings = Settings(**{} if a.steps is None else dict(unet_steps=a.steps))
        if a.part:
            os.nice(19)
            torch.set_num_threads(1)
            fit_unet(settings, a.folder, landed=UNFINISHED / "unet.safetensors")
        elif a.land:
            land(a.folder / "unet.safetensors", UNFINISHED / "unet.safetensors")
            print(
                "data/unfinished holds the run's weights now; commit it, and a run without a checkpoint goes on from there"
            )
        elif a.status:
            print(status(settings, a.folder))
        else:
            export_unet(settings, a.folder)
            print("data/mini holds the run's UNet now; measure it with `make run`, and commit the folder")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
