# shellcheck shell=sh
# Installs by name what a build needs and is missing: sourced by deploy/quickstart.sh and
# the test scripts. Silent when nothing is.
#
#   install_missing COMMAND:PACKAGE... lib:MODULE[,MODULE]:PACKAGE... file:GLOB:PACKAGE...
#
# What is missing is told by what the build will look for (a command, any of some
# pkg-config modules, a file), so that a tool from elsewhere than Debian will do too.
# Other systems than Debian get the list of what is missing, and 1.

is_there() {
    case $1 in
    lib:*)
        for module in $(printf '%s' "${1#lib:}" | tr , ' '); do
            pkg-config --exists "$module" 2>/dev/null && return 0
        done
        return 1
        ;;
    file:*)
        # shellcheck disable=SC2086 # a pattern
        ls ${1#file:} >/dev/null 2>&1
        ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

install_missing() {
    missing=
    for need in "$@"; do
        is_there "${need%:*}" || missing="$missing ${need##*:}"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        printf 'missing, and there is no apt-get to install it:%s\n' "$missing" >&2
        return 1
    fi
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    printf 'installing%s\n' "$missing" >&2
    apt_log=$(mktemp)
    # shellcheck disable=SC2086 # the names are words
    if $as_root apt-get update -q >"$apt_log" 2>&1 &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
            --no-install-recommends $missing >>"$apt_log" 2>&1; then
        rm -f "$apt_log"
        return 0
    fi
    tail -n 30 "$apt_log" >&2
    rm -f "$apt_log"
    printf 'apt-get failed\n' >&2
    return 1
}

# What every build needs.
install_build_needs() {
    install_missing cmake:cmake ninja:ninja-build cc:gcc pkg-config:pkg-config \
        'file:/usr/include/stdlib.h:libc6-dev' lib:libcrypto:libssl-dev \
        lib:msgpack-c,msgpack:libmsgpack-dev lib:inih:libinih-dev \
        lib:jansson:libjansson-dev lib:zlib:zlib1g-dev \
        lib:libssl:libssl-dev lib:libuv:libuv1-dev \
        lib:libmicrohttpd:libmicrohttpd-dev
}
