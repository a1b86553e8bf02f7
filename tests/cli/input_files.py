"""Input files for the tests of the command line."""

import json
from pathlib import Path


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
