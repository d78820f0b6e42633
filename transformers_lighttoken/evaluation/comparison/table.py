"""The comparison as JSON and as a Markdown table."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..fine_tuning.summary import Figure, difference, task_figures, task_score

if TYPE_CHECKING:
    from .grid import Cell

NOTE = (
    "Every method is fine-tuned with the same data, steps, schedule and seeds; heads start alike. A baseline's table "
    "is decoded into the model and frozen: were it trained, the bytes that are counted could not store it. Frozen "
    "tables compare like with like; a trained LightToken table keeps its stored form. Figures are percent, ± the "
    "standard error: over the runs, or over the rows of the evaluation where there is one run. A task's score is the "
    "mean of its metrics, as in GLUE."
)


def comparison_report(cells: Sequence["Cell"]) -> dict[str, Any]:
    """What is known so far.

    Args:
        cells: of the grid, with their records.

    Returns:
        `methods` (name, bytes and ratio of the table, `tasks` with score and metrics, `average` over the tasks that
        all methods have finished, `compared` with the first method of kind dense), `averaged_tasks`, `settings`,
        `missing`, `note`.
    """
    names = list(dict.fromkeys(cell.task.name for cell in cells))
    contenders = list(dict.fromkeys(cell.contender for cell in cells))
    complete = [n for n in names if all(len(c.records) == len(c.runs) for c in cells if c.task.name == n)]
    rows = []
    for contender in contenders:
        own = {cell.task.name: cell for cell in cells if cell.contender is contender and cell.records}
        scores = {name: task_score(cell.records) for name, cell in own.items()}
        rows.append(
            {
                "name": contender.method.name,
                "kind": contender.method.kind,
                "table": contender.method.table,
                "requested_ratio": contender.method.ratio,
                "stored_bytes": contender.stored_bytes,
                "tasks": {name: _task(cell, scores[name]) for name, cell in own.items()},
                "average": _plain(_average([scores[name] for name in complete])) if complete else None,
            }
        )
    _compare_averages(rows, len(complete))
    settings = {cell.task.name: {**cell.runs[0].settings.identity(), "table": None} for cell in cells}
    missing = sum(len(cell.runs) - len(cell.records) for cell in cells)
    return {"methods": rows, "averaged_tasks": complete, "settings": settings, "missing": missing, "note": NOTE}


def markdown(report: dict[str, Any]) -> str:
    """The table, with its note and settings."""
    titles = list(dict.fromkeys(name for row in report["methods"] for name in row["tasks"]))
    header = ["method", "table bytes", *titles]
    averaged = report["averaged_tasks"]
    if averaged:
        header += [f"average of {len(averaged)}", "of dense"]
    lines = [header, ["---"] * len(header)]
    for row in report["methods"]:
        cells = [row["name"], "" if row["stored_bytes"] is None else str(row["stored_bytes"])]
        cells += [_shown(row["tasks"].get(name, {}).get("score")) for name in titles]
        if averaged:
            share = (row.get("compared") or {}).get("share")
            cells += [_shown(row["average"]), "" if share is None else f"{100 * share:.1f} %"]
        lines.append(cells)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    waiting = f"\n{report['missing']} runs are still to be made.\n" if report["missing"] else ""
    return f"{table}\n\n{report['note']}\n\n{_settings(report)}{waiting}"


def _task(cell: "Cell", score: Figure) -> dict[str, Any]:
    metrics = {name: _plain(figure) for name, figure in task_figures(cell.task, cell.records).items()}
    seconds = [record["seconds"] for record in cell.records]
    seeds = [record["identity"]["seed"] for record in cell.records]
    return {"score": _plain(score), "metrics": metrics, "seeds": seeds, "seconds": seconds}


def _average(scores: Sequence[Figure]) -> Figure:
    """Mean over tasks, its standard error from those of the tasks as if they were independent."""
    mean = sum(score.value for score in scores) / len(scores)
    errors = [score.standard_error for score in scores]
    known = [error for error in errors if error is not None]
    error = math.hypot(*known) / len(scores) if len(known) == len(errors) else None
    return Figure(mean, None, error, scores[0].error_over, tuple(score.value for score in scores))


def _compare_averages(rows: list[dict[str, Any]], tasks: int) -> None:
    dense = next((row["average"] for row in rows if row["kind"] == "dense"), None)
    if not tasks or dense is None:
        return
    for row in rows:
        row["compared"] = difference(_figure(row["average"]), _figure(dense))


def _plain(figure: Figure) -> dict[str, Any]:
    return {**vars(figure), "values": list(figure.values)}


def _figure(plain: dict[str, Any]) -> Figure:
    return Figure(**{**plain, "values": tuple(plain["values"])})


def _shown(plain: dict[str, Any] | None) -> str:
    if plain is None:
        return ""
    error = "" if plain["standard_error"] is None else f" ± {100 * plain['standard_error']:.1f}"
    return f"{100 * plain['value']:.1f}{error}"


def _settings(report: dict[str, Any]) -> str:
    lines = []
    for name, settings in report["settings"].items():
        values = {key: value for key, value in settings.items() if value is not None}
        lines.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    return "\n".join(lines) + "\n"
