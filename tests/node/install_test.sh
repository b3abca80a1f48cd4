#!/bin/sh
# What is installed can be used: by pkg-config, shared and static, by find_package(), from
# C and from C++; and both libraries show kvr_ symbols and no others.
#
#   install_test.sh BUILD-FOLDER
set -eu
build=$1
into=$(mktemp -d)
trap 'rm -rf "$into"' EXIT
cmake --install "$build" --prefix "$into/root" >"$into/log" || { cat "$into/log"; exit 1; }
pc=$(dirname "$(find "$into/root" -name kvrail.pc)")
lib=$(dirname "$pc")
export PKG_CONFIG_PATH="$pc" LD_LIBRARY_PATH="$lib"

cat >"$into/use.c" <<'END'
#include <kvrail/kvrail.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    struct kvr_config config;
    char error[256];
    kvr_client_t *client;
    memset(&config, 0, sizeof(config));
    config.struct_size = sizeof(config);
    config.target = "unix:/nowhere/node.sock";
    printf("%s\n", kvr_version());
    return kvr_open(&config, &client, error, sizeof(error)) == KVR_LINK_LOST ? 0 : 1;
}
END
cp "$into/use.c" "$into/use.cc"

compile() {
    echo "$*"
    "$@"
    [ "$("$into/use")" = "0.1.0" ]
}
# shellcheck disable=SC2046 # words are meant to be split
{
    strict="-Wall -Wextra -Wpedantic -Werror -o $into/use"
    compile cc -std=c11 $strict "$into/use.c" $(pkg-config --cflags --libs kvrail)
    compile c++ -std=c++11 $strict "$into/use.cc" $(pkg-config --cflags --libs kvrail)
    compile cc -std=c11 $strict "$into/use.c" $(pkg-config --cflags kvrail) \
        "$lib/libkvrail.a" $(pkg-config --libs libssl libcrypto) -pthread
}

cat >"$into/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.22)
project(use C)
find_package(kvrail 0.1 REQUIRED)
add_executable(use use.c)
target_link_libraries(use PRIVATE kvrail::${LINKED})
END
for linked in kvrail kvrail_static; do
    cmake -S "$into" -B "$into/$linked" -DLINKED=$linked -DCMAKE_PREFIX_PATH="$into/root" \
        >"$into/log" 2>&1 || { cat "$into/log"; exit 1; }
    cmake --build "$into/$linked" >"$into/log" 2>&1 || { cat "$into/log"; exit 1; }
    [ "$("$into/$linked/use")" = "0.1.0" ]
done

readelf -d "$lib/libkvrail.so" | grep -q 'SONAME.*\[libkvrail.so.0\]'
nm -D --defined-only "$lib/libkvrail.so" | grep -v ' A ' | sed 's/.* //; s/@.*//' |
    sort >"$into/shared"
nm -g --defined-only "$lib/libkvrail.a" | grep ' [TDBRV] ' | sed 's/.* //' |
    sort >"$into/static"
grep -o 'kvr_[a-z_]*;' node/lib/libkvrail.map | tr -d ';' | sort >"$into/wanted"
diff "$into/wanted" "$into/shared"
diff "$into/wanted" "$into/static"
echo "installed: ok"
