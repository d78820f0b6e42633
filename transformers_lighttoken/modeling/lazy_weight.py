"""LazyWeight: what `.weight` of a compressed table gives to code that expects the dense one."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from .embedding import LightTokenEmbedding

_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_OPERATORS = (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__pow__"),
    *("__matmul__", "__rmatmul__", "__neg__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
)


class LazyWeight:
    """Stands for the dense (V, d) table: free to ask for its shape, decoded only where its values are used.

    Shape, dtype and device cost nothing; indexing decodes the rows asked for; `hidden @ weight.t()` and
    `linear(hidden, weight)` go through the compressed logits; anything else works on a dense table that is decoded for
    that one operation and dropped. It cannot be written to.

    Args:
        owner: the module that owns the table.
        transposed: whether this stands for the (d, V) transpose.
    """

    _is_hf_initialized = True  # transformers then never initialises it

    def __init__(self, owner: "LightTokenEmbedding", transposed: bool = False) -> None:
        self.owner = owner
        self._transposed = transposed

    @property
    def shape(self) -> torch.Size:
        """(V, d), or (d, V) when transposed."""
        rows, columns = self.owner.num_embeddings, self.owner.embedding_dim
        return torch.Size((columns, rows) if self._transposed else (rows, columns))

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.owner.exact_rows.dtype

    @property
    def device(self) -> torch.device:
        """Of the rows; where accelerate offloads the table, the device on which it is used."""
        return self.owner.positions.device

    @property
    def requires_grad(self) -> bool:
        """Whether any part of the table trains."""
        return any(part.requires_grad for part in self.owner.parameters())

    @property
    def is_meta(self) -> bool:
        """Whether the table has no values yet."""
        return self.device.type == "meta"

    @property
    def data(self) -> "LazyWeight":
        """Itself: there is no dense storage."""
        return self

    @data.setter
    def data(self, value: Any) -> None:
        self._refuse_write("an assignment to the data")

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def T(self) -> "LazyWeight":  # noqa: N802
        """The transpose."""
        return LazyWeight(self.owner, not self._transposed)

    def t(self) -> "LazyWeight":
        """The transpose."""
        return self.T

    def transpose(self, first: int, second: int) -> "LazyWeight":
        """The transpose, or itself."""
        return self if first % 2 == second % 2 else self.T

    def detach(self) -> "LazyWeight":
        """Itself."""
        return self

    def size(self, dim: int | None = None) -> torch.Size | int:
        """As torch.Tensor.size."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """2."""
        return 2

    def numel(self) -> int:
        """Entries of the dense table."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Bytes of an entry of the dense table."""
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        """True."""
        return True

    def dense(self) -> Tensor:
        """The dense table, decoded now and not kept."""
        ids = torch.arange(self.owner.num_embeddings, device=self.device)
        rows = self.owner(ids, mode="rows")
        return rows.t() if self._transposed else rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        first, *others = index if isinstance(index, tuple) else (index,)
        selects_rows = isinstance(first, (int, slice)) or (isinstance(first, Tensor) and first.dtype != torch.bool)
        if self._transposed or not selects_rows:
            return self.dense()[index]
        ids = torch.arange(len(self), device=self.device)[first]
        rows = self.owner(ids, mode="rows")
        return rows[(slice(None),) * ids.ndim + tuple(others)] if others else rows

    def __setitem__(self, index: Any, value: Any) -> None:
        self._refuse_write("an assignment to rows")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if name.endswith("_"):
            return lambda *args, **kwargs: self._refuse_write(f"the in-place {name}()")
        return getattr(self.dense(), name)

    def __repr__(self) -> str:
        return f"LazyWeight(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first, weight, bias = (*args[:3], *(None,) * (3 - len(args)))
        if isinstance(weight, LazyWeight) and isinstance(first, Tensor):
            if func in _PRODUCTS and weight._transposed:
                return weight.owner(first, mode="logits")
            if func is functional.linear and not weight._transposed:
                logits = weight.owner(first, mode="logits")
                bias = kwargs.get("bias") if bias is None else bias
                return logits if bias is None else logits + bias.to(logits.dtype)
            if func is functional.embedding and not weight._transposed:
                return weight.owner(first, mode="rows")
        name = getattr(func, "__name__", "")
        written = first if args else kwargs.get("tensor")  # torch.nn.init passes it by name
        if name.endswith("_") and not name.endswith("__") and isinstance(written, LazyWeight):
            return written._refuse_write(f"the in-place {name}()")
        return func(*map(_dense_of, args), **{key: _dense_of(value) for key, value in kwargs.items()})

    def _refuse_write(self, what: str) -> "LazyWeight":
        if self.owner.is_loading:  # a model that initialises its weights has nothing to do here
            return self
        raise TypeError(
            f"{what} of a compressed table's weight would change nothing that is stored. Restore the dense table first "
            "with model.dequantize(), or add tokens with model.resize_token_embeddings()."
        )


class ReadsTable(nn.Module):
    """A module whose `.weight` stands for the dense (V, d) table of `owner`."""

    owner: "LightTokenEmbedding"

    @property
    def weight(self) -> LazyWeight:
        """Stands for the dense (V, d) table in code that reads `.weight`; decoded only as far as it is used."""
        return LazyWeight(self.owner)

    @weight.setter
    def weight(self, value: Any) -> None:
        LazyWeight(self.owner)._refuse_write("a replacement")

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As nn.Module.register_parameter, which assignments of parameters come to; `weight` is refused.

        Raises:
            TypeError: for the name "weight".
        """
        if name == "weight":
            LazyWeight(self.owner)._refuse_write("a replacement")
        else:
            super().register_parameter(name, param)


def _dense_of(value: Any) -> Any:
    if isinstance(value, LazyWeight):
        return value.dense()
    if isinstance(value, (list, tuple)):
        return type(value)(_dense_of(part) for part in value)
    return value


def _operator(name: str) -> Callable[..., Any]:
    method = getattr(Tensor, name)

    def apply(self: LazyWeight, *args: Any) -> Any:
        return method(self.dense(), *map(_dense_of, args))

    return apply


for _name in _OPERATORS:
    setattr(LazyWeight, _name, _operator(_name))
