"""Every family on two ranks: those that docs/families.md says can be shared compute what one process does with two segments.

The ranks are threads here, each with its shard, as the processes of a job have it: loading, sums and logits are theirs.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "families"))

from checkpoints import PROMPTS
from model.paged_steps import PagedSteps
from test_table import families_with_tests, tiny_configs, why_not_on_ranks

from pagecli.devices.base import RunSettings
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.device import CpuDevice
from pagecli.distributed.group_memory import GroupMemory, GroupShape
from pagecli.distributed.rank import Rank, RankSpec, Start
from pagecli.distributed.step_record import StepRecord, Wanted
from pagecli.model.build_program import build
from pagecli.model.program import Reduce
from pagecli.model.registry import resolve_model
from pagecli.model.shards import segment

RANKS, MAX_TOKENS, BLOCKS, BLOCK_SIZE = 2, 64, 64, 8
RUN_SETTINGS = RunSettings(
    name="tiny",
    block_size=BLOCK_SIZE,
    kv_dtype="float32",
    max_num_seqs=8,
    max_batch_tokens=MAX_TOKENS,
    max_model_len=64,
    kv_memory_bytes=None,
)


class ThreadedRanks:
    """Ranks as threads of this process, with a model's `forward`."""

    def __init__(self, folder, source):
        program = segment(build(source.config), RANKS)
        parts = [name for layer in program.layers for op in layer if isinstance(op, Reduce) for name in op.parts]
        shape = GroupShape(
            ranks=RANKS,
            record_bytes=64,
            part_names=tuple(dict.fromkeys(parts)),
            max_tokens=MAX_TOKENS,
            hidden_size=source.config.hidden_size,
            vocab_size=source.config.vocab_size,
        )
        self.config, self._memory = source.config, GroupMemory(shape)
        settings = {"model": str(folder), "load_format": "dummy", "dtype": "float32", "max_batch_tokens": MAX_TOKENS}
        settings |= {
            "num_threads": 1,
            "timeout": 60.0,
            "memory_fd": self._memory.fd,
            "shape": shape,
            "num_segments": RANKS,
        }
        self.ranks = [Rank(RankSpec(rank=rank, size=RANKS, **settings)) for rank in range(RANKS)]
        for rank in self.ranks:
            rank.prepare(Start(RUN_SETTINGS, BLOCKS))

    def forward(self, inputs, kv):
        """Logits, which the likeliest tokens of the ranks agree with."""
        memory, rows = self._memory, np.arange(len(inputs.logit_rows))
        self._run(StepRecord(0, Wanted.TOKENS, [], inputs))
        best, tokens = memory.best_logits[:, rows].copy(), memory.best_tokens[:, rows].copy()
        self._run(StepRecord(0, Wanted.LOGITS, [], inputs))
        logits = memory.logits[: len(rows)]
        assert np.array_equal(tokens[best.argmax(0), rows], logits.argmax(1))
        return logits

    def _run(self, record):
        threads = [threading.Thread(target=rank.run, args=(record,)) for rank in self.ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)


def logits_of(model):
    steps, found, done = PagedSteps(model, block_size=BLOCK_SIZE, num_blocks=BLOCKS), [], dict.fromkeys(PROMPTS, 0)
    for size in (1, 8, 1):
        chunks = {i: tokens[done[i] : done[i] + size] for i, tokens in PROMPTS.items() if done[i] < len(tokens)}
        done = {i: count + len(chunks.get(i, [])) for i, count in done.items()}
        found += [logits.numpy() for logits in steps.step(chunks).values()]
    return np.concatenate(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(families_with_tests()))
def test_shared_families_compute_what_segments_do(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(tiny_configs()[name][1] | {"architectures": [name]}, default=str))
    source = resolve_model(str(tmp_path), "dummy")
    if why := why_not_on_ranks(build(source.config)):
        pytest.skip(f"refused: {why}")
    kernels.set_num_threads(1)
    one = CpuDevice().load(source, "float32", MAX_TOKENS, lambda program: segment(program, RANKS))
    found = logits_of(ThreadedRanks(tmp_path, source))
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0
    assert np.array_equal(found, logits_of(one))
