/* mka/memory.h - the tiered key/value memory of one sequence, for any engine that has keys and values; no model is needed.
 *
 *   append -> [ L1 local: first tokens, window, open block ] -> close -> [ L3 long-term: index, rows ]
 *   attend <- all of L1, the recalled tokens of L3, estimates of the rest (L2), merged by one softmax
 *
 * Tokens that leave the window are closed in segments of up to 2,048 (about twice the window), whose keys and values are grouped
 * into clusters of 8 on average. Every query is held against the mean keys of the clusters, reads the rows of those that matter
 * to it, and takes the others as an estimate from their mean values. Where reading is estimated by effect (the default), 16
 * queries and more of one call choose in blocks of up to 32 neighbours and read for all of a block: what a query gets is then as
 * close to dense attention as by itself, but not the same. Otherwise it depends on its position alone, up to rounding, not on how
 * many tokens came with it.
 */
#ifndef MKA_MEMORY_H
#define MKA_MEMORY_H

#include <mka/mka.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mka_contract {
    MKA_RECALL_ESTIMATED, /* read what matters by the estimate by clusters; estimate the rest */
    MKA_RECALL_CERTIFIED, /* never lose more than eps of the softmax mass of the stored cache; what is lost is left out */
    MKA_RECALL_DENSE      /* read everything */
} mka_contract;

/* What recall promises. With MKA_RECALL_ESTIMATED and neither share nor tokens set, clusters are read whose being left unread
 * would change the output by more than a little: heads that look at little read little, and diffuse ones are estimated. */
typedef struct mka_recall {
    mka_contract contract;
    float share; /* estimated: > 0: read the heaviest clusters until all others have no more than 1 - share of the mass, by their
                    estimate, in any query head; < 1 */
    int tokens;  /* estimated: > 0: read at most about so many long-term tokens a query and key/value head, the heaviest */
    float eps;   /* certified: 0 <= eps < 1 */
} mka_recall;

typedef struct mka_memory_plan {
    int sinks;                     /* first tokens that are always read; a multiple of 64. Default 64 */
    int window;                    /* last tokens that are always read, at least; a multiple of 64. Default 1024 */
    mka_type key_type, value_type; /* of long-term rows: MKA_F32, MKA_F16, MKA_BF16, MKA_Q8_0 (default) or MKA_Q4_0 */
    mka_recall recall;
    mka_numa_mode numa; /* where the memory lies. Default MKA_NUMA_AUTO */
    uint64_t ram; /* bytes that keys, values, their index and the workspace may take in RAM; 0: no limit. Not counted: a layer
                     that turns out not to fit the codes and stays dense, and what the system caches of files */
    const char *spill; /* folder of a file without a name for long-term rows that do not fit into ram; NULL: none. Borrowed while
                          the session or memory is made */
} mka_memory_plan;

MKA_API void mka_memory_plan_defaults(mka_memory_plan *plan);

/* What attention read. Sums over calls; divide by queries for means. */
typedef struct mka_used {
    uint64_t queries;                /* pairs of a query token and a key/value head that had long-term tokens */
    uint64_t long_tokens;            /* long-term tokens that those pairs could have read */
    uint64_t scored_tokens;          /* of these, tokens whose key was read */
    uint64_t read_tokens;            /* and tokens whose key and value were read */
    uint64_t local_bytes;            /* L1: keys and values */
    uint64_t mean_bytes;             /* L2 */
    uint64_t scan_bytes;             /* L3: mean keys of the clusters, and what else tells them apart */
    uint64_t key_bytes, value_bytes; /* L3: rows */
    uint64_t spill_bytes;            /* of these, and of their neighbours in the block: read from the spill file */
    double unread_mass;      /* sum over pairs: the share of the softmax that was estimated or, if certified, left out; the
                                mean over the head's queries */
    double lost_bound;       /* certified: the largest share that can have been left out */
    uint64_t bank_bytes;     /* MKA, FastMKA: summaries and their signs, of the long-term bank in hidden space */
    uint64_t levels;         /* pairs of a token and a level of memory that it could have read: MKA's three; FastMKA's bank */
    uint64_t levels_skipped; /* of these, pairs that were not read, because the router gave them (next to) nothing */
    uint64_t saved_bytes; /* that reading the skipped ones would have taken at least: of calls that read nothing of a level, its
                             local tier, and the mean keys (or, where everything is recalled, the rows) of its long-term one */
} mka_used;

/* The same for one key/value head of one layer, and how it compares with dense attention over the same stored cache. Sums; what
 * is held against dense attention is divided by compared. */
typedef struct mka_head_used {
    mka_used used;
    uint64_t dense_bytes; /* that dense attention would have read of the local tier */
    uint64_t compared;    /* queries that were held against dense attention */
    double lost_mass;     /* the exact share of the softmax that was not read: the mean over the head's queries */
    double output_error;  /* |output - dense output| / |dense output|: likewise */
} mka_head_used;

typedef struct mka_memory mka_memory;

typedef struct mka_memory_options {
    int layers, heads, kv_heads, head_dim; /* kv_heads divides heads; head_dim <= 256 */
    int context;                           /* tokens that it can hold */
    int queries;                           /* of one call at most; 0: 512 */
    float scale;                           /* of the scores; 0: head_dim^-0.5 */
    mka_type local;                        /* how L1 stores keys and values */
    mka_memory_plan plan;
} mka_memory_options;

MKA_API void mka_memory_defaults(mka_memory_options *options);

/* Makes an empty memory: on the engine's device, where that has room for it (the engine's log says when not). The engine must
 * outlive it. On failure *memory is NULL: MKA_BAD_ARGUMENT names the option, MKA_NO_MEMORY says what was asked. One thread at a
 * time. */
MKA_API mka_status mka_memory_create(mka_engine *engine, const mka_memory_options *options, mka_memory **memory,
                                     mka_error *error);
MKA_API void mka_memory_destroy(mka_memory *memory);

/* Appends n tokens to one layer. keys, values: float [n][kv_heads][head_dim], after rotation; copied. Layers are appended in any
 * order. MKA_CONTEXT_FULL: they do not fit, nothing was appended. */
MKA_API mka_status mka_memory_append(mka_memory *memory, int layer, int n, const float *keys, const float *values,
                                     mka_error *error);

/* Attention of n queries that stand at the last n of the layer's tokens (causal among themselves): queries, out: float
 * [n][heads][head_dim]; out overlaps nothing. used (may be NULL) is added to. Tokens that left the window are moved to the
 * long-term tier here. Never allocates. MKA_IO: rows could not be written to or read from the spill file; nothing is lost, and
 * the call can be made again. */
MKA_API mka_status mka_memory_attend(mka_memory *memory, int layer, int n, const float *queries, float *out, mka_used *used,
                                     mka_error *error);

/* Tokens that a layer holds. */
MKA_API int mka_memory_length(const mka_memory *memory, int layer);

/* Changes the contract from the next call on. MKA_BAD_ARGUMENT names the field that is out of range. */
MKA_API mka_status mka_memory_set_recall(mka_memory *memory, const mka_recall *recall, mka_error *error);

/* Writes all layers to path, with a checksum of every region. A new file takes path's place at once when all of it is on the
 * disk; a failure (MKA_IO says which), or a kill at any moment, leaves what was there. The file fits machines of the same byte
 * order, and memories on a device and without one alike. */
MKA_API mka_status mka_memory_save(mka_memory *memory, const char *path, mka_error *error);

/* Replaces all tokens by those of a file. The memory must have been made with the same layers, heads, widths, types, sinks and
 * window, and a context that is large enough: MKA_BAD_ARGUMENT names what differs, and leaves the memory as it was, as does a
 * file that is no saved memory. MKA_BAD_FILE for a damaged region (the message names it) leaves it empty. */
MKA_API mka_status mka_memory_load(mka_memory *memory, const char *path, mka_error *error);

/* What a saved memory was made with, so that one can be made to load it: layers, heads, kv_heads, head_dim, local, the plan's
 * sinks, window and types, and as context the tokens of its longest layer; the rest is as mka_memory_defaults has it. */
MKA_API mka_status mka_memory_peek(const char *path, mka_memory_options *options, mka_error *error);

/* Where the memory's pages are. */
MKA_API void mka_memory_get_numa(const mka_memory *memory, mka_numa_report *report);

/* Forgets all tokens. */
MKA_API void mka_memory_reset(mka_memory *memory);

#ifdef __cplusplus
}
#endif
#endif
