/* The attention of one block on ragged sequences: a norm, W_QKV, norms and rotations of q and k,
   softmax(scale·QKᵀ)·V of each sequence, W_O; or any of them. float32, on processors with AVX2, AVX-512 or NEON.
   Called from models/compiled/native.py. Nothing is allocated, no state is kept but for the helpers of native_team.c.
*/

#include "native_heads.h"
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
                  float *y, int64_t y_stride, int64_t task, int who, bool last)
{
    int instructions = run->call->instructions;
    struct tile tile = linear_tile(by, rows, instructions, task);
    float *made = y + tile.row * y_stride + tile.column;
    struct room *room = room_of(run->call->rooms, run->call->room_bytes, who);
    linear_make(by, x, x_stride, tile, instructions, room, NULL, made, y_stride);
    if (last)
        note(run, kinds[instructions].finite(made, y_stride, tile.rows, tile.columns));
}

/* Without memory for z there is no attention. */
static bool attends(const struct attention_call *call)
{
    return call->sequence_count && call->z_heads;
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
    apply(run, &call->projection, read ? call->read : call->x, read ? call->read_stride : call->x_stride,
          call->x_rows, call->projected, call->projected_stride, task, who, !attends(call));
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

static void lay_out(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    const struct sequence *sequence = call->sequences + task / call->key_heads;
    int64_t group = call->heads / call->key_heads, key_at = call->first_head / group + task % call->key_heads;
    struct outputs outputs;
    (void)who;
    if (sequence->laid) {
        struct attention of = attention_of(call);
        struct head head = head_of(call, sequence, key_at * group, &outputs);
        kinds[call->instructions].lay_out(&of, &head, laid_of(call, sequence, key_at));
    }
}

/* The sequence that a task is of: the last that begins no later. */
static struct sequence *sequence_of(const struct attention_call *call, int64_t task)
{
    int64_t at = 0;
    for (int64_t end = call->sequence_count; end - at > 1;) {
        int64_t middle = at + (end - at) / 2;
        *(call->sequences[middle].task <= task ? &at : &end) = middle;
    }
    return call->sequences + at;
}

static int64_t attend_tasks(const struct attention_call *call)
{
    const struct sequence *last = call->sequences + call->sequence_count - 1;
    return last->task + last->parts * (last->together ? 1 : call->heads);
}

/* Whether z of a head's rows is. */
static bool is_finite(const struct attention_call *call, const struct attention *of, const struct head *head)
{
    return kinds[call->instructions].finite(head->z + head->first * of->z_stride, of->z_stride,
                                            head->last - head->first, of->value_width);
}

/* One part of the rows of one head. */
static void attend_head(struct run *run, struct sequence *sequence, int64_t at, int64_t part, int who)
{
    const struct attention_call *call = run->call;
    struct attention of = attention_of(call);
    struct outputs outputs;
    struct head head = head_of(call, sequence, call->first_head + at, &outputs);
    int64_t rows = head.last - head.first;
    head.last = head.first + (part + 1) * rows / sequence->parts;
    head.first += part * rows / sequence->parts;
    if (head.outputs && outputs.received) /* what is summed over rows, each part has for itself */
        outputs.received += part * outputs.heads * outputs.keys;
    if (head.outputs && outputs.between_spans)
        outputs.between_spans += part * outputs.heads * outputs.span_count * outputs.span_count;
    if (head.outputs && outputs.mixed && outputs.sums_rows)
        outputs.mixed += part * (outputs.columns ? outputs.column_count : outputs.keys);
    float *scratch = call->scratch + who * call->scratch_floats;
    if (sequence->edit_count)
        head.edits = edits_of(sequence->edits, sequence->edit_count, call->first_head + at, sequence->edits_first,
                              scratch + call->scratch_floats - call->edit_floats);
    kinds[call->instructions].attend(&of, &head, scratch);
    bool finite = is_finite(call, &of, &head);
    if (!finite)
        __atomic_store_n(&sequence->spoiled, 1, __ATOMIC_RELAXED);
    if (head.edits.count) {
        edit_z(&head.edits, head.z, of.z_stride, head.first, head.last, of.value_width);
        finite = finite && is_finite(call, &of, &head);
    }
    if (!call->output.weight)
        note(run, finite);
}

static void attend(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    struct sequence *sequence = sequence_of(call, task);
    int64_t number = task - sequence->task, part = number % sequence->parts, head = number / sequence->parts;
    int64_t last = sequence->together ? call->heads : head + 1;
    for (; head < last; head++)
        attend_head(run, sequence, head, part, who);
}

static void put_out(void *run, int64_t task, int who)
{
    const struct attention_call *call = ((struct run *)run)->call;
    apply(run, &call->output, call->z_heads, call->z_heads_stride, call->z_rows, call->z, call->output.out, task,
          who, true);
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
    if (attends(call) && call->lays_out)
        phases[count++] = (struct phase){lay_out, call->sequence_count * call->key_heads};
    if (attends(call))
        phases[count++] = (struct phase){attend, attend_tasks(call)};
    if (call->output.weight)
        phases[count++] =
            (struct phase){put_out, linear_tasks(&call->output, call->z_rows, call->instructions)};
    empty_rooms(call->rooms, call->room_bytes, call->threads);
    team_run(&run, phases, count, call->threads);
    return run.finite;
}

/* How many floats keys and values of a key head take, laid out for all tasks. */
int64_t heed_laid_floats(int64_t keys, int64_t width, int64_t value_width)
{
    return laid_floats(keys, width, value_width);
}

/* How many floats a thread needs for the attention of one head, whether or not it is laid out for all tasks. */
int64_t heed_scratch_floats(const struct rule *rule, int64_t keys, int64_t width, int64_t value_width, int laid)
{
    int64_t scores = block_rows(rule, keys) * scores_stride(block_keys(rule, keys));
    return scores + (laid ? 0 : laid_floats(keys, width, value_width));
}

/* How many bytes the room of a thread takes for each of the rows of a layer that stand there; 0: there is none. */
int64_t heed_row_bytes(const struct linear *by, int instructions)
{
    if (by->numbers == FLOAT32)
        return 0;
    const struct narrow *narrow = kinds[instructions].narrow + by->numbers;
    return narrow->turn ? turned_stride(narrow, by->inner) * narrow->row_bytes : 0;
}
