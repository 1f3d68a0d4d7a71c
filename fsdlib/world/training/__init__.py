"""Training the embedded foundation models: an autoencoder and a text-conditioned UNet, a CLIP and a captioner.

FreeSeg-Diff trains nothing; it needs foundation models that somebody trained. Where those cannot be had, these small
ones of the same architectures stand in, trained from scratch on generated scenes. They are saved in the layout the hub
uses for the big ones, so that the same lines of `fsdlib.models` load both.

Every step draws its batch and its noise from (seed, part, step) alone: a run that was stopped and resumed ends where
one that ran through does. Parts in the order they depend on each other: "vision", "clip", "captioner"; "clip",
"autoencoder", "unet". A file a part, `loop` for what they share; `python -m fsdlib.world.training` is the UNet's run.
"""

from fsdlib.world.training.autoencoder import train_autoencoder
from fsdlib.world.training.captioner import train_captioner
from fsdlib.world.training.clip import train_clip
from fsdlib.world.training.data import SceneArrays, augmented, training_close_ups, training_scenes
from fsdlib.world.training.loop import fit
from fsdlib.world.training.manifest import write_manifest
from fsdlib.world.training.selfsupervised import (
    export_selfsupervised,
    fit_selfsupervised,
    train_selfsupervised,
)
from fsdlib.world.training.settings import PARTS, Settings
from fsdlib.world.training.status import status
from fsdlib.world.training.unet import export_unet, fit_unet, train_unet
from fsdlib.world.training.vision import train_vision

TRAINERS = {
    "vision": train_vision,
    "clip": train_clip,
    "captioner": train_captioner,
    "autoencoder": train_autoencoder,
    "unet": train_unet,
    "selfsupervised": train_selfsupervised,
}

__all__ = [
    "PARTS",
    "TRAINERS",
    "SceneArrays",
    "Settings",
    "augmented",
    "export_selfsupervised",
    "export_unet",
    "fit",
    "fit_selfsupervised",
    "fit_unet",
    "status",
    "train_autoencoder",
    "train_captioner",
    "train_clip",
    "train_selfsupervised",
    "train_unet",
    "train_vision",
    "training_close_ups",
    "training_scenes",
    "write_manifest",
]
