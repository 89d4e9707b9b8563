/* multiply_bf16 - products of many rows on the CPU's bf16 units: Y = X W^T with X rounded once, by all threads together, and W
 * brought to the units' order a panel at a time, in a thread's own cache.
 *
 *   task = (panel of 32 rows of W, part of the rows of X)
 *
 * Threads take tasks as they come, as one of them may be slower than the others. A result depends on its row of X and its row
 * of W alone, so that neither that nor the number of parts, which follows the number of threads, can be seen in it.
 * bf16 keeps 8 bits of each value, where activations in 8 bits keep 7 of the largest of 32: this is the more exact way.
 */
#include <stdatomic.h>

#include "multiply.h"

#define CHUNK 256 /* elements of W that are unpacked at once: 32 rows of them stay in the first-level cache */
#define PIECE 768 /* elements of W's rows in a panel, at most */
#define PART  64  /* rows of X for which a panel is worth making, at least */

_Static_assert(PIECE % CHUNK == 0 && PIECE <= MKA_PANEL_K, "chunks are pieces of a panel");

typedef struct call {
    mka_ops *ops;
    int n, count;
    const mka_product *products;
    mka_glu_fn *glu; /* NULL: products are independent */
    uint16_t *x;     /* [n][ldx], zeros from cols to the next multiple of 32 */
    int ldx, parts;
    size_t tasks;
    atomic_size_t next;
} call;

/* Elements from row to row: whole tiles, and no power of two, which would put all rows into the same few lines of a cache. */
static int row_length(int cols) {
    int padded = (cols + 31) / 32 * 32;
    return padded % 256 == 0 ? padded + 32 : padded;
}

size_t mka_multiply_bf16_scratch(void) {
    return MKA_PANEL_BYTES(PIECE) + (size_t)MKA_PANEL_ROWS * CHUNK * sizeof(float);
}

size_t mka_multiply_bf16_shared(const struct mka_ops_limits *limits) {
    return (size_t)limits->rows * (size_t)(limits->cols + 64) * sizeof(uint16_t);
}

int mka_multiply_has_bf16(const mka_ops *ops, const mka_matrix *w) {
    return ops->kernels->gemm_bf16 && !ops->exact && (mka_type_get(w->type)->quant || w->type == MKA_BF16);
}

static void round_rows(const call *c, int thread, int threads) {
    const mka_product *p = c->products;
    int cols = p->w->cols;
    size_t begin, end;
    mka_share((size_t)c->n, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        uint16_t *row = c->x + i * (size_t)c->ldx;
        c->ops->kernels->store[MKA_BF16](cols, p->x + i * (size_t)p->ldx, row);
        for (int k = cols; k < c->ldx; k++) row[k] = 0;
    }
}

/* Elements first..first+k-1 of W's rows row..row+rows-1 as a panel. */
static void make_panel(const call *c, const mka_matrix *w, int row, int rows, int first, int k, unsigned char *panel) {
    const mka_kernels *kernels = c->ops->kernels;
    const mka_type_info *type = mka_type_get(w->type);
    float *chunk = (float *)(void *)(panel + MKA_PANEL_BYTES(PIECE));
    for (int at = 0; at < k; at += CHUNK) {
        int count = k - at < CHUNK ? k - at : CHUNK;
        const unsigned char *from = (const unsigned char *)w->data + (size_t)row * w->row_bytes +
                                    (size_t)((first + at) / type->block) * (size_t)type->bytes;
        for (int j = 0; j < rows; j++) kernels->load[w->type](count, from + (size_t)j * w->row_bytes, chunk + (size_t)j * CHUNK);
        kernels->pack_bf16(rows, count, chunk, CHUNK, panel + MKA_PANEL_BYTES(at));
    }
}

/* Elements of W's rows that are worked on at once: equal pieces, of whole blocks and tiles, whose panel stays near the core. */
static int piece_length(const mka_matrix *w) {
    int block = mka_type_get(w->type)->block, whole = block < 32 ? 32 : block, pieces = (w->cols + PIECE - 1) / PIECE;
    return ((w->cols + pieces - 1) / pieces + whole - 1) / whole * whole;
}

/* Asks for the weights of the panel that this thread is likely to make next: they come from memory while this one is used. */
static void ask_for_next(const call *c, const mka_matrix *w, int row, int rows) {
    size_t ahead = (size_t)mka_pool_threads(c->ops->pool) / (size_t)c->parts;
    size_t from = (size_t)row + (ahead ? ahead : 1) * MKA_PANEL_ROWS, left = (size_t)w->rows > from ? (size_t)w->rows - from : 0;
    size_t bytes = (left < (size_t)rows ? left : (size_t)rows) * w->row_bytes;
    const unsigned char *p = (const unsigned char *)w->data + (left ? from * w->row_bytes : 0);
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

static void run_panel(const call *c, const mka_product *p, int row, int rows, size_t begin, size_t end, unsigned char *panel) {
    const mka_matrix *w = p->w;
    const mka_kernels *kernels = c->ops->kernels;
    float *y = p->y + begin * (size_t)p->ldy + row;
    for (int first = 0, piece = piece_length(w); first < w->cols; first += piece) {
        int k = w->cols - first < piece ? w->cols - first : piece;
        make_panel(c, w, row, rows, first, k, panel);
        if (first == 0) ask_for_next(c, w, row, rows);
        kernels->gemm_bf16((int)(end - begin), rows, k, c->x + begin * (size_t)c->ldx + first, c->ldx, panel, first > 0, y,
                           p->ldy);
    }
    for (size_t i = 0; p->bias && i < end - begin; i++) kernels->add(rows, p->bias + row, y + i * (size_t)p->ldy);
}

static void run_task(const call *c, const mka_product *p, int row, int part, unsigned char *scratch) {
    int rows = p->w->rows - row < MKA_PANEL_ROWS ? p->w->rows - row : MKA_PANEL_ROWS;
    size_t begin, end;
    mka_share((size_t)c->n, 1, part, c->parts, &begin, &end);
    run_panel(c, p, row, rows, begin, end, scratch);
    if (!c->glu) return;
    run_panel(c, p + 1, row, rows, begin, end, scratch);
    mka_product piece[2] = {p[0], p[1]};
    for (int i = 0; i < 2; i++) piece[i].y += begin * (size_t)p[i].ldy;
    mka_multiply_glu((int)(end - begin), piece, row, rows, c->glu);
}

static size_t panels(const mka_product *p) {
    return ((size_t)p->w->rows + MKA_PANEL_ROWS - 1) / MKA_PANEL_ROWS;
}

static void share(void *argument, int thread, int threads) {
    call *c = argument;
    unsigned char *scratch = c->ops->thread_scratch + (size_t)thread * c->ops->thread_bytes;
    round_rows(c, thread, threads);
    mka_pool_barrier(c->ops->pool);
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed), panel = task / (size_t)c->parts;
        if (task >= c->tasks) return;
        const mka_product *p = c->products;
        for (; panel >= panels(p); p++) panel -= panels(p);
        run_task(c, p, (int)panel * MKA_PANEL_ROWS, (int)(task % (size_t)c->parts), scratch);
    }
}

void mka_multiply_bf16(mka_ops *ops, int n, int count, const mka_product *products, mka_glu_fn *glu) {
    call c = {.ops = ops, .n = n, .count = glu ? 1 : count, .products = products, .glu = glu, .parts = 1};
    c.x = (uint16_t *)(void *)ops->shared_scratch;
    c.ldx = row_length(products->w->cols);
    size_t all = 0, threads = (size_t)mka_pool_threads(ops->pool);
    for (int i = 0; i < c.count; i++) all += panels(&products[i]);
    while (all * (size_t)c.parts < 4 * threads && n / (2 * c.parts) >= PART) c.parts *= 2;
    c.tasks = all * (size_t)c.parts;
    mka_pool_run(ops->pool, share, &c);
}
