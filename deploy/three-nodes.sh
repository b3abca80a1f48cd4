#!/bin/sh
# Three kvraild processes on this machine, linked over loopback with a pre-shared key, and
# requests through them: `kvrail drive` checks every byte of every hit and prints a table.
# Builds into build/ as quickstart.sh does. Credentials, sockets and logs lie in a folder
# that goes away; the nodes are stopped however this ends.
set -eu

usage() {
    cat <<'TEXT'
usage: sh deploy/three-nodes.sh [options]

  --trace FILE         requests of this trace instead of generated chats
  --pages N            capacity of the three nodes together (1000; a trace: 10000)
  --page-bytes SIZE    of a page: bytes, KiB or MiB, a multiple of 256 (default 16KiB)
  --level object|pager engines ask by batches of keys, or fill pages in place (object)
  --balance even|skew  requests go round the nodes, or 8 of 10 to one (default even)
  --spill on|off       evicted pages are offered to other nodes (default on)
  --transport shm|tcp  nodes map each other's memory, or send pages (default shm)
  --compute-us N       that an engine takes for a page that is missing (default 0)
  --json FILE          write the result as JSON to FILE as well
  --help               this text

KVRAIL_BIN=FOLDER takes kvrail and kvraild from there, and builds nothing.
TEXT
}

refuse() {
    printf 'three-nodes: %s\n' "$1" >&2
    usage >&2
    exit 2
}

# fail LINE: the end of a run; stop_all() follows.
fail() {
    printf 'three-nodes: %s\n' "$1" >&2
    exit 1
}

whole() {
    case $2 in '' | *[!0-9]* | ??????????*) refuse "$1 $2 is not a whole number" ;; esac
}

trace='' pages='' page_text=16KiB balance=even spill=on level=object transport=shm
compute_us=0 json=''
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --trace | --pages | --page-bytes | --level | --balance | --spill | --transport | \
        --compute-us | --json)
        [ $# -ge 2 ] || refuse "$1 needs a value"
        case $1 in
        --trace) trace=$2 ;;
        --pages) pages=$2 ;;
        --page-bytes) page_text=$2 ;;
        --level) level=$2 ;;
        --balance) balance=$2 ;;
        --spill) spill=$2 ;;
        --compute-us) compute_us=$2 ;;
        --json) json=$2 ;;
        --transport) transport=$2 ;;
        esac
        shift 2
        ;;
    *) refuse "unknown option $1" ;;
    esac
done
[ -n "$pages" ] || { [ -n "$trace" ] && pages=10000 || pages=1000; }
whole --pages "$pages"
whole --compute-us "$compute_us"
[ "$pages" -ge 3 ] || refuse "--pages $pages is below the minimum 3"
whole --page-bytes "${page_text%[KM]iB}"
case $page_text in
*KiB) page_bytes=$((${page_text%KiB} * 1024)) ;;
*MiB) page_bytes=$((${page_text%MiB} * 1048576)) ;;
*) page_bytes=$page_text ;;
esac
if [ "$page_bytes" -eq 0 ] || [ $((page_bytes % 256)) -ne 0 ]; then
    refuse "--page-bytes $page_text is not a multiple of 256"
fi
node_pages=$((pages / 3))
case $balance in even | skew) ;; *) refuse "--balance $balance is not even or skew" ;; esac
case $spill in on | off) ;; *) refuse "--spill $spill is not on or off" ;; esac
case $level in
object) domain='' ;;
pager) domain="domain = own
fill = yes
device_bytes = $((node_pages * page_bytes))" ;;
*) refuse "--level $level is not object or pager" ;;
esac
case $transport in
shm) transports=both ;;
tcp) transports=named ;;
*) refuse "--transport $transport is not shm or tcp" ;;
esac
[ -z "$trace" ] || [ -r "$trace" ] || refuse "--trace $trace cannot be read"

# Paths of the caller stay the caller's: we do not change folder.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=deploy/build.sh
. "$root/deploy/build.sh"
install_missing curl:curl || exit 1
bin=${KVRAIL_BIN:-}
if [ -z "$bin" ]; then
    build_release three-nodes || exit 1
    bin=$root/build/bin
fi

stop_s=20 link_s=30
folder='' driver='' node_1='' node_2='' node_3=''

# A child that has ended is there as a zombie until the shell notices; after that its
# number may be another's.
is_running() {
    awk -v parent="$$" '
        /^State:/ { alive = $2 != "Z" }
        /^PPid:/ { ours = $2 == parent }
        END { exit !(alive && ours) }' "/proc/$1/status" 2>/dev/null
}

# stop PID: tells it to.
stop() {
    ! is_running "$1" || kill "$1" 2>/dev/null || true
}

# end_of PID SECONDS: waits, kills what takes longer; the exit status is the child's.
end_of() {
    tenths=$(($2 * 10))
    while is_running "$1" && [ "$tenths" -gt 0 ]; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    ! is_running "$1" || kill -9 "$1" 2>/dev/null || true
    wait "$1"
}

# However this ends: no process and no file is left. The status is what it was.
stop_all() {
    status=$?
    trap '' INT TERM HUP
    for pid in $driver $node_1 $node_2 $node_3; do
        stop "$pid"
    done
    for pid in $driver $node_1 $node_2 $node_3; do
        end_of "$pid" "$stop_s" 2>/dev/null || true
    done
    if [ -n "$folder" ]; then
        if [ "$status" -eq 1 ]; then
            for log in "$folder"/node-*.log; do
                [ ! -s "$log" ] || { echo "--- $(basename "$log")" && tail -n 5 "$log"; } >&2
            done
        fi
        rm -rf "$folder"
    fi
    exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
folder=$(mktemp -d "${TMPDIR:-/tmp}/kvrail.XXXXXX")

# free_ports N: that nobody listens at, below those that the system gives to clients;
# begins anywhere, so that two of us rarely meet. Who takes one before a node does makes
# that node refuse to start.
free_ports() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v n="$1" -v from="$$" '
        { sub(/.*:/, "", $2); taken[$2] = 1 }
        END {
            for (i = 0; n > 0 && i < 12000; i++) {
                port = 20000 + (from * 7 + i) % 12000
                if (!(sprintf("%04X", port) in taken)) { print port; n-- }
            }
        }'
}

# shellcheck disable=SC2046 # six words
set -- $(free_ports 6)
[ $# -eq 6 ] || fail "no free ports on loopback"
http_1=$4 http_2=$5 http_3=$6

"$bin/kvrail" keygen --psk "$folder/cluster.psk" >/dev/null
"$bin/kvrail" keygen --secret "$folder/tenant-7.hex" >/dev/null
cat >"$folder/kvrail.conf" <<TEXT
[cluster]
name = three-nodes
[tls]
psk = cluster.psk
[node "1"]
address = 127.0.0.1:$1
[node "2"]
address = 127.0.0.1:$2
[node "3"]
address = 127.0.0.1:$3
[pager]
device_bytes = $((node_pages * page_bytes))
host_bytes = 0
[spill]
enabled = $([ "$spill" = on ] && echo true || echo false)
[space "chat"]
model = three-nodes
revision = 1
page_tokens = 512
page_bytes = $page_bytes
[tenant "7"]
secret = file:tenant-7.hex
$domain
TEXT

# start NODE HTTP-PORT: in the background, its process id in $!.
start() {
    "$bin/kvraild" --config "$folder/kvrail.conf" --set "cluster.node=$1" \
        --set "listen.unix=$folder/node-$1.sock" --set "listen.http=127.0.0.1:$2" \
        --set "link.transports=$transports" \
        >"$folder/node-$1.log" 2>&1 &
}
start 1 "$http_1" && node_1=$!
start 2 "$http_2" && node_2=$!
start 3 "$http_3" && node_3=$!

# linked HTTP-PORT PROCESS: until that node sees the two others.
linked() {
    tenths=$((link_s * 10))
    until curl -fsS --max-time 2 "http://127.0.0.1:$1/healthz" 2>/dev/null |
        grep -q '"links_up":2,'; do
        is_running "$2" || fail "a node has ended"
        [ "$tenths" -gt 0 ] || fail "the nodes are not linked after $link_s s"
        sleep 0.1
        tenths=$((tenths - 1))
    done
}
linked "$http_1" "$node_1"
linked "$http_2" "$node_2"
linked "$http_3" "$node_3"

set -- drive --node "$folder/node-1.sock" --node "$folder/node-2.sock" \
    --node "$folder/node-3.sock" --pages "$pages" --balance "$balance" --level "$level" \
    --compute-us "$compute_us"
if [ -n "$trace" ]; then
    set -- "$@" --trace "$trace"
else
    set -- "$@" --workload chats
fi
[ -z "$json" ] || set -- "$@" --json-file "$json"
# In the background: a signal ends `wait` at once, and would not end a program before it.
"$bin/kvrail" "$@" &
driver=$!
code=0
wait "$driver" || code=$?
driver=''
[ "$code" -eq 0 ] || fail "kvrail drive ended with $code"

for pid in $node_1 $node_2 $node_3; do
    stop "$pid"
done
for pid in $node_1 $node_2 $node_3; do
    end_of "$pid" "$stop_s" || fail "a node ended with $? on SIGTERM"
done
node_1='' node_2='' node_3=''
