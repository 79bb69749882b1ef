"""Figures as frozen rows: what an evaluation reports on a model and writes to result files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from .catalogue import METRICS
from .declaration import CI


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoredPosition(Frozen):
    """How one model's scores at one position agree with one reference: the fields besides the metrics.

    tie_threshold, misaligned_threshold: calibrated, for `pairwise_accuracy` and the alarm of `misaligned_precision`.
    """

    model: str
    position: int
    reference: str
    cost_steps: int
    n_scored: int
    n_unscored: int | None = None
    tie_threshold: float | None = None
    misaligned_threshold: float | None = None


if TYPE_CHECKING:

    class ResultRow(ScoredPosition):
        """A scored position with every figure of `METRICS` and its interval; null where it is undefined."""

        def __init__(self, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    _METRIC_FIELDS = dict.fromkeys(METRICS, (float | None, None)) | {f"{name}_ci": (CI, None) for name in METRICS}
    ResultRow = create_model(
        "ResultRow",
        __base__=ScoredPosition,
        __module__=__name__,
        __doc__="A scored position with every figure of `METRICS` and its interval; null where it is undefined.",
        **_METRIC_FIELDS,
    )


class SelectionRow(Frozen):
    """Best-of-n by a model's scores at a position, for one n: the exact mean over all subsets of n candidates.

    recovered_gain: gain over a random pick, as a share of the gain of final-image selection among all candidates.
    """

    model: str
    position: int
    reference: str
    n: int
    cost_steps: int
    best_of_n: float | None
    best_of_n_ci: CI = None
    recovered_gain: float | None
    recovered_gain_ci: CI = None


class SeparationRow(Frozen):
    """How well a model at a position separates true captions from corrupted ones of a kind, or of `all` kinds."""

    model: str
    position: int
    kind: str
    auroc: float | None
    auroc_ci: CI = None
    average_precision: float | None
    average_precision_ci: CI = None
    pairwise_accuracy: float | None
    pairwise_accuracy_ci: CI = None
    n_pairs: int


class RetrievalRow(Frozen):
    """How often a match of the query is among the k nearest: `text_to_latent` or `latent_to_text`."""

    model: str
    position: int
    direction: Literal["text_to_latent", "latent_to_text"]
    k: int
    recall: float | None
    recall_ci: CI = None


class SkillRow(Frozen):
    """A model at a position on the prompts that ask for one skill; `level` is basic or advanced."""

    model: str
    position: int
    reference: str
    level: str
    skill: str
    n_prompts: int
    spearman: float | None
    spearman_ci: CI = None
    recovered_gain: float | None
    recovered_gain_ci: CI = None


class Summary(Frozen):
    """A model over all positions: the area under recovered gain over cost, and where levels are first reached.

    earliest: by `metric>=level`, the first position that reaches it; null where none does.
    """

    model: str
    reference: str
    gain_area: float | None
    gain_area_ci: CI = None
    earliest: dict[str, int | None]


class Comparison(Frozen):
    """Within-prompt Spearman of `model` minus that of `other`, paired by prompt, with its bootstrap 95 % interval.

    p_value: two-sided paired t-test; p_holm: corrected by Holm's method over all comparisons of an evaluation.
    """

    model: str
    other: str
    position: int
    reference: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None = None
    p_holm: float | None = None


class Yardstick(Frozen):
    """Mean reference of a random pick, of final-image selection, and of the reference's own best.

    chooser: the reference that final-image selection goes by; `own`: the model's own scores of the final images.
    """

    random: float | None
    final: float | None
    oracle: float | None = None
    random_ci: CI = None
    final_ci: CI = None
    oracle_ci: CI = None
    chooser: str | None = None
    misaligned_below: float | None = None
