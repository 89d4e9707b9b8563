/* runtime - an OpenCL device in use: one context and one queue in order, so that commands need no events between them; and a
 * second one beside it, for long-term rows on their way there (ring.c).
 *
 * Sessions of one engine share the device. A command's arguments belong to its kernel object, so that a thread holds the lock
 * from the first argument until the command is queued; nothing waits under it but transfers of operands. It may be taken twice by
 * one thread. The first failure of a command is kept until someone asks (settle); commands after it do nothing.
 */
#ifndef MKA_OPENCL_RUNTIME_H
#define MKA_OPENCL_RUNTIME_H

#include <CL/cl.h>
#include <pthread.h>

#include "chain.h"
#include "ops/ops.h"
#include "program.h"

enum { MKA_CL_ALIGN = 256 }; /* bytes: where planes and tensors begin */
/* Tokens of a head in a ring (ring.c): the bench's want 19,000 of 128K for a query, mostly those of the query before. */
enum { MKA_CL_RING = 32768 };

/* FETCHED and AHEAD: rows that a ring gets, on the second queue. */
typedef enum mka_cl_kind { MKA_CL_KERNEL, MKA_CL_UP, MKA_CL_DOWN, MKA_CL_FETCHED, MKA_CL_AHEAD, MKA_CL_KINDS } mka_cl_kind;

/* The kernels of products with one type of weights. */
typedef enum mka_cl_product_kind {
    MKA_CL_GEMV,
    MKA_CL_GEMM,
    MKA_CL_NV_GEMV,
    MKA_CL_NV_GEMV_HALVES, /* of x in 16 bits */
    MKA_CL_NV_NORM,        /* of a norm of x, and so are the next two: two matrices */
    MKA_CL_NV_GLU,
    MKA_CL_NV_GLU_HALVES, /* y in 16 bits */
    MKA_CL_NV_HALVES,
    MKA_CL_NV_GEMM,
    MKA_CL_PRODUCT_KINDS
} mka_cl_product_kind;

/* Commands whose times have not been asked for yet. */
enum { MKA_CL_TIMED = 1024 };
typedef struct mka_cl_times {
    cl_event event[MKA_CL_TIMED];
    mka_cl_kind kind[MKA_CL_TIMED];
    int count;
} mka_cl_times;

/* Memory that the device reads and writes by itself, where the driver has some. ring.c */
typedef struct mka_cl_pinned {
    cl_mem buffer; /* NULL: memory is the host's own */
    void *memory;
    size_t bytes;
} mka_cl_pinned;

/* Lists of long-term rows on their way from the device, and the rows on their way there. ring_send.c */
typedef struct mka_cl_stage {
    mka_cl_pinned list, rows;
    cl_event listed, sent;      /* what list and rows are part of until then; NULL: nothing */
    mka_device_longterm *asker; /* whose list it is, until that was looked at; NULL: there is none */
    mka_fetch_rows *fetch;      /* of the asker */
    void *owner;
} mka_cl_stage;

struct mka_device {
    mka_engine *engine;
    cl_device_id id;
    cl_context context;
    cl_command_queue queue, transfers;
    mka_device_info info;
    char identity[512]; /* device, platform, versions: what a compiled program depends on */
    size_t local_memory;
    uint64_t limit; /* bytes that may be taken */
    int lanes;      /* work-items that share a row: 1 on a CPU, whose cores take one at a time */
    int profile;
    int nv;             /* 1: NVIDIA's, whose compiler takes the instructions of nv.cl: kernels *_nv.cl where they may serve */
    int ring_least;     /* tokens of a head that a ring of long-term rows holds at least (ring.c) */
    int capability;     /* of NVIDIA's, times ten; 0: it is none of theirs */
    int recall_refused; /* 1: its compiler did not take recall_nv.cl, which was said */
    int blocked;        /* 1: weights of some types lie in blocks (repack.c); does not change once there are models */
    cl_kernel products[MKA_TYPE_LIMIT][MKA_CL_PRODUCT_KINDS]; /* NULL: not built yet */
    struct mka_mirror *chained; /* whose chain is to be launched before anything else; NULL: nobody's */
    mka_cl_chain_kernel chain_kernel[MKA_CL_CHAIN_KERNELS];
    int chain_kernels;
    pthread_mutex_t lock;
    mka_cl_programs programs;
    mka_cl_times times;
    mka_cl_stage fetching, ahead; /* of what is waited for, and of what is not */
    cl_event arriving;            /* the last write of transfers, if no command of queue waits for it yet; the stage's */
    int moving;                   /* 1: transfers may not be empty */
    mka_device_usage usage;
    mka_error failure; /* status MKA_OK: none */
    unsigned failures; /* so far */
};

/* Work-items that share a row of a whole model's width. */
static inline int mka_cl_row_lanes(const mka_device *device) {
    return device->lanes > 1 ? 4 * device->lanes : 1;
}

/* One device of the machine. platforms.c */
typedef struct mka_cl_found {
    cl_platform_id platform;
    cl_device_id device;
} mka_cl_found;
/* Fills list up to room; returns how many there are. */
int mka_cl_find(mka_cl_found *list, int room);
void mka_cl_describe(const mka_cl_found *found, int index, mka_device_info *info);
/* ":N", ":NAME" or "". */
mka_status mka_cl_choose(const char *name, mka_cl_found *found, int *index, mka_error *error);

/* "CL_OUT_OF_RESOURCES" or the number. Static or in room of 24. */
const char *mka_cl_error_name(cl_int code, char *text);

/* Keeps the first failure of a command. */
void mka_cl_fail(mka_device *device, cl_int code, const char *what);
void mka_cl_keep_failure(mka_device *device, const mka_error *failure);

/* A buffer; counted, and refused beyond the limit. what is for the message: "a cache of ...". */
mka_status mka_cl_take(mka_device *device, size_t bytes, const char *what, cl_mem *buffer, mka_error *error);
void mka_cl_give(mka_device *device, cl_mem buffer);

/* The queues are empty. ring.c */
void mka_cl_stages_close(mka_device *device);

/* Where the next command's event goes (NULL: nobody wants its time), and what is known once it is queued. usage.c */
cl_event *mka_cl_time(mka_device *device, mka_cl_kind kind);
/* The same of a command that was queued with an event of its caller's. */
void mka_cl_time_of(mka_device *device, mka_cl_kind kind, cl_event event);
/* Waits until both queues are empty, and adds up the times. */
cl_int mka_cl_finish(mka_device *device);
double mka_cl_now(void);

#endif
