/* numa - what the system is asked about NUMA nodes: where pages are to lie, where they lie, and which node a thread runs on.
 *
 * Nodes go by the system's own numbers here. These are three system calls; libnuma would be one more library for them. Containers
 * often forbid the first two: every caller must be able to go on without.
 */
#ifndef MKA_BASE_NUMA_H
#define MKA_BASE_NUMA_H

#include <mka/mka.h>

typedef enum mka_policy {
    MKA_POLICY_ONLY,  /* on that node, or not at all: a program that needs more is killed */
    MKA_POLICY_FIRST, /* on that node while it has room, then on others */
    MKA_POLICY_TURNS  /* page by page on the nodes in turn */
} mka_policy;

/* Where pages that are not touched yet will lie; pages begins a page, and its last one counts as a whole. MKA_UNSUPPORTED: the
 * system refuses. */
mka_status mka_numa_bind(void *pages, size_t bytes, mka_policy policy, const int *nodes, int count, mka_error *error);

/* where[i]: the node that holds the page at pages[i], or -1 for one that was not touched. MKA_UNSUPPORTED: the system refuses. */
mka_status mka_numa_ask(void **pages, size_t count, int *where, mka_error *error);

/* The node of the CPU that this thread runs on just now, or -1. Costs some nanoseconds. */
int mka_numa_here(void);

#endif
