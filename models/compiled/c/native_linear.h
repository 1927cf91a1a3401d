/* A linear layer in tasks that threads share: each one panel of its weight times one block of rows. A task's part of
   x stays in the core's cache while a panel goes over it. */

#ifndef HEED_LINEAR_H
#define HEED_LINEAR_H

#include "../kinds/native_kinds.h"

#include <stddef.h>
#include <stdint.h>

/* y [rows, out] = x [rows, inner] · Wᵀ + b; the weight in panels [out / columns, inner, columns], its last one and
   the bias filled up with 0. Narrower numbers stand in panels [out / columns, inner / step, columns, step]: struct
   narrow. Of int8, `scales` and `sums` are those of each row of W, and x is multiplied by `multipliers` [inner] first,
   unless NULL. */
struct linear {
    const void *weight;
    const float *bias, *scales, *multipliers;
    const int32_t *sums;
    int64_t inner, out, numbers;
};

/* What a task makes of y. */
struct tile {
    int64_t row, rows, column, columns;
};

static inline int64_t blocks_of(int64_t rows)
{
    return (rows + MOST_TILE_ROWS - 1) / MOST_TILE_ROWS;
}

static inline int64_t panels_of(const struct linear *by, int instructions)
{
    return (by->out + kinds[instructions].columns - 1) / kinds[instructions].columns;
}

static inline int64_t linear_tasks(const struct linear *by, int64_t rows, int instructions)
{
    return blocks_of(rows) * panels_of(by, instructions);
}

static inline struct tile linear_tile(const struct linear *by, int64_t rows, int instructions, int64_t task)
{
    int64_t panels = panels_of(by, instructions), blocks = blocks_of(rows), at_once = kinds[instructions].columns;
    int64_t block = task / panels, column = task % panels * at_once;
    int64_t start = block * rows / blocks, end = (block + 1) * rows / blocks;
    return (struct tile){start, end - start, column, by->out - column < at_once ? by->out - column : at_once};
}

/* How many numbers a turned row has with what is between rows: whole cache lines, and no whole pages, which would
   stand in the same few lines of the nearest cache. */
static inline int64_t turned_stride(const struct narrow *narrow, int64_t inner)
{
    int64_t bytes = (inner * narrow->row_bytes + 63) / 64 * 64;
    return (bytes % 4096 ? bytes : bytes + 64) / (narrow->row_bytes ? narrow->row_bytes : 1);
}

/* The room of one of the threads of a call, and all of them with nothing in them. */
static inline struct room *room_of(void *rooms, int64_t room_bytes, int who)
{
    return rooms ? (struct room *)((char *)rooms + who * room_bytes) : NULL;
}

static inline void empty_rooms(void *rooms, int64_t room_bytes, int threads)
{
    for (int who = 0; who < threads && rooms; who++)
        room_of(rooms, room_bytes, who)->x = NULL;
}

/* Multiply a tile by narrower numbers; `product` has all of it but these and x. */
static inline void multiply_narrow(const struct linear *by, const float *x, int64_t x_stride, struct tile tile,
                                   const struct kind *kind, struct room *room, struct product product, float *to)
{
    const struct narrow *narrow = kind->narrow + by->numbers;
    int64_t padded = (by->inner + narrow->step - 1) / narrow->step * narrow->step;
    const float *first = x + tile.row * x_stride;
    struct narrow_product whole = {
        product, (const char *)by->weight + tile.column * padded * narrow->bytes,
        by->scales ? by->scales + tile.column : NULL, by->sums ? by->sums + tile.column : NULL, kind->finish,
        kind->narrow[BFLOAT16].put_rounded};
    if (!narrow->turn) {
        narrow->multiply(&whole, first, tile.rows, NULL, NULL, to);
        return;
    }
    whole.product.a_stride = turned_stride(narrow, by->inner);
    whole.product.inner = padded;
    if (room->x != first || room->numbers != by->numbers || room->multipliers != by->multipliers) {
        struct linear_rows rows = {first, by->multipliers, x_stride, by->inner, whole.product.a_stride};
        narrow->turn(&rows, tile.rows, room);
        room->x = first;
        room->numbers = by->numbers;
        room->multipliers = by->multipliers;
    }
    narrow->multiply(&whole, room_rows(room), tile.rows, room->scales, room->zeros, to);
}

/* Make a tile of y of rows that are bfloat16 already, as `turned_stride` says, by a weight that reads them so. */
static inline void linear_make_rounded(const struct linear *by, const uint16_t *x, struct tile tile, int instructions,
                                       const struct after *after, float *to, int64_t stride)
{
    const struct kind *kind = kinds + instructions;
    const struct narrow *narrow = kind->narrow + BFLOAT16;
    int64_t padded = (by->inner + 1) / 2 * 2, x_stride = turned_stride(narrow, by->inner);
    struct narrow_product whole = {
        {.b_stride = kind->columns, .bias = by->bias ? by->bias + tile.column : NULL, .inner = padded,
         .columns = tile.columns, .a_stride = x_stride, .c_stride = stride, .after = after},
        (const uint16_t *)by->weight + tile.column * padded, NULL, NULL, kind->finish, NULL};
    narrow->multiply(&whole, x + tile.row * x_stride, tile.rows, NULL, NULL, to);
}

/* Make a tile of y at `to`, whose rows are `stride` apart; `after` may be NULL. `room`: the thread's own, for narrower
   numbers. x is not written between the calls of one job that read it. */
static inline void linear_make(const struct linear *by, const float *x, int64_t x_stride, struct tile tile,
                               int instructions, struct room *room, const struct after *after, float *to,
                               int64_t stride)
{
    const struct kind *kind = kinds + instructions;
    struct product product = {.b_stride = kind->columns, .bias = by->bias ? by->bias + tile.column : NULL,
                              .inner = by->inner, .columns = tile.columns, .a_stride = x_stride,
                              .c_stride = stride, .after = after};
    if (by->numbers != FLOAT32) {
        multiply_narrow(by, x, x_stride, tile, kind, room, product, to);
        return;
    }
    product.b = (const float *)by->weight + tile.column * by->inner;
    kind->multiply(&product, x + tile.row * x_stride, tile.rows, NULL, to);
}

#endif
