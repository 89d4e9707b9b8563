/* quant - the table of tensor types: names, block sizes, bytes, and what kernels can do with each. Constant data only. */
#include "quant.h"

#include <strings.h>

/* clang-format off */
static const mka_type_info infos[MKA_TYPE_LIMIT] = {
    [MKA_F32]    = {"f32", 1, 4, 1, 0},
    [MKA_F16]    = {"f16", 1, 2, 1, 0},
    [MKA_BF16]   = {"bf16", 1, 2, 1, 0},
    [MKA_Q4_0]   = {"q4_0", 32, sizeof(mka_block_q4_0), 1, 1},
    [MKA_Q4_1]   = {"q4_1", 32, sizeof(mka_block_q4_1), 1, 1},
    [MKA_Q5_0]   = {"q5_0", 32, sizeof(mka_block_q5_0), 1, 1},
    [MKA_Q5_1]   = {"q5_1", 32, sizeof(mka_block_q5_1), 1, 1},
    [MKA_Q8_0]   = {"q8_0", 32, sizeof(mka_block_q8_0), 1, 1},
    [MKA_Q2_K]   = {"q2_k", 256, sizeof(mka_block_q2_k), 1, 1},
    [MKA_Q3_K]   = {"q3_k", 256, sizeof(mka_block_q3_k), 1, 1},
    [MKA_Q4_K]   = {"q4_k", 256, sizeof(mka_block_q4_k), 1, 1},
    [MKA_Q5_K]   = {"q5_k", 256, sizeof(mka_block_q5_k), 1, 1},
    [MKA_Q6_K]   = {"q6_k", 256, sizeof(mka_block_q6_k), 1, 1},
    [MKA_IQ4_NL] = {"iq4_nl", 32, sizeof(mka_block_iq4_nl), 1, 1},
    [MKA_IQ4_XS] = {"iq4_xs", 256, sizeof(mka_block_iq4_xs), 1, 1},
    [MKA_I8]     = {"i8", 1, 1, 0, 0},
    [MKA_I16]    = {"i16", 1, 2, 0, 0},
    [MKA_I32]    = {"i32", 1, 4, 0, 0},
    [MKA_I64]    = {"i64", 1, 8, 0, 0},
    [MKA_F64]    = {"f64", 1, 8, 0, 0},
};
/* clang-format on */

/* The layouts are those of files: a compiler that padded them would read nonsense. */
_Static_assert(sizeof(mka_block_q4_0) == 18 && sizeof(mka_block_q4_1) == 20, "layout of 4-bit blocks");
_Static_assert(sizeof(mka_block_q5_0) == 22 && sizeof(mka_block_q5_1) == 24, "layout of 5-bit blocks");
_Static_assert(sizeof(mka_block_q8_0) == 34 && sizeof(mka_block_iq4_nl) == 18, "layout of 8-bit and iq4_nl blocks");
_Static_assert(sizeof(mka_block_q2_k) == 84 && sizeof(mka_block_q3_k) == 110, "layout of q2_k and q3_k");
_Static_assert(sizeof(mka_block_q4_k) == 144 && sizeof(mka_block_q5_k) == 176, "layout of q4_k and q5_k");
_Static_assert(sizeof(mka_block_q6_k) == 210 && sizeof(mka_block_iq4_xs) == 136, "layout of q6_k and iq4_xs");

const int8_t mka_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

const mka_type_info *mka_type_get(mka_type type) {
    static const mka_type_info none = {"unknown", 1, 0, 0, 0};
    unsigned index = (unsigned)type;
    return index < MKA_TYPE_LIMIT && infos[index].bytes ? &infos[index] : &none;
}

size_t mka_type_row_bytes(mka_type type, int64_t n) {
    const mka_type_info *info = mka_type_get(type);
    if (n < 0 || info->bytes == 0 || n % info->block != 0) return 0;
    uint64_t blocks = (uint64_t)(n / info->block);
    if (blocks > (uint64_t)PTRDIFF_MAX / (uint64_t)info->bytes) return 0;
    return (size_t)(blocks * (uint64_t)info->bytes);
}

const char *mka_type_name(mka_type type) {
    return mka_type_get(type)->name;
}

mka_type mka_type_from_name(const char *name) {
    for (int i = 0; name && i < MKA_TYPE_LIMIT; i++)
        if (infos[i].bytes && strcasecmp(name, infos[i].name) == 0) return (mka_type)i;
    return MKA_TYPE_LIMIT;
}
