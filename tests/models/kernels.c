/* The compiled kernels against plain loops in double, for random shapes and one set of instructions.

       kernels SET SEED ROUNDS CALLERS

   SET is its number in native_kinds.h; so many CALLERS are at it side by side. Sets that differ from another one in
   narrow numbers alone are checked in these, see narrow.c. Prints the first difference and returns 1; 77 where the
   processor lacks the set. Built and run by test_kernels.py, for this processor and, under
   an emulator, for others. */

#include "../../models/compiled/c/native_calls.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool has_or_is_lent(int instructions);
void check_narrow(int instructions, uint64_t seed, int rounds);
int heed_attend(const struct attention_call *call);
void heed_feed(struct feed_call *call);
int64_t heed_laid_floats(int64_t keys, int64_t width, int64_t value_width);
int64_t heed_scratch_floats(const struct rule *rule, int64_t keys, int64_t width, int64_t value_width, int laid);

enum { LACKING = 77, MOST_SEQUENCES = 4, MOST_KEPT = 512, MOST_CALLERS = 16, MOST_KEYS = 1024 };

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

/* The places of the k largest weights, descending; and the sum of the others. */
static void check_largest(const double *weights, int64_t keys, int64_t k, const int32_t *places, const float *values,
                          float rest)
{
    bool taken[MOST_KEYS] = {false};
    double left = 0;
    for (int64_t j = 0; j < keys; j++)
        left += weights[j];
    for (int64_t i = 0; i < k; i++) {
        if (places[i] < 0 || places[i] >= keys || taken[places[i]]) {
            printf("%s, top_k has key %d of %lld, or has it twice\n", doing, places[i], (long long)keys);
            exit(1);
        }
        taken[places[i]] = true;
        same("top_k_weights", i, values[i], weights[places[i]], 1e-5);
        if (i)
            same("top_k_weights, descending", i, values[i] <= values[i - 1], 1, 0);
        left -= weights[places[i]];
        int64_t above = 0; /* how many are clearly larger than the one in this place */
        for (int64_t j = 0; j < keys; j++)
            above += weights[j] > weights[places[i]] + 1e-5;
        same("top_k_weights, larger ones left out", i, above <= i, 1, 0);
    }
    same("top_k_rest", 0, rest, left, 1e-5);
}

/* What is done to q and k of a row, and the rule, in the terms of this file. */
struct shape {
    int64_t heads, key_heads, width, value_width, d_model, inner;
    bool projects; /* whether q, k and v are made of x, or there */
};

/* What is added to the score of a pair; −∞ where it may not be attended. */
static double added_to(const struct sequence *one, const struct rule *rule, int64_t h, int64_t i, int64_t j)
{
    double sum = 0;
    if (j - i < rule->low || j - i > rule->high || j - i == rule->hole)
        return -INFINITY;
    if (one->seen && !one->seen[h * one->seen_head_stride + i * one->seen_stride + j])
        return -INFINITY;
    if (one->mask)
        sum += one->mask[h * one->mask_head_stride + i * one->mask_stride + j];
    if (one->bias)
        sum += one->bias[h * one->bias_head_stride + i * one->bias_stride + j];
    return sum;
}

/* One row of one head: z, logsumexp, weights and what is made of them, against loops. */
static void check_row(const struct shape *of, const struct attention_call *call, const struct sequence *one, int64_t h,
                      int64_t t)
{
    int64_t keys = one->keys, g = h / (of->heads / of->key_heads);
    const struct rule *rule = &call->rule;
    double weights[MOST_KEYS], most = -INFINITY, total = 0, entropy = 0;
    const float *q = call->q + (one->start + t) * call->q_stride + h * call->q_head_stride;
    for (int64_t k = 0; k < keys; k++) {
        const float *key = call->k + (one->key_start + k) * call->k_stride + g * call->k_head_stride;
        double sum = 0;
        for (int64_t d = 0; d < of->width; d++)
            sum += (double)q[d] * key[d];
        sum *= rule->scale;
        sum = rule->softcap != 0 ? rule->softcap * tanh(sum / rule->softcap) : sum;
        weights[k] = sum + added_to(one, rule, h, t, k);
        most = fmax(most, weights[k]);
    }
    double sink = call->sinks && most > -INFINITY ? call->sinks[h] : -INFINITY;
    for (int64_t k = 0; k < keys; k++)
        total += weights[k] = most == -INFINITY ? 0 : exp(weights[k] - most);
    double whole = most == -INFINITY ? 1 : total + exp(sink - most);
    for (int64_t k = 0; k < keys; k++) {
        weights[k] /= whole;
        entropy -= weights[k] > 0 ? weights[k] * log(weights[k]) : 0;
    }
    const struct outputs *outputs = one->outputs;
    if (one->lse) {
        float found = one->lse[h * one->length + t];
        double expected = most == -INFINITY ? -INFINITY : most + log(whole);
        same("lse", t, isinf(found) ? -1e30 : found, isinf(expected) ? -1e30 : expected, 2e-5);
    }
    if (outputs) {
        int64_t row = h * one->length + t;
        for (int64_t k = 0; k < keys; k++)
            same("weights", k, ((float *)outputs->weights)[row * keys + k], weights[k], 2e-5);
        same("entropy", t, outputs->entropy[row], entropy, 2e-4);
        if (outputs->top_k_keys)
            check_largest(weights, keys, outputs->k, outputs->top_k_keys + row * outputs->k,
                          outputs->top_k_weights + row * outputs->k, outputs->top_k_rest[row]);
    }
    const float *v = call->v + one->key_start * call->v_stride + g * call->v_head_stride;
    int64_t own = t + rule->own;
    for (int64_t d = 0; d < of->value_width; d++) {
        double sum = rule->own < BEYOND && own >= 0 && own < keys ? v[own * call->v_stride + d] : 0;
        for (int64_t k = 0; k < keys; k++)
            sum += weights[k] * v[k * call->v_stride + d];
        same("z of a head", d, call->z_heads[(one->z_start + t) * call->z_heads_stride + h * of->value_width + d], sum,
             1e-4);
    }
}

static void check_received(const struct shape *of, const struct sequence *one)
{
    int64_t rows = one->length, keys = one->keys;
    for (int64_t h = 0; one->outputs && h < of->heads; h++)
        for (int64_t k = 0; k < keys; k++) {
            double sum = 0;
            for (int64_t t = 0; t < rows; t++)
                sum += ((float *)one->outputs->weights)[(h * rows + t) * keys + k];
            same("received", k, one->outputs->received[h * keys + k], sum, 1e-4);
        }
}

static struct outputs outputs_of(int64_t heads, int64_t length, int64_t keys)
{
    int64_t rows = heads * length, k = within(1, MOST_TOP_K);
    struct outputs made = {
        .weights = floats(rows * keys), .entropy = floats(rows), .received = floats(heads * keys), .rows = length,
        .keys = keys, .k = k < keys ? k : keys, .type = FLOAT32,
    };
    if (made.k) {
        made.top_k_keys = (int32_t *)floats(rows * made.k);
        made.top_k_weights = floats(rows * made.k);
        made.top_k_rest = floats(rows);
    }
    memset(made.received, 0, (size_t)(heads * keys) * sizeof(float));
    return made;
}

/* A rule drawn at random: most have no more than a scale and an end. */
static struct rule rule_of(void)
{
    struct rule rule = {.low = -BEYOND, .high = BEYOND, .hole = BEYOND, .own = BEYOND, .scale = (float)(uniform() * 1.5)};
    if (chance(50))
        rule.high = within(-2, 5);
    if (chance(30))
        rule.low = rule.high == BEYOND ? within(-20, 3) : rule.high - within(0, 40);
    if (chance(20))
        rule.hole = 0;
    if (chance(20))
        rule.own = within(-1, 1);
    if (chance(20))
        rule.softcap = (float)(uniform() * 5 + 0.5);
    return rule;
}

/* Masks, biases and what may be seen: of all heads or of each, of all rows or of each, or by distance. */
static void hide_and_bias(struct sequence *one, int64_t heads)
{
    int64_t rows = one->length, keys = one->keys;
    if (chance(25)) {
        one->mask_stride = chance(50) ? keys : 0;
        one->mask_head_stride = chance(50) ? keys * rows : 0;
        float *mask = numbers(heads * rows * keys, 1);
        for (int64_t i = 0; i < heads * rows * keys; i++)
            mask[i] = chance(25) ? -INFINITY : mask[i];
        one->mask = mask;
    }
    if (chance(25)) {
        bool by_distance = chance(50);
        int64_t each = rows + keys;
        one->bias = numbers(heads * each * (by_distance ? 1 : rows), 1) + (by_distance ? rows : 0);
        one->bias_stride = by_distance ? -1 : each;
        one->bias_head_stride = by_distance ? each : each * rows;
    }
    if (chance(25)) {
        one->seen_stride = chance(50) ? keys : 0;
        one->seen_head_stride = chance(50) ? keys * rows : 0;
        int64_t count = heads * rows * keys;
        uint8_t *seen = (uint8_t *)floats((count + 3) / 4);
        for (int64_t i = 0; i < count; i++)
            seen[i] = chance(70) ? (uint8_t)within(1, 255) : 0;
        one->seen = seen;
    }
}

static void normalized(const struct norm *norm, double *x, int64_t width);
static struct norm norm_of(int64_t width);

/* q and k of a row as they are to be: of their projection, normalised and turned. */
static void check_placed(const struct shape *of, const struct attention_call *call, const struct layer *qkv,
                         const struct sequence *one, int64_t t)
{
    const struct rotation *by = &call->rotation;
    int64_t half = by->half, step = by->interleaved ? 2 : 1, apart = by->interleaved ? 1 : half;
    const float *made = call->projected + (one->start + t) * call->projected_stride;
    double x[512], head[64];
    float single[512];
    for (int64_t i = 0; i < of->inner; i++)
        x[i] = call->x[(one->start + t) * call->x_stride + i];
    normalized(&call->before, x, of->inner);
    for (int64_t i = 0; i < of->inner; i++)
        single[i] = (float)x[i];
    for (int64_t h = 0; h < of->heads + of->key_heads; h++) {
        for (int64_t d = 0; d < of->width; d++)
            head[d] = applied(qkv, h * of->width + d, single);
        normalized(h < of->heads ? &call->query_norm : &call->key_norm, head, of->width);
        for (int64_t d = 0; d < half; d++) {
            double c = by->cosines[t * half + d], s = by->sines[t * half + d];
            double one_of = head[step * d], other = head[step * d + apart];
            head[step * d] = one_of * c - other * s;
            head[step * d + apart] = other * c + one_of * s;
        }
        for (int64_t d = 0; d < of->width; d++)
            same("q and k", d, made[h * of->width + d], head[d], 5e-4);
    }
    for (int64_t o = (of->heads + of->key_heads) * of->width; o < qkv->laid.out; o++)
        same("values", o, made[o], applied(qkv, o, single), 2e-4);
}

/* Sequences with rows between them that belong to none; their keys are their own rows, or others. */
static int64_t draw(struct sequence *sequences, int64_t count, const struct shape *of, int64_t *rows, int64_t *key_rows,
                    struct outputs *outputs)
{
    int64_t z_rows = 0, task = 0;
    *rows = *key_rows = 0;
    for (int64_t i = 0; i < count; i++) {
        struct sequence *one = sequences + i;
        int64_t length = chance(20) ? within(50, 130) : within(1, 40);
        int64_t keys = of->projects ? length : chance(10) ? 0 : chance(15) ? within(50, MOST_KEYS) : within(1, 60);
        *rows += within(0, 2);
        *key_rows = of->projects ? *rows : *key_rows + within(0, 2);
        *one = (struct sequence){.start = *rows, .z_start = z_rows, .length = length, .key_start = *key_rows,
                                 .keys = keys, .last = length, .task = task, .parts = 1};
        hide_and_bias(one, of->heads);
        one->lse = chance(50) ? floats(of->heads * length) : NULL;
        outputs[i] = outputs_of(of->heads, length, keys);
        one->outputs = chance(50) ? outputs + i : NULL;
        if (!one->outputs)
            one->parts = within(1, 3);
        *rows += length;
        *key_rows += keys;
        z_rows += length;
        task += one->parts * of->heads;
    }
    return z_rows;
}

/* Memory for keys and values laid out once, for some of the sequences, and scratch for the rest. */
static void make_room(struct attention_call *call)
{
    for (int64_t i = 0; i < call->sequence_count; i++) {
        struct sequence *one = call->sequences + i;
        bool laid = chance(30);
        if (laid) {
            one->laid = floats(call->key_heads * heed_laid_floats(one->keys, call->width, call->value_width));
            call->lays_out = 1;
        }
        int64_t needs = heed_scratch_floats(&call->rule, one->keys, call->width, call->value_width, laid);
        call->scratch_floats = needs > call->scratch_floats ? needs : call->scratch_floats;
    }
    call->scratch = floats(call->scratch_floats * threads);
}

/* A call whose q, k and v are made of x, with norms and rotations. */
static struct layer project(struct attention_call *call, const struct shape *of, int64_t rows)
{
    int64_t q_width = of->heads * of->width, k_width = of->key_heads * of->width;
    int64_t out = q_width + k_width + of->key_heads * of->value_width, apart = within(0, 3);
    struct layer qkv = layer_of(out, of->inner, chance(50));
    call->x_stride = of->inner + within(0, 3);
    call->x = numbers(rows * call->x_stride, 1);
    call->x_rows = rows;
    call->projection = qkv.laid;
    call->projected_stride = call->q_stride = call->k_stride = call->v_stride = out + apart;
    call->q = call->projected = floats(rows * (out + apart));
    call->k = call->q + q_width;
    call->v = call->k + k_width;
    call->q_head_stride = call->k_head_stride = of->width;
    call->v_head_stride = of->value_width;
    call->before = chance(30) ? norm_of(of->inner) : (struct norm){0};
    call->read_stride = of->inner + within(0, 3);
    call->read = floats(rows * call->read_stride);
    call->query_norm = chance(30) ? norm_of(of->width) : (struct norm){0};
    call->key_norm = chance(30) ? norm_of(of->width) : (struct norm){0};
    if (chance(30) && of->width > 1) {
        int64_t half = within(1, of->width / 2);
        call->rotation = (struct rotation){numbers(130 * half, 1), numbers(130 * half, 1), half, chance(50)};
    }
    return qkv;
}

static void check_attention(void)
{
    int64_t group = within(1, 3), key_heads = within(1, 3), width = within(1, 40);
    struct shape of = {group * key_heads, key_heads, width, chance(70) ? width : within(1, 40), within(1, 50),
                       within(1, 450), chance(60)};
    struct sequence sequences[MOST_SEQUENCES] = {{0}};
    struct outputs outputs[MOST_SEQUENCES];
    struct layer qkv = {0}, output = layer_of(of.d_model, of.heads * of.value_width, chance(50));
    int64_t rows, key_rows, count = within(1, MOST_SEQUENCES);
    int64_t z_rows = draw(sequences, count, &of, &rows, &key_rows, outputs), z_width = of.heads * of.value_width;
    struct attention_call call = {
        .z_heads = floats(z_rows * z_width), .z = floats(z_rows * of.d_model), .z_heads_stride = z_width,
        .sequences = sequences, .sequence_count = count, .output = output.laid, .rule = rule_of(), .z_rows = z_rows,
        .width = of.width, .value_width = of.value_width, .heads = of.heads, .key_heads = key_heads,
        .sinks = chance(20) ? numbers(of.heads, 1) : NULL, .instructions = set, .threads = threads,
    };
    if (of.projects) {
        qkv = project(&call, &of, rows);
    } else { /* heads first, rows second */
        call.q_stride = call.k_stride = of.width;
        call.v_stride = of.value_width;
        call.q_head_stride = rows * of.width;
        call.k_head_stride = key_rows * of.width;
        call.v_head_stride = key_rows * of.value_width;
        call.q = numbers(of.heads * call.q_head_stride, 1);
        call.k = numbers(key_heads * call.k_head_stride, 1);
        call.v = numbers(key_heads * call.v_head_stride, 1);
    }
    make_room(&call);
    doing = "attention";
    same("finite", 0, heed_attend(&call), 1, 0);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t t = 0; of.projects && t < sequences[i].length; t++)
            check_placed(&of, &call, &qkv, sequences + i, t);
        for (int64_t h = 0; h < of.heads; h++)
            for (int64_t t = 0; t < sequences[i].length; t++)
                check_row(&of, &call, sequences + i, h, t);
        check_received(&of, sequences + i);
    }
    for (int64_t i = 0; i < z_rows; i++)
        for (int64_t o = 0; o < of.d_model; o++)
            same("z", o, call.z[i * of.d_model + o], applied(&output, o, call.z_heads + i * z_width), 2e-4);
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
        .attended = chance(30) ? norm_of(width) : (struct norm){0}, .before = norm_of(width),
        .fed = chance(30) ? norm_of(width) : (struct norm){0}, .after = norm_of(width), .rows = rows, .width = width,
        .sum_stride = width, .hidden_stride = hidden, .activation = (int)within(IDENTITY, RELU2),
        .parallel = residual && chance(30), .instructions = set, .threads = threads,
    };
    feed.read = !feed.parallel && chance(50) ? feed.sum : floats(rows * width);
    if (gated)
        feed.gate = gate.laid;
    doing = "feed";
    heed_feed(&feed);
    double sum[64], read[64], y[64];
    float single[64], *between = floats(hidden);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < width; j++)
            sum[j] = feed.z[i * width + j];
        normalized(&feed.attended, sum, width);
        for (int64_t j = 0; j < width; j++) {
            sum[j] += residual ? feed.x[i * width + j] : 0;
            read[j] = feed.parallel ? feed.x[i * width + j] : sum[j];
        }
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
            y[j] = applied(&down, j, between);
        normalized(&feed.fed, y, width);
        for (int64_t j = 0; j < width; j++)
            y[j] += residual ? (feed.read == feed.sum ? read : sum)[j] : 0;
        normalized(&feed.after, y, width);
        for (int64_t j = 0; j < width; j++)
            same("y", j, feed.y[i * width + j], y[j], 2e-3);
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
    if (!has_or_is_lent(set))
        return LACKING;
    check_narrow(set, seed, rounds);
    if (set > NEON)
        rounds = 0;
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
