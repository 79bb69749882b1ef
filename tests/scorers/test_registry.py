"""The ways in: names, families, re-readings, files, modules, and a plug-in that pip has installed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.scorers.check import PROMPTS, WORLD, check_scorer, made_up_inputs
from nbench.scorers.listing import list_models
from nbench.scorers.protocols import TwinTower
from nbench.scorers.registry import get_scorer, scorer_names

from .tiny_models import save_clip, save_siglip

HERE = Path(__file__).parent
MINE = """

class Mine:
    name, reads, fingerprint = "mine", "latent", "1"

    def __init__(self, info, dtype="float16"):
        self.steps, self.dtype = info.steps, dtype

    def score(self, inputs, prompts):
        return inputs.mean((1, 2, 3))

class Nameless:
    reads, fingerprint = "latent", "1"

class Mute:
    name, reads, fingerprint = "mute", "latent", "1"

class Wants(Mine):
    reads = "pixels"

class Breaks(Mine):
    def __init__(self):
        raise RuntimeError("no licence")
"""


def test_a_class_in_a_file_is_given_what_it_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    scorer = get_scorer(f"{file}:Mine", WORLD)
    assert (scorer.name, vars(scorer)) == ("mine", {"steps": 50, "dtype": "float32", "fingerprint": scorer.fingerprint})
    for name, reason in {
        "Mien": r"unknown class Mien \(did you mean Mine\?\)",
        "Nameless": r"not a scorer: it has no name",
        "Mute": r"not a scorer: give it embed_text and embed_inputs, or score",
        "Wants": r"reads 'pixels', which does not exist: there are latent, preview",
        "Breaks": r"cannot be created: RuntimeError: no licence",
    }.items():
        with pytest.raises(NbenchError, match=reason):
            get_scorer(f"{file}:{name}", WORLD)
    with pytest.raises(NbenchError, match=r"no file .*gone\.py"):
        get_scorer(f"{tmp_path / 'gone.py'}:Mine", WORLD)
    file.write_text("import nothing_like_it")
    with pytest.raises(NbenchError, match="cannot be imported: ModuleNotFoundError"):
        get_scorer(f"{file}:Mine", WORLD)


PROPERTY = """
class Mine:
    name, reads = "mine", "preview"

    @property
    def fingerprint(self):
        return "1"

    def score(self, inputs, prompts):
        return inputs.mean((1, 2, 3))
"""
FROZEN = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Mine:
    name: str = "mine"
    reads: str = "preview"
    fingerprint: str = "1"

    def score(self, inputs, prompts):
        return inputs.mean((1, 2, 3))
"""


@pytest.mark.parametrize("code", [MINE, PROPERTY, FROZEN])
def test_the_code_of_a_plug_in_is_part_of_its_fingerprint(code: str, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name / "mine.py" for name in ("first", "second", "third"))
    for file in (first, second, third):
        file.parent.mkdir()
        file.write_text(code)
    third.write_text(code.replace("return inputs", "return -inputs"))
    fingerprints = [get_scorer(f"{file}:Mine", WORLD).fingerprint for file in (first, second, third)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert all(fingerprint.startswith("1-") for fingerprint in fingerprints)
    if code != MINE:
        other = get_scorer(f"x0-preview:{first}:Mine", WORLD)
        assert (other.name, other.reads) == ("x0-preview-mine.py-Mine", "x0_preview")
        assert other.fingerprint == f"{fingerprints[0]}-x0_preview"


def test_a_class_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scorers").mkdir()
    (tmp_path / "my_scorers" / "first.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    assert get_scorer("my_scorers.first:Mine", WORLD).name == "mine"
    with pytest.raises(NbenchError, match=r"my_scorers\.second cannot be imported"):
        get_scorer("my_scorers.second:Mine", WORLD)


def test_any_scorer_of_pictures_looks_at_others(tmp_path: Path) -> None:
    siglip = save_siglip(tmp_path / "tiny-siglip")
    plain, other = get_scorer(str(siglip), WORLD), get_scorer(f"x0-image:{siglip}", WORLD)
    assert (plain.name, plain.reads) == ("tiny-siglip", "preview")
    assert (other.name, other.reads) == ("x0-image-tiny-siglip", "x0_image")
    assert plain.fingerprint != other.fingerprint
    assert [get_scorer(name, WORLD).reads for name in ("x0-clip", "x0-image", "x0-noisyclip", "image:noisyclip")] == [
        "x0_preview",
        "x0_image",
        "x0_preview",
        "image",
    ]
    with pytest.raises(NbenchError, match="cfg-gap reads cfg_gap, so it cannot read x0_image"):
        get_scorer("x0-image:cfg-gap", WORLD)


def test_families_take_any_model_of_their_kind(tmp_path: Path) -> None:
    latent, rgb = save_clip(tmp_path / "latent", channels=4, size=16), save_clip(tmp_path / "rgb")
    assert get_scorer(f"latentclip:{latent}", WORLD).reads == "latent"
    with pytest.raises(NbenchError, match="reads RGB"):
        get_scorer(f"latentclip:{rgb}", WORLD)
    scaled = get_scorer(f"pickscore:{rgb}", WORLD)
    assert (scaled.name, scaled.reads) == ("pickscore-rgb", "image")
    assert get_scorer("oracle:vqascore", WORLD).reads == "reference:vqascore"
    with pytest.raises(NbenchError, match="is not a probe"):
        get_scorer(f"probe:{rgb}", WORLD)


def test_weights_of_the_hub_serve_other_latent_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NbenchError, match="no model openai/clip-vit-base-patch32"):
        get_scorer("clip", replace(WORLD, latent_shape=(4, 128, 128)))
    with pytest.raises(NbenchError, match="no model yuvalkirstain/PickScore_v1"):
        get_scorer("pickscore", WORLD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where pip has installed the sample plug-in."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    subprocess.run([*pip, *options, str(_copy(HERE / "sample_plugin", site.with_name("source")))], check=True)
    return site


def _copy(source: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(source, target, dirs_exist_ok=True))


@pytest.mark.slow
def test_an_installed_plug_in_is_listed_made_and_scores(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NbenchError, match="unknown model redness"):
        get_scorer("redness", WORLD)
    monkeypatch.syspath_prepend(site)
    assert "redness" in scorer_names()
    (row,) = [row for row in list_models() if row["name"] == "redness"]
    assert (row["weights"], row["package"]) == ("nbench_sample:Redness", "nbench-sample")
    scorer = get_scorer("redness", WORLD)
    assert check_scorer(scorer, made_up_inputs(scorer, WORLD), PROMPTS, WORLD.positions[0]) == []
    with pytest.raises(NbenchError, match=r"unknown model rednes \(did you mean redness\?\)"):
        get_scorer("rednes", WORLD)


@pytest.mark.slow
def test_two_scorers_of_one_name_are_refused(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    info = tmp_path / "other_scorers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-scorers\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, of in (("redness", "(nbench-sample|other-scorers)"), ("clip", "nbench")):
        (info / "entry_points.txt").write_text(f"[nbench.scorers]\n{name} = nowhere:Nothing\n")
        with pytest.raises(NbenchError, match=f"two scorers are called {name}, from {of} and .*: uninstall one"):
            get_scorer("random", WORLD)


def test_built_in_scorers_keep_their_protocol() -> None:
    for name in ("clip", "noisyclip", "vqascore", "random", "oracle", "cfg-gap", "x0-noisyclip", "noisyclip-t"):
        scorer = get_scorer(name, WORLD)
        assert check_scorer(scorer, made_up_inputs(scorer, WORLD), PROMPTS, WORLD.positions[0]) == []
    assert isinstance(get_scorer("clip", WORLD), TwinTower)
