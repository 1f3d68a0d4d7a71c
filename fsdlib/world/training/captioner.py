"""The captioner."""

from pathlib import Path

import numpy as np
import torch
from transformers import BlipProcessor

from fsdlib.models import quiet
from fsdlib.project import MINI, TRAINING
from fsdlib.world.training.data import SceneArrays, augmented, normalised, training_scenes
from fsdlib.world.training.loop import fit
from fsdlib.world.training.settings import Settings
from fsdlib.world.training.tokenizers import PROMPT
from fsdlib.world.training.vision import patch_loss, seeing_captioner


def train_captioner(settings: Settings, folder: Path = TRAINING, out: Path = MINI) -> list[dict]:
    """Train the captioner to continue "a picture of", from a vision encoder that sees (see `train_vision`).

    Beside it its patches go on learning what class they lie on. Returns the history of the captions' training.
    """
    blip_folder = Path(out) / "blip"
    model, of_patch = seeing_captioner(settings, folder, out)
    tokenizer = BlipProcessor.from_pretrained(blip_folder).tokenizer
    prompt_length = len(tokenizer(PROMPT).input_ids) - 1

    def loss(scenes: SceneArrays, random: np.random.Generator) -> torch.Tensor:
        chosen = random.choice(len(scenes), settings.captioner_batch, replace=False)
        images, classes = augmented(scenes.images[chosen], scenes.labels[chosen], random)
        sentences = [PROMPT + scenes.captions[i][random.integers(3)] for i in chosen]
        ids = tokenizer(sentences, padding=True, return_tensors="pt").to(settings.device)
        ids.input_ids[:, 0] = tokenizer.bos_token_id
        labels = ids.input_ids.masked_fill(ids.attention_mask == 0, -100)
        labels[:, :prompt_length] = -100
        output = model(
            pixel_values=normalised(images, settings.device),
            input_ids=ids.input_ids,
            attention_mask=ids.attention_mask,
            labels=labels,
        )
        return output.loss + patch_loss(of_patch(output.image_embeds[:, 1:]), classes)

    history = fit("captioner", [model, of_patch], loss, training_scenes(settings, folder), settings, folder)
    with quiet():
        model.eval().half().save_pretrained(blip_folder)
    return history
