"""What `nbench models check` finds: each fault alone, and none where there is none."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nbench.cli import app
from nbench.scorers.check import PROMPTS, WORLD, check_scorer, made_up_inputs

AT = WORLD.positions[0]


class Pair:
    """A sound PairScorer; subclasses spoil what `spoil` gets."""

    name, reads, fingerprint = "pair", "latent", "1"

    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.spoil(inputs.mean((1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts]))

    def spoil(self, scores: torch.Tensor) -> torch.Tensor:
        return scores


class Tower(Pair):
    """A sound TwinTower."""

    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        angles = torch.tensor([float(len(prompt)) for prompt in prompts])
        return torch.stack([angles.sin(), angles.cos()], dim=1)

    def embed_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        angles = inputs.mean((1, 2, 3))
        return self.spoil(torch.stack([angles.sin(), angles.cos()], dim=1))


def problems(spoil: object, kind: type[Pair]) -> list[str]:
    scorer = type("Spoilt", (kind,), {"spoil": spoil})()
    return check_scorer(scorer, made_up_inputs(scorer, WORLD), PROMPTS, AT)


def raises(self: Pair, scores: torch.Tensor) -> torch.Tensor:
    raise ValueError("a bad day\nand more")


@pytest.mark.parametrize("kind", [Pair, Tower])
def test_sound_scorers_have_no_faults(kind: type[Pair]) -> None:
    assert problems(Pair.spoil, kind) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda self, s: s[:, None], "returns shape [6, 1] for 6 rows, not [B]"),
        (lambda self, s: s[:-1], "returns shape [5] for 6 rows"),
        (lambda self, s: s.long(), "returns int64, not floating point"),
        (lambda self, s: s.tolist(), "returns a list, not a tensor"),
        (lambda self, s: torch.where(torch.arange(len(s)) == 1, torch.nan, s), "returns NaN or infinity in 1 of 6"),
        (lambda self, s: s + torch.rand(len(s)), "is not deterministic"),
        (lambda self, s: s + torch.arange(len(s)), "depends on the order of the rows"),
        (lambda self, s: s - s.mean(), "depends on the batch: a row alone"),
        (raises, "raises ValueError: a bad day"),
    ],
)
def test_each_fault_is_named(spoil: object, says: str) -> None:
    torch.manual_seed(0)
    lines = problems(spoil, Pair)
    assert any(says in line for line in lines), lines
    assert all(line.startswith("score ") and "\n" not in line for line in lines)


def test_faults_of_towers() -> None:
    assert any("norms of 3 to 3, not 1" in line for line in problems(lambda self, s: 3 * s, Tower))
    wide = problems(lambda self, s: torch.nn.functional.pad(s, (0, 1)), Tower)
    assert wide == ["embed_text returns 2 numbers per row and embed_inputs 3: make them equal"]


def test_the_command_exits_with_1_and_names_the_faults(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Mine:\n"
        "    name, reads, fingerprint = 'mine', 'preview', '1'\n"
        "    def score(self, inputs, prompts):\n        return inputs.mean((2, 3))\n"
    )
    runner = CliRunner()
    outcome = runner.invoke(app, ["models", "check", f"{tmp_path / 'mine.py'}:Mine"])
    assert outcome.exit_code == 1
    assert outcome.stdout == "mine: score returns shape [6, 3] for 6 rows, not [B]\n"
    assert runner.invoke(app, ["models", "check", "noisyclip"]).stdout == "noisyclip: reads preview, nothing wrong\n"


def test_models_are_listed_for_people_and_for_programs() -> None:
    import json

    runner = CliRunner()
    rows = {row["name"]: row for row in json.loads(runner.invoke(app, ["models", "--json"]).stdout)}
    assert rows["x0-image"]["reads"] == "x0_image"
    assert rows["cfg-gap"]["paper"] == "arXiv 2505.23343"
    assert {row["direction"] for row in rows.values()} == {"higher is better"}
    assert "noisyclip" in runner.invoke(app, ["models"]).stdout
