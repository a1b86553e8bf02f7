"""Runs nvcc and keeps what it says (ptxas: registers, stack and spills of every kernel) beside the object file, where
tests/cuda/test_cuda_resources.py reads it. Called by CMake: keep_report.py nvcc ARGUMENTS... -o OBJECT."""

import subprocess
import sys

command = sys.argv[1:]
done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
if done.returncode == 0 and "-o" in command:
    with open(command[command.index("-o") + 1] + ".report", "w") as report:
        report.write(done.stderr)
else:
    sys.stderr.write(done.stderr)
sys.exit(done.returncode)
