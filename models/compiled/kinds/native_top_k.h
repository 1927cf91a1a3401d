/* The k largest weights of rows of a block, for one kind of vector: see native_kernel.h. Short rows are looked at
   side by side, a lane a row, with sorted lists in registers; of long ones few numbers come into question. */

/* The `depth` largest numbers of up to V rows, a lane a row, descending, of equal ones the first: values [depth] and,
   where `placed`, their places. Returns the sum of all others. No e is less than 0. */
INLINE VECTOR SET(largest)(const int depth, const bool placed, const float *e, int64_t stride, int64_t rows,
                           int64_t keys, VECTOR *values, VECTOR *places)
{
    VECTOR v[MOST_TOP_K], x[MOST_TOP_K], rest = ZERO();
    float columns[TRANSPOSED * V];
#pragma GCC unroll 16
    for (int i = 0; i < depth; i++) {
        v[i] = ALL(-1e-38f); /* less than any weight, and adds nothing to what is left out */
        x[i] = ZERO();
    }
    for (int64_t start = 0; start < keys; start += TRANSPOSED) {
        int64_t there = keys - start < TRANSPOSED ? keys - start : TRANSPOSED;
        for (int64_t k = 0; k < there; k += 8)
            for (int64_t i = 0; i < V; i += 8)
                eight_by_eight(e + i * stride + start + k, stride, rows - i, there - k < 8 ? there - k : 8,
                               columns + k * V + i, V);
        VECTOR out = ZERO();
        for (int64_t k = 0; k < there; k++) {
            VECTOR a = LOAD(columns + k * V), key = ALL((float)(start + k));
            out = ADD(out, MIN(a, v[depth - 1])); /* one of the two is not among them, or no more */
#pragma GCC unroll 16
            for (int i = depth - 1; i > 0; i--) {
                if (placed)
                    x[i] = CHOOSE(OVER(a, v[i]), CHOOSE(OVER(a, v[i - 1]), x[i - 1], key), x[i]);
                v[i] = MAX(v[i], MIN(a, v[i - 1]));
            }
            x[0] = CHOOSE(OVER(a, v[0]), key, x[0]);
            v[0] = MAX(v[0], a);
        }
        rest = ADD(rest, out);
    }
#pragma GCC unroll 16
    for (int i = 0; i < depth; i++) {
        values[i] = v[i];
        if (placed)
            places[i] = x[i];
    }
    return rest;
}

#define LARGEST(depth)                                                                                    \
    static TARGET VECTOR SET(largest_##depth)(const float *e, int64_t stride, int64_t rows, int64_t keys, \
                                              VECTOR *values, VECTOR *places)                             \
    {                                                                                                     \
        return places ? SET(largest)(depth, true, e, stride, rows, keys, values, places)                  \
                      : SET(largest)(depth, false, e, stride, rows, keys, values, NULL);                  \
    }
LARGEST(4)
LARGEST(8)
LARGEST(16)
#undef LARGEST

static TARGET VECTOR SET(largest_of)(int64_t depth, const float *e, int64_t stride, int64_t rows, int64_t keys,
                                     VECTOR *values, VECTOR *places)
{
    if (depth == 4)
        return SET(largest_4)(e, stride, rows, keys, values, places);
    if (depth == 8)
        return SET(largest_8)(e, stride, rows, keys, values, places);
    return SET(largest_16)(e, stride, rows, keys, values, places);
}

/* The largest numbers of a row by classes: to [CLASSES], those of the keys that are the same modulo CLASSES. */
INLINE void SET(class_maxima)(const float *e, int64_t keys, float *to)
{
    VECTOR most[CLASSES / V];
    int64_t k = 0;
    for (int i = 0; i < CLASSES / V; i++)
        most[i] = ZERO();
    for (; k + CLASSES <= keys; k += CLASSES)
#pragma GCC unroll 8
        for (int i = 0; i < CLASSES / V; i++)
            most[i] = MAX(LOAD(e + k + i * V), most[i]);
    for (int i = 0; i < CLASSES / V; i++)
        STORE(to + i * V, most[i]);
    for (; k < keys; k++) {
        float *one = to + k % CLASSES;
        *one = e[k] > *one ? e[k] : *one;
    }
}

/* Sort numbers and their places, descending, of equal ones the first, and drop all after the first k: *rest grows. */
static void SET(keep)(float *values, float *places, int64_t count, int64_t k, float *rest)
{
    for (int64_t i = 1, j; i < count; i++) {
        float value = values[i], place = places[i];
        for (j = i; j > 0 && values[j - 1] < value; j--) {
            values[j] = values[j - 1];
            places[j] = places[j - 1];
        }
        values[j] = value;
        places[j] = place;
    }
    for (int64_t i = k; i < count; i++)
        *rest += values[i];
}

/* Those numbers of a row that may be among its k largest, each over `cut`: values and places, whose count is returned.
   *rest: the sum of all others. */
static TARGET int64_t SET(sift)(const float *e, int64_t keys, int64_t k, float cut, float *values, float *places,
                                float *rest)
{
    static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    VECTOR others = ZERO(), least = ALL(cut);
    float dropped = 0;
    int64_t count = 0;
    for (int64_t at = 0; at < keys; at += V) {
        VECTOR a = LOAD(e + at);
        if (keys - at < V)
            a = FIRST(keys - at, a, ALL(-1.0f));
        MASK over = OVER(a, least);
        others = ADD(others, CHOOSE(over, ZERO(), MAX(a, ZERO())));
        if (!BITS(over))
            continue;
        COMPRESS(values + count, over, a);
        COMPRESS(places + count, over, ADD(LOAD(lanes), ALL((float)at)));
        count += __builtin_popcount(BITS(over));
        if (count + V > SIFTED) {
            SET(keep)(values, places, count, k, &dropped);
            least = ALL(values[k - 1]);
            count = k;
        }
    }
    *rest = SUM(others) + dropped;
    return count;
}

/* The largest floating-point number below x, which is at least 0; for 0, one that adds nothing. */
static inline float SET(below)(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits -= 1;
    memcpy(&x, &bits, sizeof bits);
    return bits == UINT32_MAX ? -1e-38f : x;
}

/* As `largest` for rows of many keys: a k-th largest of class maxima is no more than the k-th largest of all, and
   few are over it. */
static TARGET VECTOR SET(largest_of_long)(int64_t depth, const float *e, int64_t stride, int64_t rows, int64_t keys,
                                          int64_t k, VECTOR *values, float places[][V])
{
    float maxima[V * CLASSES], cuts[V], kept[V * SIFTED], at[V * SIFTED], rests[V] = {0};
    int64_t counts[V] = {0}, widest = depth;
    VECTOR x[MOST_TOP_K];
    for (int64_t i = 0; i < rows; i++)
        SET(class_maxima)(e + i * stride, keys, maxima + i * CLASSES);
    SET(largest_of)(depth, maxima, CLASSES, rows, CLASSES, values, NULL);
    STORE(cuts, values[k - 1]);
    for (int64_t i = 0; i < rows; i++) {
        counts[i] = SET(sift)(e + i * stride, keys, k, SET(below)(cuts[i]), kept + i * SIFTED, at + i * SIFTED,
                              rests + i);
        widest = counts[i] > widest ? counts[i] : widest;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = counts[i]; j < widest; j++)
            kept[i * SIFTED + j] = at[i * SIFTED + j] = 0.0f; /* behind those that are 0 */
    VECTOR rest = ADD(LOAD(rests), SET(largest_of)(depth, kept, SIFTED, rows, widest, values, x));
    for (int64_t j = 0; j < depth; j++) {
        STORE(places[j], x[j]);
        for (int64_t i = 0; i < rows; i++)
            places[j][i] = at[i * SIFTED + (int64_t)places[j][i]];
    }
    return rest;
}

/* The k largest weights of up to V rows, and what is left out. `to`: where each row is put, less than 0: nowhere. */
static TARGET void SET(put_top_k)(const struct outputs *of, const float *e, int64_t stride, int64_t rows,
                                  int64_t first_key, int64_t keys, const float *scales, const int64_t *to)
{
    VECTOR v[MOST_TOP_K], x[MOST_TOP_K], rest;
    float values[MOST_TOP_K][V], places[MOST_TOP_K][V], left[V], by[V] = {0};
    int64_t k = of->k, depth = k <= 4 ? 4 : k <= 8 ? 8 : MOST_TOP_K, found = keys < k ? keys : k;
    if (keys >= (V < 16 ? 256 : 640)) { /* measured */
        rest = SET(largest_of_long)(depth, e, stride, rows, keys, k, v, places);
    } else {
        rest = SET(largest_of)(depth, e, stride, rows, keys, v, x);
        for (int64_t i = 0; i < depth; i++)
            STORE(places[i], x[i]);
    }
    memcpy(by, scales, rows * sizeof(float));
    VECTOR times = LOAD(by);
    for (int64_t i = 0; i < depth; i++) {
        STORE(values[i], MUL(v[i], times));
        if (i >= k)
            rest = ADD(rest, v[i]);
    }
    STORE(left, MAX(ZERO(), MUL(rest, times)));
    for (int64_t i = 0; i < rows; i++) {
        if (to[i] < 0)
            continue;
        int32_t *keys_to = of->top_k_keys + to[i] * k;
        float *weights_to = of->top_k_weights + to[i] * k;
        for (int64_t j = 0; j < found; j++) {
            keys_to[j] = (int32_t)(first_key + (int64_t)places[j][i]);
            weights_to[j] = values[j][i];
        }
        for (int64_t j = found, key = first_key ? 0 : keys; j < k; j++) { /* of those that are 0, the first */
            keys_to[j] = (int32_t)key;
            weights_to[j] = 0.0f;
            if (++key == first_key)
                key += keys;
        }
        of->top_k_rest[to[i]] = left[i];
    }
}
