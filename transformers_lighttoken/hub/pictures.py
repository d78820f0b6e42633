"""Pictures of the card: opaque, so that they read on light and dark pages, with type that reads on a phone."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..report.facts import format_bytes
from .facts import CardFacts, CosineHistogram
from .optional import import_for_card

BYTES_PICTURE = "pictures/lighttoken_bytes.png"
COSINES_PICTURE = "pictures/lighttoken_cosines.png"
PATHS = (BYTES_PICTURE, COSINES_PICTURE)

PANEL, INK, FAINT = "#f8fafc", "#0f172a", "#475569"
TABLE, REST = "#1d4ed8", "#94a3b8"
_WIDTH = 5.4  # inches; with _DPI 1080 pixels, three for each point of a phone's width
_DPI = 200
_TYPE = 13  # points, 12 of a phone's own where the picture is 360 wide


@dataclass(frozen=True)
class Picture:
    """A picture beside the card.

    Attributes:
        path: in the repository.
        text: what it shows, for those who do not see it.
        data: PNG.
    """

    path: str
    text: str
    data: bytes


def draw_pictures(facts: CardFacts) -> list[Picture]:
    """The bytes of the model before and after, and the distribution of the row cosines where it is known.

    The same facts give the same bytes, with the same matplotlib.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    pictures = [_draw(BYTES_PICTURE, _bytes_text(facts), 2.4, lambda axes: _draw_bytes(axes, facts))]
    histogram = facts.cosine_histogram
    if histogram is not None:
        draw = lambda axes: _draw_cosines(axes, histogram)  # noqa: E731
        pictures.append(_draw(COSINES_PICTURE, _cosines_text(histogram), 3.4, draw))
    return pictures


def _draw(path: str, text: str, height: float, draw: Callable[[Any], None]) -> Picture:
    matplotlib = import_for_card("matplotlib")
    figure_module = import_for_card("matplotlib.figure")
    agg = import_for_card("matplotlib.backends.backend_agg")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": _TYPE, "text.color": INK, "axes.labelcolor": INK})
        figure = figure_module.Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=PANEL, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        agg.FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor=PANEL)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.tick_params(colors=INK, length=0)
        draw(axes)
        data = io.BytesIO()
        figure.savefig(data, format="png", metadata={"Software": None, "Description": text})
    return Picture(path, text, data.getvalue())


def _draw_bytes(axes: Any, facts: CardFacts) -> None:
    report = facts.report
    bars = {
        "before": (sum(table.dense_bytes_source_dtype for table in report.tables), report.model_bytes_dense),
        "after": (report.stored_bytes, report.model_bytes),
    }
    for row, (name, (table, model)) in enumerate(bars.items()):
        axes.barh(row, table, color=TABLE, height=0.42)
        axes.barh(row, model - table, left=table, color=REST, height=0.42)
        axes.text(0, row - 0.3, f"{name}: {format_bytes(model)}", va="bottom", fontweight="bold")
        tables = f"table {format_bytes(table)}"
        axes.text(report.model_bytes_dense, row - 0.3, tables, va="bottom", ha="right", color=TABLE)
    axes.set(xlim=(0, report.model_bytes_dense * 1.001), ylim=(1.25, -0.6), xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)


def _draw_cosines(axes: Any, histogram: CosineHistogram) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=TABLE)
    top = 1.04 * max(histogram.counts)
    axes.vlines(histogram.mean, 0, top, color=INK, linewidth=1.8)
    axes.vlines(histogram.p01, 0, top, color=INK, linewidth=1.8, linestyles="dashed")
    axes.set_title(f"mean {histogram.mean:.3f}, 1st percentile {histogram.p01:.3f}", fontsize=_TYPE, loc="left")
    axes.set(xlabel="cosine of a row to the dense one", ylim=(0, top), yticks=[])
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])


def _bytes_text(facts: CardFacts) -> str:
    report = facts.report
    dense = sum(table.dense_bytes_source_dtype for table in report.tables)
    return (
        f"Bytes before and after: the model {format_bytes(report.model_bytes_dense)} and "
        f"{format_bytes(report.model_bytes)}, its token table {format_bytes(dense)} and "
        f"{format_bytes(report.stored_bytes)}"
    )


def _cosines_text(histogram: CosineHistogram) -> str:
    return (
        f"Distribution of the cosines of {sum(histogram.counts):,} rows to the dense ones: mean {histogram.mean:.3f}, "
        f"1st percentile {histogram.p01:.3f}"
    )
