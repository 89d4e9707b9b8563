/* info - the machine as the engine sees it and, when one is named, what a model is and what its cache takes. */
#include "commands.h"
#include "numa.h"
#include "setup.h"

#include <mka/device.h>
#include <mka/file.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DEVICES = 32 };

static int list_devices(mka_device_info list[MOST_DEVICES]) {
    int count = 0;
    if (mka_devices(list, MOST_DEVICES, &count, NULL) != MKA_OK) return 0;
    return count < MOST_DEVICES ? count : MOST_DEVICES;
}

/* Names that --device takes, and what is known of those beside the CPU. */
static void devices_json(json_t *out) {
    mka_device_info list[MOST_DEVICES];
    json_t *names = json_pack("[s]", "cpu"), *details = json_array();
    int count = list_devices(list);
    for (int i = 0; i < count; i++) {
        const mka_device_info *d = &list[i];
        char name[24];
        snprintf(name, sizeof name, "opencl:%d", d->index);
        json_array_append_new(names, json_string(name));
        json_array_append_new(details,
                              json_pack("{s:s, s:o, s:o, s:o, s:o, s:b, s:i, s:i, s:I, s:I, s:b, s:i}", "device", name, "name",
                                        mka_cli_json_string(d->name), "platform", mka_cli_json_string(d->platform), "version",
                                        mka_cli_json_string(d->version), "driver", mka_cli_json_string(d->driver), "gpu", d->gpu,
                                        "units", d->units, "clock_mhz", d->clock, "memory_bytes", (json_int_t)d->memory,
                                        "largest_bytes", (json_int_t)d->largest, "fp16", d->fp16, "subgroup", d->subgroup));
    }
    json_object_set_new(out, "devices", names);
    json_object_set_new(out, "opencl", details);
}

static void print_devices(mka_cli *cli) {
    mka_device_info list[MOST_DEVICES];
    char memory[32];
    int count = list_devices(list);
    mka_cli_print(cli, "  devices       cpu\n");
    for (int i = 0; i < count; i++)
        mka_cli_print(cli, "                opencl:%d  %s (%s, %s), %d units, %s%s\n", list[i].index, list[i].name,
                      list[i].platform, list[i].version, list[i].units, mka_cli_size(list[i].memory, memory),
                      list[i].fp16 ? ", fp16" : "");
}

static void machine_json(json_t *out, const mka_machine *m) {
    json_t *levels = json_array();
    for (int i = 0; i < m->level_count; i++) json_array_append_new(levels, json_string(m->levels[i]));
    json_object_set_new(out, "version", json_string(mka_version()));
    json_object_set_new(out, "cpu", mka_cli_json_string(m->cpu));
    json_object_set_new(out, "cpu_levels", levels);
    json_object_set_new(out, "cpu_level", mka_cli_json_string(m->level));
    json_object_set_new(out, "cores", json_integer(m->cores));
    json_object_set_new(out, "cpus", json_integer(m->cpus));
    json_object_set_new(out, "threads", json_integer(m->threads));
    json_object_set_new(out, "numa_nodes", json_integer(m->nodes));
    json_object_set_new(
        out, "caches", json_pack("{s:I, s:I, s:I}", "l1d", (json_int_t)m->l1d, "l2", (json_int_t)m->l2, "l3", (json_int_t)m->l3));
    json_object_set_new(out, "memory_bytes", json_integer((json_int_t)m->memory));
    json_object_set_new(out, "memory_free_bytes", json_integer((json_int_t)m->memory_free));
    devices_json(out);
}

static void model_json(json_t *out, const mka_cli *cli, const mka_model *model) {
    static const mka_type types[] = {MKA_F32, MKA_F16, MKA_BF16};
    mka_model_info m;
    mka_model_get_info(model, &m);
    json_t *cache = json_object();
    for (int i = 0; i < 3; i++) {
        json_object_set_new(cache, mka_type_name(types[i]),
                            json_integer((json_int_t)mka_model_cache_bytes(model, types[i], types[i])));
    }
    json_object_set_new(out, "model", mka_cli_json_string(cli->options.model));
    json_object_set_new(out, "name", mka_cli_json_string(m.name));
    json_object_set_new(out, "arch", mka_cli_json_string(m.architecture));
    json_object_set_new(out, "attention", mka_cli_json_string(m.attention));
    json_object_set_new(out, "parameters", json_integer((json_int_t)m.parameters));
    json_object_set_new(out, "quantisation", json_string(mka_type_name(m.weight_type)));
    json_object_set_new(out, "weight_bytes", json_integer((json_int_t)m.weight_bytes));
    json_object_set_new(out, "context", json_integer(m.context));
    json_object_set_new(out, "layers", json_integer(m.layers));
    json_object_set_new(out, "width", json_integer(m.width));
    json_object_set_new(out, "heads", json_integer(m.heads));
    json_object_set_new(out, "kv_heads", json_integer(m.kv_heads));
    json_object_set_new(out, "head_dim", json_integer(m.head_dim));
    json_object_set_new(out, "ffn", json_integer(m.ffn));
    json_object_set_new(out, "vocabulary", json_integer(m.vocabulary));
    json_object_set_new(out, "window", json_integer(m.window));
    json_object_set_new(out, "window_layers", json_integer(m.window_layers));
    json_object_set_new(out, "cache_bytes_per_token", cache);
}

static void tensors_json(json_t *out, const mka_file *file) {
    json_t *list = json_array();
    for (int i = 0; i < mka_file_tensor_count(file); i++) {
        const mka_tensor *t = mka_file_tensor(file, i);
        json_t *shape = json_array();
        for (int k = 0; k < t->rank; k++) json_array_append_new(shape, json_integer(t->shape[k]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I}", "name", mka_cli_json_string(t->name), "type",
                                              mka_type_name(t->type), "shape", shape, "bytes", (json_int_t)t->bytes));
    }
    json_object_set_new(out, "tensors", list);
}

static void print_machine(mka_cli *cli, const mka_machine *m) {
    char a[32], b[32], c[32];
    mka_cli_print(cli, "machine\n  processor     %s\n  cores         %d (%d logical), %d NUMA node%s\n", m->cpu, m->cores,
                  m->cpus, m->nodes, m->nodes == 1 ? "" : "s");
    mka_cli_print(cli, "  caches        L1d %s, L2 %s, L3 %s\n", mka_cli_size(m->l1d, a), mka_cli_size(m->l2, b),
                  mka_cli_size(m->l3, c));
    mka_cli_print(cli, "  memory        %s, %s free\n  cpu levels   ", mka_cli_size(m->memory, a),
                  mka_cli_size(m->memory_free, b));
    for (int i = 0; i < m->level_count; i++) mka_cli_print(cli, " %s", m->levels[i]);
    mka_cli_print(cli, " (using %s)\n  threads       %d\n", m->level, m->threads);
    print_devices(cli);
}

/* What --numa makes of this machine's nodes. */
static void print_numa(mka_cli *cli, const mka_numa_report *r) {
    mka_cli_print(cli, "  placement     %s", mka_cli_numa_name(r->mode));
    for (int i = 0; i < r->nodes; i++)
        mka_cli_print(cli, "%s node %d (%d thread%s)", i > 0 ? "," : ";", r->number[i], r->threads[i],
                      r->threads[i] == 1 ? "" : "s");
    mka_cli_print(cli, "\n");
}

static void print_model(mka_cli *cli, const mka_model *model) {
    char text[32];
    mka_model_info m;
    mka_model_get_info(model, &m);
    mka_cli_print(cli, "model %s\n", cli->options.model);
    if (m.name[0] != '\0') mka_cli_print(cli, "  name          %s\n", m.name);
    mka_cli_print(cli, "  architecture  %s, %s attention\n", m.architecture, m.attention);
    mka_cli_print(cli, "  parameters    %.1f million, %s as %s\n", (double)m.parameters / 1e6, mka_cli_size(m.weight_bytes, text),
                  mka_type_name(m.weight_type));
    mka_cli_print(cli, "  shape         %d layers of width %d, ffn %d; %d heads of %d, %d key/value heads\n", m.layers, m.width,
                  m.ffn, m.heads, m.head_dim, m.kv_heads);
    mka_cli_print(cli, "  vocabulary    %d\n  context       %d", m.vocabulary, m.context);
    if (m.window_layers > 0) mka_cli_print(cli, "; %d layers see the last %d tokens only", m.window_layers, m.window);
    mka_cli_print(cli, "\n  cache         a token takes %zu bytes in f16 or bf16, %zu in f32\n",
                  mka_model_cache_bytes(model, MKA_F16, MKA_F16), mka_model_cache_bytes(model, MKA_F32, MKA_F32));
}

static void print_meta(mka_cli *cli, const mka_file *file, const mka_meta *meta) {
    static const char *const kinds[] = {"uint", "int", "float", "bool", "string", "array"};
    const char *bytes;
    size_t length;
    int64_t whole;
    double real;
    mka_cli_print(cli, "  %-44s ", meta->key);
    if (meta->kind == MKA_META_ARRAY) {
        mka_cli_print(cli, "%llu x %s\n", (unsigned long long)meta->count, kinds[meta->item]);
    } else if (mka_meta_string(file, meta, 0, &bytes, &length)) {
        /* The beginning is enough, and no control byte of a file reaches the terminal. */
        for (size_t i = 0; i < length && i < 100; i++) {
            char byte = (unsigned char)bytes[i] < 0x20 || bytes[i] == 0x7f ? ' ' : bytes[i];
            mka_cli_write(cli, &byte, 1);
        }
        mka_cli_print(cli, "%s\n", length > 100 ? "..." : "");
    } else if (meta->kind != MKA_META_FLOAT && mka_meta_int(file, meta, 0, &whole)) {
        mka_cli_print(cli, "%lld\n", (long long)whole);
    } else if (mka_meta_float(file, meta, 0, &real)) {
        mka_cli_print(cli, "%g\n", real);
    } else {
        mka_cli_print(cli, "%s\n", kinds[meta->kind]);
    }
}

static void print_file(mka_cli *cli, const mka_file *file) {
    mka_cli_print(cli, "metadata (%s)\n", mka_file_format(file));
    for (int i = 0; i < mka_file_meta_count(file); i++) print_meta(cli, file, mka_file_meta(file, i));
    mka_cli_print(cli, "tensors (%d)\n", mka_file_tensor_count(file));
    for (int i = 0; i < mka_file_tensor_count(file); i++) {
        const mka_tensor *t = mka_file_tensor(file, i);
        mka_cli_print(cli, "  %-44s %-7s [", t->name, mka_type_name(t->type));
        for (int k = 0; k < t->rank; k++) mka_cli_print(cli, "%s%lld", k > 0 ? ", " : "", (long long)t->shape[k]);
        mka_cli_print(cli, "] %zu bytes\n", t->bytes);
    }
}

/* With -v: what the file itself says, whatever of it the model uses. */
static int show_file(mka_cli *cli, json_t *out) {
    mka_file *file = NULL;
    mka_error error = {0};
    if (mka_file_open(cli->options.model, &file, &error) != MKA_OK) return mka_cli_failure(&error, 0);
    if (out != NULL) {
        tensors_json(out, file);
    } else {
        print_file(cli, file);
    }
    mka_file_close(file);
    return 0;
}

int mka_cli_info(mka_cli *cli) {
    mka_engine *engine = NULL;
    mka_model *model = NULL;
    mka_machine machine;
    mka_numa_report numa;
    mka_error error = {0};
    json_t *out = NULL;
    if (cli->options.argument_count > 0) {
        if (cli->options.model != NULL) return mka_cli_usage("info", "the model is named twice, with -m and without");
        cli->options.model = cli->options.arguments[0];
    }
    int status = mka_cli_open_engine(cli, &engine);
    if (status == 0 && cli->options.model != NULL) status = mka_cli_open_model(cli, "info", engine, 0, &model);
    if (status == 0 && mka_engine_get_numa(engine, cli->options.plan.numa, &numa, &error) != MKA_OK)
        status = mka_cli_failure(&error, 1);
    if (status == 0) {
        mka_engine_machine(engine, &machine);
        if (cli->options.json) {
            out = json_object();
            machine_json(out, &machine);
            json_object_set_new(out, "numa", mka_cli_numa_json(&numa));
            if (model != NULL) model_json(out, cli, model);
        } else {
            print_machine(cli, &machine);
            print_numa(cli, &numa);
            if (model != NULL) print_model(cli, model);
        }
        if (model != NULL && cli->options.verbose > 0) status = show_file(cli, out);
        if (out != NULL) mka_cli_json(cli, out);
    }
    mka_model_destroy(model);
    mka_engine_destroy(engine);
    return status;
}
