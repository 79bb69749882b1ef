"""LRM against the whole stock U-Net, seen by hooks; it works in evaluate, sample and models check."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.latent_rewards.lrm import LRMScorer
from nbench.shards.schema import LatentSpace, PositionInfo

from ...conftest import Run
from .published import save_lrm

PROMPTS = ["two red circles", "one blue square on gray background", "three green crosses"]
AT = PositionInfo(3, 601.0, 2.0, 0.5)
REFERENCE = """
class Light:
    name, reads, fingerprint, arrays = "light", "image", "1", "numpy"

    def score(self, inputs, prompts):
        return inputs.mean(axis=(1, 2, 3))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lrm(tmp_path_factory.mktemp("lrm"))


def expected(folder: Path, xl: bool, latents: torch.Tensor) -> torch.Tensor:
    """Scores [B], without code of nbench."""
    import diffusers
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    features: list[torch.Tensor] = []
    last = [(block.attentions if hasattr(block, "attentions") else block.resnets)[-1] for block in unet.down_blocks]
    for layer in (*last, unet.mid_block):
        layer.register_forward_hook(
            lambda layer, inputs, output: features.append(
                (output if isinstance(output, torch.Tensor) else output[0]).mean((2, 3))
            )
        )
    heads = torch.load(folder / "state_dict.pt", weights_only=True)
    tokens = AutoTokenizer.from_pretrained(folder / "tokenizer")(
        [*PROMPTS, *[""] * 3], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        first = CLIPTextModel.from_pretrained(folder / "text_encoder")(tokens, output_hidden_states=True)
        if xl:
            second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
            pooled = second(tokens, output_hidden_states=True)
            context = torch.cat([first.hidden_states[-2], pooled.hidden_states[-2]], dim=-1)
            text = pooled.text_embeds[:3]
            sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(6, 1)
            added = {"text_embeds": pooled.text_embeds, "time_ids": sizes}
        else:
            context, added = first.last_hidden_state, None
            text = first.pooler_output[:3] @ heads["text_projection"]["weight"].T
        unet(
            torch.cat([latents, latents]) * AT.input_scale,
            AT.timestep,
            encoder_hidden_states=context,
            added_cond_kwargs=added,
        )
        mid = features[-1][3:] + 7.5 * (features[-1][:3] - features[-1][3:])
        image = torch.cat([*(part[:3] for part in features[:-1]), mid], dim=1) @ heads["visual_projection"]["weight"].T
    return torch.cosine_similarity(image, text) * torch.as_tensor(heads["logit_scale"]).exp()


@pytest.mark.parametrize("xl", [False, True])
def test_equals_the_stock_unet(xl: bool, folder: Path, tmp_path: Path) -> None:
    folder = save_lrm(tmp_path, True) if xl else folder
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scorer = LRMScorer(str(folder), LatentSpace((4, 8, 8), None, "sdxl" if xl else "sd15"))
    scores, wanted = scorer.score(latents, PROMPTS, AT), expected(folder, xl, latents)
    assert wanted.unique().numel() == 3
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=2e-5)
    assert not torch.allclose(scores, scorer.score(latents, PROMPTS, PositionInfo(3, 100.0, 2.0, 0.5)), atol=1e-3)
    with pytest.raises(NbenchError, match="differ: use a bench or pipeline with latents of"):
        LRMScorer(str(folder), LatentSpace((4, 8, 8), None, "sd15" if xl else "pixart"))


def test_a_pickle_that_runs_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    for name in ("unet", "text_encoder", "tokenizer"):
        (tmp_path / name).symlink_to(folder / name)
    torch.save({"visual_projection": Path("x")}, tmp_path / "state_dict.pt")
    scorer = LRMScorer(str(tmp_path), LatentSpace((4, 8, 8), None, "sd15"))
    with pytest.raises(NbenchError, match="no pickle is run: convert it to safetensors"):
        scorer.load()
    (tmp_path / "state_dict.pt").unlink()
    with pytest.raises(NbenchError, match=r"lacks state_dict\.safetensors"):
        LRMScorer(str(tmp_path), LatentSpace((4, 8, 8), None, "sd15"))
    with pytest.raises(NbenchError, match="lacks unet: name the folder of LRM"):
        LRMScorer(str(folder / "unet"), LatentSpace((4, 8, 8), None, "sd15"))
    (tmp_path / "transformer").mkdir()
    with pytest.raises(NbenchError, match="as LRM of SD3 would: its authors published code for"):
        LRMScorer(str(tmp_path), LatentSpace((16, 8, 8), None, "sd3"))


@pytest.mark.slow
def test_on_the_command_line(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sd15_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").symlink_to(sd15_folder)
    Path("prompts.txt").write_text("\n".join(PROMPTS[:2]))
    Path("mine.py").write_text(REFERENCE)
    model, tiny, steps = f"lrm:{folder}", ("--pipeline", "tiny"), ("--steps", 4)
    built = run(
        *("build", "genai-bench", "--prompts", "prompts.txt", *tiny, *steps, "--candidates", 2, "--out", "bench"),
        *("--references", "light=mine.py:Light"),
    )
    assert built.code == 0, built.err
    done = run("evaluate", "--model", model, "--bench", "bench", "--latents", "1,2", "--json")
    assert done.code == 0, done.err
    scored = pq.read_table(next(Path("results").rglob("*.parquet")))["score"].to_numpy()
    assert np.isfinite(scored).all()
    assert len(np.unique(scored)) == len(scored) > 4
    assert "nothing wrong" in run("models", "check", model, "--bench", "bench").out
    sampled = run("sample", PROMPTS[0], *tiny, *steps, "--best-of", 2, "--policy", "2:1", "--model", model)
    assert sampled.code == 0, sampled.err
    assert "12 of 16 denoiser rows" in sampled.err + sampled.out
