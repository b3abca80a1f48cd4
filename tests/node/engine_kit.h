/* An engine for tests of the pager level: the calls of libkvrail one at a time, pages
 * whose bytes follow from a number, written and checked in place.
 *
 * Threading: the test's thread. Results that come without a request are counted.
 * Ownership: sequences are the client's, which is the caller's. Units: tokens, pages.
 * Errors: as local_kit.h; of a call that was taken, the status is the answer.
 */
#ifndef TESTS_NODE_ENGINE_KIT_H
#define TESTS_NODE_ENGINE_KIT_H

#include "tests/node/local_kit.h"

/* Asserts that it is submitted; the result of exactly this call. Arrays of the result
 * live until the next call. */
struct kvr_result ek_call(kvr_client_t *client, const struct kvr_seq_call *call);
/* The status of the operation. */
kvr_seq_t ek_open(kvr_client_t *client);
/* Pages numbered first … first + n - 1, onto a table of `at` pages: nr_hits. */
uint32_t
ek_fetch(kvr_client_t *client, kvr_seq_t seq, uint32_t at, uint64_t first, uint32_t n);
kvr_status_t ek_append(kvr_client_t *client, kvr_seq_t seq, uint32_t tokens);
kvr_status_t
ek_seal(kvr_client_t *client, kvr_seq_t seq, uint32_t page, uint64_t number);
kvr_status_t ek_confirm(kvr_client_t *client, kvr_seq_t seq, uint64_t version);
kvr_status_t ek_truncate(kvr_client_t *client, kvr_seq_t seq, uint32_t tokens);
kvr_seq_t ek_fork(kvr_client_t *client, kvr_seq_t seq); /* 0: refused */
kvr_status_t ek_end(kvr_client_t *client, kvr_seq_t seq);
struct kvr_table ek_table(kvr_client_t *client, kvr_seq_t seq);
/* Where page `page` lies now. */
uint8_t *ek_at(kvr_client_t *client, kvr_seq_t seq, uint32_t page);
/* append, write, seal of one page more; the page's number is its content. */
void ek_grow(kvr_client_t *client, kvr_seq_t seq, uint32_t page, uint64_t number);
bool ek_holds(kvr_client_t *client, kvr_seq_t seq, uint32_t page, uint64_t number);
/* Until the client is told of a table that changed by itself: which. */
kvr_seq_t ek_await_changed(kvr_client_t *client);
/* Told so far beside requests. */
extern unsigned ek_nr_changed;
extern kvr_seq_t ek_last_changed;
/* Until so many frames are in this state. */
void ek_await_frames(struct lk *lk, enum kvp_frame_state state, uint32_t n);

#endif
