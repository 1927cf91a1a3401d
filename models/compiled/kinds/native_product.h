/* Products, for one kind of vector: see native_kernel.h.

   A product's second factor comes in panels of 2·V columns, or of V where no more are left: [inner, columns].
   Each sum runs over the inner axis in the same order, whatever the number of rows or threads: bits do not
   depend on what a row is computed beside. */

enum { SET(inner_block) = 384 }; /* longer sums are made of parts: rounding errors stay small */

INLINE void SET(store)(float *to, int64_t stride, VECTOR values[][2], int rows, int wide, int columns)
{
    if (columns == wide * V) {
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < wide; j++)
                STORE(to + i * stride + j * V, values[i][j]);
        return;
    }
    float row[2 * V];
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < wide; j++)
            STORE(row + j * V, values[i][j]);
        memcpy(to + i * stride, row, columns * sizeof(float));
    }
}

/* c [rows, columns] = (a [rows, inner] · b [inner, wide·V] + bias) · scales [rows], all in registers; bias
   and scales may be NULL. `rows` and `wide` are constants to the compiler. */
INLINE void SET(block)(const int rows, const int wide, const struct product *of, const float *a,
                       const float *scales, float *c)
{
    VECTOR sum[ROWS][2], whole[ROWS][2];
    const float *b = of->b;
    const int64_t prefetched = PREFETCHED_ROWS * of->b_stride;
    int64_t k = 0;
    bool before = false; /* whether `whole` has sums of earlier parts */
    for (;;) {
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < wide; j++)
                sum[i][j] = ZERO();
        int64_t end = k + SET(inner_block) - (k ? 0 : of->begun);
        end = end < of->inner ? end : of->inner;
#pragma GCC unroll 4
        for (; k < end; k++, b += of->b_stride) {
            VECTOR b0 = LOAD(b), b1 = wide == 2 ? LOAD(b + V) : b0;
            __builtin_prefetch(b + prefetched);
            __builtin_prefetch(b + prefetched + V);
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++) {
                VECTOR one = ALL(a[i * of->a_stride + k]);
                sum[i][0] = FMA(one, b0, sum[i][0]);
                if (wide == 2)
                    sum[i][1] = FMA(one, b1, sum[i][1]);
            }
        }
        if (before) {
#pragma GCC unroll 14
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < wide; j++)
                    sum[i][j] = ADD(whole[i][j], sum[i][j]);
        }
        if (end == of->inner)
            break;
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < wide; j++)
                whole[i][j] = sum[i][j];
        before = true;
    }
    if (of->bias) {
        VECTOR b0 = LOAD(of->bias), b1 = wide == 2 ? LOAD(of->bias + V) : b0;
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            sum[i][0] = ADD(sum[i][0], b0);
            if (wide == 2)
                sum[i][1] = ADD(sum[i][1], b1);
        }
    }
    if (scales) {
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < wide; j++)
                sum[i][j] = MUL(sum[i][j], ALL(scales[i]));
    }
    SET(store)(c, of->c_stride, sum, rows, wide, of->columns);
}

#define BLOCK(n)                                                                                          \
    static TARGET void SET(one_##n)(const struct product *of, const float *a, const float *s, float *c)   \
    {                                                                                                     \
        SET(block)(n, 1, of, a, s, c);                                                                    \
    }                                                                                                     \
    static TARGET void SET(two_##n)(const struct product *of, const float *a, const float *s, float *c)   \
    {                                                                                                     \
        SET(block)(n, 2, of, a, s, c);                                                                    \
    }
BLOCKS(BLOCK)
#undef BLOCK

/* Multiply `rows` rows by one panel, shared out evenly: few rows at once use the multipliers badly. */
static TARGET void SET(multiply)(const struct product *of, const float *a, int64_t rows, const float *scales,
                                 float *c)
{
#define BLOCK(n) {SET(one_##n), SET(two_##n)},
    static void (*const made[ROWS + 1][2])(const struct product *, const float *, const float *, float *) = {
        {NULL, NULL}, BLOCKS(BLOCK)};
#undef BLOCK
    int64_t parts = (rows + ROWS - 1) / ROWS;
    for (int64_t part = 0, at = 0; part < parts; part++) {
        int64_t end = (part + 1) * rows / parts;
        const float *own_scales = scales ? scales + at : NULL;
        float *to = c + at * of->c_stride;
        made[end - at][of->columns > V](of, a + at * of->a_stride, own_scales, to);
        if (of->after)
            SET(finish)(of, at, end - at, to);
        at = end;
    }
}

/* Whether all of c [rows, columns] is finite. */
static TARGET bool SET(finite)(const float *c, int64_t stride, int64_t rows, int64_t columns)
{
    VECTOR sum = ZERO();
    float last = 0;
    for (int64_t i = 0; i < rows; i++, c += stride) {
        int64_t j = 0;
        for (; j + V <= columns; j += V)
            sum = FMA(LOAD(c + j), ZERO(), sum); /* ±∞·0 and NaN·0 are NaN */
        for (; j < columns; j++)
            last += c[j] * 0.0f;
    }
    return last + SUM(sum) == 0;
}
