/* Products of bfloat16 and int8 by AMX, for one kind of numbers. Included by native_narrow_avx512.c, once for each, whose
   vectors, rows and panels they have in common, with

   FORM(name)             the name as it is here
   NUMBER, SUMS           what rows are read as, and what of each y is summed up
   MORE(sum, row, weight) the product of two tiles, added to a third: their numbers
   PUT(sum, i, j)         y of a vector of sums, as native_narrow.h has it

   all of which are forgotten at the end. A tile has up to 16 rows of 64 bytes. One of a panel is 16 steps of 16 columns,
   so that a panel, whose rows are of 128 bytes, is two tiles beside each other. Blocks of 2·16 rows are made at once, in
   four tiles of sums. Each sum runs over the inner axis in the same order, whatever the number of rows or threads. */

#ifndef HEED_TILES_H
#define HEED_TILES_H

enum { TILE_ROWS = 16, TILE_BYTES = 64, PANEL_BYTES = 128, SUMS_STRIDE = 32 };

/* How the processor is told what its tiles are like. */
struct tile_shapes {
    uint8_t palette, first_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Compilers have functions for these, which do not all say that memory is read. */
#define SHAPE_TILES(from) __asm__ volatile("ldtilecfg (%0)" : : "r"(from) : "memory")
#define RELEASE_TILES() __asm__ volatile("tilerelease" : : : "memory")
#define ZERO_TILE(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define LOAD_TILE(tile, from, stride)                                                                           \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(stride)) : "memory")
#define STORE_TILE(tile, to, stride)                                                                            \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)(stride)) : "memory")
#define MULTIPLY_TILES(by, sum, row, weight)                                                                    \
    __asm__ volatile(by " %%tmm" #weight ", %%tmm" #row ", %%tmm" #sum : :)

/* Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights; those of the 17th row on are there where such rows are. */
static inline void shape_tiles(int64_t rows)
{
    struct tile_shapes of = {.palette = 1};
    int64_t above = rows < TILE_ROWS ? rows : TILE_ROWS;
    const int64_t each[] = {above, above, rows - above, rows - above, above, rows - above, TILE_ROWS, TILE_ROWS};
    for (int tile = 0; tile < 8; tile++) {
        of.rows[tile] = (uint8_t)each[tile];
        of.row_bytes[tile] = each[tile] ? TILE_BYTES : 0;
    }
    SHAPE_TILES(&of);
}

#endif

/* One step of a block: tiles of rows by tiles of weights. `tall`: there are two of rows; `wide`: two of weights. */
INLINE void FORM(step)(const bool tall, const bool wide, const char *a, int64_t a_bytes, const char *b)
{
    LOAD_TILE(6, b, PANEL_BYTES);
    LOAD_TILE(4, a, a_bytes);
    MORE(0, 4, 6);
    if (wide) {
        LOAD_TILE(7, b + TILE_BYTES, PANEL_BYTES);
        MORE(1, 4, 7);
    }
    if (tall) {
        LOAD_TILE(5, a + TILE_ROWS * a_bytes, a_bytes);
        MORE(2, 5, 6);
        if (wide)
            MORE(3, 5, 7);
    }
}

/* The sums of a block, [2·16, SUMS_STRIDE]: `whole` steps, and the last one by weights that stand at `last`, or NULL. */
INLINE void FORM(sum)(const bool tall, const bool wide, const char *a, int64_t a_bytes, const char *b, int64_t whole,
                      const char *last, SUMS *sums)
{
    const int64_t stride = SUMS_STRIDE * sizeof(SUMS);
    ZERO_TILE(0);
    if (wide)
        ZERO_TILE(1);
    if (tall)
        ZERO_TILE(2);
    if (tall && wide)
        ZERO_TILE(3);
    for (int64_t k = 0; k < whole; k++, a += TILE_BYTES, b += TILE_ROWS * PANEL_BYTES)
        FORM(step)(tall, wide, a, a_bytes, b);
    if (last)
        FORM(step)(tall, wide, a, a_bytes, last);
    STORE_TILE(0, sums, stride);
    if (wide)
        STORE_TILE(1, sums + V, stride);
    if (tall)
        STORE_TILE(2, sums + TILE_ROWS * SUMS_STRIDE, stride);
    if (tall && wide)
        STORE_TILE(3, sums + TILE_ROWS * SUMS_STRIDE + V, stride);
}

/* y of a block's sums, without what comes after; `i` and `j` of PUT are its row and vector. */
INLINE void FORM(put)(const struct narrow_product *by, int64_t rows, const SUMS *sums, const float *scales,
                      const int32_t *zeros, float *c)
{
    const struct product *of = &by->product;
    (void)scales, (void)zeros;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0, left = of->columns; left > 0; j++, left -= V) {
            VECTOR y = PUT(WORDS(sums + i * SUMS_STRIDE + j * V), i, j);
            y = of->bias ? ADD(y, LOAD(of->bias + j * V)) : y;
            _mm512_mask_storeu_ps(c + i * of->c_stride + j * V, (__mmask16)(left < V ? (1u << left) - 1 : 0xffff), y);
        }
}

/* As in native_narrow.h. Rows have whole lines of 64 bytes; what is in the last one beyond the inner axis is multiplied by
   0, and no NaN. */
static TARGET void FORM(multiply)(const struct narrow_product *by, const void *rows_of, int64_t rows,
                                  const float *scales, const int32_t *zeros, float *c)
{
    const struct product *of = &by->product;
    const int64_t a_bytes = of->a_stride * sizeof(NUMBER), bytes = of->inner * sizeof(NUMBER);
    const int64_t whole = bytes / TILE_BYTES, left = bytes % TILE_BYTES;
    const bool wide = of->columns > V;
    SUMS sums[2 * TILE_ROWS * SUMS_STRIDE] __attribute__((aligned(TILE_BYTES)));
    char end[TILE_ROWS * PANEL_BYTES] __attribute__((aligned(TILE_BYTES)));
    const char *a = rows_of, *b = by->b, *last = left ? end : NULL;
    if (left) { /* nothing may be read behind a panel, and no NaN of another one's is 0 times */
        int64_t there = left / 4 * PANEL_BYTES;
        memcpy(end, b + whole * TILE_ROWS * PANEL_BYTES, there);
        memset(end + there, 0, sizeof(end) - there);
    }
    for (int64_t at = 0, shaped = 0; at < rows; at += 2 * TILE_ROWS, a += 2 * TILE_ROWS * a_bytes) {
        int64_t count = rows - at < 2 * TILE_ROWS ? rows - at : 2 * TILE_ROWS;
        float *to = c + at * of->c_stride;
        if (shaped != count)
            shape_tiles(shaped = count);
        if (count > TILE_ROWS && wide)
            FORM(sum)(true, true, a, a_bytes, b, whole, last, sums);
        else if (count > TILE_ROWS)
            FORM(sum)(true, false, a, a_bytes, b, whole, last, sums);
        else if (wide)
            FORM(sum)(false, true, a, a_bytes, b, whole, last, sums);
        else
            FORM(sum)(false, false, a, a_bytes, b, whole, last, sums);
        FORM(put)(by, count, sums, scales ? scales + at : NULL, zeros ? zeros + at : NULL, to);
        if (of->after)
            by->finish(of, at, count, to);
        if (of->after && of->after->rounded)
            by->put_rounded(of, at, count, to);
    }
    RELEASE_TILES();
}

#undef FORM
#undef TARGET
#undef NUMBER
#undef SUMS
#undef MORE
#undef PUT
