"""Eight families of pipelines, opened from folders: what is recorded is what their denoisers see."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbench.builders.build import build
from nbench.builders.config import BuildConfig
from nbench.errors import NbenchError
from nbench.pipelines.candidate_noise import candidate_noise
from nbench.pipelines.find import load_pipeline, resolve_pipeline
from nbench.pipelines.generate import Trajectories, generate
from nbench.pipelines.options import PipelineOptions
from nbench.shards.reader import open_bench
from nbench.shards.signals import DEFAULT_SIGNALS
from nbench.shards.verify import verify

from ..tiny_pipelines import FAMILIES, Family
from .conftest import only

PROMPTS = [
    "two red circles on gray background",
    "one blue square",
    "three green stars",
    "one red ring above one circle",
]
SEEDS = [11, 12, 13, 14]
STEPS = 4
TRUE_GUIDANCE = PipelineOptions(negative_prompt="blurry", arguments={"true_cfg_scale": 2.0})
"""On top of the embedded guidance of FLUX."""


def made(
    pipe: Any,
    folder: Path,
    rows: Sequence[int] = range(4),
    options: PipelineOptions | None = None,
    signals: Sequence[str] = DEFAULT_SIGNALS,
) -> Trajectories:
    """All positions of the candidates `rows`, as a build makes them."""
    entry = resolve_pipeline(str(folder), options)
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    arguments = {"num_inference_steps": STEPS, **guidance, **entry.call_kwargs}
    return generate(pipe, [PROMPTS[i] for i in rows], [SEEDS[i] for i in rows], range(STEPS + 1), arguments, signals)


def opened(folder: Path, options: PipelineOptions | None = None) -> Any:
    return load_pipeline(resolve_pipeline(str(folder), options), "float32", "cpu")


def watched(pipe: Any, folder: Path, options: PipelineOptions | None = None) -> tuple[Trajectories, list[torch.Tensor]]:
    """A run of all candidates, and the inputs of the denoiser's first call of each step, a row a candidate."""
    seen: list[torch.Tensor] = []

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        given = torch.stack(given).squeeze(2) if isinstance(given, list) else given  # Z-Image: one by one, with frames
        seen.append(given[: len(PROMPTS)].clone())

    handle = (getattr(pipe, "unet", None) or pipe.transformer).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        run = made(pipe, folder, options=options)
    finally:
        handle.remove()
    return run, seen[:: len(seen) // STEPS]


def plain(pipe: Any, latent: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B, C, H, W], by the pipeline's own unpacking."""
    if latent.ndim == 3:
        latent = pipe._unpack_latents(latent, height, width, pipe.vae_scale_factor)
    return latent.squeeze(2) if latent.ndim == 5 else latent


def assert_exact(run: Trajectories, seen: list[torch.Tensor], pipe: Any, height: int, width: int) -> None:
    assert len(seen) == STEPS
    for k, latent in enumerate(seen):
        expected = plain(pipe, latent, height, width) / run.positions[k].input_scale
        assert torch.allclose(run.latents[k], expected, atol=1e-5, rtol=1e-5)


def test_every_position_is_what_the_denoiser_sees(family: Family, family_folder: Path) -> None:
    pipe = opened(family_folder)
    assert type(pipe).__name__ == family.pipeline
    run, seen = watched(pipe, family_folder)
    height, width = run.images.shape[1:3]
    assert {latent.shape for latent in run.latents.values()} == {(4, 4, 8, 8)}
    assert_exact(run, seen, pipe, height, width)
    scale = float(getattr(pipe.scheduler, "init_noise_sigma", 1.0))
    for row, seed in enumerate(SEEDS):
        assert torch.allclose(run.latents[0][row], candidate_noise(seed, (4, 8, 8))[0] * scale, rtol=1e-6)

    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    stock = {"num_inference_steps": STEPS, "generator": generators, "output_type": "latent", **family.batched(4)}
    finished = plain(pipe, pipe(PROMPTS.copy(), **stock).images, height, width)
    assert torch.equal(run.latents[STEPS], finished)


def test_neighbours_change_nothing(family: Family, family_folder: Path) -> None:
    pipe = opened(family_folder)
    together = made(pipe, family_folder)
    again, alone = made(pipe, family_folder), made(pipe, family_folder, [2])
    for k in range(STEPS + 1):
        assert torch.equal(again.latents[k], together.latents[k])
        assert torch.allclose(alone.latents[k][0], together.latents[k][2], atol=1e-4, rtol=1e-4)
    for i in range(3):
        assert not torch.allclose(together.latents[STEPS][i], together.latents[STEPS][i + 1], atol=0.1)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1]])
def test_another_order_gives_the_same_bits(family: Family, family_folder: Path, order: list[int]) -> None:
    """Prompts of different lengths too: who else is in a batch of the same size, and where, leaves no trace."""
    pipe = opened(family_folder)
    together, turned = made(pipe, family_folder), made(pipe, family_folder, order)
    for k in range(STEPS + 1):
        assert torch.equal(turned.latents[k], together.latents[k][order])
    assert (turned.images == together.images[order]).all()


def test_the_guidance_gap_is_that_of_both_predictions(family: Family, family_folder: Path) -> None:
    pipe, seen = opened(family_folder), list[np.ndarray]()

    def hook(module: torch.nn.Module, given: Any, output: Any) -> None:
        first = output if isinstance(output, torch.Tensor) else output[0]
        seen.append(np.stack([row.double().numpy() for row in first]))

    handle = (getattr(pipe, "unet", None) or pipe.transformer).register_forward_hook(hook)
    options = TRUE_GUIDANCE if family.guidance == "embedded" else None
    run = made(pipe, family_folder, options=options, signals=("latent", "cfg_gap", "image"))
    handle.remove()
    assert len(seen) == STEPS * (1 if family.guidance == "doubled" else 2)
    both = np.concatenate(seen).reshape(STEPS, 2, len(PROMPTS), *seen[0].shape[1:])
    # PixArt predicts a variance, too
    both = both if family.packed else both[:, :, :, :4]
    expected = np.sqrt(((both[:, 0] - both[:, 1]) ** 2).reshape(STEPS, len(PROMPTS), -1).sum(2)).T
    assert run.cfg_gap is not None
    np.testing.assert_allclose(run.cfg_gap.numpy(), expected, rtol=1e-5)
    assert expected.min() > 0


def test_guidance_and_prompts_have_an_effect(family: Family, family_folder: Path) -> None:
    pipe = opened(family_folder)
    weak, strong = (made(pipe, family_folder, options=PipelineOptions(guidance=g)) for g in (2.0, 9.0))
    assert torch.equal(weak.latents[0], strong.latents[0])
    assert not torch.allclose(weak.latents[STEPS], strong.latents[STEPS], atol=1e-3)


def test_not_square(family: Family, family_folder: Path) -> None:
    side = 32 if family.name == "sana" else 16
    options, pipe = PipelineOptions(height=side, width=2 * side), opened(family_folder)
    run, seen = watched(pipe, family_folder, options)
    assert run.images.shape == (4, side, 2 * side, 3)
    assert run.latents[0].shape == (4, 4, 8, 16)
    assert_exact(run, seen, pipe, side, 2 * side)
    assert torch.allclose(
        run.latents[0][1] / float(getattr(pipe.scheduler, "init_noise_sigma", 1.0)),
        candidate_noise(SEEDS[1], (4, 8, 16))[0],
        rtol=1e-6,
    )


SCHEDULERS = [
    ("Euler", {}),
    ("EulerAncestral", {}),
    ("DDIM", {}),
    ("DDIM", {"eta": 1.0}),
    ("DDPM", {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver++"}),
    ("UniPC", {}),
]


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("name", "settings"), SCHEDULERS)
def test_schedulers_of_diffusion(name: str, settings: dict[str, Any], prediction: str, sd15_folder: Path) -> None:
    options = PipelineOptions(scheduler=name, eta=settings.get("eta"))
    pipe = opened(sd15_folder, options)
    changed = {key: value for key, value in settings.items() if key != "eta"}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=prediction, **changed)
    if (name, prediction) == ("EulerAncestral", "sample"):
        with pytest.raises(
            NbenchError, match=r"StableDiffusionPipeline does not run \(NotImplementedError: prediction_type not"
        ):
            made(pipe, sd15_folder, options=options)
        return
    run, seen = watched(pipe, sd15_folder, options)
    assert_exact(run, seen, pipe, 16, 16)
    alone = made(pipe, sd15_folder, [2], options)
    for k in range(STEPS + 1):
        spread = float(run.latents[k].abs().max())
        assert torch.allclose(alone.latents[k][0], run.latents[k][2], atol=1e-5 * spread, rtol=1e-3)
    noisy = name in ("EulerAncestral", "DDPM") or "eta" in settings or "sde" in str(settings)
    twin = generate(pipe, PROMPTS[:1] * 2, [1, 1], [STEPS], {"num_inference_steps": STEPS, **options.call_kwargs})
    assert torch.equal(twin.latents[STEPS][0], twin.latents[STEPS][1])  # each has its own noise, not the batch's
    if noisy:
        other = generate(pipe, PROMPTS[:1], [1], [STEPS], {"num_inference_steps": STEPS, **options.call_kwargs})
        assert torch.allclose(other.latents[STEPS][0], twin.latents[STEPS][0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["FlowMatchEuler", "DPMSolver", "UniPC"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name in ("sd3", "flux")], indirect=True)
def test_schedulers_of_flow_matching(name: str, family_folder: Path) -> None:
    options = PipelineOptions(scheduler=name)
    pipe = opened(family_folder, options)
    run, seen = watched(pipe, family_folder, options)
    assert_exact(run, seen, pipe, 16, 16)
    sigmas = [info.sigma for info in run.positions if info.sigma is not None]
    assert sigmas[0] <= 1.0
    assert sigmas == sorted(sigmas, reverse=True)


def assert_own_noise(pipe: Any, family: Family, folder: Path) -> None:
    """As if the stock pipeline had handed its generators to `scheduler.step`, which it calls without."""
    together, again, alone = made(pipe, folder), made(pipe, folder), made(pipe, folder, [2])
    assert torch.equal(again.latents[STEPS], together.latents[STEPS])
    assert torch.allclose(alone.latents[STEPS][0], together.latents[STEPS][2], atol=1e-4, rtol=1e-4)
    stock, generators = pipe.scheduler.step, [torch.Generator().manual_seed(seed) for seed in SEEDS]
    pipe.scheduler.step = functools.wraps(stock)(functools.partial(stock, generator=generators))
    called = {"num_inference_steps": STEPS, "generator": generators, "output_type": "latent", **family.batched(4)}
    finished = plain(pipe, pipe(PROMPTS.copy(), **called).images, 16, 16)
    assert torch.equal(together.latents[STEPS], finished)


@only("sd3", "flux", "qwen-image", "z-image")
def test_noise_of_later_steps_is_the_candidates_own(family: Family, family_folder: Path) -> None:
    pipe = opened(family_folder)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, stochastic_sampling=True)
    assert_own_noise(pipe, family, family_folder)


@only("sd3", "flux")
def test_so_is_that_of_stochastic_solvers(family: Family, family_folder: Path) -> None:
    pipe = opened(family_folder, PipelineOptions(scheduler="DPMSolverMultistep"))
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    assert_own_noise(pipe, family, family_folder)


@only("sdxl")
def test_a_run_that_ends_early_is_refused_before_it(family: Family, family_folder: Path) -> None:
    pipe, calls = opened(family_folder), list[int]()
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    options = PipelineOptions(arguments={"denoising_end": 0.5})
    with pytest.raises(NbenchError, match="StableDiffusionXLPipeline runs 2 steps when asked for 4"):
        made(pipe, family_folder, options=options)
    assert len(calls) == 1


def test_noise_that_no_seed_decides_is_refused(sd15_folder: Path) -> None:
    pipe = opened(sd15_folder)
    stock = pipe.scheduler.step

    def step(model_output: torch.Tensor, timestep: int, sample: torch.Tensor, return_dict: bool = True) -> Any:
        return stock(model_output, timestep, sample + 0.01 * torch.randn(sample.shape), return_dict=return_dict)

    pipe.scheduler.step = step
    with pytest.raises(NbenchError, match="DDIMScheduler draws noise without the candidate's seed"):
        made(pipe, sd15_folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.name in ("sdxl", "flux", "qwen-image")], indirect=True
)
def test_a_whole_build_that_is_not_square(family: Family, family_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    config = BuildConfig(
        "genai-bench",
        pipeline=str(family_folder),
        out=tmp_path / "bench",
        prompts=prompts,
        steps=STEPS,
        candidates=2,
        batch_size=3,
        rows_per_shard=4,
        references=(),
        latent_dtype="float32",
        options=PipelineOptions(height=16, width=32),
    )
    assert build(config, progress=False).rows == 8
    report = verify(str(config.folder))
    assert (report.rows, list(report.defects)) == (8, [])
    bench = open_bench(config.folder)
    assert (bench.info.latent_shape, bench.info.image_size) == ((4, 8, 16), (16, 32))
    assert bench.info.spec["call_kwargs"] == {**family.arguments, "height": 16, "width": 32}

    batch = next(bench.batches([0, STEPS], images=True))
    row, pipe = 3, opened(family_folder)
    generator = torch.Generator().manual_seed(batch.seeds[row])
    arguments = {**family.batched(1), "height": 16, "width": 32, "num_inference_steps": STEPS}
    finished = pipe([batch.prompts[row]], generator=[generator], output_type="latent", **arguments).images
    expected = plain(pipe, finished, 16, 32)[0].numpy()
    assert np.allclose(batch.latents[STEPS][row], expected, atol=1e-4, rtol=1e-4)


def test_a_class_that_nobody_knows(sd15_folder: Path) -> None:
    """Whatever calls `scheduler.step` on a latent works: no entry and no packing of its own are needed."""
    import diffusers

    class Mine(diffusers.StableDiffusionPipeline):
        @torch.no_grad()
        def __call__(
            self, prompt: list[str], num_inference_steps: int, generator: list[torch.Generator], output_type: str
        ) -> Any:
            text = self.encode_prompt(prompt, "cpu", 1, False)[0]
            self.scheduler.set_timesteps(num_inference_steps)
            latents = torch.cat([torch.randn(1, 4, 6, 8, generator=each) for each in generator])
            for timestep in self.scheduler.timesteps:
                noise = self.unet(latents, timestep, encoder_hidden_states=text).sample
                latents = self.scheduler.step(noise, timestep, latents).prev_sample
            images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
            images = self.image_processor.postprocess(images, output_type=output_type)
            return diffusers.pipelines.ImagePipelineOutput(images=images)

    mine = Mine(**opened(sd15_folder).components, requires_safety_checker=False)
    run, seen = watched(mine, sd15_folder)
    assert run.latents[0].shape == (4, 4, 6, 8)
    assert_exact(run, seen, mine, 12, 16)
    assert torch.equal(run.latents[0][2], torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(SEEDS[2])))
