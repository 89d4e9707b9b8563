/* test_cgroup - limits of containers, read from folders that look like a system's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cgroup.h"
#include "bytes.h"

/* A file of the system below root, with all the folders on the way to it. */
static void set(const char *root, const char *path, const char *text) {
    char full[512];
    assert_true(snprintf(full, sizeof full, "%s%s", root, path) < (int)sizeof full);
    for (char *slash = full + strlen(root); (slash = strchr(slash + 1, '/')) != NULL;) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void expect(const char *root, uint64_t limit, uint64_t left, int cpus) {
    mka_cgroup limits;
    mka_cgroup_read(root, &limits);
    assert_true(limits.memory_limit == limit);
    assert_true(limits.memory_free == left);
    assert_int_equal(limits.cpus, cpus);
}

static void reads_version_2(void **state) {
    (void)state;
    char root[64];
    make_folder(root);
    expect(root, UINT64_MAX, UINT64_MAX, 0);
    set(root, "/proc/self/cgroup", "0::/a/b\n");
    set(root, "/proc/self/mountinfo",
        "30 23 0:26 / /proc rw - proc proc rw\n31 23 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n");
    set(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    set(root, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    expect(root, UINT64_MAX, UINT64_MAX, 0);
    set(root, "/sys/fs/cgroup/a/b/memory.max", "8000000\n");
    set(root, "/sys/fs/cgroup/a/b/memory.current", "5000000\n");
    set(root, "/sys/fs/cgroup/a/b/memory.stat", "anon 3000000\nactive_file 400000\ninactive_file 600000\nfile 9\n");
    set(root, "/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n");
    expect(root, 8000000, 4000000, 3);
    /* The group around it is tighter. */
    set(root, "/sys/fs/cgroup/a/memory.max", "6000000\n");
    set(root, "/sys/fs/cgroup/a/memory.current", "7000000\n");
    set(root, "/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
    expect(root, 6000000, 0, 1);
    remove_folder(root);
}

static void reads_version_1_in_a_container(void **state) {
    (void)state;
    char root[64];
    make_folder(root);
    /* The container sees only its own group, mounted where the whole hierarchy usually is. */
    set(root, "/proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n");
    set(root, "/proc/self/mountinfo",
        "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        "36 31 0:33 /docker/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n");
    set(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    set(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
    set(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    set(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    expect(root, UINT64_MAX, UINT64_MAX, 0);
    set(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096000\n");
    set(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "4000000\n");
    set(root, "/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 2000000\ntotal_active_file 0\n");
    set(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
    expect(root, 4096000, 2096000, 4);
    remove_folder(root);
}

static void ignores_nonsense(void **state) {
    (void)state;
    char root[64];
    make_folder(root);
    set(root, "/proc/self/cgroup", "no colons here\n0::/../../etc\n");
    set(root, "/proc/self/mountinfo", "short\n31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    set(root, "/sys/fs/cgroup/memory.max", "99999999999999999999999999\n");
    set(root, "/sys/fs/cgroup/cpu.max", "0 0\n");
    expect(root, UINT64_MAX, UINT64_MAX, 0);
    set(root, "/sys/fs/cgroup/memory.max", "123\n");
    expect(root, 123, UINT64_MAX, 0); /* how much is used is not known */
    remove_folder(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_version_2),
        cmocka_unit_test(reads_version_1_in_a_container),
        cmocka_unit_test(ignores_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
