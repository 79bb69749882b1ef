"""A scorer in a file, which counts what it is handed."""

from pathlib import Path

from nbench.benchmarks.evaluate_config import EvaluateConfig
from nbench.shards.reader import Bench

from ...small_bench import CANDIDATES, PROMPTS

ROWS = PROMPTS * CANDIDATES - 1
SCORER = """
import os, pathlib, signal, time, torch

LOG = pathlib.Path(__file__).with_name("log")

class Brightness:
    name, reads, fingerprint = "brightness", "latent", "{fingerprint}"

    def score(self, inputs, prompts):
        with open(LOG, "a") as log:
            print(len(prompts), file=log)
        left = os.environ.get("KILL_AFTER")
        if left is not None and sum(1 for _ in open(LOG)) > int(left):
            os.kill(os.getpid(), signal.SIGKILL)
        if "WAIT_FOR" in os.environ:
            pathlib.Path(os.environ["WAIT_FOR"] + ".waits").touch()
            while not pathlib.Path(os.environ["WAIT_FOR"]).exists():
                time.sleep(0.01)
        return inputs[:, 0].mean((1, 2))
"""


LATE = """
import pathlib
LOADED = pathlib.Path(__file__).with_suffix(".loaded")

class {name}:
    reads, fingerprint = "latent", "1"
    name = "{name}"

    def load(self):
        LOADED.write_text(LOADED.read_text() + "." if LOADED.exists() else ".")
        if "{name}" == "broken":
            raise OSError("cut short")

    def score(self, inputs, prompts):
        assert LOADED.exists()
        return inputs[:, 0].mean((1, 2))
"""


class Counted:
    """A scorer of a file, with how many inputs it has been handed."""

    def __init__(self, folder: Path, fingerprint: str = "1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self.file = folder / "mine.py"
        self.file.write_text(SCORER.format(fingerprint=fingerprint))

    def config(self, bench: Bench, latents: str, out: Path) -> EvaluateConfig:
        return EvaluateConfig(bench.path, (f"{self.file}:Brightness",), latents, out)

    def taken(self) -> int:
        """Inputs since the last call."""
        count = sum(map(int, self._log.read_text().split())) if self._log.exists() else 0
        self._log.unlink(missing_ok=True)
        return count
