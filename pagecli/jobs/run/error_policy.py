"""When error rows end a job: at the first (--on-error stop), or when they are too large a share (--max-error-rate)."""

from dataclasses import dataclass
from typing import Literal

LEAST_ROWS = 100  # before so many rows are there, their share of errors is taken of this number


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """`max_error_rate` in [0, 1]; None: any number of error rows is borne."""

    on_error: Literal["row", "stop"] = "row"
    max_error_rate: float | None = None

    def reason_to_stop(self, num_rows: int, num_error_rows: int) -> str | None:
        """Why a job with these numbers of output rows and error rows is to end now; None: it continues.

        A rate of 0.05 ends it at the 6th error among the first 100 rows, then when more than 5 % of the rows are errors.
        """
        if num_error_rows and self.on_error == "stop":
            return "a row failed, and --on-error is stop"
        if self.max_error_rate is None or num_error_rows <= self.max_error_rate * max(num_rows, LEAST_ROWS):
            return None
        return f"{num_error_rows:,} of {num_rows:,} rows failed, more than --max-error-rate {self.max_error_rate:g} allows"
