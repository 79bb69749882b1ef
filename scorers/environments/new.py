"""`nbench models new`: writes a working scorer to start from, which runs in any of the ways to run one."""

from __future__ import annotations

from pathlib import Path

from ...errors import NbenchError
from ...shards.atomic import atomic_write, writing_to
from ..protocols import READS, reads_exist
from ..registry import unknown

_HEAD = '''# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy"]
# ///
"""A scorer. `nbench models check {file}:Mine` checks it; `uv:{file}:Mine` runs it in an environment of its own,
with the packages listed above."""

import numpy as np


class Mine:
    name = "{name}"
    reads = "{reads}"  # {about}
    fingerprint = "1"  # change it whenever the scores change, for example with the weights
    arrays = "numpy"  # without this line, inputs and results are torch tensors
'''
_BODIES = {
    "twin": '''
    def embed_text(self, prompts):
        """Unit-norm embeddings [P, D] of the prompts."""
        return np.stack([unit(np.random.default_rng(list(prompt.encode())).normal(size=8)) for prompt in prompts])

    def embed_inputs(self, inputs):
        """Unit-norm embeddings [B, D] of the inputs [B, ...]."""
        rows = inputs.reshape(len(inputs), -1).astype(np.float64)
        waves = np.cos(np.outer(np.arange(rows.shape[1]), np.arange(1, 9)))
        return np.stack([unit(row @ waves + 1e-6) for row in rows])


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)
''',
    "pair": '''
    def score(self, inputs, prompts):
        """Scores [B] of the inputs [B, ...], each with its own prompt; higher is better, NaN for no score."""
        means = inputs.reshape(len(inputs), -1).mean(1, dtype=np.float64)
        return means / [1 + len(prompt) for prompt in prompts]
''',
    "names": '''
    def score_names(self, prompt_ids, candidates, position):
        """Scores [B] of candidates, which are numbers; higher is better, NaN for no score."""
        return np.array([len(prompt_id) + candidate / 100 for prompt_id, candidate in zip(prompt_ids, candidates)])
''',
}


def new_scorer(path: Path, kind: str = "pair", reads: str = "preview") -> Path:
    """Write a scorer `Mine`; one that reads nothing scores names.

    Args:
        kind: twin (embeds prompts and inputs apart) or pair (scores them together).
        reads: one of `READS`.

    Raises:
        NbenchError: the file exists, its name does not end in .py, or there is no such kind or input.
    """
    if path.suffix != ".py":
        raise NbenchError(f"{path} is not a Python file: give a name that ends in .py")
    if kind not in ("twin", "pair"):
        raise unknown("kind", kind, ("twin", "pair"))
    what, _, argument = reads.partition(":")
    estimate, ahead, _ = reads.partition("@")
    about = {name.partition(":")[0]: text for name, text in READS.items() if (":" in name) == bool(argument)}
    if ahead and reads_exist(reads):
        about[what] = f"{READS[estimate]}, after as many coarse denoiser steps as its name says"
    if what not in about:
        raise unknown("input", reads, list(READS))
    if path.exists():
        raise NbenchError(f"{path} exists: give another name, or remove it")
    body = _BODIES["names" if reads == "nothing" else kind]
    name = "".join(char if char.isalnum() or char in "_-" else "-" for char in path.stem)
    head = _HEAD.format(file=path.name, name=name, reads=reads, about=about[what])
    with writing_to(path):
        atomic_write(path, (head + body).encode())
    return path
