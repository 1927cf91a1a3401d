/* One head of one sequence of a call: where its rows are, and what is made of them. Read by native_attention.c. */

#ifndef HEED_NATIVE_HEADS_H
#define HEED_NATIVE_HEADS_H

#include "native_calls.h"

#include <stddef.h>

static inline struct attention attention_of(const struct attention_call *call)
{
    return (struct attention){call->width,    call->value_width, call->q_stride, call->k_stride,
                              call->v_stride, call->z_heads_stride, &call->rule};
}

/* Where keys and values of a key head are laid out for all tasks, or NULL. */
static inline float *laid_of(const struct attention_call *call, const struct sequence *sequence, int64_t key_at)
{
    int64_t first = call->first_head / (call->heads / call->key_heads);
    int64_t floats = laid_floats(sequence->keys, call->width, call->value_width);
    return sequence->laid ? sequence->laid + (key_at - first) * floats : NULL;
}

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

/* A head of a sequence, all of its rows; its outputs are made of `own`. */
static inline struct head head_of(const struct attention_call *call, const struct sequence *sequence, int64_t at,
                           struct outputs *own)
{
    int64_t group = call->heads / call->key_heads, key_at = at / group;
    const float *mask = sequence->mask, *bias = sequence->bias;
    const uint8_t *seen = sequence->seen;
    return (struct head){
        .q = call->q + sequence->start * call->q_stride + at * call->q_head_stride,
        .k = call->k + sequence->key_start * call->k_stride + key_at * call->k_head_stride,
        .v = call->v + sequence->key_start * call->v_stride + key_at * call->v_head_stride,
        .laid = laid_of(call, sequence, key_at),
        .sink = call->sinks ? call->sinks + at : NULL,
        .z = call->z_heads + sequence->z_start * call->z_heads_stride + at * call->value_width,
        .lse = sequence->lse ? sequence->lse + at * sequence->length : NULL,
        .mask = {mask ? mask + at * sequence->mask_head_stride : NULL, sequence->mask_stride},
        .bias = {bias ? bias + at * sequence->bias_head_stride : NULL, sequence->bias_stride},
        .seen = {seen ? seen + at * sequence->seen_head_stride : NULL, sequence->seen_stride},
        .first = sequence->first,
        .last = sequence->last,
        .keys = sequence->keys,
        .outputs = outputs_of(sequence->outputs, at, own) ? own : NULL,
    };
}

#endif
