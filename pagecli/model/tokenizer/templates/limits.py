"""Limits of a chat template: run time, and sizes of the values it builds. Usual templates stay far below."""

MAX_STEPS = 1_000_000  # loop passes and calls; a message of a usual template takes under 50
MAX_SECONDS = 10.0
MAX_SIZE = 1 << 24  # characters or items of a value that an operation makes of smaller ones
MAX_TEXT = 1 << 27  # the same of texts that are put together
MAX_SORTED = 1 << 20  # items that are sorted, grouped or compared with each other
MAX_BITS = 1 << 16  # of an integer
MAX_NUMBER = 1 << 16  # a width, an indentation, a number of slices
MAX_MEMORY_BYTES = 2 << 30  # address space of the process that renders: a row of 64 MiB is rendered in it
