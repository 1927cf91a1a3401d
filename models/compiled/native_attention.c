/* The attention of one block on ragged sequences: W_QKV, softmax(scale·QKᵀ)·V of each sequence, W_O; or any
   one of them. float32, on processors with AVX2 or AVX-512. Called from models/compiled/native.py, which packs
   `struct job` and `struct part`. Nothing is allocated, no state is kept but for the helpers of native_team.c. */

#include "native_linear.h"
#include "native_team.h"

#include <stddef.h>

#define INTERFACE 2 /* as in compiled/native.py */

struct part {
    int64_t start, z_start, length; /* where its rows stand, of q, k and v and of z */
    float *lse;                     /* [heads, length] or NULL */
    float *weights;                 /* [heads, length, length] or NULL */
};

/* What a call gives; compiled/native.py has the order of it once more. */
struct job {
    const float *x;      /* [x_rows, in]; NULL: q, k and v are there already */
    float *projected;    /* [x_rows, out], of which q, k and v are parts */
    const float *q, *k, *v;
    float *found;        /* z of each head, [z_rows, heads·width], rows apart */
    float *z;            /* [z_rows, out of W_O] */
    float *spare;        /* spare_floats a thread */
    struct linear projection, output; /* an output without weight: there is no W_O */
    int64_t x_rows, z_rows, parts_count, heads, key_heads, width;
    int64_t x_stride, projected_stride, found_stride, q_stride, k_stride, v_stride; /* from row to row */
    int64_t q_head_stride, k_head_stride, v_head_stride; /* from head to head */
    int64_t spare_floats;
    float scale;
    int32_t causal, instructions, threads;
};

/* A job that is being done. */
struct run {
    const struct job *job;
    const struct part *parts;
    int finite; /* whether all of the last result is, so far */
};

static void note(struct run *run, bool finite)
{
    if (!finite)
        __atomic_store_n(&run->finite, 0, __ATOMIC_RELAXED);
}

static void apply(struct run *run, const struct linear *by, const float *x, int64_t x_stride, int64_t rows,
                  float *y, int64_t y_stride, int64_t task, bool last)
{
    int instructions = run->job->instructions;
    struct tile tile = linear_tile(by, rows, instructions, task);
    float *made = y + tile.row * y_stride + tile.column;
    linear_make(by, x, x_stride, tile, instructions, NULL, made, y_stride);
    if (last)
        note(run, kinds[instructions].finite(made, y_stride, tile.rows, tile.columns));
}

static void project(void *run, int64_t task, int who)
{
    const struct job *job = ((struct run *)run)->job;
    (void)who;
    apply(run, &job->projection, job->x, job->x_stride, job->x_rows, job->projected, job->projected_stride, task,
          job->parts_count == 0);
}

static void attend(void *run, int64_t task, int who)
{
    const struct job *job = ((struct run *)run)->job;
    const struct part *part = ((struct run *)run)->parts + task / job->heads;
    int64_t at = task % job->heads, key_at = at / (job->heads / job->key_heads), length = part->length;
    struct attention of = {job->width,  job->q_stride, job->k_stride, job->v_stride, job->found_stride,
                           job->scale, job->causal};
    struct head head = {
        job->q + part->start * job->q_stride + at * job->q_head_stride,
        job->k + part->start * job->k_stride + key_at * job->k_head_stride,
        job->v + part->start * job->v_stride + key_at * job->v_head_stride,
        job->found + part->z_start * of.z_stride + at * job->width,
        part->lse ? part->lse + at * length : NULL,
        part->weights ? part->weights + at * length * length : NULL,
        length,
    };
    kinds[job->instructions].attend(&of, &head, job->spare + who * job->spare_floats);
    if (!job->output.weight)
        note(run, kinds[job->instructions].finite(head.z, of.z_stride, length, of.width));
}

static void put_out(void *run, int64_t task, int who)
{
    const struct job *job = ((struct run *)run)->job;
    (void)who;
    apply(run, &job->output, job->found, job->found_stride, job->z_rows, job->z, job->output.out, task, true);
}

/* Do what a job has of: projection, attention, W_O. Returns whether all of the last result is finite. */
int heed_run(const struct job *job, const struct part *parts)
{
    struct phase phases[MOST_PHASES];
    struct run run = {job, parts, 1};
    int count = 0;
    if (job->x)
        phases[count++] =
            (struct phase){project, linear_tasks(&job->projection, job->x_rows, job->instructions)};
    if (job->parts_count)
        phases[count++] = (struct phase){attend, job->parts_count * job->heads};
    if (job->output.weight)
        phases[count++] =
            (struct phase){put_out, linear_tasks(&job->output, job->z_rows, job->instructions)};
    team_run(&run, phases, count, job->threads);
    return run.finite;
}

/* How many floats a thread needs for the attention of one head. */
int64_t heed_spare_floats(int64_t length, int64_t width)
{
    int64_t room = (length + 31) / 32 * 32, wide = (width + 31) / 32 * 32;
    return room * width + 28 * room + length * wide;
}

int heed_interface(void) { return INTERFACE; }
int64_t heed_job_bytes(void) { return sizeof(struct job); }
