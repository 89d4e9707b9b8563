/* longterm - a layer's closed segments on the device: index and rows of every head, segment after segment. */
#ifndef MKA_OPENCL_LONGTERM_H
#define MKA_OPENCL_LONGTERM_H

#include "mirror.h"

/* The kernels of recall.cl. */
#define MKA_CL_RECALL(X) X(prepare) X(score) X(choose) X(read) X(gather) X(tally)

struct mka_device_longterm {
    mka_device *device;
    mka_device_longterm_shape shape;
    mka_device_segment segment;
    cl_mem index, rows; /* [kv_heads][segments] */
    cl_mem frame;       /* floats: [key_dim] flips, [kv_heads][key_dim] centres */
    cl_mem counts;      /* [kv_heads] of mka_device_counts */
    int group;          /* query heads of a key/value head that the kernels are for; 0: they are not built yet */
    MKA_CL_RECALL(MKA_CL_FIELD)
};

#endif
