"""The device of a model, and the dtype of its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from ..errors import NbenchError, reason_of
from ..options import panel

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
_device = panel("Device")
_Device = Annotated[str | None, _device("Torch device: cpu, cuda, ... [default: the GPU where there is one]")]
_Dtype = Annotated[str, _device("Dtype of the scorers' weights: float32, float16 or bfloat16.")]
_BEST = "best"


@dataclass(frozen=True)
class Placement:
    """A torch device and the dtype of the weights, which is part of a scorer's fingerprint.

    The device "best" is the GPU where there is one; `here` says which.

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
    def wanted(cls, device: _Device = None, dtype: _Dtype = "float32") -> Placement:
        """A placement on `device` of the machine that will score; without one on its GPU if there is one.

        Raises:
            NbenchError: unknown dtype.
        """
        return cls(device or _BEST, dtype)

    @classmethod
    def best(cls, device: _Device = None, dtype: _Dtype = "float32") -> Placement:
        """A placement on `device` of this machine; without one on the GPU if there is one.

        Raises:
            NbenchError: unknown device or dtype.
        """
        return cls.wanted(device, dtype).here()

    def here(self) -> Placement:
        """The placement on this machine.

        Raises:
            NbenchError: there is no such device.
        """
        import torch

        if self.device == _BEST:
            return replace(self, device="cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise NbenchError(f"no device {self.device} here ({reason_of(error)}): give another --device") from None
        return self


CPU = Placement()
