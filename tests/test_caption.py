import numpy as np
import pytest
import torch
from PIL import Image

from fsdlib.caption import caption
from fsdlib.world.scenes import scene_of_split


def length(sentence, captioner, prompt="a picture of "):
    """Tokens of a caption with its prompt, the first and last special ones included, as the captioner counts them."""
    return len(captioner.processor.tokenizer(prompt + sentence).input_ids)


def likelihood(picture, sentence, captioner):
    """The mean log probability of a caption's tokens given the picture."""
    ids = captioner.processor.tokenizer("a picture of " + sentence, return_tensors="pt").input_ids
    ids[:, 0] = captioner.model.config.text_config.bos_token_id
    pixels = captioner.processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
    with torch.no_grad():
        logits = captioner.model(pixel_values=pixels, input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logits[torch.arange(len(ids[0]) - 1), ids[0, 1:]][3:].mean().item()


def test_a_caption_is_lower_case_without_prompt_and_stray_spaces(mini, scene):
    (sentence,) = caption([scene.image], mini.captioner)
    assert sentence and sentence == " ".join(sentence.lower().split()) and not sentence.startswith("a picture of")


def test_captions_do_not_depend_on_what_else_is_in_the_batch(mini, scenes):
    images = [scene.image for scene in scenes]
    together = caption(images, mini.captioner)
    assert (
        together == [caption([image], mini.captioner)[0] for image in images]
        and caption(images[::-1], mini.captioner) == together[::-1]
    )


def test_pictures_of_any_size_can_stand_in_one_batch(mini, scene):
    flat = np.ascontiguousarray(scene.image[:90, ::2])
    assert caption([scene.image, flat], mini.captioner)[1] == caption([flat], mini.captioner)[0]


@pytest.mark.parametrize("least, most", [(10, 30), (20, 24), (0, 6)])
def test_captions_keep_to_the_asked_length(mini, scenes, least, most):
    for sentence in caption([scene.image for scene in scenes], mini.captioner, min_tokens=least, max_tokens=most):
        assert (
            least <= length(sentence, mini.captioner) <= most + 1
        )  # a caption cut at the limit has no last special token


def by_whole_length(picture, captioner, beams=3, min_tokens=10, max_tokens=30):
    """Beam search as it was before transformers 4.27, step by step and without any of the library's: the best beam's caption."""
    model, tokenizer = captioner.model, captioner.processor.tokenizer
    end = model.config.text_config.sep_token_id
    pixels = captioner.processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
    with torch.no_grad():
        seen = model.vision_model(pixels).last_hidden_state
    prompt = tokenizer("a picture of ").input_ids[:-1]
    running = [(0.0, [model.config.text_config.bos_token_id, *prompt[1:]])]
    finished = []  # (log probability / tokens, tokens), the best `beams` of them
    while len(running[0][1]) < max_tokens:
        length, grown = len(running[0][1]), []
        for total, tokens in running:
            with torch.no_grad():
                logits = model.text_decoder(torch.tensor([tokens]), encoder_hidden_states=seen).logits[0, -1]
            steps = logits.log_softmax(-1)
            if length < min_tokens:
                steps[end] = -torch.inf
            values, words = steps.topk(2 * beams)
            grown += [(total + value.item(), [*tokens, word.item()]) for value, word in zip(values, words)]
        grown = sorted(grown, key=lambda beam: -beam[0])[: 2 * beams]
        finished += [(total / length, tokens[:-1]) for total, tokens in grown[:beams] if tokens[-1] == end]
        finished = sorted(finished, key=lambda beam: -beam[0])[:beams]
        running = [beam for beam in grown if beam[1][-1] != end][:beams]
        if len(finished) == beams and finished[-1][0] >= grown[0][0] / length:
            break
    else:
        finished += [(total / max_tokens, tokens) for total, tokens in running]
    best = max(finished, key=lambda beam: beam[0])[1]
    return tokenizer.decode(best, skip_special_tokens=True).removeprefix("a picture of ")


@pytest.mark.slow
@pytest.mark.parametrize("limits", [(10, 30), (12, 17)])
def test_beams_are_scored_by_their_whole_length_as_a_search_by_hand_does(mini, limits):
    images = [scene_of_split("val", number).image for number in range(12)]
    found = caption(images, mini.captioner, min_tokens=limits[0], max_tokens=limits[1])
    assert found == [by_whole_length(image, mini.captioner, 3, *limits) for image in images]
    of_generated = caption(images, mini.captioner, min_tokens=limits[0], max_tokens=limits[1], divide_by="generated")
    assert found != of_generated  # so the test can tell them apart


def test_the_captioner_is_left_as_it_was(mini, scene):
    caption([scene.image], mini.captioner)
    assert (
        not {"_update_finished_beams", "_check_early_stop_heuristic"} & vars(mini.captioner.model.text_decoder).keys()
    )


def test_the_caption_is_what_the_captioner_itself_finds_by_beam_search(mini, scene):
    model, tokenizer = mini.captioner.model, mini.captioner.processor.tokenizer
    pixels = mini.captioner.processor(images=Image.fromarray(scene.image), return_tensors="pt").pixel_values
    prompt = tokenizer("a picture of ", return_tensors="pt").input_ids
    tokens = model.generate(pixels, prompt, num_beams=3, min_length=10, max_length=30, do_sample=False)
    assert (
        tokenizer.decode(tokens[0], skip_special_tokens=True)
        == "a picture of " + caption([scene.image], mini.captioner, divide_by="generated")[0]
    )


def test_three_beams_find_captions_at_least_as_likely_as_one(mini, scenes):
    of_generated = dict(divide_by="generated")  # as `likelihood` has it
    found = {beams: caption([s.image for s in scenes], mini.captioner, beams=beams, **of_generated) for beams in (1, 3)}
    mean = {
        beams: np.mean([likelihood(s.image, c, mini.captioner) for s, c in zip(scenes, found[beams])])
        for beams in found
    }
    assert mean[3] >= mean[1] - 1e-4


def test_the_prompt_is_what_the_captioner_continues(mini, scene):
    (sentence,) = caption([scene.image], mini.captioner, prompt="two dogs next to ", max_tokens=30)
    assert not sentence.startswith("two dogs") and length(sentence, mini.captioner, "two dogs next to ") <= 31
