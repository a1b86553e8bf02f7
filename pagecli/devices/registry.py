"""The devices by name. A device's modules are imported when it is looked up: those of GPUs take seconds."""

import importlib
from collections.abc import Callable

from pagecli.devices.base import Device, Model
from pagecli.errors import ModelError, UsageError
from pagecli.model.source import ModelSource

_OWN = {
    "cpu": ("pagecli.devices.cpu.device", "CpuDevice"),
    "cuda": ("pagecli.devices.cuda.device", "CudaDevice"),
    "transformers": ("pagecli.devices.transformers_modules.device", "TransformersDevice"),
    "reference": ("pagecli.devices.reference.device", "ReferenceDevice"),
}
_made: dict[str, Device] = {}
_registered: dict[str, Callable[[], Device]] = {}


def register(name: str, make: Callable[[], Device]) -> None:
    """Register a device, in place of one of that name."""
    _registered[name] = make
    _made.pop(name, None)


def find(name: str) -> Device:
    """The device of that name, which this machine need not have. Raises UsageError for an unknown one."""
    if name not in _made:
        if name in _registered:
            _made[name] = _registered[name]()
        elif name in _OWN:
            module, kind = _OWN[name]
            _made[name] = getattr(importlib.import_module(module), kind)()
        else:
            raise UsageError(f"device {name!r} is unknown", f"use auto, {', '.join(_OWN)}")
    return _made[name]


def choose(name: str) -> Device:
    """The device to compute on; "auto": the GPU where one can be used. Raises ModelError where that is not there."""
    if name == "auto":
        from pagecli.devices.cuda.presence import may_have_gpu

        name = "cuda" if may_have_gpu() and _is_available(find("cuda")) else "cpu"
    device = find(name)
    device.check_available()
    return device


def load_model(source: ModelSource, dtype: str, max_batch_tokens: int, device: str = "cpu") -> Model:
    """Device.load of the device of that name."""
    return find(device).load(source, dtype, max_batch_tokens)


def _is_available(device: Device) -> bool:
    try:
        device.check_available()
    except ModelError:
        return False
    return True
