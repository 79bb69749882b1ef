"""What commands print: text stays text, and tables fit the terminal."""

from __future__ import annotations

import pytest
from rich.text import Text

from nbench.console import plain_table, print_table, say, stacked

HOSTILE = "[red]a[/red] :smile: \x1b[31m\u202eb\x07"
SHOWN = r"[red]a[/red] :smile: \x1b[31m\u202eb\x07"


def test_text_of_data_is_shown_as_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    table = plain_table(HOSTILE, "figure", title=HOSTILE, caption=HOSTILE, left=(HOSTILE,))
    table.add_row(HOSTILE, Text("1.0", style="bold"))
    print_table(stacked([table, HOSTILE]))
    say("name:", HOSTILE)
    say(HOSTILE, error=True)
    printed = capsys.readouterr()
    assert printed.out.count(SHOWN) == 6
    assert printed.err == f"{SHOWN}\n"
    assert printed.out.replace("\n", "").isprintable()


@pytest.mark.parametrize("wide", [False, True])
def test_names_wrap_and_figures_do_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = plain_table("model", *map(str, range(5)), left=("model",))
    name = "a-model-of-a-long-name-" * 4
    table.add_row(name, *["0.123±0.456"] * 5)
    print_table(table, wide)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 or wide
    assert any(name in line for line in lines) is wide
    assert "0.123±0.456  0.123±0.456  0.123±0.456  0.123±0.456  0.123±0.456" in "\n".join(lines)
    assert name in "".join(line.split("  ")[0].strip() for line in lines)
