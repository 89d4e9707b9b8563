/* products - products with weights: a row of work-items for each row of W where x has a few rows, tiles where it has many. */
#include "base/status.h"
#include "mirror.h"

enum { FEW = 8, TILE = 64, TILE_ITEMS = 256 }; /* as product.cl has them */

static const struct {
    const char *file, *name, *options;
} kernels[MKA_CL_PRODUCT_KINDS] = {
    [MKA_CL_GEMV] = {"product", "gemv", ""},
    [MKA_CL_GEMM] = {"product", "gemm", ""},
    [MKA_CL_NV_GEMV] = {"gemv_nv", "gemv", "-DWARPS=8 -DUNROLL=2"},
    [MKA_CL_NV_GEMV_LONG] = {"gemv_nv", "gemv", "-DWARPS=16 -DUNROLL=1"},
    [MKA_CL_NV_GLU] = {"gemv_nv", "gemv", "-DGLU=1 -DWARPS=4 -DUNROLL=2"},
    [MKA_CL_NV_HALVES] = {"gemm_nv", "to_halves", ""},
    [MKA_CL_NV_GEMM] = {"gemm_nv", "gemm", ""},
};

static mka_status build(mka_device *d, mka_type type, mka_cl_product_kind which, mka_error *error) {
    cl_kernel *kept = &d->products[type][which];
    if (*kept) return MKA_OK;
    return mka_cl_kernel(d, kernels[which].file, kernels[which].name, kept, error,
                         "-DLANES=%d -DWTYPE=%d -DBLOCKED=%d -DMINIMUM=%d %s", d->lanes, (int)type, mka_cl_blocked(d, type),
                         mka_cl_minima(type), kernels[which].options);
}

mka_status mka_cl_product_kernels(mka_device *d, mka_type type, mka_error *error) {
    mka_status status = build(d, type, MKA_CL_GEMV, error);
    return status ? status : build(d, type, MKA_CL_GEMM, error);
}

cl_kernel mka_cl_product_kernel(mka_device *d, mka_type type, mka_cl_product_kind which) {
    mka_error error;
    if (build(d, type, which, &error) != MKA_OK) mka_cl_keep_failure(d, &error);
    return d->products[type][which];
}

/* rows of the product from its row number from on, which lie in one piece from row number row of the resident on. */
static void multiply_piece(mka_ops *ops, int n, const mka_product *p, const mka_cl_resident *r, size_t row, int from, int rows,
                           mka_cl_converted *last) {
    mka_mirror *m = ops->mirror;
    const mka_matrix *w = p->w;
    if (mka_cl_nv_multiply(ops, n, p, r, row, from, rows, last)) return;
    cl_kernel kernel = mka_cl_product_kernel(m->device, w->type, n <= FEW ? MKA_CL_GEMV : MKA_CL_GEMM);
    if (!kernel) return;
    mka_cl_call c = mka_cl_begin(m, kernel, n <= FEW ? "gemv" : "gemm");
    mka_cl_buffer(&c, r->buffer, r->at);
    mka_cl_long(&c, r->scales_at);
    mka_cl_int(&c, (int)row);
    mka_cl_int(&c, rows);
    mka_cl_int(&c, w->cols);
    mka_cl_long(&c, w->row_bytes);
    mka_cl_in(&c, p->x, (size_t)n, (size_t)w->cols, (size_t)p->ldx);
    mka_cl_int(&c, p->ldx);
    mka_cl_vector(&c, p->bias ? p->bias + from : NULL, rows);
    mka_cl_out(&c, p->y + from, (size_t)n, (size_t)rows, (size_t)p->ldy);
    mka_cl_int(&c, p->ldy);
    mka_cl_int(&c, n);
    if (n <= FEW)
        mka_cl_run(&c, (size_t)m->device->lanes, (size_t)rows, 1, 1);
    else
        mka_cl_run(&c, TILE_ITEMS, ((size_t)rows + TILE - 1) / TILE, ((size_t)n + TILE - 1) / TILE, 1);
}

static void multiply_one(mka_ops *ops, int n, const mka_product *p, mka_cl_converted *last) {
    mka_mirror *m = ops->mirror;
    const mka_matrix *w = p->w;
    const unsigned char *data = w->data;
    for (int row = 0, rows; row < w->rows; row += rows) {
        const unsigned char *at = data + (size_t)row * w->row_bytes;
        pthread_mutex_lock(&m->device->lock);
        const mka_cl_resident *r = mka_cl_find_resident(m->residents, w, at);
        size_t first = r ? (size_t)(at - r->data) / w->row_bytes : 0;
        rows = w->rows - row;
        if (r && (size_t)rows > (size_t)r->rows - first) rows = r->rows - (int)first;
        if (r) multiply_piece(ops, n, p, r, first, row, rows, last);
        pthread_mutex_unlock(&m->device->lock);
    }
    ops->weight_bytes += (uint64_t)w->rows * w->row_bytes;
}

static void device_multiply(mka_ops *ops, int n, int count, const mka_product *products) {
    mka_cl_converted last = {NULL, 0, 0, 0};
    for (int i = 0; i < count; i++) multiply_one(ops, n, &products[i], &last);
}

static void device_alone(mka_ops *ops, int n, const mka_product *product) {
    device_multiply(ops, n, 1, product);
}

static void device_gated(mka_ops *ops, int n, int gelu, const mka_product *gate, const mka_product *up) {
    mka_mirror *m = ops->mirror;
    size_t rows = (size_t)n, width = (size_t)gate->w->rows;
    mka_cl_converted last = {NULL, 0, 0, 0};
    if (mka_cl_nv_gated(ops, n, gelu, gate, up)) return;
    multiply_one(ops, n, gate, &last);
    multiply_one(ops, n, up, &last);
    mka_cl_call c = mka_cl_begin(m, m->glu, "glu");
    mka_cl_int(&c, gate->w->rows);
    mka_cl_int(&c, gelu);
    mka_cl_both(&c, gate->y, rows, width, (size_t)gate->ldy);
    mka_cl_int(&c, gate->ldy);
    mka_cl_in(&c, up->y, rows, width, (size_t)up->ldy);
    mka_cl_int(&c, up->ldy);
    mka_cl_run_each(&c, width, rows);
}

void mka_cl_fill_products(mka_ops *ops) {
    ops->multiply = device_multiply;
    ops->alone = device_alone;
    ops->gated = device_gated;
}
