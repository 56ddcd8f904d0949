"""The list of mutants fits the base: ``nox -s mutants`` runs them."""

from pathlib import Path

from mutants.run import BASE, ROOT, mutants


def test_each_mutant_changes_one_place_and_names_tests() -> None:
    # One test, since as many tests as mutants would take half a minute.
    for mutant in mutants():
        assert mutant.place(ROOT / BASE)
        assert mutant.new != mutant.old, mutant.name
        assert bool(mutant.tests) != bool(mutant.equivalent), mutant.name
        for test in mutant.tests:
            path, _, name = test.partition("::")
            assert Path(ROOT, path).exists(), test
            assert f"def {name.partition('[')[0]}" in Path(ROOT, path).read_text(), test


def test_no_two_mutants_share_a_name() -> None:
    names = [mutant.name for mutant in mutants()]
    assert len(names) == len(set(names))


def test_modules_and_scripts_have_mutants() -> None:
    assert {mutant.place(ROOT / BASE).suffix for mutant in mutants()} == {".py", ".lua"}
