"""Tables to print: tasks with and without images, and seeds."""

from typing import Any

from sweep.results.figures.printed import PrintedTable, build_seeds_table, build_tasks_table, format_seeds
from sweep.results.figures.style import OmittedFigure
from sweep.results.figures.tasks import select_bar_values
from tests.sweep.results.score_rows import row


def scored(accuracy: float, **changes: Any) -> dict[str, Any]:
    tasks = [
        ("gqa", "vision", accuracy),
        ("vqav2", "vision", accuracy + 0.1),
        ("piqa", "text", 0.5),
        ("c4", "loss", 2.5),
    ]
    scores = [
        {"task": task, "kind": kind, "score": score, "stderr": 0.01, "chance": 0.25, "n": 100}
        for task, kind, score in tasks
    ]
    return row(scores=scores, parameters=10, **changes)


def test_the_pair_with_and_without_images_by_task() -> None:
    table = build_tasks_table([scored(0.6, image_share=0.0), scored(0.611, image_share=0.1)])
    assert isinstance(table, PrintedTable)
    assert table.head == ["image share", "vqav2", "gqa", "piqa"]  # the study's order; a loss is no accuracy
    assert table.format_cells()[1:] == [["0 %", "70.00", "60.00", "50.00"], ["10 %", "71.10", "61.10", "50.00"]]


def test_each_seed_stands_beside_the_others_and_their_largest_difference() -> None:
    rows = [
        scored(score, image_share=share, seed=124, overrides=[("finetune.seed", seed)])
        for share, seed, score in ((0.0, "7", 0.6), (0.0, "365", 0.603), (0.1, "7", 0.7))
    ]
    table = build_seeds_table(rows)
    assert isinstance(table, PrintedTable)
    assert table.head == ["image share", "task", "seed 365", "seed 7", "largest difference"]
    assert table.format_cells()[1] == ["0 %", "gqa", "60.30", "60.00", "0.30"]
    assert [line[0] for line in table.lines] == ["0 %"] * 3  # at 10 % there is one seed


def test_without_two_seeds_there_is_no_table_of_seeds() -> None:
    assert build_seeds_table([scored(0.6)]) == OmittedFigure("table_seeds", "no model with scores of two seeds")


def test_nothing_to_compare_is_no_table_of_tasks() -> None:
    assert isinstance(build_tasks_table([scored(0.6)]), OmittedFigure)


def test_losses_alone_are_no_table_of_tasks() -> None:
    rows = [scored(0.6, image_share=share) for share in (0.0, 0.1)]
    for each in rows:
        each["scores"] = [task for task in each["scores"] if task["kind"] == "loss"]
    assert build_tasks_table(rows) == OmittedFigure("table_tasks", "no task of vision or text has a score")


def test_a_seed_that_one_model_names_and_another_does_not_is_told_apart() -> None:
    assert format_seeds([(124,), (124, "7"), (124, "365")]) == ["seed -", "seed 7", "seed 365"]
    assert format_seeds([(7,), (365,)]) == ["seed 7", "seed 365"]


TABLE = PrintedTable("t", "A title.", ["image share", "sat_en"], [["10 %", 0.5], ["0 %", None]])


def test_csv_has_fractions_in_full() -> None:
    assert TABLE.render_csv() == "image share,sat_en\n10 %,0.5\n0 %,\n"


def test_markdown_has_percent() -> None:
    assert TABLE.render_markdown() == (
        "A title.\n\n| image share | sat_en |\n| --- | ---: |\n| 10 % | 50.00 |\n| 0 % | - |\n"
    )


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    assert TABLE.render_latex().splitlines() == [
        "% A title.",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"image share & sat\_en \\",
        r"\midrule",
        r"10 \% & 50.00 \\",
        r"0 \% & - \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_bars_are_at_most_six_with_both_ends() -> None:
    assert select_bar_values([0, 1, 2]) == [0, 1, 2]
    assert select_bar_values(list(range(11))) == [0, 2, 4, 6, 8, 10]
