"""The options of `pagecli generate`: its flags, and the engine and sampling settings they make."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pagecli.cli.flags import constraint_options as form_flags
from pagecli.cli.flags import distributed_options as distributed_flags
from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import prompt_options as prompt_flags
from pagecli.cli.flags import recording_options as run_flags
from pagecli.cli.flags import resume_options as resume_flags
from pagecli.cli.flags import row_options as row_flags
from pagecli.cli.flags.engine_and_sampling import ENGINE_DEFAULTS, SAMPLING_DEFAULTS
from pagecli.core.engine_config import EngineConfig
from pagecli.core.file_targets import expanded
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import UsageError
from pagecli.model.readers.generation_config import SAMPLING_KEYS
from pagecli.model.source import ADAPTER_FILES

PROFILE_FILES = ("steps.parquet", "trace.json", "summary.json", "report.html")  # in the directory of --profile
DEFAULT_REASONS = "invalid_output,length,repetition"


@dataclass(frozen=True, slots=True)
class MonitoringOptions:
    """The targets of a job's events, metrics and log; `log_json` without a file makes stderr a log."""

    progress_json: str | None = None
    metrics_file: Path | None = None
    log_file: Path | None = None
    log_json: bool = False


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Engines in processes of their own."""

    workers: str  # a number, or auto
    timeout: float  # seconds without a sign of life, after which one is lost
    ray: str | None = None  # the cluster that has them; None: this host
    ray_port: int = 0


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """A field a flag or argument, in the order of the help; the annotations are typer's."""

    input: flags.Input
    output: flags.Output
    model: flags.Model
    token_ids: flags.TokenIds = False
    order: flags.OrderChoice = "input"
    overwrite: flags.Overwrite = False
    input_format: row_flags.InputFormat = "auto"
    output_format: row_flags.OutputFormat = "auto"
    compression: row_flags.Compression = "zstd"
    row_group_rows: row_flags.RowGroupRows = None
    max_row_bytes: row_flags.MaxRowBytes = "64MiB"
    limit: flags.Limit = None
    where: row_flags.Where = None
    sample: row_flags.Sample = None
    sample_seed: row_flags.SampleSeed = 0
    shard: row_flags.ShardPart = None
    dry_run: row_flags.DryRun = False
    prompt_column: flags.PromptColumn = "prompt"
    template: prompt_flags.Template = None
    template_file: prompt_flags.TemplateFile = None
    system: flags.System = None
    system_file: prompt_flags.SystemFile = None
    few_shot: prompt_flags.FewShot = None
    chat_template_arg: prompt_flags.ChatTemplateArg = None
    chat: flags.Chat = None
    too_long: row_flags.TooLong = "error"
    template_time: row_flags.TemplateTime = None
    max_tokens: flags.MaxTokens = SAMPLING_DEFAULTS["max_tokens"]
    min_tokens: flags.MinTokens = SAMPLING_DEFAULTS["min_tokens"]
    generation_config: flags.GenerationConfigChoice = "auto"
    temperature: flags.Temperature = None
    top_k: flags.TopK = None
    top_p: flags.TopP = None
    min_p: flags.MinP = None
    repetition_penalty: flags.RepetitionPenalty = None
    no_repeat_ngram_size: flags.NoRepeatNgramSize = None
    presence_penalty: flags.PresencePenalty = SAMPLING_DEFAULTS["presence_penalty"]
    frequency_penalty: flags.FrequencyPenalty = SAMPLING_DEFAULTS["frequency_penalty"]
    seed: flags.Seed = SAMPLING_DEFAULTS["seed"]
    stop: flags.Stop = None
    stop_token_id: flags.StopTokenIds = None
    ignore_eos: flags.IgnoreEos = SAMPLING_DEFAULTS["ignore_eos"]
    logprobs: flags.Logprobs = None
    prompt_logprobs: flags.PromptLogprobs = None
    n: flags.N = SAMPLING_DEFAULTS["n"]
    best_of: flags.BestOf = None
    beam_width: flags.BeamWidth = SAMPLING_DEFAULTS["beam_width"]
    length_penalty: flags.LengthPenalty = SAMPLING_DEFAULTS["length_penalty"]
    early_stopping: flags.EarlyStoppingChoice = "false"
    json_schema: form_flags.JsonSchema = None
    regex: form_flags.Regex = None
    grammar: form_flags.GrammarFile = None
    choice: form_flags.ChoiceTexts = None
    reasoning: form_flags.Reasoning = "auto"
    thinking_budget: form_flags.ThinkingBudget = None
    load_format: flags.LoadFormatChoice = "auto"
    lora: flags.Lora = None
    merge_lora: flags.MergeLora = None
    device: flags.DeviceChoice = "cpu"
    model_impl: flags.ModelImplChoice = "pagecli"
    dtype: flags.DTypeChoice = "auto"
    quantization: flags.QuantizationChoice = "auto"
    max_model_len: flags.MaxModelLen = None
    block_size: flags.BlockSize = ENGINE_DEFAULTS["block_size"]
    kv_dtype: flags.KvDTypeChoice = "auto"
    kv_memory: flags.KvMemory = "auto"
    max_num_seqs: flags.MaxNumSeqs = None
    max_batch_tokens: flags.MaxBatchTokens = None
    prefix_caching: flags.PrefixCaching = ENGINE_DEFAULTS["prefix_caching"]
    cuda_graphs: flags.CudaGraphs = ENGINE_DEFAULTS["cuda_graphs"]
    speculate: flags.Speculate = "auto"
    preemption: flags.PreemptionChoice = "recompute"
    kv_policy: flags.KvPolicyChoice = "paged"
    batching: flags.BatchingChoice = "continuous"
    swap_memory: flags.SwapMemory = None
    threads: flags.Threads = None
    workers: distributed_flags.Workers = None
    ray: distributed_flags.Ray = None
    ray_port: distributed_flags.RayPort = 0
    allow_mixed_hardware: distributed_flags.AllowMixedHardware = False
    tensor_parallel_size: distributed_flags.TensorParallelSize = "1"
    sum_segments: distributed_flags.SumSegments = None
    worker_timeout: distributed_flags.WorkerTimeout = 60.0
    restart: resume_flags.Restart = False
    journal: resume_flags.Journal = True
    partial: resume_flags.Partial = False
    on_error: resume_flags.OnErrorChoice = "row"
    max_error_rate: resume_flags.MaxErrorRate = None
    retry_errors: resume_flags.RetryErrors = False
    retry: resume_flags.Retry = 0
    retry_on: resume_flags.RetryOn = DEFAULT_REASONS
    retry_temperature: resume_flags.RetryTemperature = None
    stats: flags.Stats = None
    profile: run_flags.ProfileDirectory = None
    progress_json: flags.ProgressJson = None
    metrics_file: flags.MetricsFile = None
    log_file: flags.LogFile = None
    log_json: flags.LogJson = False
    no_config: flags.NoConfig = False
    quiet: flags.Quiet = False
    verbose: flags.Verbose = False

    @property
    def monitoring(self) -> MonitoringOptions:
        return MonitoringOptions(self.progress_json, self.metrics_file, self.log_file, self.log_json)

    @property
    def written_files(self) -> list[tuple[str, Path | str | None]]:
        """(flag, file that it names) of what is written beside the output."""
        events, directory = self.progress_json, self.profile
        files = [("--stats", self.stats), ("--metrics-file", self.metrics_file), ("--log-file", self.log_file)]
        files += [("--profile", directory / name) for name in PROFILE_FILES] if directory is not None else []
        return [*files, ("--progress-json", f"/dev/fd/{events}" if events is not None and events.isdecimal() else events)]

    @property
    def prompt_files(self) -> dict[str, Path | str | None]:
        """Flag -> the file that it names: what prompts are made of, what outputs may be, an adapter."""
        files = {"--template-file": self.template_file, "--system-file": self.system_file}
        files |= {"--json-schema": self.json_schema, "--grammar": self.grammar}
        if self.lora or self.merge_lora is not None:
            adapters = {f"--lora {name}": path for name, path in self.loras}
            adapters |= {} if self.merge_lora is None else {"--merge-lora": self.merge_lora}
            files |= {flag: expanded(path) / ADAPTER_FILES[1] for flag, path in adapters.items()}
        return {**files, "--few-shot": self.few_shot}

    @property
    def loras(self) -> tuple[tuple[str, str], ...]:
        return named_adapters(self.lora)

    @property
    def pool(self) -> PoolOptions | None:
        if self.workers is None and self.ray is None:
            return None
        return PoolOptions(self.workers or "auto", self.worker_timeout, self.ray, self.ray_port)

    def engine_config(self) -> EngineConfig:
        """The engine's settings. Raises UsageError."""
        sizes: dict[str, Any] = {"kv_memory_bytes": parse_memory_size("--kv-memory", self.kv_memory)}
        if self.swap_memory is not None:
            sizes["swap_memory_bytes"] = parse_memory_size("--swap-memory", self.swap_memory) or 0
        sizes["speculate"] = parse_speculate(self.speculate)
        given = ((name, getattr(self, name, None)) for name in ENGINE_DEFAULTS)
        chosen = {name: value for name, value in given if value is not None} | sizes
        if self.model_impl == "transformers":
            self._check_alone()
            chosen |= {"device": "transformers", "speculate": 0}
        if chosen["device"] != "cpu":
            chosen |= self._batch_limits(chosen["device"])
        chosen["tensor_parallel_size"] = size = parse_ranks(str(self.tensor_parallel_size), chosen)
        if self.sum_segments is None and size > 1:  # what decides the bits belongs to the job's identity
            chosen["sum_segments"] = size
        return EngineConfig(**chosen)

    def _batch_limits(self, device: str) -> dict[str, int]:
        from pagecli.devices.cuda.batch_limits import batch_limits, gpu_bytes

        limits = batch_limits(gpu_bytes(device), self.max_num_seqs, self.max_batch_tokens)
        return dict(zip(("max_num_seqs", "max_batch_tokens"), limits, strict=True))

    def _check_alone(self) -> None:
        """Raises UsageError for what transformers' modules do not go with."""
        others: dict[str, object] = {"--device": self.device != "cpu", "--workers": self.workers, "--ray": self.ray}
        others |= {"--load-format dummy": self.load_format == "dummy", "--dry-run": self.dry_run}
        others |= {"--tensor-parallel-size": self.tensor_parallel_size != "1", "--sum-segments": self.sum_segments}
        if found := next((flag for flag, given in others.items() if given), None):
            raise UsageError(f"--model-impl transformers does not go with {found}", "leave one of them out")

    def open_to_model(self) -> tuple[str, ...]:
        """The sampling parameters that the model's generation_config.json may set: those that no flag sets."""
        if self.generation_config == "none":
            return ()
        return tuple(name for name in SAMPLING_KEYS if getattr(self, name) is None)

    def row_limit(self) -> int:
        """--max-row-bytes in bytes. Raises UsageError."""
        size = parse_memory_size("--max-row-bytes", self.max_row_bytes)
        if size is None:
            raise UsageError("--max-row-bytes is 'auto', not a size", "write a number and a unit, as in 64MiB")
        return min(size, 1 << 62)  # more than any memory, and still a size for the calls that read

    def sampling_params(self) -> SamplingParams:
        """The sampling parameters of rows that bring none, those of the model aside. Raises UsageError naming the flag."""
        chosen = {name: getattr(self, name) for name in SAMPLING_DEFAULTS if getattr(self, name, None) is not None}
        lists = {"stop": tuple(self.stop or ()), "stop_token_ids": tuple(self.stop_token_id or ())}
        adapter = {"lora": self.loras[0][0] if len(self.loras) == 1 else None}
        forms = (self.json_schema, self.regex, self.grammar, self.choice)
        given = {} if not any(forms) else form_flags.constraint_params(*forms)
        try:
            return SamplingParams(**chosen | lists | given | adapter)
        except UsageError as error:
            name, rest = error.message.split(" ", 1)
            raise UsageError(f"--{name.replace('_', '-')} {rest}", error.hint) from error


def named_adapters(lora: list[str] | None) -> tuple[tuple[str, str], ...]:
    """--lora as names and directories, by name: in which order they are given means nothing. Raises UsageError."""
    found: dict[str, str] = {}
    for given in lora or ():
        name, _, path = given.partition("=")
        if not name or not path or name in found:
            twice = f"names {name} twice" if name in found else f"is {given!r}"
            raise UsageError(f"--lora {twice}", "write a name and a directory, as in --lora polite=./polite-adapter")
        found[name] = path
    return tuple(sorted(found.items()))


_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_memory_size(flag: str, text: str) -> int | None:
    """Bytes, or None for auto. 1 GiB (or G) is 1024**3 bytes, 1 GB is 1000**3. Raises UsageError."""
    if text.strip().lower() == "auto":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b|)\s*", text, re.IGNORECASE)
    if match is None or not (match[2] or match[3]):
        raise UsageError(f"{flag} is {text!r}, not a size", "write a number and a unit, as in 4GiB or 512MB, or auto")
    base = 1000 if match[2] and match[3].lower() == "b" else 1024
    size = int(float(match[1]) * base ** _POWERS[match[2].lower()])
    if size < 1:
        raise UsageError(f"{flag} is {text!r}: no memory at all", "write a size above zero, or auto")
    return size


def parse_ranks(text: str, chosen: Mapping[str, Any]) -> int:
    """--tensor-parallel-size; "auto" looks at the model, with the other settings `chosen`. Raises UsageError, ModelError."""
    if text == "auto":
        from pagecli.engine.replicas import least_ranks

        return least_ranks(EngineConfig(**{**chosen, "tensor_parallel_size": 1}))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--tensor-parallel-size is {text!r}", "write auto, or a number of processes from 1")
    return int(text)


# For commands that generate nothing: the flags of `generate` that mean something there, and values of others.
WITHOUT_GENERATION = (
    *("input", "output", "model", "prompt_column", "order", "input_format", "compression", "where", "limit", "shard"),
    *("overwrite", "load_format", "lora", "merge_lora", "dtype", "quantization", "max_model_len"),
    *("max_num_seqs", "max_batch_tokens", "threads"),
    *("restart", "journal", "partial", "on_error", "max_error_rate", "stats", "progress_json", "metrics_file", "log_file"),
    *("log_json", "no_config", "quiet", "verbose"),
)
NOTHING_GENERATED = {"generation_config": "none", "max_tokens": 1, "speculate": "0"}


def parse_speculate(text: str) -> int | Literal["auto"]:
    """--speculate. Raises UsageError."""
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--speculate is {text!r}", "write auto, or how many tokens to guess at a time; 0: none")
    return int(text)
