"""The README.md of a published repository: YAML and text, as pure functions of what is published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from ...errors import printable
from ..features import dataset_features
from ..positions import describe_positions
from ..row_columns import arrow_schema, column_groups, feature_type, signal_bytes
from ..schema import DatasetInfo
from .readme import merge

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_NAMES = {"noisy-genai-bench": "Noisy-GenAI-Bench", "noisy-conceptual-captions": "Noisy Conceptual Captions"}
_TAGS = ["nbench", "diffusion", "noisy-latents", "text-image-alignment", "best-of-n", "arxiv:2512.08505"]
_PROMPTS = (
    ("cc12m", "cc-by-sa-4.0", "The prompts are captions of CC12M images: CC-BY-SA-4.0."),
    ("genai-bench", "apache-2.0", "The prompts are those of GenAI-Bench: Apache-2.0."),
    ("shapes", "apache-2.0", "The prompts are those of nbench's embedded world: Apache-2.0."),
)
_COLUMNS = {
    "id": "`<prompt_id>/<candidate>`",
    "prompt_id": "of the prompt",
    "prompt": "the text",
    "candidate": "which of the prompt's seeds",
    "seed": "of the initial noise",
    "tags": "the skills that the prompt asks for: `basic` and `advanced`",
    "corruptions": "near-miss captions: `subject`, `colour`, `quantity`, `background`; or null",
    "image": "the final image; null if the candidate failed",
    "status": "`ok` or `failed`",
    "error": "why it failed",
}
_CITATION = """## Citation

The method is that of [arXiv 2512.08505](https://arxiv.org/abs/2512.08505); nbench is independent of its authors.

```bibtex
@article{ramos2025beyond,
  title   = {Beyond the Noise: Aligning Prompts with Latent Representations in Diffusion Models},
  author  = {Ramos and Cohen and Szpektor and Magalhaes},
  journal = {arXiv preprint arXiv:2512.08505},
  year    = {2025},
  url     = {https://arxiv.org/abs/2512.08505}
}
```"""
_WORLD = ("shapes", "shapes-unet")
"""The pipelines of the embedded world."""
_INPUTS = {
    "preview": "previews of noisy latents",
    "latent": "noisy latents",
    "x0": "estimates of the finished latent",
    "x0_preview": "previews of estimates of the finished latent",
}
_UNKNOWN_LICENCE = "nbench does not know their licence; the publisher has to state it."


def dataset_card(info: DatasetInfo, repo_id: str, existing: str = "") -> str:
    """The card of a data set for `repo_id`; the `existing` README's own text and YAML keys are kept.

    Raises:
        NbenchError: the YAML of `existing` cannot be read.
    """
    front: dict[str, Any] = {
        "pretty_name": f"{_NAMES[info.name]} ({_pipeline(info)})",
        "license": _license(info),
        "task_categories": ["text-to-image"],
        "size_categories": [next((name for limit, name in _SIZES if info.rows < limit), "n>10M")],
        "tags": _TAGS,
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": info.split, "path": f"data/{info.split}-*{_kind(info)}"}],
            }
        ],
    }
    if info.format == "webdataset":
        front["dataset_info"] = {"features": dataset_features(info)}
    parts = (_summary(info), _columns(info), _positions(info), _making(info), _loading(info, repo_id), _rights(info))
    return merge(front, "\n\n".join((*parts, _CITATION)), existing)


def model_card(recipe: Mapping[str, Any], repo_id: str, existing: str = "") -> str:
    """The card of a model; `recipe` is its training.json, or empty. See `dataset_card`."""
    task, library, prefix, text = _model_kind(recipe)
    front = {"pipeline_tag": task, "library_name": library, "license": "unknown", "tags": _TAGS}
    recipe_text = ""
    if recipe:
        rows = [(f"`{key}`", _code(value)) for key, value in recipe.items() if key != "preview"]
        recipe_text = f"""

{text}{_opening(recipe)}

## How it was made

{_table(("setting", "value"), rows)}"""
    content = f"""# {repo_id.rpartition("/")[2]}{recipe_text}

## How to use it

```sh
nbench evaluate --model {prefix}{repo_id} --bench data/noisy-genai-bench
```

## Licence

Of the weights: {_UNKNOWN_LICENCE}

## Bias and safety

The model judges how well an image matches a text and inherits the biases of the model and of the data it comes from. It
is meant for comparing candidates of one prompt, not for judging people or filtering content.

{_CITATION}"""
    return merge(front, content, existing)


def _model_kind(recipe: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Of a model by its recipe: the Hub's names of its task and library, how `--model` reads it, and what it is."""
    inputs = _INPUTS.get(recipe.get("input", "preview"), "noisy latents")
    if "layer" in recipe:
        reference = _code(recipe.get("reference", ""))
        text = f"A probe: a head on the denoiser's activations that predicts the reference {reference}."
        return "other", "nbench", "probe:", text
    if "input" in recipe and "tune" not in recipe:
        text = f"A VQA model fine-tuned on {inputs}, to answer as it does for the finished image."
        return "visual-question-answering", "transformers", "x0-preview:vqascore:", text
    text = f"A NoisyCLIP: a model fine-tuned on {inputs}."
    return "zero-shot-image-classification", "transformers", "", text


def _opening(recipe: Mapping[str, Any]) -> str:
    """How to open a model that stock transformers cannot use: it is told the noise level."""
    if recipe.get("noise_level", "none") == "none":
        return ""
    return """ It is told the noise level of its input, so open it
with `nbench.scorers.dual_encoder.open_dual_encoder(FOLDER)`: the stock class would leave that out."""


def results_card(results: Sequence[Mapping[str, Any]], repo_id: str, tables: bool, existing: str = "") -> str:
    """The card of evaluation results; `tables`: score tables are published with them. See `dataset_card`."""
    front: dict[str, Any] = {"pretty_name": "nbench results", "license": "unknown", "tags": _TAGS}
    loading = "Each `.json` file holds the figures of one model on one bench."
    if tables:
        path = {"split": "test", "path": "**/*.parquet"}
        front["configs"] = [{"config_name": "scores", "data_files": [path]}]
        loading += f""" The score tables that they were computed from:

```python
from datasets import load_dataset

scores = load_dataset("{repo_id}", "scores", split="test")
```"""
    keys = ("bench", "model", "n_prompts", "n_candidates")
    rows = [(*(_code(result.get(key, "")) for key in keys), _code(_made_by(result))) for result in results]
    listed = _table(("bench", "model", "prompts", "candidates", "nbench"), rows)
    licence = f"## Licence\n\nOf the figures: {_UNKNOWN_LICENCE}"
    parts = ("# nbench results", listed, "## How to load them", loading, licence, _CITATION)
    return merge(front, "\n\n".join(parts), existing)


def _made_by(result: Mapping[str, Any]) -> str:
    provenance = result.get("provenance")
    return str(provenance.get("nbench", "") if isinstance(provenance, dict) else result.get("nbench_version", ""))


def _summary(info: DatasetInfo) -> str:
    shape = " x ".join(map(str, info.latent_shape))
    return f"""# {_NAMES[info.name]}

What a text-to-image diffusion model knows at every step: {info.rows} trajectories ({info.n_prompts} prompts with
{info.candidates} candidates each) of {info.steps} denoising steps, recorded as raw latents (C x H x W: {shape}) at
{len(info.positions)} positions, with the final images of {info.image_size[1]} x {info.image_size[0]} pixels.
Numbers before compression: {_bytes(info)}."""


def _bytes(info: DatasetInfo) -> str:
    """Bytes of each signal's numbers in all rows."""
    return ", ".join(f"{name} {size * info.rows:,} bytes" for name, size in signal_bytes(info).items())


def _columns(info: DatasetInfo) -> str:
    groups = column_groups(info)
    if _kind(info) != ".parquet":
        scales = ", int8 scales" if info.latent_dtype == "int8" else ""
        members = [
            ("`meta.json`", f"ids, prompt, seed, tags, corruptions, status{scales}"),
            ("`image.png`", "the final image"),
            *((_range(group.members), group.content) for group in groups if group.members),
        ]
        return f"## Columns\n\n{_table(('member', 'content'), members)}"
    schema = arrow_schema(info)
    rows: list[tuple[str, ...]] = [
        (f"`{name}`", _type(schema.field(name).type), text) for name, text in _COLUMNS.items()
    ]
    rows += [(_range(group.columns), _type(group.kind), group.content) for group in groups]
    return f"## Columns\n\nA row is a trajectory.\n\n{_table(('column', 'type', 'content'), rows)}"


def _range(names: Sequence[str]) -> str:
    return f"`{names[0]}`" if len(names) == 1 else f"`{names[0]}` .. `{names[-1]}`"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} x {feature_type(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else feature_type(kind)


def _positions(info: DatasetInfo) -> str:
    rows = [tuple(_figure(v) for v in (p.position, p.timestep, p.sigma, p.input_scale)) for p in info.positions]
    return f"""## Positions

Position k is the input of denoising step k; position {info.steps} is the finished latent. The denoiser sees
latent x input scale. Stored: {describe_positions(info.stored)}.

{_table(("position", "timestep", "sigma", "input scale"), rows)}"""


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _making(info: DatasetInfo) -> str:
    shown = {key: value for key, value in info.spec.items() if key not in ("pipeline", "positions", "rows_per_shard")}
    rows = [("pipeline", _code(_pipeline(info))), *((name.replace("_", " "), _code(v)) for name, v in shown.items())]
    return f"""## How it was made

By `nbench build`, which records the input sample of every `scheduler.step` of a stock diffusers pipeline. The
seed of a candidate is a hash of the base seed, the prompt's id and the candidate's number. `dataset.json` holds the
whole record, with the SHA-256 of every shard, and, where there is one, the linear map from latents to previews.

{_table(("setting", "value"), rows)}

Fingerprint: `{info.fingerprint}`"""


def _loading(info: DatasetInfo, repo_id: str) -> str:
    return f"""## How to load it

```python
from datasets import load_dataset

rows = load_dataset("{repo_id}", split="{info.split}")
```

With nbench, which fetches only the requested positions (open a downloaded copy by its folder):

```python
from nbench import open_bench

bench = open_bench("{repo_id}")
for batch in bench.batches(positions=[{info.stored[-1]}], images=True):
    batch.prompts, batch.latents[{info.stored[-1]}], batch.images  # latents [B, C, H, W], images uint8 [B, H, W, 3]
```"""


def _rights(info: DatasetInfo) -> str:
    source = _source(info)
    prompts = source[2] if source else f"The prompts: {_UNKNOWN_LICENCE}"
    if _pipeline(info) in _WORLD:
        images = "Latents and images come from nbench's embedded world: Apache-2.0."
    else:
        images = (
            f"Latents and images come from {_code(_pipeline(info))}: the licence of that model applies to its outputs."
        )
    return f"""## Licences

- {prompts}
- {images}

## Bias and safety

All images are generated; none was reviewed or filtered. They show the biases of the model that made them and of its
training data, may be offensive, and may depict what looks like real people or brands. Prompts are as their
source has them. Many images do not match their prompt, which is the point of the data; automatic references make
errors, too. Do not use the data to judge people, or as a claim about any real person or thing."""


def _license(info: DatasetInfo) -> str:
    source = _source(info)
    if source is None:
        return "unknown"
    return source[1] if _pipeline(info) in _WORLD or source[1] != "apache-2.0" else "other"


def _source(info: DatasetInfo) -> tuple[str, str, str] | None:
    """The entry of `_PROMPTS` for the recorded source; None if it is not among them."""
    prompts = info.spec.get("prompts")
    name = str(prompts.get("source", "")).lower().replace("_", "-") if isinstance(prompts, dict) else ""
    return next((entry for entry in _PROMPTS if entry[0] in name), None)


def _pipeline(info: DatasetInfo) -> str:
    """The pipeline's name; for a folder only its last part, as local paths do not belong on a card."""
    name = info.spec["pipeline"]["name"]
    return PurePath(name).name if name.startswith(("/", ".", "~")) else name


def _kind(info: DatasetInfo) -> str:
    return PurePath(info.shard_path(0)).suffix


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(value: object) -> str:
    """Any value as Markdown that cannot break out of a table cell."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{_line(text).replace('`', chr(39)).replace('|', '/')}`"


def _line(text: object) -> str:
    return printable(" ".join(str(text).split()))
