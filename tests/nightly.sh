#!/bin/sh
# What is too long for every change: many seeds, the same seeds twice and from two
# compilers, the thread sanitizer over all tests (of processes, too), planted bugs that
# must be found, an hour's soak, all replays of the public traces, simulated and through
# real nodes, benchmarks. About four hours on four cores; the last line counts.
#
#   KVRAIL_SOAK_SECONDS  of the soak (3600); its seed is the day's
#   KVRAIL_TRACES=DIR  the public traces (default ../shared/traces, if it is there)
#   KVRAIL_SEEDS       of the simulator (2000)
set -eu
cd "$(dirname "$0")/.."
sh tests/run.sh || exit 1
. tests/lib.sh

seeds=${KVRAIL_SEEDS:-2000}

# The hash of one run: every event, time and byte of it.
sim_hash() {
    "$1" sim --seed "$2" --json | sed -n 's/.*hash[": ]*\([0-9a-f]\{16\}\).*/\1/p' | head -n 1
}

# same_hash PROGRAM PROGRAM: of seeds 1 to 20.
same_hash() {
    for seed in $(seq 1 20); do
        one=$(sim_hash "$1" "$seed")
        two=$(sim_hash "$2" "$seed")
        printf 'seed %s: %s %s\n' "$seed" "$one" "$two"
        [ -n "$one" ] && [ "$one" = "$two" ] || return 1
    done
}

build_clang() {
    CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja} cmake --preset test -B build-clang \
        -DCMAKE_C_COMPILER=clang && cmake --build build-clang --parallel
}

# Each bug that a test build can plant: of these seeds some must find it, which is 1.
planted_bugs() {
    for bug in $(sed -n 's/.*X(KV_PLANT_[A-Z_]*, "\([a-z-]*\)".*/\1/p' base/fault.h); do
        printf '%s\n' "$bug"
        build-test/bin/kvrail sim --plant "$bug" --seeds 120 --jobs "$(nproc)" && return 1
        [ $? -eq 1 ] || return 1
    done
}

step "simulator, $seeds seeds" build-test/bin/kvrail sim --seeds "$seeds" --jobs "$(nproc)"
step "one seed, one hash, twice" same_hash build-test/bin/kvrail build-test/bin/kvrail
step "build with clang" build_clang
step "one seed, one hash, gcc and clang" \
    same_hash build-test/bin/kvrail build-clang/bin/kvrail
step "planted bugs are found" planted_bugs
step "planted bugs are found, without digests too" sh tests/planted.sh

step "200 engines killed in their fills" \
    env KV_PAGER_KILLS=200 build-test/bin/node_pager_hostile_test
step "build for the thread sanitizer" build tsan
run_ctest tsan

step "three real nodes, longer" \
    env KVRAIL_NIGHTLY=1 python3 tests/node/nodes_test.py build-test/bin
step "soak" python3 tests/node/soak.py build-test/bin \
    --seconds "${KVRAIL_SOAK_SECONDS:-3600}" --seed "$(date +%Y%m%d)"
cp "$step_log" "$logs/soak.log"

conversation=$(trace_file mooncake/conversation_trace.jsonl)
sessions=$(trace_file claude-code-sessions/sessions.jsonl.gz)
if [ -n "$conversation" ]; then
    for transport in named onesided both; do
        for pages in 10000 50000; do
            step "conversation, $pages pages, even, $transport" replay_at_least 0.98 \
                --trace "$conversation" --pages "$pages" --transport "$transport"
        done
        step "conversation, 10000 pages, skew, $transport" replay_at_least 0.97 \
            --trace "$conversation" --pages 10000 --balance skew --transport "$transport"
    done
    step "conversation, 10000 pages, skew, no spill" replay_at_least 0.60 \
        --trace "$conversation" --pages 10000 --balance skew --spill off
    step "conversation, three real nodes" sh tests/nodes_matrix.sh
    cat "$logs/nodes-matrix/table.txt" || true
else
    skip "conversation trace" "no traces: set KVRAIL_TRACES"
fi
if [ -n "$sessions" ]; then
    step "agent sessions, 50000 pages" replay_at_least 0.90 \
        --trace "$sessions" --pages 50000
else
    skip "agent sessions" "no traces: set KVRAIL_TRACES"
fi

step "build for benchmarks" build release
# References of `kvrail bench node`, which says so where one is missing. Debian's memcached
# begins as a service when it is installed: that is for whoever owns the machine.
install_missing iperf3:iperf3 || true
step "bench node" build/bin/kvrail bench node
for bench in build/bin/*_bench; do
    [ -x "$bench" ] || continue
    step "$(basename "$bench")" "$bench"
done
finish
