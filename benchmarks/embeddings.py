"""Texts embedded per second: pagecli's engine beside transformers, one by one and in padded batches, same dtype, same vectors.

    python benchmarks/embeddings.py                     # SmolLM2's states, mean of all tokens
    python benchmarks/embeddings.py --texts 128 --save

Texts are the sample prompts, repeated and cut to lengths between 8 and 200 tokens; float32. Checks that all three give the same
vectors within 1e-4 before anything is printed.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

TOLERANCE = 1e-4
BATCH = 16  # texts in a padded batch of transformers


def make_texts(count: int, vocab_size: int) -> list[list[int]]:
    """Token ids of lengths between 8 and 200, mean about 70."""
    chance = np.random.default_rng(0)
    lengths = np.clip(chance.lognormal(4.0, 0.7, count).astype(int), 8, 200)
    return [chance.integers(3, vocab_size, length).tolist() for length in lengths]


def with_pagecli(model: str, texts: list[list[int]], threads: int) -> tuple[np.ndarray, float]:
    """(vectors[N, hidden], seconds)."""
    from pagecli.core.engine_config import EngineConfig
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.engine.embedding import EmbeddingEngine
    from pagecli.model.pooling import Pooling

    engine = EmbeddingEngine(EngineConfig(model, dtype="float32", threads=threads), Pooling("mean"))
    started, done = time.perf_counter(), {}
    for i, token_ids in enumerate(texts):
        engine.add_request(i, token_ids, SamplingParams())
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences[0].embedding for output in engine.step()}
    seconds = time.perf_counter() - started
    return np.array([done[i] for i in range(len(texts))], dtype=np.float32), seconds


def with_transformers(model: Any, texts: list[list[int]], batch: int) -> tuple[np.ndarray, float]:
    """The same, in batches of texts of like length, padded on the right."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    started, done = time.perf_counter(), {}
    for first in range(0, len(order), batch):
        numbers = order[first : first + batch]
        longest = max(len(texts[i]) for i in numbers)
        ids = torch.tensor([texts[i] + [0] * (longest - len(texts[i])) for i in numbers])
        mask = torch.tensor([[1] * len(texts[i]) + [0] * (longest - len(texts[i])) for i in numbers])
        with torch.inference_mode():
            states = model(ids, attention_mask=mask).last_hidden_state
        means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        done |= dict(zip(numbers, torch.nn.functional.normalize(means, dim=1).numpy(), strict=True))
    return np.array([done[i] for i in range(len(texts))]), time.perf_counter() - started


def load_transformers(model: str, threads: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from pagecli.model.registry import resolve_model

    torch.set_num_threads(threads)
    path = resolve_model(model).weights_path
    assert path is not None
    if path.suffix != ".gguf":
        return AutoModel.from_pretrained(path.parent, dtype=torch.float32).eval()
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        shapes = AutoModel.from_config(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=shapes)["tensors"]
    found = AutoModel.from_config(config, dtype=torch.float32)
    found.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, strict=False)
    return found.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2, help="the quickest of so many counts")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/results/")
    options = parser.parse_args()
    model = load_transformers(options.model, options.threads)
    texts = make_texts(options.texts, model.config.vocab_size)
    num_tokens = sum(map(len, texts))
    runs: dict[str, Callable[[], tuple[np.ndarray, float]]] = {
        "pagecli": lambda: with_pagecli(options.model, texts, options.threads),
        f"transformers, batches of {BATCH}": lambda: with_transformers(model, texts, BATCH),
        "transformers, one by one": lambda: with_transformers(model, texts, 1),
    }
    rates, vectors = {}, {}
    for name, run in runs.items():
        found = [run() for _ in range(options.rounds)]
        vectors[name], rates[name] = found[0][0], num_tokens / min(seconds for _, seconds in found)
    difference = max(float(np.abs(each - vectors["pagecli"]).max()) for each in vectors.values())
    if difference > TOLERANCE:
        raise RuntimeError(f"vectors differ by {difference:.1e}")
    for name, rate in rates.items():
        print(f"{name:32}{rate:>10,.0f} tokens/s{rates['pagecli'] / rate:>8.2f}")
    print(f"{len(texts)} texts, {num_tokens:,} tokens, {options.threads} threads; vectors within {difference:.1e}")
    if options.save:
        import results_file

        command = " ".join(["python benchmarks/embeddings.py", *sys.argv[1:]])
        results = {"tokens_per_second": rates, "difference": difference, "num_texts": len(texts), "num_tokens": num_tokens}
        print(f"saved {results_file.save('embeddings', command, results)}", file=sys.stderr)


if __name__ == "__main__":
    main()
