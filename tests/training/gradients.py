"""Run by torchrun, or alone: the gradients of the first batch of a training data set, written to a file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nbench.shards.reader import open_bench
from nbench.training.config import TrainConfig
from nbench.training.examples import ExampleDataset
from nbench.training.learner import DualEncoderLearner
from nbench.training.processes import share


def main(data: str, base: str, out: str, *settings: str) -> None:
    options = dict(setting.split("=") for setting in settings)
    config = TrainConfig(Path(data), Path(out), base=base, batch_size=16, **options)  # type: ignore[arg-type]
    bench = open_bench(config.data)
    torch.manual_seed(0)
    learner = DualEncoderLearner(config, bench.info.latent_space, Path(base), Path(base), torch.device("cpu"))
    model: torch.nn.Module = learner
    if share()[1] > 1:
        distributed.init_process_group("gloo")
        model = DistributedDataParallel(learner)
    model(next(iter(ExampleDataset(config, bench, learner.images, share()))))["loss"].backward()
    if share()[0] == 0:
        save_file({name: each.grad for name, each in learner.named_parameters() if each.grad is not None}, out)
    if share()[1] > 1:
        distributed.barrier()
        del model, learner  # freed after the group, it may wait for the group's threads for ever
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
