"""tools/plain_english.py, the word list for pages, help and errors."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.paths import ROOT

spec = importlib.util.spec_from_file_location("plain_english", ROOT / "tools" / "plain_english.py")
assert spec is not None
assert spec.loader is not None
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Training resumes. There is no gallery. It is no longer used.", []),
        ("The program is told them\nand begins anew.", [(1, "told"), (2, "anew")]),
        ("Two can be\ntold apart", [(2, "told")]),
        ("two that it must tell\napart", [(1, "tell apart")]),
        ("A norm is no embedding.", [(1, "is no ")]),
        ("What a class is", [(1, "What a class is")]),
        ("120 pictures a second", [(1, "pictures a second")]),
        ("A rewritten sentence of whichever kind", []),
    ],
)
def test_offences_finds_phrases_over_line_breaks_and_whole_words_only(text: str, found: list[tuple[int, str]]) -> None:
    assert sorted((line, phrase) for line, phrase, _ in plain.offences(text)) == found


def test_prose_leaves_code_quotations_and_link_targets_out_and_keeps_lines() -> None:
    page = 'one `anew` "told"\n\n    anew\n\n```python\nanew\n```\n[anew](told.md#anew)\n'
    assert [(line, phrase) for line, phrase, _ in plain.offences(plain.prose(page))] == [(8, "anew")]
    assert plain.prose(page).count("\n") == page.count("\n")


def test_strings_gives_texts_with_lines_and_docstrings_on_request() -> None:
    source = '"""Begin anew."""\nraise ValueError(f"{path}: told `x y` {n} times")\nkey = "anew"\n'
    assert [text for _, text in plain.strings(source, docstrings=False)] == [": told ····· ", " times"]
    assert (1, "Begin anew.") in list(plain.strings(source, docstrings=True))


def test_no_page_or_message_has_a_phrase_of_the_word_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain.main() == 0, capsys.readouterr().out
