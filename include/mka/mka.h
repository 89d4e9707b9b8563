/* mka/mka.h - what every part of the library shares: version, status, errors, types, and the engine.
 *
 *   engine  (this machine: threads, kernels)         one a process is usual; must outlive what is made from it
 *     model    (weights, vocabulary; immutable)      mka/model.h    any number of sessions share it
 *       session  (one token timeline; mutable)       mka/session.h  one thread at a time
 *     attention (one layer of any variant, no model) mka/attention.h
 *
 * Every function that can fail returns an mka_status and fills an mka_error (which may be NULL) with one line that names
 * the cause and, where there is one, the way out. Objects are made by _create/_load/_open, which leave NULL in their last
 * pointer on failure, and freed by the matching _destroy/_close, which accepts NULL. Nothing prints, nothing exits.
 */
#ifndef MKA_MKA_H
#define MKA_MKA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MKA_VERSION "0.1.0"

#if defined(__GNUC__)
#define MKA_API                 __attribute__((visibility("default")))
#define MKA_PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#else
#define MKA_API
#define MKA_PRINTF(text, first)
#endif

/* The version that was linked, as opposed to MKA_VERSION, the version that was compiled against. Static string. */
MKA_API const char *mka_version(void);

typedef enum mka_status {
    MKA_OK = 0,
    MKA_BAD_ARGUMENT, /* a parameter is outside what its header allows */
    MKA_NO_MEMORY,    /* allocation failed, or what was asked for cannot fit */
    MKA_IO,           /* the operating system refused to open, read, write or map */
    MKA_BAD_FILE,     /* a file is truncated, damaged or not of the format it claims */
    MKA_UNSUPPORTED,  /* well formed, but not something this version computes */
    MKA_CONTEXT_FULL, /* the session has no room for that many tokens */
    MKA_CANCELLED     /* a callback asked to stop */
} mka_status;

/* A short name such as "bad file". Static string; never NULL, whatever the value. */
MKA_API const char *mka_status_text(mka_status status);

/* One failure. message is one line without a newline, and empty when status is MKA_OK. */
typedef struct mka_error {
    mka_status status;
    char message[508];
} mka_error;

/* How numbers are stored. The values are those of GGUF files, so they may be written to disk. */
typedef enum mka_type {
    MKA_F32 = 0,
    MKA_F16 = 1,
    MKA_Q4_0 = 2,
    MKA_Q4_1 = 3,
    MKA_Q5_0 = 6,
    MKA_Q5_1 = 7,
    MKA_Q8_0 = 8,
    MKA_Q2_K = 10,
    MKA_Q3_K = 11,
    MKA_Q4_K = 12,
    MKA_Q5_K = 13,
    MKA_Q6_K = 14,
    MKA_IQ4_NL = 20,
    MKA_IQ4_XS = 23,
    MKA_I8 = 24,
    MKA_I16 = 25,
    MKA_I32 = 26,
    MKA_I64 = 27,
    MKA_F64 = 28,
    MKA_BF16 = 30,
    MKA_TYPE_LIMIT = 31 /* not a type: one above the largest */
} mka_type;

/* "q4_k", "bf16", ...; "unknown" for a value that is not listed above. Static string. */
MKA_API const char *mka_type_name(mka_type type);

/* Finds a type by its name in any case ("Q8_0", "q8_0"). Returns MKA_TYPE_LIMIT when there is none. */
MKA_API mka_type mka_type_from_name(const char *name);

typedef enum mka_log_level { MKA_LOG_ERROR, MKA_LOG_WARN, MKA_LOG_INFO, MKA_LOG_DEBUG } mka_log_level;

/* Receives one line without a newline. May be called from any thread that calls the library. */
typedef void mka_log_fn(void *user, mka_log_level level, const char *message);

/* ---- engine: this machine ---- */

typedef struct mka_engine mka_engine;

typedef struct mka_engine_options {
    int threads;     /* 0: MKA_THREADS from the environment, else one a physical core */
    const char *cpu; /* kernel level, e.g. "scalar", "avx2"; NULL: MKA_CPU from the environment, else the best of this CPU */
    int bind;        /* 1 (default): bind threads to cores when the machine is not shared; 0: leave them to the system */
    mka_log_fn *log; /* NULL: silent */
    void *log_user;
    uint64_t
        nodes; /* 0 (default): all NUMA nodes with CPUs. Else bit i is node i: threads, the calling one too, are bound to these
                  nodes' CPUs, and what is made from the engine may use these nodes' memory, those without CPUs included */
    const char *device;     /* NULL (default) or "cpu": none; "opencl", "opencl:N" or "opencl:NAME" (part of a device's or its
                               platform's name): what is made from the engine computes there (mka/device.h) */
    uint64_t device_memory; /* bytes that may be taken there; 0: what it has */
} mka_engine_options;

/* Fills options with the defaults, so that code which sets only what it needs keeps compiling when options are added. */
MKA_API void mka_engine_defaults(mka_engine_options *options);

/* Starts the threads and chooses the kernels. options may be NULL (defaults).
 * Fails with MKA_BAD_ARGUMENT for a level that does not exist or that this CPU lacks (the message lists those it has),
 * a thread count outside 0..1024, or a device that is not there (likewise); MKA_UNSUPPORTED: this build has no OpenCL, or the
 * device's driver cannot build what is needed. */
MKA_API mka_status mka_engine_create(const mka_engine_options *options, mka_engine **engine, mka_error *error);
MKA_API void mka_engine_destroy(mka_engine *engine);

/* What this machine offers and what the engine took. Strings belong to the engine (levels are static). */
typedef struct mka_machine {
    char cpu[64];           /* the processor's own name, or its architecture */
    int cores, cpus, nodes; /* physical cores, logical CPUs, NUMA nodes that this process may use */
    size_t l1d, l2, l3;     /* bytes of one data cache of each level, 0 when there is none */
    uint64_t memory;        /* bytes of RAM in the machine */
    uint64_t memory_free;   /* bytes that can be had now without swapping, at the time of the call */
    int threads;            /* of this engine */
    const char *level;      /* kernel level of this engine */
    const char *levels[16]; /* levels that this CPU can run, lowest first */
    int level_count;
} mka_machine;

MKA_API void mka_engine_machine(const mka_engine *engine, mka_machine *machine);

/* ---- NUMA: where caches and weights lie ---- */

typedef enum mka_numa_mode {
    MKA_NUMA_AUTO,       /* MKA_NUMA_NODES where threads run on several nodes or nodes were named, else MKA_NUMA_OFF */
    MKA_NUMA_OFF,        /* the system decides */
    MKA_NUMA_INTERLEAVE, /* page by page on all nodes in turn; a huge page is one */
    MKA_NUMA_NODES       /* each node holds its share of the key/value heads (with fewer heads than nodes: of their tokens), and
                            its threads read that first; only partial results cross nodes. And its share of the
                            rows of each matrix of a model, which its threads multiply by */
} mka_numa_mode;

#define MKA_NUMA_MOST 32 /* nodes that are placed on and reported */

/* Where the pages of a cache, and of the weights beside it, are, asked of the system page by page. */
typedef struct mka_numa_report {
    mka_numa_mode mode; /* what is done: never MKA_NUMA_AUTO */
    int nodes;
    int number[MKA_NUMA_MOST];                                             /* of each node, as the system counts */
    int threads[MKA_NUMA_MOST];                                            /* that are meant to run there */
    uint64_t planned[MKA_NUMA_MOST];                                       /* bytes in memory that the plan puts there */
    uint64_t found[MKA_NUMA_MOST];                                         /* bytes in memory that are there */
    uint64_t weights_planned[MKA_NUMA_MOST], weights_found[MKA_NUMA_MOST]; /* the same of a session's model; 0: not placed */
    uint64_t misplaced;                                                    /* bytes that lie on another node than planned */
    int refused; /* 1: the system would not place pages; they lie where it put them */
    int known;   /* 0: nor would it say where they are; found and misplaced mean nothing */
} mka_numa_report;

/* What a mode means on this engine: mode, nodes, numbers and threads, before there is a cache. MKA_BAD_ARGUMENT: no such mode. */
MKA_API mka_status mka_engine_get_numa(const mka_engine *engine, mka_numa_mode mode, mka_numa_report *report, mka_error *error);

#ifdef __cplusplus
}
#endif
#endif
