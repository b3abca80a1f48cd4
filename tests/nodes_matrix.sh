#!/bin/sh
# The public conversation trace through three kvraild processes, every byte of every hit
# checked, with the simulated run beside each: 50,000 and 10,000 pages even, 10,000
# skewed; then even again with node 2 killed (kill -9, a new one 5 s later) and with node
# 2 standing still for 20 s, both when 4,000 requests have ended. All of it at the object
# level, then at the pager level. tests/nightly.sh calls
# it. The table is the last thing before the counts, and in
# build-dev/logs/nodes-matrix/table.txt.
#
#   sh tests/nodes_matrix.sh [RUN...]    even-50000 even-10000 skew-10000 killed paused,
#                                        with tcp- or shm- before it, and pager- between;
#                                        all of them
#   KVRAIL_TRACES=DIR                    the public traces (default ../shared/traces)
#   KVRAIL_MATRIX_JOBS=N                 so many at a time (as many as cores): a run takes
#                                        about five minutes, and waits for most of them
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
step_log=$logs/nodes-matrix.log

install_build_needs
install_missing python3:python3
conversation=$(trace_file mooncake/conversation_trace.jsonl)
if [ -z "$conversation" ]; then
    skip "three real nodes" "no traces: set KVRAIL_TRACES"
    finish
fi

results=$logs/nodes-matrix
rm -rf "$results"
mkdir -p "$results"
if [ $# -eq 0 ]; then
    for before in tcp- shm- tcp-pager- shm-pager-; do
        for run in even-50000 even-10000 skew-10000 killed paused; do
            set -- "$@" "$before$run"
        done
    done
fi
step "build of the program" build release
python3 tests/node/nodes_matrix.py runs build/bin "$conversation" "$results" \
    "${KVRAIL_MATRIX_JOBS:-$(nproc)}" "$@" >"$step_log" 2>&1 || cat "$step_log"
for run in "$@"; do
    step "three real nodes, conversation, $run" \
        python3 tests/node/nodes_matrix.py result "$results" "$run"
done
python3 tests/node/nodes_matrix.py table "$results" >"$results/table.txt"
cat "$results/table.txt"
finish
