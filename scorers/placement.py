"""The device of a model, and the dtype of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import NbenchError, reason_of
from ..options import panel

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
_device = panel("Device")


@dataclass(frozen=True)
class Placement:
    """A torch device and the dtype of the weights, which is part of a scorer's fingerprint.

    Raises:
        NbenchError: unknown dtype.
    """

    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise NbenchError(f"unknown dtype {self.dtype}: there are {', '.join(DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype."""
        import torch

        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def mark(self, fingerprint: str) -> str:
        """`fingerprint` with the dtype appended, unless it is float32."""
        return fingerprint if self.dtype == "float32" else f"{fingerprint}-{self.dtype}"

    @classmethod
    def best(
        cls,
        device: Annotated[
            str | None, _device("Torch device: cpu, cuda, ... [default: the GPU where there is one]")
        ] = None,
        dtype: Annotated[str, _device("Dtype of the scorers' weights: float32, float16 or bfloat16.")] = "float32",
    ) -> Placement:
        """A placement on `device`; without one on the GPU if there is one.

        Raises:
            NbenchError: unknown device or dtype.
        """
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise NbenchError(f"no device {device} here ({reason_of(error)}): give another --device") from None
        return cls(device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype)


CPU = Placement()
