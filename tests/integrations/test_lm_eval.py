"""lm-evaluation-harness runs the class: the same figures as its own transformers model, on local tasks of every kind."""

import json

import pytest
from tiny_adapters import save_adapter

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

QUESTIONS = [
    ("The capital of France is", ["Paris", "a river", "seven", "blue and green"], 0),
    ("Water freezes at zero degrees", ["Celsius", "of fox", "Paris", "apples"], 0),
    ("Two plus two is", ["a horse", "four", "seventeen thousand", "sad"], 1),
    ("The opposite of hot is", ["warm water", "cold", "summer", "run"], 1),
    ("A dog is an", ["animal", "equation", "airport", "hour"], 0),
    ("We see with our", ["ears and feet", "shoes", "eyes", "names"], 2),
]
TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "What is the capital of France?\n\nIt is Paris. " * 40,
]
TASKS = {
    "local_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "num_fewshot": 2,
        "fewshot_config": {"sampler": "first_n"},
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "local_generate": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 24, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Task files and their data, on the disk."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    questions = [{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]
    for name, task in TASKS.items():
        rows = [{"text": text} for text in TEXTS] if name == "local_rolling" else questions
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"test": str(data)} | ({"train": str(data)} if "num_fewshot" in task else {})
        dataset = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        splits = {"fewshot_split": "train"} if "num_fewshot" in task else {}
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **dataset, **splits, **task}))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module", autouse=True)
def no_network(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def evaluate(model, tasks):
    import lm_eval

    found = lm_eval.simple_evaluate(
        model=model, tasks=list(TASKS), task_manager=tasks, log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    return found["results"], found["samples"]


def check_same(found, expected):
    (results, samples), (own_results, own_samples) = found, expected
    for task, metrics in own_results.items():
        for name, value in metrics.items():
            if isinstance(value, float):
                assert results[task][name] == pytest.approx(value, rel=1e-4), (task, name)
    for task, rows in own_samples.items():
        for row, own in zip(samples[task], rows, strict=True):
            assert row["arguments"] == own["arguments"]
            if task == "local_generate":
                assert row["filtered_resps"] == own["filtered_resps"]
    for row, own in zip(samples["local_choice"], own_samples["local_choice"], strict=True):
        for (logprob, greedy), (own_logprob, own_greedy) in zip(row["filtered_resps"], own["filtered_resps"], strict=True):
            assert float(logprob) == pytest.approx(float(own_logprob), abs=2e-4)
            assert str(greedy) == str(own_greedy)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_figures_are_those_of_the_harness_own_model(tiny_model, tasks, name):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pagecli.integrations.lm_eval import PagecliLM

    path = str(tiny_model(name))
    own = HFLM(AutoModelForCausalLM.from_pretrained(path), tokenizer=AutoTokenizer.from_pretrained(path), batch_size=1)
    found = PagecliLM(path, dtype="float32", kv_memory_bytes=1 << 24)
    assert found.max_length == own.max_length
    check_same(evaluate(found, tasks), evaluate(own, tasks))


@pytest.mark.slow
def test_figures_of_a_real_model(sample_model, transformers_sample_model, tasks):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from pagecli.integrations.lm_eval import PagecliLM

    path = sample_model.weights_path
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    own = HFLM(transformers_sample_model, tokenizer=tokenizer, batch_size=4)
    check_same(evaluate(PagecliLM("smollm2-135m", dtype="float32"), tasks), evaluate(own, tasks))


@pytest.mark.slow
def test_an_adapter_that_requests_take_gives_the_figures_of_the_merged_model(tiny_model, tmp_path, tasks):
    """Choices, whole texts and generated ones; with no adapter named those of the model alone."""
    from pagecli.errors import UsageError
    from pagecli.integrations.lm_eval import PagecliLM

    path, settings = str(tiny_model("llama")), {"dtype": "float32", "kv_memory_bytes": 1 << 24}
    adapter = save_adapter(path, tmp_path / "adapter", r=4, target_modules="all-linear")
    found = PagecliLM(path, lora={"polite": str(adapter)}, **settings)
    assert found.adapter == "polite"
    merged, plain = (evaluate(PagecliLM(path, **extra, **settings), tasks) for extra in ({"merge_lora": str(adapter)}, {}))
    check_same(evaluate(found, tasks), merged)
    found.adapter = ""
    check_same(evaluate(found, tasks), plain)
    assert plain[0]["local_rolling"] != merged[0]["local_rolling"]
    with pytest.raises(UsageError, match="adapter is 'terse', which lora does not name"):
        PagecliLM(path, lora={"polite": str(adapter)}, adapter="terse", **settings)


def test_a_call_that_fails_leaves_no_request_to_the_next(tiny_model):
    """Whose requests have the same numbers: they would get the answers of others."""
    from types import SimpleNamespace

    from pagecli.errors import RowError
    from pagecli.integrations.lm_eval import PagecliLM

    def asked(*contexts):
        return [SimpleNamespace(args=(context, {"until": [], "max_gen_toks": 4})) for context in contexts]

    found = PagecliLM(str(tiny_model("llama")), dtype="float32", kv_memory_bytes=1 << 24)
    texts, scores = found.generate_until(asked("the quick", "brown")), found._loglikelihood_tokens([(None, [5], [6])])
    for failing in (
        lambda: found.generate_until(asked("a fox", "over the dog", "")),
        lambda: found._loglikelihood_tokens([(None, [7], [8]), (None, [9], [100_000])]),
    ):
        with pytest.raises(RowError):
            failing()
        assert not found.engine.has_unfinished()
        assert found.generate_until(asked("the quick", "brown")) == texts
        assert found._loglikelihood_tokens([(None, [5], [6])]) == scores
