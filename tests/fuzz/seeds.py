"""Good inputs that each fuzz target starts from."""

import io
import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.core.outputs import TokenLogprobs
from pagecli.jobs.journal import journal
from pagecli.jobs.rows.row import InputRow, OutputRow
from pagecli.jobs.storage.job_directory import log_line

REQUEST = {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions"}
BODY = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "max_tokens": 5, "n": 2}
ROWS = [
    {"id": "a", "prompt": "hello", "temperature": 0.5, "stop": ["x"], "n": 2},
    {"messages": [{"role": "user", "content": "hi"}], "seed": 3, "logprobs": 2},
    {"prompt_token_ids": [1, 2], "max_tokens": 3, "early_stopping": "never", "text": "\u00fc\ud83d\ude00"},
]


def seeds_of(target: str) -> list[bytes]:
    """Inputs of `target`; some targets begin from nothing."""
    lines = [json.dumps(row).encode() for row in ROWS]
    batch = json.dumps({**REQUEST, "body": BODY}).encode()
    shard = b'{"id": 0, "text": "a", "pagecli_shard": {"number": 1, "count": 1, "row": %d}}\n'
    return {
        "jsonl_line": [*lines, b'{"prompt": "\xff"}', rb'{"prompt": "\ud83d"}'],
        "openai_batch": [batch, b'"n": 2, "stop": null, "seed": -1', b'"logprobs": true, "top_logprobs": 3, "tools": []'],
        "jsonl_file": [b"\n".join(lines), batch + b"\n" + batch, b"\xef\xbb\xbf" + lines[0]],
        "csv_file": [b'prompt,n,messages\n"a ""b""",2,\n,,"[{""role"": ""user""}]"\n', b"prompt\tx\r\na\tb\r\n"],
        "parquet_file": [_parquet("none"), _parquet("snappy")],
        "condition": [b"a == 1 and (b != 'x' or c is null)", b'not d.e in (1, 2.5, true) or `b` contains "t"'],
        "merge_part": [shard % 0 + shard % 1, shard % 0 + shard % 0],
        "journal_file": [_log(), _log()[:-20]],
        "journal_payload": [journal.encode(_outputs())],
        "config_file": [b'temperature = 0.5\nstop = ["a"]\n[generate]\nmax_tokens = 3\n', b'model = "x"\n[profile]\n'],
        "secrets": [b"https://user:pass@host/p?token=abcdef Bearer abcdefgh12 hf_abcdefghijklmnopqrst AKIAABCDEFGHIJKLMNOP"],
        "gguf_header": [_gguf()],
        "safetensors_header": [b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"__metadata__":{"a":"b"}}'],
        "template": [
            b"{% for m in messages %}{{ m.role }}{% if not loop.last %}{{ m['content']|trim }}{% endif %}{% endfor %}",
            b"{% macro f(n) %}{{ f(n - 1) if n else '' }}{% endmacro %}{{ f(3) }}",
            b"{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ 'a' * 3 }}{{ 2 ** 3 }}{{ messages | tojson }}",
        ],
    }.get(target, [])


def _outputs() -> list[OutputRow]:
    row = InputRow(3, {"prompt": "a"})
    logprobs = [TokenLogprobs(1, -0.5, ((1, -0.5), (2, float("-inf"))))]
    return [OutputRow(row, text="t", token_ids=[1], finish_reason="stop", prompt_tokens=1, output_tokens=1, logprobs=logprobs)]


def _log() -> bytes:
    outputs = _outputs()
    digest = journal.row_digest(outputs[0].row).hex().encode()
    lines = (b"job", b'{"format":3}'), (b"row", b"3 1 0 %b %b" % (digest, journal.encode(outputs))), (b"outcome", b"{}")
    return b"".join(log_line(kind, rest) for kind, rest in (*lines, (b"published", b'{"inode":1}')))


def _parquet(compression: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a", None], "x": [[1], []]}), file, compression=compression)
    return file.getvalue()


def _gguf() -> bytes:
    """Without the first four bytes."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    metadata = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    metadata += text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b")
    metadata += text(b"scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.5)
    tensor = text(b"w") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    return struct.pack("<IQQ", 3, 1, 3) + metadata + tensor + bytes(64)
