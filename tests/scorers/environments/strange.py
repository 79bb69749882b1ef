"""Scorers of numpy for worker processes: one is sound, the others misbehave in one way each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

print("printed at import")


class Sums:
    """The exact sum of each row, plus the length of its prompt."""

    name = "sums"
    reads = "latent"
    fingerprint = "1"
    arrays = "numpy"

    def score(self, inputs: Any, prompts: Any) -> Any:
        assert isinstance(inputs, np.ndarray)
        return inputs.reshape(len(inputs), -1).sum(1, dtype=np.float64) + [len(prompt) for prompt in prompts]


class Layout(Sums):
    """The distance in bytes between the channels, which tells the layout in memory."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        return np.full(len(prompts), inputs.strides[1])


class Told(Sums):
    """A scorer that is told the noise level, and what the constructor may name."""

    conditioned = True

    def __init__(self, info: Any, device: Any, dtype: Any) -> None:
        self.steps, self.where = info.steps, f"{device} {dtype} {info.latent_shape} {info.positions[0].sigma}"
        self.fingerprint = self.where.replace(" ", "-")

    def score(self, inputs: Any, prompts: Any, at: Any) -> Any:  # type: ignore[override]
        return inputs.mean((1, 2, 3), dtype=np.float64) * at.sigma + at.position / self.steps


class Twin(Sums):
    """A dual encoder with a scale."""

    reads = "preview"
    scale = 4.0

    def embed_text(self, prompts: Any) -> Any:
        return self._circle(np.array([len(prompt) for prompt in prompts]))

    def embed_inputs(self, inputs: Any) -> Any:
        return self._circle(inputs.mean((1, 2, 3)))

    def _circle(self, angles: Any) -> Any:
        return np.stack([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


Twin.score = None  # type: ignore[assignment,method-assign]


class Names:
    """A scorer of names."""

    name, reads, fingerprint = "names", "nothing", "1"
    arrays = "numpy"

    def score_names(self, prompt_ids: Any, candidates: Any, position: Any) -> Any:
        return np.array([len(prompt) for prompt in prompt_ids]) + np.array(candidates) / 8 + position


class Noisy(Sums):
    """Prints wherever it can, reads standard input, and starts programs that print."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        print("{}", flush=True)
        os.write(1, b'{"id": 1}\n')
        sys.stderr.write("half a line")
        subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
        assert sys.stdin.read() == ""
        return super().score(inputs, prompts)


class Hangs(Sums):
    """Never answers; says when it has begun."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        Path(prompts[0]).write_text(str(os.getpid()))
        time.sleep(600)


class Dies(Sums):
    """Is killed in its second call, as often as the file named in MORTAL has bytes."""

    calls = 0

    def score(self, inputs: Any, prompts: Any) -> Any:
        self.calls += 1
        file = Path(os.environ["MORTAL"])
        lives = file.stat().st_size
        if self.calls == 2 and lives:
            file.write_bytes(b"x" * (lives - 1))
            print("its last words")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(inputs, prompts)


class Doomed(Sums):
    """Is killed in the fourth and fifth of all calls, which it counts in the file named in MORTAL."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        file = Path(os.environ["MORTAL"])
        file.write_bytes(file.read_bytes() + b"x")
        if file.stat().st_size in (4, 5):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(inputs, prompts)


class Leaves(Sums):
    """Ends the process politely, always."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        sys.stdout.write("no memory left")
        os._exit(3)


class Exits(Sums):
    """Calls sys.exit, which is an error of the scorer and not the end of its process."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        sys.exit("bad weights")


class Raises(Sums):
    """Raises for the prompt 'bad'."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        if "bad" in prompts:
            raise ValueError("a bad day\nand more")
        return super().score(inputs, prompts)


class Full(Sums):
    """Runs out of the device's memory with more than two rows."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        if len(prompts) > 2:
            raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
        return super().score(inputs, prompts)


class Answers(Sums):
    """Returns what the prompt names."""

    def score(self, inputs: Any, prompts: Any) -> Any:
        rows = len(prompts)
        return {
            "list": [0.0] * rows,
            "none": None,
            "short": np.zeros(rows - 1),
            "wide": np.zeros((rows, 3)),
            "complex": np.zeros(rows, complex),
            "nan": np.where(np.arange(rows) == 1, np.nan, 1.0),
            "whole": np.arange(rows),
        }[prompts[0]]


class Nameless:
    reads, fingerprint = "latent", "1"


class Unready(Sums):
    def __init__(self) -> None:
        raise RuntimeError("no licence")
