"""Trains the world's VQA model: a stock BlipForQuestionAnswering that answers yes or no to VQAScore's question.

A yes/no answer alone teaches too little. So the image tower starts as CLIP's, and two throw-away heads help: one on the
image tokens names the objects in each patch, one on the question's words marks those that are wrong.
"""

from __future__ import annotations

import difflib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BlipConfig, BlipForQuestionAnswering, CLIPModel

from ...scorers.vqascore import QUESTION, heed_question_mask
from ..grammar import CORRUPTION_KINDS, Scene, corrupt
from ..render import SIZE
from ..tokenizer import MAX_QUESTION_TOKENS, build_tokenizer, words
from .batches import batches
from .clip import PATCH
from .loop import RunningAverage, fit, save_model
from .naming import LOOKS, naming_loss

WIDTH = 160
OTHER_KINDS = tuple(kind for kind in CORRUPTION_KINDS if kind != "quantity")
NAMING_WEIGHT, SPOTTING_WEIGHT = 0.5, 2.0
SPOT_RARITY = torch.tensor(3.0)
"""Weight of wrong words, which are rare."""
QUESTIONS = 4
"""Questions per image and step: the true caption, its quantity corrupted, which is hardest to learn, another
kind of corruption, and a near miss."""


def build_vqa() -> BlipForQuestionAnswering:
    """A stock BLIP question answerer for 32x32 images and the world's words."""
    vocabulary = words()
    config = BlipConfig(
        text_config=dict(
            vocab_size=len(vocabulary),
            hidden_size=WIDTH,
            encoder_hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
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
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            initializer_range=0.02,
        ),
        projection_dim=WIDTH,
        image_text_hidden_size=WIDTH,
    )
    model = BlipForQuestionAnswering(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.out_features != len(vocabulary):
            torch.nn.init.xavier_uniform_(module.weight)
    return model


@torch.no_grad()
def see_like(vqa: BlipForQuestionAnswering, clip: CLIPModel, pixels: torch.Tensor) -> None:
    """Give `vqa` the image tower of `clip`, the same layers except for CLIP's layer norm before the first.

    That norm is folded into the embeddings, with the mean scale that it has on `pixels` [B, 3, H, W].
    """
    theirs, ours = clip.vision_model, vqa.vision_model
    norm, width = theirs.pre_layrnorm, theirs.config.hidden_size
    centred = torch.eye(width) - 1 / width
    scale = norm.weight[:, None] * centred / (theirs.embeddings(pixels) @ centred).std(-1).mean()
    patch = theirs.embeddings.patch_embedding.weight
    ours.embeddings.patch_embedding.weight.copy_((scale @ patch.flatten(1)).view_as(patch))
    ours.embeddings.patch_embedding.bias.zero_()
    ours.embeddings.class_embedding.copy_(scale @ theirs.embeddings.class_embedding)
    ours.embeddings.position_embedding.copy_(theirs.embeddings.position_embedding.weight @ scale.T + norm.bias)
    ours.post_layernorm.load_state_dict(theirs.post_layernorm.state_dict())
    for mine, layer in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        for part in ("layer_norm1", "layer_norm2", "mlp"):
            getattr(mine, part).load_state_dict(getattr(layer, part).state_dict())
        attention = layer.self_attn
        queries = (attention.q_proj, attention.k_proj, attention.v_proj)
        mine.self_attn.qkv.weight.copy_(torch.cat([linear.weight for linear in queries]))
        mine.self_attn.qkv.bias.copy_(torch.cat([linear.bias for linear in queries]))
        mine.self_attn.projection.load_state_dict(attention.out_proj.state_dict())


def train(out: Path, clip: Path | None, steps: int, batch_size: int = 64, seed: int = 4) -> list[float]:
    """Train, the image tower starting as that of the CLIP in `clip` (None: from nothing), and save model and tokenizer
    to `out`; returns the losses.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, tokenizer, source = build_vqa(), build_tokenizer(MAX_QUESTION_TOKENS), batches(seed, batch_size)
    heed_question_mask(model)
    if clip:
        see_like(model, CLIPModel.from_pretrained(clip, dtype=torch.float32), next(source).pixels)
    naming, spotting = torch.nn.Linear(WIDTH, LOOKS), torch.nn.Linear(WIDTH, 1)
    yes, no, start = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no", "<start>"))
    before = len(tokenizer(QUESTION.split("{prompt}")[0]).input_ids) - 1  # <start> stays, <end> does not
    trained = torch.nn.ModuleList([model, naming, spotting])
    average = RunningAverage(trained, 0.998)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = next(source)
        captions = batch.with_corrupted(("quantity", rng.choice(OTHER_KINDS)))
        drawn = zip(batch.scenes, batch.drawing.x, batch.drawing.y, strict=True)
        captions += [near_miss(scene, x, y, rng).caption for scene, x, y in drawn]
        questions = tokenizer(
            [QUESTION.format(prompt=caption) for caption in captions], padding=True, return_tensors="pt"
        )
        image = model.vision_model(batch.pixels).last_hidden_state
        images = image.repeat(QUESTIONS, 1, 1)
        states = model.text_encoder(
            input_ids=questions.input_ids,
            attention_mask=questions.attention_mask,
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long),
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
        wrong = pad_sequence(
            [torch.tensor(wrong_words(batch.captions[i % batch_size], text)) for i, text in enumerate(captions)],
            batch_first=True,
            padding_value=-1,
        )
        marks = spotting(states)[:, before : before + wrong.shape[1], 0].float()
        labelled = wrong >= 0
        spotted = F.binary_cross_entropy_with_logits(marks[labelled], wrong[labelled], pos_weight=SPOT_RARITY)
        right = (logits[:, yes] > logits[:, no]) == true
        figures = {
            "yes": right[true].float().mean().item(),
            "no": right[~true].float().mean().item(),
            "naming": named.item(),
            "spotting": spotted.item(),
        }
        return answer + NAMING_WEIGHT * named + SPOTTING_WEIGHT * spotted, figures

    losses = fit(trained.parameters(), loss_of_step, average, steps, 1e-3, out / "train.jsonl")
    save_model(model, tokenizer, out)
    return losses


def wrong_words(true: str, caption: str) -> list[float]:
    """For every word of `caption`: 1 where it must be replaced to get the `true` one, else 0.

    >>> wrong_words("two red circles", "two blue circles")
    [0.0, 1.0, 0.0]
    """
    words = caption.split()
    wrong = [1.0] * len(words)
    for block in difflib.SequenceMatcher(None, true.split(), words, autojunk=False).get_matching_blocks():
        wrong[block.b : block.b + block.size] = [0.0] * block.size
    return wrong


def near_miss(scene: Scene, x: np.ndarray, y: np.ndarray, rng: random.Random) -> Scene:
    """A wrong caption that a generator may have drawn instead: the other group changed, or the relation reversed.

    Args:
        x, y: where the objects of the scene are, as in `Drawing`: an object on the left may be above, too.
    """
    if scene.relation in ("left of", "above"):
        if rng.random() < 0.4:
            other, places = ("above", y) if scene.relation == "left of" else ("left of", x)
            first, second = (group.count for group in scene.groups)
            if rng.random() < 0.5 and places[:first].max() >= places[first : first + second].min():
                return replace(scene, relation=other)
            return replace(scene, groups=scene.groups[::-1])
        turned = corrupt(replace(scene, groups=scene.groups[::-1]), rng.choice(("subject", "colour", "quantity")), rng)
        return replace(turned, groups=turned.groups[::-1])
    if scene.relation == "no" and rng.random() < 0.5:
        return replace(scene, groups=(scene.groups[0], replace(scene.groups[1], shape=scene.groups[0].shape)))
    return corrupt(scene, rng.choice(CORRUPTION_KINDS), rng)
