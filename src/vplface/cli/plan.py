"""``vplface plan``: what a run will do and cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vplface.cli.recipe import CONFIG, OVERRIDES

if TYPE_CHECKING:
    from vplface.training.config import Config


def plan(
    config: CONFIG,
    overrides: OVERRIDES = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Show what a run will do and cost: classes, steps, memory, expected coverage and first loss. Nothing is trained.

    The same as vplface train CONFIG --dry-run.
    """
    from vplface.training.config import read_config

    show_plan(read_config(config, overrides or []), json)


def show_plan(config: Config, as_json: bool) -> None:
    """Print the plan of a configuration, as a table or as JSON."""
    from rich.console import Console
    from rich.table import Table

    from vplface.cli.tables import print_json
    from vplface.plan import plan as make_plan

    made = make_plan(config)
    if as_json:
        print_json({"schema": 1, "config": config.model_dump(mode="json"), "plan": asdict(made)})
        return
    rows = [
        ("classes", f"{made.identities:,}"),
        ("pictures", f"{made.pictures:,} ({made.pictures / made.identities:.1f} a class)"),
        (
            "steps",
            f"{made.steps:,} ({config.schedule.length}; {made.steps_per_epoch:,} an epoch of {config.batch_size})",
        ),
        (
            "backbone",
            f"{config.backbone.name} → {config.backbone.embedding_dim}, {made.parameters / 1e6:.2f} M parameters",
        ),
        ("loss", f"{config.margin}"),
        ("memory: network", f"{_size(made.model_bytes)}  weights, gradients, optimiser, average"),
        (
            "memory: prototypes",
            f"{_size(made.head_bytes)}  W, {'' if config.optimizer.fused else 'gradient, '}momentum, M",
        ),
        ("memory: activations", f"{_size(made.activation_bytes)}  kept from forward to backward"),
        ("memory: softmax", f"{_size(made.softmax_bytes)}  kept from forward to backward, and a tile of classes"),
        ("expected first loss", f"{made.first_loss:.2f}"),
    ]
    if config.variational is None or made.variational_start is None:
        rows.append(("prototypes", "plain"))
    else:
        rows.append(
            (
                "prototypes",
                f"variational: λ {config.variational.lam}, Δt {made.delta_t:,}, from step {made.variational_start:,}",
            )
        )
    reached = "   ".join(f"{delta_t:,}: {share:.0%}" for delta_t, share in made.coverage.items())
    rows.append(("coverage by Δt (steps)", reached))
    table = Table(
        title=f"plan of {config.run_folder}", title_justify="left", show_header=False, box=None, padding=(0, 2)
    )
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"
