/* Products whose weights are kept in narrower numbers than float32, for one kind of numbers and one set of
   instructions. Included by native_narrow_avx2.c and native_narrow_avx512.c, once for each, with

   FORM(name)      the name as it is here
   TARGET          the attribute of functions that use it
   V, ROWS         numbers of y a vector; rows that are made at once
   STEP            inputs that stand beside each other in a panel: [inner / STEP, 2·V or V columns, STEP]
   PARTS           in how many parts those of a step are multiplied
   NUMBER          what a row is read as; WEIGHT_BYTES of one number of a panel
   SUMS, NOTHING() a vector of sums, and 0
   WEIGHTS, WEIGHT(p, part), ROW(p, part), MORE(sum, row, weight): a part of a step
   PUT(sum, i, j)  y of row i and vector j, still without a bias; `by`, `scales` and `zeros` are at hand
   LOAD, STORE, ADD: float32

   all of which are forgotten at the end. Each sum runs over the inner axis in the same order, whatever the number of
   rows or threads. */

#ifndef HEED_NARROW_H
#define HEED_NARROW_H

#define INLINE static inline __attribute__((always_inline)) TARGET
#define PREFETCHED_STEPS 16 /* steps of a panel that are fetched before they are needed */

static inline int32_t four_bytes(const void *from)
{
    int32_t all;
    memcpy(&all, from, sizeof(all));
    return all;
}

#endif

INLINE void FORM(block)(const int rows, const int wide, const struct narrow_product *by, const NUMBER *a,
                        const float *scales, const int32_t *zeros, float *c)
{
    SUMS sum[ROWS][2];
    const struct product *of = &by->product;
    const char *b = by->b;
    const int64_t step_bytes = of->b_stride * STEP * WEIGHT_BYTES, whole = of->inner / STEP * STEP;
    const int64_t second = V * STEP * WEIGHT_BYTES, prefetched = PREFETCHED_STEPS * step_bytes;
    (void)scales, (void)zeros;
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < wide; j++)
            sum[i][j] = NOTHING();
#pragma GCC unroll 1
    for (int64_t k = 0; k < whole; k += STEP, b += step_bytes) {
        __builtin_prefetch(b + prefetched);
        __builtin_prefetch(b + prefetched + second);
#pragma GCC unroll 1
        for (int part = 0; part < PARTS; part++) {
            WEIGHTS b0 = WEIGHT(b, part), b1 = wide == 2 ? WEIGHT(b + second, part) : b0;
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++) {
                WEIGHTS one = ROW(a + i * of->a_stride + k, part);
                sum[i][0] = MORE(sum[i][0], one, b0);
                if (wide == 2)
                    sum[i][1] = MORE(sum[i][1], one, b1);
            }
        }
    }
    if (sizeof(NUMBER) == sizeof(float) && whole < of->inner) { /* turned rows are filled up to whole steps */
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            NUMBER last[STEP] = {0};
            memcpy(last, a + i * of->a_stride + whole, (of->inner - whole) * sizeof(NUMBER));
#pragma GCC unroll 1
            for (int part = 0; part < PARTS; part++)
                for (int j = 0; j < wide; j++)
                    sum[i][j] = MORE(sum[i][j], ROW(last, part), WEIGHT(b + j * second, part));
        }
    }
    VECTOR y[ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < wide; j++)
            y[i][j] = PUT(sum[i][j], i, j);
    if (of->bias) {
        VECTOR b0 = LOAD(of->bias), b1 = wide == 2 ? LOAD(of->bias + V) : b0;
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            y[i][0] = ADD(y[i][0], b0);
            if (wide == 2)
                y[i][1] = ADD(y[i][1], b1);
        }
    }
    if (of->columns == wide * V) {
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < wide; j++)
                STORE(c + i * of->c_stride + j * V, y[i][j]);
        return;
    }
    float row[2 * V];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < wide; j++)
            STORE(row + j * V, y[i][j]);
        memcpy(c + i * of->c_stride, row, of->columns * sizeof(float));
    }
}

#define BLOCK(n)                                                                                               \
    static TARGET void FORM(one_##n)(const struct narrow_product *by, const NUMBER *a, const float *s,                \
                                     const int32_t *z, float *c)                                               \
    {                                                                                                          \
        FORM(block)(n, 1, by, a, s, z, c);                                                                     \
    }                                                                                                          \
    static TARGET void FORM(two_##n)(const struct narrow_product *by, const NUMBER *a, const float *s,                \
                                     const int32_t *z, float *c)                                               \
    {                                                                                                          \
        FORM(block)(n, 2, by, a, s, z, c);                                                                     \
    }
BLOCKS(BLOCK)
#undef BLOCK

/* Multiply `rows` rows by one panel, shared out evenly; `scales` and `zeros` of each row, where there are such. */
static void FORM(multiply)(const struct narrow_product *by, const void *rows_of, int64_t rows, const float *scales,
                           const int32_t *zeros, float *c)
{
#define BLOCK(n) {FORM(one_##n), FORM(two_##n)},
    static void (*const made[ROWS + 1][2])(const struct narrow_product *, const NUMBER *, const float *,
                                           const int32_t *, float *) = {{NULL, NULL}, BLOCKS(BLOCK)};
#undef BLOCK
    const struct product *of = &by->product;
    const NUMBER *a = rows_of;
    int64_t parts = (rows + ROWS - 1) / ROWS;
    for (int64_t part = 0, at = 0; part < parts; part++) {
        int64_t end = (part + 1) * rows / parts;
        float *to = c + at * of->c_stride;
        made[end - at][of->columns > V](by, a + at * of->a_stride, scales ? scales + at : NULL,
                                        zeros ? zeros + at : NULL, to);
        if (of->after)
            by->finish(of, at, end - at, to);
        if (of->after && of->after->rounded)
            by->put_rounded(of, at, end - at, to);
        at = end;
    }
}

#undef FORM
#undef TARGET
#undef ROWS
#undef BLOCKS
#undef STEP
#undef PARTS
#undef NUMBER
#undef WEIGHT_BYTES
#undef SUMS
#undef NOTHING
#undef WEIGHTS
#undef WEIGHT
#undef ROW
#undef MORE
#undef PUT
