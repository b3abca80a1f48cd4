# shellcheck shell=sh
# Steps of tests/run.sh and tests/nightly.sh: each prints one line, keeps its output in a
# log, and counts. Sourced, with the repository's root as the current folder.

# shellcheck source=deploy/install.sh
. deploy/install.sh

passed=0
failed=0
skipped=0
logs=build-dev/logs
mkdir -p "$logs"
step_log=$logs/step.log

# step NAME COMMAND...: passes when the command does; its last lines are shown otherwise.
step() {
    step_name=$1
    shift
    step_from=$(date +%s)
    if "$@" >"$step_log" 2>&1; then
        passed=$((passed + 1))
        printf 'ok    %s (%d s)\n' "$step_name" "$(($(date +%s) - step_from))"
    else
        failed=$((failed + 1))
        tail -n 60 "$step_log"
        printf 'FAIL  %s\n' "$step_name"
    fi
}

skip() {
    skipped=$((skipped + 1))
    printf 'skip  %s: %s\n' "$1" "$2"
}

# The counts as the last line, and as the exit status.
finish() {
    [ "$skipped" -eq 0 ] || printf '%d skipped\n' "$skipped"
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
    exit
}

# build PRESET [cmake options]
build() {
    preset=$1
    shift
    CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja} cmake --preset "$preset" "$@" &&
        cmake --build --preset "$preset" --parallel
}

# Every ctest counts as one.
run_ctest() {
    ctest_from=$(date +%s)
    ctest_log=$logs/ctest-$1.log
    if ctest --preset "$1" --parallel "$(nproc)" >"$ctest_log" 2>&1; then
        ctest_word=ok
    else
        ctest_word=FAIL
        tail -n 80 "$ctest_log"
    fi
    # "98% tests passed, 1 tests failed out of 50"
    ctest_line=$(grep 'tests passed,.*tests failed out of' "$ctest_log" || true)
    printf '%s\n' "$ctest_line"
    ctest_failed=$(printf '%s' "$ctest_line" | sed 's/.*passed, \([0-9]*\) .*/\1/')
    ctest_all=$(printf '%s' "$ctest_line" | sed 's/.*out of \([0-9]*\).*/\1/')
    case $ctest_failed$ctest_all in
    '' | *[!0-9]*) ctest_failed=1 ctest_all=1 ;;
    esac
    failed=$((failed + ctest_failed))
    passed=$((passed + ctest_all - ctest_failed))
    printf '%-4s  ctest %s (%d s)\n' "$ctest_word" "$1" "$(($(date +%s) - ctest_from))"
}

# fuzz PROGRAM SECONDS: new inputs stay in the build folder, found crashes too.
fuzz() {
    fuzz_name=$(basename "$1" _fuzz)
    mkdir -p "build-fuzz/found/$fuzz_name"
    "$1" -max_total_time="$2" -print_final_stats=1 \
        -artifact_prefix="build-fuzz/found/$fuzz_name/" \
        "build-fuzz/found/$fuzz_name" "tests/fuzz/corpus/$fuzz_name"
}

# Options are refused with 2 by everything that takes some.
refuses_unknown() {
    ! sh deploy/quickstart.sh --no-such-option || return 1
    sh deploy/quickstart.sh --no-such-option || [ $? -eq 2 ] || return 1
    sh deploy/quickstart.sh --pages many || [ $? -eq 2 ] || return 1
    ! sh deploy/quickstart.sh --sim --no-such-option || return 1
    sh deploy/quickstart.sh --sim --no-such-option || [ $? -eq 2 ] || return 1
    sh deploy/quickstart.sh --sim --pages many || [ $? -eq 2 ] || return 1
    build/bin/kvrail sim --trace /nowhere/at/all || [ $? -eq 2 ]
}

# The path of one of the public traces; nothing when it is not there.
trace_file() {
    for folder in "${KVRAIL_TRACES:-}" ../shared/traces; do
        if [ -n "$folder" ] && [ -r "$folder/$1" ]; then
            printf '%s\n' "$folder/$1"
            return
        fi
    done
}

# replay_at_least RATIO OPTIONS...: hit_rate over hit_rate_pooled of one replay.
replay_at_least() {
    ratio=$1
    shift
    build/bin/kvrail sim "$@" --json >"$logs/replay.json" || return 1
    cat "$logs/replay.json"
    python3 - "$ratio" "$logs/replay.json" <<'PYTHON'
import json, sys
got = json.load(open(sys.argv[2]))
ratio = got["hit_rate"] / got["hit_rate_pooled"]
print("hit_rate / hit_rate_pooled = %.4f, at least %s" % (ratio, sys.argv[1]))
refs = sum(got["hits"].values()) + sum(got["misses"].values())
assert got["wrong_bytes"] == 0 and refs == got["page_refs"], "counts"
assert ratio >= float(sys.argv[1]), "ratio"
PYTHON
}
