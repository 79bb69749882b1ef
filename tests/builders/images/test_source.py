"""Sources of images: folders, tar shards, the Hub with its real client; sizes, formats, and what is broken."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbench.builders.images import source as images_module
from nbench.builders.images.files import image_files
from nbench.builders.images.source import choose_images, load_image
from nbench.builders.prompts.request import PromptRequest
from nbench.errors import NbenchError
from nbench.shards.reader import open_bench
from nbench.shards.scores import read_scores, reference_path

from ...shards.hub.hub_server import HubServer
from ..prompts.test_hub import CC12M, GENAI, MODELS, genai_rows, parquet, store

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(colour: Sequence[int], kind: str = "PNG", size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(file, kind)
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_scaled_to_cover_and_its_middle_cut_out(kind: str) -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :40], pixels[:, 40:80], pixels[:, 80:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95)
    image = load_image(file.getvalue(), (20, 20))
    assert image.shape == (20, 20, 3)
    assert (np.abs(image[5:15, 5:15].astype(int) - (0, 255, 0)) < 20).all()


def test_images_are_turned_upright_and_laid_on_white() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    assert load_image(file.getvalue(), (16, 16))[12:].mean() > 240
    clear = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(clear, "PNG")
    assert (load_image(clear.getvalue(), (8, 8)) == 255).all()


def test_images_that_are_no_images_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(RED)
    for data, message in (
        (None, "no image"),
        (b"", "none of PNG, JPEG, WEBP"),
        (encoded(RED, "BMP"), "none of PNG, JPEG, WEBP"),
        (whole[:60], "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            load_image(data, (8, 8))
    with monkeypatch.context() as limited:
        limited.setattr(images_module, "MAX_PIXELS", 1000)
        with pytest.raises(ValueError, match="32x32 pixels, more than 1000"):
            load_image(whole, (8, 8))
    monkeypatch.setattr(images_module, "MAX_BYTES", 50)
    with pytest.raises(ValueError, match="more than 50"):
        load_image(whole, (8, 8))


def test_a_folder_with_captions_that_name_several_images(tmp_path: Path) -> None:
    for name, colour in (("a", RED), ("b", BLUE)):
        (tmp_path / f"{name}.png").write_bytes(encoded(colour))
    rows = [
        {"id": "x", "prompt": "two", "file_name": ["a.png", "b.png"], "rating": [4.5, None]},
        {"id": "y", "prompt": "one", "file_name": ["b.png"], "rating": [2]},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = image_files(tmp_path)
    prompts, chosen = choose_images(PromptRequest(limit=2), source, None)
    assert [prompt.text for prompt in prompts.prompts] == ["two", "one"]
    assert chosen.candidates == 2
    assert [chosen.encoded(row) for row in range(4)] == [encoded(RED), encoded(BLUE), encoded(BLUE), None]
    ratings = chosen.ratings()
    assert ratings is not None
    np.testing.assert_array_equal(ratings, [[4.5, np.nan], [2, np.nan]])
    _, first = choose_images(PromptRequest(), source, 1)
    assert first.spec() != chosen.spec()


@pytest.mark.parametrize(
    ("rating", "problem"),
    [
        ([1, 2, 3], "row 1: 3 ratings of 2 images: give one per image"),
        (4, "row 1: 1 ratings of 2 images: give one per image"),
        ([True, 2], r"row 1: rating \[True, 2\] is not a number"),
        (["good", 2], "is not a number: fix it"),
    ],
)
def test_ratings_that_do_not_fit_their_images_are_refused(tmp_path: Path, rating: object, problem: str) -> None:
    row = {"prompt": "two", "file_name": ["a.png", "b.png"], "rating": rating}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    with pytest.raises(NbenchError, match=problem):
        image_files(tmp_path)


@pytest.mark.parametrize("rating", [None, "", float("nan"), [], [None, None]])
def test_images_without_a_rating_have_none(tmp_path: Path, rating: object) -> None:
    row = {"prompt": "two", "file_name": ["a.png", "b.png"], "rating": rating}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    _, chosen = choose_images(PromptRequest(), image_files(tmp_path), None)
    assert chosen.ratings() is None


def test_texts_beside_images(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(encoded(RED, "JPEG"))
    (tmp_path / "1.txt").write_text("red\n all over\n")
    (tmp_path / "2.jpg").write_bytes(encoded(BLUE, "JPEG"))  # has no caption
    prompts, chosen = choose_images(PromptRequest(), image_files(tmp_path), None)
    assert [(prompt.id, prompt.text) for prompt in prompts.prompts] == [("1", "red all over")]
    assert chosen.encoded(0) == encoded(RED, "JPEG")
    assert chosen.ratings() is None


def test_tar_shards_as_webdataset_writes_them(tmp_path: Path) -> None:
    caption = json.dumps({"caption": "blue", "key": "0002"}).encode()
    tar(tmp_path / "cc12m-00.tar", {"0001.jpg": encoded(RED, "JPEG"), "0001.json": b"{}", "0001.txt": b"red"})
    tar(
        tmp_path / "cc12m-01.tar",
        {"sub/0002.json": caption, "sub/0002.webp": encoded(BLUE, "WEBP"), "0003.txt": b"none"},
    )
    prompts, chosen = choose_images(PromptRequest(), image_files(tmp_path), None)
    assert [(prompt.id, prompt.text) for prompt in prompts.prompts] == [("0001", "red"), ("sub/0002", "blue")]
    assert [chosen.encoded(row) for row in (1, 0)] == [encoded(BLUE, "WEBP"), encoded(RED, "JPEG")]
    by_column, _ = choose_images(
        PromptRequest(prompt_column="key"), image_files(tmp_path / "cc12m-01.tar", "key"), None
    )
    assert [prompt.text for prompt in by_column.prompts] == ["0002"]


def test_samples_of_a_tar_are_those_of_webdataset(tmp_path: Path) -> None:
    import webdataset

    colours = {"a/image": RED, "b/image": BLUE, "c/x.y/image": (0, 255, 0)}
    members = {"__MACOSX/a/._image.png": b"x", ".DS_Store": b"x"}
    for key, colour in colours.items():
        members |= {f"{key}.PNG": encoded(colour)} | ({} if key.startswith("b") else {f"{key}.txt": key.encode()})
        members[f"{key.rpartition('/')[0]}/._image.txt"] = b"stray"
    path = tar(tmp_path / "images.tar", members)
    samples = [dict(sample) for sample in webdataset.WebDataset(str(path), shardshuffle=False)]
    captioned = {sample["__key__"]: (sample["txt"].decode(), sample["png"]) for sample in samples if "txt" in sample}
    assert len(captioned) == 2
    prompts, chosen = choose_images(PromptRequest(skip_bad=True), image_files(path), None)
    pairs = {prompt.id: (prompt.text, chosen.encoded(row)) for row, prompt in enumerate(prompts.prompts)}
    assert pairs == captioned


def test_sparse_members_and_members_about_the_archive(tmp_path: Path) -> None:
    import webdataset

    start, image = b"\0" * 2**20, encoded(RED)
    (tmp_path / "a.png").write_bytes(b"")
    with (tmp_path / "a.png").open("r+b") as file:
        file.seek(len(start))
        file.write(image)
    (tmp_path / "a.txt").write_text("holes")
    (tmp_path / "__about__").mkdir()
    (tmp_path / "__about__/b.png").write_bytes(image)
    (tmp_path / "__about__/b.txt").write_text("none")
    names = ["a.png", "a.txt", "__about__/b.png", "__about__/b.txt"]
    subprocess.run(["tar", "--sparse", "-cf", tmp_path / "x.tar", "-C", tmp_path, *names], check=True)
    samples = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    prompts, chosen = choose_images(PromptRequest(), image_files(tmp_path / "x.tar"), None)
    assert [prompt.id for prompt in prompts.prompts] == [sample["__key__"] for sample in samples] == ["a"]
    assert chosen.encoded(0) == samples[0]["png"] == start + image


def test_an_image_with_a_dot_in_its_name_is_not_dropped(tmp_path: Path) -> None:
    members = {"a.png": encoded(RED), "a.mask.png": encoded(BLUE), "a.txt": b"a", "22.05.txt": b"b"}
    source = image_files(tar(tmp_path / "x.tar", members))
    assert source.read(0, 0) == encoded(RED)
    with pytest.raises(NbenchError, match=r"the key of 22\.05\.png ends at its first dot.*rename"):
        image_files(tar(tmp_path / "x.tar", members | {"22.05.png": encoded(RED)}))


def test_captions_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RED))
    (tmp_path / "a.txt").write_bytes("zwölf".encode("cp1252"))
    tar(tmp_path / "x.tar", {"a.png": encoded(RED), "a.txt": "zwölf".encode("cp1252")})
    for path in (tmp_path / "x.tar", tmp_path):
        if path.is_dir():
            (tmp_path / "x.tar").unlink()
        with pytest.raises(NbenchError, match=r"a\.txt is not UTF-8"):
            choose_images(PromptRequest(), image_files(path), None)


def test_a_sample_that_has_two_images_of_one_kind_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for name in ("a.png", "a.PNG"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(NbenchError, match=r"a\.PNG twice in one sample"):
        image_files(tmp_path / "twice.tar")


def test_a_clear_level_of_a_grey_image_of_16_bits_is_white() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">4H", 30000, 30000, 9000, 9000)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 0, 0, 0, 0))
    png += chunk(b"tRNS", struct.pack(">H", 30000)) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    assert load_image(png, (4, 4))[:, :, 0].tolist() == [[255, 255, 35, 35]] * 4  # 9000 / 257 = 35.02


def test_grey_images_of_16_bits_keep_their_levels() -> None:
    levels = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    wide, narrow = io.BytesIO(), io.BytesIO()
    Image.fromarray(levels.astype(np.uint16) * 257).save(wide, "PNG")
    Image.fromarray(levels).save(narrow, "PNG")
    np.testing.assert_array_equal(load_image(wide.getvalue(), (32, 32)), load_image(narrow.getvalue(), (32, 32)))


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    def refused(message: str, path: Path = tmp_path) -> None:
        with pytest.raises(NbenchError, match=message):
            image_files(path)

    refused("no images at", tmp_path / "nowhere")
    refused("has no images with captions")
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    refused("give plain tar shards")
    tar(tmp_path / "broken.tar", {"a.txt": b"text"})
    refused("has no images: its tars need")
    captions = tmp_path / "captions.csv"
    captions.write_text("prompt\nred\n")
    refused("names no files: give it a column file_name")
    captions.write_text("prompt,file_name\nred,\n")
    refused("names no files in file_name")
    captions.write_text("prompt,file_name\nred,../secret.png\n")
    refused("which is not in")


def genai(old: bool = False) -> list[dict[str, Any]]:
    """Prompts with an image of every model, each of another brightness; the last lacks one."""
    rows = []
    for number, row in enumerate(genai_rows(3, 8)):
        row |= {m: {"bytes": encoded((40 * i, 80 * number, 0)), "path": None} for i, m in enumerate(MODELS)}
        row["HumanRatings"] = {model: [1 + (i + number) % 5, 5, 3] for i, model in enumerate(MODELS)}
        if old:
            row = {
                "id": row["Index"],
                "prompt": row["Prompt"],
                **{f"{m}_HumanRating": str(row["HumanRatings"][m]) for m in MODELS},
                **{m: row[m] for m in MODELS},
            }
        rows.append(row)
    rows[2][MODELS[5]] = None
    return rows


def run_build(hub: HubServer, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {**kept, "OMP_NUM_THREADS": "1", **hub.environment(home)}
    command = [sys.executable, "-m", "nbench", "build", *map(str, arguments)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_genai_bench_with_its_images_and_ratings(hub: HubServer, tmp_path: Path, old: bool) -> None:
    rows = genai(old)
    store(hub, GENAI, {"data/train-00000-of-00001.parquet": parquet(rows, () if old else MODELS)})
    out = tmp_path / "out"
    arguments = ["genai-bench", "--process", "forward", "--images", "genai-bench", "--steps", 2, "--references", ""]
    done = run_build(hub, tmp_path / "home", *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    bench = open_bench(out)
    assert (bench.info.rows, bench.info.candidates, bench.n_failed) == (18, 6, 1)
    assert bench.info.spec["images"]["models"] == list(MODELS)
    assert len(bench.info.spec["images"]["revision"]) == 40
    batches = list(bench.batches(images=True))
    shown = {
        (name, candidate): pixels[0, 0].tolist()
        for batch in batches
        if batch.images is not None
        for name, candidate, pixels in zip(batch.prompt_ids, batch.candidates, batch.images, strict=True)
    }
    assert shown == {(f"{n:05d}", i): [40 * i, 80 * n, 0] for n in range(3) for i in range(6) if (n, i) != (2, 5)}
    human = read_scores(reference_path(out, "human")).to_pylist()
    expected = [(f"{n:05d}", i, (1 + (i + n) % 5 + 8) / 3) for n in range(3) for i in range(6)]
    assert [(row["prompt_id"], row["candidate"], pytest.approx(row["score"])) for row in human] == expected
    again = run_build(hub, tmp_path / "home", *arguments, "--out", out)
    assert "0 made now" in again.stdout


@pytest.mark.slow
def test_any_data_set_with_a_column_of_images(hub: HubServer, tmp_path: Path) -> None:
    rows = [{"text": f"caption {n}", "picture": {"bytes": encoded((n, 0, 0)), "path": None}} for n in range(3)]
    store(hub, CC12M.replace("Caption", "Other"), {"data/train-00000-of-00001.parquet": parquet(rows)})
    name = CC12M.replace("Caption", "Other")
    common = ["ncc", "--process", "forward", "--images", name, "--steps", 2, "--out", tmp_path / "out"]
    unnamed = run_build(hub, tmp_path / "home", *common, "--prompt-column", "text")
    assert unnamed.returncode == 2
    assert "--image-column" in unnamed.stderr
    done = run_build(
        hub, tmp_path / "home", *common, "--prompt-column", "text", "--image-column", "picture", "--sample", 2
    )
    assert done.returncode == 0, done.stderr
    (batch,) = open_bench(tmp_path / "out").batches(images=True)
    assert batch.images is not None
    assert [f"caption {pixels[0, 0, 0]}" for pixels in batch.images] == list(batch.prompts)
