"""``vplface data synth``: invalid options."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from vplface.cli.data_synth import synth
from vplface.errors import UsageError

app = typer.Typer()
app.command()(synth)


@pytest.mark.parametrize(
    ("count", "message"),
    [(6000, "--pair-count 6000: 20 identities with 40 pictures are too few"), (30, "multiple of 20")],
)
def test_vplface_data_synth_refuses_an_impossible_pair_count_and_writes_nothing(count, message, tmp_path):
    given = ["--identities", 20, "--pictures", 2, "--pairs", tmp_path / "pairs.txt", "--pair-count", count]
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, [str(part) for part in [tmp_path / "faces", *given]], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
