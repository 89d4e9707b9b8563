/* topology - cores, caches and nodes from hwloc, and the order in which threads take them.
 *
 * Everything is read once into plain arrays, so that hwloc's objects are gone when create returns. The order is one sorted
 * list of logical CPUs: first threads of all cores before second ones; fast kinds before slow ones; nodes in turn.
 */
#include "base/topology.h"

#include "base/cgroup.h"
#include "base/numa.h"
#include "base/status.h"

#include <errno.h>
#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

struct slot {
    int cpu;    /* the system's number */
    int second; /* 0: its core's first hardware thread, 1: the second, ... */
    int speed;  /* kind of core, larger is faster */
    int place;  /* how many cores of its node and kind come before its own */
    int node;   /* the system's number */
};

struct mka_topology {
    struct slot *slots; /* [slot_count], in the order that threads take them */
    int slot_count, cores, nodes;
    mka_node *node; /* [nodes] */
    int chosen;     /* 1: the nodes are those that were named */
    int quota;      /* CPUs that a container allows at once; 0: no limit */
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

/* The node whose CPUs are the fewest: memory that several packages share is nobody's own. */
static int node_of(hwloc_topology_t machine, hwloc_obj_t core) {
    int best = -1, least = 0;
    unsigned number;
    if (!core->nodeset) return 0;
    hwloc_bitmap_foreach_begin(number, core->nodeset) {
        hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(machine, number);
        int cpus = node ? hwloc_bitmap_weight(node->cpuset) : 0;
        if (cpus > 0 && (best < 0 || cpus < least)) {
            best = (int)number;
            least = cpus;
        }
    }
    hwloc_bitmap_foreach_end();
    return best < 0 ? 0 : best;
}

/* All hardware threads of one core. */
static void add_core(mka_topology *topology, hwloc_topology_t machine, hwloc_obj_t core) {
    struct slot slot = {.speed = speed_of(machine, core), .node = node_of(machine, core)};
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

/* What hwloc tells of a node, from the firmware (HMAT) or from its own table; bandwidth in MB/s as its nearest CPUs see it. */
static mka_node describe_node(hwloc_topology_t machine, hwloc_obj_t object) {
    mka_node node = {.number = (int)object->os_index, .memory = object->attr->numanode.local_memory};
    struct hwloc_location from = {.type = HWLOC_LOCATION_TYPE_CPUSET, .location.cpuset = object->cpuset};
    hwloc_uint64_t value;
    if (object->cpuset && !hwloc_bitmap_iszero(object->cpuset) &&
        hwloc_memattr_get_value(machine, HWLOC_MEMATTR_ID_BANDWIDTH, object, &from, 0, &value) == 0)
        node.bandwidth = value;
    return node;
}

static int index_of(const mka_topology *topology, int number) {
    for (int i = 0; i < topology->nodes; i++)
        if (topology->node[i].number == number) return i;
    return -1;
}

static void count_cpu(mka_topology *topology, const struct slot *slot) {
    int node = index_of(topology, slot->node);
    if (node >= 0) topology->node[node].cpus++;
}

static mka_status fill(mka_topology *topology, hwloc_topology_t machine, mka_error *error) {
    int cpus = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_PU);
    int cores = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_CORE);
    int nodes = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_NUMANODE);
    if (cpus < 1) return mka_fail(error, MKA_UNSUPPORTED, "hwloc finds no CPU that this process may use");
    topology->slots = calloc((size_t)cpus, sizeof *topology->slots);
    if (!topology->slots) return mka_fail(error, MKA_NO_MEMORY, "no memory to describe %d CPUs", cpus);
    topology->nodes = nodes > 0 ? nodes : 1;
    topology->node = calloc((size_t)topology->nodes, sizeof *topology->node);
    if (!topology->node) return mka_fail(error, MKA_NO_MEMORY, "no memory to describe %d NUMA nodes", nodes);
    for (int i = 0; i < nodes; i++)
        topology->node[i] = describe_node(machine, hwloc_get_obj_by_type(machine, HWLOC_OBJ_NUMANODE, (unsigned)i));
    /* Some virtual machines tell no cores; then a CPU counts as one. */
    hwloc_obj_type_t unit = cores > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    for (int i = 0; i < (cores > 0 ? cores : cpus); i++) add_core(topology, machine, hwloc_get_obj_by_type(machine, unit, i));
    qsort(topology->slots, (size_t)topology->slot_count, sizeof *topology->slots, compare_slots);
    for (int i = 0; i < topology->slot_count; i++) count_cpu(topology, &topology->slots[i]);
    add_caches(topology, machine);
    return mka_succeed(error);
}

/* Leaves out what this process's affinity forbids; hwloc itself already left out what the cgroup's cpuset does. Nodes without
 * CPUs go with the CPUs that are forbidden, and stay where none is. */
static void restrict_to_affinity(hwloc_topology_t machine) {
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    if (allowed && hwloc_get_cpubind(machine, allowed, HWLOC_CPUBIND_THREAD) == 0 && !hwloc_bitmap_iszero(allowed) &&
        !hwloc_bitmap_isincluded(hwloc_topology_get_topology_cpuset(machine), allowed)) {
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
    free(topology->node);
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

mka_node mka_topology_node(const mka_topology *topology, int index) {
    return topology->node[index];
}

int mka_topology_node_of(const mka_topology *topology, int thread, int threads) {
    if (thread < 0 || thread >= threads || topology->slot_count == 0) return -1;
    return index_of(topology, topology->slots[thread % topology->slot_count].node);
}

mka_status mka_topology_place(const mka_topology *topology, void *pages, size_t bytes, int node, mka_error *error) {
    if (node < 0 || node >= topology->nodes)
        return mka_fail(error, MKA_BAD_ARGUMENT, "there is no NUMA node %d; there are %d", node, topology->nodes);
    if (!topology->is_this_machine)
        return mka_fail(error, MKA_UNSUPPORTED, "memory cannot be placed on NUMA node %d: it is not of this machine", node);
    mka_status status = mka_numa_bind(pages, bytes, MKA_POLICY_ONLY, &topology->node[node].number, 1, error);
    return status ? status : mka_succeed(error);
}

static int named(uint64_t nodes, int number) {
    return number >= 0 && number < 64 && (nodes >> number & 1);
}

mka_status mka_topology_choose(mka_topology *topology, uint64_t nodes, mka_error *error) {
    int cpus = 0;
    for (int number = 0; number < 64; number++)
        if (named(nodes, number) && index_of(topology, number) < 0)
            return mka_fail(error, MKA_BAD_ARGUMENT, "there is no NUMA node %d that this process may use", number);
    for (int i = 0; i < topology->slot_count; i++) cpus += named(nodes, topology->slots[i].node);
    if (cpus == 0) return mka_fail(error, MKA_BAD_ARGUMENT, "none of the NUMA nodes that were named has CPUs; name one that has");
    cpus = topology->cores = 0;
    for (int i = 0; i < topology->slot_count; i++) {
        if (!named(nodes, topology->slots[i].node)) continue;
        topology->slots[cpus++] = topology->slots[i];
        topology->cores += topology->slots[i].second == 0;
    }
    topology->slot_count = cpus;
    int kept = 0;
    for (int i = 0; i < topology->nodes; i++)
        if (named(nodes, topology->node[i].number)) topology->node[kept++] = topology->node[i];
    topology->nodes = kept;
    topology->chosen = 1;
    return mka_succeed(error);
}

int mka_topology_is_chosen(const mka_topology *topology) {
    return topology->chosen;
}

mka_status mka_topology_bind_caller(const mka_topology *topology, mka_error *error) {
    int most = 0, failed;
    if (!topology->is_this_machine)
        return mka_fail(error, MKA_UNSUPPORTED, "threads cannot run on a machine that is not this one");
    for (int i = 0; i < topology->slot_count; i++) most = topology->slots[i].cpu > most ? topology->slots[i].cpu : most;
    size_t size = CPU_ALLOC_SIZE(most + 1);
    cpu_set_t *set = CPU_ALLOC(most + 1);
    if (!set) return mka_fail(error, MKA_NO_MEMORY, "no memory for a set of %d CPUs", most + 1);
    CPU_ZERO_S(size, set);
    for (int i = 0; i < topology->slot_count; i++) CPU_SET_S(topology->slots[i].cpu, size, set);
    failed = sched_setaffinity(0, size, set);
    CPU_FREE(set);
    if (failed) return mka_fail(error, MKA_UNSUPPORTED, "the system refuses to bind threads to NUMA nodes: %s", strerror(errno));
    return mka_succeed(error);
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
