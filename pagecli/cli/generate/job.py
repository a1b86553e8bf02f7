"""A job of `generate`: its options, and by them its rows, its output, its limits and its identity."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pagecli.cli.generate.options import DEFAULT_REASONS, GenerateOptions, MonitoringOptions, PoolOptions
from pagecli.core import file_targets
from pagecli.core.engine_config import EngineConfig
from pagecli.core.file_targets import NamedPath, check_read_once
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.loaded_model import ResolvedModel, hardware
from pagecli.errors import InputError, ModelError, RowError, UsageError
from pagecli.jobs.journal.job_identity import MIXED, job_identity, rewritten, weights_paths
from pagecli.jobs.prompts.prompt_files import text_of
from pagecli.jobs.prompts.prompt_options import PromptOptions
from pagecli.jobs.readers.open_input import CheckedPrompts, InputFormat, ReadOptions, input_files, open_input
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES
from pagecli.jobs.rows.prompt_length import PromptLength
from pagecli.jobs.rows.row import InputSource, ResultColumns
from pagecli.jobs.rows.row_preparer import prompt_columns
from pagecli.jobs.rows.row_selection import RowChoice, SelectedRows
from pagecli.jobs.run.job_loop import ErrorPolicy
from pagecli.jobs.writers.open_output import OutputFormat, OutputOptions
from pagecli.jobs.writers.parquet import Compression

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine
    from pagecli.jobs.rows.embedding_rows import EmbedOptions
    from pagecli.jobs.rows.score_rows import ScoreOptions
    from pagecli.jobs.run.retries import RetryPolicy
    from pagecli.model.tokenizer.tokenizer import Tokenizer

TokenBytes = Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True)
class Formats:
    """Of what the rows come from and go to."""

    input_format: InputFormat = "auto"
    output_format: OutputFormat = "auto"
    compression: Compression = "zstd"
    row_group_rows: int | None = None
    max_row_bytes: int = MAX_ROW_BYTES  # of the input


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """`restart` drops what an earlier run finished; `partial` only writes that, and generates nothing."""

    enabled: bool = True
    restart: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """The job's options, resolved and checked as far as possible without the model."""

    input: str
    output: str
    engine: EngineConfig
    params: SamplingParams
    prompts: PromptOptions
    columns: ResultColumns
    order: Literal["input", "completion"] = "input"
    selection: RowChoice = field(default_factory=RowChoice)
    formats: Formats = field(default_factory=Formats)
    dry_run: bool = False
    overwrite: bool = False
    stats: Path | None = None
    profile: Path | None = None
    monitoring: MonitoringOptions = field(default_factory=MonitoringOptions)
    journal: JournalOptions = field(default_factory=JournalOptions)
    errors: ErrorPolicy = field(default_factory=ErrorPolicy)
    retries: "RetryPolicy | None" = None
    retry_errors: str | None = None  # digest of the finished output whose error rows are run again
    score: "ScoreOptions | None" = None  # set: rows are scored, not generated
    embed: "EmbedOptions | None" = None  # set: rows are embedded
    open_to_model: tuple[str, ...] = ()  # sampling parameters whose default is the model's
    pool: PoolOptions | None = None  # None: the engine is in this process
    mixed_hardware: bool = False  # rows may be computed with several instruction sets
    of_model: tuple[str, ...] = ()  # those of `params` that the model has set


def generate_job(options: GenerateOptions) -> GenerateJob:
    """The job that the options ask for. Raises UsageError, InputError."""
    o = options
    check_read_once(NamedPath(flag, str(path)) for flag, path in {"INPUT": o.input, **o.prompt_files}.items() if path)
    _check_texts(o)
    params = o.sampling_params()
    if params.constraint is not None:
        check_constraint(params)
    return GenerateJob(
        input=o.input,
        output=o.output,
        engine=o.engine_config(),
        params=params,
        open_to_model=o.open_to_model(),
        prompts=prompt_options(o),
        columns=ResultColumns(
            token_ids=o.token_ids,
            score=o.best_of is not None or o.beam_width > 1,
            logprobs=o.logprobs is not None,
            attempts=o.retry > 0,
            prompt_logprobs=o.prompt_logprobs is not None,
        ),
        order=o.order,
        selection=RowChoice(o.where, o.sample, o.sample_seed, o.limit, o.shard),
        formats=Formats(o.input_format, o.output_format, o.compression, o.row_group_rows, o.row_limit()),
        dry_run=o.dry_run,
        overwrite=o.overwrite,
        stats=o.stats,
        profile=o.profile,
        monitoring=o.monitoring,
        journal=JournalOptions(o.journal, o.restart, o.partial),
        errors=ErrorPolicy(o.on_error, o.max_error_rate),
        retry_errors="" if o.retry_errors else None,
        retries=None if (o.retry, o.retry_on, o.retry_temperature) == (0, DEFAULT_REASONS, None) else retry_policy(o),
        pool=o.pool,
        mixed_hardware=o.allow_mixed_hardware,
    )


_TEXTS = ("prompt_column", "template", "system", "chat_template_arg", "stop", "regex", "choice", "reasoning", "where")


def _check_texts(options: GenerateOptions) -> None:
    """Raises UsageError for a flag's text that no tokenizer takes: bytes that are no UTF-8, or half of a surrogate pair."""
    for name in _TEXTS:
        value = getattr(options, name)
        try:
            "".join([value] if isinstance(value, str) else value or ()).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"--{name.replace('_', '-')} is no UTF-8 text", "convert it: iconv -f latin1 -t utf-8") from error


def retry_policy(options: GenerateOptions) -> "RetryPolicy | None":
    """Raises UsageError, also for a flag beside --retry that is wrong without it."""
    o = options
    from pagecli.jobs.run.retries import RetryPolicy, parse_reasons

    policy = RetryPolicy(o.retry, parse_reasons(o.retry_on), o.retry_temperature)
    return policy if o.retry else None


def open_rows(job: GenerateJob, warn: Callable[[str], None], opened: InputSource | None = None) -> InputSource:
    """The rows that the job takes, of its input or of one that is `opened`. Raises UsageError, InputError."""
    chosen = job.selection
    takes_all = (chosen.where, chosen.sample, chosen.shard) == (None, None, None)  # up to the limit
    selection = None if takes_all else chosen.parse()
    if selection is not None and selection.shard is not None:
        check_parts_order(job.order)
    options = ReadOptions(job.formats.input_format, job.formats.max_row_bytes, warn)
    source = opened or open_input(job.input, chosen.limit if selection is None else None, options)
    template, needed = job.prompts.template, prompt_columns(job.prompts.prompt_column)
    if template is not None:
        needed = _columns_of(template)
    elif job.score is not None:
        needed = (*needed, "text")
    try:
        if selection is not None and selection.where is not None:
            from pagecli.jobs.rows.row_filter import check_condition

            check_condition(selection.where, source)
        comes_late = opened is not None or file_targets.is_stream(file_targets.local(job.input))
        source = CheckedPrompts(source, needed, comes_late, all_of=template is not None)
    except BaseException:
        source.close()
        raise
    return source if selection is None else SelectedRows(source, selection)


def prompt_options(options: GenerateOptions) -> PromptOptions:
    """How rows become prompts, by the flags and the files that they name. Raises UsageError, InputError."""
    o = options
    template = o.template if o.template_file is None else text_of("--template", o.template, o.template_file)
    system = o.system if o.system_file is None else text_of("--system", o.system, o.system_file)
    if template is not None and o.prompt_column != "prompt":
        raise UsageError("--template and --prompt-column are both given", "write the column into the template: {{ name }}")
    made_of = (o.prompt_column,) if template is None else _columns_of(template)
    few_shot: tuple[Any, ...] = ()
    arguments: tuple[tuple[str, Any], ...] = ()
    if o.few_shot is not None:
        from pagecli.jobs.prompts.few_shot import read_examples

        few_shot = read_examples(o.few_shot, made_of)
    if o.chat_template_arg is not None:
        from pagecli.jobs.prompts.template_variables import parse_arguments

        arguments = parse_arguments(o.chat_template_arg)
    return PromptOptions(
        prompt_column=o.prompt_column,
        system=system,
        chat=o.chat,
        too_long=o.too_long,
        template_time=None if o.template_time is None else parse_template_time(o.template_time),
        template=template,
        few_shot=few_shot,
        chat_template_arg=arguments,
    )


def _columns_of(template: str) -> tuple[str, ...]:
    """The columns that a row's template needs. Raises UsageError."""
    from pagecli.jobs.prompts.row_prompts import template_columns

    return template_columns(template).needed


def check_parts_order(order: str) -> None:
    """Raises UsageError."""
    if order != "input":
        raise UsageError("--shard does not go with --order completion", "the parts are put together in the input's order")


def parse_template_time(text: str) -> datetime:
    """--template-time. Raises UsageError."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--template-time is {text!r}", "give a date or a time, as 2026-11-29 or 2026-11-29T12:30") from error


def check_constraint(params: SamplingParams) -> None:
    """Raises UsageError for a flag's schema, expression or grammar that cannot be compiled."""
    from pagecli.engine.constraints.compiler import check

    try:
        check(params)
    except RowError as error:
        raise UsageError(_of_flag(params, error.message), error.hint or "mend it, or simplify it") from error


def check_constraint_of_model(params: SamplingParams, engine: "Engine") -> None:
    """Raises UsageError for flags that this model's vocabulary cannot satisfy."""
    if params.is_constrained:
        try:
            engine.constraints.start(params, [])
        except RowError as error:
            raise UsageError(_of_flag(params, error.message), error.hint) from error


def _of_flag(params: SamplingParams, message: str) -> str:
    """What is said of a row's parameter, or of its form, of the flag that all rows have it from."""
    named = message.split(maxsplit=1)[0].rstrip(":,")
    if named in SamplingParams.__dataclass_fields__:
        return f"--{named.replace('_', '-')}{message.removeprefix(named)}"
    form = params.constraint[0] if params.constraint is not None else ""
    return f"--{form.replace('_', '-')}: {message}"


def check_chat(job: GenerateJob, tokenizer: "Tokenizer") -> None:
    """Raises ModelError if the flags need a chat template and the model has none."""
    if not tokenizer.has_chat_template and (job.prompts.chat or job.prompts.system is not None):
        flag = "--chat" if job.prompts.chat else "--system"
        raise ModelError(f"{job.engine.model} has no chat template, which {flag} needs", f"leave out {flag}")


def output_options(job: GenerateJob, source: InputSource, job_key: str, token_bytes: TokenBytes) -> OutputOptions:
    """How the output is written; `job_key` is for parts; `token_bytes` is called once the model is loaded."""
    return OutputOptions(
        format=job.formats.output_format,
        model=job.engine.model,
        created=partial(_modified, job.input),
        token_bytes=token_bytes,
        compression=job.formats.compression,
        row_group_rows=job.formats.row_group_rows,
        shard=None if job.selection.shard is None else job.selection.parse().shard,
        job_key=job_key,
        num_selected=lambda: source.num_selected if isinstance(source, SelectedRows) else None,
    )


def _modified(path: str) -> int:
    """When the input was written, in Unix seconds; 0 of what has no such time. It is the same when the job is run again."""
    try:
        return int(os.stat(file_targets.local(path)).st_mtime) if os.path.isfile(file_targets.local(path)) else 0
    except OSError:
        return 0


def prompt_length(job: GenerateJob, tokenizer: "Tokenizer", max_model_len: int) -> PromptLength:
    """The limit on prompts, and the rule for longer ones."""
    return PromptLength(max_model_len, tokenizer.longest_token_bytes, tokenizer.encode, tokenizer.decode, job.prompts.too_long)


@dataclass(frozen=True, slots=True)
class IdentifiedJob:
    """`identity` is job_identity's; `weights` are the files that it describes."""

    job: GenerateJob
    identity: dict[str, Any]
    weights: list[Path]

    def key(self, template_time: datetime) -> str:
        """The key that all shards of one job share. Raises ModelError."""
        from pagecli.jobs.journal.job_differences import job_key

        time = template_time.isoformat(timespec="seconds") if self.identity["uses_time"] else None
        more = {"limit": self.job.selection.limit, "output_format": self.job.formats.output_format}
        try:
            return job_key({**self.identity, "time": time}, self.weights, **more)
        except OSError as error:
            raise ModelError(f"{error.filename} cannot be read: {error.strerror}", "check the model's files") from error

    def check_loaded(self) -> None:
        """To be called after loading: checks that the weights files have not changed since identify(). Raises ModelError."""
        changed = rewritten(self.identity["weights"], self.weights)
        if changed is not None:
            raise ModelError(f"{changed} was changed while it was loaded", "run the same command again when it is complete")


def identify(job: GenerateJob, found: ResolvedModel) -> IdentifiedJob:
    """`found`: the job's model. Raises UsageError, InputError, ModelError."""
    time, inputs, (isa, supported) = job.prompts.template_time, input_files(job.input), hardware(found.device)
    shown_time = None if time is None else time.isoformat(timespec="seconds")
    try:
        identity = job_identity(job, inputs, found, (MIXED if job.mixed_hardware else isa, supported), shown_time)
    except OSError as error:
        kind = InputError if error.filename in inputs else ModelError
        raise kind(f"{error.filename} cannot be read: {error.strerror}", "check that it is there and readable") from error
    if job.selection.shard is not None and identity["uses_time"] and time is None:
        today = datetime.now().date().isoformat()
        raise UsageError(
            "--shard: the model's chat template shows the time, which all parts must have in common",
            f"give each of them one time: --template-time {today}",
        )
    return IdentifiedJob(job, identity, weights_paths(found.source))
