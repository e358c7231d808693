"""``vplface bench eval``: evaluations of the sizes that people run."""

from __future__ import annotations

from typing import Annotated

import typer

from vplface.cli.options import AS_JSON
from vplface.console import Console, print_json
from vplface.errors import UsageError


def evaluation(
    stages: Annotated[
        str | None,
        typer.Option(
            help="What to measure, names or their beginnings with commas; all unless given.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: whether it runs, not how fast.")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Time evaluations of the sizes that people run, on made-up embeddings, each stage in a process of its own.

    \b
    ijbc       469,375 faces in 23,124 templates, 15,658,489 pairs, 19,593 probes in two galleries of 3,531 people
    megaface   3,530 probes among 1,000,000 distractors
    lfw        6,000 pairs in ten folds, 1,000 replicates; the others have 100

    "floor" is what cannot be avoided, the matrix products and reading the embeddings once, at the speed that this
    machine shows just before and after. Peak memory is that of the whole process.

    \b
    vplface bench eval
    vplface bench eval --stages ijbc
    """  # noqa: D301 (the mark before lines that stay as they are)
    from vplface.bench.eval import QUICK, STAGES, Size, measure
    from vplface.bench.head import machine
    from vplface.progress import progress

    begun = [""] if stages is None else [each.strip() for each in stages.split(",")]
    if unknown := [each for each in begun if not any(name.startswith(each) for name in STAGES)]:
        raise UsageError(f"--stages: no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    chosen = [name for name in STAGES if name.startswith(tuple(begun))]
    results = []
    with progress("measuring", len(chosen)) as advance:
        for name in chosen:
            results.append(measure(name, QUICK if quick else Size()))
            advance(1, name)
    where = machine()
    if as_json:
        print_json({"schema": 1, "machine": where, "quick": quick, "results": results})
        return
    from rich.table import Table

    console = Console()
    console.print(f"{where['processor']}, {where['cores']} cores", highlight=False)
    table = Table(title="small sizes" if quick else None, title_justify="left")
    table.add_column("stage")
    for heading in ("seconds", "of processors", "floor", "peak MiB"):
        table.add_column(heading, justify="right")
    for result in results:
        numbers = (result[key] for key in ("seconds", "processor_seconds", "floor_seconds"))
        table.add_row(result["stage"], *(f"{number:.2f}" for number in numbers), f"{result['peak_mb']:,.0f}")
    console.print(table)
