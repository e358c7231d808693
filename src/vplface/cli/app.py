"""Which commands there are, and what becomes of an error that users can mend: a line on stderr, no traceback."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vplface import __version__
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
from vplface.cli.import_config import import_config
from vplface.cli.plan import plan
from vplface.cli.report import report
from vplface.cli.study import study
from vplface.cli.train import train
from vplface.cli.verify import verify
from vplface.errors import TrainingInterrupted, UsageError, VplfaceError


class _Commands(TyperGroup):
    """Turns an error that the user can mend into its message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            _fail(error, 2)
        except TrainingInterrupted as error:
            print(error, file=sys.stderr)
            raise SystemExit(0 if error.preempted else 130) from None
        except VplfaceError as error:
            _fail(error, 1)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            raise SystemExit(130) from None


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
    import_config,
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


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Variational Prototype Learning for deep face recognition: train, evaluate, explain, deploy."""
    if version:
        print(__version__)
        raise typer.Exit


def _fail(error: Exception, status: int) -> None:
    print(f"vplface: {error}", file=sys.stderr)
    raise SystemExit(status) from None
