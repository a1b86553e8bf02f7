"""What a CUDA graph is, on the CPU: the operations that torch and the kernels were asked for while recording, with the very
tensors they were asked for, done again at each replay. The Python code around them is not run again, and recording does
nothing: no kernel runs, new tensors hold NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model import attention

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], torch.Tensor | None]  # the last: where its result belongs

_FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "is_nonzero")  # they wait for the device
_PLANNING = ("choose_run_length", "cut_into_runs", "cut_into_tiles", "current_device", "num_devices", "most_expert_tiles")


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _FORBIDDEN:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({name})")
        if func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        if func.is_view:
            return func(*args, **kwargs)
        if name.startswith(("empty", "new_empty")):
            return _poison(func(*args, **kwargs))
        if func._schema.is_mutable:
            self._calls.append((func, args, kwargs, None))
            return args[0]
        result = self._shaped_like_result(func, args, kwargs)
        self._calls.append((func, args, kwargs, result))
        return result

    def _shaped_like_result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        def meta(value: Any) -> Any:
            return (
                torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
                if isinstance(value, torch.Tensor)
                else value
            )

        kwargs = {key: torch.device("meta") if key == "device" and value else meta(value) for key, value in kwargs.items()}
        shape = func(*(meta(a) for a in args), **kwargs)
        return _poison(torch.empty_strided(shape.shape, shape.stride(), dtype=shape.dtype))


def _poison(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.fill_(float("nan") if tensor.dtype.is_floating_point else 113)


class _RecordingExtension:
    """The kernels' module, whose kernels are written down instead of being run."""

    def __init__(self, module: ModuleType, calls: list[Call]) -> None:
        self._module, self._calls = module, calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if name in _PLANNING:
            return function
        return lambda *args: self._calls.append((function, args, {}, None))


class RecordedGraph:
    def __init__(self, work: Callable[[], object]) -> None:
        self.calls: list[Call] = []
        with _recording_extension(self.calls), torch.inference_mode(), _Recorder(self.calls):
            work()

    def replay(self) -> None:
        for function, args, kwargs, result in self.calls:
            returned = function(*args, **kwargs)
            if result is not None:
                result.copy_(returned)


@contextmanager
def _recording_extension(calls: list[Call]) -> Iterator[None]:
    original = kernels.extension
    recording = _RecordingExtension(original(), calls)
    try:
        kernels.extension = attention.extension = lambda: recording
        yield
    finally:
        kernels.extension = attention.extension = original
