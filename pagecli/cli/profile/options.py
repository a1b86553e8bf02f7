"""The options of `pagecli profile`."""

from dataclasses import dataclass

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import profile_options as profile_flags
from pagecli.cli.flags import recording_options as run_flags
from pagecli.cli.flags.engine_and_sampling import ENGINE_DEFAULTS, SAMPLING_DEFAULTS


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """A field a flag or argument, in the order of the help; the annotations are typer's."""

    model: flags.Model
    gpu: profile_flags.Gpu = "auto"
    num_gpus: profile_flags.NumGpus = None
    engine: profile_flags.EngineChoice = "pagecli"
    gpu_memory_utilization: profile_flags.GpuMemoryUtilization = 0.9
    max_model_len: profile_flags.MaxModelLen = None
    tensor_parallel_size: profile_flags.TensorParallelSize = None
    workers: profile_flags.Workers = None
    lora: flags.Lora = None
    merge_lora: flags.MergeLora = None
    dtype: flags.DTypeChoice = "auto"
    quantization: flags.QuantizationChoice = "auto"
    kv_dtype: profile_flags.KvDTypeChoice = "auto"
    kv_memory: profile_flags.KvMemory = "auto"
    block_size: profile_flags.BlockSize = ENGINE_DEFAULTS["block_size"]
    max_num_seqs: profile_flags.MaxNumSeqs = None
    max_batch_tokens: profile_flags.MaxBatchTokens = None
    workload: profile_flags.WorkloadChoice = "sharegpt"
    num_requests: profile_flags.NumRequests = None
    request_rate: profile_flags.RequestRate = None
    max_tokens: profile_flags.OutputTokens = SAMPLING_DEFAULTS["max_tokens"]
    replay: profile_flags.Replay = True
    compare: profile_flags.Compare = False
    policies: profile_flags.Policies = None
    block_sizes: profile_flags.BlockSizes = None
    sharing: profile_flags.Sharing = False
    sweep_sizes: run_flags.SweepSizes = None
    run: run_flags.Run = False
    max_seconds: run_flags.MaxSeconds = run_flags.DEFAULT_RUN_SECONDS
    sweep: run_flags.Sweep = None
    steps: run_flags.Steps = None
    trace: run_flags.Trace = None
    load_format: flags.LoadFormatChoice = "auto"
    threads: flags.Threads = None
    all: profile_flags.All = False
    json: profile_flags.Json = False
    html: profile_flags.Html = None
    plots: profile_flags.Plots = None
    no_config: flags.NoConfig = False
    quiet: flags.Quiet = False
    verbose: flags.Verbose = False
