"""A model's fingerprint changes with each file that may be loaded, and with no other."""

import json
from pathlib import Path

from nbench.scorers.weights import folder_fingerprint, source_digest


def test_every_file_that_is_loaded_counts(tmp_path: Path) -> None:
    def after(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return folder_fingerprint(tmp_path)

    fingerprints = [after("config.json", "{}")]
    fingerprints += [after("pytorch_model.bin", text) for text in ("a", "b")]
    fingerprints += [after("model.safetensors", text) for text in ("a", "b")]
    assert after("pytorch_model.bin", "c") == fingerprints[-1]  # safetensors come first
    fingerprints += [after("additional_chat_templates/tool.jinja", "a")]
    fingerprints += [after("model.safetensors.index.json", json.dumps({"weight_map": {"x": "deep/1.safetensors"}}))]
    fingerprints += [after("deep/1.safetensors", text) for text in ("a", "b")]
    assert after("deep/other.safetensors", "a") == fingerprints[-1]
    assert after("notes.md", "a") == fingerprints[-1]
    assert len(set(fingerprints)) == len(fingerprints)
    after("model.safetensors.index.json", '{"weight_map": 1}')  # none of ours to refuse


def test_a_source_is_the_same_by_each_path_to_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    spelled = [source_digest(f"x0-image:{path}") for path in (tmp_path / "a", tmp_path / "b/../a", tmp_path / "b")]
    assert spelled[0] == spelled[1] != spelled[2]
    assert source_digest("clip") != source_digest("siglip")
