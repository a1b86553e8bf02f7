"""Sharded loading: of the weight file a rank reads its share of what is split, what is whole, and hardly a page more.

Of a matrix that is cut by columns every row is read in part, from page to page: rows are as wide here as those of large models.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pagecli.devices.cpu import kernels
from pagecli.distributed.group_memory import GroupMemory, GroupShape
from pagecli.distributed.rank import Rank, RankSpec
from pagecli.model.build_program import build
from pagecli.model.program import Reduce
from pagecli.model.registry import resolve_model
from pagecli.model.shards import segment, shard
from pagecli.model.weights.reader import WeightReader
from pagecli.model.weights.safetensors_file import SafetensorsSource

PAGE, RANKS, WIDTH = 4096, 2, 160 * 256
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 160, "num_key_value_heads": 160, "head_dim": 256, "intermediate_size": WIDTH, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64, "rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    program = build(resolve_model(str(tmp_path), "dummy").config)
    tensors = {}
    for weight in program.weights():
        for name, shape in zip(weight.names, weight.shapes, strict=True):
            tensors[name] = np.ones(shape, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def pages_read(monkeypatch):
    """Numbers of the file's pages that were read: of views of the mapped file, those that their elements lie on."""
    found, bases = set(), []
    read, read_weight = SafetensorsSource.read, WeightReader.read

    def noted_base(self, name, shape):
        tensor = read(self, name, shape)
        bases[:] = [shard.data.view(0, len(shard.data)).ctypes.data for shard in self._opened.values()]
        return tensor

    def note(tensor):
        for row in tensor if tensor.ndim == 2 and not tensor.flags.c_contiguous else [tensor]:
            first = row.ctypes.data - bases[0]
            found.update(range(first // PAGE, (first + row.nbytes - 1) // PAGE + 1))

    def noted(self, weight):
        if weight.is_part:
            last = weight.first_column + weight.columns
            for tensor, (start, end) in self._rows_of_parts(weight):
                note(tensor[start:end, weight.first_column : last] if weight.columns else tensor[start:end])
        else:
            for name, shape in zip(weight.names, weight.shapes, strict=True):
                note(self.source.read(name, shape))
        return read_weight(self, weight)

    monkeypatch.setattr(SafetensorsSource, "read", noted_base)
    monkeypatch.setattr(WeightReader, "read", noted)
    return found


def test_a_rank_reads_its_share_and_all_ranks_read_all(checkpoint, pages_read):
    source = resolve_model(str(checkpoint))
    program, everything = segment(build(source.config), RANKS), set()
    parts = [name for layer in program.layers for op in layer if isinstance(op, Reduce) for name in op.parts]
    shape = GroupShape(RANKS, 64, tuple(parts), 4, 32, 64)
    memory = GroupMemory(shape)
    kernels.set_num_threads(1)
    for rank in range(RANKS):
        pages_read.clear()
        settings = {"model": str(checkpoint), "load_format": "auto", "dtype": "float32", "max_batch_tokens": 4, "timeout": 5.0}
        settings |= {"num_threads": 1, "memory_fd": memory.fd, "shape": shape}
        Rank(RankSpec(rank=rank, size=RANKS, num_segments=RANKS, **settings))
        share = 4 * shard(program, rank, RANKS).num_parameters
        assert share < 0.51 * (checkpoint / "model.safetensors").stat().st_size
        assert share <= PAGE * len(pages_read) + PAGE
        assert PAGE * len(pages_read) <= 1.05 * share
        everything |= pages_read
    assert len(everything) >= (checkpoint / "model.safetensors").stat().st_size // PAGE - 1
