/* Products and attention of one head, for one kind of vector. Included once for each, with

   SET(name)  the name as this kind of vector has it
   TARGET     the attribute of functions that use it
   V, ROWS    floats a vector; rows of a product that are made at once
   and the operations on vectors below.

   A product's second factor comes in panels of 2·V columns, or of V where no more are left: [inner, columns].
   Each sum runs over the inner axis in the same order, whatever the number of rows or threads: bits do not
   depend on what a row is computed beside. */

#define INLINE static inline __attribute__((always_inline)) TARGET

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

/* c [rows, columns] = a [rows, inner] · b [inner, wide·V] + bias, all in registers: `rows` and `wide` are constants. */
INLINE void SET(block)(const int rows, const int wide, const struct product *of, const float *a, float *c)
{
    VECTOR sum[ROWS][2], whole[ROWS][2];
    const float *b = of->b;
    const int64_t ahead = AHEAD * of->b_stride;
    int64_t k = 0;
    bool before = false; /* whether `whole` has sums of earlier parts */
    for (;;) {
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < wide; j++)
                sum[i][j] = ZERO();
        int64_t end = k + SET(inner_block) < of->inner ? k + SET(inner_block) : of->inner;
#pragma GCC unroll 4
        for (; k < end; k++, b += of->b_stride) {
            VECTOR b0 = LOAD(b), b1 = wide == 2 ? LOAD(b + V) : b0;
            __builtin_prefetch(b + ahead);
            __builtin_prefetch(b + ahead + V);
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
    SET(store)(c, of->c_stride, sum, rows, wide, of->columns);
}

#define BLOCK(n)                                                                                          \
    static TARGET void SET(one_##n)(const struct product *of, const float *a, float *c)                   \
    {                                                                                                     \
        SET(block)(n, 1, of, a, c);                                                                       \
    }                                                                                                     \
    static TARGET void SET(two_##n)(const struct product *of, const float *a, float *c)                   \
    {                                                                                                     \
        SET(block)(n, 2, of, a, c);                                                                       \
    }
BLOCKS(BLOCK)
#undef BLOCK

/* Multiply `rows` rows by one panel. They are shared out evenly: few rows at once use the multipliers badly. */
static TARGET void SET(multiply)(const struct product *of, const float *a, int64_t rows, float *c)
{
#define BLOCK(n) {SET(one_##n), SET(two_##n)},
    static void (*const made[ROWS + 1][2])(const struct product *, const float *, float *) = {
        {NULL, NULL}, BLOCKS(BLOCK)};
#undef BLOCK
    int64_t parts = (rows + ROWS - 1) / ROWS;
    for (int64_t part = 0, at = 0; part < parts; part++) {
        int64_t end = (part + 1) * rows / parts;
        made[end - at][of->columns > V](of, a + at * of->a_stride, c + at * of->c_stride);
        at = end;
    }
}

/* e^x for x ≤ 0 to 2 units in the last place; 0 below −87, NaN for NaN (Moshier's Cephes, expf). */
INLINE VECTOR SET(exp)(VECTOR x)
{
    VECTOR y = MAX(ALL(-87.0f), x); /* in this order NaN stays */
    VECTOR n = ROUND(MUL(y, ALL(1.44269504088896341f)));
    VECTOR r = FMA(n, ALL(-0.693359375f), y);
    r = FMA(n, ALL(2.12194440e-4f), r);
    VECTOR p = FMA(ALL(1.9875691500e-4f), r, ALL(1.3981999507e-3f));
    p = FMA(p, r, ALL(8.3334519073e-3f));
    p = FMA(p, r, ALL(4.1665795894e-2f));
    p = FMA(p, r, ALL(1.6666665459e-1f));
    p = FMA(p, r, ALL(5.0000001201e-1f));
    p = ADD(FMA(p, MUL(r, r), r), ALL(1.0f));
    return UNLESS_LESS(x, ALL(-87.0f), TIMES_TWO_TO(p, n));
}

/* Softmax of scale·row over its first `keys`; the rest up to `room`, whole vectors, becomes 0. The logsumexp
   goes to `lse`, unless that is NULL. */
static TARGET void SET(softmax)(float *row, int64_t keys, int64_t room, float scale, float *lse)
{
    int64_t end = (keys + V - 1) / V * V;
    for (int64_t k = 0; k < end; k += V)
        STORE(row + k, MUL(LOAD(row + k), ALL(scale)));
    for (int64_t k = keys; k < end; k++)
        row[k] = -INFINITY;
    for (int64_t k = end; k < room; k++)
        row[k] = 0.0f;
    VECTOR highest = LOAD(row), sum = ZERO();
    for (int64_t k = V; k < end; k += V)
        highest = MAX(highest, LOAD(row + k));
    float most = HIGHEST(highest);
    for (int64_t k = 0; k < end; k += V) {
        VECTOR e = SET(exp)(SUB(LOAD(row + k), ALL(most)));
        STORE(row + k, e);
        sum = ADD(sum, e);
    }
    float total = SUM(sum);
    VECTOR part = ALL(1.0f / total);
    for (int64_t k = 0; k < end; k += V)
        STORE(row + k, MUL(LOAD(row + k), part));
    if (lse)
        *lse = most + logf(total);
}

/* Lay `rows` rows out as panels of their transpose: [rows / 2V, width, 2V], what is missing as 0. */
static TARGET void SET(turn)(const float *from, int64_t stride, int64_t rows, int64_t width, float *to)
{
    for (int64_t panel = 0; panel < rows; panel += 2 * V, to += 2 * V * width) {
        int64_t there = rows - panel < 2 * V ? rows - panel : 2 * V;
        for (int64_t d = 0; d < width; d += 8) {
            int64_t deep = width - d < 8 ? width - d : 8;
            for (int64_t i = 0; i < 2 * V; i += 8)
                eight_by_eight(from + (panel + i) * stride + d, stride, there - i, deep, to + d * 2 * V + i, 2 * V);
        }
    }
}

/* Attention of one head: the weights [length, room] in `scores`, z into its place. `spare` is as large as
   `spare_floats` says. */
static TARGET void SET(attend)(const struct attention *of, const struct head *head, float *spare)
{
    int64_t length = head->length, width = of->width, room = (length + 2 * V - 1) / (2 * V) * 2 * V;
    int64_t wide = (width + V - 1) / V * V;
    float *keys = spare, *scores = keys + room * width, *values = scores + length * room;
    SET(turn)(head->k, of->k_stride, length, width, keys);
    for (int64_t at = 0; at < length; at += 2 * V) {
        int64_t columns = length - at <= V ? V : 2 * V;
        struct product by = {keys + at * width, 2 * V, NULL, width, columns, of->q_stride, room};
        SET(multiply)(&by, head->q, length, scores + at);
    }
    for (int64_t i = 0; i < length; i++) {
        float *lse = head->lse ? head->lse + i : NULL;
        SET(softmax)(scores + i * room, of->causal ? i + 1 : length, room, of->scale, lse);
        if (head->weights)
            memcpy(head->weights + i * length, scores + i * room, length * sizeof(float));
    }
    const float *v = head->v;
    int64_t v_stride = of->v_stride;
    if (wide != width) { /* a panel is read whole */
        for (int64_t i = 0; i < length; i++) {
            memcpy(values + i * wide, v + i * v_stride, width * sizeof(float));
            memset(values + i * wide + width, 0, (wide - width) * sizeof(float));
        }
        v = values;
        v_stride = wide;
    }
    for (int64_t at = 0; at < width; at += 2 * V) {
        int64_t columns = width - at < 2 * V ? width - at : 2 * V;
        struct product by = {v + at, v_stride, NULL, length, columns, room, of->z_stride};
        SET(multiply)(&by, scores, length, head->z + at);
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

#undef INLINE
#undef SET
#undef TARGET
#undef V
#undef ROWS
#undef BLOCKS
#undef VECTOR
#undef ZERO
#undef ALL
#undef LOAD
#undef STORE
#undef ADD
#undef MUL
#undef SUB
#undef MAX
#undef SUM
#undef HIGHEST
#undef FMA
#undef ROUND
#undef TIMES_TWO_TO
#undef UNLESS_LESS
