"""The operations of a mixture of experts, in place of an MLP's (model/build_program.py)."""

from pagecli.core.model_config import ModelConfig
from pagecli.model.decoder import Experts
from pagecli.model.program import Combine, ExpertLinear, GatedActivation, Layout, Linear, Operation, Router, Weight


def mixture(part: Experts, config: ModelConfig, name: str, x: str) -> list[Operation]:
    """mlp_out = the experts that x's rows choose, weighted, and, where there is one that all go to, its shared_mlp_out."""
    experts, hidden = config.experts, config.hidden_size
    assert experts is not None
    router = Weight((f"{name}.{part.router}",), (experts.num,), hidden, exact=True)
    router_bias = Weight((f"{name}.{part.router_bias}",), (experts.num,)) if part.router_bias else None
    gate_up, down = _weights(part, config, name)
    biases = [_biases(weight, bias, name) for weight, bias in ((gate_up, part.up_bias), (down, part.down_bias))]
    operations: list[Operation] = [
        Linear("expert_logits", x, router, router_bias),
        Router("expert_ids", "expert_weights", "expert_logits", experts.chosen, experts.normalized),
        ExpertLinear("expert_gate_up", x, "expert_ids", gate_up, biases[0], experts.chosen),
        GatedActivation("expert_inner", "expert_gate_up", config.activation, experts.chosen, experts.limit, experts.alpha),
        ExpertLinear("expert_out", "expert_inner", "expert_ids", down, biases[1], experts.chosen),
    ]
    shared, gate = ("" if part.shared is None else "shared_mlp_out"), ""
    if part.shared_gate:
        gate = "shared_gate"
        operations.append(Linear(gate, x, Weight((f"{name}.{part.shared_gate}",), (1,), hidden, exact=True)))
    return [*operations, Combine("mlp_out", "expert_out", "expert_weights", experts.chosen, shared, gate)]


def _weights(part: Experts, config: ModelConfig, name: str) -> tuple[Weight, Weight]:
    """Of gate and up, and of what is added to the hidden states."""
    experts, hidden = config.experts, config.hidden_size
    assert experts is not None
    size, names = experts.size, tuple(f"{name}.{each}" for each in part.up)
    rows = (size,) * 2 if len(names) == 2 else (2 * size,)
    pairs = (2 * size, 2 * size) if part.interleaved else None
    layout = Layout(part.transposed, None, pairs, 2 * size if pairs else 0)
    down_layout = Layout(part.transposed)
    return (
        Weight(names, rows, hidden, "rows", layout=None if layout == Layout() else layout, experts=experts.num),
        Weight(
            (f"{name}.{part.down}",),
            (hidden,),
            size,
            "columns",
            layout=None if down_layout == Layout() else down_layout,
            experts=experts.num,
            scale=added_scale(config),
        ),
    )


def _biases(weight: Weight, bias: str, name: str) -> Weight | None:
    """Vectors in the order of the weight's rows, scaled as they are."""
    if not bias:
        return None
    layout = None if weight.layout is None else Layout(False, None, weight.layout.pairs, weight.layout.paired_rows)
    return Weight((f"{name}.{bias}",), (weight.num_rows,), layout=layout, experts=weight.experts, scale=weight.scale)


def added_scale(config: ModelConfig) -> float:
    """Factor of the weights behind which an addition to the hidden states comes, unless a norm there is scaled instead."""
    return config.residual_scale if config.order not in ("sandwich", "output") else 1.0
