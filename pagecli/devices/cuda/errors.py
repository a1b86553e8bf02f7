"""What can go wrong on a GPU, in pagecli's own words: torch and the kernels raise RuntimeErrors of many texts, here they become
three kinds. Each ends a run that cannot go on with one line and exit code 4; finished rows are in the journal."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pagecli.errors import ModelError, first_line

_DEVICE_WORDS = ("CUDA", "cuda", "cuBLAS", "CUBLAS", "NVRM", "device-side assert")
# What CUDA (CUDA Runtime API, "Error handling") and cuBLAS say of a call that they did not carry out. Every other error is one
# of work that ran, after which the process must end.
_REFUSALS = (
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "invalid resource handle",
    "no kernel image is available",
    "device kernel image is invalid",
    "unsupported toolchain",
    "too many resources requested for launch",
    "operation not permitted",
    "operation not supported",
    "captur",  # a stream's work is being recorded, or could not be
    "CUBLAS_STATUS_INVALID_VALUE",
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_ARCH_MISMATCH",
)
_MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class DeviceMemoryError(ModelError):
    """The GPU has no room for something. The device itself is well."""


class DeviceRefusedError(ModelError):
    """The GPU did not take a piece of work, such as a launch with sizes it has not. The device itself is well."""


class DeviceLostError(ModelError):
    """The GPU, or the process's connection to it, is gone: nothing on it can be used any more."""

    def again(self) -> "DeviceLostError":
        """The same, to be raised once more: without the traceback, which holds on to what was in use then."""
        return DeviceLostError(self.message, self.hint)


@contextmanager
def device_errors(doing: str) -> Iterator[None]:
    """Inside it, what torch and the kernels raise about the GPU is raised as one of these; `doing` completes "while ..."."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"out of GPU memory while {doing}: {first_line(error)}",
            "lower --max-batch-tokens, --max-num-seqs or --kv-memory, or close what else runs on the GPU",
        ) from error
    except RuntimeError as error:
        text = first_line(error)
        if any(words in text for words in _MEMORY_WORDS):  # of pinned memory, and from drivers that say no more
            raise DeviceMemoryError(f"out of memory while {doing}: {text}", "lower --kv-memory or --swap-memory") from error
        if isinstance(error, _accelerator_error()) or any(word in text for word in _DEVICE_WORDS):
            if any(words in text for words in _REFUSALS):
                raise DeviceRefusedError(
                    f"the GPU refused work while {doing}: {text}",
                    "a fault of pagecli or its build: use --device cpu",
                ) from error
            raise DeviceLostError(
                f"the GPU failed while {doing}: {text}", "the same command resumes with the finished rows; look at nvidia-smi"
            ) from error
        raise


class DeviceGuard:
    """device_errors for all calls to one device. Once it was lost every call says so at once: nobody waits for work that will
    never be done."""

    def __init__(self) -> None:
        self._lost: DeviceLostError | None = None

    @contextmanager
    def __call__(self, doing: str) -> Iterator[None]:
        if self._lost is not None:
            raise self._lost.again()
        try:
            with device_errors(doing):
                yield
        except DeviceLostError as error:
            self._lost = error.again()
            raise


def _accelerator_error() -> tuple[type[RuntimeError], ...]:
    """torch's own class for errors of a device, where it has one."""
    found = getattr(torch, "AcceleratorError", None)
    return (found,) if isinstance(found, type) else ()
