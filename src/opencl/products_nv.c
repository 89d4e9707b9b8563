/* products_nv - products on the matrix units of NVIDIA devices: which products those kernels take, and their launches. What has
 * no place here (float32 weights, odd widths, a session that is exact) goes to the plain kernels. */
#include "mirror.h"

enum { FEW = 8, LEAST_LONG = 2, TILE = 128, WARP = 32 }; /* as gemv_nv.cl and gemm_nv.cl have them */

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

static size_t warps_of(mka_cl_product_kind kind) {
    return kind == MKA_CL_NV_GLU ? 4 : kind == MKA_CL_NV_GEMV_LONG ? 16 : 8;
}

/* gemv of one matrix, or with GLU of two: rows of y. */
static int run_gemv(mka_ops *ops, int n, const mka_product *p, mka_cl_product_kind kind, const mka_cl_resident *r, size_t row,
                    const mka_cl_resident *r2, int from, int rows, int flags) {
    mka_mirror *m = ops->mirror;
    cl_kernel kernel = mka_cl_product_kernel(m->device, r->type, kind);
    if (!kernel) return 1;
    mka_cl_call c = mka_cl_begin(m, kernel, "gemv");
    mka_cl_buffer(&c, r->buffer, row_place(m->device, r, row));
    mka_cl_buffer(&c, r2->buffer, row_place(m->device, r2, 0));
    mka_cl_int(&c, rows);
    mka_cl_int(&c, r->cols);
    mka_cl_long(&c, r->row_bytes);
    mka_cl_in(&c, p->x, (size_t)n, (size_t)r->cols, (size_t)p->ldx);
    mka_cl_int(&c, p->ldx);
    mka_cl_constant(&c, p->bias ? p->bias + from : NULL, rows);
    mka_cl_long(&c, 0); /* no norm */
    mka_cl_float(&c, 0);
    mka_cl_out(&c, p->y + from, (size_t)n, (size_t)rows, (size_t)p->ldy);
    mka_cl_int(&c, p->ldy);
    mka_cl_int(&c, n);
    mka_cl_int(&c, flags);
    mka_cl_local(&c, 4);
    mka_cl_run(&c, warps_of(kind) * WARP, mka_cl_bands((size_t)rows), 1, 1);
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

static int run_gemm(mka_ops *ops, int n, const mka_product *p, const mka_cl_resident *r, size_t row, int from, int rows,
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
    mka_cl_out(&c, p->y + from, (size_t)n, (size_t)rows, (size_t)p->ldy);
    mka_cl_int(&c, p->ldy);
    mka_cl_int(&c, n);
    mka_cl_int(&c, 0);
    mka_cl_run(&c, TILE, ((size_t)n + TILE - 1) / TILE, ((size_t)rows + TILE - 1) / TILE, 1);
    return 1;
}

int mka_cl_nv_multiply(mka_ops *ops, int n, const mka_product *p, const mka_cl_resident *r, size_t row, int from, int rows,
                       mka_cl_converted *last) {
    if (!suits(ops, p, r, row)) return 0;
    if (n > FEW) return run_gemm(ops, n, p, r, row, from, rows, last);
    mka_cl_product_kind kind = r->cols >= LEAST_LONG * rows ? MKA_CL_NV_GEMV_LONG : MKA_CL_NV_GEMV;
    return run_gemv(ops, n, p, kind, r, row, r, from, rows, 0);
}

/* The resident that has all of the matrix from its first row on, or NULL. */
static const mka_cl_resident *whole(mka_ops *ops, const mka_matrix *w) {
    const mka_cl_resident *r = mka_cl_find_resident(ops->mirror->residents, w, w->data);
    return r && r->data == w->data && r->rows >= w->rows ? r : NULL;
}

int mka_cl_nv_gated(mka_ops *ops, int n, int gelu, const mka_product *gate, const mka_product *up) {
    mka_device *d = ops->mirror->device;
    if (!d->nv || n > FEW || gate->w->type != up->w->type || gate->bias || up->bias) return 0;
    pthread_mutex_lock(&d->lock);
    const mka_cl_resident *r2 = whole(ops, up->w), *r = whole(ops, gate->w);
    r2 = r ? whole(ops, up->w) : NULL; /* finding one may have moved the other */
    r = r2 ? whole(ops, gate->w) : NULL;
    int done = r && suits(ops, gate, r, 0) && suits(ops, up, r2, 0);
    if (done) run_gemv(ops, n, gate, MKA_CL_NV_GLU, r, 0, r2, 0, gate->w->rows, gelu ? 2 : 0);
    pthread_mutex_unlock(&d->lock);
    if (done) ops->weight_bytes += 2 * (uint64_t)gate->w->rows * gate->w->row_bytes;
    return done;
}
