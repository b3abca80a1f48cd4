/* One contract suite, in two files: what its tests share. contract_test.c has the rows,
 * the tests of all transports and those of KVT_CAP_NAMED; contract_one_sided.c those of
 * KVT_CAP_ONE_SIDED and of owners whose CLOSED waits for the reader.
 *
 * Threading: one test at a time. Ownership: begin() sets `tk` up, and the test ends it
 * with tk_close(). Errors: the test fails, or is skipped where the transport has not
 * what it needs.
 */
#ifndef KVT_TEST_CONTRACT_KIT_H
#define KVT_TEST_CONTRACT_KIT_H

#include "tests/transport/transport_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { KIB = 1024, MIB = 1 << 20, POISON = 0xa5, CONTRACT_TESTS_MAX = 512 };

struct contract_test {
    const char *name;
    CMUnitTestFunction run;
    bool either; /* whoever opened the connection: also where the owner offers it */
};
#define TEST(name)                                                                     \
    {                                                                                  \
#name, name, false                                                             \
    }
#define EITHER(name)                                                                   \
    {                                                                                  \
#name, name, true                                                              \
    }

extern struct tk tk; /* of the test that runs */
extern const struct contract_test contract_one_sided[];
extern const unsigned contract_one_sided_nr;

void begin(void **state); /* of the row that the test runs for */
bool can(enum kvt_cap cap);
void needs(enum kvt_cap cap); /* or the test is skipped */

#endif
