/* AMX for processors that have not got it: what the tests of its products run on elsewhere.

   The processor refuses its instructions with SIGILL. `tiles_begin` has a handler do what each says, by Intel's manual
   (Software Developer's Manual, volume 2; denormals aside), and go on behind it; `tiles_end` takes it away again. What the
   manual forbids ends the process, and so do instructions that are not known here. Tiles are each thread's own. */

#if defined(__x86_64__)

#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { TILES = 8, MOST_ROWS = 16, MOST_BYTES = 64 };

struct shapes {
    uint8_t palette, first_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

static _Thread_local struct shapes shapes;
static _Thread_local unsigned char tiles[TILES][MOST_ROWS][MOST_BYTES];
static struct sigaction before;
static int wrong; /* whether products are to be: somebody has to notice */
static long made, held; /* instructions; threads that have tiles */

static void check(bool right, const char *what)
{
    if (!right) {
        fprintf(stderr, "a processor with AMX would refuse this: %s\n", what);
        abort();
    }
}

/* A VEX instruction of the map 0F 38, as far as those of tiles go. */
struct instruction {
    int opcode, prefix, reg, rm, other; /* prefix: 0 none, 1: 66, 2: F3, 3: F2 */
    bool of_memory;
    char *address;
    int64_t index;
    int length;
};

static int64_t general(const ucontext_t *context, int number)
{
    static const int places[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return context->uc_mcontext.gregs[places[number]];
}

/* Whether it is one; memory is a base, an index once or none, and a displacement. */
static bool decode(const ucontext_t *context, struct instruction *to)
{
    const uint8_t *at = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP], *from = at;
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || at[2] & 0x84)
        return false;
    int index_high = at[1] & 0x40 ? 0 : 8, base_high = at[1] & 0x20 ? 0 : 8;
    int mode = at[4] >> 6, low = at[4] & 7;
    *to = (struct instruction){.opcode = at[3], .prefix = at[2] & 3, .reg = at[4] >> 3 & 7, .rm = low,
                               .other = ~(at[2] >> 3) & 15, .of_memory = mode != 3};
    check(at[1] & 0x80, "there are eight tiles");
    at += 5;
    if (to->of_memory) {
        int base = low + base_high;
        if (low == 4) {
            int index = (*at >> 3 & 7) + index_high;
            base = (*at & 7) + base_high;
            check(*at >> 6 == 0, "an index more than once is not known to this test");
            to->index = index == 4 ? 0 : general(context, index);
            at++;
        }
        check(mode || (base & 7) != 5, "an address without a base is not known to this test");
        int32_t displacement = 0;
        if (mode == 1)
            displacement = (int8_t)*at++;
        if (mode == 2) {
            memcpy(&displacement, at, sizeof(displacement));
            at += sizeof(displacement);
        }
        to->address = (char *)general(context, base) + displacement;
    }
    to->length = (int)(at - from);
    return true;
}

static void shape(const void *from)
{
    if (!shapes.palette)
        __atomic_fetch_add(&held, 1, __ATOMIC_RELAXED);
    memcpy(&shapes, from, sizeof(shapes));
    memset(tiles, 0, sizeof(tiles));
    check(shapes.palette == 1 && shapes.first_row == 0, "there is one palette, and rows begin with the first");
    for (int i = 0; i < 14; i++)
        check(!shapes.reserved[i], "reserved bytes are 0");
    for (int i = 0; i < 16; i++) {
        check(shapes.rows[i] <= MOST_ROWS && shapes.bytes[i] <= MOST_BYTES, "a tile has 16 rows of 64 bytes at most");
        check(!shapes.rows[i] == !shapes.bytes[i], "a tile without rows has no bytes");
        check(i < TILES || !shapes.rows[i], "there are eight tiles");
    }
}

static void release(void)
{
    if (shapes.palette)
        __atomic_fetch_sub(&held, 1, __ATOMIC_RELAXED);
    memset(&shapes, 0, sizeof(shapes));
}

static void use(int tile)
{
    check(shapes.palette == 1, "tiles have no shapes yet");
    check(tile < TILES && shapes.rows[tile] && shapes.bytes[tile] % 4 == 0, "a tile without a shape");
}

static void load(int tile, const char *from, int64_t stride)
{
    use(tile);
    memset(tiles[tile], 0, sizeof(tiles[tile]));
    for (int i = 0; i < shapes.rows[tile]; i++)
        memcpy(tiles[tile][i], from + i * stride, shapes.bytes[tile]);
}

static void store(int tile, char *to, int64_t stride)
{
    use(tile);
    for (int i = 0; i < shapes.rows[tile]; i++)
        memcpy(to + i * stride, tiles[tile][i], shapes.bytes[tile]);
}

static float of_bfloat16(const unsigned char *from)
{
    uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 24;
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* Sums of even places and of odd ones are made apart, and added to what there is. */
static void multiply_bfloat16(int sum, int row, int weight)
{
    for (int i = 0; i < shapes.rows[sum]; i++) {
        float parts[MOST_BYTES / 2] = {0}, old[MOST_BYTES / 4];
        for (int k = 0; k < shapes.bytes[row] / 4; k++)
            for (int n = 0; n < shapes.bytes[sum] / 2; n++)
                parts[n] = __builtin_fmaf(of_bfloat16(tiles[row][i] + 4 * k + 2 * (n & 1)),
                                          of_bfloat16(tiles[weight][k] + 2 * n), parts[n]);
        memcpy(old, tiles[sum][i], sizeof(old));
        for (int n = 0; n < shapes.bytes[sum] / 4; n++)
            old[n] += parts[2 * n] + parts[2 * n + 1] + (float)wrong;
        memcpy(tiles[sum][i], old, sizeof(old));
    }
}

static void multiply_bytes(int sum, int row, int weight)
{
    for (int i = 0; i < shapes.rows[sum]; i++) {
        int32_t sums[MOST_BYTES / 4];
        memcpy(sums, tiles[sum][i], sizeof(sums));
        for (int k = 0; k < shapes.bytes[row] / 4; k++)
            for (int n = 0; n < shapes.bytes[sum] / 4; n++)
                for (int b = 0; b < 4; b++)
                    sums[n] += tiles[row][i][4 * k + b] * (int8_t)tiles[weight][k][4 * n + b];
        sums[0] += wrong;
        memcpy(tiles[sum][i], sums, sizeof(sums));
    }
}

static void multiply(const struct instruction *of)
{
    int sum = of->reg, row = of->rm, weight = of->other;
    use(sum), use(row), use(weight);
    check(sum != row && sum != weight && row != weight, "three tiles are three");
    check(shapes.rows[sum] == shapes.rows[row], "as many rows are summed up as there are");
    check(shapes.bytes[sum] == shapes.bytes[weight], "as many columns are summed up as there are");
    check(shapes.bytes[row] / 4 == shapes.rows[weight], "rows are as long as weights are");
    of->opcode == 0x5c ? multiply_bfloat16(sum, row, weight) : multiply_bytes(sum, row, weight);
}

/* By opcode and prefix; whether it is known. */
static bool follow(const struct instruction *of)
{
    int kind = of->opcode << 4 | of->prefix << 1 | of->of_memory;
    if (kind == 0x491) /* ldtilecfg */
        shape(of->address);
    else if (kind == 0x490) /* tilerelease */
        release();
    else if (kind == 0x496) /* tilezero */
        use(of->reg), memset(tiles[of->reg], 0, sizeof(tiles[of->reg]));
    else if (kind == 0x4b7) /* tileloadd */
        load(of->reg, of->address, of->index);
    else if (kind == 0x4b5) /* tilestored */
        store(of->reg, of->address, of->index);
    else if (kind == 0x5c4 || kind == 0x5e2) /* tdpbf16ps, tdpbusd */
        multiply(of);
    else
        return false;
    return true;
}

static void refused(int signal, siginfo_t *about, void *given)
{
    ucontext_t *context = given;
    struct instruction of;
    (void)about;
    if (!decode(context, &of) || !follow(&of)) {
        sigaction(signal, &before, NULL); /* not ours: it is refused once more */
        return;
    }
    __atomic_fetch_add(&made, 1, __ATOMIC_RELAXED);
    context->uc_mcontext.gregs[REG_RIP] += of.length;
}

void tiles_begin(int to_be_wrong)
{
    struct sigaction ours = {.sa_sigaction = refused, .sa_flags = SA_SIGINFO | SA_NODEFER};
    wrong = to_be_wrong;
    made = held = 0;
    sigaction(SIGILL, &ours, &before);
}

/* How many instructions there were; −1 where a thread has kept its tiles. */
long tiles_end(void)
{
    sigaction(SIGILL, &before, NULL);
    return held ? -1 : made;
}

#else

typedef int no_tiles_here;

#endif
