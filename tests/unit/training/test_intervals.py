from vplface.training.intervals import Intervals


def test_Intervals_count_from_one_and_end_with_the_last_step():
    due = Intervals(last=7, log_every=3, save_every=5, validate_every=4, inspect_every=2, judge_after=4)
    steps = range(1, 8)
    assert [step for step in steps if due.log(step)] == [3, 6, 7]
    assert [step for step in steps if due.save(step)] == [5, 7]
    assert [step for step in steps if due.validate(step)] == [4, 7]
    assert [step for step in steps if due.inspect(step)] == [2, 4, 6]
    assert [step for step in steps if not due.any(step)] == [1]


def test_Intervals_validate_is_never_due_without_an_interval():
    due = Intervals(last=2, log_every=1, save_every=1, validate_every=None, inspect_every=1, judge_after=2)
    assert not due.validate(1)
    assert not due.validate(2)


def test_Intervals_judge_is_due_once_at_the_first_logged_step_from_judge_after():
    for judge_after, expected in ((4, [6]), (6, [6]), (7, [9]), (11, [])):
        due = Intervals(
            last=10, log_every=3, save_every=5, validate_every=None, inspect_every=2, judge_after=judge_after
        )
        assert [step for step in range(1, 11) if due.judge(step)] == expected
