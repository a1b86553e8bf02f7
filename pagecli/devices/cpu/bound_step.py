"""What operations read and write that are bound to their weights outside of model.py: those of few models."""

from collections.abc import Callable, Mapping
from typing import Protocol

from pagecli.core.arrays import Array
from pagecli.devices.base import StepInputs
from pagecli.devices.cpu.kernels import LayerProgram


class BoundStep(Protocol):
    """A step's values by name, its arrays, and the program that operations are recorded in, if they are not run."""

    @property
    def values(self) -> Mapping[str, Array]: ...

    @property
    def inputs(self) -> StepInputs[Array]: ...

    @property
    def program(self) -> LayerProgram | None: ...


Bound = Callable[[BoundStep], None]
