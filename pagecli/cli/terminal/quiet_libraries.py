"""Keeps the libraries below from talking over the program; must run before they are imported."""

import logging
import os
import warnings


def quieten(verbose: bool, show_downloads: bool, has_log: bool = False) -> None:
    """Sets what the libraries read at import; a variable the user has set stays. `verbose` leaves their warnings on.

    With a log, their warnings go there instead of nowhere.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one prompt at a time: nothing to share between threads
    if not show_downloads:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if verbose or has_log:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
