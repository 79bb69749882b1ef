"""Statistics and contact sheet of a data set."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbench.console import TextConsole
from nbench.errors import NbenchError
from nbench.shards.inspect import contact_sheet, inspect, inspection_table, preview_image
from nbench.shards.reader import open_bench
from nbench.shards.schema import DatasetInfo, PreviewMap

from ..dataset_info import build
from .conftest import rows


def test_sizes_and_statistics(bench_folder: Path) -> None:
    summary = inspect(open_bench(bench_folder))
    want = rows(range(12))
    kept = [i for i in range(12) if i != 4]
    assert (summary.rows, summary.failed, summary.prompts, summary.candidates, summary.shards) == (12, 1, 4, 3, 3)
    assert summary.bytes == sum(path.stat().st_size for path in bench_folder.glob("data/*"))
    assert summary.raw_bytes == 12 * 5 * 256 * 2
    for place in summary.positions:
        values = want.latents[place.position][kept].astype(np.float64)
        assert place.mean == pytest.approx(values.mean(), abs=1e-9)
        assert place.std == pytest.approx(values.std(), abs=1e-9)
    assert json.loads(json.dumps(summary.to_dict()))["positions"][0]["position"] == 0


def test_a_sample_is_of_the_first_rows(bench_folder: Path) -> None:
    summary = inspect(open_bench(bench_folder), sample=2)
    assert summary.sampled == 2
    assert summary.positions[0].std == pytest.approx(rows(range(2)).latents[0].astype(float).std())


def test_contact_sheet(bench_folder: Path) -> None:
    image = np.asarray(Image.open(io.BytesIO(contact_sheet(open_bench(bench_folder), "p3/1"))))
    assert image.shape == (14 + 110, 6 * 96, 3)  # five positions and the image
    want = rows(range(10, 11)).images
    assert want is not None
    shown = Image.fromarray(want[0]).resize((94, 94), Image.Resampling.NEAREST)
    assert np.array_equal(image[14 : 14 + 94, 5 * 96 + 1 : 6 * 96 - 1], np.asarray(shown))
    with pytest.raises(NbenchError, match="no row 'p9/0'"):
        contact_sheet(open_bench(bench_folder), "p9/0")
    with pytest.raises(NbenchError, match="row 'p1/1' failed"):
        contact_sheet(open_bench(bench_folder), "p1/1")


def test_a_preview_is_the_linear_map_clamped() -> None:
    latent = np.array([[[0.5]], [[2.0]]])
    shown = preview_image(latent, PreviewMap(((1, 0), (0, 1), (0, -1)), (0.1, 0, 0)))
    assert shown.tolist() == [[[153, 255, 0]]]


def test_names_of_a_data_set_are_printed_as_text(info: DatasetInfo, tmp_path: Path) -> None:
    named = replace(info, spec=info.spec | {"pipeline": {"name": "odd\x1b]0;title\x07 [/bold] \u202e", "content": "c"}})
    build(tmp_path / "with[", named, lambda numbers: [rows(numbers)])
    TextConsole(file=(printed := io.StringIO()), width=200).print(
        inspection_table(inspect(open_bench(tmp_path / "with[")))
    )
    assert r"odd\x1b]0;title\x07 [/bold] \u202e" in printed.getvalue()
    assert all(char.isprintable() or char == "\n" for char in printed.getvalue())
