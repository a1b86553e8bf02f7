"""Columns that are in the names of folders, as Hive, Spark and others write them: lang=en/year=2024/part-0.parquet."""

import os
import re
from urllib.parse import unquote

from pagecli.jobs.storage import remote_files

NULL = "__HIVE_DEFAULT_PARTITION__"
PartitionColumns = dict[str, int | str | None]


def partition_columns(path: str, files: list[str]) -> dict[str, PartitionColumns]:
    """File -> its columns by the folders between the directory `path` and it; where `path` is a pattern, by all that it names.

    A column whose values are all integers has integers (so that month=01 is 1), as in Spark, DuckDB and Arrow.
    """
    texts = {file: dict(_pairs(_folders(path, file))) for file in files}
    names = dict.fromkeys(name for columns in texts.values() for name in columns)
    found: dict[str, PartitionColumns] = {file: {} for file in files}
    for name in names:
        values = {file: columns.get(name) for file, columns in texts.items()}
        given = [value for value in values.values() if value is not None]
        are_integers = bool(given) and all(re.fullmatch(r"-?\d{1,18}", value, re.ASCII) for value in given)
        for file, value in values.items():
            found[file][name] = int(value) if are_integers and value is not None else value
    return found


def _folders(path: str, file: str) -> list[str]:
    is_directory = path.endswith("/") if remote_files.is_remote(path) else os.path.isdir(path)
    below = file[len(path.rstrip("/")) :] if is_directory else file
    return below.split("/")[:-1]


def _pairs(folders: list[str]) -> list[tuple[str, str | None]]:
    split = [folder.partition("=") for folder in folders]
    return [(unquote(name), None if value == NULL else unquote(value)) for name, sign, value in split if name and sign]
