/* topology - what this machine is made of, from hwloc (this is its only includer): cores, caches, NUMA nodes.
 *
 * HWLOC_SYNTHETIC and HWLOC_XMLFILE describe another machine; nothing is bound then.
 */
#ifndef MKA_BASE_TOPOLOGY_H
#define MKA_BASE_TOPOLOGY_H

#include <mka/mka.h>

typedef struct mka_topology mka_topology;

typedef struct mka_node {
    int number, cpus;   /* as the system counts; logical CPUs whose memory this is: 0 for HBM or CXL memory */
    uint64_t memory;    /* bytes */
    uint64_t bandwidth; /* MB/s, 0: unknown */
} mka_node;

/* synthetic: an hwloc synthetic description, or NULL for this machine (or what the environment says). */
mka_status mka_topology_create(const char *synthetic, mka_topology **topology, mka_error *error);
void mka_topology_destroy(mka_topology *topology);

/* Counts leave out what affinity and cgroup cpusets forbid, and are cut to the cgroup's CPU quota. */
int mka_topology_cores(const mka_topology *topology);                /* physical cores that this process may use */
int mka_topology_cpus(const mka_topology *topology);                 /* logical CPUs, likewise */
int mka_topology_nodes(const mka_topology *topology);                /* NUMA nodes, >= 1 */
mka_node mka_topology_node(const mka_topology *topology, int index); /* of 0..nodes-1 */
/* Puts pages (bytes of them, not touched yet) on node 0..nodes-1 and no other. MKA_BAD_ARGUMENT: no such node; MKA_UNSUPPORTED:
 * the system refuses, or the topology is of another machine. */
mka_status mka_topology_place(const mka_topology *topology, void *pages, size_t bytes, int node, mka_error *error);

/* Leaves out all nodes but those whose numbers are bits of nodes, and their CPUs. MKA_BAD_ARGUMENT: one does not exist, or none
 * of them has CPUs; nothing changed then. */
mka_status mka_topology_choose(mka_topology *topology, uint64_t nodes, mka_error *error);
int mka_topology_is_chosen(const mka_topology *topology);
/* Binds the calling thread, and with it those that it will start, to the topology's CPUs. MKA_UNSUPPORTED: the system refuses. */
mka_status mka_topology_bind_caller(const mka_topology *topology, mka_error *error);

int mka_topology_is_this_machine(const mka_topology *topology);
size_t mka_topology_cache(const mka_topology *topology, int level); /* bytes of one data cache of level 1..3, or 0 */

/* The logical CPU of thread t of threads: one a physical core, fastest kind of core first, nodes in turn filled evenly;
 * second hardware threads only when threads exceeds the cores. -1 outside, and when there are fewer CPUs than threads. */
int mka_topology_cpu_of(const mka_topology *topology, int thread, int threads);
/* The index of its node; with more threads than CPUs they begin again. */
int mka_topology_node_of(const mka_topology *topology, int thread, int threads);

/* CPUs' worth of time that this process's cgroup allows, rounded up; 0: no limit. */
int mka_cpu_quota(void);

/* RAM in the machine, and what can be had without swapping (cgroup limits count); bytes. */
uint64_t mka_memory_total(void);
uint64_t mka_memory_free(void);

/* The CPU's own name ("AMD EPYC ..."), or its architecture. Writes at most room bytes with the NUL. */
void mka_cpu_name(char *name, size_t room);

#endif
