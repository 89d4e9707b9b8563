/* post - how bytes get to the device. A blocking write costs the host a round trip, ten microseconds for a few bytes; so a few
 * bytes are copied to memory that the device reads by itself, and the host goes on. Large ones are written from where they lie.
 */
#include <string.h>

#include "mirror.h"

#define ROOM  ((size_t)1 << 20)
#define LARGE ((size_t)1 << 17) /* bytes that take longer to copy than to wait for */

void mka_cl_post_open(mka_mirror *m) {
    mka_device *d = m->device;
    cl_int code;
    m->post = (mka_cl_post){.buffer = clCreateBuffer(d->context, CL_MEM_READ_ONLY | CL_MEM_ALLOC_HOST_PTR, ROOM, NULL, &code)};
    if (code != CL_SUCCESS) return;
    m->post.memory = clEnqueueMapBuffer(d->queue, m->post.buffer, CL_TRUE, CL_MAP_WRITE, 0, ROOM, 0, NULL, NULL, &code);
    if (code != CL_SUCCESS) m->post.memory = NULL;
}

void mka_cl_post_close(mka_mirror *m) {
    mka_device *d = m->device;
    if (m->post.memory) clEnqueueUnmapMemObject(d->queue, m->post.buffer, m->post.memory, 0, NULL, NULL);
    if (m->post.memory) clFinish(d->queue);
    if (m->post.buffer) clReleaseMemObject(m->post.buffer);
    m->post = (mka_cl_post){.used = 0};
}

void mka_cl_arrived(mka_mirror *m) {
    m->post.used = 0;
    mka_cl_chain_idle(m);
}

cl_int mka_cl_send(mka_mirror *m, cl_mem buffer, size_t at, const void *bytes, size_t count) {
    mka_device *d = m->device;
    mka_cl_post *p = &m->post;
    cl_int code = CL_SUCCESS;
    mka_cl_chain_end(d);
    double begin = mka_cl_now();
    int wait = !p->memory || count >= LARGE;
    if (!wait && ROOM - p->used < count) {
        code = clFinish(d->queue);
        p->used = 0;
    }
    if (!wait) bytes = memcpy(p->memory + p->used, bytes, count);
    if (code == CL_SUCCESS)
        code = clEnqueueWriteBuffer(d->queue, buffer, wait ? CL_TRUE : CL_FALSE, at, count, bytes, 0, NULL,
                                    mka_cl_time(d, MKA_CL_UP));
    if (wait)
        p->used = 0;
    else
        p->used += (count + MKA_CL_ALIGN - 1) / MKA_CL_ALIGN * MKA_CL_ALIGN;
    d->usage.wait_seconds += mka_cl_now() - begin;
    d->usage.up_bytes += count;
    return code;
}
