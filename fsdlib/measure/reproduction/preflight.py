"""The first rung: the machine, its arithmetic, every tensor of the weights, every file of the datasets."""

import os
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from fsdlib.measure.reproduction.climb import Climb, Rung, Verdict, machine
from fsdlib.models import (
    REHEARSAL,
    Models,
    Source,
)

GIB = 2**30
# float16 rounds to 0.0005, and sums of a few dozen such numbers keep well below this.
ROUNDING = 0.02


class Preflight(Rung):
    """The machine, its arithmetic, the files of models and datasets. Weights come from the hub here, if they must."""

    name = "preflight"
    always = True

    def run(self, climb: Climb) -> Verdict:
        numbers: dict = dict(machine=machine(climb.device), dtype=str(climb.dtype).removeprefix("torch."))
        faults: list[str] = []
        for look in (self._space, self._arithmetic, self._datasets, self._files, self._weights):
            if not faults:  # from what costs nothing to what may fetch gigabytes
                found, said = look(climb)
                faults += found
                numbers |= said
        if faults:
            return Verdict(False, "; ".join(faults), numbers)
        rehearsed = "; THE CACHE IS A REHEARSAL OF RANDOM NUMBERS, so the next rungs must break"
        return Verdict(
            True,
            f"{numbers['tensors']} tensors are whole and finite, {numbers['dtype']} works on {numbers['machine'].get('gpu', climb.device)}, "
            f"weights from {' and '.join(sorted(set(numbers['found'].values())))}, every file of {', '.join(numbers['images'])} is there"
            + (rehearsed if numbers["rehearsal"] else ""),
            numbers,
        )

    def _space(self, climb: Climb) -> tuple[list[str], dict]:
        cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
        cached = not any(map(_lacking, climb.sources.values()))
        disk = shutil.disk_usage(existing).free / GIB
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB if hasattr(os, "sysconf") else None
        said = dict(free_disk_gib=round(disk, 1), memory_gib=None if memory is None else round(memory, 1))
        faults, subject = [], climb.subject
        if not cached and disk < subject.disk:
            faults.append(
                f"{existing} has {disk:.1f} GiB free and the weights take {subject.disk}: set HF_HOME elsewhere"
            )
        if torch.device(climb.device).type == "cuda":
            free, total = torch.cuda.mem_get_info(climb.device)
            said |= dict(gpu_memory_gib=round(total / GIB, 1), free_gpu_memory_gib=round(free / GIB, 1))
        elif memory is not None and memory < subject.memory:
            faults.append(
                f"there are {memory:.1f} GiB of memory and a run takes {subject.memory}: take a larger machine"
            )
        return faults, said

    def _arithmetic(self, climb: Climb) -> tuple[list[str], dict]:
        error = arithmetic_error(climb.device, climb.dtype)
        if error < ROUNDING:
            return [], dict(arithmetic_error=float(f"{error:.2g}"))
        return [f"{climb.dtype} on {climb.device} is off by {error:.3g} of the largest number: mend the driver"], {}

    def _files(self, climb: Climb) -> tuple[list[str], dict]:
        """Finds the weights, or fetches them; reads the header of each file, which says how long it must be."""
        found, faults, cache = {}, [], Path(huggingface_hub.constants.HF_HUB_CACHE)
        for part, source in climb.sources.items():
            lacking = _lacking(source)
            found[part] = "this project" if source.folder else "the hub" if lacking else "the cache"
            if lacking:
                tqdm.write(
                    f"  {source.repository}: {len(lacking)} of {len(source.files)} files are not in {cache}, asking the hub"
                )
        for part, folder in climb.models.folders.items():
            for path in (folder / name for name in climb.sources[part].files if name.endswith(".safetensors")):
                try:
                    with safe_open(path, "np") as file:
                        file.keys()
                except SafetensorError as error:
                    faults.append(f"{path} is damaged ({error}): delete it and fetch it again")
        return faults, dict(
            found=found,
            cache=str(cache),
            offline=bool(huggingface_hub.constants.HF_HUB_OFFLINE),
            rehearsal=(cache / REHEARSAL).is_file() and "the cache" in found.values(),
        )

    def _weights(self, climb: Climb) -> tuple[list[str], dict]:
        """Loading refuses a tensor that is missing, has another shape or is not finite in the run's precision."""
        return [], dict(tensors=sum(len(model.state_dict()) for model in _modules(climb.loaded)))

    def _datasets(self, climb: Climb) -> tuple[list[str], dict]:
        faults = [
            f"the recorded picture {path} is missing: unpack the whole archive"
            for path in climb.paths.values()
            if not path.is_file()
        ]
        for dataset in climb.datasets.values():
            dataset.check()
        return faults, dict(images={dataset.name: len(dataset) for dataset in climb.datasets.values()})


def arithmetic_error(device: str, dtype: torch.dtype) -> float:
    """How far a matrix product, a convolution and attention are off in a precision on a device, as a share of the largest number.

    They are held to float64 on the CPU; nan or inf where a number is not finite.
    """
    drawn = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def computed(numbers: torch.Tensor) -> list[torch.Tensor]:
        kernel = numbers[:, None, :3, :3]
        attended = torch.nn.functional.scaled_dot_product_attention(numbers, numbers, numbers)
        return [numbers @ numbers, torch.nn.functional.conv2d(numbers[:, None], kernel, padding=1), attended]

    ours = [one.double().cpu() for one in computed(drawn.to(device, dtype))]
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, computed(drawn))]
    return float(np.max(errors))  # which hands on a nan, as max does not


def _lacking(source: Source) -> list[str]:
    """The files of a source that are not in the hub's cache."""
    if source.folder is not None:
        return []
    return [
        name
        for name in source.files
        if not isinstance(
            huggingface_hub.try_to_load_from_cache(source.repository, name, revision=source.revision), str
        )
    ]


def _modules(models: Models) -> list[torch.nn.Module]:
    diffusion = models.diffusion
    return [models.captioner.model, diffusion.unet, diffusion.encoder, *diffusion.text_encoders, models.clip.model]
