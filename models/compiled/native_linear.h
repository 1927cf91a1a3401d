/* A linear layer in tasks that threads share: each one panel of its weight times one block of rows. */

#ifndef HEED_LINEAR_H
#define HEED_LINEAR_H

#include "native_kinds.h"

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

#pragma GCC visibility push(hidden)
int64_t linear_tasks(const struct linear *by, int64_t rows, int instructions);
struct tile linear_tile(const struct linear *by, int64_t rows, int instructions, int64_t task);

/* Make a tile of y at `to`, whose rows are `stride` apart; `after` may be NULL. */
void linear_make(const struct linear *by, const float *x, int64_t x_stride, struct tile tile, int instructions,
                 const struct after *after, float *to, int64_t stride);
#pragma GCC visibility pop

#endif
