"""A model as a program: operations over named values, in order, which any device executes.

Values are matrices of float numbers with a row for each token of a step ("hidden", "normed", ...), the arrays of the step
("token_ids", "positions", ...) and the KV cache, which `Attention` writes and reads. An operation overwrites its `out`, which
may be its input. devices/reference defines every operation.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Literal

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig, RopeConfig
from pagecli.model.decoder import NormKind


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight lies in a transformers checkpoint.

    transposed: [columns, rows], as GPT-2's Conv1D. heads: (KV heads, parts of each, head size) of rows that lie KV head by KV
    head, its queries, its key, its value, which become all queries, all keys, all values. pairs: (head size, rotated rows of a
    head) where rows of a rotated pair lie side by side, which become half of the rotated rows apart, in the first
    `paired_rows` rows.
    """

    transposed: bool = False
    heads: tuple[int, int, int] | None = None
    pairs: tuple[int, int] | None = None
    paired_rows: int = 0


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight that an operation reads: tensors of the checkpoint, by transformers' names, joined row by row."""

    names: tuple[str, ...]
    rows: tuple[int, ...]  # of each tensor
    columns: int = 0  # 0: vectors
    split: Literal["rows", "columns"] | None = None  # the axis along which tensor-parallel ranks share it; None: each has all
    # Of parts of tensors (model/shards.py): where in each tensor they begin, and its size; empty and 0: whole tensors.
    first_rows: tuple[int, ...] = ()
    whole_rows: tuple[int, ...] = ()
    first_column: int = 0
    whole_columns: int = 0
    layout: Layout | None = None  # how it lies in the checkpoint, where not so
    experts: int = 0  # so many matrices or vectors; "{}" in a name is one's number, without it the tensor holds all
    exact: bool = False  # float32, whatever the other weights are
    scale: float = 1.0  # folded in at load: what is read, times this
    offset: float = 0.0  # and this added, before

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of what is read of each tensor: (rows, columns), or (rows,) of vectors."""
        return tuple((rows, self.columns) if self.columns else (rows,) for rows in self.rows)

    @property
    def is_stored_so(self) -> bool:
        """Whether the checkpoint holds the numbers as the operation reads them."""
        return self.layout is None and self.scale == 1.0 and self.offset == 0.0

    @property
    def is_part(self) -> bool:
        """Whether it is some rows or columns of its tensors."""
        return bool(self.whole_rows or self.whole_columns)

    @property
    def whole(self) -> "Weight":
        """The weight of the tensors that this one has parts of, each once."""
        rows = dict(zip(self.names, self.whole_rows or self.rows, strict=True))
        names, columns = tuple(rows), self.whole_columns or self.columns
        sizes = tuple(rows.values())
        return replace(
            self, names=names, rows=sizes, columns=columns, first_rows=(), whole_rows=(), first_column=0, whole_columns=0
        )

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    def __str__(self) -> str:
        sizes = (*((self.experts,) if self.experts else ()), self.num_rows, *((self.columns,) if self.columns else ()))
        return f"{' + '.join(self.names)} [{', '.join(map(str, sizes))}]"

    @property
    def num_elements(self) -> int:
        """Numbers in the weight, of all its experts."""
        return max(1, self.experts) * sum(math.prod(shape) for shape in self.shapes)

    def tensor_names(self) -> Iterator[str]:
        """Every name that a checkpoint may have for a part of it."""
        for name in self.names:
            if "{}" in name:
                yield from (name.format(expert) for expert in range(self.experts))
            yield stacked_name(name)


def stacked_name(name: str) -> str:
    """Name of the tensor that holds all experts' matrices or vectors."""
    return name.replace(".{}", "")


@dataclass(frozen=True, slots=True)
class Embedding:
    """out[T, K] = weight[ids[T] + offset] * scale; ids: "token_ids" or "positions"."""

    out: str
    ids: str
    weight: Weight
    offset: int = 0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Linear:
    """out[T, N] = activation(x[T, first_column : first_column + K] @ weight[N, K].T + bias[N])"""

    out: str
    x: str
    weight: Weight
    bias: Weight | None = None
    activation: str = "none"
    first_column: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """out[T, first : last] += x[T, first_column : first_column + K] @ a.T @ b of each token's adapter: its ranks
    starts[i] : starts[i + 1] of a[R, K] and b[R, last - first], float32 (model/adapters/adapted_program.py)."""

    out: str
    x: str
    first: int
    last: int
    a: Array
    b: Array
    starts: Array
    first_column: int = 0


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS or layer norm of every row or, of a value with heads, of every head, unless the weight is of all heads; without a
    weight: 1, and no bias. A weightless norm is of hidden_size."""

    out: str
    x: str
    kind: NormKind
    eps: float
    weight: Weight | None
    bias: Weight | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """q[T, heads, dim], k and v[T, kv_heads, dim] = x[T, (heads + 2 kv_heads) dim], as views."""

    q: str
    k: str
    v: str
    x: str
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotates q and k in place by their tokens' positions (Su et al., 2021)."""

    q: str
    k: str
    rope: RopeConfig
    factors: Weight | None = None  # [rotary_dim / 2], divisors of the frequencies (RopeConfig: "frequency_factors")


@dataclass(frozen=True, slots=True)
class Attention:
    """Stores k and v in the cache of `layer`, then out[T, heads * dim] = causal attention of q over each sequence's context."""

    out: str
    q: str
    k: str
    v: str
    layer: int
    scale: float
    window: int = 0  # tokens seen, the token itself included; 0: all
    cap: float = 0.0  # scores become cap * tanh(score / cap); 0: they stay
    slopes: tuple[float, ...] = ()  # of each head: what its scores fall by for every token of distance (ALiBi)
    sinks: Weight | None = None  # [heads]: a score more in the softmax, of no value


@dataclass(frozen=True, slots=True)
class GatedActivation:
    """out[T, I] = activation(x[T, :I]) * x[T, I:], in each of `groups` parts of a row that lie side by side.

    limit > 0: gate * sigmoid(alpha * gate) * (up + 1) of gates up to the limit and ups within it on both sides.
    """

    out: str
    x: str
    activation: str
    groups: int = 1
    limit: float = 0.0
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Router:
    """ids[T, chosen] = the experts of the largest of x[T, experts], of equal ones the first (int32, as bits of floats);
    weights[T, chosen] = their softmax, divided by its sum if normalized."""

    ids: str
    weights: str
    x: str
    chosen: int
    normalized: bool


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """out[T, chosen, N] = x[T, K], or x[T, chosen, K], @ weight[ids[T, chosen], N, K].T + bias[ids[T, chosen], N]"""

    out: str
    x: str
    ids: str
    weight: Weight
    bias: Weight | None = None
    chosen: int = 1
    first_column: int = 0  # of x, as in Linear


@dataclass(frozen=True, slots=True)
class Combine:
    """out[T, N] = weights[T, 0] * x[T, 0, N] + weights[T, 1] * x[T, 1, N] + ..., and last sigmoid(gate[T, 1]) * shared[T, N]"""

    out: str
    x: str
    weights: str
    chosen: int
    shared: str = ""
    gate: str = ""


@dataclass(frozen=True, slots=True)
class Add:
    """out += x; nothing reads x afterwards."""

    out: str
    x: str


@dataclass(frozen=True, slots=True)
class Reduce:
    """out = ((parts[0] + parts[1]) + parts[2]) + ...: partial products, some of them other ranks' (model/shards.py)."""

    out: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Select:
    """out[R] = the rows of x whose next tokens are wanted."""

    out: str
    x: str


@dataclass(frozen=True, slots=True)
class Head:
    """logits[R, vocab] = cap * tanh((x[R, K] @ weight[vocab, K].T + bias) / cap), float32; without a cap (0) the sums"""

    x: str
    weight: Weight
    bias: Weight | None = None
    cap: float = 0.0


Mixture = Router | ExpertLinear | Combine
Operation = (
    Embedding | Linear | LowRank | Norm | Split | Rotary | Attention | GatedActivation | Mixture | Add | Reduce | Select | Head
)


@dataclass(frozen=True, slots=True)
class Program:
    """One model's operations: before the layers, those of every layer, and behind the last."""

    config: ModelConfig
    embed: tuple[Operation, ...]
    layers: tuple[tuple[Operation, ...], ...]
    head: tuple[Operation, ...]

    def operations(self) -> Iterator[Operation]:
        yield from self.embed
        for layer in self.layers:
            yield from layer
        yield from self.head

    def weights(self) -> list[Weight]:
        """Every weight once, in the order of its first use."""
        return list(dict.fromkeys(weight for operation in self.operations() for weight in weights_of(operation)))

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights; tied embeddings count once, tables of rotary factors not at all."""
        learned = dict.fromkeys(w for op in self.operations() if not isinstance(op, Rotary) for w in weights_of(op))
        return sum(weight.num_elements for weight in learned)

    @property
    def num_expert_parameters(self) -> int:
        """Those of `num_parameters` of which a token is multiplied by some experts' alone."""
        found = {w for op in self.operations() if isinstance(op, ExpertLinear) for w in weights_of(op)}
        return sum(weight.num_elements for weight in found)

    @property
    def head_operation(self) -> Head:
        return next(operation for operation in self.head if isinstance(operation, Head))

    @property
    def head_weight(self) -> Weight:
        return self.head_operation.weight

    def __str__(self) -> str:
        """One line for each operation; of layers that differ in nothing but their number, the first."""
        return "\n".join(_lines(self))


def weights_of(operation: Operation) -> list[Weight]:
    """The weights that an operation reads, a LoRA adapter's matrices aside."""
    found = (getattr(operation, name, None) for name in ("weight", "bias", "factors", "sinks"))
    return [weight for weight in found if isinstance(weight, Weight)]


def widths(operations: Iterable[Operation]) -> dict[str, int]:
    """Columns of every value that the operations write, "q", "k" and "v" (views) and "logits" aside."""
    found: dict[str, int] = {}
    attention = 0
    for operation in operations:
        match operation:
            case Embedding():
                width = operation.weight.columns
            case Linear():
                width = operation.weight.num_rows
            case Norm() | Select():
                width = found.get(operation.x, 0)  # 0: of views
            case GatedActivation():
                width = found[operation.x] // 2
            case Router():
                found[operation.ids] = found[operation.weights] = operation.chosen
                continue
            case ExpertLinear():
                width = operation.chosen * operation.weight.num_rows
            case Combine():
                width = found[operation.x] // operation.chosen
            case Reduce():
                width = max(found.get(part, 0) for part in operation.parts)
            case Split():
                attention = operation.heads * operation.head_dim
                continue
            case Attention():
                width = attention
            case _:
                continue
        if width:
            found[operation.out] = max(width, found.get(operation.out, 0))
    return found


def _lines(program: Program) -> Iterator[str]:
    yield from map(_line, program.embed)
    described = [
        tuple(_without_number(_line(operation), number) for operation in layer) for number, layer in enumerate(program.layers)
    ]
    first = 0
    for lines, alike in groupby(described):
        last = first + len(list(alike)) - 1
        yield f"layer {first}:" if first == last else f"layers N = {first} to {last}:"
        yield from (f"    {line}" for line in lines)
        first = last + 1
    yield from map(_line, program.head)


def _without_number(line: str, layer: int) -> str:
    return line.replace(f".{layer}.", ".N.").replace(f"layer={layer}", "layer=N")


def _line(operation: Operation) -> str:
    """out = Operation(what it reads and how) weights"""
    weights = weights_of(operation)
    values = [(field, getattr(operation, field.name)) for field in fields(operation)]
    settings = {field.name: value for field, value in values if value not in (*weights, field.default)}
    out = settings.pop("out", None)
    given = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{f'{out} = ' if out else ''}{type(operation).__name__}({given}){''.join(f' {weight}' for weight in weights)}"
