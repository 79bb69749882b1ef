"""Missing packages are named, from what diffusers and transformers raise where they are missing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nbench.errors import NbenchError
from nbench.pipelines.calling import call_pipeline
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.packages import missing_package

from ..tiny_pipelines import Family
from .conftest import only


@only("sd3")
@pytest.mark.parametrize(
    ("part", "stored", "package"),
    [
        ("text_encoder_3", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("text_encoder_3", {"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ("transformer", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("transformer", {"quant_method": "quanto", "weights_dtype": "int8"}, "optimum-quanto"),
    ],
)
def test_weights_that_were_stored_quantized(
    family: Family, family_folder: Path, tmp_path: Path, part: str, stored: dict[str, Any], package: str
) -> None:
    folder = shutil.copytree(family_folder, tmp_path / "copy")
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))
    with pytest.raises(NbenchError, match=f"^pipeline copy needs the package {package}: pip install {package}$"):
        load_pipeline(resolve_pipeline(str(folder)), "float32", "cpu")


@only("sd3")
@pytest.mark.parametrize(("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")])
def test_a_tokenizer_of_sentencepiece(
    family: Family, family_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    """transformers falls back to tiktoken, and asks for that."""
    folder = shutil.copytree(family_folder, tmp_path / "copy")
    shutil.rmtree(folder / "tokenizer_3")
    (folder / "tokenizer_3").mkdir()
    (folder / "tokenizer_3" / "spiece.model").write_bytes(b"no matter")
    (folder / "tokenizer_3" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer_3": ["transformers", "T5Tokenizer"]}))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NbenchError, match=f"needs the package {package}: pip install {package}$"):
        load_pipeline(resolve_pipeline(str(folder)), "float32", "cpu")


def test_a_name_that_is_missing_where_an_import_was_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)

    def pipe(**arguments: Any) -> Any:
        return eval("ftfy.fix_text")

    with pytest.raises(NbenchError, match="function needs the package ftfy: pip install ftfy"):
        call_pipeline(pipe)


@pytest.mark.parametrize(
    "error", [ValueError("sizes differ"), NameError("x", name="x"), OSError("pip install torch"), TypeError()]
)
def test_other_errors_are_of_no_package(error: Exception) -> None:
    assert missing_package(error) is None
