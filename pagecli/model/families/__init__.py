"""The architectures pagecli computes: the descriptions in the rooms of this folder, and those registered from outside."""

import functools
import importlib
import pkgutil

from pagecli.model.decoder import Decoder

_registered: list[Decoder] = []


def register(decoder: Decoder) -> None:
    """Make an architecture known; one of the same name that was known before is replaced."""
    _registered.append(decoder)


def find(architecture: str) -> Decoder | None:
    """The description of an architecture by the name that config.json gives it, such as "LlamaForCausalLM"."""
    return next((decoder for decoder in _known() if architecture in (*decoder.architectures, *decoder.wrappers)), None)


def find_model_type(name: str) -> Decoder | None:
    """The description of an architecture by the `model_type` of config.json, such as "llama"."""
    return next((decoder for decoder in _known() if decoder.model_type == name), None)


def find_gguf(name: str, has_experts: bool = False) -> Decoder | None:
    """The description of an architecture by the name that GGUF files give it, such as "llama", with experts or without."""
    named = (decoder for decoder in _known() if decoder.gguf is not None and decoder.gguf.name == name)
    return next((decoder for decoder in named if (decoder.experts is not None) == has_experts), None)


def describe(architecture: str) -> Decoder:
    """`find` for an architecture that was read from a checkpoint, and so is known."""
    decoder = find(architecture)
    assert decoder is not None, architecture
    return decoder


def architectures() -> list[str]:
    return [name for decoder in _known() for name in (*decoder.architectures, *decoder.wrappers)]


def gguf_names() -> list[str]:
    return list(dict.fromkeys(decoder.gguf.name for decoder in _known() if decoder.gguf is not None))


def _known() -> list[Decoder]:
    return [*reversed(_registered), *_own()]


@functools.cache
def _own() -> tuple[Decoder, ...]:
    modules = [importlib.import_module(module.name) for module in pkgutil.walk_packages(__path__, f"{__name__}.")]
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, Decoder))
