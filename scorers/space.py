"""A latent space without a data set of it, as scorers are told of it."""

from __future__ import annotations

from ..shards.schema import DatasetInfo, PositionInfo, PreviewMap


def latent_space(
    latent_shape: tuple[int, int, int],
    preview: PreviewMap | None,
    pipeline: str = "unknown",
    image_size: tuple[int, int] = (0, 0),
    positions: tuple[PositionInfo, ...] = (),
    steps: int = 0,
) -> DatasetInfo:
    """Latents [C, h, w] of `pipeline` as the record of a data set without rows, for `get_scorer`."""
    return DatasetInfo(
        format_version=1,
        name="noisy-genai-bench",
        split="test",
        fingerprint="",
        spec={"pipeline": {"name": pipeline, "content": ""}},
        latent_shape=latent_shape,
        format="parquet",
        latent_dtype="float16",
        image_size=image_size,
        steps=steps,
        candidates=0,
        n_prompts=0,
        rows=0,
        rows_per_shard=1,
        positions=positions,
        preview=preview,
        shards=(),
    )
