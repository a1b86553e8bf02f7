"""A program executed line by line in plain torch, float32 or float64: the logits of every device are compared with its own."""

import torch

from pagecli.core.arrays import Array
from pagecli.devices import step_masks
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.reference import adapters, experts, operations
from pagecli.devices.reference.tensors import as_tensor
from pagecli.devices.rotary_table import rotations_of, table_of
from pagecli.model import program as ops
from pagecli.model.program import Operation, Program, Weight
from pagecli.model.weights.reader import WeightReader

Values = dict[str, torch.Tensor]


class ReferenceModel:
    """A loaded model, its weights and activations of `dtype`. K and V of its cache lie as on a GPU."""

    def __init__(self, program: Program, reader: WeightReader, dtype: torch.dtype = torch.float32) -> None:
        self.program, self.config, self.dtype = program, program.config, dtype
        self.notes = tuple(reader.notes)
        self._weights = {weight: _read(reader, weight).to(dtype, copy=True) for weight in program.weights()}
        self._rotations = rotations_of(program)
        self._rotary = table_of(program, lambda weight: self._weights[weight].float().numpy())
        self.weight_bytes = sum(weight.nbytes for weight in self._weights.values())

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """logits[R, vocab], float32."""
        return self.logits(inputs, kv).float().numpy()

    def most_likely(
        self, inputs: StepInputs[Array], kv: KVCache[Array], pending: step_masks.PendingMasks | None = None
    ) -> Array:
        """token_ids[R], int64: the argmax of the logits among the allowed tokens."""
        return choose_most_likely(self.logits(inputs, kv), pending)

    @torch.inference_mode()
    def logits(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> torch.Tensor:
        """[R, vocab] of the model's type; `kv`: numpy's arrays or torch's tensors."""
        arrays = {name: getattr(inputs, name) for name in StepInputs.__slots__}
        step = StepInputs(**{name: as_tensor(array) for name, array in arrays.items() if array is not None})
        values: Values = {}
        for operation in self.program.operations():
            self._execute(operation, values, step, kv)
        return values["logits"]

    def _execute(self, operation: Operation, values: Values, step: StepInputs[torch.Tensor], kv: KVCache[Array]) -> None:
        match operation:
            case ops.Embedding(out, ids, weight, offset, scale):
                table = self._weights[weight]
                values[out] = self._empty(step.token_ids.shape[0], table.shape[1])
                operations.embedding(values[out], getattr(step, ids) + offset, table)
                values[out] *= scale
            case ops.Linear(out, x, weight, bias, activation, first):
                values[out] = self._empty(values[x].shape[0], weight.num_rows)
                columns = values[x][:, first : first + weight.columns]
                operations.linear(values[out], columns, self._weights[weight], self._vector(bias), activation)
            case ops.Reduce(out, parts):
                values[out] = torch.empty_like(values[parts[0]])
                operations.reduce(values[out], [values[part] for part in parts])
            case ops.LowRank(out, x, first, last, a, b, starts):
                matrices = torch.from_numpy(a).to(self.dtype), torch.from_numpy(b).to(self.dtype), torch.from_numpy(starts)
                adapters.low_rank(values[out][:, first:last], values[x], *matrices, step.adapter_ids)
            case ops.Norm():
                self._norm(operation, values)
            case ops.Split(q, k, v, x, heads, kv_heads, head_dim):
                parts = values[x].view(values[x].shape[0], heads + 2 * kv_heads, head_dim).split([heads, kv_heads, kv_heads], 1)
                values[q], values[k], values[v] = (part.clone() for part in parts)
            case ops.Rotary(q, k, rope, factors):
                assert self._rotary is not None
                first = self._rotations[rope, factors]
                cos_sin = torch.from_numpy(self._rotary.up_to(int(step.context_lens.max()))).to(self.dtype)
                operations.rotary_embedding(values[q], values[k], step.positions, cos_sin[:, first : first + rope.rotary_dim])
            case ops.Attention():
                self._attention(operation, values, step, kv)
            case ops.GatedActivation(out, x, activation, groups, limit, alpha):
                gate_up = values[x].unflatten(1, (groups, -1))
                inner = torch.empty(*gate_up.shape[:2], gate_up.shape[2] // 2, dtype=self.dtype)
                operations.gated_activation(inner, gate_up, activation, None, limit, alpha)
                values[out] = inner.flatten(1)
            case ops.Router(ids, weights, x, chosen, normalized):
                values[ids] = torch.empty(values[x].shape[0], chosen, dtype=torch.int32)
                values[weights] = self._empty(values[x].shape[0], chosen)
                experts.router(values[ids], values[weights], values[x], normalized)
            case ops.ExpertLinear():
                self._expert_linear(operation, values)
            case ops.Combine(out, x, weights, chosen, shared, gate):
                rows = values[x].unflatten(1, (chosen, -1))
                values[out] = self._empty(rows.shape[0], rows.shape[2])
                experts.combine_experts(values[out], rows, values[weights], values.get(shared), values.get(gate))
            case ops.Add(out, x):
                values[out] = values[out] + values[x]
            case ops.Select(out, x):
                values[out] = values[x][step.logit_rows]
            case ops.Head(x, weight, bias, cap):
                logits = values["logits"] = self._empty(values[x].shape[0], weight.num_rows)
                operations.linear(logits, values[x], self._weights[weight], self._vector(bias))
                if cap > 0:
                    logits.div_(cap).tanh_().mul_(cap)

    def _expert_linear(self, operation: ops.ExpertLinear, values: Values) -> None:
        x, weight = values[operation.x], self._weights[operation.weight]
        if x.shape[1] != weight.shape[2]:
            x = x.unflatten(1, (operation.chosen, -1))
        out = torch.empty(x.shape[0], operation.chosen, weight.shape[1], dtype=self.dtype)
        experts.grouped_linear(out, x, values[operation.ids], weight, self._vector(operation.bias))
        values[operation.out] = out.flatten(1)

    def _norm(self, norm: ops.Norm, values: Values) -> None:
        x = values[norm.x]
        if norm.weight is not None and norm.weight.num_rows != x.shape[-1]:  # of all heads together
            x = x.flatten(1)
        out, size = torch.empty_like(x), x.shape[-1]
        weight = torch.ones(size, dtype=self.dtype) if norm.weight is None else self._weights[norm.weight]
        if norm.kind == "rms":
            operations.rms_norm(out, x, weight, norm.eps)
        else:
            bias = torch.zeros(size, dtype=self.dtype) if norm.bias is None else self._weights[norm.bias]
            operations.layer_norm(out, x, weight, bias, norm.eps)
        values[norm.out] = out.view(values[norm.x].shape)

    def _attention(self, operation: ops.Attention, values: Values, step: StepInputs[torch.Tensor], kv: KVCache[Array]) -> None:
        q, k, v = values[operation.q], values[operation.k], values[operation.v]
        k_cache, v_cache = as_tensor(kv.keys[operation.layer]), as_tensor(kv.values[operation.layer])
        operations.store_kv(k_cache, v_cache, k, v, step.slot_ids)
        out = torch.empty_like(q)
        sequences = step.block_tables, step.context_lens, step.query_start
        slopes = torch.tensor(operation.slopes, dtype=self.dtype) if operation.slopes else None
        changes = operation.cap, slopes, self._vector(operation.sinks)
        operations.paged_attention(out, q, k_cache, v_cache, *sequences, operation.scale, operation.window, 1.0, 1.0, *changes)
        values[operation.out] = out.flatten(1)

    def _empty(self, num_rows: int, width: int) -> torch.Tensor:
        return torch.empty(num_rows, width, dtype=self.dtype)

    def _vector(self, weight: Weight | None) -> torch.Tensor | None:
        return None if weight is None else self._weights[weight]


def _read(reader: WeightReader, weight: Weight) -> torch.Tensor:
    """The weight; of experts, all of theirs as [experts, ...]."""
    if weight.experts:
        return torch.stack([as_tensor(expert).clone() for expert in reader.experts(weight)])
    return as_tensor(reader.read(weight))


def choose_most_likely(logits: torch.Tensor, pending: step_masks.PendingMasks | None) -> Array:
    """token_ids[R], int64: the argmax of logits[R, vocab] among the allowed tokens; the others' logits are overwritten."""
    if (masks := step_masks.wait(pending)) is not None:
        operations.restrict_logits(logits, masks.words, masks.mask_of)
    token_ids = torch.empty(logits.shape[0], dtype=torch.int64)
    operations.argmax(token_ids, logits)
    return token_ids.numpy()
