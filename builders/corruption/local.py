"""A language model in this process, through transformers."""

from __future__ import annotations

import threading
from typing import Any

from ...errors import NbenchError, reason_of
from .judge import MOST_TOKENS


class LocalModel:
    """A chat model from a folder or the Hub; one reply at a time.

    Raises:
        NbenchError: it cannot be loaded, or it has no chat template.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = model
        self._lock, self._torch = threading.Lock(), torch
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, revision=revision)
            loaded = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype="auto")
        except (OSError, ValueError) as error:
            raise NbenchError(f"cannot load the language model {model}: {reason_of(error)}") from None
        if self._tokenizer.chat_template is None:
            raise NbenchError(f"{model} has no chat template: choose an instruction-tuned model")
        self._model: Any = loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def reply(self, chat: list[dict[str, str]], seed: int, temperature: float) -> str:
        """The model's reply."""
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with self._lock, self._torch.inference_mode(), self._torch.random.fork_rng():
            self._torch.manual_seed(seed)
            inputs = self._tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self._model.device)
            length = inputs["input_ids"].shape[1]
            room = getattr(self._model.config, "max_position_embeddings", length + MOST_TOKENS) - length
            output = self._model.generate(**inputs, max_new_tokens=max(1, min(MOST_TOKENS, room)), **sampling)
        return str(self._tokenizer.decode(output[0, length:], skip_special_tokens=True))

    def stop(self) -> None:
        """Nothing: there are no pending requests."""
