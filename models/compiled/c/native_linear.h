/* A linear layer in tasks that threads share: each one panel of its weight times one block of rows. A task's part of
   x stays in the core's cache while a panel goes over it. */

#ifndef HEED_LINEAR_H
#define HEED_LINEAR_H

#include "native_kinds.h"

#include <stddef.h>
#include <stdint.h>

/* y [rows, out] = x [rows, inner] · Wᵀ + b; the weight in panels [out / columns, inner, columns], its last one and
   the bias filled up with 0. */
struct linear {
    const float *weight, *bias;
    int64_t inner, out;
};

/* What a task makes of y. */
struct tile {
    int64_t row, rows, column, columns;
};

enum { MOST_TILE_ROWS = 126, MOST_TILE_COLUMNS = 32 };

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

/* Make a tile of y at `to`, whose rows are `stride` apart; `after` may be NULL. */
static inline void linear_make(const struct linear *by, const float *x, int64_t x_stride, struct tile tile,
                               int instructions, const struct after *after, float *to, int64_t stride)
{
    const float *bias = by->bias ? by->bias + tile.column : NULL;
    struct product product = {by->weight + tile.column * by->inner, kinds[instructions].columns, bias, by->inner,
                              tile.columns, x_stride, stride, after, 0};
    kinds[instructions].multiply(&product, x + tile.row * x_stride, tile.rows, NULL, to);
}

#endif
