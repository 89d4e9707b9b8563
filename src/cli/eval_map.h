/* eval_map - scores by depth and length as a heat map, in the terminal and as an SVG picture. */
#ifndef MKA_CLI_EVAL_MAP_H
#define MKA_CLI_EVAL_MAP_H

#include "output.h"

/* Up to two maps of one grid; values [depth][length] of 0..1. All borrowed. */
typedef struct mka_map {
    const mka_cli_list *lengths, *depths;
    const double *values[2];
    const char *titles[2];
    int count;
} mka_map;

/* Map number index on standard output; in colours where that is a terminal that has them. */
void mka_map_print(mka_cli *cli, const mka_map *map, int index);

/* All maps beside each other into a file of its own. Returns 0, or 1 after saying why not. */
int mka_map_svg(const mka_map *map, const char *what, const char *path);

#endif
