"""Images of the embedded world, a pipeline that is handed on, and a program that dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nbench.builders.candidates import Plan
from nbench.builders.process.reverse import LoadedPipeline, Reverse
from nbench.builders.prompts.choose import world_prompts
from nbench.shapes.grammar import parse
from nbench.shapes.render import render

DIES = """
import os, signal

def dies(owner, name, calls):
    original, left = getattr(owner, name), [calls]
    def method(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)
    setattr(owner, name, method)
"""
"""For programs that are to be killed when a method has been called so many times."""


@dataclass(frozen=True)
class Hooked(Reverse):
    """The reverse process, which hands its pipeline to `hook` when it is loaded."""

    hook: Callable[[Any], object]

    def load(self, plan: Plan) -> LoadedPipeline:
        loaded = super().load(plan)
        self.hook(loaded.pipe)
        return loaded


def save_scenes(folder: Path, count: int) -> Path:
    """`folder`, with rendered scenes and their exact captions; people's ratings of all but the last."""
    prompts = world_prompts("ncc", count)
    images = render([parse(prompt.text) for prompt in prompts], np.random.default_rng(0)).images
    rows = []
    for number, (prompt, pixels) in enumerate(zip(prompts, images, strict=True)):
        Image.fromarray(pixels).save(folder / f"{prompt.id}.png")
        rows.append({"id": prompt.id, "prompt": prompt.text, "file_name": f"{prompt.id}.png", "rating": 1 + number % 5})
    rows[-1]["rating"] = None
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
