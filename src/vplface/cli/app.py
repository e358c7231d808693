"""The command-line application with all of its commands."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Any

import typer
import typer.rich_utils
from typer.core import TyperGroup

from vplface import __version__
from vplface.cli import bench_head, bench_train
from vplface.cli.command_group import command_group, register
from vplface.cli.data_align import align
from vplface.cli.data_check import check
from vplface.cli.data_convert import convert
from vplface.cli.data_get import get
from vplface.cli.data_info import info
from vplface.cli.data_overlap import overlap
from vplface.cli.data_synth import synth
from vplface.cli.demo import demo
from vplface.cli.docs import docs
from vplface.cli.embed import embed
from vplface.cli.enroll import enroll
from vplface.cli.evaluate import evaluate
from vplface.cli.evaluate_identification import evaluate_identification
from vplface.cli.evaluate_templates import evaluate_ijb
from vplface.cli.export import export
from vplface.cli.help_table import HelpTable
from vplface.cli.hub import pull, push
from vplface.cli.identify import identify
from vplface.cli.last_resort import ending
from vplface.cli.list_names import list_
from vplface.cli.plan import plan
from vplface.cli.report import report
from vplface.cli.study import study
from vplface.cli.train import train
from vplface.cli.verify import verify
from vplface.console import Console, guarded


class _Commands(TyperGroup):
    """Escapes control characters, and turns errors into exit statuses by :mod:`vplface.cli.last_resort`."""

    def main(self, *args: Any, **options: Any) -> Any:
        with guarded(), ending():
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()  # otherwise a failure here would show when the interpreter exits

    def invoke(self, ctx: Any) -> Any:
        with ending():  # before typer's own handlers of OSError and KeyboardInterrupt
            return super().invoke(ctx)


# typer creates its own console and tables for help and errors: this console escapes control characters, and these
# tables cut no word. typer has no other way to choose them.
typer.rich_utils.Console = partial(Console, markup=True, emoji=True)  # type: ignore[attr-defined,assignment]
typer.rich_utils.Table = HelpTable  # type: ignore[attr-defined]
app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational Prototype Learning for deep face recognition: train, evaluate, explain, deploy.",
    epilog="Start with:  vplface study quickstart   (generated faces, a few minutes on a laptop)",
)
register(
    app,
    train,
    study,
    plan,
    evaluate,
    evaluate_ijb,
    evaluate_identification,
    report,
    export,
    embed,
    verify,
    enroll,
    identify,
    demo,
    list_,
    docs,
)
app.add_typer(
    command_group("Make and inspect picture sets.", align, info, check, convert, synth, overlap, get), name="data"
)
app.add_typer(
    command_group(
        "Time a step of the head or of training, and compare it with a lower bound and other implementations.",
        bench_head.head,
        bench_train.train,
    ),
    name="bench",
)
app.add_typer(command_group("Publish models on the Hugging Face Hub, and fetch them.", push, pull), name="hub")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Variational Prototype Learning for deep face recognition: train, evaluate, explain, deploy."""
    if version:
        print(__version__)
        raise typer.Exit
