/* The compiled kernels against plain loops in double, for random shapes and one set of instructions.

       kernels SET SEED ROUNDS CALLERS

   SET is its number in native_kinds.h; so many CALLERS are at it side by side. Prints the first difference and
   returns 1; 77 where the processor lacks the set. Built and run by test_kernels.py, for this processor and, under
   an emulator, for others. */

#include "../../models/compiled/c/native_calls.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int heed_has(int instructions);
int heed_attend(const struct attention_call *call);
void heed_feed(struct feed_call *call);
int64_t heed_scratch_floats(int64_t length, int64_t width);

enum { LACKING = 77, MOST_SEQUENCES = 4, MOST_KEPT = 256, MOST_CALLERS = 16, K = 3 };

static int set, rounds;
static uint64_t seed;

/* Of each caller. */
static _Thread_local uint64_t state;
static _Thread_local int threads;
static _Thread_local const char *doing;
static _Thread_local void *kept[MOST_KEPT];
static _Thread_local int kept_count;

static uint64_t random_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int64_t within(int64_t least, int64_t most) { return least + (int64_t)(random_bits() % (uint64_t)(most - least + 1)); }
static bool chance(int percent) { return within(0, 99) < percent; }
static double uniform(void) { return (double)(random_bits() >> 11) / 9007199254740992.0; }

/* About normally distributed. */
static float number(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return (float)(sum - 6);
}

/* Memory that a sanitizer knows the end of, until `forget`. */
static float *floats(int64_t count)
{
    if (kept_count == MOST_KEPT)
        abort();
    float *made = malloc((size_t)(count > 0 ? count : 1) * sizeof(float));
    if (!made)
        abort();
    for (int64_t i = 0; i < count; i++)
        made[i] = NAN; /* what is read before it is written does not go unnoticed */
    return kept[kept_count++] = made;
}

static float *numbers(int64_t count, double scale)
{
    float *made = floats(count);
    for (int64_t i = 0; i < count; i++)
        made[i] = (float)(number() * scale);
    return made;
}

static void forget(void)
{
    while (kept_count)
        free(kept[--kept_count]);
}

static void same(const char *what, int64_t at, double found, double expected, double tolerance)
{
    if (fabs(found - expected) <= tolerance * (1 + fabs(expected)) || (isnan(found) && isnan(expected)))
        return;
    printf("%s, %s[%lld] is %.9g, not %.9g\n", doing, what, (long long)at, found, expected);
    exit(1);
}

/* W [out, inner] and b [out] or NULL in panels. */
static struct linear laid_out(const float *weight, const float *bias, int64_t out, int64_t inner)
{
    int64_t columns = kinds[set].columns, panels = (out + columns - 1) / columns;
    float *to = floats(panels * inner * columns), *biases = bias ? floats(panels * columns) : NULL;
    for (int64_t o = 0; o < panels * columns; o++) {
        for (int64_t i = 0; i < inner; i++)
            to[(o / columns * inner + i) * columns + o % columns] = o < out ? weight[o * inner + i] : 0;
        if (bias)
            biases[o] = o < out ? bias[o] : 0;
    }
    return (struct linear){.weight = to, .bias = biases, .inner = inner, .out = out};
}

struct layer {
    float *weight, *bias;
    struct linear laid;
};

static struct layer layer_of(int64_t out, int64_t inner, bool biased)
{
    float *weight = numbers(out * inner, 1 / sqrt((double)inner)), *bias = biased ? numbers(out, 1) : NULL;
    return (struct layer){weight, bias, laid_out(weight, bias, out, inner)};
}

static double applied(const struct layer *by, int64_t o, const float *x)
{
    double sum = by->bias ? by->bias[o] : 0;
    for (int64_t i = 0; i < by->laid.inner; i++)
        sum += (double)by->weight[o * by->laid.inner + i] * x[i];
    return sum;
}

/* The places of the K largest weights, descending, of equal ones the first; and the sum of the others. */
static void check_largest(const double *weights, int64_t keys, const int32_t *places, const float *values, float rest)
{
    double left = 0;
    for (int64_t k = 0; k < keys; k++)
        left += weights[k];
    for (int64_t i = 0; i < K; i++) {
        if (i >= keys)
            break;
        if (places[i] < 0 || places[i] >= keys) {
            printf("%s, top_k has key %d of %lld\n", doing, places[i], (long long)keys);
            exit(1);
        }
        same("top_k_weights", i, values[i], weights[places[i]], 1e-5);
        if (i)
            same("top_k_weights, descending", i, values[i] <= values[i - 1], 1, 0);
        left -= weights[places[i]];
        int64_t above = 0; /* how many are clearly larger than the one in this place */
        for (int64_t k = 0; k < keys; k++)
            above += weights[k] > weights[places[i]] + 1e-5;
        same("top_k_weights, larger ones left out", i, above <= i, 1, 0);
    }
    same("top_k_rest", 0, rest, left, 1e-5);
}

struct shape {
    int64_t heads, key_heads, width, d_model, inner;
    bool causal;
    float scale;
};

/* One row of one head: z [width], logsumexp, weights and what is made of them, against loops. */
static void check_row(const struct shape *of, const struct attention_call *call, const struct sequence *one, int64_t h,
                      int64_t t)
{
    int64_t length = one->length, g = h / (of->heads / of->key_heads), seen = of->causal ? t + 1 : length;
    double weights[512], most = -INFINITY, total = 0, entropy = 0;
    const float *q = call->q + (one->start + t) * call->q_stride + h * call->q_head_stride;
    for (int64_t k = 0; k < length; k++) {
        const float *key = call->k + (one->start + k) * call->k_stride + g * call->k_head_stride;
        double sum = 0;
        for (int64_t d = 0; d < of->width; d++)
            sum += (double)q[d] * key[d];
        weights[k] = k < seen ? sum * of->scale : -INFINITY;
        most = fmax(most, weights[k]);
    }
    for (int64_t k = 0; k < length; k++)
        total += weights[k] = exp(weights[k] - most);
    for (int64_t k = 0; k < length; k++) {
        weights[k] /= total;
        entropy -= weights[k] > 0 ? weights[k] * log(weights[k]) : 0;
    }
    const struct outputs *outputs = one->outputs;
    if (one->lse)
        same("lse", t, one->lse[h * length + t], most + log(total), 1e-5);
    if (outputs) {
        int64_t row = h * length + t;
        for (int64_t k = 0; k < length; k++)
            same("weights", k, ((float *)outputs->weights)[row * length + k], weights[k], 1e-5);
        same("entropy", t, outputs->entropy[row], entropy, 1e-4);
        check_largest(weights, length, outputs->top_k_keys + row * K, outputs->top_k_weights + row * K,
                      outputs->top_k_rest[row]);
    }
    for (int64_t d = 0; d < of->width; d++) {
        double sum = 0;
        for (int64_t k = 0; k < length; k++)
            sum += weights[k] * call->v[(one->start + k) * call->v_stride + g * call->v_head_stride + d];
        same("z of a head", d, call->z_heads[(one->z_start + t) * call->z_heads_stride + h * of->width + d], sum, 1e-4);
    }
}

static void check_received(const struct shape *of, const struct sequence *one)
{
    int64_t length = one->length;
    for (int64_t h = 0; one->outputs && h < of->heads; h++)
        for (int64_t k = 0; k < length; k++) {
            double sum = 0;
            for (int64_t t = 0; t < length; t++)
                sum += ((float *)one->outputs->weights)[(h * length + t) * length + k];
            same("received", k, one->outputs->received[h * length + k], sum, 1e-4);
        }
}

static struct outputs outputs_of(int64_t heads, int64_t length)
{
    int64_t rows = heads * length;
    struct outputs made = {
        .weights = floats(rows * length), .top_k_keys = (int32_t *)floats(rows * K), .top_k_weights = floats(rows * K),
        .top_k_rest = floats(rows), .entropy = floats(rows), .received = floats(rows), .rows = length, .keys = length,
        .k = K, .type = FLOAT32,
    };
    memset(made.received, 0, (size_t)rows * sizeof(float));
    return made;
}

/* W_QKV, attention and W_O of some sequences with rows between them that belong to none. */
static void check_attention(void)
{
    int64_t group = within(1, 3), key_heads = within(1, 3);
    struct shape of = {group * key_heads, key_heads, within(1, 40), within(1, 50), within(1, 450), chance(50),
                       (float)(uniform() * 1.5)};
    struct sequence sequences[MOST_SEQUENCES] = {{0}};
    struct outputs outputs[MOST_SEQUENCES];
    int64_t count = within(1, MOST_SEQUENCES), rows = 0, z_rows = 0, longest = 0;
    for (int64_t i = 0; i < count; i++) {
        struct sequence *one = sequences + i;
        rows += within(0, 2);
        *one = (struct sequence){.start = rows, .z_start = z_rows, .length = chance(20) ? within(50, 130) : within(1, 40)};
        one->lse = chance(50) ? floats(of.heads * one->length) : NULL;
        outputs[i] = outputs_of(of.heads, one->length);
        one->outputs = chance(50) ? outputs + i : NULL;
        rows += one->length;
        z_rows += one->length;
        longest = one->length > longest ? one->length : longest;
    }
    int64_t q_width = of.heads * of.width, k_width = of.key_heads * of.width, out = q_width + 2 * k_width;
    int64_t apart = within(0, 3), x_stride = of.inner + within(0, 3);
    struct layer qkv = layer_of(out, of.inner, chance(50)), output = layer_of(of.d_model, q_width, chance(50));
    float *x = numbers(rows * x_stride, 1), *projected = floats(rows * (out + apart));
    struct attention_call call = {
        .x = x, .projected = projected, .q = projected, .k = projected + q_width, .v = projected + q_width + k_width,
        .z_heads = floats(z_rows * q_width), .z = floats(z_rows * of.d_model), .sequences = sequences,
        .projection = qkv.laid, .output = output.laid, .sequence_count = count, .x_rows = rows, .z_rows = z_rows,
        .heads = of.heads, .key_heads = of.key_heads, .width = of.width, .x_stride = x_stride,
        .projected_stride = out + apart, .z_heads_stride = q_width, .q_stride = out + apart, .k_stride = out + apart,
        .v_stride = out + apart, .q_head_stride = of.width, .k_head_stride = of.width, .v_head_stride = of.width,
        .scratch_floats = heed_scratch_floats(longest, of.width), .scale = of.scale, .causal = of.causal,
        .instructions = set, .threads = threads,
    };
    call.scratch = floats(call.scratch_floats * threads);
    doing = "attention";
    same("finite", 0, heed_attend(&call), 1, 0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t o = 0; o < out; o++)
            same("projected", o, projected[i * (out + apart) + o], applied(&qkv, o, x + i * x_stride), 1e-4);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t h = 0; h < of.heads; h++)
            for (int64_t t = 0; t < sequences[i].length; t++)
                check_row(&of, &call, sequences + i, h, t);
        check_received(&of, sequences + i);
    }
    for (int64_t i = 0; i < z_rows; i++)
        for (int64_t o = 0; o < of.d_model; o++)
            same("z", o, call.z[i * of.d_model + o], applied(&output, o, call.z_heads + i * q_width), 1e-4);
    forget();
}

static double activated(int activation, double x)
{
    switch (activation) {
    case GELU: return x * 0.5 * erfc(-x / sqrt(2));
    case GELU_TANH: return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case SILU: return x / (1 + exp(-x));
    case SIGMOID: return 1 / (1 + exp(-x));
    case RELU: return x > 0 ? x : 0;
    case RELU2: return x > 0 ? x * x : 0;
    }
    return x;
}

static struct norm norm_of(int64_t width)
{
    int kind = (int)within(NO_NORM, ROOT_MEAN_SQUARE_NORM);
    return (struct norm){.weight = numbers(width, 1), .bias = chance(50) ? numbers(width, 1) : NULL, .eps = 0.01f,
                         .kind = kind};
}

static void normalized(const struct norm *norm, double *x, int64_t width)
{
    double mean = 0, square = 0;
    for (int64_t j = 0; j < width && norm->kind == LAYER_NORM; j++)
        mean += x[j] / width;
    for (int64_t j = 0; j < width; j++)
        square += (x[j] - mean) * (x[j] - mean) / width;
    for (int64_t j = 0; j < width && norm->kind != NO_NORM; j++)
        x[j] = (x[j] - mean) / sqrt(square + norm->eps) * norm->weight[j] + (norm->bias ? norm->bias[j] : 0);
}

/* Residuals, norms and the feed-forward network. */
static void check_feed(void)
{
    int64_t rows = within(1, 40), width = within(1, 60), hidden = within(1, 450);
    struct layer up = layer_of(hidden, width, chance(50)), gate = layer_of(hidden, width, chance(50));
    struct layer down = layer_of(width, hidden, chance(50));
    bool gated = chance(50), residual = chance(70);
    struct feed_call feed = {
        .x = residual ? numbers(rows * width, 1) : NULL, .z = numbers(rows * width, 1), .sum = floats(rows * width),
        .hidden = floats(rows * hidden), .y = floats(rows * width), .up = up.laid, .down = down.laid,
        .before = norm_of(width), .after = norm_of(width), .rows = rows, .width = width, .sum_stride = width,
        .hidden_stride = hidden, .activation = (int)within(IDENTITY, RELU2), .instructions = set, .threads = threads,
    };
    feed.read = feed.after.kind || !feed.before.kind ? feed.sum : floats(rows * width);
    if (gated)
        feed.gate = gate.laid;
    doing = "feed";
    heed_feed(&feed);
    double sum[64], read[64], y[64];
    float single[64], *between = floats(hidden);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < width; j++)
            sum[j] = feed.z[i * width + j] + (residual ? feed.x[i * width + j] : 0);
        memcpy(read, sum, sizeof(read));
        normalized(&feed.before, read, width);
        for (int64_t j = 0; j < width; j++)
            single[j] = (float)read[j];
        for (int64_t o = 0; o < hidden; o++) {
            double value = applied(&up, o, single);
            value = gated ? value * activated(feed.activation, applied(&gate, o, single))
                          : activated(feed.activation, value);
            between[o] = (float)value;
        }
        for (int64_t j = 0; j < width; j++)
            y[j] = applied(&down, j, between) + (residual ? (feed.read == feed.sum ? read : sum)[j] : 0);
        normalized(&feed.after, y, width);
        for (int64_t j = 0; j < width; j++)
            same("y", j, feed.y[i * width + j], y[j], 1e-3);
    }
    forget();
}

static void *call(void *number)
{
    state = 0x9e3779b97f4a7c15u * (seed + 1) + (uint64_t)(intptr_t)number;
    for (int round = 0; round < rounds; round++) {
        threads = (int)within(1, 3);
        check_attention();
        check_feed();
    }
    return NULL;
}

int main(int count, char **given)
{
    if (count != 5)
        return 2;
    set = atoi(given[1]);
    seed = strtoull(given[2], NULL, 10);
    rounds = atoi(given[3]);
    if (!heed_has(set))
        return LACKING;
    pthread_t callers[MOST_CALLERS];
    int others = atoi(given[4]) - 1;
    for (intptr_t i = 0; i < others && i < MOST_CALLERS; i++)
        if (pthread_create(callers + i, NULL, call, (void *)(i + 1)) != 0)
            return 2;
    call(NULL);
    for (int i = 0; i < others && i < MOST_CALLERS; i++)
        pthread_join(callers[i], NULL);
    puts("right");
    return 0;
}
