/* products_nv - products and steps on the matrix units of NVIDIA devices: which of them those kernels take, and their launches. A
 * launch costs several microseconds whatever it reads, so that a step of few rows is one where it can be: its norm, up to three
 * products of one type, their activation and the sum. What has no place here (float32 weights, odd widths, a session that is
 * exact) goes to the plain kernels. */
#include "mirror.h"

enum { FEW = 8, TILE = 128, WARP = 32, PARTS = 3 }; /* as gemv_nv.cl and gemm_nv.cl have them */

/* Bytes of a launch: with more, a kernel of its own reads them faster than a chain saves by having no launch. Measured on an H200
 * with layers of 4 to 250 MB. */
enum { MOST_CHAINED = 32 << 20 };

static int sixteen_bits(mka_type type) {
    return type == MKA_F16 || type == MKA_BF16;
}

/* Bytes from the beginning of its buffer of the resident's row number row. */
static cl_ulong row_place(const mka_device *d, const mka_cl_resident *r, size_t row) {
    if (!mka_cl_blocked(d, r->type)) return r->at + row * r->row_bytes;
    return r->at + row / MKA_CL_BAND * mka_cl_band_bytes(r->type, r->cols);
}

static int aligned_rows(const mka_mirror *m, const float *x, int ldx) {
    return mka_cl_place(m, x) % 4 == 0 && ldx % 4 == 0;
}

static int suits(const mka_ops *ops, const mka_product *p, const mka_cl_resident *r, size_t row) {
    const mka_device *d = ops->mirror->device;
    if (!d->nv || ops->exact || !aligned_rows(ops->mirror, p->x, p->ldx)) return 0;
    if (mka_cl_blocked(d, r->type)) return row % MKA_CL_BAND == 0;
    return sixteen_bits(r->type) && r->cols % 64 == 0 && row_place(d, r, row) % 16 == 0;
}

/* ---- few rows ---- */

/* Rows from.. of a product, which lie in the resident from its row number row on. */
typedef struct part {
    const mka_product *p;
    mka_cl_resident r;
    size_t row;
    int from, rows;
    float *y;
    int ldy;
} part;

typedef struct launch {
    mka_cl_product_kind kind;
    int count; /* of parts; with GLU the second is what the first is gated by */
    part part[PARTS];
    const mka_norm *norm; /* from NULL: none */
    int add, gelu, halves;
} launch;

static int gated(mka_cl_product_kind kind) {
    return kind == MKA_CL_NV_GLU || kind == MKA_CL_NV_GLU_HALVES;
}

/* Groups of a launch over so many bands of rows: where they stage a norm no more than there is room for at once, since each of
 * them does so once. */
static size_t groups_of(const mka_device *d, const launch *l, size_t bands) {
    size_t most = (size_t)(d->info.units * mka_cl_product_shape_of(l->kind, l->part->r.type)->groups);
    return most == 0 || bands < most ? bands : most;
}

/* Floats of local memory in which rows are staged for a norm. */
static size_t staged(int n, int cols) {
    return (size_t)n * ((size_t)mka_pad(cols, 128) / 2 + 4);
}

static void part_arguments(mka_cl_call *c, const launch *l, int n, int number) {
    const part *t = &l->part[number < l->count ? number : 0];
    const mka_device *d = c->mirror->device;
    int there = number < l->count && !(number == 1 && gated(l->kind)); /* with rows of its own */
    mka_cl_buffer(c, t->r.buffer, row_place(d, &t->r, t->row));
    mka_cl_int(c, there ? t->rows : 0);
    mka_cl_constant(c, there && t->p->bias ? t->p->bias + t->from : NULL, t->rows);
    if (there)
        (l->add ? mka_cl_both : mka_cl_out)(c, t->y + t->from, (size_t)n, (size_t)t->rows, (size_t)t->ldy);
    else
        mka_cl_buffer(c, c->mirror->scratch, 0);
    mka_cl_int(c, t->ldy);
}

static int flags_of(const launch *l) {
    return (l->add ? MKA_CL_ADD : 0) | (l->gelu ? MKA_CL_GELU : 0) | (gated(l->kind) ? MKA_CL_GLU : 0) |
           (l->norm->from ? MKA_CL_NORM : 0) | (l->halves ? MKA_CL_X16 : 0) | (l->kind == MKA_CL_NV_GLU_HALVES ? MKA_CL_Y16 : 0);
}

/* As a link of a chain (chain_nv.cl), of one row; 0: it has no place there. */
static int chain_gemv(mka_ops *ops, const launch *l) {
    mka_mirror *m = ops->mirror;
    const part *first = l->part;
    const float *x = l->norm->from ? l->norm->from : first->p->x;
    int cols = first->r.cols;
    size_t bytes = 0;
    if (!m->chain.bytes || !mka_cl_mirrored(m, x)) return 0;
    for (int i = 0; i < l->count; i++) {
        if (!mka_cl_mirrored(m, l->part[i].y)) return 0;
        bytes += (size_t)l->part[i].rows * l->part[i].r.row_bytes;
    }
    if (bytes > MOST_CHAINED) m->chain.never = 1;
    mka_cl_link *link = mka_cl_chain_product(m, first->r.type, l->halves ? 0 : cols);
    if (!link) return 0;
    for (int i = 0; i < l->count; i++) {
        const part *t = &l->part[i];
        int there = i == 0 || !gated(l->kind);
        link->at[i] = mka_cl_chain_place(m, t->r.buffer, row_place(m->device, &t->r, t->row));
        link->at[3 + i] = mka_cl_chain_vector(m, there && t->p->bias ? t->p->bias + t->from : NULL, t->rows);
        link->at[6 + i] = mka_cl_chain_operand(m, t->y + t->from);
        link->n[2 + i] = there ? t->rows : 0;
    }
    link->at[9] = mka_cl_chain_operand(m, x);
    link->at[10] = mka_cl_chain_vector(m, l->norm->from ? l->norm->w : NULL, cols);
    link->n[1] = flags_of(l);
    link->n[5] = cols;
    link->n[6] = (int)first->r.row_bytes;
    link->f[0] = l->norm->eps;
    return 1;
}

/* The lock is held: the operations in between are one command. */
static void run_gemv(mka_ops *ops, int n, const launch *l) {
    if (n == 1 && chain_gemv(ops, l)) return;
    mka_mirror *m = ops->mirror;
    const part *first = l->part;
    const mka_product *p = first->p;
    const float *x = l->norm->from ? l->norm->from : p->x;
    const mka_cl_product_shape *shape = mka_cl_product_shape_of(l->kind, first->r.type);
    int cols = first->r.cols, ldx = l->norm->from ? cols : p->ldx;
    size_t bands = 0;
    cl_kernel kernel = mka_cl_product_kernel(m->device, first->r.type, l->kind);
    if (!kernel) return;
    mka_cl_call c = mka_cl_begin(m, kernel, "gemv");
    for (int i = 0; i < PARTS; i++) part_arguments(&c, l, n, i);
    mka_cl_int(&c, cols);
    mka_cl_long(&c, first->r.row_bytes);
    if (l->halves)
        mka_cl_buffer(&c, m->buffer, 2 * mka_cl_place(m, x));
    else
        mka_cl_in(&c, x, (size_t)n, (size_t)cols, (size_t)ldx);
    mka_cl_int(&c, ldx);
    mka_cl_constant(&c, l->norm->from ? l->norm->w : NULL, cols);
    mka_cl_float(&c, l->norm->eps);
    mka_cl_int(&c, n);
    mka_cl_int(&c, l->add | l->gelu << 1);
    mka_cl_local(&c, l->norm->from ? staged(n, cols) : 4);
    for (int i = 0; i < (gated(l->kind) ? 1 : l->count); i++) bands += mka_cl_bands((size_t)l->part[i].rows);
    mka_cl_run(&c, (size_t)shape->warps * WARP, groups_of(m->device, l, bands), 1, 1);
}

/* ---- steps of few rows ---- */

/* The product's matrix whole, for these kernels; 0: it is not there, in pieces, or of another kind. */
static int whole(mka_ops *ops, const mka_product *p, part *out) {
    const mka_cl_resident *r = mka_cl_find_resident(ops->mirror->residents, p->w, p->w->data);
    if (!r || r->data != p->w->data || r->rows < p->w->rows || !suits(ops, p, r, 0)) return 0;
    *out = (part){.p = p, .r = *r, .rows = p->w->rows, .y = p->y, .ldy = p->ldy};
    return 1;
}

/* Whether x can be normalised on the way. */
static int takes_norm(const mka_ops *ops, int n, const mka_step *step) {
    const mka_norm *norm = &step->norm;
    int cols = step->products->w->cols;
    return norm->w && aligned_rows(ops->mirror, norm->from, cols) &&
           (staged(n, cols) + 4608) * sizeof(float) <= ops->mirror->device->local_memory;
}

/* Whether what the step leaves, in 16 bits, is all that the one after it wants. */
static int leaves_halves(mka_ops *ops, const mka_product *gate, const mka_step *following) {
    part next;
    if (!following || following->before || following->norm.from || following->count != 1 || following->glu) return 0;
    const mka_product *p = following->products;
    return p->x == gate->y && p->ldx == gate->ldy && p->ldx % 8 == 0 && mka_cl_mirrored(ops->mirror, p->x) &&
           whole(ops, p, &next) && next.r.type != MKA_BF16;
}

static int run_glu(mka_ops *ops, int n, const mka_step *step, const part parts[2], const mka_step *following) {
    if (parts[0].r.type != parts[1].r.type || !step->norm.from || parts[0].p->bias || parts[1].p->bias) return -1;
    int halves = leaves_halves(ops, parts[0].p, following);
    const launch l = {.kind = halves ? MKA_CL_NV_GLU_HALVES : MKA_CL_NV_GLU,
                      .count = 2,
                      .part = {parts[0], parts[1]},
                      .norm = &step->norm,
                      .gelu = step->glu == MKA_GEGLU};
    run_gemv(ops, n, &l);
    return halves;
}

/* A launch for products of one type that follow each other. */
static void run_parts(mka_ops *ops, int n, const mka_step *step, const part *parts, int halves) {
    for (int i = 0, count; i < step->count; i += count) {
        launch l = {.norm = &step->norm, .add = step->sum.to && !step->sum.w, .halves = halves};
        for (count = 0; i + count < step->count && parts[i + count].r.type == parts[i].r.type; count++)
            l.part[count] = parts[i + count];
        l.count = count;
        l.kind = halves ? MKA_CL_NV_GEMV_HALVES : step->norm.from ? MKA_CL_NV_NORM : MKA_CL_NV_GEMV;
        run_gemv(ops, n, &l);
    }
}

int mka_cl_nv_step(mka_ops *ops, int n, const mka_step *step, const mka_step *following, int *halves) {
    part parts[PARTS];
    if (!ops->mirror->device->nv || step->count > PARTS || (step->norm.from && !takes_norm(ops, n, step))) return 0;
    for (int i = 0; i < step->count; i++)
        if (step->products[i].x != step->products->x || !whole(ops, &step->products[i], &parts[i])) return 0;
    if (step->sum.to && !step->sum.w) parts[0].y = step->sum.to;
    int given = *halves;
    *halves = 0;
    if (step->glu) {
        int left = run_glu(ops, n, step, parts, following);
        if (left < 0) return 0;
        *halves = left;
    } else {
        run_parts(ops, n, step, parts, given);
    }
    for (int i = 0; i < step->count; i++) ops->weight_bytes += (uint64_t)parts[i].rows * parts[i].p->w->row_bytes;
    return 1;
}

/* ---- many ---- */

/* x in 16 bits into scratch. */
static void convert(mka_mirror *m, int n, const mka_product *p, cl_kernel kernel) {
    mka_cl_call c = mka_cl_begin(m, kernel, "to_halves");
    mka_cl_in(&c, p->x, (size_t)n, (size_t)p->w->cols, (size_t)p->ldx);
    mka_cl_int(&c, p->ldx);
    mka_cl_constant(&c, NULL, 0);
    mka_cl_float(&c, 0);
    mka_cl_int(&c, p->w->cols);
    mka_cl_buffer(&c, m->scratch, 2 * m->parts.halves);
    mka_cl_run(&c, 256, (size_t)n, 1, 1);
}

static int run_gemm(mka_ops *ops, int n, const mka_product *p, int add, const mka_cl_resident *r, size_t row, int from, int rows,
                    mka_cl_converted *last) {
    mka_mirror *m = ops->mirror;
    mka_device *d = m->device;
    const mka_cl_converted own = {p->x, p->ldx, r->cols, r->type == MKA_BF16};
    if ((size_t)n * (size_t)r->cols > m->parts.half_count) return 0;
    cl_kernel halves = mka_cl_product_kernel(d, r->type, MKA_CL_NV_HALVES), kernel;
    kernel = mka_cl_product_kernel(d, r->type, MKA_CL_NV_GEMM);
    if (!halves || !kernel) return 1;
    if (own.x != last->x || own.ldx != last->ldx || own.cols != last->cols || own.bf16 != last->bf16) convert(m, n, p, halves);
    *last = own;
    mka_cl_call c = mka_cl_begin(m, kernel, "gemm");
    mka_cl_buffer(&c, r->buffer, row_place(d, r, row));
    mka_cl_int(&c, rows);
    mka_cl_int(&c, r->cols);
    mka_cl_long(&c, r->row_bytes);
    mka_cl_buffer(&c, m->scratch, 2 * m->parts.halves);
    mka_cl_float(&c, 32); /* what to_halves took */
    mka_cl_constant(&c, p->bias ? p->bias + from : NULL, rows);
    (add ? mka_cl_both : mka_cl_out)(&c, p->y + from, (size_t)n, (size_t)rows, (size_t)p->ldy);
    mka_cl_int(&c, p->ldy);
    mka_cl_int(&c, n);
    mka_cl_int(&c, add);
    mka_cl_run(&c, TILE, ((size_t)n + TILE - 1) / TILE, ((size_t)rows + TILE - 1) / TILE, 1);
    return 1;
}

int mka_cl_nv_multiply(mka_ops *ops, int n, const mka_product *p, int add, const mka_cl_resident *r, size_t row, int from,
                       int rows, mka_cl_converted *last) {
    static const mka_norm none = {NULL, NULL, 0};
    if (!suits(ops, p, r, row)) return 0;
    if (n > FEW) return run_gemm(ops, n, p, add, r, row, from, rows, last);
    const launch l = {.kind = MKA_CL_NV_GEMV,
                      .count = 1,
                      .part = {{.p = p, .r = *r, .row = row, .from = from, .rows = rows, .y = p->y, .ldy = p->ldy}},
                      .norm = &none,
                      .add = add};
    run_gemv(ops, n, &l);
    return 1;
}
