/* longterm - a layer's closed segments on the device: index and rows of every head, segment after segment; or in place of all
 * rows a ring of those that recall wanted lately, and a table of which these are (kernels/recall.cl). */
#ifndef MKA_OPENCL_LONGTERM_H
#define MKA_OPENCL_LONGTERM_H

#include "mirror.h"

/* The kernels of recall.cl. */
#define MKA_CL_RECALL(X) X(prepare) X(score) X(choose) X(read) X(gather) X(tally)

enum { MKA_CL_MOST_PATIENCE = 256 }; /* queries until a guess is tried again, at most */

/* What is in a ring, and how more gets there. */
typedef struct mka_cl_ring {
    cl_mem table, list;    /* uint [kv_heads][segments][clusters]; as recall.cl's missing has it */
    cl_uint now, listed;   /* what the first two numbers of list are */
    cl_uint before;        /* now, as it was before the last tokens came */
    cl_uint limit, most;   /* tokens and clusters that come at once, at most */
    cl_uint asks;          /* clusters of the launch that is being made */
    size_t place;          /* bytes of a token */
    int patience, backoff; /* queries until rows are sent ahead again, and how many these were; 0: the last guess was fine */
    unsigned failures;     /* of the device's, when the ring was last empty */
    int lost;              /* 1: rows did not come that the table has */
    cl_kernel plain, nv;   /* missing, recall_missing */
} mka_cl_ring;

struct mka_device_longterm {
    mka_device *device;
    mka_device_longterm_shape shape;
    mka_device_segment segment;
    cl_mem index, rows; /* [kv_heads][segments]; rows: or the ring */
    cl_mem frame;       /* floats: [key_dim] flips, [kv_heads][key_dim] centres */
    cl_mem counts;      /* [kv_heads] of mka_device_counts */
    int group;          /* query heads of a key/value head that the kernels are for; 0: they are not built yet */
    MKA_CL_RECALL(MKA_CL_FIELD)
    int nv_group; /* the same of recall_nv.cl */
    cl_kernel nv_read;
    mka_cl_ring ring; /* with shape.ring */
};

/* Some queries of a job. */
typedef struct mka_cl_recall_round mka_cl_recall_round;
struct mka_cl_recall_round {
    mka_mirror *mirror;
    const mka_recall_job_there *job;
    mka_attend_job local; /* of this round's queries */
    mka_device_longterm *longterm;
    int parts;                        /* states of the local tier: of all the job's queries */
    int done;                         /* queries of rounds before */
    size_t work;                      /* where its states are in scratch, in floats */
    int nv;                           /* of a guess: 1: recall_fast.c lists what it wants */
    const mka_cl_recall_round *ahead; /* NULL, or a guess of another tier's next query */
};

/* The local tier's states from a round's queries on, as arguments: where they are, how many, and rows of each. recall.c */
void mka_cl_recall_near(mka_cl_call *call, const mka_cl_recall_round *round);

/* The table, as an argument, and what its places are compared with; nothing where all rows are there. ring.c */
void mka_cl_ring_table(mka_cl_call *call, const mka_device_longterm *longterm);

/* The launch that lists what a guess would want, between mka_cl_ring_begin_ahead and the list's way to the host; its scores are
 * made, where they are no part of it. recall.c */
void mka_cl_recall_list(const mka_cl_recall_round *round);

/* ---- ring.c; the caller holds the lock, but at the first two ---- */

mka_status mka_cl_ring_create(mka_device_longterm *longterm, mka_error *error);
void mka_cl_ring_destroy(mka_device_longterm *longterm);
uint64_t mka_cl_ring_bytes(const mka_device_longterm_shape *shape);
/* A segment has changed: what the ring has of it is not its. */
void mka_cl_ring_forget(mka_device_longterm *longterm, int head, int segment);
/* Segments that are sure to fit at once, whatever is wanted of them. */
int mka_cl_ring_segments(const mka_device_longterm *longterm);
/* Arguments of a launch that lists what is missing: the ring's, in its order. begin sends what was asked for ahead. */
void mka_cl_ring_begin(mka_device_longterm *longterm);
void mka_cl_ring_begin_ahead(mka_device_longterm *longterm);
void mka_cl_ring_list(mka_cl_call *call, const mka_device_longterm *longterm);

/* ---- ring_send.c; the caller holds the lock ---- */

/* Pairs of a list that come with its length. */
cl_uint mka_cl_ring_first(const mka_cl_ring *ring);
/* That launch is queued: fetches what it lists, so that what is queued next finds it; while the list is on its way, the round's
 * guess is looked at. 0: it is more than comes at once, and nothing is there. */
int mka_cl_ring_fetch(const mka_cl_recall_round *round);
/* Sends what was asked for ahead for this tier, if something was and is not sent yet. */
void mka_cl_ring_send_ahead(mka_device_longterm *longterm);
/* Nobody will look at the list that was asked for; the queues are empty. */
void mka_cl_ring_drop(mka_device *device);

/* ---- recall_fast.c ---- */

/* Whether these kernels have a place for the job (and the compiler takes them; the log says when not), and whether they read its
 * local tier too; queries of a round; floats of scratch, within limits and for a job; and one round, whose parts are 0 where they
 * read the local tier. The caller holds the lock. */
int mka_cl_recall_nv_serves(const mka_ops *ops, const mka_recall_job_there *job);
int mka_cl_recall_nv_near(const mka_recall_job_there *job);
int mka_cl_recall_nv_queries(const mka_recall_job_there *job);
size_t mka_cl_recall_nv_floats(const mka_device *device, const struct mka_ops_limits *limits);
size_t mka_cl_recall_nv_work(const mka_recall_job_there *job);
/* The launch that lists what a guess would want, whose local tier these kernels read (mka_cl_recall_nv_near): mka_cl_recall_list.
 */
void mka_cl_recall_nv_list(const mka_cl_recall_round *round);
/* Returns 0, of a ring, where more rows are wanted than it takes at once: nothing was done. */
int mka_cl_recall_nv(const mka_cl_recall_round *round);

#endif
