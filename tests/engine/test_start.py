"""What a job on the CPU does not wait for."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_job_on_the_cpu_imports_neither_torch_nor_transformers(tiny_model, tmp_path):
    """They take 2 and 3 s to import, more than a short job takes to compute. A copy of the tokenizer is kept."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two", "temperature": 0.7, "logprobs": 2}\n')
    command = ["generate", str(tmp_path / "in.jsonl"), str(tmp_path / "out.parquet"), "--overwrite", "--quiet"]
    command += ["--model", str(tiny_model("llama")), "--max-tokens", "4"]
    code = (
        "import sys, atexit; from pagecli.cli.app import main;"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)); main()"
    )
    for _ in range(2):
        result = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[]"
