"""How much of a long run is done: a tenth in CI, all of it where PAGECLI_NIGHTLY is set (`make nightly`)."""

import os

NIGHTLY = bool(os.environ.get("PAGECLI_NIGHTLY"))


def share(whole: int) -> int:
    return whole if NIGHTLY else whole // 10
