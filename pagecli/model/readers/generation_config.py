"""What a model's generation_config.json says of sampling: the defaults of its rows, where flags and columns say nothing.

As transformers reads the file: temperature counts where do_sample is true, and is 1 where the file then names none; top_k,
top_p and min_p limit a sampling that a flag asks for too. Lengths and beams are the job's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagecli.errors import ModelError, short_repr
from pagecli.model.readers.config_fields import MAX_NUMBER

SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")
_INTEGERS = ("top_k", "no_repeat_ngram_size")
# Keys that change text and that nothing computes here, with the values that change none.
_NOT_COMPUTED: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "constraints": (),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_tokens": (),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}
READ_KEYS = frozenset((*SAMPLING_KEYS, "do_sample", *_NOT_COMPUTED))


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """`params`: (name, value) of sampling parameters; `not_computed`: keys of the file that are left out."""

    params: tuple[tuple[str, float], ...] = ()
    not_computed: tuple[str, ...] = ()


def read_generation_config(config: Mapping[str, Any], where: str) -> GenerationDefaults:
    """The defaults of a generation_config.json already parsed. Raises ModelError, `where` in front, for what is no number."""
    params = {name: _number(config[name], name, where) for name in SAMPLING_KEYS if config.get(name) is not None}
    if config.get("do_sample") is True:
        params.setdefault("temperature", 1.0)
    else:
        params.pop("temperature", None)
    not_computed = tuple(name for name, neutral in _NOT_COMPUTED.items() if config.get(name) not in (None, [], {}, *neutral))
    return GenerationDefaults(tuple(sorted(params.items())), not_computed)


def _number(value: Any, name: str, where: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    if not good or (name in _INTEGERS and value != int(value)):
        raise ModelError(
            f"{where}: {name} is {short_repr(value)}, not a number that samples", "--generation-config none leaves it out"
        )
    return int(value) if name in _INTEGERS else float(value)
