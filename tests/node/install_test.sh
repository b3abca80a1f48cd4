#!/bin/sh
# What is installed can be used: by pkg-config, shared and static, by find_package(), from
# C and from C++, a node in the program included; and both libraries show kvr_ symbols and
# no others.
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

cat >"$into/node.conf" <<END
[cluster]
name = test
[log]
file = node.log
[pager]
device_bytes = 1MiB
host_bytes = 1MiB
[tenant "7"]
secret = 00112233445566778899aabbccddeeff
[space "chat"]
model = m
page_tokens = 8
page_bytes = 1KiB
[node "1"]
address = 127.0.0.1:7400
END
cat >"$into/use.c" <<'END'
#include <kvrail/kvrail.h>
#include <stdio.h>
#include <string.h>
static kvr_status_t batch_do(kvr_client_t *node, enum kvr_op op, const struct kvr_space *chat,
                             const struct kvr_key *key, const struct kvr_at *at)
{
    struct kvr_batch batch;
    struct kvr_result result;
    memset(&batch, 0, sizeof(batch));
    batch.struct_size = sizeof(batch);
    batch.op = op;
    batch.variant = chat->variant;
    batch.timeout_us = 5000000;
    batch.keys = key;
    batch.nr_keys = 1;
    batch.at = at;
    if (kvr_submit(node, &batch) != KVR_OK || kvr_next(node, 9000000, &result) != KVR_OK)
        return KVR_IO;
    return result.statuses[0];
}
static int embedded(const char *target)
{
    struct kvr_config config;
    struct kvr_space chat;
    struct kvr_buffer buffer;
    struct kvr_key key;
    struct kvr_at at[2];
    char error[256];
    kvr_client_t *node;
    memset(&config, 0, sizeof(config));
    config.struct_size = sizeof(config);
    config.target = target;
    config.tenant = 7;
    if (kvr_open(&config, &node, error, sizeof(error)) != KVR_OK)
        return fprintf(stderr, "%s\n", error), 1;
    if (kvr_space_find(node, "chat", &chat) != KVR_OK
        || kvr_key_opaque(&chat, "page", 4, &key) != KVR_OK
        || kvr_buffer_create(node, 2 * chat.page_bytes, &buffer) != KVR_OK)
        return 2;
    memset(buffer.base, 42, chat.page_bytes);
    at[0].buffer = at[1].buffer = buffer.id;
    at[0].offset = 0;
    at[1].offset = chat.page_bytes;
    if (batch_do(node, KVR_OP_PUT, &chat, &key, &at[0]) != KVR_OK
        || batch_do(node, KVR_OP_GET, &chat, &key, &at[1]) != KVR_OK
        || memcmp(buffer.base, (char *)buffer.base + chat.page_bytes, chat.page_bytes) != 0)
        return 3;
    kvr_close(node);
    return 0;
}
int main(int argc, char **argv)
{
    struct kvr_config config;
    char error[256];
    kvr_client_t *client;
    memset(&config, 0, sizeof(config));
    config.struct_size = sizeof(config);
    config.target = "unix:/nowhere/node.sock";
    printf("%s\n", kvr_version());
    if (kvr_open(&config, &client, error, sizeof(error)) != KVR_LINK_LOST)
        return 9;
    return embedded(argv[argc - 1]);
}
END
cp "$into/use.c" "$into/use.cc"

uses() {
    [ "$("$1" "embed:$into/node.conf")" = "0.1.0" ]
    grep -q 'node 1 stops' "$into/node.log"
    rm "$into/node.log"
}
compile() {
    echo "$*"
    "$@"
    uses "$into/use"
}
# shellcheck disable=SC2046 # words are meant to be split
{
    strict="-Wall -Wextra -Wpedantic -Werror -o $into/use"
    compile cc -std=c11 $strict "$into/use.c" $(pkg-config --cflags --libs kvrail)
    compile c++ -std=c++11 $strict "$into/use.cc" $(pkg-config --cflags --libs kvrail)
    compile cc -std=c11 $strict "$into/use.c" $(pkg-config --cflags kvrail) \
        "$lib/libkvrail.a" $(pkg-config --libs --static kvrail | sed 's/-lkvrail //')
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
    uses "$into/$linked/use"
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
