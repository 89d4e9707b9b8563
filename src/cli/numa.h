/* numa - how the program says where caches lie: in JSON objects and in the lines of -v. */
#ifndef MKA_CLI_NUMA_H
#define MKA_CLI_NUMA_H

#include "output.h"

/* mode, and for each node: node, threads, planned and found bytes (found null where the system does not say). */
json_t *mka_cli_numa_json(const mka_numa_report *report);

/* One line on standard error, where there is more than one node or a plan. */
void mka_cli_numa_note(const mka_numa_report *report);

/* "off", "interleave" or "nodes". */
const char *mka_cli_numa_name(mka_numa_mode mode);

#endif
