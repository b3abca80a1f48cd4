#!/bin/sh
# From a fresh clone on a bare Debian 12 to a table of hit rates: installs what the build
# needs and is missing, builds kvrail into build/, starts three nodes on this machine with
# credentials made for them, and sends them requests (deploy/three-nodes.sh). --sim: three
# simulated nodes in one process instead. Run it again: what is there is not done again.
set -eu

usage() {
    cat <<'TEXT'
usage: sh deploy/quickstart.sh [options]
       sh deploy/quickstart.sh --sim [options]

Three kvraild processes on loopback, every byte of every hit checked:
  all options of deploy/three-nodes.sh, see sh deploy/three-nodes.sh --help;
  --compute-us is 5000 here: that an engine takes for a page that is missing

--sim: three simulated nodes, the same protocols on a virtual clock:
  --trace FILE         replay this trace instead of generated chats
  --pages N            capacity of the whole cluster in pages (1000; a trace: 10000)
  --balance even|skew  requests go round the nodes, or 8 of 10 to one (default even)
  --spill on|off       evicted pages are offered to other nodes (default on)
  --json FILE          write the result as JSON to FILE as well
  --help               this text
TEXT
}

refuse() {
    printf 'quickstart: %s\n' "$1" >&2
    usage >&2
    exit 2
}

# Paths of the caller stay the caller's: we do not change folder.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

sim=''
for word; do
    case $word in
    --sim) sim=yes ;;
    --help | -h) usage && exit 0 ;;
    esac
done
[ -n "$sim" ] || exec sh "$root/deploy/three-nodes.sh" --compute-us 5000 "$@"

trace='' pages='' balance=even spill=on json=''
while [ $# -gt 0 ]; do
    case $1 in
    --sim) shift ;;
    --trace | --pages | --balance | --spill | --json)
        [ $# -ge 2 ] || refuse "$1 needs a value"
        case $1 in
        --trace) trace=$2 ;;
        --pages) pages=$2 ;;
        --balance) balance=$2 ;;
        --spill) spill=$2 ;;
        --json) json=$2 ;;
        esac
        shift 2
        ;;
    *) refuse "unknown option $1" ;;
    esac
done
[ -n "$pages" ] || { [ -n "$trace" ] && pages=10000 || pages=1000; }
case $pages in '' | *[!0-9]* | 0) refuse "--pages $pages is not a whole number" ;; esac
case $balance in even | skew) ;; *) refuse "--balance $balance is not even or skew" ;; esac
case $spill in on | off) ;; *) refuse "--spill $spill is not on or off" ;; esac
[ -z "$trace" ] || [ -r "$trace" ] || refuse "--trace $trace cannot be read"

# shellcheck source=deploy/build.sh
. "$root/deploy/build.sh"
build_release quickstart || exit 1

set -- sim --pages "$pages" --balance "$balance" --spill "$spill"
if [ -n "$trace" ]; then
    set -- "$@" --trace "$trace"
else
    set -- "$@" --workload chats
fi
[ -z "$json" ] || set -- "$@" --json-file "$json"
exec "$root/build/bin/kvrail" "$@"
