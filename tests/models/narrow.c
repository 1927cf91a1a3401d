/* Products of bfloat16, float16 and int8 against plain loops, for random shapes: a part of kernels.c. A processor without
   AMX is given tiles.c. Rows and weights are such that each kind of numbers has them exactly, and so their sums. */

#define _POSIX_C_SOURCE 200112L

#include "../../models/compiled/c/native_calls.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int heed_has(int instructions);
int heed_keeps(int instructions, int numbers);
int64_t heed_row_bytes(const struct linear *by, int instructions);
void tiles_begin(int wrong);
long tiles_end(void);

enum { MOST_KEPT = 64 };

static int set;
static uint64_t state;
static void *kept[MOST_KEPT];
static int kept_count;

static int64_t within(int64_t least, int64_t most)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return least + (int64_t)(state % (uint64_t)(most - least + 1));
}

static void *memory(int64_t bytes)
{
    if (kept_count == MOST_KEPT || posix_memalign(kept + kept_count, 64, (size_t)(bytes ? bytes : 1)))
        abort();
    return memset(kept[kept_count++], 0xff, (size_t)bytes); /* NaN, whatever it is read as */
}

static uint16_t narrowed(float x, int numbers)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if (numbers == BFLOAT16 || x == 0)
        return (uint16_t)(bits >> 16);
    return (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
}

struct layer {
    float *weight; /* [out, inner], as the rows are given */
    struct linear laid;
};

/* W of whole numbers; of int8 each row by a scale, and each input by a multiplier: those of `beside`, unless NULL. */
static struct layer layer_of(int64_t out, int64_t inner, int numbers, const struct layer *beside)
{
    const struct narrow *narrow = kinds[set].narrow + numbers;
    int64_t columns = kinds[set].columns, panels = (out + columns - 1) / columns;
    int64_t steps = (inner + narrow->step - 1) / narrow->step, all = panels * steps * columns * narrow->step;
    char *to = memory(all * narrow->bytes);
    float *weight = memory(out * inner * sizeof(float)), *bias = memory(panels * columns * sizeof(float));
    float *scales = memory(panels * columns * sizeof(float)), *multipliers = memory(inner * sizeof(float));
    int32_t *sums = memory(panels * columns * sizeof(int32_t));
    memset(to, 0, (size_t)(all * narrow->bytes));
    for (int64_t i = 0; i < inner; i++)
        multipliers[i] = numbers == INT8 ? (float)within(1, 2) : 1;
    if (beside && beside->laid.multipliers)
        memcpy(multipliers, beside->laid.multipliers, (size_t)inner * sizeof(float));
    for (int64_t o = 0; o < panels * columns; o++) {
        bias[o] = o < out ? (float)within(-9, 9) : 0;
        scales[o] = o < out ? (numbers == INT8 ? (float)within(1, 3) : 1) : 0;
        sums[o] = 0;
        for (int64_t i = 0; i < inner && o < out; i++) {
            int64_t whole = within(-127, 127);
            int64_t at = ((o / columns * steps + i / narrow->step) * columns + o % columns) * narrow->step + i % narrow->step;
            weight[o * inner + i] = (float)whole * scales[o] * multipliers[i];
            sums[o] += (int32_t)whole;
            if (numbers == INT8)
                to[at] = (char)whole;
            else
                ((uint16_t *)to)[at] = narrowed((float)whole, numbers);
        }
    }
    struct linear laid = {.weight = to, .bias = within(0, 1) ? bias : NULL, .inner = inner, .out = out, .numbers = numbers};
    if (numbers == INT8) {
        laid.scales = scales;
        laid.sums = sums;
        laid.multipliers = multipliers;
    }
    return (struct layer){weight, laid};
}

/* Rows whose products with `multipliers` are whole numbers from −100 to 155, both of them among these. */
static float *rows_of(int64_t rows, int64_t inner, int64_t stride, const float *multipliers)
{
    float *x = memory(rows * stride * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < inner; k++) {
            float whole = k == 0 ? -100 : k == 1 ? 155 : (float)within(-100, 155);
            x[i * stride + k] = whole / (multipliers ? multipliers[k] : 1);
        }
    return x;
}

static void *room_for(int64_t row_bytes, int64_t rows, int64_t *bytes)
{
    *bytes = row_bytes ? ROOM_HEAD + (rows < MOST_TILE_ROWS ? rows : MOST_TILE_ROWS) * row_bytes : 0;
    return row_bytes ? memory(*bytes) : NULL;
}

static double applied(const struct layer *by, int64_t o, const float *x, double *sizes)
{
    double sum = by->laid.bias ? by->laid.bias[o] : 0;
    *sizes = fabs(sum);
    for (int64_t i = 0; i < by->laid.inner; i++) {
        double one = (double)by->weight[o * by->laid.inner + i] * x[i];
        sum += one;
        *sizes += fabs(one);
    }
    return sum;
}

static void same(const char *what, int numbers, int64_t at, double found, double expected, double tolerance)
{
    if (fabs(found - expected) <= tolerance)
        return;
    printf("%s, numbers %d, y[%lld] is %.9g, not %.9g\n", what, numbers, (long long)at, found, expected);
    exit(1);
}

static void check_linear(int numbers)
{
    int64_t rows = within(0, 4) ? within(1, 70) : within(100, 300), inner = within(1, 300), out = within(1, 100);
    struct layer by = layer_of(out, inner, numbers, NULL);
    struct attention_call call = {.x_rows = rows, .x_stride = inner + within(0, 3), .projected_stride = out + within(0, 3),
                                  .projection = by.laid, .instructions = set, .threads = 1};
    call.x = rows_of(rows, inner, call.x_stride, by.laid.multipliers);
    call.projected = memory(((rows - 1) * call.projected_stride + out) * sizeof(float));
    call.rooms = room_for(heed_row_bytes(&by.laid, set), rows, &call.room_bytes);
    same("finite", numbers, 0, heed_attend(&call), 1, 0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t o = 0; o < out; o++) {
            double sizes, slow = applied(&by, o, call.x + i * call.x_stride, &sizes);
            same("linear", numbers, o, call.projected[i * call.projected_stride + o], slow, 1e-6 * sizes);
        }
}

/* W_2·relu(W_1·z), or gated; what W_2 reads is rounded to bfloat16 where it multiplies that. */
static void check_feed(int numbers)
{
    int64_t rows = within(1, 70), width = within(1, 60), hidden = within(1, 200);
    struct layer up = layer_of(hidden, width, numbers, NULL), gate = layer_of(hidden, width, numbers, &up);
    struct layer down = layer_of(width, hidden, BFLOAT16, NULL);
    int64_t down_bytes = heed_row_bytes(&down.laid, set), up_bytes = heed_row_bytes(&up.laid, set);
    struct feed_call feed = {
        .z = rows_of(rows, width, width, up.laid.multipliers), .sum = memory(rows * width * sizeof(float)),
        .y = memory(rows * width * sizeof(float)), .up = up.laid, .down = down.laid, .rows = rows, .width = width,
        .sum_stride = width, .hidden_stride = hidden, .activation = RELU, .rounded = down_bytes > 0,
        .instructions = set, .threads = 1,
    };
    if (within(0, 1))
        feed.gate = gate.laid;
    feed.hidden = memory(rows * (down_bytes ? down_bytes : hidden * (int64_t)sizeof(float)));
    feed.rooms = room_for(up_bytes > down_bytes ? up_bytes : down_bytes, rows, &feed.room_bytes);
    feed.read = feed.sum;
    heed_feed(&feed);
    float *between = memory(hidden * sizeof(float));
    for (int64_t i = 0; i < rows; i++) {
        double sizes;
        for (int64_t o = 0; o < hidden; o++) {
            double one = applied(&up, o, feed.z + i * width, &sizes);
            double by = feed.gate.weight ? applied(&gate, o, feed.z + i * width, &sizes) : one;
            between[o] = (float)(by <= 0 ? 0 : feed.gate.weight ? by * one : one);
        }
        for (int64_t j = 0; j < width; j++) {
            double slow = applied(&down, j, between, &sizes);
            same("feed", numbers, j, feed.y[i * width + j], slow, (feed.rounded ? 4e-3 : 1e-5) * sizes);
        }
    }
}

/* Whether this processor has a set, or tiles.c does what it lacks of it. */
bool has_or_is_lent(int instructions)
{
#if defined(__x86_64__)
    if (instructions == AVX512_AMX && !heed_has(AVX512_AMX))
        return heed_has(AVX512_BF16);
#endif
    return heed_has(instructions);
}

void check_narrow(int instructions, uint64_t seed, int rounds)
{
    set = instructions;
    state = 0x9e3779b97f4a7c15u * (seed + 1);
#if defined(__x86_64__)
    bool lent = !heed_has(set);
    if (lent)
        tiles_begin(0);
#endif
    for (int round = 0; round < rounds && heed_keeps(set, INT8); round++)
        for (int numbers = FLOAT16; numbers <= INT8; numbers++) {
            check_linear(numbers);
            check_feed(numbers);
            while (kept_count)
                free(kept[--kept_count]);
        }
#if defined(__x86_64__)
    if (lent && tiles_end() <= 0) {
        puts("no tiles were used, or a thread has kept its own");
        exit(1);
    }
#endif
}
