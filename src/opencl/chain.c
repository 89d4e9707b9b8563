/* chain - the commands of a decoded token on NVIDIA devices, gathered and launched as one (chain_nv.cl says why).
 *
 * An operation that has a place there is a link of its session's chain instead of a command. What it would have done is done when
 * the chain is launched: before any other command of the device, before the host sends or fetches, and when the chain is full. So
 * the order of all that happens there stays what was asked for.
 *
 * All groups of the launch wait for each other, so there are no more than run at once: as many as their registers and local
 * memory allow, which a launch that does nothing but wait has shown to be true before the first link is taken. */
#include "cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum {
    LEAST_LINKS = 12, /* of the first launch after the device was idle */
    MOST_LINKS = 256,
    LINK_BUFFERS = 9, /* that a link names at most */
    HEAD = 256,       /* bytes before the links */
    ITEMS = 256,
    WARPS = 8,
    GROUPS_A_UNIT = 2, /* by 128 registers a work-item, which a build option holds it to */
    MOST_SLOTS = 4,
    ROOM_UNIT = 128,
    OTHER_LOCAL = 3584, /* bytes of local memory beside x and the slots */
    TRIES = 3
};

static const cl_ulong patience = 10000000000U, trial_patience = 100000000U; /* nanoseconds */

/* Bytes of a part of weights in local memory, and of the x beside it. */
static size_t slot_bytes(mka_type weights) {
    size_t cols = weights == MKA_F16 || weights == MKA_BF16 || weights == MKA_Q8_0 ? 64 : 128;
    size_t part = mka_cl_blocked_type(weights) ? mka_cl_band_bytes(weights, (int)cols) : MKA_CL_BAND * cols * sizeof(cl_half);
    return part + cols * sizeof(cl_half);
}

/* How many a warp can have beside an x of so many columns; fewer than two are none. */
static int slots_of(const mka_device *d, mka_type weights, int room) {
    size_t taken = OTHER_LOCAL + (size_t)room * sizeof(cl_half), each = WARPS * slot_bytes(weights);
    if (d->local_memory < taken + 2 * each) return 0;
    size_t slots = (d->local_memory - taken) / each;
    return slots > MOST_SLOTS ? MOST_SLOTS : (int)slots;
}

/* ---- kernels ---- */

static int same(const mka_cl_chain_kind *a, const mka_cl_chain_kind *b) {
    return a->weights == b->weights && a->keys == b->keys && a->dim == b->dim && a->group == b->group && a->room == b->room;
}

/* Those beyond count are any that live. */
static cl_int set_buffers(mka_cl_chain_kernel *k, const mka_cl_chain *c, int count) {
    cl_int code = CL_SUCCESS;
    for (int i = 0; i < MKA_CL_CHAIN_BUFFERS && code == CL_SUCCESS; i++) {
        cl_mem buffer = i < count ? c->buffers[i] : k->set[i] ? k->set[i] : c->tape;
        if (k->set[i] == buffer) continue;
        code = clSetKernelArg(k->kernel, (cl_uint)(4 + i), sizeof buffer, &buffer);
        k->set[i] = buffer;
    }
    return code;
}

static cl_int enqueue(mka_device *d, mka_cl_chain_kernel *k, cl_mem tape, int count, int trying) {
    const cl_int numbers[2] = {count, trying};
    const cl_ulong wait = trying ? trial_patience : patience;
    const size_t local = ITEMS, global = k->groups * ITEMS;
    cl_int code = clSetKernelArg(k->kernel, 0, sizeof tape, &tape);
    for (cl_uint i = 0; i < 2 && code == CL_SUCCESS; i++) code = clSetKernelArg(k->kernel, 1 + i, sizeof numbers[i], &numbers[i]);
    if (code == CL_SUCCESS) code = clSetKernelArg(k->kernel, 3, sizeof wait, &wait);
    if (code != CL_SUCCESS) return code;
    d->usage.kernels++;
    return clEnqueueNDRangeKernel(d->queue, k->kernel, 1, NULL, &global, &local, 0, NULL, mka_cl_time(d, MKA_CL_KERNEL));
}

/* A kernel object does not keep what it was given last, and the next buffer may have the same name. */
void mka_cl_chain_forget(mka_device *d, cl_mem buffer) {
    for (int k = 0; k < d->chain_kernels; k++)
        for (int i = 0; i < MKA_CL_CHAIN_BUFFERS; i++)
            if (d->chain_kernel[k].set[i] == buffer) d->chain_kernel[k].set[i] = NULL;
}

/* Whether so many groups are at work at once: they meet, or wait in vain for a while. */
static int meet(mka_device *d, mka_cl_chain_kernel *k, cl_mem tape) {
    const cl_uint zero = 0;
    cl_uint head[2] = {0, 1};
    cl_int code = clEnqueueFillBuffer(d->queue, tape, &zero, sizeof zero, 0, HEAD, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = enqueue(d, k, tape, TRIES, 1);
    if (code == CL_SUCCESS) code = clEnqueueReadBuffer(d->queue, tape, CL_TRUE, 0, sizeof head, head, 0, NULL, NULL);
    return code == CL_SUCCESS && head[1] == 0 && head[0] == (TRIES - 1) * (cl_uint)k->groups;
}

static mka_status build(mka_mirror *m, mka_cl_chain_kernel *k, mka_error *error) {
    mka_device *d = m->device;
    const mka_cl_chain_kind *kind = &k->kind;
    char attend[96] = "";
    int slots = slots_of(d, kind->weights, kind->room);
    if (kind->group)
        snprintf(attend, sizeof attend, "-DKEY_TYPE=%d -DVALUE_TYPE=%d -DKEY_DIM=%d -DVALUE_DIM=%d -DGROUP=%d", (int)kind->keys,
                 (int)kind->keys, kind->dim, kind->dim, kind->group);
    mka_status status =
        mka_cl_kernel(d, "chain_nv", "chain", &k->kernel, error,
                      "-cl-nv-maxrregcount=128 -DCHAIN=1 -DFUSED=1 -DNORM=1 -DWTYPE=%d -DMINIMUM=%d -DROOM=%d -DSLOTS=%d %s",
                      (int)kind->weights, mka_cl_minima(kind->weights), kind->room, slots, attend);
    if (status) return status;
    if (set_buffers(k, &m->chain, 0) != CL_SUCCESS)
        return mka_fail(error, MKA_IO, "%s: a chain's kernel takes no buffers", d->info.name);
    for (k->groups = (size_t)d->info.units * GROUPS_A_UNIT; k->groups >= (size_t)d->info.units; k->groups /= 2)
        if (meet(d, k, m->chain.tape)) return MKA_OK;
    return mka_fail(error, MKA_UNSUPPORTED, "%s: %d groups are not at work at once", d->info.name, d->info.units);
}

/* The kernel of a kind, built at the first call; NULL: there is none, which is said once. */
static mka_cl_chain_kernel *kernel_of(mka_mirror *m, const mka_cl_chain_kind *kind) {
    mka_device *d = m->device;
    mka_error error;
    for (int i = 0; i < d->chain_kernels; i++)
        if (same(&d->chain_kernel[i].kind, kind)) return d->chain_kernel[i].groups ? &d->chain_kernel[i] : NULL;
    if (d->chain_kernels == MKA_CL_CHAIN_KERNELS) return NULL;
    mka_cl_chain_kernel *k = &d->chain_kernel[d->chain_kernels++];
    *k = (mka_cl_chain_kernel){.kind = *kind};
    if (build(m, k, &error) == MKA_OK) return k;
    k->groups = 0;
    mka_log(d->engine, MKA_LOG_WARN, "decoding takes a launch an operation: %s", error.message);
    return NULL;
}

/* ---- a session's chain ---- */

uint64_t mka_cl_chain_bytes(const mka_device *d) {
    return d->nv ? HEAD + MOST_LINKS * sizeof(mka_cl_link) : 0;
}

mka_status mka_cl_chain_open(mka_mirror *m, mka_error *error) {
    mka_cl_chain *c = &m->chain;
    if (!m->device->nv) return MKA_OK;
    mka_status status = mka_cl_take(m->device, HEAD + MOST_LINKS * sizeof(mka_cl_link), "a chain of operations", &c->tape, error);
    if (status) return status;
    c->bytes = calloc(1, HEAD + MOST_LINKS * sizeof(mka_cl_link));
    return c->bytes ? MKA_OK : mka_fail(error, MKA_NO_MEMORY, "no memory for a device's operations");
}

static mka_cl_link *links_of(mka_cl_chain *c) {
    return (mka_cl_link *)(void *)(c->bytes + HEAD);
}

void mka_cl_chain_close(mka_mirror *m) {
    if (m->device->chained == m) m->device->chained = NULL; /* nobody waits for what it would have done */
    mka_cl_give(m->device, m->chain.tape);
    free(m->chain.bytes);
    m->chain = (mka_cl_chain){.bytes = NULL};
}

static void launch(mka_mirror *m) {
    mka_device *d = m->device;
    mka_cl_chain *c = &m->chain;
    size_t bytes = HEAD + (size_t)c->count * sizeof(mka_cl_link);
    int count = c->count;
    c->count = 0;
    c->launched = 1;
    if (!count || d->failure.status != MKA_OK) return;
    cl_int code = mka_cl_send(m, c->tape, 0, c->bytes, bytes);
    if (code == CL_SUCCESS) code = set_buffers(c->kernel, c, c->buffer_count);
    if (code == CL_SUCCESS) code = enqueue(d, c->kernel, c->tape, count, 0);
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "a chain of operations");
}

void mka_cl_chain_end(mka_device *d) {
    mka_mirror *m = d->chained;
    if (!m) return;
    d->chained = NULL;
    launch(m);
    if (!m->chain.turn.cache) return;
    const mka_cl_turn t = m->chain.turn;
    m->chain.turn.cache = NULL;
    mka_cl_append(m, &t);
}

void mka_cl_chain_idle(mka_mirror *m) {
    m->chain.launched = 0;
}

/* Whether the chain can have one link more of the kind; group 0: whatever attention is. */
static int extend(mka_mirror *m, mka_cl_chain_kind kind) {
    mka_cl_chain *c = &m->chain;
    mka_device *d = m->device;
    int empty = c->count == 0;
    if (!c->bytes || c->never || d->failure.status != MKA_OK) return 0;
    if (d->chained && d->chained != m) mka_cl_chain_end(d);
    if (!empty && kind.weights != c->kernel->kind.weights) return 0;
    if (!kind.group && !empty) return 1;
    if (!empty && same(&kind, &c->kernel->kind)) return 1;
    if (!empty && c->kernel->kind.group) return 0;
    mka_cl_chain_kernel *k = kernel_of(m, &kind);
    if (!k) return 0;
    c->kernel = k;
    if (empty) c->buffer_count = 0;
    return 1;
}

static mka_cl_link *add_link(mka_mirror *m) {
    mka_cl_chain *c = &m->chain;
    mka_cl_link *l = &links_of(c)[c->count++];
    m->device->chained = m;
    memset(l, 0, sizeof *l);
    for (size_t i = 0; i < sizeof l->at / sizeof *l->at; i++) l->at[i] = MKA_CL_NOWHERE;
    return l;
}

/* A full chain is launched before the next link. */
static void make_room(mka_mirror *m) {
    mka_cl_chain *c = &m->chain;
    int full = c->count == MOST_LINKS || c->buffer_count + LINK_BUFFERS > MKA_CL_CHAIN_BUFFERS;
    if (m->device->chained == m && (full || (!c->launched && c->count >= LEAST_LINKS))) mka_cl_chain_end(m->device);
}

mka_cl_link *mka_cl_chain_product(mka_mirror *m, mka_type weights, int cols) {
    mka_cl_chain *c = &m->chain;
    make_room(m);
    if (c->turn.cache) return NULL;
    if (cols > c->room) {
        int room = mka_pad(cols, ROOM_UNIT);
        if (!slots_of(m->device, weights, room)) return NULL;
        mka_cl_chain_end(m->device);
        c->room = room;
    }
    mka_cl_chain_kind kind = {.weights = weights, .room = c->room};
    if (c->attends && c->last.weights == weights) kind = c->last;
    kind.room = c->room;
    if (c->count) kind.group = 0;
    return extend(m, kind) ? add_link(m) : NULL;
}

mka_cl_link *mka_cl_chain_attend(mka_mirror *m, mka_type keys, int dim, int group) {
    mka_cl_chain *c = &m->chain;
    if (!c->count) return NULL;
    mka_cl_chain_kind kind = {c->kernel->kind.weights, keys, dim, group, c->room};
    if (!extend(m, kind)) return NULL;
    c->attends = 1;
    c->last = kind;
    return add_link(m);
}

int mka_cl_chain_turn(mka_mirror *m, const mka_cl_turn *turn) {
    if (!m->chain.turn.cache) make_room(m);
    if (!m->chain.count || m->device->chained != m || m->chain.turn.cache) return 0;
    m->chain.turn = *turn;
    return 1;
}

uint64_t mka_cl_chain_place(mka_mirror *m, cl_mem buffer, uint64_t at) {
    mka_cl_chain *c = &m->chain;
    int i = c->buffer_count - 1;
    if (c->buffer_count && c->buffers[0] == buffer) return at;
    while (i >= 0 && c->buffers[i] != buffer) i--; /* the last ones are wanted most */
    if (i < 0) c->buffers[i = c->buffer_count++] = buffer;
    return (uint64_t)i << 48 | at;
}

uint64_t mka_cl_chain_operand(mka_mirror *m, const float *x) {
    return mka_cl_chain_place(m, m->buffer, mka_cl_place(m, x) * sizeof *x);
}

uint64_t mka_cl_chain_vector(mka_mirror *m, const float *vector, int count) {
    const mka_matrix matrix = {vector, MKA_F32, 1, count, (size_t)count * sizeof *vector};
    const mka_cl_resident *r = vector ? mka_cl_find_resident(m->residents, &matrix, vector) : NULL;
    return r ? mka_cl_chain_place(m, r->buffer, r->at + (uint64_t)((const unsigned char *)vector - r->data)) : MKA_CL_NOWHERE;
}
