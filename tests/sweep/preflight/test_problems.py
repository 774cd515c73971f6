"""How a problem of an input is told."""

from sweep.preflight.problems import InputProblem, SweepFileLines


def test_a_path_of_any_length_is_told_in_a_line_that_one_can_read() -> None:
    problem = InputProblem(setting="data.words", what=f"/data/{'x' * 70_000}: not there", cure="correct the path")
    told = SweepFileLines(None).format_problem(problem, "a.yaml")
    assert told.startswith("a.yaml: data.words: /data/xxx")
    assert told.endswith("x…; correct the path")
    assert len(told) < 5_100
