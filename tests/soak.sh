#!/bin/sh
# Three nodes and eight clients, every byte checked, while nodes and clients are killed and
# stopped every five seconds; tests/node/soak.py says what is judged, and how.
#
#   sh tests/soak.sh [--seconds N] [--seed S] [--json FILE]      600 seconds, seed 1
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
step_log=$logs/soak.log

install_build_needs
install_missing lib:cmocka:libcmocka-dev python3:python3
step "build of the program, optimised, with test hooks" build test
step "soak" python3 tests/node/soak.py build-test/bin "$@"
cat "$step_log"
finish
