/* eval_map - see eval_map.h. */
#include "eval_map.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Red over yellow to green. */
static void color_of(double value, int rgb[3]) {
    static const double stops[3][3] = {{200, 60, 50}, {235, 200, 80}, {60, 150, 90}};
    double at = value <= 0 ? 0 : value >= 1 ? 2 : 2 * value;
    int low = at >= 1 ? 1 : 0;
    for (int i = 0; i < 3; i++) rgb[i] = (int)(stops[low][i] + (at - low) * (stops[low + 1][i] - stops[low][i]) + 0.5);
}

void mka_map_print(mka_cli *cli, const mka_map *map, int index) {
    int colors = mka_cli_colors(cli, STDOUT_FILENO);
    mka_cli_print(cli, "%-7s tokens\ndepth  ", map->titles[index]);
    for (int l = 0; l < map->lengths->count; l++) mka_cli_print(cli, " %7d", map->lengths->items[l]);
    for (int d = 0; d < map->depths->count; d++) {
        mka_cli_print(cli, "\n%4d %%  ", map->depths->items[d]);
        for (int l = 0; l < map->lengths->count; l++) {
            double value = map->values[index][d * map->lengths->count + l];
            int rgb[3];
            color_of(value, rgb);
            if (colors) mka_cli_print(cli, "\033[48;2;%d;%d;%dm\033[30m", rgb[0], rgb[1], rgb[2]);
            mka_cli_print(cli, " %4.0f %% %s", 100 * value, colors ? "\033[0m" : "");
        }
    }
    mka_cli_print(cli, "\n");
    mka_cli_flush(cli);
}

enum { CELL_WIDTH = 64, CELL_HEIGHT = 28, LEFT = 64, TOP = 56, GAP = 24 };

static void svg_map(FILE *out, const mka_map *map, int index, int x) {
    fprintf(out, "<text x=\"%d\" y=\"22\" font-weight=\"bold\">%s</text>\n", x, map->titles[index]);
    for (int l = 0; l < map->lengths->count; l++)
        fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x + l * CELL_WIDTH + CELL_WIDTH / 2, TOP - 8,
                map->lengths->items[l]);
    for (int d = 0; d < map->depths->count; d++)
        for (int l = 0; l < map->lengths->count; l++) {
            double value = map->values[index][d * map->lengths->count + l];
            int rgb[3], left = x + l * CELL_WIDTH, top = TOP + d * CELL_HEIGHT;
            color_of(value, rgb);
            fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#%02x%02x%02x\"/>", left, top, CELL_WIDTH - 2,
                    CELL_HEIGHT - 2, (unsigned)rgb[0], (unsigned)rgb[1], (unsigned)rgb[2]);
            fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%.0f %%</text>\n", left + CELL_WIDTH / 2,
                    top + CELL_HEIGHT / 2 + 4, 100 * value);
        }
}

int mka_map_svg(const mka_map *map, const char *what, const char *path) {
    int wide = map->lengths->count * CELL_WIDTH + GAP, height = TOP + map->depths->count * CELL_HEIGHT + 12;
    FILE *out = fopen(path, "w");
    if (out == NULL) return mka_cli_error("cannot write %s: %s", path, strerror(errno));
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"
            "<title>%s, by depth and tokens of the prompt</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            LEFT + map->count * wide, height, what);
    for (int d = 0; d < map->depths->count; d++)
        fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d %%</text>\n", LEFT - 8,
                TOP + d * CELL_HEIGHT + CELL_HEIGHT / 2 + 4, map->depths->items[d]);
    for (int i = 0; i < map->count; i++) svg_map(out, map, i, LEFT + i * wide);
    fputs("</svg>\n", out);
    int bad = ferror(out), closed = fclose(out);
    return bad || closed != 0 ? mka_cli_error("cannot write %s: %s", path, strerror(errno)) : 0;
}
