"""Speed of pagecli.integrations.lm_eval beside lm-evaluation-harness' own transformers model: the same requests, float32.

    python benchmarks/lm_eval_speed.py --save          # needs the extra lm-eval, and accelerate for the harness' own model

Choices: questions of four choices behind eight examples (sample_data/gsm8k_8shot_prefix.txt). Rolling: each token of texts.
Generation: short answers. Both models answer each kind in one call of the harness' interface; the answers are compared.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import results_file
import torch

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"
CHOICES = (" 12 apples", " 30 miles", " 7", " no answer is possible")


def requests(num_questions: int, num_texts: int) -> dict:
    from lm_eval.api.instance import Instance

    def instance(kind: str, *arguments: object) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    examples = (SAMPLES / "gsm8k_8shot_prefix.txt").read_text()
    rows = [json.loads(line) for line in (SAMPLES / "prompts.jsonl").read_text().splitlines()]
    texts = [row["prompt"] for row in rows if "prompt" in row]
    contexts = [f"{examples}\nQuestion: {text}\nAnswer:" for text in texts[:num_questions]]
    stop = {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False}
    return {
        "loglikelihood": [instance("loglikelihood", context, choice) for context in contexts for choice in CHOICES],
        "loglikelihood_rolling": [instance("loglikelihood_rolling", " ".join(texts[i : i + 4])) for i in range(num_texts)],
        "generate_until": [instance("generate_until", f"Question: {text}\nAnswer:", stop) for text in texts[:num_texts]],
    }


def own_model(batch_size: int):
    """The harness' transformers model on the same file, float32."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from pagecli.model.registry import resolve_model

    path = resolve_model("smollm2-135m").weights_path
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=shapes)["tensors"]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return HFLM(model.eval(), tokenizer=tokenizer, batch_size=batch_size)


def answers(model, asked: dict) -> tuple[dict, dict]:
    """(seconds, answers) of each kind of request"""
    seconds, found = {}, {}
    for kind, instances in asked.items():
        started = time.perf_counter()
        found[kind] = getattr(model, kind)(instances, disable_tqdm=True)
        seconds[kind] = time.perf_counter() - started
    return seconds, found


def largest_difference(found: dict, expected: dict) -> float:
    """Of the log probabilities; SystemExit where a greedy flag or a text differs."""
    pairs = list(zip(found["loglikelihood"], expected["loglikelihood"], strict=True))
    if any(bool(ours[1]) != bool(theirs[1]) for ours, theirs in pairs):
        sys.exit("a greedy flag differs")
    if found["generate_until"] != expected["generate_until"]:
        sys.exit("a generated text differs")
    rolling = zip(found["loglikelihood_rolling"], expected["loglikelihood_rolling"], strict=True)
    return max(*(abs(ours[0] - theirs[0]) for ours, theirs in pairs), *(abs(ours - theirs) for ours, theirs in rolling))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4, help="of the harness' own model")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    from pagecli.integrations.lm_eval import PagecliLM

    asked = requests(args.questions, args.texts)
    theirs, expected = answers(own_model(args.batch_size), asked)
    ours, found = answers(PagecliLM("smollm2-135m", dtype="float32"), asked)
    difference = largest_difference(found, expected)
    cases = {}
    for kind, taken in {**theirs, "all": sum(theirs.values())}.items():
        mine = ours.get(kind, sum(ours.values()))
        cases[kind] = {"ratio": taken / mine, "seconds": mine, "seconds_of_transformers": taken}
        print(f"{kind:22} {taken:7.2f} s with transformers, {mine:6.2f} s with pagecli: {taken / mine:5.1f} times")
    print(f"largest difference of a log probability: {difference:.1e}")
    if args.save:
        command = " ".join(["python", "benchmarks/lm_eval_speed.py", *sys.argv[1:]])
        print(results_file.save("lm-eval-smollm2-135m-float32", command, {"cases": cases, "largest_difference": difference}))


if __name__ == "__main__":
    main()
