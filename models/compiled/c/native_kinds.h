/* What is made for each kind of vector, float32: products, attention of one head, norms, activations. */

#ifndef HEED_KINDS_H
#define HEED_KINDS_H

#include <stdbool.h>
#include <stdint.h>

/* Sets of instructions, as models/compiled/instructions.py numbers them. */
enum { NONE, AVX2, AVX512 };

/* As models/compiled/structures.py numbers them. */
enum { IDENTITY, GELU, GELU_TANH, QUICK_GELU, SILU, SIGMOID, RELU, RELU2 };
enum { NO_NORM, LAYER_NORM, ROOT_MEAN_SQUARE_NORM };

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
};

#pragma GCC visibility push(hidden)
extern const struct kind kinds[];
#pragma GCC visibility pop

#endif
