"""Where the UNet's run stands: its newest numbers as text, its curves as a figure."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure
from safetensors import safe_open

from fsdlib.figures import ADDED, DROPPED, NOUN
from fsdlib.project import TRAINING, write_atomically
from fsdlib.world.probes import colour_score
from fsdlib.world.scenes import scene_of_split
from fsdlib.world.training.loop import as_line
from fsdlib.world.training.settings import Settings


def status(settings: Settings, folder: Path = TRAINING) -> str:
    """Steps, pictures and hours of the run in `folder`, its newest numbers; writes its curves to `folder`/unet.png.

    Raises ValueError where no run has begun.
    """
    checkpoint = Path(folder) / "unet.safetensors"
    if not checkpoint.exists():
        raise ValueError(f"{folder} holds no unet.safetensors: begin the run with `make train PART=unet`")
    with safe_open(checkpoint, framework="np") as tensors:
        step = int(tensors.get_tensor("step"))
    history = json.loads(checkpoint.with_suffix(".json").read_text())
    rgb = colour_score([scene_of_split("train", 10**6 + i, settings.seed) for i in range(settings.unet_probes)])
    content = io.BytesIO()
    run_figure(history, rgb).savefig(content, format="png", dpi=110)
    figure = write_atomically(checkpoint.with_suffix(".png"), content.getvalue())
    lines = [
        f"UNet: step {step:,} of {settings.unet_steps:,}, {step * settings.unet_batch:,} pictures seen, "
        f"{history[-1]['seconds'] / 3600:.1f} hours",
        as_line(history[-1]),
        *(as_line(row) for row in _measured(history)[-1:] if row is not history[-1]),
        f"colours alone score {rgb:.4f}; curves: {figure}",
    ]
    return "\n".join(lines)


def run_figure(history: Sequence[dict], rgb: float) -> Figure:
    """Three panels: the losses, how much another scene's caption raises the loss, what the features score.

    history: rows of `fit`, some of them measured; rgb: what colours alone score, a dashed line.
    """
    figure = Figure(figsize=(12, 3), layout="constrained")
    losses, captions, features = figure.subplots(1, 3)
    steps, measured = [row["step"] for row in history], _measured(history)
    at = [row["step"] for row in measured]
    losses.plot(steps, [row["train"] for row in history], color=DROPPED, label="training")
    losses.plot(steps, [row["validation"] for row in history], color=NOUN, label="held out")
    losses.set(xlabel="step", ylabel="loss", title="loss")
    for timestep, colour in ((500, NOUN), (800, ADDED)):
        captions.plot(at, [caption_gap(row, timestep) for row in measured], color=colour, label=f"t = {timestep}")
    captions.set(xlabel="step", ylabel="loss (% higher)", title="another scene's caption")
    for timestep, colour in ((100, NOUN), (300, ADDED)):
        features.plot(at, [row[f"features_{timestep}"] for row in measured], color=colour, label=f"t = {timestep}")
        features.plot(
            at, [row[f"smooth_{timestep}"] for row in measured], ":", color=colour, label=f"t = {timestep}, 3 x 3"
        )
    features.axhline(rgb, color=DROPPED, linestyle="--", label="colours")
    features.set(xlabel="step", ylabel="majority-matched mIoU", title="features", ylim=(0, None))
    for ax in (losses, captions, features):
        below = dict(loc="lower center", ncols=2) if ax is features else {}
        ax.legend(frameon=False, fontsize=8, **below)
        sns.despine(ax=ax)
    return figure


def caption_gap(row: dict, timestep: int) -> float:
    """How much higher the loss is under another scene's caption than under the scene's own, in percent."""
    return 100 * (row[f"wrong_{timestep}"] / row[f"right_{timestep}"] - 1)


def _measured(history: Sequence[dict]) -> list[dict]:
    return [row for row in history if "right_500" in row]
