"""`pagecli` and `python -m pagecli`: signal handlers are set before the program is imported, which takes a second.

They are set by the part of `signal` that is in the interpreter: the rest takes milliseconds, in which Ctrl-C would end as a
traceback, as it does while Python itself starts.
"""

import _signal
import gc
import os

SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


def main() -> None:
    """Runs the program and ends the process with its exit code."""
    for number in SIGNALS:
        if _signal.getsignal(number) != _signal.SIG_IGN:  # as nohup and a shell's background jobs have them
            _signal.signal(number, end_at_once)
    gc.disable()  # while the program is imported, nothing becomes garbage
    from pagecli.cli.app import main as run

    gc.enable()
    run()


def end_at_once(signum: int, frame: object) -> None:
    """Ends the process. A command with state to save or files to remove installs its own handlers in place of this one."""
    os._exit(128 + signum)


if __name__ == "__main__":
    main()
