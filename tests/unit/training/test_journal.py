"""The journal of a run."""

import os

import pytest

from vplface.errors import DataError
from vplface.training.journal import Journal


def test_Journal_names_a_full_disk(tmp_path):
    class Silent:
        def log(self, *of):
            pass

    journal = Journal(tmp_path, 0, Silent())
    journal._file.close()
    journal._file = open("/dev/full", "a", encoding="utf-8")  # noqa: PTH123, SIM115
    with pytest.raises(DataError, match=r"cannot write .*metrics\.jsonl: No space left"), journal:
        journal.write({"step": 1})
    journal = Journal(tmp_path, 0, Silent())
    journal._file.close()
    journal._file = open("/dev/full", "a", encoding="utf-8")  # noqa: PTH123, SIM115
    with pytest.raises(DataError, match=r"cannot write .*metrics\.jsonl: No space left"), journal:
        journal._file.write("not flushed")


def test_Journal_refuses_a_pipe_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        Journal(tmp_path, 3, None)
