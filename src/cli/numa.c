/* numa - see numa.h. */
#include "numa.h"

#include <string.h>

const char *mka_cli_numa_name(mka_numa_mode mode) {
    static const char *const names[] = {"auto", "off", "interleave", "nodes"};
    return names[mode];
}

static json_t *found(const mka_numa_report *r, uint64_t bytes) {
    return r->known ? json_integer((json_int_t)bytes) : json_null();
}

json_t *mka_cli_numa_json(const mka_numa_report *r) {
    json_t *nodes = json_array();
    for (int i = 0; i < r->nodes; i++)
        json_array_append_new(nodes, json_pack("{s:i, s:i, s:I, s:o, s:I, s:o}", "node", r->number[i], "threads", r->threads[i],
                                               "planned_bytes", (json_int_t)r->planned[i], "found_bytes", found(r, r->found[i]),
                                               "weights_planned_bytes", (json_int_t)r->weights_planned[i], "weights_found_bytes",
                                               found(r, r->weights_found[i])));
    return json_pack("{s:s, s:b, s:o, s:o}", "mode", mka_cli_numa_name(r->mode), "refused", r->refused, "misplaced_bytes",
                     found(r, r->misplaced), "nodes", nodes);
}

static void note(const mka_numa_report *r, const char *what, const uint64_t *planned, const uint64_t *found_there) {
    char line[1024] = "", plan[32], there[32];
    for (int i = 0; i < r->nodes; i++) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "; node %d: %s planned, %s found", r->number[i], mka_cli_size(planned[i], plan),
                 r->known ? mka_cli_size(found_there[i], there) : "unknown");
    }
    mka_cli_note("%s by NUMA node, mode %s%s%s", what, mka_cli_numa_name(r->mode), r->refused ? " (refused by the system)" : "",
                 line);
}

void mka_cli_numa_note(const mka_numa_report *r) {
    uint64_t weights = 0;
    if (r->nodes < 2 && r->mode == MKA_NUMA_OFF) return;
    for (int i = 0; i < r->nodes; i++) weights += r->weights_planned[i];
    note(r, "caches", r->planned, r->found);
    if (weights) note(r, "weights", r->weights_planned, r->weights_found);
}
