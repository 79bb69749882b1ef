"""The command that generates: Best-of-N with pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .configured import configured_by
from .pipeline_options import pipeline_options

if TYPE_CHECKING:
    from ..pipelines.options import PipelineOptions
    from ..sampling.bestofn import BestOfNResult

sample_app = typer.Typer()


@sample_app.command("sample")
@configured_by(pipeline_options)
def sample(
    prompt: Annotated[str, typer.Argument(help="What the image is to show.")],
    best_of: Annotated[int, typer.Option(help="Candidates to draw.")] = 6,
    pipeline: Annotated[str, typer.Option(help="A pipeline's name, or a diffusers folder or Hub id.")] = "shapes",
    model: Annotated[str, typer.Option(help="The scorer.")] = "noisyclip",
    policy: Annotated[
        str,
        typer.Option(
            help="Position:how many stay, as 10:3,20:1 or, to draw four, 4,10:3,20:1; or a file of `nbench tune`."
        ),
    ] = "20:1",
    keep: Annotated[int, typer.Option(help="Images to end with; no stage leaves fewer.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Denoising steps T. [default: the pipeline's]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale. [default: the pipeline's]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16. [default: the pipeline's]")] = None,
    seed: Annotated[int, typer.Option(help="Base seed, from which each candidate's own is derived.")] = 0,
    prompt_id: Annotated[
        str | None, typer.Option(help="The prompt's id in a bench: draw the bench's candidates. [default: the prompt]")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Candidates at a time, in waves. [default: all]")] = None,
    accept: Annotated[float | None, typer.Option(help="A score that is good enough: draw no more.")] = None,
    restart: Annotated[
        float | None, typer.Option(help="A score which the best of a wave must reach, or others are drawn (--budget).")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Denoiser calls (a candidate's step is one) at most.")] = None,
    bench: Annotated[
        str | None,
        typer.Option(help="Bench of this pipeline, whose preview map is used. [default: the pipeline's own]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the image goes; with --keep K, also NAME-2 to NAME-K.")] = Path(
        "image.png"
    ),
    show_candidates: Annotated[
        bool, typer.Option("--show-candidates", help="Draw all candidates beside it: NAME-candidates.png.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    *,
    options: PipelineOptions,
) -> None:
    """Generate the best of several candidates; those that a scorer likes least leave early, and only survivors are
    decoded.

    `nbench sample "two red circles above one blue square" --best-of 6 --out image.png`

    `nbench sample "one green star" --policy 10:3,20:1 --show-candidates --json`

    `nbench sample "a red bicycle" --pipeline sdxl --height 768 --width 1024 --model x0-image`
    """
    import io
    import json
    from dataclasses import replace

    from PIL import Image

    from ..builders.config import DTYPES
    from ..errors import NbenchError
    from ..pipelines.find import load_pipeline, resolve_pipeline
    from ..pipelines.quiet import quieten_diffusers
    from ..sampling.bestofn import BestOfN
    from ..sampling.policy import parse_policy
    from ..shards.atomic import atomic_write, writing_to
    from ..shards.reader import open_bench

    quieten_diffusers()
    form = Image.registered_extensions().get(out.suffix.lower())
    if form not in Image.SAVE:
        raise NbenchError(f"--out {out}: no format of images is called {out.suffix!r}; write .png, .jpg or .webp")
    if dtype not in (None, *DTYPES):
        raise NbenchError(f"no dtype {dtype!r}: there are {', '.join(DTYPES)}")
    options = replace(options, guidance=guidance)
    entry = resolve_pipeline(pipeline, options)
    wanted = parse_policy(policy)
    wanted.check(best_of, steps or entry.steps)
    scale = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    bestofn = BestOfN(
        load_pipeline(entry, dtype or entry.dtype, options=options),
        model,
        best_of,
        wanted,
        keep,
        max_batch,
        accept,
        budget,
        restart,
        seed,
        entry.preview if bench is None else open_bench(bench).info.preview,
    )
    result = bestofn.best(prompt, prompt_id, num_inference_steps=steps or entry.steps, **scale, **entry.call_kwargs)
    made: dict[Path, bytes] = {}
    for number, image in enumerate(result.images, 1):
        image.save(buffer := io.BytesIO(), form)
        made[out if number == 1 else out.with_stem(f"{out.stem}-{number}")] = buffer.getvalue()
    if show_candidates:
        made[out.with_name(f"{out.stem}-candidates.png")] = _sheet(result, prompt)
    for path, data in made.items():
        with writing_to(path):
            atomic_write(path, data)
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    rows, full = result.denoiser_rows, result.full_denoiser_rows
    print(
        f"{rows} of {full} denoiser rows ({rows / full:.0%}), "
        f"{result.seconds:.2f} s, {result.scorer_seconds:.2f} s of it the scorer's"
    )
    print("written:", *made)


def _sheet(result: BestOfNResult, prompt: str) -> bytes:
    import numpy as np

    from ..shards.inspect import sheet_of

    blank = np.full((1, 1, 3), 255, np.uint8)
    tiles = []
    for one in result.candidates:
        score = f" {list(one.scores.values())[-1]:.3f}" if one.scores else ""
        fate = "selected" if one.left_at is None else f"left at {one.left_at}"
        tiles.append((fate + score, blank if one.seen is None else one.seen))
    return sheet_of(tiles, prompt)
