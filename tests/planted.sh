#!/bin/sh
# Plants each bug of base/fault.h in turn, lets the simulator look for it, and prints
# docs/planted-bugs.md: which invariant found it, at which seed, after how long.
#
#   sh tests/planted.sh [PROGRAM] > docs/planted-bugs.md
#
# PROGRAM is a kvrail with test hooks (preset test); build-test/bin/kvrail by default.
# Exits 1 when a bug is not found.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build-test/bin/kvrail}
[ -x "$program" ] || { echo "planted.sh: no program $program: build the preset test" >&2; exit 2; }
exec python3 tests/planted.py "$program"
