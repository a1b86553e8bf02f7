"""`pagecli` and `python -m pagecli`: signal handlers are set before the program is imported, which takes a second."""

import gc
import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Runs the program and ends the process with its exit code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background jobs have them
            signal.signal(number, end_at_once)
    gc.disable()  # while the program is imported, nothing becomes garbage
    from pagecli.cli.app import main as run

    gc.enable()
    run()


def end_at_once(signum: int, frame: FrameType | None) -> None:
    """Ends the process. A command with state to save or files to remove installs its own handlers in place of this one."""
    os._exit(128 + signum)


if __name__ == "__main__":
    main()
