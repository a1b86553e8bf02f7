"""How many threads an engine has where no flag says: by OMP_NUM_THREADS, else by cores and the cgroup's quota."""

import pytest

from pagecli.engine import loaded_model


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
        ({"cpu.max": "", "cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "0\n"}, None),
    ],
)
def test_a_cgroup_of_either_version_limits_the_cpus(tmp_path, files, expected):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert loaded_model.cgroup_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), (" 4 , 2", 4), ("0", 7), ("", 7), ("\u00b2", 7), ("many", 7), ("-1", 7)]
)
def test_omp_num_threads_is_taken_where_it_is_a_number(monkeypatch, value, expected):
    monkeypatch.setattr(loaded_model, "usable_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert loaded_model.default_threads() == expected
