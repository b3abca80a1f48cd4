/* Three kinds of check, all for our own bugs; what comes from outside gets a status.
 *
 *   KV_ASSERT   on in every build: a false one means memory can no longer be
 *               trusted, and stopping is the only answer that serves no wrong byte.
 *   KV_DASSERT  O(n) or on the hottest path: test and simulation builds.
 *   KV_IMPLIES  reads as a sentence: KV_ASSERT(KV_IMPLIES(refs > 0, state != FREE)).
 *
 * Threading: any thread; a false one aborts the process.
 */
#ifndef KV_ASSERT_H
#define KV_ASSERT_H

_Noreturn void kv_assert_failed(const char *expr, const char *file, int line);

#define KV_ASSERT(expr)                                                                \
    ((__builtin_expect(!!(expr), 1)) ? (void)0                                         \
                                     : kv_assert_failed(#expr, __FILE__, __LINE__))

/* For a place that no run may reach; `text` says why. (clang warns of a string that
 * stands in KV_ASSERT itself.) */
#define KV_UNREACHABLE(text) kv_assert_failed("unreachable: " text, __FILE__, __LINE__)

#ifdef KV_TEST_HOOKS
#define KV_DASSERT(expr) KV_ASSERT(expr)
#else
#define KV_DASSERT(expr) ((void)sizeof(!!(expr)))
#endif

#define KV_IMPLIES(a, b) (!(a) || (b))
#define KV_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
