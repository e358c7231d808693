"""Which commands there are, and what becomes of an error that users can mend: a line on stderr, no traceback."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Annotated, Any

import typer
import typer.rich_utils
from typer.core import TyperGroup

from vplface import __version__
from vplface.cli.at_home import with_home
from vplface.cli.bench import bench
from vplface.cli.data_align import align
from vplface.cli.data_check import check
from vplface.cli.data_convert import convert
from vplface.cli.data_get import get
from vplface.cli.data_info import info
from vplface.cli.data_overlap import overlap
from vplface.cli.data_synth import synth
from vplface.cli.demo import demo
from vplface.cli.embed import embed
from vplface.cli.enroll import enroll
from vplface.cli.evaluate import evaluate
from vplface.cli.evaluate_identification import evaluate_identification
from vplface.cli.evaluate_templates import evaluate_ijb
from vplface.cli.export import export
from vplface.cli.hub import hub
from vplface.cli.identify import identify
from vplface.cli.last_resort import ending
from vplface.cli.plan import plan
from vplface.cli.report import report
from vplface.cli.study import study
from vplface.cli.train import train
from vplface.cli.verify import verify
from vplface.console import Console, guarded


class _Commands(TyperGroup):
    """Guards what is printed, and ends every command as :mod:`vplface.cli.last_resort` says."""

    def main(self, *args: Any, **options: Any) -> Any:
        with guarded(), ending():
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()  # what fails here would otherwise fail when the interpreter ends

    def invoke(self, ctx: Any) -> Any:
        with ending():  # before typer's own handlers of OSError and KeyboardInterrupt
            return super().invoke(ctx)


# typer shows help and errors on a console that it makes itself; this one writes control characters out.
typer.rich_utils.Console = partial(Console, markup=True, emoji=True)  # type: ignore[attr-defined,assignment]
app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational Prototype Learning for deep face recognition: train, evaluate, explain, deploy.",
    epilog="Start with:  vplface study quickstart   (generated faces, a few minutes on a laptop)",
)
data = typer.Typer(no_args_is_help=True, help="Make and look after picture sets.")
app.add_typer(data, name="data")
app.add_typer(bench, name="bench")
app.add_typer(hub, name="hub")
data.command()(align)
data.command()(info)
data.command()(check)
data.command()(convert)
data.command()(synth)
data.command()(overlap)
data.command()(get)
for command in (
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
):
    app.command(command.__name__.replace("_", "-"))(command)


def _paragraphs(text: str) -> str:
    """A docstring whose lines may be filled anew; what begins with the mark backslash-b stays as it is."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else " ".join(part.split()) for part in parts)


for group in (app, data, bench, hub):
    for registered in group.registered_commands:
        assert registered.callback is not None
        registered.help = _paragraphs(registered.callback.__doc__ or "")
        registered.callback = with_home(registered.callback)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Variational Prototype Learning for deep face recognition: train, evaluate, explain, deploy."""
    if version:
        print(__version__)
        raise typer.Exit
