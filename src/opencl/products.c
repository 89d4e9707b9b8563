/* products - products with weights, and the steps of a layer that are made of them: a row of work-items for each row of W where x
 * has a few rows, tiles where it has many; a step's norm and activation are commands of their own here, its sum is not. */
#include "base/status.h"
#include "mirror.h"

enum { FEW = 8, TILE = 64, TILE_ITEMS = 256 }; /* as product.cl has them */

static const struct {
    const char *file, *name, *options;
    mka_cl_product_shape shape[2]; /* of weights in 16 bits, and in fewer */
} kernels[MKA_CL_PRODUCT_KINDS] = {
    [MKA_CL_GEMV] = {"product", "gemv", "", {{0}}},
    [MKA_CL_GEMM] = {"product", "gemm", "", {{0}}},
    [MKA_CL_NV_GEMV] = {"gemv_nv", "gemv", "", {{8, 2, 0}, {8, 2, 0}}},
    [MKA_CL_NV_GEMV_HALVES] = {"gemv_nv", "gemv", "-DX16=1", {{8, 2, 0}, {16, 1, 0}}},
    [MKA_CL_NV_NORM] = {"gemv_nv", "gemv", "-DNORM=1", {{8, 1, 3}, {16, 1, 2}}},
    [MKA_CL_NV_GLU] = {"gemv_nv", "gemv", "-DNORM=1 -DGLU=1", {{8, 1, 3}, {8, 1, 3}}},
    [MKA_CL_NV_GLU_HALVES] = {"gemv_nv", "gemv", "-DNORM=1 -DGLU=1 -DY16=1", {{8, 1, 3}, {8, 1, 3}}},
    [MKA_CL_NV_HALVES] = {"gemm_nv", "to_halves", "", {{0}}},
    [MKA_CL_NV_GEMM] = {"gemm_nv", "gemm", "", {{0}}},
};

const mka_cl_product_shape *mka_cl_product_shape_of(mka_cl_product_kind which, mka_type type) {
    return &kernels[which].shape[type != MKA_F16 && type != MKA_BF16];
}

static mka_status build(mka_device *d, mka_type type, mka_cl_product_kind which, mka_error *error) {
    cl_kernel *kept = &d->products[type][which];
    const mka_cl_product_shape *s = mka_cl_product_shape_of(which, type);
    if (*kept) return MKA_OK;
    return mka_cl_kernel(d, kernels[which].file, kernels[which].name, kept, error,
                         "-DLANES=%d -DWTYPE=%d -DBLOCKED=%d -DMINIMUM=%d -DWARPS=%d -DUNROLL=%d %s", d->lanes, (int)type,
                         mka_cl_blocked(d, type), mka_cl_minima(type), s->warps, s->unroll, kernels[which].options);
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
static void multiply_piece(mka_ops *ops, int n, const mka_product *p, int add, const mka_cl_resident *r, size_t row, int from,
                           int rows, mka_cl_converted *last) {
    mka_mirror *m = ops->mirror;
    const mka_matrix *w = p->w;
    if (mka_cl_nv_multiply(ops, n, p, add, r, row, from, rows, last)) return;
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
    (add ? mka_cl_both : mka_cl_out)(&c, p->y + from, (size_t)n, (size_t)rows, (size_t)p->ldy);
    mka_cl_int(&c, p->ldy);
    mka_cl_int(&c, n);
    mka_cl_int(&c, add);
    if (n <= FEW)
        mka_cl_run(&c, (size_t)m->device->lanes, (size_t)rows, 1, 1);
    else
        mka_cl_run(&c, TILE_ITEMS, ((size_t)rows + TILE - 1) / TILE, ((size_t)n + TILE - 1) / TILE, 1);
}

static void multiply_one(mka_ops *ops, int n, const mka_product *p, int add, mka_cl_converted *last) {
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
        if (r) multiply_piece(ops, n, p, add, r, first, row, rows, last);
        pthread_mutex_unlock(&m->device->lock);
    }
    ops->weight_bytes += (uint64_t)w->rows * w->row_bytes;
}

static void device_multiply(mka_ops *ops, int n, int count, const mka_product *products) {
    mka_cl_converted last = {NULL, 0, 0, 0};
    for (int i = 0; i < count; i++) multiply_one(ops, n, &products[i], 0, &last);
}

static void device_alone(mka_ops *ops, int n, const mka_product *product) {
    device_multiply(ops, n, 1, product);
}

/* ---- steps ---- */

static void glu(mka_ops *ops, int n, int gelu, const mka_product *gate, const mka_product *up) {
    size_t rows = (size_t)n, width = (size_t)gate->w->rows;
    mka_cl_call c = mka_cl_begin(ops->mirror, ops->mirror->glu, "glu");
    mka_cl_int(&c, gate->w->rows);
    mka_cl_int(&c, gelu);
    mka_cl_both(&c, gate->y, rows, width, (size_t)gate->ldy);
    mka_cl_int(&c, gate->ldy);
    mka_cl_in(&c, up->y, rows, width, (size_t)up->ldy);
    mka_cl_int(&c, up->ldy);
    mka_cl_run_each(&c, width, rows);
}

/* A step but for a norm of its sum, one command after the other. */
static void run_apart(mka_ops *ops, int n, const mka_step *step) {
    const mka_norm *norm = &step->norm;
    const mka_product *p = step->products;
    int cols = p->w->cols;
    if (norm->from) ops->norm(ops, n, cols, norm->eps, norm->from, cols, norm->w, (float *)(uintptr_t)p->x, cols);
    if (step->sum.to && !step->sum.w) {
        mka_cl_converted last = {NULL, 0, 0, 0};
        mka_product sum = *p;
        sum.y = step->sum.to;
        multiply_one(ops, n, &sum, 1, &last);
        return;
    }
    device_multiply(ops, n, step->count, p);
    if (step->glu) glu(ops, n, step->glu == MKA_GEGLU, &p[0], &p[1]);
}

static void device_steps(mka_ops *ops, int n, int count, const mka_step *steps) {
    int halves = 0; /* 1: the next step's x lies in 16 bits */
    for (int i = 0; i < count; i++) {
        const mka_step *step = &steps[i];
        const mka_sum *sum = &step->sum;
        if (step->before) step->before(step->user);
        pthread_mutex_lock(&ops->mirror->device->lock);
        int done = n <= FEW && mka_cl_nv_step(ops, n, step, i + 1 < count ? step + 1 : NULL, &halves);
        pthread_mutex_unlock(&ops->mirror->device->lock);
        if (!done) run_apart(ops, n, step);
        if (sum->to && sum->w) mka_cl_add_norm(ops, n, step->products->w->rows, sum->eps, step->products->y, sum->w, sum->to);
    }
}

void mka_cl_fill_products(mka_ops *ops) {
    ops->multiply = device_multiply;
    ops->alone = device_alone;
    ops->steps = device_steps;
}
