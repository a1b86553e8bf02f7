"""The architectures pagecli computes: the descriptions in the rooms of this folder, and those registered from outside.

A description is looked up by a name, and of the files here only those are imported whose text has the name in quotes.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from pagecli.model.decoder import Decoder

_registered: list[Decoder] = []


def register(decoder: Decoder) -> None:
    """Make an architecture known; one of the same name that was known before is replaced."""
    _registered.append(decoder)


def find(architecture: str) -> Decoder | None:
    """The description of an architecture by the name that config.json gives it, such as "LlamaForCausalLM"."""
    return next(
        (decoder for decoder in _naming(architecture) if architecture in (*decoder.architectures, *decoder.wrappers)), None
    )


def find_model_type(name: str) -> Decoder | None:
    """The description of an architecture by the `model_type` of config.json, such as "llama"."""
    return next((decoder for decoder in _naming(name) if decoder.model_type == name), None)


def find_gguf(name: str, has_experts: bool = False) -> Decoder | None:
    """The description of an architecture by the name that GGUF files give it, such as "llama", with experts or without."""
    named = (decoder for decoder in _naming(name) if decoder.gguf is not None and decoder.gguf.name == name)
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


def _naming(name: str) -> Iterator[Decoder]:
    """The descriptions that may have this name."""
    yield from reversed(_registered)
    for module, text in _files():
        if text is None or f'"{name}"' in text:
            yield from _decoders(module)


def _known() -> list[Decoder]:
    return [*reversed(_registered), *(decoder for module, _ in _files() for decoder in _decoders(module))]


@functools.cache
def _files() -> tuple[tuple[str, str | None], ...]:
    """(name, source) of the modules in the rooms here; None where only compiled ones are installed."""
    found: Any = pkgutil.walk_packages(__path__, f"{__name__}.")
    return tuple((each.name, _source(each)) for each in found if not each.ispkg)


def _source(module: Any) -> str | None:
    source: str | None = module.module_finder.find_spec(module.name).loader.get_source(module.name)
    return source


@functools.cache
def _decoders(module: str) -> tuple[Decoder, ...]:
    return tuple(value for value in vars(importlib.import_module(module)).values() if isinstance(value, Decoder))
