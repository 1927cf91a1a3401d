/* The structures that cross from Python. models/compiled/structures.py declares the same once more, and compares
   names, offsets and sizes with `heed_fields` before it calls anything. */

#ifndef HEED_CALLS_H
#define HEED_CALLS_H

#include "native_linear.h"

/* A sequence of a call: its rows of q begin at `start`, those of z at `z_start`, its keys at `key_start`. Of its
   `length` rows those from `first` to `last` are made, in `parts` tasks a head, counted from `task` on.

   What is added to scores and which keys may be attended, [heads, length, keys], have strides from head to head
   and from row to row: 0 where they are the same for all, −1 where a bias is one of distances. */
struct sequence {
    int64_t start, z_start, length, key_start, keys, first, last, task, parts;
    float *lse;                    /* [heads, length] or NULL */
    const struct outputs *outputs; /* or NULL */
    float *laid; /* [key heads of the call, laid_floats]: keys and values as products read them; NULL: tasks lay out */
    const float *mask, *bias; /* added; NULL: nothing */
    const uint8_t *seen;      /* 0 where a key may not be attended; NULL: all may */
    const float *cosines, *sines; /* its own tables of angles; NULL: the call's */
    int64_t mask_head_stride, mask_stride, bias_head_stride, bias_stride, seen_head_stride, seen_stride;
    int64_t spoiled;  /* made: whether some of its z before W_O, not edited yet, is not finite */
    int64_t together; /* whether a task has all heads, one after another: `parts` tasks then */
    const struct edit *edits;
    int64_t edit_count, edits_first; /* rows of edits are counted from `edits_first` before its own */
};

/* How q and k of a sequence's row i are turned: by angles of which row i of the tables has cosines and sines. */
struct rotation {
    const float *cosines, *sines; /* [longest, half]; NULL where each sequence has its own */
    int64_t half;                 /* of how many numbers of a head, the first ones; 0: they are not */
    int64_t interleaved;          /* whether neighbours are turned with each other, not halves */
};

/* A norm, W_QKV, what is done to q and k, attention of each sequence and W_O, or any of them in this order. */
struct attention_call {
    const float *x;   /* [x_rows, inner]; NULL: q, k and v are there already */
    float *read;      /* [x_rows, inner], x normalised, where `before` is a norm */
    float *projected; /* [x_rows, out]: heads of q, of k, of v */
    const float *q, *k, *v;
    float *z_heads; /* z before W_O, [z_rows, heads·value_width]; NULL: nothing is attended */
    float *z;       /* [z_rows, out of W_O] */
    float *scratch; /* scratch_floats a thread */
    const float *sinks; /* [heads], or NULL */
    void *rooms;    /* room_bytes a thread; NULL where no layer reads rows in narrower numbers */
    struct sequence *sequences;
    struct linear projection, output; /* an output without weight: there is no W_O */
    struct norm before, query_norm, key_norm; /* of x, and of each head of q and k */
    struct rotation rotation;
    struct rule rule;
    int64_t sequence_count, x_rows, z_rows, width, value_width;
    int64_t first_head, heads, key_heads; /* made, of all that there are */
    int64_t x_stride, read_stride, projected_stride, z_heads_stride, q_stride, k_stride, v_stride; /* from row to row */
    int64_t q_head_stride, k_head_stride, v_head_stride;                              /* from head to head */
    int64_t scratch_floats, edit_floats, room_bytes; /* the second: of the scratch, for a row of edits; or 0 */
    int32_t lays_out; /* whether keys and values that are laid out for all are, or have been already */
    int32_t instructions, threads;
};

/* What a block does after its attention: sum = x + attended(z), read = before(sum), y = after(sum +
   fed(network(read))). Where `parallel`, read = before(x); read and sum may be one. */
struct feed_call {
    const float *x;  /* [rows, width], what entered the block; NULL: nothing is added */
    const float *z;  /* [rows, width], what attention gave */
    float *sum;      /* [rows, width], what is added to what the network gives, where x is there */
    float *read;     /* [rows, width], what the network reads; may be `sum` */
    void *hidden;    /* [rows, out of W_1], float32 or, `rounded`, as W_2 reads them: bfloat16 */
    float *y;        /* [rows, width] */
    float *mid, *fed_rows; /* [rows, width]: x + attended(z), and what the network adds; NULL: not wanted */
    void *rooms;     /* as in attention_call */
    struct linear up, gate, down; /* a gate without weight: there is none */
    struct norm attended, before, fed, after;
    int64_t rows, width, sum_stride, hidden_stride, room_bytes; /* the strides from row to row, of `read` as of `sum` */
    int32_t activation, rounded, parallel, instructions, threads;
};

/* A whole block: its attention, then what follows it. */
struct block_call {
    const struct attention_call *attention;
    struct feed_call *feed;
};

int heed_attend(const struct attention_call *call);
void heed_feed(struct feed_call *feed);

#endif
