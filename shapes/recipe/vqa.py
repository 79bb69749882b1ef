"""Trains the world's VQA model: a stock BlipForQuestionAnswering that answers yes or no to VQAScore's question.

A yes/no answer alone is a hint too thin to learn to see from; a throw-away head on the image tokens that must name
the objects whose centres lie in each patch teaches that in minutes.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import BlipConfig, BlipForQuestionAnswering

from ...scorers.vqascore import QUESTION, heed_question_mask
from ..grammar import CORRUPTION_KINDS, Scene, corrupt
from ..render import SIZE
from ..tokenizer import MAX_QUESTION_TOKENS, build_tokenizer, words
from .batches import batches
from .loop import RunningAverage, fit, save_model
from .naming import LOOKS, naming_loss

PATCH = 8
NAMING_WEIGHT = 1.0


def build_vqa() -> BlipForQuestionAnswering:
    """A stock BLIP question answerer for 32x32 images and the world's words."""
    vocabulary = words()
    config = BlipConfig(
        text_config=dict(
            vocab_size=len(vocabulary),
            hidden_size=128,
            encoder_hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_QUESTION_TOKENS,
            pad_token_id=0,
            sep_token_id=vocabulary.index("<end>"),
            bos_token_id=vocabulary.index("<start>"),
            eos_token_id=vocabulary.index("<end>"),
        ),
        vision_config=dict(
            image_size=SIZE,
            patch_size=PATCH,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            initializer_range=0.02,
        ),
        projection_dim=128,
        image_text_hidden_size=128,
    )
    model = BlipForQuestionAnswering(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.out_features != len(vocabulary):
            torch.nn.init.xavier_uniform_(module.weight)
    return model


def train(out: Path, steps: int, batch_size: int = 64, seed: int = 4) -> list[float]:
    """Train from nothing and save model and tokenizer to `out`; returns the losses."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, tokenizer, source = build_vqa(), build_tokenizer(MAX_QUESTION_TOKENS), batches(seed, batch_size)
    heed_question_mask(model)
    naming = torch.nn.Linear(128, LOOKS)
    yes, no, start = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no", "<start>"))
    trained = torch.nn.ModuleList([model, naming])
    average = RunningAverage(trained, 0.998)
    asked = len(CORRUPTION_KINDS) + 2

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = next(source)
        captions = batch.captions + [caption for kind in CORRUPTION_KINDS for caption in batch.corrupted[kind]]
        captions += [near_miss(scene, rng).caption for scene in batch.scenes]
        questions = tokenizer(
            [QUESTION.format(prompt=caption) for caption in captions], padding=True, return_tensors="pt"
        )
        image = model.vision_model(batch.pixels).last_hidden_state
        asked_of = image.repeat(asked, 1, 1)
        states = model.text_encoder(
            input_ids=questions.input_ids,
            attention_mask=questions.attention_mask,
            encoder_hidden_states=asked_of,
            encoder_attention_mask=torch.ones(asked_of.shape[:2], dtype=torch.long),
        )[0]
        logits = model.text_decoder(
            input_ids=torch.full((len(captions), 1), start),
            encoder_hidden_states=states,
            encoder_attention_mask=questions.attention_mask,
        ).logits[:, 0]
        true = torch.arange(len(captions)) < batch_size
        answers = F.cross_entropy(logits.float(), torch.where(true, yes, no), reduction="none")
        answer = (answers[true].mean() + answers[~true].mean()) / 2
        named = naming_loss(naming(image[:, 1:]), batch.drawing, PATCH)
        right = (logits[:, yes] > logits[:, no]) == true
        figures = {
            "yes": right[true].float().mean().item(),
            "no": right[~true].float().mean().item(),
            "naming": named.item(),
        }
        return answer + NAMING_WEIGHT * named, figures

    losses = fit(
        trained.parameters(),
        loss_of_step,
        steps=steps,
        learning_rate=1e-3,
        log=out / "train.jsonl",
        after_step=lambda _: average.update(),
    )
    average.copy_to_module()
    save_model(model, tokenizer, out)
    return losses


def near_miss(scene: Scene, rng: random.Random) -> Scene:
    """A wrong caption of the kinds that generators make true: the other group changed, or the relation turned round."""
    if scene.relation in ("left of", "above"):
        if rng.random() < 0.4:
            flipped = replace(scene, groups=scene.groups[::-1])
            return (
                flipped
                if rng.random() < 0.5
                else replace(scene, relation="above" if scene.relation == "left of" else "left of")
            )
        turned = corrupt(replace(scene, groups=scene.groups[::-1]), rng.choice(("subject", "colour", "quantity")), rng)
        return replace(turned, groups=turned.groups[::-1])
    if scene.relation == "no" and rng.random() < 0.5:
        return replace(scene, groups=(scene.groups[0], replace(scene.groups[1], shape=scene.groups[0].shape)))
    return corrupt(scene, rng.choice(CORRUPTION_KINDS), rng)
