import pytest

from vplface.suggest import did_you_mean, did_you_mean_or_known, similar_names

KNOWN = ("arcface", "cosface", "Ada Lovelace")


@pytest.mark.parametrize(
    ("name", "expected"), [("cosfce", "cosface"), ("ARCFACE", "arcface"), ("ada lovelase", "Ada Lovelace")]
)
def test_similar_names_takes_the_most_similar_whatever_its_case(name, expected):
    assert similar_names(name, KNOWN) == [expected]


def test_similar_names_are_the_best_first_and_at_most_count():
    assert similar_names("cosfac", KNOWN, 2) == ["cosface", "arcface"]
    assert similar_names("cosfac", KNOWN) == ["cosface"]
    assert similar_names("cosfac", []) == []


def test_did_you_mean_quotes_each_name_and_is_empty_without_one():
    assert did_you_mean("cosfac", KNOWN, 2) == "; did you mean 'cosface' or 'arcface'?"
    assert did_you_mean("zzz", KNOWN) == ""


def test_did_you_mean_or_known_lists_all_where_none_is_similar():
    assert did_you_mean_or_known("cosfac", iter(KNOWN)) == "; did you mean 'cosface'?"
    assert did_you_mean_or_known("zzz", iter(KNOWN)) == "; known: arcface, cosface, Ada Lovelace"
