/* The pager against a model that knows who holds what. What must hold: whatever order
 * operations, completions, failures and duplicates come in, no frame ends while
 * somebody may touch it, no reader sees another page's bytes, every count is conserved,
 * and every answer is the one that looking at all frames gives. Each planted bug must
 * break one of these rules, or the rules prove nothing.
 *
 *     pager_model_test                   KV_MODEL_STEPS over KV_MODEL_SEEDS seeds
 *     KV_MODEL_SEED=7 pager_model_test   that seed alone, to replay
 */
#include "base/fault.h"
#include "base/mem.h"
#include "tests/pager/model_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { STEPS = 3000000, SEEDS = 60 };

static uint64_t number_from(const char *name, uint64_t preset)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : preset;
}

static uint64_t nr_ready; /* leavings of all runs that became ready */

static void run(uint64_t seed, uint64_t steps, struct kvp_metrics *sum)
{
    struct mw *w = mw_create(seed);

    for (uint64_t i = 0; i < steps; i++) {
        mw_step(w);
    }
    mw_compare(w);
    mw_drain(w);
    nr_ready += w->nr_ready;
    for (unsigned from = 0; from < KVP_NR_STATES; from++) {
        for (unsigned to = 0; to < KVP_NR_STATES; to++) {
            sum->edges[from][to] += kvp_metrics(w->pager)->edges[from][to];
        }
    }
    sum->dedup += kvp_metrics(w->pager)->dedup;
    sum->demoted += kvp_metrics(w->pager)->demoted;
    sum->wanted_again += kvp_metrics(w->pager)->wanted_again;
    sum->verify_failed += kvp_metrics(w->pager)->verify_failed;
    sum->zeroed += kvp_metrics(w->pager)->zeroed;
    sum->quota += kvp_metrics(w->pager)->quota;
    sum->again += kvp_metrics(w->pager)->again;
    mw_destroy(w);
}

static void model__random_operations_keep_every_rule(void **state)
{
    (void)state;
    const uint64_t one = number_from("KV_MODEL_SEED", 0);
    const uint64_t seeds = one != 0 ? 1 : number_from("KV_MODEL_SEEDS", SEEDS);
    const uint64_t steps = number_from("KV_MODEL_STEPS", STEPS) / seeds;
    const int64_t live = kv_mem_live();
    struct kvp_metrics sum = {0};

    for (uint64_t i = 0; i < seeds; i++) {
        run(one != 0 ? one : i + 1, steps, &sum);
    }
    assert_int_equal(kv_mem_live(), live);
    if (one != 0) {
        return;
    }
    /* Every edge of the diagram was walked, and every rare thing happened. */
#define X(from, to) assert_true(sum.edges[from][to] > 0);
    KVP_FRAME_EDGES(X)
#undef X
    assert_true(sum.dedup > 0 && sum.demoted > 0 && sum.wanted_again > 0);
    assert_true(sum.verify_failed > 0 && sum.zeroed > 0);
    assert_true(sum.quota > 0 && sum.again > 0 && nr_ready > 0);
}

/* In a child, so that the abort of the rule that it broke is an answer. */
static bool child_dies(enum kv_plant plant)
{
    const pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        struct kvp_metrics sum = {0};
        if (freopen("/dev/null", "w", stderr) == NULL) {
            _exit(2);
        }
        kv_plant_set(plant, true);
        for (uint64_t seed = 1; seed <= 6; seed++) {
            run(seed, 20000, &sum);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void model__planted_bugs_are_found(void **state)
{
    (void)state;
    const enum kv_plant plants[] = {
        KV_PLANT_NO_GENERATION,
        KV_PLANT_LATE_COMPLETION,
        KV_PLANT_DEDUP_EARLY,
        KV_PLANT_OPAQUE_NO_TENANT,
    };

    for (unsigned i = 0; i < sizeof(plants) / sizeof(plants[0]); i++) {
        if (!child_dies(plants[i])) {
            fail_msg("%s was not found", kv_plant_name(plants[i]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model__random_operations_keep_every_rule),
        cmocka_unit_test(model__planted_bugs_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
