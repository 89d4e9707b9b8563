/* test_topology - the order of CPUs on machines that are only described, and this machine's own figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/topology.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

static mka_topology *make(const char *synthetic) {
    mka_topology *topology = NULL;
    mka_error error;
    mka_status status = mka_topology_create(synthetic, &topology, &error);
    if (status != MKA_OK) print_error("%s\n", error.message);
    assert_int_equal(status, MKA_OK);
    return topology;
}

/* Two nodes of four cores with two hardware threads: CPUs 0, 1 are the first core's, 8..15 the second node's. */
static void orders_cores_nodes_and_threads(void **state) {
    (void)state;
    static const int expected[16] = {0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15};
    mka_topology *t = make("numa:2 l3:1(size=33554432) l2:4(size=1048576) l1d:1(size=32768) core:1 pu:2");
    assert_int_equal(mka_topology_cores(t), 8);
    assert_int_equal(mka_topology_cpus(t), 16);
    assert_int_equal(mka_topology_nodes(t), 2);
    assert_false(mka_topology_is_this_machine(t));
    for (int i = 0; i < 16; i++) assert_int_equal(mka_topology_cpu_of(t, i, 16), expected[i]);
    for (int i = 0; i < 8; i++) assert_int_equal(mka_topology_cpu_of(t, i, 8), expected[i]);
    assert_int_equal(mka_topology_cpu_of(t, -1, 8), -1);
    assert_int_equal(mka_topology_cpu_of(t, 8, 8), -1);
    assert_int_equal(mka_topology_cpu_of(t, 0, 17), -1);
    assert_int_equal(mka_topology_cache(t, 1), 32 << 10);
    assert_int_equal(mka_topology_cache(t, 2), 1 << 20);
    assert_int_equal(mka_topology_cache(t, 3), 32 << 20);
    assert_int_equal(mka_topology_cache(t, 0), 0);
    assert_int_equal(mka_topology_cache(t, 4), 0);
    mka_topology_destroy(t);
    mka_topology_destroy(NULL);
}

static void describes_a_machine_without_caches(void **state) {
    (void)state;
    mka_topology *t = make("core:3 pu:1");
    assert_int_equal(mka_topology_cores(t), 3);
    assert_int_equal(mka_topology_nodes(t), 1);
    assert_int_equal(mka_topology_cache(t, 2), 0);
    for (int i = 0; i < 3; i++) assert_int_equal(mka_topology_cpu_of(t, i, 3), i);
    mka_topology_destroy(t);
}

static void refuses_nonsense(void **state) {
    (void)state;
    mka_topology *t = (mka_topology *)&t;
    mka_error error;
    assert_int_equal(mka_topology_create("three cores, please", &t, &error), MKA_BAD_ARGUMENT);
    assert_null(t);
    assert_non_null(strstr(error.message, "three cores, please"));
}

static void knows_this_machine(void **state) {
    (void)state;
    cpu_set_t allowed;
    char name[64], tiny[4];
    mka_topology *t = make(NULL);
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    int cpus = mka_topology_cpus(t), cores = mka_topology_cores(t);
    assert_true(cores >= 1 && cores <= cpus && cpus <= CPU_COUNT(&allowed));
    assert_true(mka_topology_nodes(t) >= 1);
    if (mka_topology_is_this_machine(t)) {
        for (int i = 0; i < cpus; i++) assert_true(CPU_ISSET(mka_topology_cpu_of(t, i, cpus), &allowed));
    }
    assert_true(mka_memory_total() > (uint64_t)64 << 20);
    assert_true(mka_memory_free() > 0 && mka_memory_free() <= mka_memory_total());
    mka_cpu_name(name, sizeof name);
    assert_true(strlen(name) > 0);
    mka_cpu_name(tiny, sizeof tiny);
    assert_true(strlen(tiny) <= 3);
    mka_topology_destroy(t);
}

/* Bound to one CPU, a process has one. */
static void obeys_affinity(void **state) {
    (void)state;
    cpu_set_t allowed, one;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    int cpu = CPU_SETSIZE - 1;
    while (cpu > 0 && !CPU_ISSET(cpu, &allowed)) cpu--;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    mka_topology *t = make(NULL);
    assert_int_equal(sched_setaffinity(0, sizeof allowed, &allowed), 0);
    if (mka_topology_is_this_machine(t)) {
        assert_int_equal(mka_topology_cpus(t), 1);
        assert_int_equal(mka_topology_cpu_of(t, 0, 1), cpu);
    }
    mka_topology_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orders_cores_nodes_and_threads),
        cmocka_unit_test(describes_a_machine_without_caches),
        cmocka_unit_test(refuses_nonsense),
        cmocka_unit_test(knows_this_machine),
        cmocka_unit_test(obeys_affinity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
