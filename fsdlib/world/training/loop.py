"""The loop that trains every part: what a step does, when the rate rises and falls, and how a run resumes."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import save
from tqdm import tqdm

from fsdlib.project import write_atomically
from fsdlib.world.training.data import read_tensors
from fsdlib.world.training.settings import PARTS, Settings

Data = TypeVar("Data")
RENEWED_WARM_UP = 200  # steps, where a run goes on without its optimizer's memory


@dataclass(frozen=True)
class Cosine:
    """The learning rate of a step: up to `peak` in the first twentieth of the steps, then a cosine to a hundredth."""

    peak: float = 1e-3

    def __call__(self, step: int, steps: int) -> float:
        warm, fallen = min(1, (step + 1) / max(1, steps // 20)), 0.5 * (1 + np.cos(np.pi * step / steps))
        return self.peak * warm * max(fallen, 0.01)


@dataclass(frozen=True)
class ConstantThenFall:
    """The learning rate of a step: up to `peak` in `warm_up` steps, constant, and down a line in the last share `fall`.

    Before the fall a step's rate does not depend on how many steps there will be.
    """

    peak: float
    warm_up: int
    fall: float

    def __call__(self, step: int, steps: int) -> float:
        warm, fallen = min(1, (step + 1) / self.warm_up), min(1, (steps - step) / max(1, self.fall * steps))
        return self.peak * warm * max(fallen, 0.01)


def fit(
    part: str,
    modules: Sequence[torch.nn.Module],
    loss: Callable[[Data, np.random.Generator], torch.Tensor],
    data: tuple[Data, Data],
    settings: Settings,
    folder: Path,
    rate: Callable[[int, int], float] = Cosine(),
    decay: float = 0.998,
    every: int | None = None,
    monitor: Callable[[], dict[str, float]] | None = None,
    monitor_every: int = 1_000,
    landed: Path | None = None,
) -> list[dict]:
    """Train `modules` in place on `loss` with AdamW and an exponential average of the weights.

    loss: of a batch that it draws from the data; data: what is trained on and what is held out; rate: the learning
    rate of a step among so many (`Cosine`, `ConstantThenFall`); decay: of the average; every: steps from one row of the
    history and one checkpoint to the next, in place of the settings' two; monitor: measures more for the row of each
    `monitor_every` steps and of the last, which is then printed; it finds the averaged weights in the modules.

    Resumes from `folder`/`part`.safetensors where that is, else from the file `landed`, which `land` wrote, with a warm-up
    since the optimizer's memory is not in it. The modules end with the averaged weights. Returns the history, rows of
    {step, train, validation, seconds}. Raises ValueError where the file is of another model.
    """
    steps, checkpoint = getattr(settings, f"{part}_steps"), Path(folder) / f"{part}.safetensors"
    validate_every, checkpoint_every = every or settings.validate_every, every or settings.checkpoint_every
    parameters = _trainable(modules)
    optimizer = torch.optim.AdamW(parameters, lr=rate(0, steps), weight_decay=0.01, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in parameters]
    buffers = [b for module in modules for b in module.buffers()]  # what batch normalisation has seen
    history, recent, start, forgot = [], [], 0, 0  # forgot: the step at which the optimizer last began anew
    if checkpoint.exists():
        history = json.loads(checkpoint.with_suffix(".json").read_text())
        tensors = _read(checkpoint, parameters, settings.device)
        with _of_this_model(checkpoint):
            start, forgot = int(tensors["step"]), int(tensors.get("forgot", 0))
            _restore(parameters, average, buffers, optimizer, tensors)
        history = [row for row in history if row["step"] <= start]
    elif landed is not None and landed.exists():
        history = json.loads(landed.with_suffix(".json").read_text())
        start = forgot = load_landed(landed, modules)
        average = [p.detach().clone() for p in parameters]
    began = time.monotonic() - (history[-1]["seconds"] if history else 0)
    for step in tqdm(range(start, steps), desc=part, initial=start, total=steps, mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps) * (min(1, (step - forgot + 1) / RENEWED_WARM_UP) if forgot else 1)
        random = np.random.default_rng([settings.seed, PARTS.index(part), step])
        value = loss(data[0], random)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent.append(float(value.detach()))
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(decay, (step + 1) / (step + 10)))
        done = step + 1
        if done % validate_every == 0 or done == steps:
            with torch.no_grad(), _evaluating(modules):
                validation = np.mean(
                    [float(loss(data[1], np.random.default_rng([settings.seed, 99, k]))) for k in range(4)]
                )
            history.append(
                dict(
                    step=done,
                    train=float(np.mean(recent)),
                    validation=float(validation),
                    seconds=round(time.monotonic() - began),
                )
            )
            recent = []
            if monitor is not None and (done % monitor_every == 0 or done == steps):
                with torch.no_grad(), _evaluating(modules), _holding(parameters, average):
                    history[-1] |= monitor()
                print(as_line(history[-1]), flush=True)
        if done % checkpoint_every == 0 or done == steps:
            _keep(checkpoint, done, forgot, parameters, average, buffers, optimizer, history)
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)
    return history


def as_line(row: dict[str, float]) -> str:
    """A row of a history as one line of text: each name with its value."""
    return "  ".join(f"{name} {value:.6g}" for name, value in row.items())


@torch.no_grad()
def load_average(checkpoint: Path, modules: Sequence[torch.nn.Module]) -> None:
    """Put the averaged weights of a checkpoint of `fit` into modules; raises ValueError if it is of another model."""
    parameters = _trainable(modules)
    tensors = _read(checkpoint, parameters)
    with _of_this_model(checkpoint):
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"average.{i}"])
        for i, buffer in enumerate(b for module in modules for b in module.buffers()):
            buffer.copy_(tensors[f"buffer.{i}"])


def land(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint's averaged weights and its history to `target`, small enough for version control: a byte a weight.

    A row of a weight keeps its greatest number and 255 levels; vectors stay as they are. Raises ValueError where there
    is no checkpoint.
    """
    if not Path(checkpoint).exists():
        raise ValueError(f"there is no {checkpoint} to land: train first")
    tensors = read_tensors(checkpoint)
    kept = {name: value for name, value in tensors.items() if name == "step" or name.startswith("buffer.")}
    for name, value in tensors.items():
        if name.startswith("average."):
            if value.ndim > 1:
                level = value.abs().flatten(1).amax(1).clamp(min=1e-12) / 127
                kept[name.replace("average", "level")] = level
                value = (value / level.reshape(-1, *[1] * (value.ndim - 1))).round().to(torch.int8)
            kept[name] = value
    write_atomically(Path(target).with_suffix(".json"), Path(checkpoint).with_suffix(".json").read_text())
    write_atomically(target, save({name: value.contiguous() for name, value in kept.items()}))


@torch.no_grad()
def load_landed(path: Path, modules: Sequence[torch.nn.Module]) -> int:
    """Put the weights that `land` wrote into modules; returns their step. Raises ValueError if they are of another model."""
    parameters, tensors = _trainable(modules), read_tensors(path)
    with _of_this_model(path):
        for i, parameter in enumerate(parameters):
            value = tensors[f"average.{i}"]
            if value.shape != parameter.shape:
                raise KeyError(f"average.{i}")
            if f"level.{i}" in tensors:
                value = value * tensors[f"level.{i}"].reshape(-1, *[1] * (value.ndim - 1))
            parameter.copy_(value)
        for i, buffer in enumerate(b for module in modules for b in module.buffers()):
            buffer.copy_(tensors[f"buffer.{i}"])
        return int(tensors["step"])


@contextmanager
def _of_this_model(path: Path):
    """Within, a tensor that is missing or has another shape is a ValueError about the file."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, RuntimeError) as error:  # RuntimeError: shapes, as PyTorch says it
        raise ValueError(
            f"{path} is of another version of the model ({error}): move it away, or train in another folder"
        ) from error


def _trainable(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


@contextmanager
def _evaluating(modules: Sequence[torch.nn.Module]):
    """Evaluation mode within the block; training mode after it."""
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()


@contextmanager
def _holding(parameters: list, others: list):
    """The others' values in the parameters within the block; their own again after it."""
    own = [p.detach().clone() for p in parameters]
    torch._foreach_copy_(parameters, others)
    try:
        yield
    finally:
        torch._foreach_copy_(parameters, own)


def _keep(
    path: Path,
    step: int,
    forgot: int,
    parameters: list,
    average: list,
    buffers: list,
    optimizer: torch.optim.Optimizer,
    history: list[dict],
) -> None:
    state = optimizer.state_dict()["state"]
    tensors = {"step": torch.tensor(step), "forgot": torch.tensor(forgot)}
    for i, (parameter, mean) in enumerate(zip(parameters, average)):
        tensors |= {f"parameter.{i}": parameter.detach().contiguous(), f"average.{i}": mean.contiguous()}
        tensors |= {f"optimizer.{i}.{key}": value.contiguous() for key, value in state[i].items()}
    tensors |= {f"buffer.{i}": buffer.contiguous().clone() for i, buffer in enumerate(buffers)}
    # The history goes first: one that is ahead of its weights can be cut, weights without one cannot be explained.
    write_atomically(path.with_suffix(".json"), json.dumps(history))
    write_atomically(path, save(tensors))


def _read(checkpoint: Path, parameters: list, device: str = "cpu") -> dict[str, torch.Tensor]:
    tensors = read_tensors(checkpoint, device)
    with _of_this_model(checkpoint):
        for i, parameter in enumerate(parameters):
            if tensors[f"parameter.{i}"].shape != parameter.shape:
                raise KeyError(f"parameter.{i}")
    return tensors


def _restore(
    parameters: list, average: list, buffers: list, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        for i, (parameter, mean) in enumerate(zip(parameters, average)):
            parameter.copy_(tensors[f"parameter.{i}"])
            mean.copy_(tensors[f"average.{i}"])
        for i, buffer in enumerate(buffers):
            buffer.copy_(tensors[f"buffer.{i}"])
    state = {
        i: {key: tensors[f"optimizer.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for i in range(len(parameters))
    }
    optimizer.load_state_dict(dict(state=state, param_groups=optimizer.state_dict()["param_groups"]))


def noise(random: np.random.Generator, shape: Sequence[int], device: str) -> torch.Tensor:
    """Standard normal noise of a shape, float32."""
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32)).to(device)
