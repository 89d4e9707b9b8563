/* numa - see numa.h. */
#include "base/numa.h"

#include "base/status.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_NODES = 1024, BITS = 8 * sizeof(unsigned long) };

mka_status mka_numa_bind(void *pages, size_t bytes, mka_policy policy, const int *nodes, int count, mka_error *error) {
    static const int modes[] = {2 /* MPOL_BIND */, 1 /* MPOL_PREFERRED */, 3 /* MPOL_INTERLEAVE */};
    unsigned long mask[MOST_NODES / BITS] = {0};
    for (int i = 0; i < count; i++) {
        if (nodes[i] < 0 || nodes[i] >= MOST_NODES)
            return mka_fail(error, MKA_UNSUPPORTED, "memory cannot be placed on NUMA node %d", nodes[i]);
        mask[nodes[i] / (int)BITS] |= 1UL << nodes[i] % (int)BITS;
    }
    if (syscall(SYS_mbind, pages, bytes, modes[policy], mask, (unsigned long)MOST_NODES, 0UL) == 0) return MKA_OK;
    return mka_fail(error, MKA_UNSUPPORTED, "the system refuses to place memory on NUMA node %d: %s", count ? nodes[0] : -1,
                    strerror(errno));
}

mka_status mka_numa_ask(void **pages, size_t count, int *where, mka_error *error) {
    if (syscall(SYS_move_pages, 0, count, pages, NULL, where, 0) < 0)
        return mka_fail(error, MKA_UNSUPPORTED, "the system does not say where pages are: %s", strerror(errno));
    for (size_t i = 0; i < count; i++)
        if (where[i] < 0) where[i] = -1; /* -ENOENT, or -EFAULT for the page of zeros that reading alone maps */
    return MKA_OK;
}

int mka_numa_here(void) {
    unsigned cpu, node;
    return getcpu(&cpu, &node) == 0 ? (int)node : -1;
}
