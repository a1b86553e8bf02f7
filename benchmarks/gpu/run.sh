#!/usr/bin/env bash
# Everything that needs a GPU, in one command, on a bare machine: Python 3.11 or later with torch 2.10 or later for CUDA, numpy,
# transformers, nanobind, pytest and hypothesis; nvcc 12 or later, cmake and ninja; no network. nvidia-ml-py adds energy, vllm a
# peer. At most 45 minutes. Parts can be named, and then have as much time as LIMIT (seconds) gives them:
#
#   benchmarks/gpu/run.sh [build] [tests] [families] [sanitizer] [ceilings] [kernels] [throughput] [paper]    default: all, so
#
# Results (JSON, Markdown, logs) go to $OUT, by default benchmarks/gpu/results. Where build or tests fail, all ends: nothing that
# wrong kernels would measure is worth the time. Another part that fails or runs out of its time leaves what it has measured, and
# the exit code says so. The same command again goes on with the parts that are not done: $OUT/NAME.done says which are, FRESH=1
# forgets them, a part that is named is run in any case. TINY=1 runs the measuring parts at next to no size, which shows that they
# run; with PAGECLI_CUDA_MODULE set, the kernels are taken from there.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$PWD/benchmarks/gpu/results}
BUILD=$PWD/build/gpu
TOTAL=2700
declare -A LIMITS=([build]=300 [tests]=300 [families]=180 [sanitizer]=180 [ceilings]=40 [kernels]=200 [throughput]=900 [paper]=600)
PARTS=${*:-build tests families sanitizer ceilings kernels throughput paper}
mkdir -p "$OUT"
[ -z "${FRESH:-}" ] || rm -f "$OUT"/*.done
declare -A FILES=(  # of tests/cuda
    [tests]="rows cache attention prompt_attention choosing sampling float8_linear logits models runner engine parameters"
    [families]="experts mixtures adapters adapter_engine families quantized"  # kernels that a model may do without
)
failed=0

limit_of() {  # seconds that a part may take: its own limit, or LIMIT, and no more than is left of TOTAL
    local own=${LIMIT:-${LIMITS[$1]}} left=$((TOTAL - SECONDS))
    echo $((own < left ? own : left > 1 ? left : 1))
}

part() {  # part NAME LIMIT_SECONDS COMMAND...: run it, keep its log, say how it went
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    echo "== $name"
    timeout --kill-after 5 "$limit" "$@" 2>&1 | tee "$OUT/$name.log"
    local code=${PIPESTATUS[0]}
    echo "== $name: exit $code after $((SECONDS - started)) s" | tee -a "$OUT/summary.txt"
    if [ "$code" = 0 ]; then touch "$OUT/$name.done"; else failed=1; fi
}

build() {
    cmake -G Ninja -S csrc -B "$BUILD" -DPAGECLI_CUDA=ON -DPython_EXECUTABLE="$("$PYTHON" -c 'import sys; print(sys.executable)')" &&
        cmake --build "$BUILD"
}

use_build() {  # the extension modules of this build, without installing anything
    if [ -z "${PAGECLI_CUDA_MODULE:-}" ]; then
        PAGECLI_CUDA_MODULE=$(ls "$BUILD"/cuda/_cuda*.so)
        PAGECLI_NATIVE_MODULE=$(ls "$BUILD"/_native*.so)
        export PAGECLI_CUDA_MODULE PAGECLI_NATIVE_MODULE
    fi
    export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
}

test_files() {  # what others build on comes first; the first that fails ends it
    local name
    for name in "$@"; do
        echo "-- $name"
        "$PYTHON" -m pytest -q -x -m cuda -p no:cacheprovider "tests/cuda/test_cuda_$name.py" || return
    done
}

sanitizer() {  # a small set: every instruction runs many times slower
    local tool small="test_decode and (2-2-64 or 8-2-128) or test_prefill and 6-2-128 or test_draws_are and 33"
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests/cuda -k "$small" ||
            return
    done
}

measured() {  # measured SCRIPT PART...: its own limit is 5 seconds below that of the process
    local script=$1 name=$2 limit
    shift
    limit=$(limit_of "$name")
    [ "$name" = throughput ] || [ "$name" = paper ] && shift
    part "$name" "$limit" "$PYTHON" "benchmarks/gpu/$script.py" "$@" --out "$OUT" --limit $((limit - 5)) ${TINY:+--tiny}
}

for name in $PARTS; do
    [ -n "${LIMITS[$name]:-}" ] || { echo "unknown part: $name; there are: build tests families sanitizer ceilings kernels throughput paper" >&2; exit 2; }
done
: >"$OUT/summary.txt"
for name in $PARTS; do
    if [ $# = 0 ] && [ -e "$OUT/$name.done" ]; then
        echo "== $name: done before" | tee -a "$OUT/summary.txt"
        continue
    fi
    case $name in build) ;; *) use_build ;; esac
    case $name in
        build) export -f build; export PYTHON BUILD; part build "$(limit_of build)" bash -c build ;;
        tests | families) export -f test_files; export PYTHON; part "$name" "$(limit_of "$name")" bash -c "test_files ${FILES[$name]}" ;;
        sanitizer) export -f sanitizer; export PYTHON; part sanitizer "$(limit_of sanitizer)" bash -c sanitizer ;;
        ceilings | kernels) measured measure "$name" ;;
        throughput | paper) measured "$name" "$name" ;;
    esac
    case $name in
        build | tests) [ "$failed" = 0 ] || break ;;
    esac
done
cat "$OUT/summary.txt"
exit $failed
