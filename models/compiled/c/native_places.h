/* Where in the memory of a sequence's outputs those of one head, and of one part of its rows, have their place. */

#ifndef HEED_PLACES_H
#define HEED_PLACES_H

#include "native_calls.h"

/* Make of what is wanted of all chosen heads what is of one. Whether that is anything. */
static inline bool outputs_of(const struct outputs *all, int64_t head, struct outputs *own)
{
    bool chosen = all && !(all->head_places && all->head_places[head] < 0);
    float times = all && all->mixed ? all->mix_weights[head] : 0;
    if (!chosen && times == 0)
        return false;
    struct outputs mixture = {.row_places = all->row_places, .columns = all->columns, .column_count = all->column_count,
                              .rows = all->rows, .keys = all->keys, .heads = all->heads, .sums_rows = all->sums_rows};
    int64_t place = all->head_places ? all->head_places[head] : head, rows = place * all->rows;
    *own = chosen ? *all : mixture;
    own->mixed = times == 0 ? NULL : all->mixed;
    own->times = times;
    if (own->weights)
        own->weights = (char *)own->weights + rows * all->keys * (all->type == FLOAT32 ? 4 : 2);
    if (own->top_k_keys) {
        own->top_k_keys += rows * all->k;
        own->top_k_weights += rows * all->k;
        own->top_k_rest += rows;
    }
    if (own->entropy)
        own->entropy += rows;
    if (own->received)
        own->received += place * all->keys;
    if (own->between_spans)
        own->between_spans += place * all->span_count * all->span_count;
    if (own->share)
        own->share += rows;
    return true;
}

/* Move what is summed over rows to where one part of them has it for itself. */
static inline void part_of_outputs(struct outputs *own, int64_t part)
{
    if (own->received)
        own->received += part * own->heads * own->keys;
    if (own->between_spans)
        own->between_spans += part * own->heads * own->span_count * own->span_count;
    if (own->mixed && own->sums_rows)
        own->mixed += part * (own->columns ? own->column_count : own->keys);
}

#endif
