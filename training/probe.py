"""A probe: a small head that predicts a reference from the denoiser's activations (ProbeSelect, arXiv 2603.02829)."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import NbenchError
from ..scorers.probe import ProbeConfig, ProbeHead, ProbeScorer
from ..shards.reader import Bench, open_bench
from .config import ProbeTraining
from .examples import ExampleDataset, Examples
from .finetune import fine_tune
from .learner import Learner
from .processes import gathered
from .ranking import LOSSES, best_picked


def train(config: ProbeTraining, shown: bool = True) -> Path:
    """Train and write a probe; see `fine_tune`.

    Activations identify prompts, so a head soon memorizes its training prompts: the head written is that of the epoch
    with the lowest loss on held-out prompts, or the highest gain on `config.bench`.

    Raises:
        NbenchError: the data lack the activations, the reference, a position, or prompts with two candidates.
    """
    bench = open_bench(config.data)
    if max(bench.select(config.positions)) >= bench.info.steps:
        raise NbenchError(f"there are no activations at the final position {bench.info.steps}: name others")
    return fine_tune(config, lambda device: ProbeLearner(config, bench, device), None, shown)


class ProbeLearner(Learner):
    """Learns the differences between the candidates of a prompt at a position, which is what selection needs, or their
    order (`config.objective`).
    """

    title = "probe"
    memorizes = True
    images = False

    def __init__(self, config: ProbeTraining, bench: Bench, device: torch.device) -> None:
        super().__init__(config, bench.info.latent_space, None)
        self._loss = LOSSES[config.objective]
        mean, std = _moments(ExampleDataset(config, bench, images=False, share=(0, 1)))
        shape = ProbeConfig(
            layer=config.layer,
            dim=len(mean),
            hidden=config.hidden,
            steps=bench.info.steps,
            reference=config.reference,
        )
        self.model: ProbeHead = ProbeHead(shape).to(device)
        self.model.mean.copy_(mean)
        self.model.std.copy_(std)

    def forward(self, examples: Examples) -> dict[str, torch.Tensor]:
        """Accuracy: the share of prompts whose best candidate it picks. All processes state the whole batch's."""
        done = examples.position.to(self.device) / self.model.config.steps
        scores = gathered(self.model(examples.latents.to(self.device), done).float(), examples.counts)
        reference, groups = examples.reference.to(self.device), examples.groups.to(self.device)
        loss = self._loss(scores, reference, groups)
        return {"loss": loss, "accuracy": best_picked(scores.detach(), reference, groups)}

    def scorer(self) -> ProbeScorer:
        return ProbeScorer(self.model)

    def save(self, out: Path) -> None:
        from safetensors.torch import save_file

        save_file(self.model.state_dict(), out / "model.safetensors")
        (out / "config.json").write_text(self.model.config.model_dump_json(indent=2) + "\n")


def _moments(data: ExampleDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [D] of the activations of an epoch."""
    count = 0
    sums, squares = torch.zeros(()), torch.zeros(())
    for examples in data:
        values = examples.latents.double()
        count, sums, squares = count + len(values), sums + values.sum(0), squares + values.square().sum(0)
    mean = sums / count
    return mean.float(), (squares / count - mean.square()).clamp(min=1e-12).sqrt().float()
