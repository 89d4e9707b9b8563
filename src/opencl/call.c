/* call - one operation as one command: operands found or sent, arguments set, queued, and results fetched that belong elsewhere.
 */
#include "base/status.h"
#include "mirror.h"

mka_cl_call mka_cl_begin(mka_mirror *m, cl_kernel kernel, const char *name) {
    pthread_mutex_lock(&m->device->lock);
    mka_cl_chain_end(m->device);
    return (mka_cl_call){.mirror = m, .kernel = kernel, .name = name, .dead = m->device->failure.status != MKA_OK};
}

static void check(mka_cl_call *c, cl_int code) {
    if (code == CL_SUCCESS || c->dead) return;
    c->dead = 1;
    mka_cl_fail(c->mirror->device, code, c->name);
}

static void argument(mka_cl_call *c, size_t size, const void *value) {
    if (!c->dead) check(c, clSetKernelArg(c->kernel, c->count, size, value));
    c->count++;
}

void mka_cl_buffer(mka_cl_call *c, cl_mem buffer, cl_ulong at) {
    argument(c, sizeof buffer, &buffer);
    argument(c, sizeof at, &at);
}

void mka_cl_int(mka_cl_call *c, int value) {
    cl_int v = value;
    argument(c, sizeof v, &v);
}

void mka_cl_long(mka_cl_call *c, cl_ulong value) {
    argument(c, sizeof value, &value);
}

void mka_cl_float(mka_cl_call *c, float value) {
    cl_float v = value;
    argument(c, sizeof v, &v);
}

void mka_cl_local(mka_cl_call *c, size_t floats) {
    argument(c, floats * sizeof(cl_float), NULL);
}

int mka_cl_mirrored(const mka_mirror *m, const float *x) {
    const unsigned char *p = (const unsigned char *)x;
    return m->base && p >= m->base && p < m->base + m->bytes;
}

size_t mka_cl_place(const mka_mirror *m, const float *x) {
    return mka_cl_mirrored(m, x) ? (size_t)((const unsigned char *)x - m->base) / sizeof(float) : 0;
}

/* Room for an operand from elsewhere: a buffer of its own, which grows at first uses. What commands still use lives until they
 * are done. */
static cl_mem stage(mka_cl_call *c, int slot, size_t bytes) {
    mka_mirror *m = c->mirror;
    size_t size = (size_t)1 << 12;
    mka_error error;
    if (c->dead || bytes <= m->staging_bytes[slot]) return m->staging[slot];
    while (size < bytes) size *= 2;
    mka_cl_give(m->device, m->staging[slot]);
    m->staging_bytes[slot] = 0;
    if (mka_cl_take(m->device, size, "an operand from elsewhere", &m->staging[slot], &error) == MKA_OK) {
        m->staging_bytes[slot] = size;
    } else {
        c->dead = 1;
        mka_cl_keep_failure(m->device, &error);
    }
    return m->staging[slot];
}

static size_t extent(size_t rows, size_t width, size_t ld) {
    return rows == 0 ? 0 : ((rows - 1) * ld + width) * sizeof(float);
}

enum { READ = 1, WRITTEN = 2 };

static void operand(mka_cl_call *c, const float *x, size_t rows, size_t width, size_t ld, int use) {
    mka_mirror *m = c->mirror;
    if (mka_cl_mirrored(m, x)) {
        mka_cl_buffer(c, m->buffer, (cl_ulong)((const unsigned char *)x - m->base) / sizeof(float));
        return;
    }
    size_t bytes = extent(rows, width, ld);
    cl_mem buffer = stage(c, c->staged++, bytes);
    if (use & READ && !c->dead) check(c, mka_cl_send(m, buffer, 0, x, bytes));
    if (use & WRITTEN) {
        mka_cl_back *back = &c->back[c->backs++];
        *back = (mka_cl_back){.from = buffer, .to = (float *)(uintptr_t)x, .rows = rows, .width = width, .ld = ld};
    }
    mka_cl_buffer(c, buffer, 0);
}

void mka_cl_in(mka_cl_call *c, const float *x, size_t rows, size_t width, size_t ld) {
    operand(c, x, rows, width, ld, READ);
}

void mka_cl_out(mka_cl_call *c, float *y, size_t rows, size_t width, size_t ld) {
    operand(c, y, rows, width, ld, WRITTEN);
}

void mka_cl_both(mka_cl_call *c, float *x, size_t rows, size_t width, size_t ld) {
    operand(c, x, rows, width, ld, READ | WRITTEN);
}

/* A vector's place there, or none in scratch. */
static void vector_operand(mka_cl_call *c, const float *vector, int count, cl_ulong none) {
    const mka_matrix matrix = {vector, MKA_F32, 1, count, (size_t)count * sizeof *vector};
    const mka_cl_resident *r = vector && !c->dead ? mka_cl_find_resident(c->mirror->residents, &matrix, vector) : NULL;
    if (vector && !r) c->dead = 1;
    cl_ulong at = r ? (r->at + (cl_ulong)((const unsigned char *)vector - r->data)) / sizeof(float) : none;
    mka_cl_buffer(c, r ? r->buffer : c->mirror->scratch, at);
}

void mka_cl_vector(mka_cl_call *c, const float *vector, int count) {
    vector_operand(c, vector, count, 0);
    mka_cl_int(c, vector != NULL);
}

void mka_cl_constant(mka_cl_call *c, const float *vector, int count) {
    vector_operand(c, vector, count, ~(cl_ulong)0);
}

/* Results come back row by row where something else lies between them. */
static void fetch(mka_cl_call *c) {
    mka_device *d = c->mirror->device;
    double begin = mka_cl_now();
    for (int i = 0; i < c->backs && !c->dead; i++) {
        const mka_cl_back *back = &c->back[i];
        size_t row = back->width * sizeof(float), pitch = back->ld * sizeof(float), bytes = row * back->rows;
        size_t origin[3] = {0, 0, 0}, region[3] = {row, back->rows, 1};
        cl_event *time = mka_cl_time(d, MKA_CL_DOWN);
        if (row == pitch || back->rows == 1)
            check(c, clEnqueueReadBuffer(d->queue, back->from, CL_TRUE, 0, bytes, back->to, 0, NULL, time));
        else
            check(c, clEnqueueReadBufferRect(d->queue, back->from, CL_TRUE, origin, origin, region, pitch, 0, pitch, 0, back->to,
                                             0, NULL, time));
        d->usage.down_bytes += bytes;
    }
    if (c->backs && !c->dead) mka_cl_arrived(c->mirror);
    if (c->backs) d->usage.wait_seconds += mka_cl_now() - begin;
}

void mka_cl_run(mka_cl_call *c, size_t local, size_t x, size_t y, size_t z) {
    mka_device *d = c->mirror->device;
    size_t sizes[3] = {x * local, y, z}, locals[3] = {local, 1, 1};
    if (!c->dead && x && y && z) {
        check(c, clEnqueueNDRangeKernel(d->queue, c->kernel, 3, NULL, sizes, locals, 0, NULL, mka_cl_time(d, MKA_CL_KERNEL)));
        d->usage.kernels++;
    }
    fetch(c);
    pthread_mutex_unlock(&d->lock);
}

void mka_cl_run_each(mka_cl_call *c, size_t width, size_t rows) {
    size_t local = 64;
    mka_cl_run(c, local, (width + local - 1) / local, rows, 1);
}
