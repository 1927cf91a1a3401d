/* The attention of one head, for one kind of vector: see native_kernel.h. */

/* Make row[k] = e^(scale·row[k] − their maximum) for k < keys, and 0 from there to `end`, whole vectors.
   Returns what the row is to be multiplied by to sum up to 1. The logsumexp goes to `lse`, unless NULL. */
static TARGET float SET(exponents)(float *row, int64_t keys, int64_t end, float scale, float *lse)
{
    int64_t whole = keys / V * V, left = keys - whole;
    VECTOR times = ALL(scale), highest = ALL(-INFINITY), sum = ZERO();
    for (int64_t k = 0; k < whole; k += V)
        highest = MAX(highest, MUL(LOAD(row + k), times));
    if (left)
        highest = MAX(highest, FIRST(left, MUL(LOAD(row + whole), times), ALL(-INFINITY)));
    float most = HIGHEST(highest);
    VECTOR less = ALL(most), log2e = ALL(1.44269504088896341f);
    for (int64_t k = 0; k < whole; k += V) {
        /* Rounded as for the maximum: no exponent is over 0, however large the scores. */
        VECTOR e = SET(two_to)(MUL(SUB(MUL(LOAD(row + k), times), less), log2e));
        STORE(row + k, e);
        sum = ADD(sum, e);
    }
    if (left) {
        VECTOR e = SET(two_to)(MUL(SUB(MUL(LOAD(row + whole), times), less), log2e));
        e = FIRST(left, e, ZERO());
        STORE(row + whole, e);
        sum = ADD(sum, e);
        whole += V;
    }
    for (; whole < end; whole += V)
        STORE(row + whole, ZERO());
    float total = SUM(sum);
    if (lse)
        *lse = most + logf(total);
    return 1.0f / total;
}

/* Lay `rows` rows out as panels of their transpose: [rows / 2V, width, 2V], what is missing as 0. */
static TARGET void SET(transpose)(const float *from, int64_t stride, int64_t rows, int64_t width, float *to)
{
    for (int64_t panel = 0; panel < rows; panel += 2 * V, to += 2 * V * width) {
        int64_t there = rows - panel < 2 * V ? rows - panel : 2 * V;
        for (int64_t d = 0; d < width; d += 8) {
            int64_t deep = width - d < 8 ? width - d : 8;
            for (int64_t i = 0; i < 2 * V; i += 8)
                eight_by_eight(from + (panel + i) * stride + d, stride, there - i, deep,
                               to + d * 2 * V + i, 2 * V);
        }
    }
}

/* Attention of one head, some rows at a time, whose scores stay in the core's nearest cache. `scratch` is as
   large as heed_scratch_floats says. */
static TARGET void SET(attend)(const struct attention *of, const struct head *head, float *scratch)
{
    int64_t length = head->length, width = of->width, padded = (length + 2 * V - 1) / (2 * V) * 2 * V;
    int64_t padded_width = (width + V - 1) / V * V, v_stride = of->v_stride;
    float *keys = scratch, *scores = keys + padded * width, *values = scores + 2 * ROWS * padded;
    float row_scales[2 * ROWS];
    const float *v = head->v;
    SET(transpose)(head->k, of->k_stride, length, width, keys);
    if (padded_width != width) { /* a panel is read whole */
        for (int64_t i = 0; i < length; i++) {
            memcpy(values + i * padded_width, v + i * v_stride, width * sizeof(float));
            memset(values + i * padded_width + width, 0, (padded_width - width) * sizeof(float));
        }
        v = values;
        v_stride = padded_width;
    }
    int64_t blocks = (length + ROWS - 1) / ROWS;
    for (int64_t block = 0; block < blocks; block += 2) {
        int64_t next = block + 2 < blocks ? block + 2 : blocks;
        int64_t first = block * length / blocks, last = next * length / blocks;
        int64_t rows = last - first, seen = of->causal ? last : length, end = (seen + V - 1) / V * V;
        for (int64_t at = 0; at < seen; at += 2 * V) {
            int64_t columns = seen - at <= V ? V : 2 * V;
            struct product by = {keys + at * width, 2 * V, NULL, width, columns, of->q_stride, padded, NULL};
            SET(multiply)(&by, head->q + first * of->q_stride, rows, NULL, scores + at);
        }
        for (int64_t i = 0; i < rows; i++) {
            int64_t row = first + i, there = of->causal ? row + 1 : length;
            float *e = scores + i * padded, *lse = head->lse ? head->lse + row : NULL;
            row_scales[i] = SET(exponents)(e, there, end, of->scale, lse);
        }
        SET(put_outputs)(of, head, first, rows, scores, padded, 0, seen, row_scales);
        for (int64_t at = 0; at < width; at += 2 * V) {
            int64_t columns = width - at < 2 * V ? width - at : 2 * V;
            struct product by = {v + at, v_stride, NULL, seen, columns, padded, of->z_stride, NULL};
            SET(multiply)(&by, scores, rows, row_scales, head->z + first * of->z_stride + at);
        }
    }
}
