"""Mutations fit the current source, and the tests that detect them exist: `make mutants` itself runs rarely."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import all_scenarios
from tests.faults.mutation import Mutation
from tests.faults.mutations import MUTATIONS
from tests.faults.scenario import SCENARIOS

ROOT = Path(__file__).parents[2]

assert all_scenarios.LOADED


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_the_source_and_its_tests_exist(mutation: Mutation) -> None:
    assert [edit for edit in mutation.edits if (ROOT / edit.file).read_text().count(edit.old) != 1] == []
    for file in {edit.file for edit in mutation.edits if edit.file.endswith(".py")}:
        text = (ROOT / file).read_text()
        for edit in mutation.edits:
            text = text.replace(edit.old, edit.new) if edit.file == file else text
        compile(text, file, "exec")
    assert set(mutation.scenarios) <= set(SCENARIOS)
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutation.tests)
    assert mutation.scenarios or mutation.tests
