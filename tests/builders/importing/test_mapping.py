"""Folders of .pt, .npz and .safetensors files become data sets by a mapping file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nbench.shards.reader import Bench, open_bench

from ...conftest import Run
from .engine_answers import STEPS, Made, made, packed
from .test_noisyclip import EULER

PROMPTS = {"7": "one", "12": "two"}
SEEDS = {("7", 0): 1, ("7", 1): 2, ("12", 0): 3, ("12", 1): 4}


def write(folder: Path, suffix: str, content: Any, image: str | None = ".png") -> Path:
    """A folder with a file per candidate, by `content` of its run, and images beside them."""
    for (prompt, candidate), seed in SEEDS.items():
        path = folder / f"run/{prompt}_{candidate}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        value = content(made(seed, dtype=torch.float32), seed)
        match suffix:
            case ".npz":
                np.savez(path, **{name: np.asarray(each) for name, each in value.items()})  # type: ignore[arg-type]
            case ".safetensors":
                save_file(value, path)
            case _:
                torch.save(value, path)
        if image:
            Image.fromarray(made(seed).image).save(path.with_name(path.stem + image))
    (folder / "prompts.csv").write_text("id,prompt\n" + "".join(f"{key},{text}\n" for key, text in PROMPTS.items()))
    return folder


def imported(run: Run, folder: Path, mapping: str, *options: object) -> Bench:
    (folder / "map.yaml").write_text(mapping)
    out = folder.with_name("out")
    arguments = ("--map", folder / "map.yaml", "--prompts", folder / "prompts.csv", "--out", out, *options)
    said = run("import", "generic", folder, "--latent-dtype", "float32", *arguments)
    assert said.code == 0, said.err
    return open_bench(out)


def check(bench: Bench, positions: list[int]) -> None:
    batch = next(bench.batches(positions, images=True))
    assert bench.info.stored == tuple(positions)
    assert batch.images is not None
    for row, seed in enumerate(SEEDS.values()):
        run = made(seed, dtype=torch.float32)
        for k in positions:
            np.testing.assert_array_equal(batch.latents[k][row], run.latents[k].numpy())
        np.testing.assert_array_equal(batch.images[row], run.image)
    assert [prompt.prompt for prompt in bench.prompts] == list(PROMPTS.values())


def test_a_stack_with_its_schedule_seed_and_image_in_the_file(run: Run, tmp_path: Path) -> None:
    def content(result: Made, seed: int) -> dict[str, Any]:
        return {
            "z": torch.stack(result.latents)[[0, 2, 4]],
            "at": [0, 2, 4],
            "t": result.timesteps,
            "sigma": result.sigmas,
            "seed": seed,
            "picture": result.image,
        }

    folder = write(tmp_path / "files", ".npz", content, None)
    entries = (
        "steps: 4\nfiles: '*.npz'\nlatents: z\npositions: at\ntimesteps: t\nsigmas: sigma\nseed: seed\nimage: picture"
    )
    bench = imported(run, folder, entries)
    check(bench, [0, 2, 4])
    assert list(next(bench.batches([4])).seeds) == list(SEEDS.values())
    assert [place.sigma for place in bench.info.positions] == pytest.approx(
        [float(made(1).sigmas[k]) for k in (0, 2, 4)]
    )


def test_an_entry_per_position_of_packed_latents(run: Run, tmp_path: Path) -> None:
    def content(result: Made, seed: int) -> dict[str, Any]:
        return {f"step_{k:03d}": packed(latent) for k, latent in enumerate(result.latents)}

    folder = write(tmp_path / "files", ".safetensors", content, "_image.png")
    bench = imported(run, folder, "steps: 4\nfiles: '*.safetensors'\nlatents: step_{position}\nimage: _image.png")
    check(bench, [0, 1, 2, 3, 4])
    assert {place.timestep for place in bench.info.positions} == {None}


def test_a_bare_list_of_what_the_denoiser_saw(run: Run, tmp_path: Path) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**EULER)
    scheduler.set_timesteps(STEPS)

    def content(result: Made, seed: int) -> list[torch.Tensor]:
        levels = scheduler.sigmas[:STEPS]
        return [latent / (level**2 + 1) ** 0.5 for latent, level in zip(result.latents[:STEPS], levels, strict=True)]

    folder = write(tmp_path / "files", ".pt", content)
    entries = f"steps: {STEPS}\nfiles: run/*.pt\npositions: 0:{STEPS - 1}\nscheduler: euler-sdxl\nscaled: true"
    bench = imported(run, folder, entries, "--kind", "ncc")
    batch = next(bench.batches([0, 3]))
    for row, seed in enumerate(SEEDS.values()):
        for k in (0, 3):
            np.testing.assert_allclose(batch.latents[k][row], made(seed, dtype=torch.float32).latents[k], rtol=1e-6)
    assert bench.info.positions[0].input_scale == pytest.approx(1 / (float(scheduler.sigmas[0]) ** 2 + 1) ** 0.5)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("steps: 4\nfiles: ../*.npz", "is no glob in the folder"),
        ("steps: 4\nfiles: /tmp/*.npz", "is no glob in the folder"),
        ("steps: 4\nfiles: '*.pickle'", "is no glob in the folder that ends in one of"),
        ("steps: 4\nfiles: '*.npz'\nimage: ../x.png", "is no end of a file name"),
        ("step: 4\nfiles: '*.npz'", "has step: did you mean steps?"),
        ("files: '*.npz'", "steps: "),
        ("steps: many\nfiles: '*.npz'", "steps: Input should be a valid integer"),
        ("steps: 4\nfiles: '*.npz'\nscaled: true", "scaled needs a scheduler"),
        ("steps: 4\nfiles: '*.npz'\nlatents: y", "has no entry 'y': it has 'z'"),
        ("steps: 4\nfiles: '*.npz'\nlatents: z\npositions: 0:2", "holds 5 latents, and the map names 3 positions"),
        ("steps: 9\nfiles: '*.npz'\nlatents: z\npositions: [0, 2, 1, 3, 4]", "not some of 0..9 in order"),
        ("steps: 4\nfiles: '*.pt'\nlatents: z", "no .pt files in"),
        ("- steps", "is not a list of"),
    ],
)
def test_maps_that_do_not_fit(run: Run, tmp_path: Path, mapping: str, message: str) -> None:
    import re

    folder = write(tmp_path / "files", ".npz", lambda result, seed: {"z": torch.stack(result.latents)})
    (folder / "map.yaml").write_text(mapping)
    arguments = ("--map", folder / "map.yaml", "--prompts", folder / "prompts.csv", "--out", tmp_path / "out")
    code, _, err = run("import", "generic", folder, *arguments)
    assert code == 2
    assert re.search(message, err), err


def test_objects_in_arrays_are_not_unpickled(run: Run, tmp_path: Path) -> None:
    from .test_engines import Attack

    folder = write(tmp_path / "files", ".npz", lambda result, seed: {"z": torch.stack(result.latents)})
    np.savez(folder / "run/7_0.npz", z=np.array([Attack()], object))
    (folder / "map.yaml").write_text("steps: 4\nfiles: '*.npz'\nlatents: z")
    arguments = ("--map", folder / "map.yaml", "--prompts", folder / "prompts.csv", "--out", tmp_path / "out")
    code, _, err = run("import", "generic", folder, *arguments)
    assert (code, "damaged" in err) == (2, True)
    assert not Path("/tmp/nbench-was-here").exists()
