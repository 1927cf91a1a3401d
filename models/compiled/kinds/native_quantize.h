/* Rows as whole numbers from 0 to 255, for one kind of vector. Included by native_narrow_avx2.c and
   native_narrow_avx512.c, which say the operations; TURN is the name of what is made. */

static TARGET void TURN(const struct linear_rows *of, int64_t rows, struct room *room)
{
    const float *x = of->x, *by = of->multipliers;
    uint8_t *to = room_rows(room);
    for (int64_t i = 0; i < rows; i++, x += of->stride, to += of->turned_stride) {
        float last[V] = {0}, last_by[V] = {0};
        int64_t whole = of->inner / V * V, left = of->inner - whole;
        memcpy(last, x + whole, left * sizeof(float));
        if (by)
            memcpy(last_by, by + whole, left * sizeof(float));
        VECTOR end = by ? MUL(LOAD(last), LOAD(last_by)) : LOAD(last);
        VECTOR low = MIN(end, ZERO()), high = MAX(end, ZERO()), sound = MUL(end, ZERO()); /* of NaN and ±∞: NaN */
        for (int64_t k = 0; k < whole; k += V) {
            VECTOR one = by ? MUL(LOAD(x + k), LOAD(by + k)) : LOAD(x + k);
            low = MIN(one, low);
            high = MAX(one, high);
            sound = FMA(one, ZERO(), sound);
        }
        /* 0 is among the whole numbers, so that it stays 0. */
        float lowest = LOWEST(low), scale = HIGHEST(high) / 255 - lowest / 255;
        float back = scale >= FLT_MIN ? 1.0f / scale : 0.0f, zero = rintf(-lowest * back);
        room->scales[i] = SUM(sound) == 0 ? (back > 0 ? scale : 0.0f) : NAN;
        room->zeros[i] = zero >= 0 && zero <= 255 ? (int32_t)zero : 0;
        VECTOR times = EACH(back), plus = EACH((float)room->zeros[i]);
        for (int64_t k = 0; k < whole; k += V)
            PUT_BYTES(to + k, FMA(by ? MUL(LOAD(x + k), LOAD(by + k)) : LOAD(x + k), times, plus));
        if (left) { /* up to a whole vector: what weights of 0 are multiplied by */
            uint8_t bytes[V];
            PUT_BYTES(bytes, FMA(end, times, plus));
            memcpy(to + whole, bytes, of->turned_stride - whole < V ? of->turned_stride - whole : V);
        }
    }
}

#undef TURN
#undef TARGET
#undef ZERO
#undef EACH
#undef MIN
#undef MAX
#undef MUL
#undef FMA
#undef SUM
#undef LOWEST
#undef HIGHEST
#undef PUT_BYTES
