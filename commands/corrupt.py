"""The command that writes near-miss captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

corrupt_app = typer.Typer()


@corrupt_app.command(no_args_is_help=True)
def corrupt(
    prompts: Annotated[
        str,
        typer.Argument(
            help="shapes, genai-bench, cc12m, a data set on the Hub (user/name[@revision][:split]), a CSV, TSV, JSONL, "
            "Parquet or text file, or - (stdin)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write, .jsonl or .parquet.")],
    engine: Annotated[
        Literal["world", "rules", "llm"] | None, typer.Option(help="[default: world for shapes, rules for others]")
    ] = None,
    kinds: Annotated[str, typer.Option(help="Which near misses.")] = "subject,colour,quantity,background",
    prompt_column: Annotated[str | None, typer.Option(help="Column of the texts. [default: the source's]")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids. [default: the source's]")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many prompts, the first.")] = None,
    sample: Annotated[int | None, typer.Option(help="Draw so many of the prompts, as --seed decides.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out empty prompts and repeated ids.")] = False,
    seed: Annotated[int, typer.Option(help="Decides which of several near misses is taken.")] = 0,
    spacy_model: Annotated[str, typer.Option(help="rules: the parser.")] = "en_core_web_sm",
    wordnet: Annotated[
        str | None, typer.Option(help="rules: lexicon of the package wn for rarer subjects, such as oewn:2024.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="llm: OpenAI-compatible address, http://localhost:8000/v1.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="llm: name at the endpoint; without one, a folder or Hub id for transformers.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="llm: of a model on the Hub.")] = None,
    api_key_env: Annotated[str, typer.Option(help="llm: environment variable with the key.")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(help="llm: questions at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="llm: seconds to wait for an answer.")] = 120.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="llm: ask again what failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write near misses of captions (subject, colour, quantity, background) for `nbench build ncc --prompts FILE`.

    `nbench corrupt captions.txt --out data/near.jsonl`

    `nbench corrupt cc12m --limit 10000 --out data/near.parquet --engine llm --endpoint http://localhost:8000/v1
    --model Qwen/Qwen3-8B`
    """
    import json

    from ..builders.corruption.run import CorruptConfig, corrupt
    from ..builders.prompts.choose import PromptRequest

    report = corrupt(
        CorruptConfig(
            prompts=PromptRequest(prompts, prompt_column, id_column, limit, sample, seed, skip_bad=skip_bad),
            out=out,
            engine=engine,
            kinds=tuple(filter(None, kinds.split(","))),
            endpoint=endpoint,
            model=model,
            revision=revision,
            key_name=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout,
            retry_failed=retry_failed,
            spacy_model=spacy_model,
            wordnet=wordnet,
        )
    )
    if as_json:
        told = {"rows": report.rows, "engine": report.engine, "counts": report.counts, "errors": report.errors}
        print(json.dumps({"out": str(out)} | told))
        return
    for kind, counts in report.counts.items():
        print(f"{kind}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), reverse=True)))
    for error, count in sorted(report.errors.items(), key=lambda item: -item[1])[:5]:
        print(f"failed {count} times: {error}")
    print(f"{out}: {report.rows} captions by {report.engine}")
