"""The list of defects is in order. What they are caught by is shown by `make mutations`."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from tests.mutations.__main__ import ROOT, with_defect
from tests.mutations.defects import DEFECTS

each_defect = pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name for defect in DEFECTS])


def test_each_has_a_name_of_its_own():
    assert [name for name, count in Counter(defect.name for defect in DEFECTS).items() if count > 1] == []


@each_defect
def test_it_can_be_made_and_is_a_change_that_python_can_read(defect):
    sound = (ROOT / "trioserve" / defect.file).read_text()
    wrong = ast.dump(ast.parse(with_defect(defect, sound)))
    assert wrong != ast.dump(ast.parse(sound))


@each_defect
def test_the_tests_that_must_see_it_exist(defect):
    assert defect.tests
    for test in defect.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), path
        assert name.rpartition("::")[2].partition("[")[0] in (ROOT / path).read_text(), test
