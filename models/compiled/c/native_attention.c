/* The attention of one block on ragged sequences: a norm, W_QKV, norms and rotations of q and k,
   softmax(scale·QKᵀ)·V of each sequence, W_O; or any of them. float32, on processors with AVX2, AVX-512 or NEON.
   Called from models/compiled/native.py. Nothing is
   allocated, no state is kept but for the helpers of native_team.c. */

#include "native_calls.h"
#include "native_team.h"

#include <stddef.h>

/* A call that is being done. */
struct run {
    const struct attention_call *call;
    int finite;     /* whether all of the last result is, so far */
    int64_t chunks; /* of rows, in the longest sequence */
};

enum { ROWS_OF_A_TASK = 16 };

static int64_t chunks_of(int64_t rows)
{
    return (rows + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
}

static void note(struct run *run, bool finite)
{
    if (!finite)
        __atomic_store_n(&run->finite, 0, __ATOMIC_RELAXED);
}

static void apply(struct run *run, const struct linear *by, const float *x, int64_t x_stride, int64_t rows,
                  float *y, int64_t y_stride, int64_t task, bool last)
{
    int instructions = run->call->instructions;
    struct tile tile = linear_tile(by, rows, instructions, task);
    float *made = y + tile.row * y_stride + tile.column;
    linear_make(by, x, x_stride, tile, instructions, NULL, made, y_stride);
    if (last)
        note(run, kinds[instructions].finite(made, y_stride, tile.rows, tile.columns));
}

static void begin(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    int64_t row = task * ROWS_OF_A_TASK, end = row + ROWS_OF_A_TASK;
    (void)who;
    for (; row < end && row < call->x_rows; row++)
        kinds[call->instructions].normalize(&call->before, call->x + row * call->x_stride, call->projection.inner,
                                            call->read + row * call->read_stride);
}

static void project(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    bool read = call->before.kind;
    (void)who;
    apply(run, &call->projection, read ? call->read : call->x, read ? call->read_stride : call->x_stride,
          call->x_rows, call->projected, call->projected_stride, task, call->sequence_count == 0);
}

static void place_heads(const struct attention_call *call, const struct norm *norm, float *head, int64_t heads,
                        const float *cosines, const float *sines)
{
    const struct rotation *by = &call->rotation;
    const struct kind *kind = kinds + call->instructions;
    for (int64_t at = 0; at < heads; at++, head += call->width) {
        if (norm->kind)
            kind->normalize(norm, head, call->width, head);
        if (by->half)
            kind->rotate(head, cosines, sines, by->half, by->interleaved);
    }
}

/* Norms and rotations of q and k, in place. */
static void place(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    int64_t chunks = ((struct run *)run)->chunks;
    const struct sequence *sequence = call->sequences + task / chunks;
    const float *cosines = sequence->cosines ? sequence->cosines : call->rotation.cosines;
    const float *sines = sequence->cosines ? sequence->sines : call->rotation.sines;
    int64_t row = task % chunks * ROWS_OF_A_TASK, end = row + ROWS_OF_A_TASK, half = call->rotation.half;
    (void)who;
    for (; row < end && row < sequence->length; row++) {
        float *q = call->projected + (sequence->start + row) * call->projected_stride;
        const float *c = half ? cosines + row * half : NULL, *s = half ? sines + row * half : NULL;
        place_heads(call, &call->query_norm, q, call->heads, c, s);
        place_heads(call, &call->key_norm, q + call->heads * call->width, call->key_heads, c, s);
    }
}

static int64_t longest_of(const struct attention_call *call)
{
    int64_t longest = 0;
    for (int64_t at = 0; at < call->sequence_count; at++)
        longest = longest < call->sequences[at].length ? call->sequences[at].length : longest;
    return longest;
}

/* Make of what is wanted of all chosen heads what is of one. Whether that is anything. */
static bool outputs_of(const struct outputs *all, int64_t head, struct outputs *own)
{
    if (!all || (all->head_places && all->head_places[head] < 0))
        return false;
    int64_t place = all->head_places ? all->head_places[head] : head, rows = place * all->rows;
    *own = *all;
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
    return true;
}

static void attend(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    const struct sequence *sequence = call->sequences + task / call->heads;
    int64_t at = task % call->heads, key_at = at / (call->heads / call->key_heads), length = sequence->length;
    struct attention of = {call->width,  call->q_stride, call->k_stride, call->v_stride, call->z_heads_stride,
                           call->scale, call->causal};
    struct outputs outputs;
    struct head head = {
        call->q + sequence->start * call->q_stride + at * call->q_head_stride,
        call->k + sequence->start * call->k_stride + key_at * call->k_head_stride,
        call->v + sequence->start * call->v_stride + key_at * call->v_head_stride,
        call->z_heads + sequence->z_start * of.z_stride + at * call->width,
        sequence->lse ? sequence->lse + at * length : NULL,
        length,
        outputs_of(sequence->outputs, at, &outputs) ? &outputs : NULL,
    };
    kinds[call->instructions].attend(&of, &head, call->scratch + who * call->scratch_floats);
    if (!call->output.weight)
        note(run, kinds[call->instructions].finite(head.z, of.z_stride, length, of.width));
}

static void put_out(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    (void)who;
    apply(run, &call->output, call->z_heads, call->z_heads_stride, call->z_rows, call->z, call->output.out, task,
          true);
}

/* Do what a call has of: projection, attention, W_O. Returns whether all of the last result is finite. */
int heed_attend(const struct attention_call *call)
{
    struct phase phases[MOST_PHASES];
    struct run run = {call, 1, chunks_of(longest_of(call))};
    int count = 0;
    if (call->x && call->before.kind)
        phases[count++] = (struct phase){begin, chunks_of(call->x_rows)};
    if (call->x)
        phases[count++] =
            (struct phase){project, linear_tasks(&call->projection, call->x_rows, call->instructions)};
    if (call->x && (call->query_norm.kind || call->key_norm.kind || call->rotation.half))
        phases[count++] = (struct phase){place, call->sequence_count * run.chunks};
    if (call->sequence_count)
        phases[count++] = (struct phase){attend, call->sequence_count * call->heads};
    if (call->output.weight)
        phases[count++] =
            (struct phase){put_out, linear_tasks(&call->output, call->z_rows, call->instructions)};
    team_run(&run, phases, count, call->threads);
    return run.finite;
}

/* How many floats a thread needs for the attention of one head. */
int64_t heed_scratch_floats(int64_t length, int64_t width)
{
    int64_t padded_rows = (length + 31) / 32 * 32, padded_width = (width + 31) / 32 * 32;
    return padded_rows * width + 28 * padded_rows + length * padded_width;
}
