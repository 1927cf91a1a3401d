/* What is made for each kind of vector, float32: products, attention of one head, norms, activations; and products of
   weights in narrower numbers, for each set of instructions that has its own. */

#ifndef HEED_KINDS_H
#define HEED_KINDS_H

#include "../c/native_edits.h"

#include <stdbool.h>
#include <stdint.h>

/* Sets of instructions, as models/compiled/instructions.py numbers them. The last four are AVX2 and AVX512 with dot
   products of narrower numbers, and have all else in common with them; AVX512_BF16 has those of AVX512_VNNI too, and
   AVX512_AMX has tiles in the place of both. */
enum { NONE, AVX2, AVX512, NEON, AVX2_VNNI, AVX512_VNNI, AVX512_BF16, AVX512_AMX, SETS };

#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define COMPILER_KNOWS_DOTS 1
#endif

/* As models/compiled/structures.py numbers them. */
enum { IDENTITY, GELU, GELU_TANH, QUICK_GELU, SILU, SIGMOID, RELU, RELU2, ROUGH_GELU };
enum { NO_NORM, LAYER_NORM, ROOT_MEAN_SQUARE_NORM };
enum { FLOAT32, FLOAT16, BFLOAT16, INT8 };
enum { MOST_TOP_K = 16, MOST_BLOCK_ROWS = 32, TRANSPOSED = 64, CLASSES = 32, SIFTED = 64, SPANNED = 512 };

/* What becomes of a product while it is in the nearest cache: act(c) ⊙ times + plus. NULL: none of it. `rounded`: where
   that goes in bfloat16 too, unless NULL; 0 beyond the columns, up to as many as a panel has. */
struct after {
    int activation;
    const float *times, *plus;
    int64_t times_stride, plus_stride;
    uint16_t *rounded;
    int64_t rounded_stride;
};

/* What one call of `multiply` needs; b in one panel. */
struct product {
    const float *b;
    int64_t b_stride;
    const float *bias;
    int64_t inner, columns, a_stride, c_stride;
    const struct after *after; /* or NULL */
    int64_t begun; /* how many of the first part's terms are left out before the first that is there */
};

/* The same with a panel of narrower numbers in place of b, a of those that it is multiplied by, and of int8 the scales
   and sums of the panel's columns. `finish` and `put_rounded` do what `after` says. */
struct narrow_product {
    struct product product;
    const void *b;
    const float *scales;
    const int32_t *sums;
    void (*finish)(const struct product *, int64_t at, int64_t rows, float *c);
    void (*put_rounded)(const struct product *, int64_t at, int64_t rows, const float *c);
};

/* Rows of x as a product of narrow numbers reads them: rounded to bfloat16, or whole numbers from 0 to 255 with a scale
   and a zero point a row. A thread has one such room, and `x` says whose rows are there: other tasks of the thread with
   the same rows find them made. The rows begin ROOM_HEAD bytes further on. */
enum { MOST_TILE_ROWS = 126, MOST_TILE_COLUMNS = 32, ROOM_HEAD = 1088 };

struct room {
    const float *x, *multipliers;
    int64_t numbers;
    float scales[MOST_TILE_ROWS];
    int32_t zeros[MOST_TILE_ROWS];
};

static inline void *room_rows(struct room *room)
{
    return (char *)room + ROOM_HEAD;
}

/* What rows are made of: x [rows, inner], by channel times `multipliers`, unless NULL. */
struct linear_rows {
    const float *x, *multipliers;
    int64_t stride, inner, turned_stride;
};

/* How weights of one kind of numbers are multiplied: `step` inputs stand beside each other in a panel, each number of
   `bytes`. Rows are turned first into numbers of `row_bytes`, unless that is 0. */
struct narrow {
    int64_t step, bytes, row_bytes;
    void (*turn)(const struct linear_rows *, int64_t rows, struct room *);
    void (*multiply)(const struct narrow_product *, const void *a, int64_t rows, const float *scales,
                     const int32_t *zeros, float *c);
    void (*put_rounded)(const struct product *, int64_t at, int64_t rows, const float *c); /* of BFLOAT16, or NULL */
};

/* How scores are made and who may attend whom. Row i may attend key j where low ≤ j − i ≤ high and j − i ≠ hole;
   the value that stands `own` from a row is added to its z. ±BEYOND, or more, is no bound, no hole and no own. */
struct rule {
    int64_t low, high, hole, own;
    float scale, softcap; /* a softcap of 0: none */
};

#define BEYOND (INT64_C(1) << 40)

/* As weights that edits give have it: any key may have one. */
static const struct rule unbounded = {-BEYOND, BEYOND, BEYOND, BEYOND, 1, 0};

/* Of a head, [rows, keys]: what is added to scores, or which keys may be attended. From NULL: none. */
struct added {
    const float *from;
    int64_t stride;
};
struct seen {
    const uint8_t *from;
    int64_t stride;
};

struct attention {
    int64_t width, value_width, q_stride, k_stride, v_stride, z_stride;
    const struct rule *rule;
};

/* What is made of weights on the way to z, for the chosen heads and rows; NULL: not wanted. `top_k_keys` brings
   along the two after it. In a call it has all chosen heads; what one head is given has its own. */
struct outputs {
    void *weights; /* [heads, rows, keys] of `type` */
    int32_t *top_k_keys;
    float *top_k_weights, *top_k_rest; /* [heads, rows, k], but the rest [heads, rows] */
    float *entropy;                    /* [heads, rows] */
    float *received;                   /* [parts, heads, keys], added to, as all from here: each part of the rows its own */
    float *weights_mean, *weights_max; /* [rows, keys], of as many heads as are chosen; one head after another */
    float *between_spans;              /* [parts, heads, spans, spans] */
    const int32_t *spans;              /* [spans, 2], positions from and up to */
    const int32_t *head_places, *row_places; /* of each head and row among the chosen, −1: none; NULL: all are */
    float *mixed;            /* [rows, keys or columns], or [parts, keys or columns] where it sums over rows */
    const float *mix_weights;              /* of each head, whether or not it is among the chosen; 0: none of it */
    float *share;                          /* [heads, rows] */
    const int32_t *columns, *of, *over;    /* [their count, 2], as spans; of a share those of each do not overlap */
    int64_t heads, rows, keys, k, span_count, column_count, of_count, over_count;
    int32_t type, sums_rows; /* the latter of `mixed` */
    float times;             /* what one head's weights are multiplied by in `mixed`, where it has its own */
};

/* Rows `first` to `last` of a head. `laid`: keys and values as `lay_out` makes them, or NULL. */
struct head {
    const float *q, *k, *v, *laid, *sink; /* no sink: NULL */
    float *z, *lse;
    struct added mask, bias;
    struct seen seen;
    int64_t first, last, keys;
    const struct outputs *outputs; /* or NULL */
    struct head_edits edits;
};

/* What one row sees, from the first key of its block on: keys `from` up to `to`, but for a hole; of `keys` there
   are. */
struct sight {
    const float *mask, *bias, *edits;
    const uint8_t *seen;
    const float *sink;
    int64_t from, to, hole, keys;
};

/* Whether rows of a head see their first keys, all of them, and nothing but the scale makes scores. */
static inline bool is_plain(const struct rule *rule, const struct head *head)
{
    return rule->low <= -BEYOND && rule->hole >= BEYOND && rule->softcap == 0 && !head->mask.from && !head->bias.from
        && !head->seen.from && !head->sink && head->keys > 0;
}

/* Rows of scores of a block that stay in the core's cache beside keys and values, and what is most of them. */
enum { BLOCK_FLOATS = 1 << 17 };

static inline int64_t padded_keys(int64_t keys) { return (keys + 31) / 32 * 32; }
static inline int64_t padded_width(int64_t width) { return (width + 31) / 32 * 32; }

/* What keys and values of a head take, laid out for products. */
static inline int64_t laid_floats(int64_t keys, int64_t width, int64_t value_width)
{
    return padded_keys(keys) * (width + padded_width(value_width));
}

/* From row to row of scores: no multiple of 2 KiB, so that rows do not stand in the same few lines of the cache. */
static inline int64_t scores_stride(int64_t keys)
{
    int64_t padded = padded_keys(keys);
    return padded % 512 ? padded : padded + 16;
}

/* The most keys that a block of rows sees. */
static inline int64_t block_keys(const struct rule *rule, int64_t keys)
{
    int64_t seen = rule->high - rule->low + MOST_BLOCK_ROWS + 32; /* a block begins at a multiple of up to 32 keys */
    return rule->low > -BEYOND && rule->high < BEYOND && seen < keys ? (seen > 0 ? seen : 0) : keys;
}

static inline int64_t block_rows(const struct rule *rule, int64_t keys)
{
    int64_t rows = BLOCK_FLOATS / (scores_stride(block_keys(rule, keys)) + 1);
    return rows < 1 ? 1 : rows < MOST_BLOCK_ROWS ? rows : MOST_BLOCK_ROWS;
}

struct norm {
    const float *weight, *bias; /* [width]; a bias may be NULL */
    float eps;
    int32_t kind;
};

/* `columns`: of a panel. The rest is told where it is defined, in native_rows.h, native_product.h and native_attend.h. */
struct kind {
    int64_t columns;
    void (*multiply)(const struct product *, const float *a, int64_t rows, const float *scales, float *c);
    void (*attend)(const struct attention *, const struct head *, float *scratch);
    void (*lay_out)(const struct attention *, const struct head *, float *laid);
    bool (*finite)(const float *c, int64_t stride, int64_t rows, int64_t columns);
    void (*add)(float *c, const float *other, int64_t count);
    void (*normalize)(const struct norm *, const float *x, int64_t width, float *y);
    void (*rotate)(float *x, const float *cosines, const float *sines, int64_t half, bool interleaved);
    void (*finish)(const struct product *, int64_t at, int64_t rows, float *c);
    const struct narrow *narrow; /* by numbers, from FLOAT16 on; NULL: there are none */
};

/* Those of one kind of vector, in the same order. */
#define MADE(kind)                                                                                        \
    multiply_##kind, attend_##kind, lay_out_##kind, finite_##kind, add_##kind, normalize_##kind, rotate_##kind, finish_##kind

#pragma GCC visibility push(hidden)
extern const struct kind kinds[];
extern const struct narrow narrow_avx2[], narrow_avx512[], narrow_avx2_vnni[], narrow_avx512_vnni[], narrow_avx512_bf16[];
extern const struct narrow narrow_avx512_amx[];
bool has_amx(void);
#pragma GCC visibility pop

#endif
