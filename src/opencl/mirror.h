/* mirror - a session's side of a device: where operands are, and how an operation becomes a command. */
#ifndef MKA_OPENCL_MIRROR_H
#define MKA_OPENCL_MIRROR_H

#include "runtime.h"

enum { MKA_CL_OPERANDS = 12 }; /* of one operation, at most */

/* What scratch holds, as floats from its beginning: attention's partial states at 0, then these. */
typedef struct mka_cl_scratch {
    size_t queries;  /* turned ones, of a cache in four bits */
    size_t halves;   /* a product's x in 16 bits: half_count numbers of them */
    size_t counters; /* of a fused attention's parts: zeros between launches */
    size_t recall;   /* states of recall */
    size_t half_count, floats;
} mka_cl_scratch;

/* The kernels of rows.cl and merge.cl, which need no more than the device. */
#define MKA_CL_ROWS(X)                                                                                                           \
    X(norm)                                                                                                                      \
    X(rope) X(add) X(copy) X(act) X(glu) X(softmax) X(summarise) X(fuse) X(weigh) X(start) X(finish) X(turn)
#define MKA_CL_FIELD(name) cl_kernel name;
/* Memory that the device reads by itself: what the host gives is copied here, and on its way when the host goes on. */
typedef struct mka_cl_post {
    cl_mem buffer;
    unsigned char *memory; /* the buffer, mapped; NULL: the driver has none to give, and the host waits */
    size_t used;           /* bytes that may still be on their way */
} mka_cl_post;

typedef struct mka_mirror mka_mirror;
struct mka_mirror {
    mka_device *device;
    mka_residents *residents;
    const unsigned char *base; /* operands within bytes from here are at the same place of buffer */
    size_t bytes;
    cl_mem buffer;
    cl_mem staging[MKA_CL_OPERANDS]; /* operands from elsewhere, of one call at a time */
    size_t staging_bytes[MKA_CL_OPERANDS];
    cl_mem scratch; /* of attention and products */
    mka_cl_post post;
    mka_cl_chain chain;
    mka_cl_scratch parts;
    MKA_CL_ROWS(MKA_CL_FIELD)
    cl_kernel merge;
};

/* A matrix, or rows of one that was too large for one buffer, on the device. residents.c */
typedef struct mka_cl_resident {
    const unsigned char *data; /* the host's, which is what it is found by */
    size_t bytes;
    mka_type type;
    int rows, cols;
    size_t row_bytes;
    cl_mem buffer;
    cl_ulong at, scales_at; /* bytes; scales_at only of q8_0 and q4_0, which are in two planes */
} mka_cl_resident;

/* The resident that holds the host's byte at data; copies the matrix there first where it is not yet. NULL: it failed, and the
 * device knows why. The caller holds the lock. */
const mka_cl_resident *mka_cl_find_resident(mka_residents *residents, const mka_matrix *matrix, const void *data);

/* Builds what multiplies with weights of a type in any shape, so that a driver that cannot says so now. The caller holds the
 * lock. products.c */
mka_status mka_cl_product_kernels(mka_device *device, mka_type type, mka_error *error);
/* Kernel number which for weights of the type, built at the first call; NULL: it failed, and the device knows why. products.c */
cl_kernel mka_cl_product_kernel(mka_device *device, mka_type type, mka_cl_product_kind which);

/* How gemv_nv.cl's kernels are cut: warps of a group, turns of one on their way at once, and groups of a launch a compute unit
 * (0: as many as there are bands of rows). Measured on an H200. */
typedef struct mka_cl_product_shape {
    int warps, unroll, groups;
} mka_cl_product_shape;
const mka_cl_product_shape *mka_cl_product_shape_of(mka_cl_product_kind which, mka_type type);

/* ---- repack.c: weights in blocks ---- */

enum { MKA_CL_BAND = 16 }; /* rows of a block */
/* Whether weights of the type lie in blocks on this device; whether those have minima beside scales. */
int mka_cl_blocked(const mka_device *device, mka_type type);
int mka_cl_blocked_type(mka_type type); /* on devices that have any there */
int mka_cl_minima(mka_type type);
/* Blocks side by side that 16 rows take, in bytes; and how many such bands rows are. */
size_t mka_cl_band_bytes(mka_type type, int cols);
size_t mka_cl_bands(size_t rows);
/* Rows first.. of a matrix as bands. */
void mka_cl_repack(const mka_matrix *w, size_t first, size_t rows, unsigned char *to);

/* ---- products_nv.c: on NVIDIA's matrix units ---- */

/* The x whose 16-bit form is in scratch; x NULL: none. */
typedef struct mka_cl_converted {
    const float *x;
    int ldx, cols, bf16;
} mka_cl_converted;
/* Rows from.. of a product, which lie in the resident from its row number row on, added to y where add is 1; 0: these kernels
 * have no place for it, and nothing was done. Products of one x that follow each other share last. The caller holds the lock. */
int mka_cl_nv_multiply(mka_ops *ops, int n, const mka_product *p, int add, const mka_cl_resident *r, size_t row, int from,
                       int rows, mka_cl_converted *last);
/* A step of few rows in a launch for each type of weights, but for a norm of its sum. following: NULL or the step after it, which
 * gets x in 16 bits where *halves is 1 afterwards; halves: 1 where this step's x is. 0: there are no such kernels for it, and
 * nothing was done. The caller holds the lock. */
int mka_cl_nv_step(mka_ops *ops, int n, const mka_step *step, const mka_step *following, int *halves);

/* ---- call.c: one command ---- */

typedef struct mka_cl_back {
    cl_mem from;
    float *to;
    size_t rows, width, ld; /* floats */
} mka_cl_back;

typedef struct mka_cl_call {
    mka_mirror *mirror;
    cl_kernel kernel;
    const char *name;
    cl_uint count;     /* arguments so far */
    int dead;          /* 1: something failed; nothing is queued */
    int staged, backs; /* operands from elsewhere; results that are to be read when the command is done */
    mka_cl_back back[MKA_CL_OPERANDS];
} mka_cl_call;

/* Takes the lock; mka_cl_run gives it back. */
mka_cl_call mka_cl_begin(mka_mirror *mirror, cl_kernel kernel, const char *name);
/* Operands: rows of width, ld apart. Two arguments each: buffer, and the element at which it begins. */
void mka_cl_in(mka_cl_call *call, const float *x, size_t rows, size_t width, size_t ld);
void mka_cl_out(mka_cl_call *call, float *y, size_t rows, size_t width, size_t ld);
void mka_cl_both(mka_cl_call *call, float *x, size_t rows, size_t width, size_t ld);
/* A vector of the model's, or nothing (NULL), and whether it is there: three arguments. */
void mka_cl_vector(mka_cl_call *call, const float *vector, int count);
void mka_cl_buffer(mka_cl_call *call, cl_mem buffer, cl_ulong at);
/* The place of a vector of the model's as buffer and element: ~0 where it is NULL. */
void mka_cl_constant(mka_cl_call *call, const float *vector, int count);
/* Whether an operand lies in the mirror; the element at which it begins there, 0 elsewhere. */
int mka_cl_mirrored(const mka_mirror *mirror, const float *x);
size_t mka_cl_place(const mka_mirror *mirror, const float *x);
void mka_cl_int(mka_cl_call *call, int value);
void mka_cl_long(mka_cl_call *call, cl_ulong value);
void mka_cl_float(mka_cl_call *call, float value);
void mka_cl_local(mka_cl_call *call, size_t floats); /* a group's own memory */
/* Queues groups x y z of local work-items (those in the first dimension), reads results back that belong elsewhere. */
void mka_cl_run(mka_cl_call *call, size_t local, size_t x, size_t y, size_t z);
/* An item for each of width numbers of rows rows. */
void mka_cl_run_each(mka_cl_call *call, size_t width, size_t rows);

/* ---- post.c: bytes to the device. The caller holds the lock ---- */

void mka_cl_post_open(mka_mirror *mirror);
void mka_cl_post_close(mka_mirror *mirror);
/* Queues a write of bytes to `at` of a buffer; they are the host's again at once. A failure is kept. */
cl_int mka_cl_send(mka_mirror *mirror, cl_mem buffer, size_t at, const void *bytes, size_t count);
/* All that was queued is done. */
void mka_cl_arrived(mka_mirror *mirror);

/* ---- the table ---- */

void mka_cl_fill_rows(mka_ops *ops);
/* y[i] += rms_norm(x[i]) w for rows rows of width without gaps. rows.c */
void mka_cl_add_norm(mka_ops *ops, int rows, int width, float eps, const float *x, const float *w, float *y);
void mka_cl_fill_products(mka_ops *ops);
void mka_cl_fill_attend(mka_ops *ops);
void mka_cl_fill_cache(mka_ops *ops);
void mka_cl_fill_recall(mka_ops *ops);

/* Queries that recall has at once, at most. */
enum { MKA_CL_RECALL_QUERIES = 16 };

/* Floats that recall within limits takes of scratch. recall.c */
size_t mka_cl_recall_floats(const mka_device *device, const struct mka_ops_limits *limits);

/* What operations within limits take of scratch. attend.c */
mka_cl_scratch mka_cl_lay_out_scratch(const mka_device *device, const struct mka_ops_limits *limits);

#endif
