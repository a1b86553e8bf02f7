"""Every flag of the program, defined once: commands take these types as parameters. Defaults come from the dataclasses
that the flags fill; a command gets its flags as the fields of one (cli/commands.options_command)."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pagecli.cli.flags import completion
from pagecli.cli.settings import use_configuration
from pagecli.core.engine_config import Batching, EngineConfig, KVPolicy
from pagecli.core.sampling_params import SamplingParams

IO, CHAT, SAMPLING, SAMPLES = "Input and output", "Prompts", "Sampling", "Samples and beams"
MODEL, ENGINE, TALK = "Model", "Engine", "Reporting"
SAMPLING_HELP = " A column of this name overrides it for its row."
OF_MODEL = " Default: the model's, else {}."

ENGINE_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(EngineConfig)}
SAMPLING_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(SamplingParams)}


def option(help_text: str, panel: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **{"show_envvar": False, **settings})


Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help=".jsonl, .csv, .tsv (each also .gz, .zst), .parquet or an OpenAI batch file; a directory or 'PATTERN' of them; "
        "a URL (s3:, gs:, hf:); - is JSON Lines on standard input.",
    ),
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        help=".jsonl, .csv, .tsv (each also .gz, .zst), .parquet, .sqlite, .duckdb; a URL; - is JSON Lines on standard output.",
    ),
]

TokenIds = Annotated[bool, option("Write a column token_ids: the generated tokens.", IO, "--token-ids")]
OrderChoice = Annotated[
    Literal["input", "completion"], option("Write rows in the input's order, or as they finish.", IO, "--order")
]
Overwrite = Annotated[bool, option("Replace an existing output.", IO, "--overwrite")]
Limit = Annotated[int | None, option("Read only the first N rows.", IO, "--limit", metavar="N", min=1)]

PromptColumn = Annotated[
    str,
    option(
        "The column that holds the prompt as text.",
        CHAT,
        "--prompt-column",
        metavar="NAME",
        autocompletion=completion.columns,
    ),
]
System = Annotated[
    str | None, option("A system message for rows that bring none (chat models).", CHAT, "--system", metavar="TEXT")
]
Chat = Annotated[
    bool | None,
    option(
        "Wrap a plain prompt as a user message, or feed it as it is. Default: wrap it if the model has a chat template.",
        CHAT,
        "--chat/--no-chat",
    ),
]

MaxTokens = Annotated[int, option("The most tokens to generate for a row." + SAMPLING_HELP, SAMPLING, "--max-tokens")]
MinTokens = Annotated[int, option("The fewest tokens before a row may end.", SAMPLING, "--min-tokens")]
GenerationConfigChoice = Annotated[
    Literal["auto", "none"],
    option(
        "auto: what the model's generation_config.json says of sampling is the default. none: leave it out.",
        SAMPLING,
        "--generation-config",
    ),
]
Temperature = Annotated[
    float | None,
    option(
        "0 (and below 1e-5) always takes the likeliest token; 1 samples as the model says." + OF_MODEL.format(0),
        SAMPLING,
        "--temperature",
    ),
]
TopK = Annotated[int | None, option("Sample among the K likeliest tokens; 0: all." + OF_MODEL.format(0), SAMPLING, "--top-k")]
TopP = Annotated[
    float | None,
    option("Sample among the likeliest tokens that together have this probability." + OF_MODEL.format(1), SAMPLING, "--top-p"),
]
MinP = Annotated[
    float | None,
    option("Leave out tokens below this share of the likeliest one's probability." + OF_MODEL.format(0), SAMPLING, "--min-p"),
]
RepetitionPenalty = Annotated[
    float | None,
    option(
        "Above 1, makes tokens of the prompt and output less likely." + OF_MODEL.format(1), SAMPLING, "--repetition-penalty"
    ),
]
NoRepeatNgramSize = Annotated[
    int | None,
    option("Write no run of so many tokens a second time; 0: off." + OF_MODEL.format(0), SAMPLING, "--no-repeat-ngram-size"),
]
PresencePenalty = Annotated[
    float, option("Taken off the logit of tokens already in the output.", SAMPLING, "--presence-penalty")
]
FrequencyPenalty = Annotated[
    float, option("Taken off the logit for each time a token is in the output.", SAMPLING, "--frequency-penalty")
]
Seed = Annotated[int, option("The same seed and row give the same text.", SAMPLING, "--seed")]
Stop = Annotated[
    list[str] | None,
    option("End before this text; may be given several times.", SAMPLING, "--stop", metavar="TEXT", allow_from_autoenv=False),
]
StopTokenIds = Annotated[
    list[int] | None,
    option(
        "End at this token; may be given several times.", SAMPLING, "--stop-token-id", metavar="ID", allow_from_autoenv=False
    ),
]
IgnoreEos = Annotated[bool, option("Continue to --max-tokens past the model's end token.", SAMPLING, "--ignore-eos")]
Logprobs = Annotated[
    int | None,
    option(
        "Write a column logprobs: each token's log probability and those of the K likeliest.",
        SAMPLING,
        "--logprobs",
        metavar="K",
    ),
]
PromptLogprobs = Annotated[
    int | None,
    option(
        "Write a column prompt_logprobs: those of the prompt's tokens, null for the first." + SAMPLING_HELP,
        SAMPLING,
        "--prompt-logprobs",
        metavar="K",
    ),
]

N = Annotated[int, option("Continuations to write for a row, each sampled on its own.", SAMPLES, "--n")]
BestOf = Annotated[
    int | None, option("Sample so many and write the --n with the highest mean log probability.", SAMPLES, "--best-of")
]
BeamWidth = Annotated[int, option("Above 1: beam search; writes the --n best hypotheses.", SAMPLES, "--beam-width")]
LengthPenalty = Annotated[
    float, option("Beam search: a hypothesis scores its log probability / length ** this.", SAMPLES, "--length-penalty")
]
EarlyStoppingChoice = Annotated[
    Literal["true", "false", "never"], option("Beam search: when to end, as in transformers.", SAMPLES, "--early-stopping")
]

Model = Annotated[
    str,
    option(
        "A known name (smollm2-135m, opt-125m, ...), a Hugging Face id, a directory or a .gguf file.",
        MODEL,
        "--model",
        "-m",
        envvar="PAGECLI_MODEL",
        show_envvar=True,
        metavar="NAME",
        autocompletion=completion.model_names,
    ),
]
Lora = Annotated[
    list[str] | None,
    option(
        "A LoRA adapter (PEFT) that rows choose by its name in a column lora; may be given several times. Rows that name none "
        "take the only one given.",
        MODEL,
        "--lora",
        metavar="NAME=DIR",
        allow_from_autoenv=False,
    ),
]
MergeLora = Annotated[
    str | None,
    option("A LoRA adapter (PEFT) that is merged into the weights as they are read.", MODEL, "--merge-lora", metavar="DIR"),
]
LoadFormatChoice = Annotated[Literal["auto", "dummy"], option("dummy: random weights, for measuring.", MODEL, "--load-format")]
DTypeChoice = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8", "int8-a16", "fp8"],
    option(
        "Of the weights. int8: activations in 8 bits too; int8-a16: in 15. float16, fp8: on a GPU only. auto: bfloat16 where "
        "the CPU computes it.",
        MODEL,
        "--dtype",
    ),
]
QuantizationChoice = Annotated[
    Literal["auto", "keep", "dequantize"],
    option(
        "Of a quantized checkpoint's weights. keep: in memory as in the file, on a CPU, multiplied as --dtype float32 or "
        "bfloat16. dequantize: at load. auto: keep where that is faster (of float32, or of few rows at once), or where "
        "dequantized ones leave no room.",
        MODEL,
        "--quantization",
    ),
]
DeviceChoice = Annotated[
    Literal["cpu", "cuda", "auto"],
    option("Where to compute. cuda has never run on a GPU yet; auto: there, where one can be used.", MODEL, "--device"),
]
ModelImplChoice = Annotated[
    Literal["pagecli", "transformers"],
    option(
        "transformers: its own modules with paged attention, for architectures that pagecli lacks; slower, and not the "
        "same bits in every batch.",
        MODEL,
        "--model-impl",
    ),
]
MaxModelLen = Annotated[
    int | None, option("The most tokens of a prompt and its output. Default: what the model allows.", MODEL, "--max-model-len")
]

BlockSize = Annotated[int, option("Tokens in a block of the KV cache.", ENGINE, "--block-size")]
KvDTypeChoice = Annotated[
    Literal["auto", "float32", "bfloat16", "int8", "fp8"],
    option(
        "Of the KV cache. auto: as the weights (int8, fp8: bfloat16). int8 (CPU) and fp8 (GPU) hold twice bfloat16's tokens.",
        ENGINE,
        "--kv-dtype",
    ),
]
KvMemory = Annotated[str, option("Size of the KV cache: 4GiB, 512MB, or auto.", ENGINE, "--kv-memory", metavar="SIZE")]
MaxNumSeqs = Annotated[
    int | None, option("The most rows computed at a time. Default: 128; GPU: to 1024.", ENGINE, "--max-num-seqs")
]
MaxBatchTokens = Annotated[
    int | None, option("The most tokens in a step. Default: 512; GPU: to 8192.", ENGINE, "--max-batch-tokens")
]
PrefixCaching = Annotated[
    bool, option("Compute what prompts begin with in common once.", ENGINE, "--prefix-caching/--no-prefix-caching")
]
CudaGraphs = Annotated[
    bool,
    option(
        "On a GPU: repeat steps that only decode from a recording, without launching their kernels one by one.",
        ENGINE,
        "--cuda-graphs/--no-cuda-graphs",
    ),
]
Speculate = Annotated[
    str,
    option(
        "Where few rows run on a CPU, guess up to N tokens from a row's own text and verify them in one step: the same text, "
        "sooner. auto: as long as guesses are right; 0: off.",
        ENGINE,
        "--speculate",
        metavar="auto|N",
    ),
]
KvPolicyChoice = Annotated[
    KVPolicy,
    option(
        "paged takes KV blocks as tokens come. The others, to compare with, reserve contiguous memory when a row starts: "
        "for the longest row there may be, for --max-tokens rounded up to a power of two, or for --max-tokens.",
        ENGINE,
        "--kv-policy",
    ),
]
BatchingChoice = Annotated[
    Batching,
    option(
        "continuous lets a row in when another ends. To compare with: static waits until the whole batch has ended, "
        "none runs row by row.",
        ENGINE,
        "--batching",
    ),
]
PreemptionChoice = Annotated[
    Literal["recompute", "swap"], option("When KV memory runs out: compute again later, or swap out.", ENGINE, "--preemption")
]
SwapMemory = Annotated[str | None, option("Memory for swapped-out blocks, as 1GiB.", ENGINE, "--swap-memory", metavar="SIZE")]
Threads = Annotated[int | None, option("CPU threads. Default: the cores this process may use.", ENGINE, "--threads")]

Stats = Annotated[Path | None, option("Write the job's metrics as JSON.", TALK, "--stats", metavar="FILE")]
ProgressJson = Annotated[
    str | None,
    option(
        "Write events as JSON, one a line: to an open descriptor (3) or a file.", TALK, "--progress-json", metavar="FD|FILE"
    ),
]
MetricsFile = Annotated[
    Path | None,
    option("Keep metrics for Prometheus here (node_exporter's textfile collector).", TALK, "--metrics-file", metavar="FILE"),
]
LogFile = Annotated[
    Path | None, option("Append a log of the run, libraries' warnings included.", TALK, "--log-file", metavar="FILE")
]
LogJson = Annotated[
    bool, option("The log as JSON, one object a line; on standard error unless --log-file.", TALK, "--log-json")
]
NoConfig = Annotated[
    bool,
    option(
        "Leave pagecli.toml and the user's settings unread.",
        TALK,
        "--no-config",
        is_eager=True,
        callback=use_configuration,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, option("Say nothing but errors.", TALK, "--quiet", "-q")]
Verbose = Annotated[bool, option("Say more; show tracebacks.", TALK, "--verbose", "-v")]
