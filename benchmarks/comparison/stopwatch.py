"""Runs a command and writes when it began and ended, its peak memory and how it ended: RESULT.json SECONDS COMMAND...

A small process of its own, so that what stands around it (compare.py's --wrap, which may wait for its turn) is not in the time.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main() -> None:
    result_file, limit, *command = sys.argv[1:]
    started = time.time()
    process = subprocess.Popen(command, start_new_session=True)

    def end(number: int, frame: object) -> None:
        os.killpg(process.pid, signal.SIGKILL)

    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    signal.alarm(int(limit))
    _, status, usage = os.wait4(process.pid, 0)
    ended = time.time()
    code = os.waitstatus_to_exitcode(status)
    with open(result_file, "w") as file:
        json.dump({"started": started, "ended": ended, "exit_code": code, "peak_rss_mib": usage.ru_maxrss / 1024}, file)


if __name__ == "__main__":
    main()
