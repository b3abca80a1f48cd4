/* What an engine at the pager level is promised: pages in place, each the bytes that
 * were sealed under its name; tables that change under its eyes only between its calls,
 * old blocks kept until it confirms; and everything back when it has ended or died. */
#include "base/assert.h"
#include "base/fault.h"
#include "tests/node/engine_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { COPIES = 1 << KVP_ORDER_COPY, DIGESTS = 1 << KVP_ORDER_DIGEST };
enum { FRAMES = LK_FILL_FRAMES + LK_HOST_FRAMES + LK_DEVICE_FRAMES };

static struct lk lk;
static kvr_client_t *engine;

static int start(void **state)
{
    (void)state;
    lk_init_fill(&lk);
    lk_start(&lk);
    engine = lk_engine_at(lk.path, 0);
    ek_nr_changed = 0;
    return engine == NULL;
}

static int start_always(void **state)
{
    (void)state;
    lk_init_fill(&lk);
    lk.config.pager.verify_local = KVP_VERIFY_ALWAYS;
    lk_start(&lk);
    engine = lk_engine_at(lk.path, 0);
    return engine == NULL;
}

static int start_large(void **state)
{
    (void)state;
    lk_init_fill(&lk);
    lk.config.pager.pools[0].nr_frames = 4096;
    lk_start(&lk);
    engine = lk_engine_at(lk.path, 0);
    return engine == NULL;
}

static int stop(void **state)
{
    (void)state;
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_counts(&lk).fenced, 0);
    assert_int_equal(lk_counts(&lk).malformed, 0);
    lk_stop(&lk);
    return 0;
}

/* ------------------------------------------------------------------ in place */

/* A prompt is computed into the arena, found again by another sequence where it lies
 * (the same blocks: no byte moved), and everything is given back. */
static void engine__fills_in_place_and_finds_again(void **state)
{
    const struct kvr_arena *arenas;
    (void)state;
    assert_int_equal(kvr_arenas(engine, &arenas), 1);
    assert_int_equal(arenas[0].block_bytes, LK_PAGE_BYTES);
    assert_int_equal(arenas[0].nr_blocks, LK_FILL_FRAMES);
    kvr_seq_t seq = ek_open(engine);
    assert_int_equal(ek_table(engine, seq).nr_pages, 0);
    assert_int_equal(ek_fetch(engine, seq, 0, 1, 4), 0);
    for (uint32_t page = 0; page < 4; page++) {
        ek_grow(engine, seq, page, 1 + page);
    }
    struct kvr_table table = ek_table(engine, seq);
    assert_int_equal(table.nr_pages, 4);
    assert_int_equal(table.n_tokens, 4 * LK_PAGE_TOKENS);
    ek_await_frames(&lk, KVP_SEALED, 4);
    kvr_seq_t reader = ek_open(engine);
    assert_int_equal(ek_fetch(engine, reader, 0, 1, 5), 4);
    struct kvr_table found = ek_table(engine, reader);
    table = ek_table(engine, seq);
    for (uint32_t page = 0; page < 4; page++) {
        assert_int_equal(found.blocks[page], table.blocks[page]);
        assert_int_equal(found.gens[page], table.gens[page]);
        assert_true(ek_holds(engine, reader, page, 1 + page));
    }
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    assert_int_equal(kvr_seq_table(engine, seq, &table), KVR_STALE);
    assert_int_equal(ek_end(engine, reader), KVR_OK);
    assert_int_equal(lk_frames(&lk, KVP_SEALED), 4);
    assert_int_equal(lk_frames(&lk, KVP_FREE), FRAMES - 4);
}

/* What the object level put lies in host memory; a fetch brings it to a block. */
static void engine__fetches_what_was_put(void **state)
{
    struct kvr_buffer buffer;
    (void)state;
    assert_int_equal(kvr_buffer_create(engine, 8 * LK_PAGE_BYTES, &buffer), KVR_OK);
    for (uint32_t i = 0; i < 8; i++) {
        lk_page((uint8_t *)buffer.base + i * LK_PAGE_BYTES, 100 + i);
    }
    assert_int_equal(lk_batch(engine, KVR_OP_PUT, 100, 8, buffer.id, 0, NULL), KVR_OK);
    kvr_seq_t seq = ek_open(engine);
    assert_int_equal(ek_fetch(engine, seq, 0, 100, 8), 8);
    for (uint32_t page = 0; page < 8; page++) {
        assert_true(ek_holds(engine, seq, page, 100 + page));
    }
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    kvr_buffer_destroy(engine, &buffer);
}

/* ------------------------------------------------------------------ tables */

/* A fork shares what is sealed and copies what is being filled; both go on apart. A
 * truncated table gives its blocks back once that is confirmed, and not before. */
static void table__forks_and_is_truncated(void **state)
{
    (void)state;
    kvr_seq_t seq = ek_open(engine);
    ek_grow(engine, seq, 0, 10);
    assert_int_equal(ek_append(engine, seq, 3), KVR_OK);
    memset(ek_at(engine, seq, 1), 0x33, LK_PAGE_BYTES);
    kvr_seq_t child = ek_fork(engine, seq);
    assert_int_not_equal(child, 0);
    assert_int_equal(ek_append(engine, child, 2), KVR_OK);
    assert_int_equal(ek_append(engine, seq, 2), KVR_OK);
    assert_ptr_equal(ek_at(engine, seq, 0), ek_at(engine, child, 0));
    assert_ptr_not_equal(ek_at(engine, seq, 1), ek_at(engine, child, 1));
    assert_int_equal(ek_at(engine, child, 1)[0], 0x33);
    memset(ek_at(engine, child, 1), 0x44, LK_PAGE_BYTES);
    assert_int_equal(ek_at(engine, seq, 1)[0], 0x33);
    assert_int_equal(ek_table(engine, child).n_tokens, LK_PAGE_TOKENS + 5);
    /* Into the shared page: the child gets a block of its own, with what it keeps. */
    uint8_t *shared = ek_at(engine, child, 0);
    assert_int_equal(ek_truncate(engine, child, 4), KVR_OK);
    assert_int_equal(ek_table(engine, child).nr_pages, 1);
    assert_int_equal(ek_append(engine, child, 1), KVR_OK);
    assert_ptr_not_equal(ek_at(engine, child, 0), shared);
    assert_memory_equal(ek_at(engine, child, 0), shared, LK_PAGE_BYTES / 2);
    /* The page that fell off keeps its frame until the new table is confirmed. */
    uint32_t filling = lk_frames(&lk, KVP_FILLING);
    struct kvr_table table = ek_table(engine, child);
    assert_int_equal(ek_confirm(engine, child, table.version + 1), KVR_INVALID);
    assert_int_equal(lk_frames(&lk, KVP_FILLING), filling);
    assert_int_equal(ek_confirm(engine, child, table.version), KVR_OK);
    assert_int_equal(lk_frames(&lk, KVP_FILLING), filling - 1);
    assert_int_equal(ek_end(engine, child), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    ek_await_frames(&lk, KVP_FILLING, 0);
}

/* A table longer than one answer: a fork of it is not shown before it is told whole. */
static void table__of_many_pages_is_told_in_parts(void **state)
{
    enum { FIRST = 1024, MORE = 300, PAGES = FIRST + MORE };
    struct kvr_table table;
    (void)state;
    kvr_seq_t seq = ek_open(engine);
    assert_int_equal(ek_append(engine, seq, FIRST * LK_PAGE_TOKENS), KVR_OK);
    assert_int_equal(ek_append(engine, seq, MORE * LK_PAGE_TOKENS), KVR_OK);
    assert_int_equal(ek_table(engine, seq).nr_pages, PAGES);
    unsigned told = ek_nr_changed;
    kvr_seq_t child = ek_fork(engine, seq);
    assert_int_not_equal(child, 0);
    assert_int_equal(kvr_seq_table(engine, child, &table), KVR_AGAIN);
    if (ek_nr_changed == told) {
        assert_int_equal(ek_await_changed(engine), child);
    }
    static uint8_t seen[4096];
    memset(seen, 0, sizeof(seen));
    for (unsigned i = 0; i < 2; i++) {
        table = ek_table(engine, i == 0 ? seq : child);
        assert_int_equal(table.nr_pages, PAGES);
        assert_int_equal(table.n_tokens, PAGES * LK_PAGE_TOKENS);
        for (uint32_t page = 0; page < PAGES; page++) {
            assert_int_equal(seen[table.blocks[page]]++, 0);
        }
    }
    assert_int_equal(ek_confirm(engine, child, table.version), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    assert_int_equal(ek_end(engine, child), KVR_OK);
}

/* An APPEND that waits for frames, and a TRUNCATE that overtakes it: what was appended
 * begins where the table ends then, and every page of it is told. */
static void append__overtaken_by_a_truncate_tells_every_page(void **state)
{
    enum { IDLE = 60, OWN = 2, MORE = 8 };
    struct kvr_result result;
    (void)state;
    kvr_seq_t idle = ek_open(engine), seq = ek_open(engine);
    for (uint32_t page = 0; page < IDLE; page++) {
        ek_grow(engine, idle, page, 200 + page);
    }
    ek_await_frames(&lk, KVP_SEALED, IDLE);
    assert_int_equal(ek_end(engine, idle), KVR_OK);
    assert_int_equal(ek_append(engine, seq, OWN * LK_PAGE_TOKENS), KVR_OK);
    int32_t was = ek_table(engine, seq).blocks[0];
    struct kvr_seq_call call = {
        .struct_size = sizeof(call),
        .op = KVR_OP_SEQ_APPEND,
        .timeout_us = LK_LATER_US,
        .seq = seq,
        .tokens = MORE * LK_PAGE_TOKENS,
    };
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_OK);
    call.op = KVR_OP_SEQ_TRUNCATE;
    call.tokens = 0;
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_OK);
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_TRUNCATE);
    assert_int_equal(result.status, KVR_OK);
    assert_int_equal(ek_table(engine, seq).nr_pages, 0);
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_APPEND);
    assert_int_equal(result.status, KVR_OK);
    assert_int_equal(result.first_page, 0);
    assert_int_equal(result.nr_changed, MORE);
    struct kvr_table table = ek_table(engine, seq);
    assert_int_equal(table.nr_pages, MORE);
    assert_int_equal(table.n_tokens, MORE * LK_PAGE_TOKENS);
    for (uint32_t page = 0; page < MORE; page++) {
        assert_int_not_equal(table.blocks[page], was); /* retired, not confirmed */
        for (uint32_t other = 0; other < page; other++) {
            assert_int_not_equal(table.blocks[page], table.blocks[other]);
        }
    }
    assert_int_equal(ek_end(engine, seq), KVR_OK);
}

/* A FETCH that ends while an APPEND waits for frames: its pages are told, if not by its
 * own answer then behind the APPEND's. */
static void fetch__beside_an_append_tells_every_page(void **state)
{
    enum { IDLE = 60, OWN = 2, MORE = 8, HITS = 3 };
    struct kvr_result result;
    struct kvr_key keys[HITS];
    (void)state;
    kvr_seq_t idle = ek_open(engine), own = ek_open(engine), seq = ek_open(engine);
    for (uint32_t page = 0; page < IDLE; page++) {
        ek_grow(engine, idle, page, 300 + page);
    }
    ek_await_frames(&lk, KVP_SEALED, IDLE);
    assert_int_equal(ek_end(engine, idle), KVR_OK);
    assert_int_equal(ek_append(engine, own, OWN * LK_PAGE_TOKENS), KVR_OK);
    struct kvr_seq_call call = {
        .struct_size = sizeof(call),
        .op = KVR_OP_SEQ_APPEND,
        .timeout_us = LK_LATER_US,
        .seq = seq,
        .tokens = MORE * LK_PAGE_TOKENS,
    };
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_OK);
    call.op = KVR_OP_SEQ_FETCH;
    call.keys = call.anchor = keys;
    call.nr_keys = HITS;
    for (uint32_t i = 0; i < HITS; i++) {
        keys[i] = lk_key(300 + i);
    }
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_OK);
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_FETCH);
    assert_int_equal(result.nr_hits, HITS);
    uint64_t version = ek_table(engine, seq).version;
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_APPEND);
    assert_int_equal(result.status, KVR_OK);
    while (ek_table(engine, seq).nr_pages < HITS + MORE) {
        assert_int_equal(ek_await_changed(engine), seq);
    }
    struct kvr_table table = ek_table(engine, seq);
    assert_int_equal(table.nr_pages, HITS + MORE);
    assert_int_equal(table.n_tokens, (HITS + MORE) * LK_PAGE_TOKENS);
    assert_true(table.version > version);
    for (uint32_t page = 0; page < HITS; page++) {
        assert_true(ek_holds(engine, seq, page, 300 + page));
    }
    for (uint32_t page = 1; page < HITS + MORE; page++) {
        for (uint32_t other = 0; other < page; other++) {
            assert_int_not_equal(table.blocks[page], table.blocks[other]);
        }
    }
    assert_int_equal(ek_end(engine, own), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
}

/* Two engines' steps compute one page at one time. The first digest wins; the loser is
 * told, goes on reading its own block until it confirms; that block is free then. */
static void table__switches_to_the_copy_that_was_first(void **state)
{
    (void)state;
    lk_hold(&lk, DIGESTS);
    kvr_seq_t late = ek_open(engine), first = ek_open(engine);
    ek_grow(engine, late, 0, 20);
    ek_grow(engine, first, 0, 20); /* digests go latest first */
    uint8_t *was = ek_at(engine, late, 0);
    uint64_t version = ek_table(engine, late).version;
    lk_hold(&lk, 0);
    assert_int_equal(ek_await_changed(engine), late);
    assert_ptr_equal(ek_at(engine, late, 0), ek_at(engine, first, 0));
    assert_ptr_not_equal(ek_at(engine, late, 0), was);
    assert_true(ek_table(engine, late).version > version);
    assert_int_equal(lk_frames(&lk, KVP_SEALING), 1); /* `was`, for queued kernels */
    assert_int_equal(ek_confirm(engine, late, version), KVR_OK);
    assert_int_equal(lk_frames(&lk, KVP_SEALING), 1);
    version = ek_table(engine, late).version;
    assert_int_equal(ek_confirm(engine, late, version), KVR_OK);
    assert_int_equal(lk_frames(&lk, KVP_SEALING), 0);
    /* Sealed already: the answer itself tells. */
    kvr_seq_t third = ek_open(engine);
    unsigned told = ek_nr_changed;
    ek_grow(engine, third, 0, 20);
    assert_ptr_equal(ek_at(engine, third, 0), ek_at(engine, first, 0));
    assert_int_equal(ek_nr_changed, told);
    assert_int_equal(ek_end(engine, third), KVR_OK);
    assert_int_equal(ek_end(engine, late), KVR_OK);
    assert_int_equal(ek_end(engine, first), KVR_OK);
    assert_int_equal(lk_frames(&lk, KVP_SEALED), 1);
    assert_int_equal(lk_frames(&lk, KVP_FREE), FRAMES - 1);
}

/* While an APPEND is under way the table may have changed already: no answer gives a
 * version that the engine could confirm without having been told that. */
static void table__gives_no_version_that_was_not_told(void **state)
{
    struct kvr_result result;
    (void)state;
    lk_hold(&lk, DIGESTS | COPIES);
    kvr_seq_t seq = ek_open(engine), first = ek_open(engine);
    ek_grow(engine, seq, 0, 30);
    assert_int_equal(ek_append(engine, seq, 4), KVR_OK);
    memset(ek_at(engine, seq, 1), 0x55, LK_PAGE_BYTES);
    assert_int_equal(ek_seal(engine, seq, 1, 31), KVR_SEALING); /* a tail */
    ek_grow(engine, first, 0, 30);
    struct kvr_table table = ek_table(engine, seq);
    uint64_t told = table.version;
    int32_t tail = table.blocks[1];
    /* Behind a sealed tail: a new block. Its COPY is held back. */
    const struct kvr_seq_call append = {
        .struct_size = sizeof(append),
        .op = KVR_OP_SEQ_APPEND,
        .timeout_us = LK_LATER_US,
        .seq = seq,
        .tokens = 2,
    };
    assert_int_equal(kvr_seq_submit(engine, &append), KVR_OK);
    const struct kvr_seq_call confirm = {
        .struct_size = sizeof(confirm),
        .op = KVR_OP_SEQ_CONFIRM,
        .tag = 77,
        .seq = seq,
        .version = told,
    };
    ek_await_frames(&lk, KVP_FILLING, 1);
    for (unsigned turn = 0; turn < 2; turn++) {
        assert_int_equal(kvr_seq_submit(engine, &confirm), KVR_OK);
        assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
        assert_int_equal(result.tag, 77);
        assert_int_equal(result.status, KVR_OK);
        table = ek_table(engine, seq);
        assert_int_equal(table.version, told);
        assert_int_equal(table.blocks[1], tail);
        assert_int_equal(table.n_tokens, LK_PAGE_TOKENS + 4);
        lk_hold(&lk, COPIES); /* … and page 0 is switched before the second turn */
        ek_await_frames(&lk, KVP_SEALED, 2);
    }
    assert_true(ek_holds(engine, seq, 0, 30)); /* nothing old was let go */
    assert_int_equal(kvr_next(engine, 20000, &result), KVR_AGAIN);
    lk_hold(&lk, 0);
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_APPEND);
    assert_int_equal(ek_await_changed(engine), seq);
    table = ek_table(engine, seq);
    assert_true(table.version > told + 1);
    assert_int_not_equal(table.blocks[1], tail);
    assert_int_equal(table.n_tokens, LK_PAGE_TOKENS + 6);
    assert_ptr_equal(ek_at(engine, seq, 0), ek_at(engine, first, 0));
    assert_int_equal(ek_at(engine, seq, 1)[0], 0x55);
    assert_int_equal(ek_confirm(engine, seq, table.version), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    assert_int_equal(ek_end(engine, first), KVR_OK);
}

/* An engine that reads nothing: others are served, and when it reads at last it is told
 * of every table that changed. */
static void notices__wait_for_room_and_are_not_lost(void **state)
{
    enum { SEQS = 16, KEYS = 1024 };
    kvr_seq_t seqs[SEQS];
    struct kvr_result result;
    bool told[SEQS] = {false};
    unsigned nr_told = 0, nr_batches = 0;
    (void)state;
    kvr_client_t *silent = lk_engine_at(lk.path, 1 << 17);
    assert_non_null(silent);
    lk_hold(&lk, DIGESTS);
    for (uint32_t i = 0; i < SEQS; i++) {
        seqs[i] = ek_open(silent);
        ek_grow(silent, seqs[i], 0, 40 + i);
    }
    kvr_seq_t first = ek_open(engine);
    for (uint32_t i = 0; i < SEQS; i++) {
        ek_grow(engine, first, i, 40 + i);
    }
    /* Its answer ring is as full as it gets. */
    for (unsigned refused = 0; refused < 50;) {
        kvr_status_t status =
            lk_submit(silent, KVR_OP_PIN, 1 << 20, KEYS, 0, 0, 0, LK_LATER_US);
        nr_batches += status == KVR_OK;
        refused = status == KVR_OK ? 0 : refused + 1;
        usleep(1000);
    }
    assert_in_range(nr_batches, 8, 40);
    lk_hold(&lk, 0);
    ek_await_frames(&lk, KVP_SEALED, SEQS);
    usleep(20000);
    assert_int_equal(lk_counts(&lk).notices, 0);
    assert_true(ek_holds(engine, first, 3, 43)); /* beside it, all goes on */
    kvr_seq_t reader = ek_open(engine);
    assert_int_equal(ek_fetch(engine, reader, 0, 40, SEQS), SEQS);
    assert_int_equal(ek_end(engine, reader), KVR_OK);
    while (nr_told < SEQS || nr_batches > 0) {
        assert_int_equal(kvr_next(silent, LK_LATER_US, &result), KVR_OK);
        if (result.op == KVR_OP_PIN) {
            nr_batches--;
            continue;
        }
        assert_int_equal(result.op, KVR_OP_SEQ_CHANGED);
        for (uint32_t i = 0; i < SEQS; i++) {
            if (seqs[i] == result.seq) {
                assert_false(told[i]);
                told[i] = true;
                nr_told++;
                assert_true(ek_holds(silent, seqs[i], 0, 40 + i));
            }
        }
    }
    for (uint32_t i = 0; i < SEQS; i++) {
        assert_int_equal(ek_end(silent, seqs[i]), KVR_OK);
    }
    kvr_close(silent);
    assert_int_equal(ek_end(engine, first), KVR_OK);
    lk_await(&lk, 1, 0);
}

/* ------------------------------------------------------------------ verification */

/* A page written after it was sealed, in its own domain: what verify_local sees is the
 * digest that it no longer has. (With `off`, and with `sample` for the acquires that it
 * does not look at, the tenant reads what it wrote; nobody else can be given it: a peer
 * compares the digest.) */
static void sealed__page_written_again_is_found_out(void **state)
{
    (void)state;
    kvr_seq_t seq = ek_open(engine), reader = ek_open(engine);
    for (uint32_t page = 0; page < 3; page++) {
        ek_grow(engine, seq, page, 60 + page);
    }
    ek_await_frames(&lk, KVP_SEALED, 3);
    assert_int_equal(ek_fetch(engine, reader, 0, 60, 3), 3);
    assert_int_equal(ek_end(engine, reader), KVR_OK);
    ek_at(engine, seq, 1)[17] ^= 1;
    reader = ek_open(engine);
    struct kvr_key keys[3] = {lk_key(60), lk_key(61), lk_key(62)};
    const struct kvr_seq_call call = {
        .op = KVR_OP_SEQ_FETCH,
        .seq = reader,
        .keys = keys,
        .nr_keys = 3,
        .anchor = keys};
    struct kvr_result result = ek_call(engine, &call);
    assert_int_equal(result.status, KVR_OK);
    assert_int_equal(result.nr_hits, 1);
    assert_int_equal(result.statuses[1], KVR_NOT_VERIFIED);
    assert_string_equal(kvr_miss_name(result.reasons[1]), "not_verified");
    assert_int_equal(ek_end(engine, reader), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
}

/* ------------------------------------------------------------------ refusals */

static void attach__refuses_who_has_no_fill_memory(void **state)
{
    char target[128], error[256];
    kvr_client_t *client = NULL;
    (void)state;
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = LK_FOREIGN,
        .level = KVR_LEVEL_PAGER,
    };
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_INVALID);
    assert_non_null(strstr(error, "domain = own and fill = yes"));
    config.level = (enum kvr_level)2;
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_CONFIG);
    assert_non_null(strstr(error, "config.level is 2"));
    config.level = KVR_LEVEL_OBJECT; /* as ever */
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_OK);
    const struct kvr_arena *arenas;
    assert_int_equal(kvr_arenas(client, &arenas), 0);
    const struct kvr_seq_call call = {
        .struct_size = sizeof(call), .op = KVR_OP_SEQ_OPEN};
    assert_int_equal(kvr_seq_submit(client, &call), KVR_INVALID);
    assert_non_null(strstr(kvr_error(client), "client.level"));
    kvr_close(client);
}

static void submit__malformed_names_the_field(void **state)
{
    struct kvr_key key = lk_key(1);
    (void)state;
    kvr_seq_t seq = ek_open(engine);
    const struct {
        struct kvr_seq_call call;
        kvr_status_t status;
        const char *field;
    } cases[] = {
        {{.op = KVR_OP_PUT, .seq = seq}, KVR_INVALID, "call.op"},
        {{.op = KVR_OP_SEQ_CHANGED, .seq = seq}, KVR_INVALID, "call.op"},
        {{.op = KVR_OP_SEQ_OPEN, .variant = 9}, KVR_INVALID, "call.variant"},
        {{.op = KVR_OP_SEQ_END, .seq = seq + 1}, KVR_STALE, "call.seq"},
        {{.op = KVR_OP_SEQ_END, .seq = 0}, KVR_STALE, "call.seq"},
        {{.op = KVR_OP_SEQ_FETCH, .seq = seq, .keys = &key, .timeout_us = 1},
         KVR_INVALID,
         "call.nr_keys"},
        {{.op = KVR_OP_SEQ_SEAL, .seq = seq, .keys = &key, .nr_keys = 2},
         KVR_INVALID,
         "call.nr_keys"},
        {{.op = KVR_OP_SEQ_APPEND, .seq = seq, .tokens = 1},
         KVR_INVALID,
         "call.timeout_us"},
        {{.op = KVR_OP_SEQ_APPEND, .seq = seq, .tokens = 1 << 20, .timeout_us = 1},
         KVR_TOO_LARGE,
         "call.tokens"},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct kvr_seq_call call = cases[i].call;
        call.struct_size = sizeof(call);
        assert_int_equal(kvr_seq_submit(engine, &call), cases[i].status);
        assert_non_null(strstr(kvr_error(engine), cases[i].field));
    }
    /* What the node alone can know. */
    assert_int_equal(ek_seal(engine, seq, 0, 1), KVR_INVALID);
    assert_int_equal(ek_append(engine, seq, 100 * LK_PAGE_TOKENS), KVR_TOO_LARGE);
    assert_non_null(strstr(kvr_error(engine), "device.pages is 100, the limit is 64"));
    assert_int_equal(ek_truncate(engine, seq, 1), KVR_INVALID);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
}

/* More sequences than the node has: AGAIN, nothing is lost, and one that ends makes
 * room. */
static void open__ends_at_the_nodes_bound(void **state)
{
    kvr_seq_t seqs[64];
    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        seqs[i] = ek_open(engine);
    }
    const struct kvr_seq_call open = {.op = KVR_OP_SEQ_OPEN};
    struct kvr_result result = ek_call(engine, &open);
    assert_int_equal(result.status, KVR_AGAIN);
    assert_int_equal(result.seq, 0);
    assert_int_equal(ek_fork(engine, seqs[3]), 0);
    assert_int_equal(ek_end(engine, seqs[7]), KVR_OK);
    seqs[7] = ek_fork(engine, seqs[3]);
    assert_int_not_equal(seqs[7], 0);
    for (unsigned i = 0; i < 64; i++) {
        assert_int_equal(ek_end(engine, seqs[i]), KVR_OK);
    }
}

/* A sequence that ends while an APPEND of it is under way: that ends first. */
static void end__ends_what_is_under_way(void **state)
{
    struct kvr_result result;
    (void)state;
    kvr_seq_t seq = ek_open(engine);
    assert_int_equal(ek_append(engine, seq, 3), KVR_OK);
    assert_int_equal(ek_seal(engine, seq, 0, 5), KVR_SEALING);
    lk_hold(&lk, COPIES);
    struct kvr_seq_call call = {
        .struct_size = sizeof(call),
        .op = KVR_OP_SEQ_APPEND,
        .timeout_us = LK_LATER_US,
        .seq = seq,
        .tokens = 2,
    };
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_OK);
    call.op = KVR_OP_SEQ_END;
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_OK);
    assert_int_equal(kvr_seq_submit(engine, &call), KVR_STALE);
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_APPEND);
    assert_int_equal(result.status, KVR_STALE);
    assert_int_equal(kvr_next(engine, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.op, KVR_OP_SEQ_END);
    assert_int_equal(result.status, KVR_OK);
    lk_hold(&lk, 0);
    ek_await_frames(&lk, KVP_QUARANTINE, 0);
    ek_await_frames(&lk, KVP_FILLING, 0);
}

/* ------------------------------------------------------------------ faults */

/* Every fallible call of both sides fails once: open, one page of a sequence, a fork,
 * close. Nothing is left of what came to nothing. */
static void open__survives_every_fault(void **state)
{
    char target[128];
    (void)state;
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    lk_await(&lk, 1, 0);
    const struct lk_held before = lk_held();
    unsigned n = 0;
    for (bool whole = false; !whole; n++) {
        const struct kvr_config config = {
            .struct_size = sizeof(config),
            .target = target,
            .tenant = LK_TENANT,
            .timeout_us = 2000000,
            .level = KVR_LEVEL_PAGER,
        };
        struct kvr_seq_call call = {
            .struct_size = sizeof(call),
            .op = KVR_OP_SEQ_OPEN,
            .timeout_us = LK_LATER_US,
        };
        struct kvr_result result = {0};
        kvr_client_t *client = NULL;
        kv_fault_after(n + 1);
        kvr_status_t status = kvr_open(&config, &client, NULL, 0);
        assert_true((status == KVR_OK) == (client != NULL));
        if (status == KVR_OK && (status = kvr_seq_submit(client, &call)) == KVR_OK) {
            assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
            call.op = KVR_OP_SEQ_APPEND;
            call.seq = result.seq;
            call.tokens = 1;
            status = kvr_seq_submit(client, &call);
            whole = status == KVR_OK;
        }
        kv_fault_after(0);
        assert_true(status <= 0 && status != KVR_DEADLINE);
        if (whole) {
            assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
        }
        if (call.seq != 0) {
            assert_int_equal(ek_end(client, call.seq), KVR_OK);
        }
        kvr_close(client);
        lk_await(&lk, 1, 0);
        lk_await_held(&before);
        assert_true(n < 100);
    }
    assert_true(n > 12);
    assert_int_equal(lk_counts(&lk).fenced, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        TEST(engine__fills_in_place_and_finds_again),
        TEST(engine__fetches_what_was_put),
        TEST(table__forks_and_is_truncated),
        cmocka_unit_test_setup_teardown(
            table__of_many_pages_is_told_in_parts, start_large, stop),
        TEST(append__overtaken_by_a_truncate_tells_every_page),
        TEST(fetch__beside_an_append_tells_every_page),
        TEST(table__switches_to_the_copy_that_was_first),
        TEST(table__gives_no_version_that_was_not_told),
        TEST(notices__wait_for_room_and_are_not_lost),
        cmocka_unit_test_setup_teardown(
            sealed__page_written_again_is_found_out, start_always, stop),
        TEST(attach__refuses_who_has_no_fill_memory),
        TEST(submit__malformed_names_the_field),
        TEST(open__ends_at_the_nodes_bound),
        TEST(end__ends_what_is_under_way),
        TEST(open__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
