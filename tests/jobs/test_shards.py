"""Parts of a job, and pagecli merge: put together they are what one run writes; what is missing or doubled is said."""

import json
import os
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_jobs import run_job

from pagecli.errors import InputError, UsageError
from pagecli.jobs.rows.row_selection import RowChoice
from pagecli.jobs.shards import parquet_shards
from pagecli.jobs.shards.merge import merge_outputs


def write_input(path, num_rows):
    rows = [{"prompt": f"prompt {i}", "deep": {"i": i}} for i in range(num_rows)]
    lines = [json.dumps(row) for row in rows]
    for number in range(0, num_rows, 7):
        lines[number] = "broken" if number % 2 else json.dumps({"prompt": "ü", "mixed": [1, "a", None][number % 3]})
    path.write_text("".join(line + "\n" for line in lines))
    return path


def parts_of(tmp_path, source, count, suffix, **choice):
    paths = []
    for number in range(1, count + 1):
        paths.append(str(tmp_path / f"part-{number}{suffix}"))
        run_job(source, paths[-1], seed=number, shard=f"{number}/{count}", **choice)
    return paths


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize(("num_rows", "count"), [(40, 3), (2, 4), (0, 2), (5, 1)])
def test_parts_put_together_are_what_one_run_writes(tmp_path, monkeypatch, suffix, num_rows, count):
    monkeypatch.setattr(parquet_shards, "BATCH_ROWS", 3)
    source = write_input(tmp_path / "in.jsonl", num_rows)
    run_job(source, tmp_path / f"whole{suffix}")
    parts = parts_of(tmp_path, source, count, suffix)
    random.Random(1).shuffle(parts)
    merged = merge_outputs(parts, str(tmp_path / f"merged{suffix}"), overwrite=False)
    assert (merged.num_rows, merged.num_parts) == (num_rows, count)
    if suffix == ".parquet":
        whole, found = (pq.read_table(tmp_path / f"{name}{suffix}") for name in ("whole", "merged"))
        assert sorted(found.column_names) == sorted(whole.column_names)
        assert found.select(whole.column_names).to_pylist() == whole.to_pylist()
    else:
        read = pa.input_stream
        assert read(str(tmp_path / f"merged{suffix}")).read() == read(str(tmp_path / f"whole{suffix}")).read()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_part_whose_text_was_changed_since_is_refused_or_merged_as_it_was(tmp_path, suffix):
    """Wherever a bit of it was changed; its rows may all still be valid."""
    source = write_input(tmp_path / "in.jsonl", 12)
    run_job(source, tmp_path / f"whole{suffix}")
    parts = parts_of(tmp_path, source, 2, suffix)
    good, whole = Path(parts[1]).read_bytes(), (tmp_path / f"whole{suffix}").read_bytes()
    end = len(good) - (8 + int.from_bytes(good[-8:-4], "little") if suffix == ".parquet" else 0)  # before its footer
    positions = range(0, end, 1 + end // 200)
    refused = 0
    for position in positions:
        changed = bytearray(good)
        changed[position] ^= 1
        Path(parts[1]).write_bytes(changed)
        merged = tmp_path / f"merged{suffix}"
        try:
            merge_outputs(parts, str(merged), overwrite=True)
        except InputError:
            refused += 1
            continue
        if suffix == ".parquet":
            assert pq.read_table(merged).to_pylist() == pq.read_table(tmp_path / f"whole{suffix}").to_pylist(), position
        else:
            assert merged.read_bytes() == whole, position
    assert refused > len(positions) // 3


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_of_several_samples_stay_together(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(parquet_shards, "BATCH_ROWS", 2)
    parts = []
    for number in (1, 2):
        rows = [
            {"id": row, "sample": sample, "text": "x", "error": None,
             "pagecli_shard": {"number": number, "count": 2, "row": row, "job": "a"}}
            for row in range(number - 1, 8, 2) for sample in range(1 + row % 4)
        ]  # fmt: skip
        for line, row in enumerate(rows):
            row["pagecli_shard"]["line"] = line
        if suffix == ".jsonl":
            rows[-1]["pagecli_shard"]["rows"] = 8
        parts.append(str(tmp_path / f"{number}{suffix}"))
        if suffix == ".parquet":
            schema = pa.schema(
                {"id": pa.int64(), "sample": pa.int32(), "text": pa.string(), "error": pa.string(),
                 "pagecli_shard": parquet_shards.SHARD_TYPE}
            )  # fmt: skip
            pq.write_table(pa.Table.from_pylist(rows, schema), parts[-1])
        else:
            (tmp_path / f"{number}{suffix}").write_text("".join(json.dumps(row) + "\n" for row in rows))
    merge_outputs(parts, str(tmp_path / f"all{suffix}"), overwrite=False)
    if suffix == ".parquet":
        found = pq.read_table(tmp_path / "all.parquet").to_pylist()
    else:
        found = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(row["id"], row["sample"]) for row in found] == [(i, s) for i in range(8) for s in range(1 + i % 4)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_is_missing_doubled_or_no_part_is_said_and_nothing_is_written(tmp_path, suffix):
    source = write_input(tmp_path / "in.jsonl", 20)
    parts = parts_of(tmp_path, source, 3, suffix)
    out = str(tmp_path / f"merged{suffix}")
    (tmp_path / f"copy{suffix}").write_bytes((tmp_path / f"part-1{suffix}").read_bytes())
    run_job(source, tmp_path / f"whole{suffix}")
    run_job(source, tmp_path / f"other{suffix}", shard="3/4")
    run_job(source, tmp_path / f"short{suffix}", shard="3/3", limit=9)
    copy, whole, other, short = (str(tmp_path / f"{name}{suffix}") for name in ("copy", "whole", "other", "short"))
    cases = [
        (parts[:2], "parts are missing: 3/3"),
        ([*parts[:2], copy], "both part 1/3"),
        ([*parts[:2], whole], "no part of a job|no row of a part"),
        ([*parts[:2], other], "one of 3 parts, .* one of 4"),
        ([*parts[:2], short], "row 11 of the whole is missing|is of 20 rows, .* of 9"),
    ]
    for paths, says in cases:
        with pytest.raises(InputError, match=says):
            merge_outputs(paths, out, overwrite=False)
    with pytest.raises(UsageError, match="named more than once"):
        merge_outputs([*parts, parts[0]], out, overwrite=False)
    with pytest.raises(UsageError, match="parts and output are not all"):
        merge_outputs(parts, str(tmp_path / "merged.jsonl.gz") if suffix == ".parquet" else out + ".parquet", overwrite=False)
    with pytest.raises(UsageError, match="already exists"):
        merge_outputs(parts, whole, overwrite=False)
    assert not (tmp_path / f"merged{suffix}").exists()
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("avx512bf16-b-c-d-e", "different jobs: computed on avx2 and on avx512bf16; .*PAGECLI_CPU_ISA=avx2"),
        ("avx2-x-c-d-e", "different jobs: what differs: the input"),
        ("avx2-b-x-d-e", "the model"),
        ("avx2-b-c-x-e", "a flag"),
        ("avx2-b-c-d-x", "--template-time"),
        ("avx512-x-x-x-d-e", "the device, the input, the model"),
    ],
)
def test_parts_of_different_jobs_are_told_by_what_differs(tmp_path, suffix, key, says):
    source = write_input(tmp_path / "in.jsonl", 9)
    paths = [str(tmp_path / f"{number}{suffix}") for number in (1, 2)]
    for number, (path, job) in enumerate(zip(paths, ["avx2-b-c-d-e", key], strict=True), 1):
        run_job(source, path, shard=f"{number}/2", job=job)
    with pytest.raises(InputError) as caught:
        merge_outputs(paths, str(tmp_path / f"all{suffix}"), overwrite=False)
    assert re.search(says, f"{caught.value.message}; {caught.value.hint}")


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(1, 12),
    count=st.integers(1, 4),
    damage=st.sampled_from(["twice", "gone", "swapped", "cut", "emptied"]),
    where=st.integers(0, 100),
)
def test_no_line_of_a_part_can_be_lost_or_doubled_unnoticed(tmp_path_factory, num_rows, count, damage, where):
    """Rows with several samples among them; the part is chosen as the line is."""
    folder = tmp_path_factory.mktemp("parts")
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"p{i}", "n": 1 + i % 3}) + "\n" for i in range(num_rows)))
    parts = parts_of(folder, source, count, ".jsonl")
    part = Path(parts[where % min(count, num_rows)])
    lines = part.read_bytes().splitlines(keepends=True)
    at = where % len(lines)
    if damage == "twice":
        lines.insert(at, lines[at])
    elif damage == "gone":
        del lines[at]
    elif damage == "swapped":
        lines[at - 1], lines[at] = lines[at], lines[at - 1]
    else:
        lines = lines[: at if damage == "cut" else 0]
    if lines == part.read_bytes().splitlines(keepends=True):
        return
    part.write_bytes(b"".join(lines))
    if not lines and min(count, num_rows) == 1:
        return  # no row is left that could tell of the others
    with pytest.raises(InputError):
        merge_outputs(parts, str(folder / "all.jsonl"), overwrite=False)


@settings(max_examples=20, deadline=None)
@given(num_rows=st.integers(0, 30), count=st.integers(1, 6), limit=st.none() | st.integers(1, 12))
def test_every_selected_row_is_in_exactly_one_part(tmp_path_factory, num_rows, count, limit):
    from pagecli.jobs.readers.open_input import open_input
    from pagecli.jobs.rows.row_selection import SelectedRows

    path = tmp_path_factory.mktemp("in") / "in.jsonl"
    path.write_text("".join(f'{{"prompt": "a", "x": {i}}}\n' for i in range(num_rows)))
    where = {"where": "x != 3", "limit": limit}
    whole = [row.number for row in SelectedRows(open_input(str(path)), RowChoice(**where).parse())]
    parts = []
    for number in range(1, count + 1):
        selected = SelectedRows(open_input(str(path)), RowChoice(**where, shard=f"{number}/{count}").parse())
        rows = list(selected)
        assert [row.index for row in rows] == list(range(len(rows)))
        assert (selected.estimate().num_rows, selected.estimate().exact) == (len(rows), True)
        parts += [row.number for row in rows]
    assert sorted(parts) == whole == [i for i in range(num_rows) if i != 3][:limit]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_part_that_might_never_end_is_refused(tmp_path, suffix, kind):
    part, odd = tmp_path / f"part{suffix}", tmp_path / f"odd{suffix}"
    part.touch()
    os.mkfifo(odd) if kind == "pipe" else odd.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=f"odd{suffix} is a pipe or a device"):
        merge_outputs([str(part), str(odd)], str(tmp_path / f"all{suffix}"), overwrite=False)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/5"])
def test_shard_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="--shard"):
        RowChoice(shard=text).parse()
