/* chain - operations of a decoded token that are gathered and launched as one: chain.c says when, chain_nv.cl how. */
#ifndef MKA_OPENCL_CHAIN_H
#define MKA_OPENCL_CHAIN_H

#include <CL/cl.h>

#include "ops/ops.h"

struct mka_mirror;

/* As chain_nv.cl has them. */
enum { MKA_CL_CHAIN_BUFFERS = 96, MKA_CL_CHAIN_KERNELS = 16 };
#define MKA_CL_NOWHERE (~(uint64_t)0)

/* One operation: what its numbers mean is told there. Fresh ones are zero, and nowhere. */
typedef struct mka_cl_link {
    uint64_t at[16]; /* number of a buffer << 48, and bytes from its beginning */
    int32_t n[28];
    float f[4];
} mka_cl_link;

enum { MKA_CL_ADD = 1, MKA_CL_GELU = 2, MKA_CL_GLU = 4, MKA_CL_NORM = 8, MKA_CL_X16 = 16, MKA_CL_Y16 = 32, MKA_CL_PAIRS = 64 };

/* What a kernel is built for. */
typedef struct mka_cl_chain_kind {
    mka_type weights, keys;
    int dim, group; /* of attention; group 0: none */
    int room;       /* columns of x in local memory */
} mka_cl_chain_kind;

typedef struct mka_cl_chain_kernel {
    mka_cl_chain_kind kind;
    cl_kernel kernel;
    size_t groups; /* at work at once; 0: it cannot be had */
    cl_mem set[MKA_CL_CHAIN_BUFFERS];
} mka_cl_chain_kernel;

/* A token's keys and values on their way to a cache, in what the attention over it begins with. */
typedef struct mka_cl_turn {
    mka_device_cache *cache; /* NULL: none */
    int first, n, has_rotation;
    mka_rotation rotation;
    const float *keys, *values;
    int key_ld, value_ld;
} mka_cl_turn;

typedef struct mka_cl_chain {
    unsigned char *bytes; /* the head and the links, as they are sent; NULL: the device takes no chains */
    cl_mem tape;          /* where they are sent to */
    int count;            /* of links */
    int room;             /* columns of an x of float32 so far, at most */
    int never;            /* 1: the model is not made of small operations */
    int launched;         /* 1: something was since the device was idle */
    mka_cl_chain_kernel *kernel;
    cl_mem buffers[MKA_CL_CHAIN_BUFFERS];
    int buffer_count;
    mka_cl_turn turn;       /* what waits for its attention */
    int attends;            /* 1: there was an attention, */
    mka_cl_chain_kind last; /* and it was of this kind */
} mka_cl_chain;

/* The caller of all these holds the lock. */

mka_status mka_cl_chain_open(struct mka_mirror *mirror, mka_error *error);
void mka_cl_chain_close(struct mka_mirror *mirror);
uint64_t mka_cl_chain_bytes(const mka_device *device);
/* Launches what the device was asked for and has not been told yet. */
void mka_cl_chain_end(mka_device *device);
/* A buffer is given back. */
void mka_cl_chain_forget(mka_device *device, cl_mem buffer);
/* All that was launched is done. */
void mka_cl_chain_idle(struct mka_mirror *mirror);

/* cols: of an x of float32, 0: it is in 16 bits. A new link, to be filled in; NULL: the operation is to be a command of its own.
 */
mka_cl_link *mka_cl_chain_product(struct mka_mirror *mirror, mka_type weights, int cols);
mka_cl_link *mka_cl_chain_attend(struct mka_mirror *mirror, mka_type keys, int dim, int group);
/* Byte `at` of a buffer, as links have it. */
uint64_t mka_cl_chain_place(struct mka_mirror *mirror, cl_mem buffer, uint64_t at);
uint64_t mka_cl_chain_operand(struct mka_mirror *mirror, const float *x);
/* A vector of the model's; NULL: nowhere. */
uint64_t mka_cl_chain_vector(struct mka_mirror *mirror, const float *vector, int count);
/* Whether keys and values may wait for the attention over their cache, which is asked for next: kept. */
int mka_cl_chain_turn(struct mka_mirror *mirror, const mka_cl_turn *turn);

#endif
