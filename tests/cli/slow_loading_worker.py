"""A worker that takes a while to load its model, as a large one does: python -m slow_loading_worker FD."""

import time

from pagecli.jobs.workers import worker

note_loading = worker.Worker._note_loading


def slowly(self, num_read, num_parameters):
    note_loading(self, num_read, num_parameters)
    time.sleep(0.02)


worker.Worker._note_loading = slowly
worker.BEAT_SECONDS = 0.03

if __name__ == "__main__":
    worker.main()
