"""A rank whose GPU is the emulated one; see host_gpu.py."""

import host_gpu

from pagecli.distributed import rank

if __name__ == "__main__":
    host_gpu.register()
    rank.main()
