"""The rate-distortion picture: opaque, three panels above each other, with type that reads on a phone."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter, ScalarFormatter

from tests.benchmarks.rate_distortion_results import Point, Results
from transformers_lighttoken.hub.pictures import FAINT, INK, PANEL

_WIDTH, _PANEL_HEIGHT, _LEGEND_HEIGHT = 5.4, 2.9, 2.3  # inches
_DPI = 200
_TYPE = 13  # points
_LEAST_ERROR = 0.0002
_ERROR_TICKS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]

_OURS = {"color": "#1d4ed8", "linewidth": 3.0, "markersize": 7, "zorder": 5}
_STYLES: dict[str, dict[str, Any]] = {
    "default": {**_OURS, "marker": "o"},
    "equal": {**_OURS, "marker": "s", "linestyle": (0, (4, 1.5)), "markerfacecolor": PANEL},
    "opq_fp16": {"color": "#b45309", "marker": "D"},
    "pq_fp16": {"color": "#d97706", "marker": "d", "linestyle": "dashed"},
    "local_search_quantization_fp16": {"color": "#047857", "marker": "^"},
    "residual_quantization_fp16": {"color": "#059669", "marker": "v", "linestyle": "dashed"},
    "svd_fp16": {"color": "#6d28d9", "marker": "x"},
    "svd_fp32": {"color": "#8b5cf6", "marker": "+", "linestyle": "dashed"},
    "direction_autoencoder_fp16": {"color": "#be185d", "marker": "1"},
    "int8": {"color": "#475569", "marker": "P"},
    "int4": {"color": "#475569", "marker": "*", "markersize": 9},
}


def draw(results: Results, methods: dict[str, str], path: Path) -> None:
    """Writes the picture as PNG; the same figures give the same bytes, with the same matplotlib.

    Args:
        results: what was measured.
        methods: title by name of the methods to draw.
        path: of the PNG.
    """
    shown = {name: title for name, title in methods.items() if results.curve(name)}
    panels = [_draw_error, _draw_cosine] + [_draw_task] * any(point.task is not None for point in results.points)
    with rc_context():
        rcdefaults()
        rcParams.update({"font.size": _TYPE, "text.color": INK, "axes.labelcolor": INK})
        height = len(panels) * _PANEL_HEIGHT + _LEGEND_HEIGHT
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=PANEL, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(results.table, fontsize=_TYPE + 1, fontweight="bold")
        all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            _prepare(axes, results)
            panel(axes, results, shown)
        all_axes[-1].set_xlabel("times smaller than float32")
        handles, labels = all_axes[0].get_legend_handles_labels()
        columns = {"ncols": 2, "fontsize": _TYPE - 2, "columnspacing": 1.0, "handlelength": 2.2}
        figure.legend(handles, labels, loc="outside lower center", frameon=False, **columns)
        figure.savefig(path, format="png", metadata={"Software": None, "Description": _text(results, shown)})


def _prepare(axes: Any, results: Results) -> None:
    axes.set_facecolor(PANEL)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color="#cbd5e1", linewidth=0.7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(results.asked))
    axes.set_xlim(0.9 * results.asked[0], 1.35 * results.asked[-1])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _draw_error(axes: Any, results: Results, shown: dict[str, str]) -> None:
    seen = [limit for limit in results.limit if limit["relative_error"] >= _LEAST_ERROR / 2]
    limits = {"color": INK, "linestyle": "dotted", "linewidth": 2.0, "label": "Gaussian limit"}
    axes.plot([limit["ratio"] for limit in seen], [limit["relative_error"] for limit in seen], **limits)
    _curves(axes, results, shown, lambda point: point.relative_error)
    axes.set_yscale("log")
    errors = [point.relative_error for name in shown for point in results.curve(name)]
    axes.set_ylim(max(_LEAST_ERROR, 0.7 * min(error for error in errors if error is not None)), 1.05)
    axes.yaxis.set_major_locator(FixedLocator(_ERROR_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("relative error", fontsize=_TYPE, loc="left")


def _draw_cosine(axes: Any, results: Results, shown: dict[str, str]) -> None:
    _curves(axes, results, shown, lambda point: point.cosine_mean)
    axes.set_ylim(None, 1.0)
    axes.set_title("mean cosine of a row to the dense one", fontsize=_TYPE, loc="left")


def _draw_task(axes: Any, results: Results, shown: dict[str, str]) -> None:
    _curves(axes, results, shown, lambda point: point.task)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(str(results.task), fontsize=_TYPE, loc="left")


def _curves(axes: Any, results: Results, shown: dict[str, str], value: Any) -> None:
    for name, title in shown.items():
        points: list[Point] = [point for point in results.curve(name) if value(point) is not None]
        style = {"linewidth": 1.6, "markersize": 6, **_STYLES.get(name, {"marker": "."})}
        axes.plot([point.ratio for point in points], [value(point) for point in points], label=title, **style)


def _text(results: Results, shown: dict[str, str]) -> str:
    methods = ", ".join(shown.values())
    return f"{results.table}: relative error, mean cosine and task score over compression ratio of {methods}"
