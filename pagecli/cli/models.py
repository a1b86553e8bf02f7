"""`pagecli models`: the named models as a list, and one model's operations."""

import json
import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pagecli.cli.flags import completion
from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.terminal.console import Console, exit_code_of, name_value_lines, terminal_width
from pagecli.errors import UsageError

if TYPE_CHECKING:
    from pagecli.core.model_config import ModelConfig
    from pagecli.model.presets import Preset
    from pagecli.model.source import ModelSource
    from pagecli.model.stored_tensors import StoredTensors

SHOW = "show"
GIB = 2**30
EPILOG = "Exit codes: 0 done; 2 no named model is called so; 4 the model cannot be read."
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATTERN] | show NAME",
        help="Part of a name, or * and ? in it; or one model, as for --model.",
        autocompletion=completion.shown_models,
    ),
]


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A named model as it is listed. `bytes`: of the weights, by dtype; `devices`: those that compute it."""

    name: str
    hub_id: str | None  # None: its weights are not public
    architecture: str
    parameters: int
    context: int  # tokens
    kind: str  # chat or base
    bytes: dict[str, int]
    cached: bool  # on this machine: nothing is downloaded
    devices: list[str]


def models(words: Words = None, as_json: flags.Json = False) -> int:
    """List the named models; with show NAME print a model's operations.

    The weights of a named model come from the Hugging Face hub when a job first
    needs them. --model also takes any hub id, directory or .gguf file, and so
    does show.
    """
    console = Console()

    def run() -> int:
        given = words or []
        if given[:1] == [SHOW]:
            if len(given) != 2:
                raise UsageError("show takes one model", "pagecli models show smollm2-135m")
            _show(given[1], as_json)
            return 0
        if len(given) > 1:
            raise UsageError("models takes one pattern", "quote it, as in pagecli models 'qwen*'")
        found = named_models(given[0] if given else "")
        if as_json:
            print(json.dumps([_as_json(model) for model in found], indent=2))
        else:
            lines, without = table_lines(found, terminal_width(sys.stdout))
            print("\n".join(lines))
            if without:
                console.note(f"for want of room without {', '.join(without)}: a wider terminal or --json has them")
        return 0

    return exit_code_of(run, console)


def named_models(pattern: str) -> list[NamedModel]:
    """Those whose name or hub id has `pattern` in it, or matches it; case does not matter. Raises UsageError if none does."""
    from pagecli.model.presets import find_preset, preset_names

    presets = [preset for preset in map(find_preset, preset_names()) if preset is not None]
    found = [preset for preset in presets if _matches(preset, pattern.lower())]
    if not found:
        near = get_close_matches(pattern.lower(), preset_names(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "pagecli models lists all; --model takes other models too"
        raise UsageError(f"no named model is called {pattern!r}", hint)
    return [_described(preset) for preset in found]


def _matches(preset: "Preset", pattern: str) -> bool:
    names = [preset.name, (preset.hub_id or "").lower()]
    if any(char in pattern for char in "*?["):
        return any(fnmatchcase(name, pattern) for name in names)
    return any(pattern in name for name in names)


def _described(preset: "Preset") -> NamedModel:
    from pagecli.core.dtypes import WEIGHT_BYTES
    from pagecli.devices.limits import devices_for
    from pagecli.model.build_program import build
    from pagecli.model.readers.hf_config import from_hf_config
    from pagecli.model.registry import is_on_this_machine

    config = from_hf_config(preset.config, preset.name)
    parameters = build(config).num_parameters
    return NamedModel(
        name=preset.name,
        hub_id=preset.hub_id,
        architecture=config.architecture,
        parameters=parameters,
        context=config.max_positions,
        kind="chat" if preset.is_chat else "base",
        bytes={dtype: int(parameters * each) for dtype, each in WEIGHT_BYTES.items()},
        cached=is_on_this_machine(preset),
        devices=devices_for(config),
    )


def _as_json(model: NamedModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in NamedModel.__slots__}


# What a narrow terminal leaves out, in this order; --json has everything.
LEFT_OUT = ("GiB fp8", "GiB float32", "GiB int8", "devices", "cached", "kind")


def table_lines(found: list[NamedModel], width: int | None) -> tuple[list[str], list[str]]:
    """A line a model, with the columns that a terminal of `width` has room for; and the names of the others."""
    rows = [_cells(model) for model in found]
    left_out = list(LEFT_OUT)
    while True:
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(rows[0]))]
        if width is None or sum(widths) + 2 * (len(widths) - 1) <= width or not left_out:
            lines = ["  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in table]
            return lines, list(LEFT_OUT[: len(LEFT_OUT) - len(left_out)])
        column = left_out.pop(0)
        rows = [{name: cell for name, cell in row.items() if name != column} for row in rows]


def _cells(model: NamedModel) -> dict[str, str]:
    """Heading -> text; weights in GiB."""
    sizes = {f"GiB {dtype}": f"{model.bytes[dtype] / GIB:,.1f}" for dtype in ("float32", "bfloat16", "int8", "fp8")}
    devices = ", ".join(model.devices)
    return {
        "name": model.name,
        "parameters": _short(model.parameters),
        "context": f"{model.context:,}",
        "kind": model.kind,
        **sizes,
        "cached": "yes" if model.cached else "no",
        "devices": devices,
    }


def _short(number: int) -> str:
    return f"{number / 1e9:,.1f} B" if number >= 1e9 else f"{number / 1e6:,.0f} M"


def _show(name: str, as_json: bool) -> None:
    """Prints the model's sizes and its program. Raises ModelError."""
    from pagecli.devices.limits import devices_for
    from pagecli.model.build_program import build
    from pagecli.model.registry import resolve_model
    from pagecli.model.stored_tensors import stored_tensors

    found, stored = resolve_model(name, "dummy"), stored_tensors(name)
    program = build(found.config)
    about = _about(found.config, program.num_parameters, devices_for(found.config)) | _about_quantized(found)
    about |= _about_file(stored)
    if as_json:
        print(json.dumps({"name": found.name, **about, "operations": str(program).splitlines()}, indent=2))
        return
    pairs = [("name", found.name)]
    for key, value in about.items():
        shown = ", ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)
        pairs.append((key.replace("_", " "), shown))
    print("\n".join(name_value_lines(pairs, sys.stdout)))
    print(f"\n{program}")


def _about_file(stored: "StoredTensors | None") -> dict[str, Any]:
    """The size of the files, and whether sizes are theirs or computed."""
    if stored is None:
        return {"sizes": "computed from the config"}
    return {"sizes": f"exact, from {stored.source}", "stored_bytes": stored.num_bytes, "stored_as": list(stored.dtypes)}


def _about_quantized(source: "ModelSource") -> dict[str, Any]:
    """Of a quantized checkpoint the format, and the weights' size on a CPU that keeps it, the rest as bfloat16."""
    from pagecli.devices.memory import weight_bytes_of

    found, about = source.config.quantization, dict[str, Any]()
    if found is not None:
        about["quantized"] = f"{found.method}, {found.bits} bits"
    if source.quantized is not None:
        about["kept_bytes"] = weight_bytes_of(replace(source, keep_quantized=True), 2)
    return about


def _about_experts(config: "ModelConfig") -> dict[str, Any]:
    if config.experts is None:
        return {}
    from pagecli.model.build_program import build

    program, experts = build(config), config.experts
    active = program.num_parameters - program.num_expert_parameters * (experts.num - experts.chosen) // experts.num
    return {"parameters_of_a_token": active, "experts": experts.num, "experts_of_a_token": experts.chosen}


def _about(config: "ModelConfig", num_parameters: int, devices: list[str]) -> dict[str, Any]:
    return {
        "architecture": config.architecture,
        "parameters": num_parameters,
        **_about_experts(config),
        "context": config.max_positions,
        "vocabulary": config.vocab_size,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_size": config.head_dim,
        "devices": devices,
    }
