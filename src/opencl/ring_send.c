/* ring_send - rows that a ring lacks, on their way there.
 *
 *   queue      missing of a layer -> list | missing of the next, by a guess -> list |           wait -> read, the rest of the
 * layer host                             rows of the first list, side by side in pinned memory |    ... -> rows of the second
 *   transfers                                                 write to the ring |                       write to the next ring
 *
 * The first list is waited for, and so are its rows. The second is looked at when the next layer's recall begins: its scores are
 * queued then, and what came before them mostly still runs. If the guess was good, the list of what that layer does want is
 * short. A list says where rows go, and the table of its ring has them from then on; they are there before anything reads, since
 * no read is queued but behind a wait for the last write. */
#include "base/status.h"
#include "cache.h"
#include "longterm.h"

enum {
    FIRST_PAIRS = 8192, /* of a list: pinned memory has them as soon as a few */
    LEAST_PATIENCE = 4  /* queries without a guess after one that wanted too much; twice as many after the next */
};
#define NOBODY ((uint32_t)0xffffffff) /* as recall.cl has it */

cl_uint mka_cl_ring_first(const mka_cl_ring *r) {
    return r->asks < FIRST_PAIRS ? r->asks : FIRST_PAIRS;
}

/* ---- lists ---- */

static void ask(mka_cl_stage *s, const mka_recall_job_there *job) {
    mka_device_longterm *l = job->longterm;
    mka_device *d = l->device;
    size_t bytes = (2 + 2 * (size_t)mka_cl_ring_first(&l->ring)) * sizeof(cl_uint);
    if (d->failure.status != MKA_OK) return;
    cl_int code = clEnqueueReadBuffer(d->queue, l->ring.list, CL_FALSE, 0, bytes, s->list.memory, 0, NULL, &s->listed);
    if (code == CL_SUCCESS) code = clFlush(d->queue);
    if (code != CL_SUCCESS) {
        mka_cl_fail(d, code, "a list of rows from it");
        return;
    }
    mka_cl_time_of(d, MKA_CL_DOWN, s->listed);
    d->usage.down_bytes += bytes;
    s->asker = l;
    s->fetch = job->fetch;
    s->owner = job->owner;
}

/* Waits, and forgets the event. */
static int await(mka_device *d, cl_event *event, const char *what) {
    if (!*event) return 1;
    double begin = mka_cl_now();
    cl_int code = clWaitForEvents(1, event);
    d->usage.wait_seconds += mka_cl_now() - begin;
    if (d->arriving == *event) d->arriving = NULL;
    clReleaseEvent(*event);
    *event = NULL;
    if (code != CL_SUCCESS) mka_cl_fail(d, code, what);
    return code == CL_SUCCESS;
}

/* What did not come with a list's length. */
static int read_rest(mka_device_longterm *l, cl_uint first, cl_uint count, cl_uint *list) {
    mka_device *d = l->device;
    size_t at = (2 + 2 * (size_t)first) * sizeof *list, bytes = 2 * (size_t)(count - first) * sizeof *list;
    if (count <= first) return 1;
    double begin = mka_cl_now();
    cl_int code = clEnqueueReadBuffer(d->queue, l->ring.list, CL_TRUE, at, bytes, list + 2 + 2 * (size_t)first, 0, NULL,
                                      mka_cl_time(d, MKA_CL_DOWN));
    d->usage.wait_seconds += mka_cl_now() - begin;
    d->usage.down_bytes += bytes;
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "a list of rows from it");
    return code == CL_SUCCESS;
}

/* The next place of the ring is this one, whatever the list has counted to. */
static void move_to(mka_device_longterm *l, cl_uint now) {
    cl_int code = clEnqueueWriteBuffer(l->device->queue, l->ring.list, CL_TRUE, 0, sizeof now, &now, 0, NULL, NULL);
    if (code != CL_SUCCESS) mka_cl_fail(l->device, code, "counting a ring of rows");
    l->ring.now = now;
}

/* ---- rows ---- */

static void write_rows(mka_device_longterm *l, mka_cl_stage *s, mka_cl_kind kind, size_t slot, size_t at, size_t count) {
    mka_device *d = l->device;
    size_t place = l->ring.place;
    if (count == 0 || d->failure.status != MKA_OK) return;
    if (s->sent) clReleaseEvent(s->sent);
    s->sent = NULL;
    cl_int code = clEnqueueWriteBuffer(d->transfers, l->rows, CL_FALSE, slot * place, count * place,
                                       (unsigned char *)s->rows.memory + at * place, 0, NULL, &s->sent);
    d->moving = 1;
    d->arriving = s->sent;
    if (code != CL_SUCCESS)
        mka_cl_fail(d, code, "long-term rows to it");
    else
        mka_cl_time_of(d, kind, s->sent);
}

/* Lays count clusters out and sends them to places from the ring's next one on; returns how many places that takes. */
static cl_uint send_rows(mka_device_longterm *l, mka_cl_stage *s, mka_cl_kind kind, const mka_device_missing *list, int count) {
    mka_device *d = l->device;
    mka_device_fetched *counted = kind == MKA_CL_AHEAD ? &d->usage.ahead : &d->usage.fetched;
    size_t ring = (size_t)l->shape.ring, slot = l->ring.now % ring, before = ring - slot; /* the ring's end */
    if (count == 0 || !await(d, &s->sent, "long-term rows to it")) return 0;
    double begin = mka_cl_now();
    size_t tokens = s->fetch(s->owner, list, count, s->rows.memory);
    counted->host_seconds += mka_cl_now() - begin;
    counted->tokens += tokens;
    counted->bytes += tokens * l->ring.place;
    d->usage.up_bytes += tokens * l->ring.place;
    l->ring.lost = tokens == 0;
    if (before > tokens) before = tokens;
    write_rows(l, s, kind, slot, 0, before);
    write_rows(l, s, kind, 0, before, tokens - before);
    cl_int code = tokens ? clFlush(d->transfers) : CL_SUCCESS;
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "long-term rows to it");
    return (cl_uint)tokens;
}

/* ---- what is waited for ---- */

static int fetch(mka_device_longterm *l) {
    mka_device *d = l->device;
    mka_cl_stage *s = &d->fetching;
    mka_cl_ring *r = &l->ring;
    cl_uint *list = s->list.memory;
    int asked = s->asker == l;
    s->asker = NULL;
    if (!asked || !await(d, &s->listed, "a list of rows from it")) return 1; /* nothing matters any more */
    cl_uint now = list[0], tokens = now - r->now, count = list[1] - r->listed;
    r->listed = list[1];
    if (tokens > r->limit || count > r->most) { /* places that were given are as if a turn old */
        move_to(l, now + (cl_uint)l->shape.ring);
        return 0;
    }
    if (!read_rest(l, mka_cl_ring_first(r), count, list)) return 1;
    send_rows(l, s, MKA_CL_FETCHED, (const mka_device_missing *)(list + 2), (int)count);
    r->now = now;
    return 1;
}

/* Nothing that is queued from now on begins before the last rows are there. */
static void wait_there(mka_device *d) {
    if (!d->arriving || d->failure.status != MKA_OK) return;
    cl_int code = clEnqueueBarrierWithWaitList(d->queue, 1, &d->arriving, NULL);
    if (code != CL_SUCCESS) mka_cl_fail(d, code, "waiting for long-term rows");
    d->arriving = NULL;
}

int mka_cl_ring_fetch(const mka_cl_recall_round *round) {
    mka_device_longterm *l = round->longterm;
    mka_device *d = l->device;
    int ahead = round->ahead && !d->ahead.asker; /* else it is another session's, which looks at it before its pass ends */
    ask(&d->fetching, round->job);
    if (ahead) {
        mka_cl_ring_begin_ahead(round->ahead->longterm);
        mka_cl_recall_list(round->ahead);
        ask(&d->ahead, round->ahead->job);
    }
    int done = fetch(l);
    if (!ahead) mka_cl_arrived(round->mirror);
    wait_there(d);
    return done;
}

/* ---- what is not ---- */

/* A list that is too long has a part of the clusters alone; the others got no place. */
static int listed_of(mka_device_missing *list, cl_uint count) {
    int kept = 0;
    for (cl_uint i = 0; i < count; i++)
        if (list[i].cluster != NOBODY) list[kept++] = list[i];
    return kept;
}

void mka_cl_ring_send_ahead(mka_device_longterm *l) {
    mka_device *d = l->device;
    mka_cl_stage *s = &d->ahead;
    mka_cl_ring *r = &l->ring;
    cl_uint *list = s->list.memory, asked = r->asks;
    if (s->asker != l) return;
    s->asker = NULL;
    clFlush(d->queue);
    if (!await(d, &s->listed, "a list of rows from it")) return;
    cl_uint now = list[0], tokens = now - r->now, count = list[1] - r->listed, most = count < asked ? count : asked;
    r->listed = list[1];
    if (!read_rest(l, mka_cl_ring_first(r), most, list)) return;
    int kept = listed_of((mka_device_missing *)(list + 2), most);
    cl_uint sent = send_rows(l, s, MKA_CL_AHEAD, (const mka_device_missing *)(list + 2), kept);
    if (count == most && tokens <= r->limit) {
        r->now = now;
        r->backoff = 0;
        return;
    }
    move_to(l, r->now + sent);
    r->backoff = r->backoff == 0 ? LEAST_PATIENCE : 2 * r->backoff > MKA_CL_MOST_PATIENCE ? MKA_CL_MOST_PATIENCE : 2 * r->backoff;
    r->patience = r->backoff;
}

void mka_cl_ring_drop(mka_device *d) {
    d->ahead.asker->ring.lost = 1;
    d->ahead.asker = NULL;
    if (d->ahead.listed) clReleaseEvent(d->ahead.listed);
    d->ahead.listed = NULL;
}
