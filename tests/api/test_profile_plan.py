"""pagecli.profile_plan: the plan of `pagecli profile`, and what its settings take."""

import json
from typing import get_type_hints

import pytest

import pagecli
from pagecli.api.settings import PlanSettings
from pagecli.cli.app import main


def test_a_plan_is_what_profile_prints_as_json(capsys):
    plan = pagecli.profile_plan("opt-13b", gpu="a100-40gb")
    with pytest.raises(SystemExit):
        main(["profile", "--model", "opt-13b", "--gpu", "a100-40gb", "--json", "--no-replay"])
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(json.dumps(plan)) == {name: printed[name] for name in ("model", "workload", "plan")}
    with pytest.raises(pagecli.UsageError):
        pagecli.profile_plan("opt-13b", gpu="no-such-gpu")
    with pytest.raises(TypeError, match="did you mean 'num_gpus'"):
        pagecli.profile_plan("opt-13b", num_gpu=1)


@pytest.mark.parametrize("name", sorted(get_type_hints(PlanSettings)))
def test_a_plan_takes_no_value_of_another_type_or_outside_of_its_flags_range(name):
    takes_number = get_type_hints(PlanSettings)[name] in (int, int | None)
    for value in (0, -1, "5", 2.5, True) if takes_number else (2.5, b"x", {1: 2}):
        with pytest.raises(pagecli.UsageError, match=f"{name} is"):
            pagecli.profile_plan("opt-125m", **{name: value})
    with pytest.raises(pagecli.UsageError, match="model is 5"):
        pagecli.profile_plan(5)
