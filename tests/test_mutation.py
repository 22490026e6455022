"""Mutants of the reference: which trials judge one, and what comes of a sample. Making them needs mutmut."""

from __future__ import annotations

import pytest

from tests.support.mutation import Mutant, Result, Trial, chosen, report, sample

pytestmark = pytest.mark.unit

_MUTANTS = [Mutant("conformance/reference/cache.py", line, "0", "1", "") for line in range(20)]


def _trial(name: str, seconds: float, *lines: int, path: str = "conformance/reference/cache.py") -> Trial:
    return Trial(name, frozenset((path, line) for line in lines), seconds)


def test_a_sample_is_the_same_each_time_and_begins_with_a_smaller_one() -> None:
    assert sample(_MUTANTS, 10, seed=0)[:5] == sample(_MUTANTS, 5, seed=0) != sample(_MUTANTS, 5, seed=1)


def test_all_tests_and_two_programs_that_reach_a_line_judge_its_mutant() -> None:
    programs = [_trial("program9", 9, 3, 4, 5), _trial("program5", 5, 3), _trial("program7", 7, 3, 4)]
    tests = [_trial("tests/test_6.py", 6, 3), _trial("tests/test_2.py", 2, 3, 4), _trial("tests/test_4.py", 4, 3)]
    others = [_trial("elsewhere", 1, 4), _trial("another module", 1, 3, path="conformance/reference/wrapper.py")]
    names = [trial.name for trial in chosen(_MUTANTS[3], [*programs, *tests, *others])]
    assert names == ["tests/test_2.py", "tests/test_4.py", "program5", "tests/test_6.py", "program9"]


def test_a_mutant_outside_all_functions_is_judged_by_what_reaches_its_module() -> None:
    assert [trial.name for trial in chosen(_MUTANTS[0], [_trial("reaches", 1, 3)])] == ["reaches"]


def test_report_names_survivors_and_the_share_that_was_killed() -> None:
    results = [Result("a", "tests", 1), Result("b", None, 2), Result("c", "tests", 1), Result("d", "tests", 1)]
    assert report(results) == "survived  b\n3 of 4 mutants killed, 75.0%"
