"""Models in their authors' layouts: what is downloaded, and which file is read."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from nbench.errors import NbenchError
from nbench.scorers.published import published_folder, read_tensors, tensor_file


def test_a_folder_in_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        asked.extend((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (tmp_path / "lrm_sd15" / "unet").mkdir(parents=True)
    assert published_folder("casiatao/LRM/lrm_sd15", "LRM", "unet") == tmp_path / "lrm_sd15"
    assert asked[0] == "casiatao/LRM"
    assert "lrm_sd15/*.pt" in asked[1]
    assert all(pattern.startswith("lrm_sd15/") for pattern in asked[1])
    assert published_folder("casiatao/LRM", "LRM") == tmp_path
    assert "*.safetensors" in asked[3]
    with pytest.raises(NbenchError, match="lacks unet: name the folder of LRM"):
        published_folder("casiatao/LRM", "LRM", "unet")
    with pytest.raises(NbenchError, match="neither a folder nor a Hub id"):
        published_folder("nowhere", "LRM")


def test_safetensors_go_first_and_names_are_joined(tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"lacks head\.safetensors, and head\.pt or \.ckpt"):
        tensor_file(tmp_path, "head")
    torch.save({"part": {"weight": torch.ones(2)}, "scale": 2.5, "note": "text"}, tmp_path / "head.pt")
    tensors = read_tensors(tensor_file(tmp_path, "head"))
    assert {name: value.tolist() for name, value in tensors.items()} == {"part.weight": [1, 1], "scale": 2.5}
    torch.save({}, tmp_path / "head.ckpt")
    with pytest.raises(NbenchError, match=r"has head\.ckpt and head\.pt: keep one"):
        tensor_file(tmp_path, "head")
    save_file({"weight": torch.zeros(1)}, tmp_path / "head.safetensors")
    assert list(read_tensors(tensor_file(tmp_path, "head"))) == ["weight"]
