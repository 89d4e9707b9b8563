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
    int nv_group; /* the same of recall_nv.cl */
    cl_kernel nv_score, nv_score_near, nv_read;
};

/* Some queries of a job. */
typedef struct mka_cl_recall_round {
    mka_mirror *mirror;
    const mka_recall_job_there *job;
    mka_attend_job local; /* of this round's queries */
    mka_device_longterm *longterm;
    int parts; /* states of the local tier: of all the job's queries */
    int done;  /* queries of rounds before */
} mka_cl_recall_round;

/* The local tier's states from a round's queries on, as arguments: where they are, how many, and rows of each. recall.c */
void mka_cl_recall_near(mka_cl_call *call, const mka_cl_recall_round *round);

/* ---- recall_fast.c ---- */

/* Whether these kernels have a place for the job (and the compiler takes them; the log says when not), and whether they read its
 * local tier too; what one query takes of scratch; and one round, whose parts are 0 where they do. The caller holds the lock. */
int mka_cl_recall_nv_serves(const mka_ops *ops, const mka_recall_job_there *job);
int mka_cl_recall_nv_near(const mka_recall_job_there *job);
size_t mka_cl_recall_nv_floats(int group, int kv_heads, int dim, int segments, int clusters);
void mka_cl_recall_nv(const mka_cl_recall_round *round);

#endif
