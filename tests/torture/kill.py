"""The torture campaign: a job is killed, starved and damaged at random, run again until done, and must come out unharmed.

    python tests/torture/kill.py --kills 300 --rows 2000 --save

Kills are SIGKILL, and among them other signals: by the clock, inside a call of the operating system (whoever makes it: Python,
SQLite, Arrow), and while a process of its own starts up. Faults are calls that fail (ENOSPC, EIO), write half, and files that
may not grow. Between runs the journal's files are cut, lengthened, flipped or lost. Around runs and in the middle of them
inputs, weights, templates, instruction sets and days change (cases.py, changes.py); descriptors are closed; parts are merged;
pipes, devices and links are written to. After each job the output must equal that of an undisturbed run (JSON Lines: every
byte; Parquet: the table), with nothing left beside it. Counts go to tests/torture/results/ with --save.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import cases
import injected_faults
import tortured_run
from campaign import AS_IT_IS, Campaign
from merge_campaign import MergeCampaign
from target_campaign import TargetCampaign

RESULTS = Path(__file__).resolve().parent / "results"
TARGET_ROWS = 64
KILLS_OF_A_JOB, KILLS_OF_A_MERGE, KILLS_OF_A_TARGET = 6, 4, 1


def kill_processes(campaign: Campaign, count: int) -> None:
    """Runs with all their imports, killed while they start and work; after a job that is done comes another."""
    closing, plain = (next(case for case in cases.CASES if case.closes is closes) for closes in (True, False))
    while count > 0:
        job = campaign.begin(campaign.random.choice((closing, plain)))
        job.worlds.add(AS_IT_IS)
        undisturbed = 2.0 + campaign.seconds[job.case.name]
        while count > 0 and not job.done:
            closed = tuple(fd for fd in (0, 1, 2) if job.case.closes and campaign.random.random() < 0.5)
            process = tortured_run.start_process(job.folder, job.case.arguments(), closed)
            time.sleep(campaign.random.random() * undisturbed)
            process.kill()
            said = process.communicate()[1].decode()
            if process.returncode == -signal.SIGKILL:
                count -= 1
                campaign.counts["kills"] += 1
                campaign.counts["kills of processes starting up"] += 1
                campaign.note_killed(job)
            else:
                campaign.judge(job, tortured_run.Ended(process.returncode, said, 0.0))
        campaign.finish(job)


def run(kills: int, rows: int, processes: int, seed: int, folder: Path, chosen: list[str], each: int) -> Counter[str]:
    """The whole campaign, all cases in turn; or those that are `chosen`, alone. Raises LossError at the first loss."""
    tortured_run.import_what_jobs_need()
    campaign = Campaign(folder, rows, seed)
    tortured = [case for case in cases.CASES if case.name in chosen or not chosen]
    targets, merges = TargetCampaign(campaign, min(rows, TARGET_ROWS)), MergeCampaign(campaign, rows)
    pairs = list(targets.all_pairs())
    campaign.random.shuffle(pairs)
    number = 0
    while (left := kills - processes - campaign.counts["kills"]) > 0:
        campaign.torture(tortured[number % len(tortured)], min(each, left), faults=2, changes=2)
        number += 1
        if not chosen and number % 2 == 0 and left > KILLS_OF_A_JOB:
            merges.torture(min(KILLS_OF_A_MERGE, left))
            for _ in range(min(2, len(pairs))):
                targets.torture(*pairs.pop(), KILLS_OF_A_TARGET)
        if number % 10 == 0:
            print(f"{campaign.counts['kills']} kills in {number} jobs, no loss", flush=True)
    kill_processes(campaign, processes)
    campaign.counts["losses"] = 0  # the first one would have ended the campaign
    return campaign.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--processes", type=int, default=None, help="of the kills, how many of whole processes (default: a tenth)"
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--case", action="append", default=[], help="only this case; may be given several times")
    parser.add_argument("--each", type=int, default=KILLS_OF_A_JOB, help="kills of one job")
    parser.add_argument("--save", action="store_true", help="keep the counts under tests/torture/results/")
    args = parser.parse_args()
    injected_faults.preload()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    processes = args.kills // 10 if args.processes is None else args.processes
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        counts = run(args.kills, args.rows, processes, seed, folder, args.case, args.each)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    body = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python tests/torture/kill.py "
        f"--kills {args.kills} --rows {args.rows} --processes {processes} --seed {seed} --each {args.each}"
        + "".join(f" --case '{name}'" for name in args.case),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        "seconds": round(time.monotonic() - started, 1),
        "counts": {name: count for name, count in sorted(counts.items()) if count or name == "losses"},
    }
    print(json.dumps(body, indent=2))
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"kill{'-of-some-cases' if args.case else ''}-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(body, indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
