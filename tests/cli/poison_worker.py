"""A worker that a row with the text "poison" ends, as a fault of the machine would: python -m poison_worker FD."""

import os
import signal

from pagecli.engine.engine import Engine
from pagecli.jobs.workers import worker

add_request = Engine.add_request


def deadly(self, request_id, prompt_token_ids, params, row_key=None):
    if "poison" in self.tokenizer.decode(prompt_token_ids):
        os.kill(os.getpid(), signal.SIGKILL)
    add_request(self, request_id, prompt_token_ids, params, row_key)


Engine.add_request = deadly

if __name__ == "__main__":
    worker.main()
