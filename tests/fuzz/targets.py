"""What is fuzzed: each target takes any bytes and raises only if something is wrong that no input may do.

The campaign (campaign.py) drives them by coverage, test_fuzz_targets.py with a few inputs each in every test run.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jinja2

from pagecli.cli import settings
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode, InputError, ModelError, PagecliError, UsageError
from pagecli.jobs.journal import journal
from pagecli.jobs.journal.journal import JournalContents
from pagecli.jobs.readers.jsonl_reader import parse_line
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.readers.openai_batch_input import CHAT_URL, from_batch_row
from pagecli.jobs.rows.row import InputRow, InputSource, OutputRow, ResultColumns, error_row
from pagecli.jobs.rows.row_filter import is_selected, parse_condition
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer
from pagecli.jobs.shards.merge import merge_outputs
from pagecli.jobs.storage import job_directory
from pagecli.jobs.storage.job_directory import LOG, OUTCOME, JobDirectory, read_outcome
from pagecli.jobs.storage.redaction import redact
from pagecli.jobs.writers.open_output import JsonEncoder
from pagecli.jobs.writers.openai_batch_output import BatchEncoder, TokenTexts
from pagecli.model.readers.gguf_header import read_gguf_header
from pagecli.model.tokenizer.templates import limits
from pagecli.model.tokenizer.templates.chat_template import ChatTemplate

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FOLDER = Path(tempfile.mkdtemp(prefix="pagecli-fuzz-", dir=MEMORY))
CHAT = [{"role": "user", "content": "hello"}]


class Bytes:
    """A tokenizer of one token a byte."""

    has_chat_template = True

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def apply_chat_template(self, messages: list[dict[str, Any]], variables: Any = None) -> list[int]:
        return list(json.dumps(messages, ensure_ascii=False, default=str).encode())


PREPARER = RowPreparer(Bytes(), 256, PromptOptions(system="s"), SamplingParams())
PLAIN, BATCH = JsonEncoder(ResultColumns()), BatchEncoder("m", 0, TokenTexts())


def check_row(row: InputRow) -> None:
    """A row is a request or an error with a code, and can be written either way."""
    prepared = PREPARER.prepare(row)
    if prepared.error is None:
        assert prepared.prompt_token_ids
        output = OutputRow(row, text="t", finish_reason="stop", prompt_tokens=1)
    else:
        assert prepared.error_code in set(ErrorCode), prepared.error
        assert "\n" not in prepared.error
        output = error_row(row, prepared.error, code=prepared.error_code)
    for encode in (PLAIN, BATCH) if row.batch_url is not None else (PLAIN,):
        line = encode(output)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        line.decode("utf-8")
    journal.row_digest(row)


def jsonl_line(data: bytes) -> None:
    check_row(parse_line(data, 0, 1))


def openai_batch(data: bytes) -> None:
    check_row(from_batch_row(parse_line(data, 0, 1)))
    body = b'{"custom_id": "a", "url": "%s", "body": {"messages": [], %s}}' % (CHAT_URL.encode(), data)
    check_row(from_batch_row(parse_line(body, 0, 1)))


def jsonl_file(data: bytes) -> None:
    read_all(data, "in.jsonl")


def csv_file(data: bytes) -> None:
    read_all(data, "in.csv")


def parquet_file(data: bytes) -> None:
    read_all(data, "in.parquet", check=False)


def read_all(data: bytes, name: str, check: bool = True) -> None:
    """Every row of a file, or one line about why not."""
    with contextlib.suppress(InputError), opened(write(name, data)) as source:
        for index, row in enumerate(source):
            assert row.index == index
            if check:
                check_row(row)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputSource]:
    source = open_input(str(path))
    try:
        yield source
    finally:
        source.close()


def condition(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        is_selected(parse_condition(data.decode("utf-8", "replace")), {"a": 1, "b": "text", "c": None, "d": {"e": [True]}})


def merge_part(data: bytes) -> None:
    out = FOLDER / "merged.jsonl"
    with contextlib.suppress(InputError):
        merge_outputs([str(write("part.jsonl", data))], str(out), overwrite=True)


def journal_file(data: bytes) -> None:
    """Whatever the file has, a line behind it is found, and each line read again by its offset is the same."""
    row = InputRow(3, {"prompt": "a"})
    rest = b"3 1 0 %b %b" % (journal.row_digest(row).hex().encode(), journal.encode([OutputRow(row, text="t")]))
    directory = JobDirectory(FOLDER / "out.jsonl")
    with open(directory.path / OUTCOME, "wb") as file:
        file.write(data)
    read_outcome(directory)
    fd = directory.open(LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(fd, data)
        job_directory.append(fd, b"\n" + job_directory.log_line(b"row", rest))
        with open(fd, "rb", closefd=False) as file:
            file.seek(0)
            lines = list(job_directory.read_log(file))
            assert lines[-1][1:] == (b"row", rest)
            for offset, *line in lines:
                assert job_directory.read_line(file, offset) == tuple(line)
        contents = JournalContents(directory)
        assert contents.num_input_rows > 0
        contents.get(3)
        contents.close()
    finally:
        os.close(fd)
        directory.close()


def journal_payload(data: bytes) -> None:
    journal.decode(data, InputRow(0, {}))


def config_file(data: bytes) -> None:
    folder = FOLDER / "config" / "pagecli"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_bytes(data)
    environment = {"XDG_CONFIG_HOME": str(FOLDER / "config")}  # inside only: later tests must not read the damaged file
    with patch.dict(os.environ, environment), contextlib.suppress(PagecliError):
        settings.read_settings()


def secrets(data: bytes) -> None:
    text = redact(data.decode("utf-8", "replace"))
    assert redact(text) == text


def gguf_header(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        read_gguf_header(write("model.gguf", b"GGUF" + data))


def safetensors_header(data: bytes) -> None:
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    with contextlib.suppress(ModelError):
        source = SafetensorsSource(write("model.safetensors", len(data).to_bytes(8, "little") + data + bytes(64)))
        for name in source.names():
            source.read(name, (1,))


def template(data: bytes) -> None:
    """A template renders, or raises; it never runs on."""
    limits.MAX_SECONDS = 0.5
    limits.MAX_STEPS = 20_000
    with contextlib.suppress(
        jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError
    ):
        ChatTemplate(data.decode("utf-8", "replace"), {"bos_token": "<s>"}).render(CHAT)


def write(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(jsonl_line, openai_batch, jsonl_file, csv_file, parquet_file, condition, merge_part, journal_file, journal_payload),
        *(config_file, secrets, gguf_header, safetensors_header, template),
    )
}
