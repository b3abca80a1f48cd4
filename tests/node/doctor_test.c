/* Goal: the doctor ends with rows, whatever call fails and however many there are to be
 * said; and it reads what the machine says, not what it hopes.
 * Method: its parts on a configuration of loopback addresses; a /proc and a /sys of
 * this test; faults by number. */
#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/doctor.h"
#include "tests/base/process_kit.h"
#include "tests/node/cluster_kit.h"
#include "tests/node/name_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { FAULTS_MAX = 100, SLOW_S = 4 };
#define SLOW_NAME "slow.invalid"

static char folder[] = "/tmp/kvrail-doctor-XXXXXX";
static struct kvn_config *config;
static struct kvn_doctor doctor;

static const char *in_folder(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *file = fopen(in_folder(name), "w");
    KV_ASSERT(file != NULL && fputs(text, file) >= 0);
    fclose(file);
    KV_ASSERT(chmod(in_folder(name), 0600) == 0);
}

static int make(void **state)
{
    (void)state;
    KV_ASSERT(mkdtemp(folder) != NULL);
    write_file(
        "psk", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
    write_file(
        "conf",
        "[cluster]\nnode = 1\n[tls]\npsk = psk\n[pager]\ndevice_bytes = 1GiB\n"
        "[tenant \"7\"]\n"
        "secret = 00112233445566778899aabbccddeeff\n"
        "[space \"chat\"]\nmodel = m\npage_bytes = 1KiB\n"
        "[node \"1\"]\naddress = 127.0.0.1:1\n[node \"2\"]\naddress = 127.0.0.1:2\n");
    config = cluster_kit_load(in_folder("conf"));
    name_kit_slow(SLOW_NAME, SLOW_S * 1000000);
    return 0;
}

static int unmake(void **state)
{
    char command[160];
    (void)state;
    kvn_config_free(config);
    (void)snprintf(command, sizeof(command), "rm -r '%s'", folder);
    return system(command);
}

static void begin(const char *root)
{
    memset(&doctor, 0, sizeof(doctor));
    doctor.root = root;
    doctor.config = config;
    doctor.self = KVC_NO_NODE;
    doctor.timeout_us = 300000;
}

/* The level of the one row of this area with these words; NR_LEVELS: there is none. */
static enum kvn_doctor_level level_of(const char *area, const char *words)
{
    enum kvn_doctor_level level = KVN_DOCTOR_NR_LEVELS;
    for (unsigned i = 0; i < doctor.nr; i++) {
        if (strcmp(doctor.rows[i].area, area) == 0
            && strstr(doctor.rows[i].what, words) != NULL) {
            assert_int_equal(level, KVN_DOCTOR_NR_LEVELS);
            level = doctor.rows[i].level;
        }
    }
    return level;
}

static void doctor__reads_what_the_machine_says(void **state)
{
    static const char *const folders[] = {
        "proc",       "proc/self",     "sys",
        "sys/kernel", "sys/kernel/mm", "sys/kernel/mm/transparent_hugepage"};
    (void)state;
    for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        KV_ASSERT(mkdir(in_folder(folders[i]), 0700) == 0);
    }
    write_file(
        "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    write_file("proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n");
    begin(folder);
    kvn_doctor_machine(&doctor);
    assert_int_equal(level_of("huge pages", "is never"), KVN_DOCTOR_WARN);
    assert_int_equal(level_of("memory", "pools of 1.0 GiB fit"), KVN_DOCTOR_OK);
    assert_int_equal(doctor.worst, KVN_DOCTOR_WARN);

    write_file("proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 1000000 kB\n");
    begin(folder);
    kvn_doctor_machine(&doctor);
    assert_int_equal(level_of("memory", "leaves 976.6 MiB now"), KVN_DOCTOR_FAIL);
    begin(folder);
    doctor.running = true; /* what is missing is what that node has */
    kvn_doctor_machine(&doctor);
    assert_int_equal(level_of("memory", "are in use"), KVN_DOCTOR_OK);

    write_file("proc/meminfo", "MemTotal: 500000 kB\nMemAvailable: 400000 kB\n");
    begin(folder);
    kvn_doctor_machine(&doctor);
    assert_int_equal(level_of("memory", "allows 488.3 MiB"), KVN_DOCTOR_FAIL);
    write_file(
        "sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    begin(folder);
    kvn_doctor_machine(&doctor);
    assert_int_equal(level_of("huge pages", "is always"), KVN_DOCTOR_OK);
}

/* Whatever comes with the first thread of a process is there after this; the thread
 * itself is not. */
static void members_once(void)
{
    const int64_t live = kv_mem_live();
    begin("");
    doctor.self = 0;
    kvn_doctor_members(&doctor);
    for (unsigned i = 0; i < 2000 && kv_mem_live() != live; i++) {
        usleep(1000);
    }
    usleep(100000); /* from its last free() to its end */
}

/* A resolver that takes its time is not waited for: its thread is left behind, and
 * takes nothing with it but what it holds. */
static void doctor__does_not_wait_for_a_slow_resolver(void **state)
{
    members_once();
    char was[sizeof(config->nodes[1].address)];
    struct timespec start, end;
    (void)state;
    begin("");
    doctor.self = 0;
    memcpy(was, config->nodes[1].address, sizeof(was));
    snprintf(config->nodes[1].address, sizeof(was), "%s:2", SLOW_NAME);
    const struct process_kit_held before = process_kit_held();
    clock_gettime(CLOCK_MONOTONIC, &start);
    kvn_doctor_members(&doctor);
    clock_gettime(CLOCK_MONOTONIC, &end);
    memcpy(config->nodes[1].address, was, sizeof(was));
    assert_int_equal(level_of("member", "no answer in time"), KVN_DOCTOR_WARN);
    assert_true(end.tv_sec - start.tv_sec < SLOW_S - 1);
    assert_true(kv_mem_live() > before.live); /* the board, which the thread has */
    sleep(SLOW_S);
    process_kit_expect_held(&before);
}

static void doctor__counts_rows_that_it_has_no_room_for(void **state)
{
    (void)state;
    begin("");
    for (unsigned i = 0; i < KVN_DOCTOR_ROWS_MAX + 5; i++) {
        kvn_doctor_say(&doctor, KVN_DOCTOR_OK, "test", NULL, "row %u", i);
    }
    assert_int_equal(doctor.worst, KVN_DOCTOR_OK);
    kvn_doctor_say(&doctor, KVN_DOCTOR_FAIL, "test", "do", "the last");
    assert_int_equal(doctor.nr, KVN_DOCTOR_ROWS_MAX);
    assert_int_equal(doctor.nr_lost, 6);
    assert_int_equal(doctor.worst, KVN_DOCTOR_FAIL);
}

/* A lack of memory or threads is a row, too; a check that could not be made is not
 * passed over in silence. */
static void doctor__survives_every_fault(void **state)
{
    (void)state;
    begin("");
    kvn_doctor_machine(&doctor);
    kvn_doctor_config(&doctor);
    kvn_doctor_members(&doctor);
    assert_int_equal(level_of("credentials", "pre-shared key"), KVN_DOCTOR_OK);
    assert_int_equal(level_of("member", "node 2"), KVN_DOCTOR_WARN);
    assert_int_equal(doctor.worst, KVN_DOCTOR_WARN);
    members_once();
    const struct process_kit_held before = process_kit_held();
    unsigned n = 0;
    do {
        begin("");
        kv_fault_after(++n);
        kvn_doctor_machine(&doctor);
        kvn_doctor_config(&doctor);
        kvn_doctor_members(&doctor);
        kv_fault_after(0);
        for (unsigned i = 0; i < 2000 && kv_mem_live() != before.live; i++) {
            usleep(1000); /* a thread lets go of its board last */
        }
        process_kit_expect_held(&before);
        assert_true(n < FAULTS_MAX);
    } while (doctor.worst == KVN_DOCTOR_FAIL);
    assert_int_equal(doctor.worst, KVN_DOCTOR_WARN);
    assert_true(n - 1 >= 6); /* pools, core, credentials, board, thread */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doctor__reads_what_the_machine_says),
        cmocka_unit_test(doctor__does_not_wait_for_a_slow_resolver),
        cmocka_unit_test(doctor__counts_rows_that_it_has_no_room_for),
        cmocka_unit_test(doctor__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
