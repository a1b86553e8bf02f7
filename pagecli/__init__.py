"""pagecli: offline batch text generation with a paged KV cache, and profiling of that cache.

As a library: `pagecli.generate(rows, model)`, `pagecli.LLM(model)`, `pagecli.profile_plan(model)`; importing loads none of it.
"""

TYPE_CHECKING = False  # importing typing would take longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    from pagecli.api.llm import LLM, generate
    from pagecli.api.plan import profile_plan
    from pagecli.errors import InputError, ModelError, PagecliError, UsageError

__version__ = "0.1.0"
__all__ = ["LLM", "InputError", "ModelError", "PagecliError", "UsageError", "__version__", "generate", "profile_plan"]
_HOMES = {"LLM": "api.llm", "generate": "api.llm", "profile_plan": "api.plan"}
_HOMES |= dict.fromkeys(("PagecliError", "UsageError", "InputError", "ModelError"), "errors")


def __getattr__(name: str) -> "Any":
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pagecli.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pagecli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
