/* mka/session.h - one token timeline on a model: evaluate tokens, read logits, sample the next one.
 *
 *   eval(tokens) -> [ chunks of at most `chunk` tokens ] -> key/value cache grows -> logits of the last token
 *
 * A session belongs to one thread at a time. Sessions of one engine take turns on its threads: calls from several threads
 * are safe and wait for each other. After creation nothing allocates: all buffers are laid out once.
 */
#ifndef MKA_SESSION_H
#define MKA_SESSION_H

#include <mka/memory.h>
#include <mka/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mka_session mka_session;

typedef enum mka_mla_form { MKA_MLA_AUTO, MKA_MLA_ABSORBED, MKA_MLA_EXPANDED } mka_mla_form;

/* How a long context is kept: whole, or in tiers (mka/memory.h). */
typedef enum mka_memory_mode { MKA_MEMORY_AUTO, MKA_MEMORY_DENSE, MKA_MEMORY_TIERED } mka_memory_mode;

#define MKA_TIERED_FROM 16385 /* MKA_MEMORY_AUTO: contexts of so many tokens are tiered */

#define MKA_BANK_AUTO    (-1)
#define MKA_BANK_DEFAULT 4096 /* summaries: those of 262,144 tokens */

#define MKA_LEVEL_THRESHOLD 0.01F /* bench/RESULTS.md: what it leaves unread, and what that does to the next token */

typedef struct mka_session_options {
    int context;       /* tokens the session can hold; 0: the model's context */
    int chunk;         /* tokens that prefill takes at once; 0: 512 */
    mka_type key_type; /* of the cache: MKA_F32, MKA_F16 (default), MKA_BF16, MKA_Q8_0 or MKA_Q4_0 */
    mka_type value_type;
    int exact; /* 1: activations stay float32 in every product. 0 (default): products with quantised weights round them, to 8 bits
                  in blocks of 32 for a few tokens, and to bf16 for more where the CPU multiplies that fastest */
    mka_memory_mode
        memory;            /* tiers serve layers that see all tokens; those with a window, or latent ones, are kept as they are */
    mka_memory_plan plan;  /* of the tiers; key_type and value_type above are those of the local tier. Its numa counts for dense
                              memory too */
    mka_mla_form mla;      /* how latent attention is computed; no effect on other models */
    float level_threshold; /* tiered sessions of MKA models: a level to which the router gives a query less than this is not read,
                              and the others get its weight in proportion; of FastMKA models, the same holds for the long-term
                              bank. 0: all are read; below 1/3. Default MKA_LEVEL_THRESHOLD */
    int bank; /* models with MKA or FastMKA routers of three levels: how many summaries of past blocks of 64 tokens, in hidden
                 space, a new token's long-term row is searched in, at most; 0: none, that row is zeros. MKA_BANK_AUTO (default):
                 MKA_BANK_DEFAULT with tiered memory, else 0. With a limit of RAM as many as the context has blocks at most */
} mka_session_options;

MKA_API void mka_session_defaults(mka_session_options *options);

/* Makes an empty session. options may be NULL. MKA_NO_MEMORY: the cache does not fit in free memory; the message says how
 * much is needed, how much is free and which context would fit. MKA_BAD_ARGUMENT: an option is out of range. */
MKA_API mka_status mka_session_create(mka_model *model, const mka_session_options *options, mka_session **session,
                                      mka_error *error);
MKA_API void mka_session_destroy(mka_session *session);

/* Called between chunks and layers with the tokens of this call that are done; return nonzero to stop. */
typedef int mka_progress_fn(void *user, size_t done, size_t total);

/* Evaluates count tokens after those the session holds. logits (may be NULL): float [vocabulary], of the last token.
 * progress may be NULL. MKA_CONTEXT_FULL: not enough room, nothing was evaluated. MKA_BAD_ARGUMENT: count is 0 or an id is
 * outside the vocabulary, nothing was evaluated. MKA_CANCELLED: progress said stop; the session holds the chunks that were
 * finished. */
MKA_API mka_status mka_session_eval(mka_session *session, const int *tokens, size_t count, float *logits,
                                    mka_progress_fn *progress, void *user, mka_error *error);

/* The same, and nll[i] gets the negative log likelihood in nats of tokens[i + 1] given all before it, for i in
 * 0..count-2; next (>= 0, else -1) is the token after the last one and adds nll[count-1]. */
MKA_API mka_status mka_session_score(mka_session *session, const int *tokens, size_t count, int next, double *nll,
                                     mka_progress_fn *progress, void *user, mka_error *error);

/* Appends count tokens whose keys and values are random, without running the model: a context of that length to measure from.
 * What is evaluated after it means nothing. MKA_CONTEXT_FULL: not enough room, nothing was appended. */
MKA_API mka_status mka_session_fill(mka_session *session, int count, uint64_t seed, mka_error *error);

/* Tokens held, and room in all. */
MKA_API int mka_session_length(const mka_session *session);
MKA_API int mka_session_context(const mka_session *session);

/* Forgets all tokens from position length on. MKA_UNSUPPORTED when an earlier state cannot be had back (a session summary of
 * MKA or FastMKA is a running average) unless length is 0, which always works. A cache in MKA_Q4_0 has its newest tokens in 16
 * bits as well; of those that come to be the newest by a cut, the ones that were older than that stay in 4 bits. */
MKA_API mka_status mka_session_truncate(mka_session *session, int length, mka_error *error);

/* Ids of the tokens held, [length]; -1 for those of mka_session_fill. Valid until the session changes. */
MKA_API const int *mka_session_tokens(const mka_session *session);

/* ---- saved sessions ---- */

/* Writes the session to path: tokens, caches, tiers, summaries, with a checksum of every region. A new file takes path's place
 * at once when all of it is on the disk; a failure, or a kill at any moment, leaves what was there. MKA_IO says why not (disk
 * full, no such folder, another process is saving there). The file fits machines of the same byte order. */
MKA_API mka_status mka_session_save(mka_session *session, const char *path, mka_error *error);

/* Replaces what the session holds by what path holds; it then goes on token for token as the saved one would have. The session
 * must have been made with the same model, cache types, kind of memory, window and long-term types, and a context that is large
 * enough: MKA_BAD_ARGUMENT names what differs, and leaves the session as it was, as does MKA_IO or MKA_BAD_FILE for a file that
 * is no saved session. MKA_BAD_FILE for a damaged region (the message names it) leaves the session empty. */
MKA_API mka_status mka_session_load(mka_session *session, const char *path, mka_error *error);

/* Puts the tokens of another session of the same model, from token first on, behind those that are held, without running the
 * model: keys are turned on to the positions that follow, and all is stored as this session stores it, whatever the other's cache
 * types, memory and window. What was computed stays as it is: the appended tokens have seen each other and not the tokens before
 * them, and those that are evaluated next see both. The other session is read only. MKA_CONTEXT_FULL: no room; MKA_BAD_ARGUMENT:
 * another model; MKA_UNSUPPORTED: a model with session summaries (MKA, FastMKA), or first lies beyond the sinks of a session with
 * long-term rows, whose order is not kept. After any failure the session is as it was. */
MKA_API mka_status mka_session_append(mka_session *session, mka_session *from, int first, mka_error *error);

/* What a saved session was made with, without reading all of it. */
typedef struct mka_session_file {
    int tokens, layers;
    mka_type key_type, value_type; /* of the cache */
    int tiered;
    mka_memory_plan plan;  /* tiered: sinks, window and long-term types; a bank's sinks and window */
    int bank;              /* summaries of its long-term bank at most; 0: it has none */
    uint64_t model, bytes; /* fingerprint of its model; size of the file */
} mka_session_file;

MKA_API mka_status mka_session_peek(const char *path, mka_session_file *about, mka_error *error);
/* Its note (mka_session_set_note): *bytes is the caller's to free(); NULL, *size 0: it has none. */
MKA_API mka_status mka_session_peek_note(const char *path, void **bytes, size_t *size, mka_error *error);

/* Takes the long-term bank of a saved session into an empty one: what that session's tokens have left there, and what it
 * remembered itself, can be found from the first token on. Its tokens take no place in the context. Several files one after the
 * other are fine; where they have more summaries than the bank finds, the first ones are forgotten. MKA_UNSUPPORTED: this session
 * has no bank. MKA_BAD_ARGUMENT: it has tokens, or the file is another model's or has no bank. After a failure nothing is
 * remembered. mka_session_truncate to 0 forgets what is remembered too. */
MKA_API mka_status mka_session_remember(mka_session *session, const char *path, mka_error *error);

/* Summaries that the next token's long-term row is searched in. */
MKA_API int mka_session_bank(const mka_session *session);

/* How many of the count tokens the session saved at path begins with, if it could be loaded into this one: *common is 0 where
 * the files' model or options differ. Whole links of 64 tokens are compared by their chained hashes, then by their ids. */
MKA_API mka_status mka_session_match(const mka_session *session, const char *path, const int *tokens, size_t count,
                                     size_t *common, mka_error *error);

/* Bytes of the caller's own that are saved and loaded with the session, such as the messages of a conversation. Copied; size 0
 * takes them away. mka_session_note gives them back (NULL, *size 0: none), valid until the next change. */
MKA_API mka_status mka_session_set_note(mka_session *session, const void *bytes, size_t size, mka_error *error);
MKA_API const void *mka_session_note(const mka_session *session, size_t *size);

typedef struct mka_session_usage {
    uint64_t cache_bytes;                         /* of keys and values that the held tokens occupy */
    uint64_t cache_reserved;                      /* for the whole context */
    uint64_t workspace_bytes;                     /* all other buffers of the session */
    uint64_t weight_bytes_read, cache_bytes_read; /* since the session was made */
} mka_session_usage;

/* What attention read by tier, since the session was made; zeros for a dense session. */
MKA_API void mka_session_get_used(const mka_session *session, mka_used *used);

typedef enum mka_watch_mode {
    MKA_WATCH_OFF,
    MKA_WATCH_COUNT,  /* what every head reads (mka_session_get_head_used) */
    MKA_WATCH_COMPARE /* and every query of a call with a single token is also answered by reading everything, which takes long */
} mka_watch_mode;

/* Holds from the next call on; can be changed at any time. MKA_NO_MEMORY at the first that is not MKA_WATCH_OFF. */
MKA_API mka_status mka_session_watch(mka_session *session, mka_watch_mode mode, mka_error *error);

/* What a key/value head did while it was watched. 0 where nothing was counted: a layer without tiers, or no watch.
 */
MKA_API int mka_session_get_head_used(const mka_session *session, int layer, int head, mka_head_used *used);

/* Where the pages of the session's caches are; takes milliseconds for a large one. */
MKA_API void mka_session_get_numa(const mka_session *session, mka_numa_report *report);

/* 1 when some layer has tiers. */
MKA_API int mka_session_is_tiered(const mka_session *session);

/* Changes what recall promises, from the next token on. MKA_BAD_ARGUMENT names the field that is out of range. */
MKA_API mka_status mka_session_set_recall(mka_session *session, const mka_recall *recall, mka_error *error);

MKA_API void mka_session_get_usage(const mka_session *session, mka_session_usage *usage);

/* ---- sampling ---- */

typedef struct mka_sampler mka_sampler;

/* Applied in this order, as other GGUF programs do: repeat penalty, top-k, top-p, min-p, temperature, draw. */
typedef struct mka_sampler_options {
    float temperature;    /* <= 0: greedy, the largest logit, lowest id on a tie. Default 0.8 */
    int top_k;            /* 0: off. Default 40 */
    float top_p;          /* 1: off. Default 0.95 */
    float min_p;          /* 0: off. Default 0.05 */
    float repeat_penalty; /* 1: off (default). Logits of recent tokens are divided (> 0) or multiplied (< 0) by it */
    int repeat_last;      /* how many recent tokens it looks at. Default 64 */
    uint64_t seed;        /* the same seed, options and logits give the same tokens. Default 0 */
} mka_sampler_options;

MKA_API void mka_sampler_defaults(mka_sampler_options *options);

/* vocabulary: number of logits. MKA_BAD_ARGUMENT names the option that is out of range. */
MKA_API mka_status mka_sampler_create(const mka_sampler_options *options, int vocabulary, mka_sampler **sampler,
                                      mka_error *error);
MKA_API void mka_sampler_destroy(mka_sampler *sampler);

/* Chooses the next token from logits (float [vocabulary], left as they are) and remembers it for the repeat penalty.
 * NaN never wins; returns -1 only when every logit is NaN. Never allocates. */
MKA_API int mka_sampler_next(mka_sampler *sampler, const float *logits);

/* Tells the sampler about a token that it did not choose (a prompt's), for the repeat penalty. */
MKA_API void mka_sampler_accept(mka_sampler *sampler, int token);

#ifdef __cplusplus
}
#endif
#endif
