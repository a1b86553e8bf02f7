"""How a model's hidden states become one embedding of a text: by the model's own sentence-transformers configuration.

    modules.json                          Transformer, Pooling, perhaps Normalize, in this order
    1_Pooling/config.json                 which token's states, or the mean of all
    config_sentence_transformers.json     texts that go in front of queries and documents (`prompts`)

Format: sbert.net, "Creating Custom Models". What changes an embedding and is not known is refused.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pagecli.core.json_text import parsed
from pagecli.errors import ModelError, UsageError, reason_of

Mode = Literal["last", "mean"]
_MODES: dict[str, Mode] = {"lasttoken": "last", "mean": "mean", "mean_tokens": "mean"}
_PREFIX = "pooling_mode_"
_HINT = "last token and mean of all tokens are supported: --pooling last or mean says it anew"


@dataclass(frozen=True, slots=True)
class Pooling:
    """`prompts`: name -> text in front of a text that is embedded for that purpose."""

    mode: Mode
    normalize: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def prefix(self, name: str | None) -> str:
        """The text of the prompt of that name; None: the model's default. Raises UsageError."""
        if name is None:
            return "" if self.default_prompt is None else self.prompts.get(self.default_prompt, "")
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise UsageError(f"--prompt-name is {name!r}, which the model does not have", f"it has {known}")
        return self.prompts[name]


def read_pooling(folder: Path | None, mode: Mode | None = None, normalize: bool | None = None) -> Pooling:
    """Of a model's directory; `mode` and `normalize` win over what it says. Raises ModelError in one line."""
    modules = None if folder is None else _json(folder / "modules.json")
    if folder is None or modules is None:
        if mode is None:
            where = "the model" if folder is None else str(folder)
            raise ModelError(f"{where} has no modules.json that says how embeddings are made", "give --pooling last or mean")
        return Pooling(mode, True if normalize is None else normalize)
    kinds = {_kind(module): module for module in modules} if isinstance(modules, list) else {}
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or "Transformer" not in kinds or (mode is None and "Pooling" not in kinds):
        what = f"module {unknown[0]}" if unknown else "no pooling"
        raise ModelError(f"{folder / 'modules.json'}: {what}, which is not supported", _HINT)
    if mode is None:
        mode = _mode(folder / str(kinds["Pooling"].get("path", "1_Pooling")) / "config.json")
    more = _json(folder / "config_sentence_transformers.json") or {}
    prompts = {name: text for name, text in (more.get("prompts") or {}).items() if isinstance(text, str)}
    return Pooling(mode, "Normalize" in kinds if normalize is None else normalize, prompts, more.get("default_prompt_name"))


def _kind(module: Any) -> str:
    return str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else "?"


def _mode(path: Path) -> Mode:
    config = _json(path)
    if not isinstance(config, dict):
        raise ModelError(f"{path}: there is none, or no JSON object", _HINT)
    named = config.get("pooling_mode")
    names = [named] if isinstance(named, str) else list(named or ())
    names = names or [
        name.removeprefix(_PREFIX) for name, value in config.items() if name.startswith(_PREFIX) and value is True
    ]
    if len(names) != 1 or names[0] not in _MODES:
        raise ModelError(f"{path}: pooling {' and '.join(map(str, names)) or 'of no kind'} is not supported", _HINT)
    if config.get("include_prompt") is False and _MODES[names[0]] == "mean":
        raise ModelError(
            f"{path}: include_prompt is false, which is not supported", "give --pooling mean to count the prompt too"
        )
    return _MODES[names[0]]


def _json(path: Path) -> Any:
    """What the file says; None if there is none. Raises ModelError."""
    try:
        return parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {reason_of(error)}", "download it again") from error
