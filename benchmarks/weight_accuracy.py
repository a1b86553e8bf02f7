"""What narrower weights and KV caches cost in quality: greedy texts of a real model, judged by the same model in float32.

    python benchmarks/weight_accuracy.py --save       # SmolLM2, the 64 sample prompts, 64 tokens each; some three minutes
    python benchmarks/weight_accuracy.py --dtypes float32/bfloat16,float32/int8 --save      # weights / KV cache

Three measures for each dtype: the mean log probability, under float32, of the text that it writes greedily, beside that of
float32's own text (a text of worse choices has a lower one); and, over float32's text, how often both would choose the same
next token, and the mean KL divergence of its next tokens from float32's.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import results_file
import torch

from pagecli.core.dtypes import KV_DTYPE
from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import HostModel, StepInputs, load_model
from pagecli.devices.cpu import device
from pagecli.engine.engine import Engine
from pagecli.model.registry import resolve_model

SAMPLE_PROMPTS = Path(__file__).resolve().parents[1] / "sample_data" / "prompts.jsonl"
Text = tuple[list[int], list[int]]  # token ids of prompt and output


def greedy_texts(model: str, name: str, prompts: list[str], num_tokens: int) -> list[Text]:
    dtype, kv_dtype = dtypes_of(name)
    engine = Engine(EngineConfig(model, dtype=dtype, kv_dtype=kv_dtype))  # type: ignore[arg-type]
    texts: dict[int, Text] = {}
    for i, prompt in enumerate(prompts):
        token_ids = engine.tokenizer.apply_chat_template([{"role": "user", "content": prompt}])
        engine.add_request(i, token_ids, SamplingParams(max_tokens=num_tokens))
        texts[i] = (token_ids, [])
    while engine.has_unfinished():
        for done in engine.step():
            texts[done.request_id] = (texts[done.request_id][0], done.sequences[0].token_ids)
    return [texts[i] for i in range(len(prompts))]


def dtypes_of(name: str) -> tuple[str, str]:
    """ "int8" or "float32/int8" -> of the weights, of the KV cache."""
    dtype, _, kv_dtype = name.partition("/")
    return dtype, kv_dtype or KV_DTYPE[dtype]


def next_token_logprobs(model: HostModel, name: str, text: Text) -> torch.Tensor:
    """log probabilities [output tokens, vocab] before each output token, the whole text given."""
    prompt, output = text
    token_ids = (prompt + output)[:-1]
    num_tokens = len(token_ids)
    cache = device.allocate(model.config, 1, num_tokens, dtypes_of(name)[1])  # one block of the text's size
    inputs = StepInputs(
        token_ids=np.array(token_ids, dtype=np.int32),
        positions=np.arange(num_tokens, dtype=np.int32),
        slot_ids=np.arange(num_tokens),
        block_tables=np.zeros((1, 1), dtype=np.int32),
        context_lens=np.array([num_tokens], dtype=np.int32),
        query_start=np.array([0, num_tokens], dtype=np.int32),
        logit_rows=np.arange(len(prompt) - 1, num_tokens),
    )
    return torch.log_softmax(torch.from_numpy(model.forward(inputs, cache)), dim=-1)


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    rows = [json.loads(line) for line in SAMPLE_PROMPTS.read_text().splitlines()]
    prompts = [row["prompt"] for row in rows if "prompt" in row][: args.prompts]
    dtypes = ["float32", *args.dtypes.split(",")]
    texts = {dtype: greedy_texts(args.model, dtype, prompts, args.tokens) for dtype in dtypes}
    longest = max(len(p) + len(o) for of_dtype in texts.values() for p, o in of_dtype)
    judge = load_model(resolve_model(args.model), "float32", longest)
    exact = [next_token_logprobs(judge, "float32", text) for text in texts["float32"]]
    results = {}
    for dtype in dtypes:
        judged = [
            next_token_logprobs(judge, "float32", text).gather(1, torch.tensor(text[1])[:, None]) for text in texts[dtype]
        ]
        model = judge if dtype == "float32" else load_model(resolve_model(args.model), dtypes_of(dtype)[0], longest)
        same: list[torch.Tensor] = []
        divergences: list[torch.Tensor] = []
        for text, expected in zip(texts["float32"], exact, strict=True):
            found = next_token_logprobs(model, dtype, text)
            same.append(found.argmax(-1) == expected.argmax(-1))
            divergences.append((expected.exp() * (expected - found)).sum(-1))
        results[dtype] = {
            "mean_logprob_of_its_text": float(torch.cat(judged).mean()),
            "same_next_token": float(torch.cat(same).float().mean()),
            "kl_divergence": float(torch.cat(divergences).mean()),
            "identical_texts": sum(a == b for a, b in zip(texts[dtype], texts["float32"], strict=True)),
            "num_texts": len(prompts),
        }
        own = results["float32"]["mean_logprob_of_its_text"]
        loss = 1 - own / results[dtype]["mean_logprob_of_its_text"]
        results[dtype]["loss"] = loss
        print(f"{dtype}: {json.dumps(results[dtype])}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtypes", default="bfloat16,int8")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    results = measure(args)
    if args.save:
        command = " ".join(["python", "benchmarks/weight_accuracy.py", *sys.argv[1:]])
        kind = "kv-accuracy" if "/" in args.dtypes else "weight-accuracy"
        print(results_file.save(f"{kind}-{args.model}", command, results))


if __name__ == "__main__":
    main()
