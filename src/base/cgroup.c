/* cgroup - where this process's groups are mounted, and the tightest limit on the way from its own group to the top.
 *
 *   /proc/self/cgroup     4:memory:/a/b          the group, as seen from the hierarchy's root
 *   /proc/self/mountinfo  ... /a /sys/fs/cgroup/memory ... - cgroup cgroup rw,memory      what is mounted where
 *   -> /sys/fs/cgroup/memory/b, then /sys/fs/cgroup/memory
 */
#include "base/cgroup.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
    char point[PATH_MAX];  /* folder of the mount, root included */
    char folder[PATH_MAX]; /* of the group; point is a prefix of it */
    int version;           /* 0: not found */
};

static FILE *open_at(const char *root, const char *path) {
    char full[PATH_MAX];
    int length = snprintf(full, sizeof full, "%s%s", root, path);
    return length > 0 && (size_t)length < sizeof full ? fopen(full, "re") : NULL;
}

/* Whether word is one of the comma-separated words of list. */
static int has_word(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == 0)) return 1;
    }
    return 0;
}

/* The group of a controller; of version 2 when controller is "". */
static int find_group(const char *root, const char *controller, char *group, size_t room) {
    char line[PATH_MAX];
    int found = 0;
    FILE *file = open_at(root, "/proc/self/cgroup");
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        list++;
        if (controller[0] ? has_word(list, controller) : list[0] == 0) {
            found = snprintf(group, room, "%s", path) < (int)room;
        }
    }
    fclose(file);
    return found;
}

/* Mount point and mounted part of a controller's hierarchy. Fields of a line: id parent device part point options ... - type
 * source super-options. */
static int find_mount(const char *root, const char *controller, char *part, char *point, size_t room) {
    char line[2 * PATH_MAX], a[PATH_MAX], b[PATH_MAX], type[32], options[512];
    int found = 0;
    FILE *file = open_at(root, "/proc/self/mountinfo");
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        const char *tail = strstr(line, " - ");
        if (!tail || sscanf(tail, " - %31s %*s %511s", type, options) != 2) continue;
        if (strcmp(type, controller[0] ? "cgroup" : "cgroup2") != 0) continue;
        if (controller[0] && !has_word(options, controller)) continue;
        if (sscanf(line, "%*s %*s %*s %4095s %4095s", a, b) != 2) continue;
        found = snprintf(part, room, "%s", a) < (int)room && snprintf(point, room, "%s%s", root, b) < (int)room;
    }
    fclose(file);
    return found;
}

static int locate(const char *root, const char *controller, int version, struct place *place) {
    char group[PATH_MAX], part[PATH_MAX];
    place->version = 0;
    if (!find_group(root, controller, group, sizeof group)) return 0;
    if (!find_mount(root, controller, part, place->point, sizeof place->point)) return 0;
    size_t length = strcmp(part, "/") == 0 ? 0 : strlen(part);
    const char *below = "";
    if (strncmp(group, part, length) == 0 && (group[length] == '/' || group[length] == 0)) below = group + length;
    if (strcmp(below, "/") == 0 || strstr(below, "..")) below = "";
    int written = snprintf(place->folder, sizeof place->folder, "%s%s", place->point, below);
    if (written < 0 || (size_t)written >= sizeof place->folder) return 0;
    place->version = version;
    return 1;
}

/* Moves to the group around this one; 0 at the mount point. */
static int go_up(struct place *place) {
    char *slash = strrchr(place->folder, '/');
    if (!slash || strlen(place->folder) <= strlen(place->point)) return 0;
    *slash = 0;
    return 1;
}

static FILE *open_in(const struct place *place, const char *name) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", place->folder, name);
    return fopen(path, "re");
}

/* The first number of a file; 0 when there is none ("max") or it cannot be read. */
static int read_number(const struct place *place, const char *name, uint64_t *value) {
    char text[32];
    FILE *file = open_in(place, name);
    if (!file) return 0;
    int got = fscanf(file, "%31s", text) == 1;
    fclose(file);
    if (!got || text[0] < '0' || text[0] > '9') return 0;
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0;
}

/* Page cache of the group: pages of files that the system drops before it refuses memory. */
static uint64_t droppable(const struct place *place) {
    char name[64];
    uint64_t value, sum = 0;
    FILE *file = open_in(place, "memory.stat");
    if (!file) return 0;
    const char *prefix = place->version == 1 ? "total_" : "";
    size_t skip = strlen(prefix);
    while (fscanf(file, "%63s %" SCNu64, name, &value) == 2) {
        if (strncmp(name, prefix, skip) != 0) continue;
        if (strcmp(name + skip, "inactive_file") == 0 || strcmp(name + skip, "active_file") == 0) sum += value;
    }
    fclose(file);
    return sum;
}

static void read_memory(struct place *place, mka_cgroup *limits) {
    const char *limit_name = place->version == 1 ? "memory.limit_in_bytes" : "memory.max";
    const char *used_name = place->version == 1 ? "memory.usage_in_bytes" : "memory.current";
    uint64_t limit, used;
    do {
        /* Version 1 says "no limit" with a number near 2^63. */
        if (!read_number(place, limit_name, &limit) || limit >= (uint64_t)1 << 60) continue;
        if (limit < limits->memory_limit) limits->memory_limit = limit;
        if (!read_number(place, used_name, &used)) continue;
        uint64_t cache = droppable(place);
        used -= cache < used ? cache : used;
        uint64_t left = used < limit ? limit - used : 0;
        if (left < limits->memory_free) limits->memory_free = left;
    } while (go_up(place));
}

/* Version 2 has "quota period" or "max period" in one file, version 1 has two files and -1 for no quota. */
static int read_quota(const struct place *place, uint64_t *quota, uint64_t *period) {
    if (place->version == 1) {
        return read_number(place, "cpu.cfs_quota_us", quota) && read_number(place, "cpu.cfs_period_us", period);
    }
    FILE *file = open_in(place, "cpu.max");
    if (!file) return 0;
    int got = fscanf(file, "%" SCNu64 " %" SCNu64, quota, period);
    fclose(file);
    return got == 2;
}

static void read_cpus(struct place *place, mka_cgroup *limits) {
    uint64_t quota, period;
    do {
        if (!read_quota(place, &quota, &period) || quota == 0 || period == 0) continue;
        uint64_t cpus = quota / period + (quota % period != 0);
        if (cpus < INT_MAX && (limits->cpus == 0 || (int)cpus < limits->cpus)) limits->cpus = (int)cpus;
    } while (go_up(place));
}

void mka_cgroup_read(const char *root, mka_cgroup *limits) {
    struct place place;
    *limits = (mka_cgroup){.memory_limit = UINT64_MAX, .memory_free = UINT64_MAX};
    /* A system may have version 2 for some controllers and version 1 for others: ask each for each. */
    if (locate(root, "memory", 1, &place)) read_memory(&place, limits);
    if (locate(root, "cpu", 1, &place)) read_cpus(&place, limits);
    if (locate(root, "", 2, &place)) read_memory(&place, limits);
    if (locate(root, "", 2, &place)) read_cpus(&place, limits);
}
