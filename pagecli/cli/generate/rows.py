"""A job's rows by its options: the selected rows of its input, its output's options, its prompt limits."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pagecli.errors import ModelError, UsageError
from pagecli.jobs.prompts.few_shot import read_examples
from pagecli.jobs.prompts.prompt_files import text_of
from pagecli.jobs.prompts.prompt_options import PromptOptions
from pagecli.jobs.prompts.row_prompts import template_columns
from pagecli.jobs.prompts.template_variables import parse_arguments
from pagecli.jobs.readers.first_rows import CheckedPrompts
from pagecli.jobs.readers.open_input import InputFormat, ReadOptions, open_input
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES
from pagecli.jobs.rows.input_row import InputSource
from pagecli.jobs.rows.prompt_length import PromptLength
from pagecli.jobs.rows.row_filter import check_condition
from pagecli.jobs.rows.row_selection import SelectedRows
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.byte_streams import is_stream
from pagecli.jobs.writers.openai_batch_output import TokenTexts
from pagecli.jobs.writers.output_options import Compression, OutputFormat, OutputOptions

if TYPE_CHECKING:
    from pagecli.cli.generate.job import GenerateJob
    from pagecli.cli.generate.options import GenerateOptions
    from pagecli.model.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Formats:
    """Of what the rows come from and go to."""

    input_format: InputFormat = "auto"
    output_format: OutputFormat = "auto"
    compression: Compression = "zstd"
    row_group_rows: int | None = None
    max_row_bytes: int = MAX_ROW_BYTES  # of the input


def open_rows(job: "GenerateJob", warn: Callable[[str], None]) -> InputSource:
    """The rows that the job takes. Raises UsageError, InputError."""
    selection = job.selection.parse()
    if selection.shard is not None:
        check_parts_order(job.order)
    options = ReadOptions(job.formats.input_format, job.formats.max_row_bytes, warn)
    source = open_input(job.input, selection.limit if selection.takes_all else None, options)
    template, needed = job.prompts.template, job.prompts.prompt_columns
    if template is not None:
        needed = template_columns(template).needed
    try:
        check_condition(selection.where, source)
        source = CheckedPrompts(source, needed, is_stream(remote_files.local(job.input)), all_of=template is not None)
    except BaseException:
        source.close()
        raise
    return source if selection.takes_all else SelectedRows(source, selection)


def prompt_options(options: "GenerateOptions") -> PromptOptions:
    """How rows become prompts, by the flags and the files that they name. Raises UsageError, InputError."""
    o = options
    template, system = text_of("--template", o.template, o.template_file), text_of("--system", o.system, o.system_file)
    if template is not None and o.prompt_column != "prompt":
        raise UsageError("--template and --prompt-column are both given", "write the column into the template: {{ name }}")
    made_of = (o.prompt_column,) if template is None else template_columns(template).needed
    return PromptOptions(
        prompt_column=o.prompt_column,
        system=system,
        chat=o.chat,
        too_long=o.too_long,
        template_time=parse_template_time(o.template_time),
        template=template,
        few_shot=() if o.few_shot is None else read_examples(o.few_shot, made_of),
        chat_template_arg=parse_arguments(o.chat_template_arg or ()),
    )


def check_parts_order(order: str) -> None:
    """Raises UsageError."""
    if order != "input":
        raise UsageError("--shard does not go with --order completion", "the parts are put together in the input's order")


def parse_template_time(text: str | None) -> datetime | None:
    """--template-time. Raises UsageError."""
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--template-time is {text!r}", "give a date or a time, as 2026-11-29 or 2026-11-29T12:30") from error


def check_chat(job: "GenerateJob", tokenizer: "Tokenizer") -> None:
    """Raises ModelError if the flags need a chat template and the model has none."""
    if not tokenizer.has_chat_template and (job.prompts.chat or job.prompts.system is not None):
        flag = "--chat" if job.prompts.chat else "--system"
        raise ModelError(f"{job.engine.model} has no chat template, which {flag} needs", f"leave out {flag}")


def output_options(job: "GenerateJob", source: InputSource, job_key: str, token_texts: TokenTexts) -> OutputOptions:
    """How the output is written; `job_key` is for parts, `token_texts` gets the vocabulary when the model is loaded."""
    return OutputOptions(
        format=job.formats.output_format,
        model=job.engine.model,
        created=_modified(job.input),
        token_text=token_texts,
        compression=job.formats.compression,
        row_group_rows=job.formats.row_group_rows,
        shard=job.selection.parse().shard,
        job_key=job_key,
        num_selected=lambda: source.num_selected if isinstance(source, SelectedRows) else None,
    )


def _modified(path: str) -> int:
    """When the input was written, in Unix seconds; 0 of what has no such time. It is the same when the job is run again."""
    try:
        return int(os.stat(remote_files.local(path)).st_mtime) if os.path.isfile(remote_files.local(path)) else 0
    except OSError:
        return 0


def prompt_length(job: "GenerateJob", tokenizer: "Tokenizer", max_model_len: int) -> PromptLength:
    """The limit on prompts, and the rule for longer ones."""
    return PromptLength(max_model_len, tokenizer.longest_token_bytes, tokenizer.encode, tokenizer.decode, job.prompts.too_long)
