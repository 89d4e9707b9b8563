/* cgroup - the limits that a container puts on this process, version 1 and 2. The system's own figures ignore them. */
#ifndef MKA_BASE_CGROUP_H
#define MKA_BASE_CGROUP_H

#include <stdint.h>

typedef struct mka_cgroup {
    uint64_t memory_limit; /* bytes; UINT64_MAX: none. The tightest of the group and those around it */
    uint64_t memory_free;  /* what is left of it, page cache that can be dropped counted as free; UINT64_MAX: no limit */
    int cpus;              /* CPU time a second that the group may use, rounded up; 0: no limit */
} mka_cgroup;

/* root comes before /proc and the mount points: "" for this system, a folder in tests. What cannot be read is no limit. */
void mka_cgroup_read(const char *root, mka_cgroup *limits);

#endif
