/* rows - the small operations: each is one kernel of rows.cl. */
#include "mirror.h"

static void run_norm(mka_ops *ops, int rows, int width, float eps, const float *x, int ldx, const float *w, float *y, int ldy,
                     int more) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->norm, "norm");
    mka_cl_int(&c, width);
    mka_cl_float(&c, eps);
    mka_cl_in(&c, x, (size_t)rows, (size_t)width, (size_t)ldx);
    mka_cl_int(&c, ldx);
    mka_cl_vector(&c, w, width);
    (more ? mka_cl_both : mka_cl_out)(&c, y, (size_t)rows, (size_t)width, (size_t)ldy);
    mka_cl_int(&c, ldy);
    mka_cl_int(&c, more);
    mka_cl_run(&c, (size_t)mka_cl_row_lanes(m->device), (size_t)rows, 1, 1);
}

static void device_norm(mka_ops *ops, int rows, int width, float eps, const float *x, int ldx, const float *w, float *y,
                        int ldy) {
    run_norm(ops, rows, width, eps, x, ldx, w, y, ldy, 0);
}

void mka_cl_add_norm(mka_ops *ops, int rows, int width, float eps, const float *x, const float *w, float *y) {
    run_norm(ops, rows, width, eps, x, width, w, y, width, 1);
}

static void device_rope(mka_ops *ops, int n, int heads, int pairs, int neighbours, float *x, int ldx, int head_stride,
                        const float *cosine, const float *sine) {
    mka_mirror *m = ops->mirror;
    size_t local = 16, width = (size_t)(heads - 1) * (size_t)head_stride + 2 * (size_t)pairs;
    if (pairs == 0) return;
    mka_cl_call c = mka_cl_begin(m, m->rope, "rope");
    mka_cl_int(&c, heads);
    mka_cl_int(&c, pairs);
    mka_cl_int(&c, neighbours);
    mka_cl_both(&c, x, (size_t)n, width, (size_t)ldx);
    mka_cl_int(&c, ldx);
    mka_cl_int(&c, head_stride);
    mka_cl_in(&c, cosine, (size_t)n, (size_t)pairs, (size_t)pairs);
    mka_cl_in(&c, sine, (size_t)n, (size_t)pairs, (size_t)pairs);
    mka_cl_run(&c, local, ((size_t)pairs + local - 1) / local, (size_t)heads, (size_t)n);
}

static void device_add(mka_ops *ops, size_t count, const float *y, float *x) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->add, "add");
    mka_cl_long(&c, count);
    mka_cl_in(&c, y, 1, count, count);
    mka_cl_both(&c, x, 1, count, count);
    mka_cl_run_each(&c, count, 1);
}

static void device_copy(mka_ops *ops, int rows, int width, const float *x, int ldx, float *y, int ldy) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->copy, "copy");
    mka_cl_int(&c, width);
    if (x)
        mka_cl_in(&c, x, (size_t)rows, (size_t)width, (size_t)ldx);
    else
        mka_cl_buffer(&c, m->scratch, 0);
    mka_cl_int(&c, ldx);
    mka_cl_int(&c, x != NULL);
    mka_cl_out(&c, y, (size_t)rows, (size_t)width, (size_t)ldy);
    mka_cl_int(&c, ldy);
    mka_cl_run_each(&c, (size_t)width, (size_t)rows);
}

static void device_act(mka_ops *ops, int rows, int width, int gelu, float *x) {
    mka_mirror *m = ops->mirror;
    size_t count = (size_t)rows * (size_t)width;
    mka_cl_call c = mka_cl_begin(m, m->act, "act");
    mka_cl_long(&c, count);
    mka_cl_int(&c, gelu);
    mka_cl_both(&c, x, 1, count, count);
    mka_cl_run_each(&c, count, 1);
}

static void device_softmax(mka_ops *ops, int rows, int width, float *x) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->softmax, "softmax");
    mka_cl_int(&c, rows);
    mka_cl_int(&c, width);
    mka_cl_both(&c, x, (size_t)rows, (size_t)width, (size_t)width);
    mka_cl_run_each(&c, (size_t)rows, 1);
}

static void device_summarise(mka_ops *ops, int n, int width, float beta, const float *x, float *state, float *rows) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->summarise, "summarise");
    mka_cl_int(&c, n);
    mka_cl_int(&c, width);
    mka_cl_float(&c, beta);
    mka_cl_in(&c, x, (size_t)n, (size_t)width, (size_t)width);
    mka_cl_both(&c, state, 1, (size_t)width, (size_t)width);
    mka_cl_out(&c, rows, (size_t)n, (size_t)width, (size_t)width);
    mka_cl_run_each(&c, (size_t)width, 1);
}

static void device_fuse(mka_ops *ops, int n, int levels, int width, const float *lambda, const float *const *rows, float *y) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->fuse, "fuse");
    mka_cl_int(&c, levels);
    mka_cl_int(&c, width);
    mka_cl_in(&c, lambda, (size_t)n, (size_t)levels, (size_t)levels);
    for (int l = 0; l < MKA_MOST_LEVELS; l++) mka_cl_in(&c, rows[l < levels ? l : 0], (size_t)n, (size_t)width, (size_t)width);
    mka_cl_out(&c, y, (size_t)n, (size_t)width, (size_t)width);
    mka_cl_run_each(&c, (size_t)width, (size_t)n);
}

static void device_mix(mka_ops *ops, int n, int width, const float *lambda, int ldl, const float *x, int more, float *y) {
    mka_mirror *m = ops->mirror;
    mka_cl_call c = mka_cl_begin(m, m->weigh, "weigh");
    mka_cl_int(&c, width);
    mka_cl_in(&c, lambda, (size_t)n, 1, (size_t)ldl);
    mka_cl_int(&c, ldl);
    mka_cl_in(&c, x, (size_t)n, (size_t)width, (size_t)width);
    mka_cl_int(&c, more);
    mka_cl_both(&c, y, (size_t)n, (size_t)width, (size_t)width);
    mka_cl_run_each(&c, (size_t)width, (size_t)n);
}

static void device_attend_start(mka_ops *ops, const mka_attend_job *job) {
    mka_mirror *m = ops->mirror;
    size_t rows = (size_t)job->n * (size_t)job->heads, width = (size_t)job->value_dim;
    mka_cl_call c = mka_cl_begin(m, m->start, "start");
    mka_cl_int(&c, job->value_dim);
    mka_cl_out(&c, job->m, 1, rows, rows);
    mka_cl_out(&c, job->z, 1, rows, rows);
    mka_cl_out(&c, job->out, rows, width, width);
    mka_cl_run_each(&c, width, rows);
}

static void device_attend_finish(mka_ops *ops, const mka_attend_job *job) {
    mka_mirror *m = ops->mirror;
    size_t rows = (size_t)job->n * (size_t)job->heads, width = (size_t)job->value_dim;
    mka_cl_call c = mka_cl_begin(m, m->finish, "finish");
    mka_cl_int(&c, job->value_dim);
    mka_cl_in(&c, job->z, 1, rows, rows);
    mka_cl_both(&c, job->out, rows, width, width);
    mka_cl_run_each(&c, width, rows);
}

void mka_cl_fill_rows(mka_ops *ops) {
    ops->norm = device_norm;
    ops->rope = device_rope;
    ops->add = device_add;
    ops->copy = device_copy;
    ops->act = device_act;
    ops->softmax = device_softmax;
    ops->summarise = device_summarise;
    ops->fuse = device_fuse;
    ops->mix = device_mix;
    ops->attend_start = device_attend_start;
    ops->attend_finish = device_attend_finish;
}
