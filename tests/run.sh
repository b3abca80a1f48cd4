#!/bin/sh
# Everything that a change must pass, in less than ten minutes on two cores: installs what
# is missing (Debian 12), builds and runs all tests under the sanitizers, runs each fuzzer
# for a while, some seeds of the simulator, the model test at full length, and the
# quickstart. Ends with "N passed, N failed" alone on a line; fails when one failed.
#
#   KVRAIL_TRACES=DIR    the public traces (default ../shared/traces, if it is there)
#   KVRAIL_FUZZ_SECONDS  of each fuzzer (10)
#   KVRAIL_SEEDS         of the simulator, under the sanitizers (50)
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh

install_build_needs
install_missing lib:cmocka:libcmocka-dev python3:python3 clang:clang curl:curl \
    'file:/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*:libclang-rt-14-dev'

step "build of the tests" build dev
run_ctest dev
step "build of the program, optimised, with test hooks" build test
step "model test, 1,000,000 operations" \
    env KV_MODEL_STEPS=1000000 build-test/bin/pager_model_test
seeds=${KVRAIL_SEEDS:-50}
step "simulator, $seeds seeds under the sanitizers" \
    build-dev/bin/kvrail sim --seeds "$seeds" --jobs "$(nproc)"

step "build of the fuzzers" build fuzz
for fuzzer in build-fuzz/bin/*_fuzz; do
    [ -x "$fuzzer" ] || continue
    name=$(basename "$fuzzer")
    step "$name, ${KVRAIL_FUZZ_SECONDS:-10} s" fuzz "$fuzzer" "${KVRAIL_FUZZ_SECONDS:-10}"
done

step "quickstart" sh deploy/quickstart.sh --json build-dev/quickstart.json
step "quickstart, simulated, skew, no spill" \
    sh deploy/quickstart.sh --sim --balance skew --spill off --json build-dev/sim.json
step "quickstart refuses what it does not know" refuses_unknown
conversation=$(trace_file mooncake/conversation_trace.jsonl)
if [ -n "$conversation" ]; then
    step "conversation trace, 10,000 pages, skew" replay_at_least 0.97 \
        --trace "$conversation" --pages 10000 --balance skew --spill on
else
    skip "conversation trace" "no traces: set KVRAIL_TRACES"
fi
finish
