/* What is made for each kind of vector, float32: products, attention of one head, norms, activations. */

#ifndef HEED_KINDS_H
#define HEED_KINDS_H

#include <stdbool.h>
#include <stdint.h>

/* Sets of instructions, as models/compiled/instructions.py numbers them. */
enum { NONE, AVX2, AVX512, NEON };

/* As models/compiled/structures.py numbers them. */
enum { IDENTITY, GELU, GELU_TANH, QUICK_GELU, SILU, SIGMOID, RELU, RELU2 };
enum { NO_NORM, LAYER_NORM, ROOT_MEAN_SQUARE_NORM };
enum { FLOAT32, FLOAT16, BFLOAT16 };
enum { MOST_TOP_K = 16, MOST_BLOCK_ROWS = 32, TRANSPOSED = 64 }; /* native_outputs.h */

/* What becomes of a product while it is in the nearest cache: act(c) ⊙ times + plus. NULL: none of it. */
struct after {
    int activation;
    const float *times, *plus;
    int64_t times_stride, plus_stride;
};

/* What one call of `multiply` needs; b in one panel. */
struct product {
    const float *b;
    int64_t b_stride;
    const float *bias;
    int64_t inner, columns, a_stride, c_stride;
    const struct after *after; /* or NULL */
};

struct attention {
    int64_t width, q_stride, k_stride, v_stride, z_stride;
    float scale;
    bool causal;
};

/* What is made of weights on the way to z, for the chosen heads and rows; NULL: not wanted. `top_k_keys` brings
   along the two after it. In a call it has all chosen heads; what one head is given has its own. */
struct outputs {
    void *weights; /* [heads, rows, keys] of `type` */
    int32_t *top_k_keys;
    float *top_k_weights, *top_k_rest; /* [heads, rows, k], but the rest [heads, rows] */
    float *entropy;                    /* [heads, rows] */
    float *received;                   /* [heads, keys], what is added to */
    const int32_t *head_places, *row_places; /* of each head and row among the chosen, −1: none; NULL: all are */
    int64_t rows, keys, k;
    int32_t type;
};

struct head {
    const float *q, *k, *v;
    float *z, *lse;
    int64_t length;
    const struct outputs *outputs; /* or NULL */
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
    void (*rotate)(float *x, const float *cosines, const float *sines, int64_t half, bool interleaved);
};

#pragma GCC visibility push(hidden)
extern const struct kind kinds[];
#pragma GCC visibility pop

#endif
