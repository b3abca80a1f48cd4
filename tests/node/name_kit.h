/* A name that takes its time, for tests of what waits for one: getaddrinfo() in front
 * of the system's, also for libuv. Every other name, and every name before
 * name_kit_slow(), is the system's to answer.
 *
 * Threading: name_kit_slow() before anybody asks for names; then any thread.
 * Ownership: the name is the caller's, and stays. Units: microseconds.
 * Errors: none; names fail as the system says.
 */
#ifndef TESTS_NODE_NAME_KIT_H
#define TESTS_NODE_NAME_KIT_H

/* From here on `name` takes so long, and there is no such name: EAI_NONAME. */
void name_kit_slow(const char *name, unsigned us);

#endif
