/* Small scenarios for golden traces: clients with one page at a time, by name.
 *
 *   sim_put(sim, 1, "a"); sim_get(sim, 3, "a"); sim_expect(sim, "[ 4.020] n3 > …");
 *
 * Nodes are named as the trace prints them, 1 … n. Every page's content is checked when
 * it is got.
 *
 * Threading: one scenario at a time. Ownership: sim_end() takes down what sim_start()
 * made. Units: microseconds of virtual time. Errors: the test fails; the status of an
 * operation is the answer.
 */
#ifndef KVS_TEST_SIM_KIT_H
#define KVS_TEST_SIM_KIT_H

#include "node/sim/world.h"

enum { SIM_NODES_MAX = 8 };

struct sim_client {
    struct kvs_client client;
    bool attached;
    bool answered;
    struct kvo_answer answer; /* without its arrays */
    kv_status_t status;       /* of the first key, or of the whole */
    enum kv_miss reason;
    enum kvo_place place;
    uint32_t nr_switched;
    kv_key_t key;
};

struct sim {
    kvs_world_t *world;
    struct sim_client clients[SIM_NODES_MAX + 1];
};

/* Links up and warm; the recording starts here. */
void sim_start(struct sim *sim, const struct kvs_config *config);
/* No checker has failed; everything is freed. */
void sim_end(struct sim *sim);

kv_key_t sim_key(const char *name);
/* Asks and returns at once / waits for the answer and gives its status. */
void sim_ask(struct sim *sim, uint32_t node, enum kvo_op op, const char *name);
kv_status_t sim_wait(struct sim *sim, uint32_t node);
kv_status_t sim_put(struct sim *sim, uint32_t node, const char *name);
kv_status_t sim_get(struct sim *sim, uint32_t node, const char *name);
/* Sequences: open; append one page, write it as `name` and seal it. */
struct kvp_seq_id sim_seq(struct sim *sim, uint32_t node);
kv_status_t
sim_seq_op(struct sim *sim, uint32_t node, enum kvo_op op, struct kvp_seq_id seq);
struct kvp_ref sim_seq_write(
    struct sim *sim, uint32_t node, struct kvp_seq_id seq, const char *name);
kv_status_t sim_seq_seal(
    struct sim *sim, uint32_t node, struct kvp_seq_id seq, const char *name);
enum kvp_frame_state sim_state(struct sim *sim, uint32_t node, struct kvp_ref ref);

void sim_run(struct sim *sim, uint64_t us);
/* Forgets what was recorded so far. */
void sim_skip(struct sim *sim);
/* What was recorded since the last call, but for heartbeats, is exactly this text;
 * prints both if not. */
void sim_expect(struct sim *sim, const char *text);

#endif
