/* What is made for each kind of vector, float32: products, attention of one head, norms, activations; and products of
   weights in narrower numbers, for each set of instructions that has its own. */

#ifndef HEED_KINDS_H
#define HEED_KINDS_H

#include <stdbool.h>
#include <stdint.h>

/* Sets of instructions. The last three are the first two with dot products of narrower numbers, and have all else in
   common with them; AVX512_BF16 has those of AVX512_VNNI too. */
enum { NONE, AVX2, AVX512, AVX2_VNNI, AVX512_VNNI, AVX512_BF16, SETS };

#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define COMPILER_KNOWS_DOTS 1
#endif

/* As models/compiled/structures.py numbers them. */
enum { FLOAT32, BFLOAT16, FLOAT16, INT8 };
enum { IDENTITY, GELU, GELU_TANH, QUICK_GELU, SILU, SIGMOID, RELU, RELU2, ROUGH_GELU };
enum { NO_NORM, LAYER_NORM, ROOT_MEAN_SQUARE_NORM };

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

struct attention {
    int64_t width, q_stride, k_stride, v_stride, z_stride;
    float scale;
    bool causal;
};

struct head {
    const float *q, *k, *v;
    float *z, *lse, *weights;
    int64_t length;
};

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
    bool (*finite)(const float *c, int64_t stride, int64_t rows, int64_t columns);
    void (*add)(float *c, const float *other, int64_t count);
    void (*normalize)(const struct norm *, const float *x, int64_t width, float *y);
    void (*finish)(const struct product *, int64_t at, int64_t rows, float *c);
    const struct narrow *narrow; /* by numbers, from BFLOAT16 on */
};

#pragma GCC visibility push(hidden)
extern const struct kind kinds[];
extern const struct narrow narrow_avx2[], narrow_avx512[], narrow_avx2_vnni[], narrow_avx512_vnni[], narrow_avx512_bf16[];
#pragma GCC visibility pop

#endif
