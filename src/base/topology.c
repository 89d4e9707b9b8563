/* topology - cores, caches and nodes from hwloc, and the order in which threads take them.
 *
 * Everything is read once into plain arrays, so that hwloc's objects are gone when create returns. The order is one sorted
 * list of logical CPUs: first threads of all cores before second ones; fast kinds before slow ones; nodes in turn.
 */
#include "base/topology.h"

#include "base/cgroup.h"
#include "base/status.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

struct slot {
    int cpu;    /* the system's number */
    int second; /* 0: its core's first hardware thread, 1: the second, ... */
    int speed;  /* kind of core, larger is faster */
    int place;  /* how many cores of its node and kind come before its own */
    int node;
};

struct mka_topology {
    struct slot *slots; /* [slot_count], in the order that threads take them */
    int slot_count, cores, nodes;
    int *node_numbers; /* [nodes] the system's */
    int quota;         /* CPUs that a container allows at once; 0: no limit */
    int is_this_machine;
    size_t cache[4]; /* by level; the first unused */
};

static int compare_slots(const void *left, const void *right) {
    const struct slot *a = left, *b = right;
    if (a->second != b->second) return a->second < b->second ? -1 : 1;
    if (a->speed != b->speed) return a->speed > b->speed ? -1 : 1;
    if (a->place != b->place) return a->place < b->place ? -1 : 1;
    if (a->node != b->node) return a->node < b->node ? -1 : 1;
    return (a->cpu > b->cpu) - (a->cpu < b->cpu);
}

/* hwloc's kinds are ordered from the least to the most powerful. */
static int speed_of(hwloc_topology_t machine, hwloc_obj_t core) {
    int kind = hwloc_cpukinds_get_by_cpuset(machine, core->cpuset, 0);
    return kind < 0 ? 0 : kind;
}

static int node_of(hwloc_obj_t core) {
    int node = core->nodeset ? hwloc_bitmap_first(core->nodeset) : -1;
    return node < 0 ? 0 : node;
}

/* All hardware threads of one core. */
static void add_core(mka_topology *topology, hwloc_topology_t machine, hwloc_obj_t core) {
    struct slot slot = {.speed = speed_of(machine, core), .node = node_of(core)};
    for (int i = 0; i < topology->slot_count; i++) {
        slot.place +=
            topology->slots[i].second == 0 && topology->slots[i].speed == slot.speed && topology->slots[i].node == slot.node;
    }
    int cpu;
    hwloc_bitmap_foreach_begin(cpu, core->cpuset) {
        slot.cpu = cpu;
        topology->slots[topology->slot_count++] = slot;
        slot.second++;
    }
    hwloc_bitmap_foreach_end();
    topology->cores++;
}

static void add_caches(mka_topology *topology, hwloc_topology_t machine) {
    static const hwloc_obj_type_t types[] = {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE};
    for (int level = 1; level <= 3; level++) {
        hwloc_obj_t cache = hwloc_get_obj_by_type(machine, types[level - 1], 0);
        if (cache && cache->attr) topology->cache[level] = (size_t)cache->attr->cache.size;
    }
}

static mka_status fill(mka_topology *topology, hwloc_topology_t machine, mka_error *error) {
    int cpus = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_PU);
    int cores = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_CORE);
    int nodes = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_NUMANODE);
    if (cpus < 1) return mka_fail(error, MKA_UNSUPPORTED, "hwloc finds no CPU that this process may use");
    topology->slots = calloc((size_t)cpus, sizeof *topology->slots);
    if (!topology->slots) return mka_fail(error, MKA_NO_MEMORY, "no memory to describe %d CPUs", cpus);
    topology->nodes = nodes > 0 ? nodes : 1;
    topology->node_numbers = calloc((size_t)topology->nodes, sizeof *topology->node_numbers);
    if (!topology->node_numbers) return mka_fail(error, MKA_NO_MEMORY, "no memory to describe %d NUMA nodes", nodes);
    for (int i = 0; i < nodes; i++)
        topology->node_numbers[i] = (int)hwloc_get_obj_by_type(machine, HWLOC_OBJ_NUMANODE, (unsigned)i)->os_index;
    /* Some virtual machines tell no cores; then a CPU counts as one. */
    hwloc_obj_type_t unit = cores > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    for (int i = 0; i < (cores > 0 ? cores : cpus); i++) add_core(topology, machine, hwloc_get_obj_by_type(machine, unit, i));
    qsort(topology->slots, (size_t)topology->slot_count, sizeof *topology->slots, compare_slots);
    add_caches(topology, machine);
    return mka_succeed(error);
}

/* Leaves out what this process's affinity forbids; hwloc itself already left out what the cgroup's cpuset does. */
static void restrict_to_affinity(hwloc_topology_t machine) {
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    if (allowed && hwloc_get_cpubind(machine, allowed, HWLOC_CPUBIND_THREAD) == 0 && !hwloc_bitmap_iszero(allowed)) {
        (void)hwloc_topology_restrict(machine, allowed, HWLOC_RESTRICT_FLAG_REMOVE_CPULESS);
    }
    hwloc_bitmap_free(allowed);
}

mka_status mka_topology_create(const char *synthetic, mka_topology **out, mka_error *error) {
    hwloc_topology_t machine = NULL;
    mka_status status = MKA_OK;
    *out = NULL;
    mka_topology *topology = calloc(1, sizeof *topology);
    if (!topology || hwloc_topology_init(&machine) != 0) {
        status = mka_fail(error, MKA_NO_MEMORY, "no memory to describe this machine");
        goto done;
    }
    if (synthetic && hwloc_topology_set_synthetic(machine, synthetic) != 0) {
        status = mka_fail(error, MKA_BAD_ARGUMENT, "\"%s\" is not a synthetic description that hwloc understands", synthetic);
        goto done;
    }
    /* hwloc would otherwise move this thread over all CPUs to ask each about itself. */
    hwloc_topology_set_flags(machine, HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING);
    if (hwloc_topology_load(machine) != 0) {
        status = mka_fail(error, MKA_UNSUPPORTED, "hwloc cannot describe this machine: %s", strerror(errno));
        goto done;
    }
    topology->is_this_machine = hwloc_topology_is_thissystem(machine);
    if (topology->is_this_machine) {
        restrict_to_affinity(machine);
        topology->quota = mka_cpu_quota();
    }
    status = fill(topology, machine, error);
done:
    if (machine) hwloc_topology_destroy(machine);
    if (status != MKA_OK) {
        mka_topology_destroy(topology);
        return status;
    }
    *out = topology;
    return MKA_OK;
}

void mka_topology_destroy(mka_topology *topology) {
    if (!topology) return;
    free(topology->slots);
    free(topology->node_numbers);
    free(topology);
}

static int within_quota(const mka_topology *topology, int count) {
    return topology->quota > 0 && topology->quota < count ? topology->quota : count;
}

int mka_topology_cores(const mka_topology *topology) {
    return within_quota(topology, topology->cores);
}

int mka_topology_cpus(const mka_topology *topology) {
    return within_quota(topology, topology->slot_count);
}

int mka_topology_nodes(const mka_topology *topology) {
    return topology->nodes;
}

/* Memory of one node only, by the system call itself: hwloc's objects are gone by now, and libnuma would be one more library. */
mka_status mka_topology_place(const mka_topology *topology, void *pages, size_t bytes, int node, mka_error *error) {
    enum { BITS = 8 * sizeof(unsigned long), MOST_NODES = 1024, BIND = 2 /* MPOL_BIND */ };
    unsigned long mask[MOST_NODES / BITS] = {0};
    if (node < 0 || node >= topology->nodes)
        return mka_fail(error, MKA_BAD_ARGUMENT, "there is no NUMA node %d; there are %d", node, topology->nodes);
    int number = topology->node_numbers[node];
    if (!topology->is_this_machine || number < 0 || number >= MOST_NODES)
        return mka_fail(error, MKA_UNSUPPORTED, "memory cannot be placed on NUMA node %d: it is not of this machine", node);
    mask[number / (int)BITS] = 1UL << number % (int)BITS;
    if (syscall(SYS_mbind, pages, bytes, BIND, mask, (unsigned long)MOST_NODES, 0UL) == 0) return mka_succeed(error);
    return mka_fail(error, MKA_UNSUPPORTED, "the system refuses to place memory on NUMA node %d: %s", number, strerror(errno));
}

int mka_topology_is_this_machine(const mka_topology *topology) {
    return topology->is_this_machine;
}

size_t mka_topology_cache(const mka_topology *topology, int level) {
    return level >= 1 && level <= 3 ? topology->cache[level] : 0;
}

int mka_topology_cpu_of(const mka_topology *topology, int thread, int threads) {
    if (thread < 0 || thread >= threads || threads > topology->slot_count) return -1;
    return topology->slots[thread].cpu;
}

int mka_cpu_quota(void) {
    mka_cgroup limits;
    mka_cgroup_read("", &limits);
    return limits.cpus;
}

/* A line of /proc/meminfo in bytes; 0 when there is none. */
static uint64_t meminfo(const char *field) {
    char line[128];
    unsigned long long kib = 0;
    size_t length = strlen(field);
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, field, length) == 0 && line[length] == ':' && sscanf(line + length + 1, "%llu", &kib) == 1) break;
    }
    fclose(file);
    return (uint64_t)kib << 10;
}

uint64_t mka_memory_total(void) {
    return meminfo("MemTotal");
}

uint64_t mka_memory_free(void) {
    mka_cgroup limits;
    uint64_t free_bytes = meminfo("MemAvailable");
    mka_cgroup_read("", &limits);
    return limits.memory_free < free_bytes ? limits.memory_free : free_bytes;
}

void mka_cpu_name(char *name, size_t room) {
    char line[256];
    struct utsname system;
    if (room == 0) return;
    snprintf(name, room, "%s", uname(&system) == 0 ? system.machine : "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        line[strcspn(line, "\n")] = 0;
        value += 1 + strspn(value + 1, " \t");
        if (*value) snprintf(name, room, "%s", value);
        break;
    }
    fclose(file);
}
