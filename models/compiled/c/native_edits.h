/* What edits do to a head of a sequence: to its scores, to its weights, to its z. Nothing is made of them but one row
   of what is added, so that a sequence of any length has them for nothing. */

#ifndef HEED_EDITS_H
#define HEED_EDITS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* What an edit does. To scores: a value is added, keys are blocked. To weights: rows are given, or a row attends one
   key, so far ahead of it as `ahead` says, as near as there are keys, or all alike that it may attend. To z: rows are
   given, or multiplied. */
enum { EDIT_ADD, EDIT_BLOCK, EDIT_GIVE, EDIT_ONE, EDIT_UNIFORM, EDIT_SET, EDIT_SCALE };

/* Sorted positions, each range from, up to, and how many chosen positions are before it. */
struct ranges {
    const int64_t *of; /* [count, 3] */
    int64_t count;
};

struct edit {
    const int32_t *head_places; /* [heads], of each its place among the chosen, −1: it is none */
    struct ranges rows, keys;
    const float *values;             /* [chosen heads or 1, chosen rows, keys, or value_width of z] */
    int64_t head_stride, row_stride; /* of values */
    int64_t ahead;
    float value;
    int32_t does;
};

/* Those of a head, `number` of all. Its rows are counted from `first`. `row` is memory for one row of scores, which
   `made` says the edits of, a bit each; 0: it is not made. */
struct head_edits {
    const struct edit *edits;
    int64_t count, number, first;
    uint64_t *made;
    float *row;
    bool weights; /* whether any is of weights */
};

enum { MADE_FLOATS = 16 }; /* of the memory, for `made` */

/* Those of `count` that do anything to head `number`; `memory` is for one row of scores, and MADE_FLOATS before it. */
static inline struct head_edits edits_of(const struct edit *edits, int64_t count, int64_t number, int64_t first,
                                         float *memory)
{
    struct head_edits own = {edits, 0, number, first, (uint64_t *)(void *)memory, memory + MADE_FLOATS, false};
    *own.made = 0;
    for (int64_t i = 0; i < count; i++) {
        if (edits[i].head_places[number] < 0)
            continue;
        own.count = i + 1;
        own.weights |= edits[i].does >= EDIT_GIVE && edits[i].does <= EDIT_UNIFORM;
    }
    return own;
}

/* How many chosen positions are before one that is chosen; −1: it is not. */
static inline int64_t rank_of(const struct ranges *ranges, int64_t at)
{
    int64_t low = 0, high = ranges->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (ranges->of[3 * middle] <= at)
            low = middle + 1;
        else
            high = middle;
    }
    const int64_t *last = ranges->of + 3 * (low - 1);
    return low && at < last[1] ? last[2] + at - last[0] : -1;
}

/* The rank of a row of the head among those of an edit; −1: it is none of them. */
static inline int64_t row_rank(const struct head_edits *of, const struct edit *edit, int64_t row)
{
    return edit->head_places[of->number] < 0 ? -1 : rank_of(&edit->rows, row + of->first);
}

/* Which edits of scores are of a row, a bit each; of more than 64 the last bit says that it is not known. */
static inline uint64_t score_edits_of(const struct head_edits *of, int64_t row)
{
    uint64_t found = 0;
    for (int64_t i = 0; i < of->count; i++)
        if (of->edits[i].does <= EDIT_BLOCK && row_rank(of, of->edits + i, row) >= 0)
            found |= UINT64_C(1) << (i < 63 ? i : 63);
    return found;
}

/* What is added to a row's scores of all `keys` keys, in memory of the head's. NULL: nothing is. Rows one after another
   mostly have the same: it is made once for them. */
static inline const float *added_by_edits(const struct head_edits *of, int64_t row, int64_t keys)
{
    uint64_t edits = score_edits_of(of, row);
    if (!edits)
        return NULL;
    if (edits == *of->made && !(of->count > 63 && edits >> 63))
        return of->row;
    *of->made = edits;
    memset(of->row, 0, keys * sizeof(float));
    for (const struct edit *edit = of->edits; edit < of->edits + of->count; edit++) {
        if (edit->does > EDIT_BLOCK || row_rank(of, edit, row) < 0)
            continue;
        float value = edit->does == EDIT_BLOCK ? -INFINITY : edit->value;
        for (const int64_t *range = edit->keys.of; range < edit->keys.of + 3 * edit->keys.count; range += 3)
            for (int64_t key = range[0] > 0 ? range[0] : 0; key < range[1] && key < keys; key++)
                of->row[key] += value;
    }
    return of->row;
}

/* Where the values of a chosen row of a head are. */
static inline const float *edit_values(const struct head_edits *of, const struct edit *edit, int64_t rank)
{
    return edit->values + edit->head_places[of->number] * edit->head_stride + rank * edit->row_stride;
}

/* Do to z of the head's rows `first` to `last` what edits do. */
static inline void edit_z(const struct head_edits *of, float *z, int64_t z_stride, int64_t first, int64_t last,
                          int64_t width)
{
    for (const struct edit *edit = of->edits; edit < of->edits + of->count; edit++)
        for (int64_t row = first; edit->does >= EDIT_SET && row < last; row++) {
            int64_t rank = row_rank(of, edit, row);
            if (rank < 0)
                continue;
            if (edit->does == EDIT_SET)
                memcpy(z + row * z_stride, edit_values(of, edit, rank), width * sizeof(float));
            else
                for (int64_t i = 0; i < width; i++)
                    z[row * z_stride + i] *= edit->value;
        }
}

#endif
