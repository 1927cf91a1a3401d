/* The attention of one block on ragged sequences: W_QKV, softmax(scale·QKᵀ)·V of each sequence, W_O; or any
   one of them. float32, on processors with AVX2 or AVX-512. Called from models/native.py, which packs
   `struct job` and `struct part`. Nothing is allocated, no state is kept but for the helpers of native_team.c. */

#include "native_team.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INTERFACE 1 /* as in native.py */

enum { NONE, AVX2, AVX512 };

/* y [rows, out] = x [rows, in] · Wᵀ + b; the weight in panels [out / columns, in, columns], its last one and
   the bias filled up with 0. */
struct linear {
    const float *weight, *bias;
    int64_t in, out;
};

struct part {
    int64_t start, z_start, length; /* where its rows stand, of q, k and v and of z */
    float *lse;                     /* [heads, length] or NULL */
    float *weights;                 /* [heads, length, length] or NULL */
};

/* What a call gives; native.py has the order of it once more. */
struct job {
    const float *x;      /* [x_rows, in]; NULL: q, k and v are there already */
    float *projected;    /* [x_rows, out], of which q, k and v are parts */
    const float *q, *k, *v;
    float *found;        /* z of each head, [z_rows, heads·width] */
    float *z;            /* [z_rows, out of W_O] */
    float *spare;        /* spare_floats a thread */
    struct linear projection, output; /* an output without weight: there is no W_O */
    int64_t x_rows, z_rows, parts_count, heads, key_heads, width;
    int64_t q_stride, k_stride, v_stride;                /* from row to row */
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

/* What one call of `multiply` needs; b in one panel. */
struct product {
    const float *b;
    int64_t b_stride;
    const float *bias;
    int64_t inner, columns, a_stride, c_stride;
};

struct attention {
    int64_t width, q_stride, k_stride, v_stride, z_stride;
    float scale;
    bool causal;
};

struct head {
    const float *q, *k, *v;
    float *z, *lse, *weights;
    int64_t length;
};

#if defined(__x86_64__)

#include <immintrin.h>

#define AHEAD 16 /* rows of a panel that are fetched before they are needed */

/* to [8, 8] = fromᵀ, of which [rows, deep] is there: the rest becomes 0, rows of `to` beyond `deep` stay. */
__attribute__((target("avx2"))) static void eight_by_eight(
    const float *from, int64_t stride, int64_t rows, int64_t deep, float *to, int64_t to_stride)
{
    if (rows < 8 || deep < 8) {
        for (int64_t d = 0; d < deep; d++)
            for (int64_t i = 0; i < 8; i++)
                to[d * to_stride + i] = i < rows ? from[i * stride + d] : 0.0f;
        return;
    }
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_loadu_ps(from + i * stride);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

#define SET(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define V 16
#define ROWS 14
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12) B(13) B(14)
#define VECTOR __m512
#define ZERO() _mm512_setzero_ps()
#define ALL(x) _mm512_set1_ps(x)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUB(a, b) _mm512_sub_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define MAX(a, b) _mm512_max_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(x) _mm512_reduce_add_ps(x)
#define HIGHEST(x) _mm512_reduce_max_ps(x)
#define FIRST(n, x, other) _mm512_mask_mov_ps(other, (__mmask16)((1u << (n)) - 1), x)
#define ROUND(x) _mm512_roundscale_ps(x, 8)
#define TIMES_TWO_TO(x, n) _mm512_scalef_ps(x, n)
#include "native_kernel.h"

#define HALVES(OP, x)                                                                                     \
    __m128 four = OP(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));                             \
    four = OP(four, _mm_movehl_ps(four, four));                                                           \
    return _mm_cvtss_f32(OP(four, _mm_movehdup_ps(four)))

__attribute__((target("avx2"))) static inline float sum_of_eight(__m256 x) { HALVES(_mm_add_ps, x); }
__attribute__((target("avx2"))) static inline float highest_of_eight(__m256 x) { HALVES(_mm_max_ps, x); }

/* x·2^n for x about 1 and whole n up to 0; 0 where n is below −126, NaN for x NaN. */
__attribute__((target("avx2"))) static inline __m256 times_two_to(__m256 x, __m256 n)
{
    __m256 least = _mm256_set1_ps(-126.0f);
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_max_ps(least, n)), 23);
    __m256 y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
    return _mm256_and_ps(y, _mm256_cmp_ps(n, least, _CMP_NLT_UQ));
}

static const float ones_and_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1}; /* a sign chooses */

#define SET(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define V 8
#define ROWS 6
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6)
#define VECTOR __m256
#define ZERO() _mm256_setzero_ps()
#define ALL(x) _mm256_set1_ps(x)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, x) _mm256_storeu_ps(p, x)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUB(a, b) _mm256_sub_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define MAX(a, b) _mm256_max_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(x) sum_of_eight(x)
#define HIGHEST(x) highest_of_eight(x)
#define FIRST(n, x, other) _mm256_blendv_ps(other, x, _mm256_loadu_ps(ones_and_zeros + 8 - (n)))
#define ROUND(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define TIMES_TWO_TO(x, n) times_two_to(x, n)
#include "native_kernel.h"

enum { ROWS_AT_ONCE = 126 }; /* of a product: a task's part of x stays in the core's cache */

static const struct {
    void (*multiply)(const struct product *, const float *, int64_t, const float *, float *);
    void (*attend)(const struct attention *, const struct head *, float *);
    bool (*finite)(const float *, int64_t, int64_t, int64_t);
    int64_t columns;
} kinds[] = {
    [AVX2] = {multiply_avx2, attend_avx2, finite_avx2, 2 * 8},
    [AVX512] = {multiply_avx512, attend_avx512, finite_avx512, 2 * 16},
};

static int64_t blocks_of(int64_t rows)
{
    return (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
}

static int64_t panels_of(const struct linear *linear, int instructions)
{
    return (linear->out + kinds[instructions].columns - 1) / kinds[instructions].columns;
}

static void note(struct run *run, bool finite)
{
    if (!finite)
        __atomic_store_n(&run->finite, 0, __ATOMIC_RELAXED);
}

/* One panel of the weight times one block of rows. */
static void apply(struct run *run, const struct linear *by, const float *x, int64_t rows, float *y,
                  int64_t task, bool last)
{
    int kind = run->job->instructions;
    int64_t at_once = kinds[kind].columns, panels = panels_of(by, kind);
    int64_t block = task / panels, column = task % panels * at_once;
    int64_t start = block * rows / blocks_of(rows), end = (block + 1) * rows / blocks_of(rows);
    int64_t columns = by->out - column < at_once ? by->out - column : at_once;
    const float *bias = by->bias ? by->bias + column : NULL;
    struct product product = {by->weight + column * by->in, at_once, bias, by->in, columns, by->in, by->out};
    float *to = y + start * by->out + column;
    kinds[kind].multiply(&product, x + start * by->in, end - start, NULL, to);
    if (last)
        note(run, kinds[kind].finite(to, by->out, end - start, columns));
}

static void project(void *run, int64_t task, int who)
{
    const struct job *job = ((struct run *)run)->job;
    (void)who;
    apply(run, &job->projection, job->x, job->x_rows, job->projected, task, job->parts_count == 0);
}

static void attend(void *run, int64_t task, int who)
{
    const struct job *job = ((struct run *)run)->job;
    const struct part *part = ((struct run *)run)->parts + task / job->heads;
    int64_t at = task % job->heads, key_at = at / (job->heads / job->key_heads), length = part->length;
    struct attention of = {job->width,  job->q_stride, job->k_stride, job->v_stride, job->heads * job->width,
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
    apply(run, &job->output, job->found, job->z_rows, job->z, task, true);
}

/* Do what a job has of: projection, attention, W_O. Returns whether all of the last result is finite. */
int heed_run(const struct job *job, const struct part *parts)
{
    struct phase phases[MOST_PHASES];
    struct run run = {job, parts, 1};
    int count = 0;
    if (job->x)
        phases[count++] =
            (struct phase){project, blocks_of(job->x_rows) * panels_of(&job->projection, job->instructions)};
    if (job->parts_count)
        phases[count++] = (struct phase){attend, job->parts_count * job->heads};
    if (job->output.weight)
        phases[count++] =
            (struct phase){put_out, blocks_of(job->z_rows) * panels_of(&job->output, job->instructions)};
    team_run(&run, phases, count, job->threads);
    return run.finite;
}

/* How many floats a thread needs for the attention of one head. */
int64_t heed_spare_floats(int64_t length, int64_t width)
{
    int64_t room = (length + 31) / 32 * 32, wide = (width + 31) / 32 * 32;
    return room * width + 28 * room + length * wide;
}

/* What this processor has: 0 for neither, 1 for AVX2, 2 for AVX-512. */
int heed_instructions(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return AVX512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? AVX2 : NONE;
}

#else /* other processors have no such code */

int heed_run(const struct job *job, const struct part *parts) { return job == NULL || parts == NULL; }
int64_t heed_spare_floats(int64_t length, int64_t width) { return length * width; }
int heed_instructions(void) { return NONE; }

#endif

int heed_interface(void) { return INTERFACE; }
int64_t heed_job_bytes(void) { return sizeof(struct job); }
