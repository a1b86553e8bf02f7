#!/usr/bin/env bash
# Everything that needs a GPU, in one command, on a bare machine: Python 3.11 or later with torch 2.10 or later for CUDA, numpy,
# nanobind, pytest and hypothesis; nvcc 12 or later, cmake and ninja; no network. Under ten minutes. Parts can be run alone:
#
#   benchmarks/gpu/run.sh [build] [tests] [sanitizer] [ceilings] [kernels]      default: all, in this order
#
# Results (JSON, Markdown, logs) go to $OUT, by default benchmarks/gpu/results. A part that fails does not stop the others; the
# exit code says whether one did.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$PWD/benchmarks/gpu/results}
BUILD=$PWD/build/gpu
PARTS=${*:-build tests sanitizer ceilings kernels}
mkdir -p "$OUT"
failed=0

part() {  # part NAME LIMIT_SECONDS COMMAND...: run it, keep its log, say how it went
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$OUT/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit $code after $((SECONDS - started)) s" | tee -a "$OUT/summary.txt"
    [ "$code" = 0 ] || failed=1
}

build() {
    cmake -G Ninja -S csrc -B "$BUILD" -DPAGECLI_CUDA=ON -DPython_EXECUTABLE="$("$PYTHON" -c 'import sys; print(sys.executable)')" &&
        cmake --build "$BUILD"
}

use_build() {  # the extension modules of this build, without installing anything
    PAGECLI_CUDA_MODULE=$(ls "$BUILD"/cuda/_cuda*.so)
    PAGECLI_NATIVE_MODULE=$(ls "$BUILD"/_native*.so)
    export PAGECLI_CUDA_MODULE PAGECLI_NATIVE_MODULE PYTHONPATH=$PWD PYTHONUNBUFFERED=1
}

kernel_tests() {
    "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests/cuda
}

sanitizer() {  # a small set: every instruction runs many times slower
    local tool small="test_decode and (2-2-64 or 8-2-128) or test_prefill and 6-2-128 or test_draws and 33 and float32"
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests/cuda -k "$small" ||
            return
    done
}

: >"$OUT/summary.txt"
for name in $PARTS; do
    case $name in build) ;; *) use_build ;; esac
    case $name in
        build) export -f build; export PYTHON BUILD; part build 240 bash -c build ;;
        tests) export -f kernel_tests; export PYTHON; part tests 240 bash -c kernel_tests ;;
        sanitizer) export -f sanitizer; export PYTHON; part sanitizer 150 bash -c sanitizer ;;
        ceilings | kernels) part "$name" 180 "$PYTHON" benchmarks/gpu/measure.py "$name" --out "$OUT" ;;
        *) echo "unknown part: $name" >&2; exit 2 ;;
    esac
done
cat "$OUT/summary.txt"
exit $failed
