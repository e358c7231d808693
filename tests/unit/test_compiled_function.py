"""Compiled functions are kept from process to process where that is possible, and work everywhere."""

import pickle
import re
import sys

import pytest

from helpers.paths import ROOT

numba = pytest.importorskip("numba", reason="needs vplface[train]")

from numba.core import caching  # noqa: E402

from vplface.compiled_function import compiled  # noqa: E402

SRC = ROOT / "src"


def double(x):
    return 2 * x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def call(**options):
    """The statistics of the cache in a call of a function that is compiled as in another process."""
    function = compiled(nogil=True, **options)(double)
    assert function(21) == 42
    return sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())


def files(folder, suffix):
    return sorted(folder.rglob(f"*.{suffix}"))


def test_what_is_compiled_once_is_found_again_where_it_was_asked_to_be_kept(folder):
    assert call() == (0, 1)
    assert files(folder, "nbi")
    assert call() == (1, 0)


def test_no_folder_to_write_to(folder, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert call() == call() == (0, 1)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="bits of permission")
def test_a_folder_that_others_may_not_read_or_write_is_passed_by(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    call()
    monkeypatch.setattr(caching.IndexDataCacheFile, "_load_index", refuse)
    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_index", refuse)
    assert call() == (0, 1)


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"not a cache",
        lambda content: pickle.dumps("0.1.0") + b"of another version",
    ],
    ids=["empty", "half", "foreign", "another version"],
)
def test_damaged_files_are_compiled_over(folder, suffix, damage):
    call()
    (damaged,) = files(folder, suffix)
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert call() == (0, 1)
    assert call() == (1, 0)


def test_a_full_disk_is_no_fault_of_the_function(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert call() == (0, 1)


def test_without_the_compiler_the_function_is_itself(folder, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert compiled(nogil=True)(double) is double


def test_no_function_is_compiled_into_a_cache_in_another_way():
    found = [path for path in SRC.rglob("*.py") if re.search(r"cache\s*=\s*True.*|import njit", path.read_text())]
    assert found == []
