"""ProbeSelect against the stock pipeline, whose block is seen by a hook, and its head written out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from nbench.errors import NbenchError
from nbench.scorers.image_reward import NativeImageRewardScorer
from nbench.scorers.latent_rewards.probe_head import principal_components
from nbench.scorers.latent_rewards.probe_select import ProbeSelectScorer
from nbench.shards.schema import LatentSpace, PositionInfo

from .published import save_probe_select, save_sd3

PROMPTS = ["two red circles", "one blue square on gray background"]
TIMESTEP = 912.5
AT = PositionInfo(5, TIMESTEP, 0.9125, 1.0)
STEPS = 28


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd3"), layers=22, width=192)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_probe_select(tmp_path_factory.mktemp("probe"))


def head_score(head: dict[str, torch.Tensor], features: torch.Tensor, done: float, text: torch.Tensor) -> torch.Tensor:
    """The published head in evaluation, written out."""

    def linear(name: str, values: torch.Tensor) -> torch.Tensor:
        return functional.linear(values, head[f"{name}.weight"], head[f"{name}.bias"])

    def mlp(name: str, values: torch.Tensor, hidden: int) -> torch.Tensor:
        for number in range(0, 4 * hidden, 4):
            values = linear(f"{name}.{number}", values)
            at = f"{name}.{number + 1}"
            spread = (head[f"{at}.running_var"] + 1e-5).sqrt()
            values = (values - head[f"{at}.running_mean"]) / spread * head[f"{at}.weight"] + head[f"{at}.bias"]
            values = values.clamp(min=0)
        return linear(f"{name}.{4 * hidden}", values)

    def group_norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return functional.group_norm(values, 16, head[f"{name}.weight"], head[f"{name}.bias"], eps=1e-5)

    def convolved(name: str, values: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = head[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return functional.conv2d(values, weight, head[f"{name}.bias"], stride=stride, padding=padding)

    angles = done * torch.exp(-np.log(10000) * torch.arange(32) / 31)
    time = linear("time_emb.linear_1", torch.cat([angles.sin(), angles.cos()])[None])
    time = linear("time_emb.linear_2", functional.silu(time))
    for number in range(2):
        at = f"encoder.encoder_layers.{number}"
        resnet, attention = f"{at}.resnets.0", f"{at}.attentions.0"
        hidden = convolved(f"{resnet}.conv1", functional.silu(group_norm(f"{resnet}.norm1", features)))
        hidden = hidden + linear(f"{resnet}.time_emb_proj", functional.silu(time))[:, :, None, None]
        hidden = convolved(f"{resnet}.conv2", functional.silu(group_norm(f"{resnet}.norm2", hidden)))
        features = convolved(f"{resnet}.conv_shortcut", features) + hidden
        tokens = group_norm(f"{attention}.group_norm", features).flatten(2).mT
        query, key, value = (
            linear(f"{attention}.to_{name}", tokens).unflatten(-1, (-1, 5)).transpose(1, 2) for name in "qkv"
        )
        heard = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        features = features + linear(f"{attention}.to_out.0", heard).mT.unflatten(2, features.shape[2:])
        features = convolved(f"{at}.downsamplers.0.conv", features, stride=2)
    image = mlp("output_head", functional.avg_pool2d(features, 3).flatten(1), 1)
    asked = mlp("text_encoder", text, 1)
    both = torch.cat([image, asked, image * asked, (image - asked).abs()], dim=1)
    return 1 / (1 + (-mlp("final_embed", both, 2)[:, 0]).exp())


@pytest.mark.slow
def test_equals_the_block_of_the_stock_pipeline_and_the_head(base: Path, folder: Path) -> None:
    import diffusers

    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(base)
    states: list[torch.Tensor] = []
    pipe.transformer.transformer_blocks[20].register_forward_hook(lambda block, _, output: states.append(output[1]))
    head = torch.load(folder / "SD3M_IR_ema.ckpt", weights_only=True)
    with torch.no_grad():
        texts, empty, pooled, no_pooled = pipe.encode_prompt(PROMPTS, None, None)
        pipe.transformer(
            torch.cat([latents, latents]),
            encoder_hidden_states=torch.cat([empty, texts]),
            pooled_projections=torch.cat([no_pooled, pooled]),
            timestep=torch.full((4,), TIMESTEP),
        )
        patches = states[0][:2].reshape(2, 4, 4, 2, 2, 48)  # of the empty prompt
        places = torch.zeros(2, 48, 8, 8)
        for down in range(2):
            for right in range(2):
                places[:, :, down::2, right::2] = patches[:, :, :, down, right].permute(0, 3, 1, 2)
        features = principal_components(functional.interpolate(places, (48, 48), mode="bilinear"))
        text = NativeImageRewardScorer(folder).text_features(PROMPTS)
        wanted = head_score(head, features, AT.position / STEPS, text)
    scorer = ProbeSelectScorer(str(folder), LatentSpace((16, 8, 8), None, str(base), steps=STEPS))
    torch.testing.assert_close(scorer.score(latents, PROMPTS, AT), wanted, rtol=1e-4, atol=1e-5)
    assert abs(wanted[0] - wanted[1]) > 1e-3


def test_principal_components_are_those_of_the_covariance() -> None:
    features = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    components = principal_components(features, 3)
    for row in range(2):
        values, vectors = np.linalg.eigh(np.cov(features[row].flatten(1).numpy()))
        centred = features[row].flatten(1) - features[row].flatten(1).mean(1, keepdim=True)
        wanted = vectors[:, ::-1][:, :3].T @ centred.numpy()
        np.testing.assert_allclose(components[row].flatten(1).abs(), np.abs(wanted), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(components[row].flatten(1).var(1), values[::-1][:3], rtol=1e-4)


def test_another_generator_is_refused(base: Path, folder: Path, sd15_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NbenchError, match=r"generator itself.*is a StableDiffusionPipeline"):
        ProbeSelectScorer(str(folder), LatentSpace((4, 8, 8), None, str(sd15_folder), steps=STEPS))
    with pytest.raises(NbenchError, match="how many steps a run has"):
        ProbeSelectScorer(str(folder), LatentSpace((16, 8, 8), None, str(base)))
    shutil.copytree(folder, tmp_path / "large")
    (tmp_path / "large" / "SD3M_IR_ema.ckpt").rename(tmp_path / "large" / "SD3L_IR_ema.ckpt")
    with pytest.raises(NbenchError, match=r"lacks SD3M_IR_ema\.safetensors"):
        ProbeSelectScorer(str(tmp_path / "large"), LatentSpace((16, 8, 8), None, str(base), steps=STEPS))
