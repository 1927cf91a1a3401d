/* What is made of a head's weights while a block of their rows is in the nearest cache, for one kind of vector: see
   native_kernel.h. Each sum is taken in the order of rows, and of keys, whoever computes what is beside. */

/* ln x for normal positive x, off by 1e-7 of the result at most: the polynomial of Cephes' logf. */
INLINE VECTOR SET(ln)(VECTOR x)
{
    VECTOR m = MANTISSA(x), n = EXPONENT(x); /* x = m·2^n, 1 ≤ m < 2 */
    MASK high = OVER(m, ALL(1.41421356f));
    VECTOR f = SUB(CHOOSE(high, MUL(m, ALL(0.5f)), m), ALL(1.0f)), square = MUL(f, f);
    n = CHOOSE(high, ADD(n, ALL(1.0f)), n);
    VECTOR p = FMA(ALL(7.0376836292e-2f), f, ALL(-1.1514610310e-1f));
    p = FMA(p, f, ALL(1.1676998740e-1f));
    p = FMA(p, f, ALL(-1.2420140846e-1f));
    p = FMA(p, f, ALL(1.4249322787e-1f));
    p = FMA(p, f, ALL(-1.6668057665e-1f));
    p = FMA(p, f, ALL(2.0000714765e-1f));
    p = FMA(p, f, ALL(-2.4999993993e-1f));
    p = FMA(p, f, ALL(3.3333331174e-1f));
    p = FMA(n, ALL(-2.12194440e-4f), MUL(MUL(p, f), square)); /* ln 2 in two parts */
    p = FMA(square, ALL(-0.5f), p);
    return FMA(n, ALL(0.693359375f), ADD(f, p));
}

/* −Σ w·ln w of w = scale·e. */
static TARGET float SET(entropy)(const float *e, int64_t keys, float scale)
{
    VECTOR sum = ZERO(), times = ALL(scale), least = ALL(1.17549435e-38f);
    int64_t k = 0;
    for (; k + V <= keys; k += V) {
        VECTOR w = MUL(LOAD(e + k), times);
        sum = FMA(w, SET(ln)(MAX(w, least)), sum);
    }
    if (k < keys) {
        VECTOR w = FIRST(keys - k, MUL(LOAD(e + k), times), ZERO());
        sum = FMA(w, SET(ln)(MAX(w, least)), sum);
    }
    return 0.0f - SUM(sum);
}

/* to [keys] += Σ scales[i]·e[i]. */
static TARGET void SET(add_rows)(const float *e, int64_t stride, int64_t rows, int64_t keys, const float *scales,
                                 float *to)
{
    for (int64_t k = 0; k < keys; k += V) {
        VECTOR sum = ZERO();
        for (int64_t i = 0; i < rows; i++)
            sum = FMA(LOAD(e + i * stride + k), ALL(scales[i]), sum);
        if (keys - k >= V) {
            STORE(to + k, ADD(LOAD(to + k), sum));
        } else {
            float last[V];
            STORE(last, sum);
            for (int64_t j = 0; k + j < keys; j++)
                to[k + j] += last[j];
        }
    }
}

INLINE void SET(store_as)(int type, void *to, VECTOR x)
{
    if (type == FLOAT32)
        STORE((float *)to, x);
    else if (type == FLOAT16)
        STORE_FLOAT16(to, x);
    else
        STORE_BFLOAT16(to, x);
}

/* to [all_keys], numbers of `type` = a row's weights: scale·e, and 0 where there is none. */
static TARGET void SET(put_weights)(const float *e, float scale, int64_t first_key, int64_t keys, int64_t all_keys,
                                    int type, void *to)
{
    int64_t size = type == FLOAT32 ? 4 : 2, k = 0;
    char *at = (char *)to + first_key * size;
    memset(to, 0, first_key * size);
    memset(at + keys * size, 0, (all_keys - first_key - keys) * size);
    for (; k + V <= keys; k += V, at += V * size)
        SET(store_as)(type, at, MUL(LOAD(e + k), ALL(scale)));
    if (k < keys) {
        float last[V];
        SET(store_as)(type, last, MUL(LOAD(e + k), ALL(scale)));
        memcpy(at, last, (keys - k) * size);
    }
}

/* to [keys] = the larger of it and scale·e. */
static TARGET void SET(raise)(const float *e, int64_t keys, float scale, float *to)
{
    int64_t k = 0;
    for (; k + V <= keys; k += V)
        STORE(to + k, MAX(LOAD(to + k), MUL(LOAD(e + k), ALL(scale))));
    for (; k < keys; k++)
        to[k] = to[k] > e[k] * scale ? to[k] : e[k] * scale;
}

/* Add weights of a block to what is between spans: of the rows of a span, to those of each span of keys. */
static TARGET void SET(add_between_spans)(const struct outputs *of, const float *e, int64_t stride,
                                          int64_t first_row, int64_t rows, int64_t first_key, int64_t keys,
                                          const float *scales)
{
    for (int64_t a = 0; a < of->span_count; a++) {
        int64_t from = of->spans[2 * a] - first_row, to = of->spans[2 * a + 1] - first_row;
        from = from > 0 ? from : 0;
        to = to < rows ? to : rows;
        for (int64_t k = 0; from < to && k < keys; k += SPANNED) {
            int64_t there = keys - k < SPANNED ? keys - k : SPANNED, at = first_key + k;
            float sums[SPANNED] = {0}, *out = of->between_spans + a * of->span_count;
            SET(add_rows)(e + from * stride + k, stride, to - from, there, scales + from, sums);
            for (int64_t b = 0; b < of->span_count; b++) {
                int64_t start = of->spans[2 * b] - at, stop = of->spans[2 * b + 1] - at;
                float sum = 0;
                for (int64_t j = start > 0 ? start : 0; j < stop && j < there; j++)
                    sum += sums[j];
                out[b] += sum;
            }
        }
    }
}

/* Σ of a row's numbers from `from` up to `to`, each added to those of its place in a vector: so what stands before and
   behind of a row, and how much, makes no difference. */
static TARGET float SET(span)(const float *e, int64_t from, int64_t to)
{
    VECTOR sum = ZERO();
    for (int64_t k = from / V * V; k < to; k += V) {
        VECTOR x = LOAD(e + k);
        x = to - k < V ? FIRST(to - k, x, ZERO()) : x;
        sum = ADD(sum, k < from ? FIRST(from - k, ZERO(), x) : x);
    }
    return SUM(sum);
}

/* The same of several spans [count, 2] of keys, of which the row begins with `first_key` and has `keys`. */
static TARGET float SET(spans)(const float *e, int64_t first_key, int64_t keys, const int32_t *spans, int64_t count)
{
    float sum = 0;
    for (int64_t n = 0; n < count; n++) {
        int64_t from = spans[2 * n] - first_key, to = spans[2 * n + 1] - first_key;
        from = from > 0 ? from : 0;
        to = to < keys ? to : keys;
        sum += from < to ? SET(span)(e, from, to) : 0.0f;
    }
    return sum;
}

/* Add a head's part to what is mixed: of the rows of a block, which go `to`, times `scales`. */
static TARGET void SET(mix)(const struct outputs *of, const float *e, int64_t e_stride, int64_t first_key,
                            int64_t rows, int64_t keys, const int64_t *to, const float *scales)
{
    float times[MOST_BLOCK_ROWS];
    for (int64_t i = 0; i < rows; i++)
        times[i] = scales[i] * of->times;
    if (!of->columns && of->sums_rows)
        SET(add_rows)(e, e_stride, rows, keys, times, of->mixed + first_key);
    for (int64_t i = 0; i < rows && (of->columns || !of->sums_rows); i++) {
        if (to[i] < 0)
            continue;
        if (!of->columns)
            SET(add_rows)(e + i * e_stride, e_stride, 1, keys, times + i, of->mixed + to[i] * of->keys + first_key);
        for (int64_t n = 0; n < of->column_count; n++)
            of->mixed[(of->sums_rows ? 0 : to[i]) * of->column_count + n] +=
                times[i] * SET(spans)(e + i * e_stride, first_key, keys, of->columns + 2 * n, 1);
    }
}

/* Make what is wanted of a block of `rows` rows of a head's weights, the first of which is its row `first_row`. `e`
   [rows, e_stride] times row_scales [rows] are the weights of keys `first_key` on, `keys` of them; all others are 0.
   Whole vectors of a row can be read. */
static TARGET void SET(put_outputs)(const struct attention *attention, const struct head *head, int64_t first_row,
                                    int64_t rows, const float *e, int64_t e_stride, int64_t first_key,
                                    int64_t keys, const float *row_scales)
{
    const struct outputs *of = head->outputs;
    int64_t to[MOST_BLOCK_ROWS];
    float scales[MOST_BLOCK_ROWS]; /* 0 where the row is not wanted */
    int64_t wanted = 0;
    (void)attention;
    if (!of)
        return;
    for (int64_t i = 0; i < rows; i++) {
        to[i] = of->row_places ? of->row_places[first_row + i] : first_row + i;
        scales[i] = to[i] < 0 ? 0.0f : row_scales[i];
        wanted += to[i] >= 0;
        if (to[i] >= 0 && of->entropy)
            of->entropy[to[i]] = SET(entropy)(e + i * e_stride, keys, scales[i]);
        if (to[i] >= 0 && of->share) {
            float all = SET(spans)(e + i * e_stride, first_key, keys, of->over, of->over_count);
            float part = all * scales[i] > 0 ? SET(spans)(e + i * e_stride, first_key, keys, of->of, of->of_count) : 0;
            of->share[to[i]] = part > 0 ? part / all : 0;
        }
        if (to[i] >= 0 && of->weights)
            SET(put_weights)(e + i * e_stride, scales[i], first_key, keys, of->keys, of->type,
                             (char *)of->weights + to[i] * of->keys * (of->type == FLOAT32 ? 4 : 2));
    }
    if (!wanted)
        return;
    for (int64_t i = 0; i < rows && (of->weights_mean || of->weights_max); i++) {
        int64_t at = to[i] * of->keys + first_key;
        float part = scales[i] / (float)of->heads;
        if (to[i] >= 0 && of->weights_mean)
            SET(add_rows)(e + i * e_stride, e_stride, 1, keys, &part, of->weights_mean + at);
        if (to[i] >= 0 && of->weights_max)
            SET(raise)(e + i * e_stride, keys, scales[i], of->weights_max + at);
    }
    if (of->mixed)
        SET(mix)(of, e, e_stride, first_key, rows, keys, to, scales);
    if (of->between_spans)
        SET(add_between_spans)(of, e, e_stride, first_row, rows, first_key, keys, scales);
    if (of->received)
        SET(add_rows)(e, e_stride, rows, keys, scales, of->received + first_key);
    for (int64_t i = 0; i < rows && of->top_k_keys; i += V) {
        int64_t at = rows - i < V && rows >= V ? rows - V : i; /* V at once, some of them again */
        int64_t there = rows - at < V ? rows - at : V;
        SET(put_top_k)(of, e + at * e_stride, e_stride, there, first_key, keys, scales + at, to + at);
    }
}
