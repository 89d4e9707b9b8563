/* check_layer - one attention layer of any variant against a golden file: in one pass, in internal chunks, in uneven calls and
 * token by token, each batch entry as a sequence of its own. All must agree with the file, so they agree with each other.
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* One way of giving the tokens to the layer: calls of these sizes, in turn; 0 is all that is left. */
typedef struct run {
    const char *name;
    int chunk;    /* of the layer; 0: as many as there are tokens */
    int calls[6]; /* sizes, repeated */
    int count;
} run;

static const run runs[] = {
    {"one pass", 0, {0}, 1},
    {"chunks of 7", 7, {0}, 1},
    {"uneven calls", 0, {1, 5, 2, 11, 3, 8}, 6},
    {"token by token", 0, {1}, 1},
};

/* What a layer gives beside y, and the tensor it is compared with (NULL when the file has none). */
enum { OUT_Y, OUT_ROUTER, OUT_STATE, OUT_FUSED, OUT_LATENT, OUTS };

typedef struct output {
    const mka_tensor *want;
    size_t row; /* floats a token; a state has one row a sequence */
    float *got;
} output;

typedef struct layer_case {
    mka_attention_options options;
    int batch, seq;
    const mka_tensor *x, *longterm;
    mka_tensor *weights;
    int weight_count;
    output out[OUTS];
} layer_case;

static const char *const out_names[OUTS] = {"out.y", "out.router", "out.session_state", "out.fused", "out.latent"};

static int read_shape(mka_cli_golden *g, layer_case *c) {
    const int most = 1 << 16;
    mka_attention_options *o = &c->options;
    int mla = strcmp(g->report->kind, "mla") == 0;
    mka_attention_defaults(o);
    o->variant = mla                                       ? MKA_MLA
                 : strcmp(g->report->kind, "mka") == 0     ? MKA_MKA
                 : strcmp(g->report->kind, "fastmka") == 0 ? MKA_FASTMKA
                                                           : MKA_GROUPED;
    if (mka_cli_golden_int(g, "batch", 1, most, -1, &c->batch) != 0 ||
        mka_cli_golden_int(g, "seq", 1, 1 << 20, -1, &c->seq) != 0 ||
        mka_cli_golden_int(g, "width", 1, most, -1, &o->width) != 0 ||
        mka_cli_golden_int(g, "heads", 1, most, -1, &o->heads) != 0 ||
        mka_cli_golden_int(g, "kv_heads", 1, most, -1, &o->kv_heads) != 0 ||
        mka_cli_golden_real(g, "rope_base", 0, 1e12, -1, &o->rope_base) != 0 ||
        mka_cli_golden_real(g, "norm_eps", 0, 1, mla ? -1 : 1e-6, &o->norm_eps) != 0) {
        return 1;
    }
    if (mla) {
        return mka_cli_golden_int(g, "nope_dim", 1, most, -1, &o->nope_dim) != 0 ||
               mka_cli_golden_int(g, "rope_dim", 1, most, -1, &o->rope_dim) != 0 ||
               mka_cli_golden_int(g, "v_dim", 1, most, -1, &o->v_dim) != 0 ||
               mka_cli_golden_int(g, "latent_dim", 1, most, -1, &o->latent_dim) != 0;
    }
    if (mka_cli_golden_int(g, "head_dim", 1, 256, -1, &o->head_dim) != 0) return 1;
    if (o->variant == MKA_GROUPED) return mka_cli_golden_int(g, "window", 0, 1 << 20, 0, &o->window);
    return mka_cli_golden_int(g, "levels", 2, 3, -1, &o->levels) != 0 ||
           mka_cli_golden_real(g, "ema_beta", 0, 0.99999994, -1, &o->ema_beta) != 0;
}

/* An expected tensor: [batch, seq, row], or [batch, row] for a state. Only y has to be there. */
static int expect(mka_cli_golden *g, layer_case *c, int which, int row, int given) {
    if (!given) return 0;
    int64_t shape[3] = {c->batch, which == OUT_STATE ? row : c->seq, row};
    c->out[which].row = (size_t)row;
    c->out[which].want = mka_cli_golden_tensor(g, out_names[which], MKA_F32, which != OUT_Y, which == OUT_STATE ? 2 : 3, shape);
    if (g->report->failed) return 1;
    if (c->out[which].want == NULL) return 0;
    size_t rows = which == OUT_STATE ? 1 : (size_t)c->seq;
    c->out[which].got = malloc(rows * (size_t)row * sizeof(float));
    return c->out[which].got != NULL ? 0 : mka_cli_report_fail(g->report, "out of memory");
}

static int read_tensors(mka_cli_golden *g, layer_case *c) {
    const mka_attention_options *o = &c->options;
    int routed = o->variant == MKA_MKA || o->variant == MKA_FASTMKA;
    int64_t shape[3] = {c->batch, c->seq, o->width};
    if ((c->x = mka_cli_golden_tensor(g, "in.x", MKA_F32, 0, 3, shape)) == NULL) return 1;
    /* With two levels the rows are not read, whatever the file holds. */
    const mka_tensor *longterm = routed && o->levels == 3 ? mka_file_find(g->file, "in.longterm") : NULL;
    if (longterm != NULL) {
        shape[1] = longterm->rank == 3 && longterm->shape[1] >= 1 && longterm->shape[1] <= 1 << 20 ? longterm->shape[1] : 1;
        if ((c->longterm = mka_cli_golden_tensor(g, "in.longterm", MKA_F32, 0, 3, shape)) == NULL) return 1;
    }
    if (expect(g, c, OUT_Y, o->width, 1) || expect(g, c, OUT_ROUTER, o->levels, routed) ||
        expect(g, c, OUT_STATE, o->width, routed) || expect(g, c, OUT_FUSED, o->width, o->variant == MKA_FASTMKA) ||
        expect(g, c, OUT_LATENT, o->latent_dim, o->variant == MKA_MLA)) {
        return 1;
    }
    int total = mka_file_tensor_count(g->file);
    c->weights = calloc((size_t)total + 1, sizeof *c->weights);
    if (c->weights == NULL) return mka_cli_report_fail(g->report, "out of memory");
    for (int i = 0; i < total; i++) {
        const mka_tensor *tensor = mka_file_tensor(g->file, i);
        if (strncmp(tensor->name, "p.", 2) != 0) continue;
        c->weights[c->weight_count] = *tensor;
        c->weights[c->weight_count++].name = tensor->name + 2;
    }
    return 0;
}

static int feed(mka_cli_golden *g, layer_case *c, mka_attention *layer, const run *how, const float *x) {
    mka_error error = {0};
    size_t width = (size_t)c->options.width;
    for (int done = 0, call = 0; done < c->seq; call++) {
        int n = how->calls[call % how->count];
        if (n == 0 || n > c->seq - done) n = c->seq - done;
        float *at[OUTS];
        for (int i = 0; i < OUTS; i++) {
            at[i] = c->out[i].got != NULL && i != OUT_STATE ? c->out[i].got + (size_t)done * c->out[i].row : c->out[i].got;
        }
        mka_attention_trace trace = {at[OUT_ROUTER], at[OUT_STATE], at[OUT_FUSED], at[OUT_LATENT]};
        if (mka_attention_forward(layer, n, x + (size_t)done * width, at[OUT_Y], &trace, &error) != MKA_OK) {
            return mka_cli_report_fail(g->report, "%s: %s", how->name, error.message);
        }
        done += n;
    }
    return 0;
}

static void compare_outputs(mka_cli_golden *g, layer_case *c, const char *label, size_t batch) {
    for (int i = 0; i < OUTS; i++) {
        if (c->out[i].want == NULL) continue;
        size_t values = c->out[i].row * (i == OUT_STATE ? 1 : (size_t)c->seq);
        mka_cli_compared *record = mka_cli_compare_begin(g->report, out_names[i]);
        mka_cli_compare(record, label, c->out[i].got, (const char *)c->out[i].want->data + batch * values * sizeof(float), values,
                        MKA_CLI_ABSOLUTE, MKA_CLI_RELATIVE);
    }
}

static int run_layer(mka_cli_golden *g, layer_case *c, const run *how, mka_mla_form form, const float *x, const float *longterm) {
    static const char *const forms[] = {"", " absorbed", " expanded"};
    mka_attention *layer = NULL;
    mka_error error = {0};
    char label[48];
    mka_attention_options options = c->options;
    size_t rows = c->longterm != NULL ? (size_t)c->longterm->shape[1] : 0, width = (size_t)options.width;
    snprintf(label, sizeof label, "%s%s", how->name, forms[form]);
    options.mla = form;
    options.context = c->seq;
    options.chunk = how->chunk > 0 ? how->chunk : c->seq;
    options.key_type = options.value_type = MKA_F32;
    if (mka_attention_create(g->engine, &options, c->weights, c->weight_count, &layer, &error) != MKA_OK) {
        return mka_cli_report_fail(g->report, "%s", error.message);
    }
    int status = 0;
    for (size_t b = 0; b < (size_t)c->batch && status == 0; b++) {
        mka_attention_reset(layer);
        if (rows > 0 && mka_attention_set_longterm(layer, (int)rows, longterm + b * rows * width, &error) != MKA_OK) {
            status = mka_cli_report_fail(g->report, "%s", error.message);
        }
        if (status == 0) status = feed(g, c, layer, how, x + b * (size_t)c->seq * width);
        if (status == 0) compare_outputs(g, c, label, b);
    }
    mka_attention_destroy(layer);
    return status;
}

void mka_cli_check_layer(mka_cli_golden *g) {
    layer_case c;
    memset(&c, 0, sizeof c);
    float *x = NULL, *longterm = NULL;
    if (read_shape(g, &c) == 0 && read_tensors(g, &c) == 0) {
        x = mka_cli_golden_floats(c.x);
        longterm = c.longterm != NULL ? mka_cli_golden_floats(c.longterm) : NULL;
        int status = x == NULL || (c.longterm != NULL && longterm == NULL) ? mka_cli_report_fail(g->report, "out of memory") : 0;
        /* Latent attention has two forms that must agree; asked for one, check that one. */
        int asked = g->cli->options.mla, mla = c.options.variant == MKA_MLA;
        int first = !mla ? MKA_MLA_AUTO : asked == MKA_CLI_UNSET ? MKA_MLA_ABSORBED : asked;
        int last = !mla ? MKA_MLA_AUTO : asked == MKA_CLI_UNSET ? MKA_MLA_EXPANDED : asked;
        for (int form = first; form <= last && status == 0; form++) {
            for (size_t i = 0; i < sizeof runs / sizeof runs[0] && status == 0; i++) {
                status = run_layer(g, &c, &runs[i], (mka_mla_form)form, x, longterm);
            }
        }
    }
    free(x);
    free(longterm);
    for (int i = 0; i < OUTS; i++) free(c.out[i].got);
    free(c.weights);
}
