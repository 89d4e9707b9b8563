/* bank - the long-term level of MKA and FastMKA in hidden space: the mean rows of past blocks of 64 tokens, and the row that a
 * new token reads of them.
 *
 *   put    rows of tokens -> sum of the open block -> its mean, a summary (half floats), with the signs of its code
 *   find   a token's session summary -> the SHORT summaries whose signs agree most (all, where there are but FEW: their rows are
 * read sooner than tables are made) -> exact cosines -> mean of the FOUND best
 *
 *   entries  | remembered from earlier sessions | this session's blocks, oldest first | blocks of the window |
 *            ^ begin          the last `capacity` of these can be found               ^ edge                  ^ entries
 *
 * - A block can be found once the window of the token that asks has left it behind (as the tiers close theirs): that depends on
 *   the position alone, so that chunks of any size and decoding token by token find the same.
 * - Summaries are means of many rows, so that the one to ask with is the session summary, which is one too, not the token's row:
 *   with SmolLM2's rows it gives a repeated passage 0.26 of the weight, the token's row 0.08 (chance is 0.02).
 * - Entries and what is asked are compared by the cosine of their difference from a centre, the mean of the first entries, since
 *   hidden rows have much in common. Codes are those of keys (keycode.h), scanned by the same kernel.
 * - A weight is the cosine less that of the best entry that is left out: it falls to zero before an entry drops out, so that
 * rounding never decides between two different rows.
 * - Memory is bounded: entries lie in a ring, and the oldest go. */
#ifndef MKA_MEMORY_BANK_H
#define MKA_MEMORY_BANK_H

#include "keycode.h"
#include "ops/ops.h"

enum { MKA_BANK_FOUND = 8, MKA_BANK_SHORT = 32, MKA_BANK_FEW = 64 };

typedef struct mka_bank_shape {
    int width;         /* <= MKA_MOST_DIM */
    int capacity;      /* entries that can be found at most */
    int sinks, window; /* where blocks begin and which are behind, as in mka_memory_plan */
    int queries;       /* tokens put at once at most */
} mka_bank_shape;

typedef struct mka_bank {
    mka_bank_shape shape;
    size_t slots, row, scan_block, bytes; /* of the ring, a multiple of 64; bytes of a summary and of a scan block; reserved */
    unsigned char *scan;                  /* [slots / 64][scan_block]; NULL: there is no bank */
    unsigned char *rows;                  /* [slots][row] */
    float *lengths;                       /* [slots] |summary - centre| */
    float *centre, *open;                 /* [width]; open: sum of the block that is not full yet */
    int length;                           /* tokens put */
    int remembered;                       /* entries of earlier sessions */
    int begin;                            /* the first entry there is */
    int coded;                            /* 1: the centre is known, entries have codes */
} mka_bank;

/* What the threads work in. */
typedef struct mka_bank_work {
    size_t bytes; /* of one thread */
    unsigned char *threads;
} mka_bank_work;

void mka_bank_layout(mka_bank_work *work, int width, int threads, mka_arena *arena);

/* Memory that a bank takes at most for a context of so many tokens, without what is remembered. */
size_t mka_bank_bytes(const mka_bank_shape *shape, int context);

/* Reserves the pages. On failure bank is all zero. */
mka_status mka_bank_create(const mka_bank_shape *shape, mka_bank *bank, mka_error *error);
void mka_bank_destroy(mka_bank *bank);

/* Forgets everything, what is remembered too. */
void mka_bank_reset(mka_bank *bank);

/* Entries: all there were so far, and the first that the token at a position can find, up to the edge that it returns. */
int mka_bank_entries(const mka_bank *bank);
int mka_bank_edge(const mka_bank *bank, int position, int *from);

/* Forgets the entries that no coming token can find. */
void mka_bank_trim(mka_bank *bank);

/* Takes x [n][width], the rows of the next n tokens. */
void mka_bank_put(mka_bank *bank, const mka_kernels *kernels, int n, const float *x);

/* out [n][width] gets the long-term rows of the tokens at positions first..first+n-1, which were put; zeros where there is
 * nothing to find, and for tokens whose weight is 0 (weights NULL: none is; else stride floats apart). queries [n][width].
 * Returns the bytes that were read. alone: on the calling thread. Never allocates. */
uint64_t mka_bank_find(const mka_bank *bank, const mka_bank_work *work, mka_ops *ops, int first, int n, const float *queries,
                       const float *weights, int stride, int alone, float *out);

/* Bytes that one token's search reads at its position. */
uint64_t mka_bank_find_bytes(const mka_bank *bank, int position);

/* A summary, as half floats [width], of entry begin..entries - 1. */
static inline unsigned char *mka_bank_row(const mka_bank *b, int entry) {
    return b->rows + (size_t)entry % b->slots * b->row;
}

/* Appends count summaries of an earlier session, oldest first, to a bank that no token was put into. */
void mka_bank_remember(mka_bank *bank, int count, const unsigned char *rows);

/* Entries of a bank that has so many tokens, remembers so many entries, and has all from number begin on; -1 for numbers that
 * cannot be. There is room for mka_bank_room. */
int mka_bank_count(const mka_bank *bank, int length, int remembered, int begin);
int mka_bank_room(const mka_bank *bank);
/* Makes an empty bank such a one, with room for its entries; rows, open sum and centre are about to be read from a file. */
void mka_bank_set(mka_bank *bank, int length, int remembered, int begin);
/* Afterwards: makes the codes. */
void mka_bank_recode(mka_bank *bank);

/* |x|, of which x keeps the direction. A row of zeros has none, and one that is not finite gets none. */
float mka_bank_normalise(int width, float *x);

#endif
