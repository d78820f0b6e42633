"""What the rate-distortion benchmark stores and tells: points by method and ratio, the Gaussian limit, Markdown."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from transformers_lighttoken.coding.budget import byte_budget
from transformers_lighttoken.coding.water_filling import gaussian_distortion
from transformers_lighttoken.evaluation.baselines.optimized_product_quantization import principal_axes


@dataclass(frozen=True)
class Point:
    """One method at one ratio.

    Attributes:
        method: its name.
        asked: the ratio that was asked for.
        stored_bytes: all bytes that decoding needs; 0 if the method was left out.
        ratio: 4 V d / stored bytes; 0 if the method was left out.
        relative_error: |E - E'|^2 / |E|^2.
        cosine_mean: mean row cosine.
        cosine_p01: its first percentile.
        task: score of the model with this table over the dense model's; None if it was not measured.
        seconds: processor time of fitting and decoding, of all threads.
        parameters: sizes that the method chose.
        left_out: why there are no figures; None if there are.
    """

    method: str
    asked: float
    stored_bytes: int = 0
    ratio: float = 0.0
    relative_error: float = 1.0
    cosine_mean: float = 0.0
    cosine_p01: float = 0.0
    task: float | None = None
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    left_out: str | None = None


@dataclass
class Results:
    """All that is known of one table; kept in a file that is replaced after every point.

    Attributes:
        table: its title.
        shape: (V, d).
        task: what `Point.task` is a share of; None if nothing was measured.
        dense_score: of the dense model.
        limit: Gaussian limit by ratio, also between the ratios of the points.
        points: in the order in which they were made.
    """

    table: str
    shape: tuple[int, int]
    task: str | None = None
    dense_score: float | None = None
    limit: list[dict[str, float]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Reads what `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        points = [Point(**point) for point in fields.pop("points")]
        return cls(**{**fields, "shape": tuple(fields["shape"])}, points=points)

    def write(self, path: Path) -> None:
        """Writes JSON; a run that is killed leaves the file as it was."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, path)

    def find(self, method: str, asked: float) -> Point | None:
        """The point of a method at a ratio."""
        return next((point for point in self.points if (point.method, point.asked) == (method, asked)), None)

    def put(self, point: Point) -> None:
        """Adds a point, in the place of an older one."""
        self.points = [old for old in self.points if (old.method, old.asked) != (point.method, point.asked)]
        self.points.append(point)

    @property
    def asked(self) -> list[float]:
        """The ratios of the points, rising."""
        return sorted({point.asked for point in self.points})

    def curve(self, method: str) -> list[Point]:
        """The points of a method that have figures, by falling bytes."""
        measured = [point for point in self.points if point.method == method and point.left_out is None]
        return sorted(measured, key=lambda point: point.ratio)


def gaussian_limit(weight: Tensor, ratios: Sequence[float]) -> list[dict[str, float]]:
    """Least relative error of a Gaussian source with the table's mean and covariance at the bytes of each ratio.

    The mean and all that describes the source are counted as known; only the rows cost bits.

    Args:
        weight: (V, d) floating-point.
        ratios: compression ratios against float32.

    Returns:
        `ratio`, `bits` per row and `relative_error` of each.
    """
    variances, _ = principal_axes(weight)
    energy = float(weight.double().square().sum() / len(weight))
    share = float(variances.sum()) / energy
    rows = []
    for ratio in ratios:
        bits = 8 * byte_budget(weight.shape[0], weight.shape[1], ratio) / len(weight)
        error = share * gaussian_distortion(variances.cpu(), bits)
        rows.append({"ratio": float(ratio), "bits": bits, "relative_error": error})
    return rows


def markdown(results: Results, methods: dict[str, str]) -> str:
    """The figures as a Markdown table, ratio by ratio and best error first; what was left out is listed below it.

    Args:
        results: to tell.
        methods: title by name of the methods to tell of.
    """
    rows, dim = results.shape
    header = ["ratio asked", "method", "stored bytes", "ratio", "relative error", "cosine mean", "cosine p01"]
    header += [results.task] if results.task else []
    lines = [f"{results.table}, {rows} x {dim}, {4 * rows * dim} bytes in float32.", ""]
    if results.task:
        lines[0] += f" Dense {results.task.removesuffix(' over dense')}: {results.dense_score:.4f}."
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    limits = {limit["ratio"]: limit["relative_error"] for limit in results.limit}
    for asked in results.asked:
        found = [point for method in methods if (point := results.find(method, asked)) and not point.left_out]
        cells = [f"{asked:g}", "Gaussian limit", "", "", f"{limits[asked]:.4f}", "", ""]
        lines.append(_line(cells + [""] * bool(results.task)))
        for point in sorted(found, key=lambda point: point.relative_error):
            lines.append(_line(_cells(point, methods[point.method], bool(results.task))))
    left_out = [line for name, title in methods.items() if (line := _reason(results, name, title))]
    if left_out:
        lines += ["", "Left out:", "", *left_out]
    return "\n".join(lines) + "\n"


def _reason(results: Results, method: str, title: str) -> str | None:
    """Why a method is left out, told for the lowest of its ratios without figures."""
    missing = [point for point in results.points if point.method == method and point.left_out]
    missing.sort(key=lambda point: point.asked)
    if not missing:
        return None
    return f"- {title} at {', '.join(f'{point.asked:g}' for point in missing)}: {missing[0].left_out}"


def _cells(point: Point, title: str, with_task: bool) -> list[str]:
    cells = [f"{point.asked:g}", title, str(point.stored_bytes), f"{point.ratio:.2f}", f"{point.relative_error:.4f}"]
    cells += [f"{point.cosine_mean:.4f}", f"{point.cosine_p01:.4f}"]
    if with_task:
        cells.append("" if point.task is None else f"{point.task:.4f}")
    return cells


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
