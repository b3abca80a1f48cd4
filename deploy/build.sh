# shellcheck shell=sh
# Sourced by deploy/quickstart.sh and deploy/three-nodes.sh: installs what the build needs
# and is missing, and builds kvrail into build/. What is there is not done again.
#
#   build_release NAME     $root is the repository's; NAME is whose lines and log these are

# shellcheck source=deploy/install.sh
. "${root:?}/deploy/install.sh"

build_release() {
    install_build_needs || return 1
    mkdir -p "$root/build"
    build_log=$root/build/$1.log
    # A build folder keeps the generator it was made with; ninja is for new ones.
    (cd "$root" && CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja} cmake --preset release &&
        cmake --build --preset release --parallel) >"$build_log" 2>&1 && return 0
    tail -n 40 "$build_log" >&2
    printf '%s: the build failed, see %s\n' "$1" "$build_log" >&2
    return 1
}
