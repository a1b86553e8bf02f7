"""Hostile input: lines of JSON and Parquet tables out of a random generator, to be read or refused row by row."""

import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.core.sampling_params import SamplingParams

GOOD = {"prompt": "hello", "id": "good"}
PARAMETERS = tuple(SamplingParams.__dataclass_fields__)
NAMES = [
    *("", "x", "text", "input_text", "input_input_text", "error", "sample", "score", "logprobs", "token_ids", "finish_reason"),
    *(
        "pagecli_shard",
        "pagecli_other_columns",
        "a.b",
        "a b",
        "\u0000",
        "\u202e",
        "\U0001f600",
        "n" * 300,
        "ARROW:schema",
        "Id",
    ),
]
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 63, 65, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, 2**64, 10**400, -(10**30)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e308, -1e308, 5e-324, 1e-320, 2.9e-39, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "0", "1e5", "true", "null", "NaN", "\u0000", "\ud83d", "\udc00\ud83d", "\ufeff", "\uffff", "\U0010ffff"),
    *("<|im_start|>", "<|endoftext|>", "{{ 1 }}", "{% for %}", "a" * 3000, "\n", "\r\n", "é", "﷽" * 50),
]


def json_value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if kind < 0.75 or depth > 4:
        return chance.choice(SCALARS)
    if kind < 0.85:
        return [json_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(NAMES): json_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def messages(chance: random.Random) -> Any:
    def content() -> Any:
        parts = [{"type": chance.choice(["text", "image_url", None]), "text": json_value(chance)} for _ in range(2)]
        return chance.choice(["hi", json_value(chance), parts, [{"type": "text", "text": "a"}]])

    roles = ["user", "system", "assistant", "developer", "tool", None, 3]
    chat = [{"role": chance.choice(roles), "content": content()} for _ in range(chance.randrange(4))]
    return chance.choice([chat, chat, chat, json_value(chance)])


def row(chance: random.Random) -> dict[str, Any]:
    """Mostly one prompt, with parameters and columns of any kind."""
    found: dict[str, Any] = {}
    prompts: dict[str, Callable[[], Any]] = {
        "prompt": lambda: chance.choice(["hello", "a b c", json_value(chance)]),
        "messages": lambda: messages(chance),
        "prompt_token_ids": lambda: chance.choice([[1, 5, 9], [2**40], [-1], [0] * 600, [1.5], json_value(chance)]),
    }
    for name in chance.choices(list(prompts), k=chance.choice([1, 1, 1, 1, 0, 2])):
        found[name] = prompts[name]()
    for name in chance.sample(PARAMETERS, k=chance.choice([0, 0, 1, 2, 4])):
        found[name] = json_value(chance)
    for name in chance.sample(NAMES, k=chance.choice([0, 0, 1, 3])):
        found[name] = json_value(chance)
    if chance.random() < 0.3:
        found["id"] = json_value(chance)
    if chance.random() < 0.02:
        found |= {f"key{chance.randrange(10**6)}": 1 for _ in range(200)}
    return found


def request(chance: random.Random) -> dict[str, Any]:
    """Of an OpenAI batch file."""
    url = chance.choice(["/v1/chat/completions", "/v1/completions", "/chat/completions", "/v1/embeddings", None, 5])
    extra = {name: json_value(chance) for name in chance.sample(["tools", "logit_bias", "stream", "top_logprobs", "zzz"], k=1)}
    line = {
        "custom_id": chance.choice(["a", json_value(chance)]),
        "method": "POST",
        "url": url,
        "body": {**row(chance), **extra},
    }
    if chance.random() < 0.2:
        line[chance.choice(["method", "url", "custom_id", "body", "more"])] = json_value(chance)
    return line


def json_line(chance: random.Random, batch: bool = False) -> bytes:
    """A line without its break; never blank."""
    kind = chance.random()
    if kind < 0.03:
        depth = chance.choice([20, 40, 90, 99, 100, 101, 500, 980, 3000])
        opened, closed = chance.choice([("[", "]"), ('{"a":', "}")])
        line = f'{{"prompt": "a", "x": {opened * depth}1{closed * depth}}}'.encode()
    else:
        text = json.dumps(request(chance) if batch else row(chance), ensure_ascii=chance.random() < 0.7)
        line = text.encode("utf-8", "surrogatepass")
    if kind > 0.8:
        line = damaged(chance, line)
    return line.replace(b"\n", b" ").strip() or b"?"


def damaged(chance: random.Random, content: bytes) -> bytes:
    """With some bytes changed, put in or taken out, or cut short."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(data) + 1)
        change = chance.choice(["set", "insert", "delete", "cut"])
        if change == "insert":
            data[place:place] = chance.randbytes(chance.choice([1, 1, 4]))
        elif change == "delete":
            del data[place : place + chance.choice([1, 1, 20])]
        elif change == "cut" and chance.random() < 0.3:
            del data[place:]
        elif place < len(data):
            data[place] = chance.randrange(256)
    return bytes(data)


def json_lines(chance: random.Random, num_rows: int, batch: bool) -> bytes:
    """The first row is good: a file that is something else altogether, or has no prompts, is refused as a whole."""
    first = {"custom_id": "good", "body": {"messages": [{"role": "user", "content": "a"}]}} if batch else GOOD
    lines = [json.dumps(first).encode(), *(json_line(chance, batch) for _ in range(num_rows - 1))]
    return b"\n".join(lines) + chance.choice([b"", b"\n", b"\r\n"])


FIXED = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Asia/Kolkata", "-11:30", "No/Where")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.decimal128(5, 2), pa.decimal128(38, 38), pa.decimal256(76, 3), pa.binary(3)),
]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]


def leaf(chance: random.Random, size: int) -> pa.Array:
    """Values of any bits of a type without parts."""
    kind = chance.choice([*FIXED, *TEXTS, pa.bool_(), pa.null(), "uuid", "dictionary", pa.string(), pa.string()])
    if kind == "uuid":
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([chance.randbytes(16) for _ in range(size)], pa.binary(16)))
    if kind == "dictionary":
        return texts(chance, size).dictionary_encode()
    if kind == pa.null():
        return pa.nulls(size)
    if kind == pa.bool_():
        return pa.array([chance.choice([True, False, None]) for _ in range(size)])
    if kind in (pa.binary(), pa.large_binary()):
        return pa.array([chance.choice([None, b"", chance.randbytes(3)]) for _ in range(size)], kind)
    if kind in TEXTS:
        return texts(chance, size).cast(kind)
    width = kind.bit_width // 8
    extremes = [b"\x00" * width, b"\xff" * width, b"\xff" * (width - 1) + b"\x7f", b"\x00" * (width - 1) + b"\x80"]
    data = b"".join(chance.choice([*extremes, chance.randbytes(width)]) for _ in range(size))
    valid = pa.py_buffer(chance.randbytes(size // 8 + 1)) if chance.random() < 0.7 else None
    return pa.Array.from_buffers(kind, size, [valid, pa.py_buffer(data)])


def texts(chance: random.Random, size: int) -> pa.Array:
    """Now and then not UTF-8."""
    bad = chance.random() < 0.1
    pool = [value.encode() for value in SCALARS if isinstance(value, str) and value.isprintable()]
    values = [chance.choice([None, chance.choice(pool), chance.randbytes(4) if bad else b"ok"]) for _ in range(size)]
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), size, array.buffers(), array.null_count)


def column(chance: random.Random, size: int, depth: int = 0) -> pa.Array:
    """A column of any type that Parquet has."""
    kind = chance.random()
    if kind < 0.6 or depth > chance.choice([2, 2, 2, 12]):
        return leaf(chance, size)
    nulls = pa.array([chance.random() < 0.2 for _ in range(size)], pa.bool_())
    if kind < 0.75:
        names = chance.sample(["a", "b", "", "text", "\U0001f600"], k=chance.choice([1, 2, 3]))
        return pa.StructArray.from_arrays([column(chance, size, depth + 1) for _ in names], names=names, mask=nulls)
    lengths = [chance.choice([0, 1, 2]) for _ in range(size)]
    offsets = pa.array([sum(lengths[:position]) for position in range(size + 1)], pa.int32())
    inner = column(chance, sum(lengths), depth + 1)
    if kind < 0.85:
        return pa.ListArray.from_arrays(offsets, inner, mask=nulls)
    if kind < 0.9:
        return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), inner, mask=nulls)
    if kind < 0.95:
        return pa.FixedSizeListArray.from_arrays(column(chance, 2 * size, depth + 1), 2)
    return pa.MapArray.from_arrays(offsets, pa.array([f"k{n}" for n in range(len(inner))], pa.string()), inner, mask=nulls)


def table(chance: random.Random, size: int) -> pa.Table:
    """With a column of prompts, of any type, and columns of parameters."""
    made: list[tuple[str, pa.Array]] = []
    prompt = chance.choice(["prompt", "prompt", "prompt", "messages", "prompt_token_ids"])
    if prompt == "prompt":
        made.append(("prompt", chance.choice([texts, texts, column])(chance, size)))
    elif prompt == "messages":
        rows = [[{"role": "user", "content": chance.choice(["hi", None])}] * chance.randrange(3) for _ in range(size)]
        made.append(("messages", chance.choice([pa.array(rows, MESSAGES), column(chance, size)])))
    else:
        ids = pa.array([chance.choice([None, [], [1, 2], [2**40], [-5]]) for _ in range(size)], pa.list_(pa.int64()))
        made.append(("prompt_token_ids", chance.choice([ids, column(chance, size)])))
    for name in chance.sample([*NAMES, *PARAMETERS, "id"], k=chance.randrange(6)):
        made.append((name, column(chance, size)))
    return pa.table([array for _, array in made], names=[name for name, _ in made])


MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def parquet_file(chance: random.Random) -> tuple[bytes, int]:
    """A file that Arrow writes and opens, and its number of rows."""
    while True:
        size = chance.choice([0, 1, 3, 10, 30])
        sink = pa.BufferOutputStream()
        try:
            pq.write_table(
                table(chance, size),
                sink,
                row_group_size=chance.choice([None, 1, 7]),
                compression=chance.choice(["none", "snappy", "zstd", "gzip"]),
                data_page_version=chance.choice(["1.0", "2.0"]),
                use_dictionary=chance.random() < 0.7,
            )
            content = sink.getvalue().to_pybytes()
            return content, pq.read_table(pa.BufferReader(content)).num_rows
        except pa.ArrowException:  # a type, or a value of it, that Parquet has not
            continue
