"""Compiled functions are cached on disk where possible, and work without a cache."""

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


def test_compiled_reuses_its_cache_on_disk(folder):
    assert call() == (0, 1)
    assert files(folder, "nbi")
    assert call() == (1, 0)


def test_compiled_works_without_a_writable_cache_folder(folder, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert call() == call() == (0, 1)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="bits of permission")
def test_compiled_works_if_the_cache_may_not_be_read_or_written(folder, monkeypatch):
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
def test_compiled_replaces_damaged_cache_files(folder, suffix, damage):
    call()
    (damaged,) = files(folder, suffix)
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert call() == (0, 1)
    assert call() == (1, 0)


def test_compiled_works_if_the_disk_is_full(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert call() == (0, 1)


def test_compiled_returns_the_function_itself_if_the_jit_is_disabled(folder, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert compiled(nogil=True)(double) is double


def test_compiled_is_the_only_user_of_numba_caches_in_the_source():
    found = [path for path in SRC.rglob("*.py") if re.search(r"cache\s*=\s*True.*|import njit", path.read_text())]
    assert found == []
