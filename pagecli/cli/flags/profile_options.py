"""The flags of `pagecli profile` that `generate` has not; those they share are in options."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pagecli.cli.flags import completion
from pagecli.cli.flags.engine_and_sampling import option

PLAN, WORKLOAD, REPLAY, REPORT = "Plan", "Workload", "Replay", "Report"


Gpu = Annotated[
    str,
    option(
        "a100-40gb, a100-80gb, h100, l4, ...; auto: this machine's NVIDIA GPU, else its RAM, else the smallest that fits.",
        PLAN,
        "--gpu",
        metavar="NAME",
        autocompletion=completion.gpu_names,
    ),
]
EngineChoice = Annotated[
    Literal["pagecli", "vllm"],
    option("vllm: whether vLLM starts with these flags, how long a request it takes, and what to change.", PLAN, "--engine"),
]
GpuMemoryUtilization = Annotated[
    float,
    option("The share of a GPU's memory that vLLM may use (--engine vllm).", PLAN, "--gpu-memory-utilization", metavar="X"),
]
MaxModelLen = Annotated[
    int | None,
    option("The longest request of vLLM (--engine vllm). Default: the model's.", PLAN, "--max-model-len", metavar="N", min=1),
]
NumGpus = Annotated[
    int | None, option("GPUs that share the model. Default: 1.", PLAN, "--num-gpus", metavar="N", min=1, max=65536)
]
TensorParallelSize = Annotated[
    int | None,
    option("Processes or GPUs that share the model. Default: 1.", PLAN, "--tensor-parallel-size", metavar="N", min=1),
]
Workers = Annotated[
    int | None,
    option("Engines that share the rows: of this machine, or as many times the GPUs. Default: 1.", PLAN, "--workers", min=1),
]
KvDTypeChoice = Annotated[
    Literal["auto", "float32", "float16", "bfloat16", "int8", "fp8"],
    option("Of the KV cache. auto: as the weights (int8: bfloat16).", PLAN, "--kv-dtype"),
]
KvMemory = Annotated[
    str, option("Size of the KV cache: 12GiB, 512MB; auto: what the rule leaves.", PLAN, "--kv-memory", metavar="SIZE")
]
BlockSize = Annotated[int, option("Tokens in a block of the KV cache.", PLAN, "--block-size", min=1, max=256)]
MaxNumSeqs = Annotated[
    int | None,
    option(
        "The most sequences in a step. Default: 128; GPU: up to 1024, by its memory.",
        PLAN,
        "--max-num-seqs",
        metavar="N",
        min=1,
    ),
]
MaxBatchTokens = Annotated[
    int | None,
    option(
        "The most tokens in a step. Default: 512; GPU: 8 for each sequence.", PLAN, "--max-batch-tokens", metavar="N", min=1
    ),
]

WorkloadChoice = Annotated[
    str,
    option(
        "sharegpt, alpaca, a .csv of lengths, a .jsonl trace with prefix hashes, or generate's input (.jsonl, .parquet).",
        WORKLOAD,
        "--workload",
        "-w",
        metavar="NAME|FILE",
        autocompletion=completion.workload_names,
    ),
]
NumRequests = Annotated[
    int | None,
    option(
        "Take so many requests. Default: 500 of a built-in workload, all of a file.",
        WORKLOAD,
        "--num-requests",
        min=1,
        max=10**7,
    ),
]
RequestRate = Annotated[
    float | None,
    option("Requests a second (Poisson). Default: all at once, or as the file says.", WORKLOAD, "--request-rate", metavar="R"),
]
OutputTokens = Annotated[
    int, option("Output tokens of requests whose file does not say how many.", WORKLOAD, "--max-tokens", metavar="N", min=1)
]

Replay = Annotated[
    bool, option("Run the workload through the scheduler on a clock of modelled steps.", REPLAY, "--replay/--no-replay")
]
Compare = Annotated[
    bool,
    option("Replay it under other systems' memory policies too, as a report (--html, --plots) does.", REPLAY, "--compare"),
]
Policies = Annotated[
    str | None,
    option(
        "Replay these: paged,paged-prefix,reserve-max/static: a policy, and after a slash continuous, static or none.",
        REPLAY,
        "--policies",
        metavar="LIST",
        autocompletion=completion.policies,
    ),
]
BlockSizes = Annotated[
    str | None,
    option(
        "What these block sizes waste, as 1,8,16,...,256 (... doubles): in last blocks, and in the replay.",
        REPLAY,
        "--block-sizes",
        metavar="LIST",
    ),
]
Sharing = Annotated[bool, option("What samples, beams and common prefixes save by sharing blocks.", REPLAY, "--sharing")]

All = Annotated[
    bool, option("Show the whole plan: memory by part, lengths, blocks, the replay. Without: one screen.", REPORT, "--all")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.", rich_help_panel=REPORT)]
Html = Annotated[
    Path | None, option("Write a report with charts: one page that needs no network.", REPORT, "--html", metavar="FILE")
]
Plots = Annotated[Path | None, option("Write the report's charts as PNG files.", REPORT, "--plots", metavar="DIR")]
