"""The grid of methods, tasks and seeds: made run by run, written as a table after each, and gone on with later."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..evaluate import Told, check_runs, plan_runs
from ..fine_tuning.runs import Run, RunTakenError, TaskData, check_seeds, write_whole
from ..fine_tuning.settings import FineTuningSettings
from ..fine_tuning.tasks import Task, task_named
from ..subject import open_subject
from .methods import DENSE, Contender, Method, make_contender
from .table import comparison_report, markdown

JSON_NAME, MARKDOWN_NAME = "comparison.json", "comparison.md"


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        source: the dense checkpoint.
        methods: what becomes of its table.
        tasks: to fine-tune on.
        seeds: of the runs, by name of the task; the same for all methods.
        data: local folder; None for the Hub.
        settings: of fine-tuning, the same for all methods but for what of the table trains.
        output: folder of models, runs, and the table.
    """

    source: str
    methods: tuple[Method, ...]
    tasks: tuple[Task, ...]
    seeds: Mapping[str, Sequence[int]]
    data: Path | None
    settings: FineTuningSettings
    output: Path


@dataclass
class Cell:
    """The runs of one method on one task."""

    contender: Contender
    task: Task
    runs: list[Run]
    records: list[dict[str, Any]] = field(default_factory=list)

    def refresh(self) -> None:
        """Reads what is stored."""
        self.records = [record for record in (run.stored() for run in self.runs) if record is not None]


def make_grid(
    source: str | os.PathLike[str],
    methods: Sequence[Method],
    tasks: Sequence[str],
    seeds: Sequence[int],
    output: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    settings: FineTuningSettings | None = None,
) -> Grid:
    """A grid with the same seeds for every task.

    Raises:
        ValueError: if a task is unknown, one of the lists is empty, or a seed is given twice.
    """
    for name, values in (("methods", methods), ("tasks", tasks), ("seeds", seeds)):
        if not values:
            raise ValueError(f"{name} must not be empty.")
    check_seeds(seeds)
    chosen = tuple(task_named(name) for name in tasks)
    return Grid(
        str(source),
        tuple(dict.fromkeys(methods)),
        chosen,
        {task.name: tuple(seeds) for task in chosen},
        None if data is None else Path(data).expanduser(),
        settings or FineTuningSettings(),
        Path(output).expanduser(),
    )


def compare(grid: Grid, max_runs: int | None = None, told: Told = lambda text: None) -> dict[str, Any]:
    """Makes the runs that are missing, all methods of a task and seed one after the other.

    Args:
        grid: what to compare.
        max_runs: stop after so many new runs; None makes all.
        told: of each run.

    Returns:
        The comparison as plain JSON values (see `table.comparison_report`), which is also written to the output folder
        as JSON and Markdown after each run. `missing` counts the runs that are still to be made.

    Raises:
        ValueError: if a method's ratio cannot be met, or model, tokenizer and data do not fit together.
        OSError: if data cannot be read.
    """
    loaded = [TaskData.load(task, grid.data) for task in grid.tasks]
    dense = Contender(Method(DENSE), open_subject(grid.source), None)
    check_runs([_runs(grid, dense, data) for data in loaded])
    contenders = [make_contender(method, grid.source, grid.output / "models") for method in grid.methods]
    cells = [Cell(contender, data.task, _runs(grid, contender, data)) for data in loaded for contender in contenders]
    report = _write(grid, cells)
    made = 0
    for cell, run in _in_turn(cells):
        if max_runs is not None and made >= max_runs:
            break
        if run.stored() is not None:
            continue
        told(f"{cell.contender.method.name}: {cell.task.title}, seed {run.seed}")
        try:
            run.make()
        except RunTakenError as error:
            told(f"left to another process: {error}")
            continue
        made += 1
        report = _write(grid, cells)
    return report


def _runs(grid: Grid, contender: Contender, data: TaskData) -> list[Run]:
    settings = replace(grid.settings, table=contender.method.table)
    return plan_runs(contender.subject, data, settings, grid.seeds[data.task.name], grid.output)


def _in_turn(cells: Sequence[Cell]) -> list[tuple[Cell, Run]]:
    """First seeds first, so that a table that is not complete compares all methods on what there is."""
    ordered = [(number, cell, run) for cell in cells for number, run in enumerate(cell.runs)]
    key: Callable[[tuple[int, Cell, Run]], int] = lambda entry: entry[0]  # noqa: E731 - sorted is stable
    return [(cell, run) for _, cell, run in sorted(ordered, key=key)]


def _write(grid: Grid, cells: Sequence[Cell]) -> dict[str, Any]:
    for cell in cells:
        cell.refresh()
    report = comparison_report(cells)
    grid.output.mkdir(parents=True, exist_ok=True)
    write_whole(grid.output / JSON_NAME, report)
    (grid.output / MARKDOWN_NAME).write_text(markdown(report), encoding="utf-8")
    return report
