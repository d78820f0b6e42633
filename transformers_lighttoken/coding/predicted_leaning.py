"""How much less a code leaves of rows that lean on others, from a sample of them. Beyond the paper."""

from dataclasses import dataclass

from torch import Tensor

from .packing import packed_bytes
from .prediction import eigenvalues_in, predicted_error, spectrum_left
from .reduction import gram_matrix
from .references import Resemblance
from .rows import divided_rows, unit_rows
from .table_rows import TableRows
from .tier import Tier, reference_bits

_MOST_STANDING = 1 << 14
_FEWEST_STANDING = 512
"""A multiple of the rows that a CPU works on at once, so that the work is divided alike among any processes."""
_LARGEST_SHARE = 1 / 2
_SAMPLED_ROWS = 2048


@dataclass(frozen=True)
class PredictedLeaning:
    """What leaning is expected to bring.

    Attributes:
        num_standing: R, coded rows that stand alone: the first ones.
        alone: (d,) eigenvalues of the second moment of other rows, in the metric of the error.
        less: the same of what these rows leave of them.
    """

    num_standing: int
    alone: Tensor
    less: Tensor

    @property
    def tier(self) -> Tier:
        """The tier that says which rows stand alone."""
        return Tier(self.num_standing, "reference", reference_bits(self.num_standing), 0)

    def stored_bytes(self, num_coded: int) -> int:
        """Bytes of what the other rows lean on."""
        return packed_bytes(num_coded - self.num_standing, self.tier.code_bits)

    def gain(self, code_bits: int, rank: int) -> float:
        """Error of rows that lean after a base code of some bits and a low-rank part, over that of rows that do not."""
        alone, less = spectrum_left(self.alone, rank), spectrum_left(self.less, rank)
        error = predicted_error(alone, code_bits) * float(alone.sum())
        return min(1.0, predicted_error(less, code_bits) * float(less.sum()) / error) if error > 0 else 1.0


def suitable_standing(num_coded: int) -> list[int]:
    """Numbers of rows that others may lean on, rising powers of two; none where there are too few rows."""
    largest = min(_MOST_STANDING, int(num_coded * _LARGEST_SHARE))
    most = 1 << (largest.bit_length() - 1) if largest else 0
    return [count for count in (most // 2, most) if count >= _FEWEST_STANDING]


def predict_leaning(table: TableRows, order: Tensor, num_standing: int, metric: Tensor | None) -> PredictedLeaning:
    """Measures on a sample of rows what leaning leaves of them.

    Args:
        table: holds the rows.
        order: (num_coded,) ids of the coded rows by falling weight.
        num_standing: R, the first of these, in [1, num_coded - 1].
        metric: (d, d) of the error; None for the plain one.
    """
    standing = divided_rows(table, order[:num_standing])
    others = order[num_standing:]
    rows, _ = unit_rows(table.read(others[:: -(-len(others) // _SAMPLED_ROWS)]).float())
    metric = None if metric is None else metric.to(rows.device)
    found = Resemblance(standing[:], metric).find(rows)
    less = rows - standing.take(found.slots) * found.factors
    alone_spectrum, less_spectrum = (eigenvalues_in(metric, gram_matrix(sample)) for sample in (rows, less))
    return PredictedLeaning(num_standing, alone_spectrum, less_spectrum)
