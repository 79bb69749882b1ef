"""The model card beside the weights, written from the measured figures."""

from __future__ import annotations

from pathlib import Path

from ..grammar import CORRUPTION_KINDS
from .figures import Figures

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The shapes world

A miniature text-to-image world: scenes such as "two red circles above one blue square on gray background", 32x32
pixels, drawn by a program, so that what is true of an image is known. It exists to see noisy-latent scoring work, and
to test it, without a GPU or a download. It is of no use for real images.

| folder | class | what it is |
|---|---|---|
| `pipeline` | `StableDiffusion3Pipeline` | the generator: 16x16x4 latents, flow matching, classifier-free guidance |
| `unet` | `StableDiffusionPipeline` | a second generator (`--pipeline shapes-unet`) on the same latents: a UNet that \
predicts noise, DDIM, cosine schedule |
| `clip` | `CLIPModel` | twin towers; its text tower is also the first text encoder of both generators |
| `vqa` | `BlipForQuestionAnswering` | answers yes or no; VQAScore is its P("yes") |
| `noisyclip` | `CLIPModel` | `clip` with the image tower fine-tuned on previews of noisy latents, positions 20 to 30, \
towards what `clip` holds of the final images |
| `noisyclip-t` | `CLIPModel`, told the noise level | `clip` with an image tower that reads latents of all positions, \
fine-tuned on rendered scenes with noise; opens with `nbench.scorers.dual_encoder.open_dual_encoder` |

## How trained
On two CPU cores, from nothing, with procedurally drawn scenes: `make world`. {total:.0f} minutes in all: {seconds}.
Losses by step are in `logs/`. One attribute combination in five is held out of all training; the figures below are on
those. The generator's guidance is folded into it: diffusers' default, 7, is what suits it. Its T5 slot is silent: call
it with `max_sequence_length=1` and save nine tenths of the time.

## Figures
Share of rendered scenes in which the true caption beats the corrupted one (CLIP), or is told from it at .5 (VQA):

| | {kinds} | all |
|---|{rule}---|
| CLIP | {clip} |
| VQA | {vqa} |

Of the images generated for the bench ({prompts:.0f} prompts x {candidates:.0f}), {right:.1%} are exactly what was
asked for, by comparison with drawn templates; the VQA model says yes to {yes:.1%}, and is right about {agreed:.1%}.
Of those of `unet` ({second[prompts]:.0f} prompts x {second[candidates]:.0f}) {second[right]:.1%} are right; the VQA \
model says yes to {second[yes]:.1%}, and is right about {second[agreed]:.1%}.
Agreement with VQAScore (mean within-prompt Spearman): frozen CLIP on the final image {image:.3f}; on previews, by
position:

| | {positions} |
|---|{positions_rule}
| frozen CLIP | {clip_previews} |
| NoisyCLIP | {noisyclip_previews} |
| NoisyCLIP's lead | {lead} |
| its 95 % interval | {interval} |

License: Apache-2.0, weights and recipe.
"""


def write_card(out: Path, figures: dict[str, Figures], seconds: dict[str, int]) -> None:
    """Write `out/README.md`."""
    shown = [position for position in figures["clip_previews"] if int(position) % 5 == 0]

    def row(figures: Figures, names: list[str]) -> str:
        return " | ".join(f"{figures[name]:.3f}" for name in names)

    kinds = [*CORRUPTION_KINDS, "all"]
    text = _CARD.format(
        total=sum(seconds.values()) / 60,
        seconds=", ".join(f"{name} {value / 60:.0f}" for name, value in seconds.items()),
        kinds=" | ".join(CORRUPTION_KINDS),
        rule="---|" * len(CORRUPTION_KINDS),
        clip=row(figures["clip"], kinds),
        vqa=row(figures["vqa"], kinds),
        **figures["bench"],
        second=figures["unet"],
        positions=" | ".join(shown),
        positions_rule="---|" * len(shown),
        clip_previews=row(figures["clip_previews"], shown),
        noisyclip_previews=row(figures["noisyclip_previews"], shown),
        lead=row(figures["lead"], shown),
        interval=" | ".join(f"{figures['lead_low'][name]:.3f} .. {figures['lead_high'][name]:.3f}" for name in shown),
    )
    (out / "README.md").write_text(text)
