"""Coding one table of a checkpoint: by several processes, going on from where a stopped run was."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..coding.decode import decode_positions
from ..coding.plan import CodingPlan
from ..coding.reduction import block_rows
from ..coding.share import RowShare
from ..coding.table import CompressedTable
from ..coding.table_rows import TableRows
from ..coding.threads import one_thread_each
from ..distributed import Processes
from ..evaluation.fidelity import block_fidelity, cosines_of, fidelity_of
from ..modeling.fitting import FittingContext, fit_table
from ..modeling.measure import Measurements
from .histogram import cosine_histogram
from .state import StateFiles, read_state, write_state
from .stored_rows import StoredRows
from .tables import TableSource
from .tensor_file import DTYPES

_MEASURED = ("frequencies", "metric", "head_covariance")


@dataclass(frozen=True)
class TableCoder:
    """Codes the tables of a checkpoint, one after the other.

    Attributes:
        context: what is known of the model.
        processes: that work together.
        device: to compute on.
        state: folder of the state files.
    """

    context: FittingContext
    processes: Processes
    device: torch.device
    state: Path

    def code(self, source: TableSource, number: int) -> tuple[CompressedTable, dict[str, Any]]:
        """Codes a table.

        Args:
            source: where it lies.
            number: of the table.

        Returns:
            The compressed table on the CPU, and what is recorded of it; the same on every process.
        """
        rows = StoredRows(source.weight, self.device)
        coded = self.state / f"table{number}-coded.safetensors"
        found = self.processes.on_main(lambda: read_state(coded))
        if found is None:
            table, measured_on = self._fit(rows, source, number)
            facts = {"plan": json.dumps(table.plan.to_dict()), "measured_on": measured_on}
            self.processes.on_main(lambda: write_state(coded, table.to("cpu").tensors, facts))
        else:
            tensors, facts = found
            measured_on = facts["measured_on"]
            table = CompressedTable(CodingPlan.from_dict(json.loads(facts["plan"])), tensors).to(self.device)
        blocks = _block_fidelities(rows, table, self.processes.share)
        recorded = {
            "source_dtype": str(DTYPES[source.weight.dtype]).removeprefix("torch."),
            "keys": list(source.keys),
            "digest": table.digest(),
            "measured_on": measured_on,
            **asdict(fidelity_of(blocks)),
            "cosine_histogram": cosine_histogram(cosines_of(blocks)),
        }
        return table.to("cpu"), recorded

    def _fit(self, rows: StoredRows, source: TableSource, number: int) -> tuple[CompressedTable, str]:
        path = self.state / f"table{number}-measured.safetensors"
        context = replace(
            self.context,
            share=self.processes.share,
            journal=StateFiles(self.state, number, self.processes),
            measure=lambda work: self.processes.on_main(lambda: _measured_once(path, work)),
        )
        table, measured = fit_table(rows, source.site, context)
        return table, measured.source


def _measured_once(path: Path, work: Callable[[], Measurements]) -> Measurements:
    found = read_state(path)
    if found is None:
        measured = work()
        tensors = {name: getattr(measured, name) for name in _MEASURED}
        write_state(path, {name: it for name, it in tensors.items() if it is not None}, {"source": measured.source})
        return measured
    tensors, facts = found
    return Measurements(*map(tensors.get, _MEASURED), source=facts["source"])


@one_thread_each
def _block_fidelities(rows: TableRows, table: CompressedTable, share: RowShare) -> list[Tensor]:
    """What each block of ids adds to the table's fidelity, in their order."""
    size = block_rows(rows.device)
    every = torch.arange(rows.shape[0]).split(size)
    mine = []
    for ids in every[share.index :: share.count]:
        positions = table.positions[ids.to(table.positions.device)].long()
        mine.append(block_fidelity(rows.read(ids), decode_positions(table.plan, table.tensors, positions)))
    gathered = share.gather(torch.cat([*mine, torch.empty(0, dtype=torch.float64)]))
    per_process = [list(values.split(size + 2)) for values in gathered]
    return [per_process[number % share.count][number // share.count] for number in range(len(every))]
