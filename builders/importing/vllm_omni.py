"""The answers of vLLM-Omni with trajectories: the fields of its `OmniRequestOutput`, saved as plain containers."""

from __future__ import annotations

from typing import Any

from .sglang import Answer, recorded_after_steps


def vllm_omni_answers(tree: Any, steps: int | None = None) -> list[Answer]:
    """The images of an answer, or of a list of them, in their order; `steps` is T where they do not state it.

    An answer has `prompt`, `trajectory_latents` and `trajectory_timesteps`, or, as earlier versions, `latents` and
    `metrics`; `images` may be tensors.

    Raises:
        ValueError: anything else, or positions that cannot be told.
    """
    answers = list[Answer]()
    for entry in tree if isinstance(tree, list) else [tree]:
        if not isinstance(entry, dict):
            raise ValueError("holds no answer: an answer has prompt, trajectory_latents and trajectory_timesteps")
        metrics = entry.get("metrics")
        early = {
            "trajectory_latents": entry.get("latents"),
            "trajectory_timesteps": metrics.get("trajectory_timesteps") if isinstance(metrics, dict) else None,
        }
        prompt = entry.get("prompt")
        text = prompt.get("prompt") if isinstance(prompt, dict) else prompt
        if not isinstance(text, str):
            raise ValueError("holds an answer without the text of its prompt")
        given = {key: value for key, value in entry.items() if value is not None}
        answers += recorded_after_steps({**early, **given, "prompt": text}, steps)
    return answers
