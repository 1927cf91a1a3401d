/* Whether products by AMX may be made: the processor has it, Linux lets the process have its tiles, and they multiply as
   what they stand in for does. */

#define _GNU_SOURCE
#include "native_kinds.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(COMPILER_KNOWS_DOTS)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 }; /* arch_prctl's; Linux 5.16 and later */
enum { TRIED_ROWS = 35, TRIED_COLUMNS = 29, TRIED_STRIDE = 192, MOST_STEPS = 48, STEP_BYTES = 128 };

/* AMX-BF16, AMX-TILE and AMX-INT8, and that the system keeps tiles when it goes from thread to thread. */
static bool is_there(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0, low = 0, high = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1) || !(d >> 25 & 1))
        return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3;
}

/* The process asks once; its threads have it from then on, those that it starts later too. */
static bool is_allowed(void) { return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0; }

/* Small whole numbers, whose products and sums are exact in each kind of numbers and whatever their order. */
static int small(uint32_t *state, int least, int count)
{
    *state = *state * 1103515245 + 12345;
    return least + (int)(*state >> 16) % count;
}

static uint16_t bfloat16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

/* More than two tiles of rows, of columns not all, of the inner axis one, or two, and a part. */
static bool same_products(int numbers, int64_t inner)
{
    const struct narrow *tiles = narrow_avx512_amx + numbers, *plain = narrow_avx512_bf16 + numbers;
    int64_t steps = inner / tiles->step, all = STEP_BYTES * steps / tiles->bytes;
    char rows[TRIED_ROWS * TRIED_STRIDE] = {0}, panel[MOST_STEPS * STEP_BYTES];
    float bias[32], scales[32], row_scales[TRIED_ROWS], found[2][TRIED_ROWS][TRIED_COLUMNS];
    int32_t sums[32], zeros[TRIED_ROWS];
    uint32_t state = 1;
    for (int64_t i = 0; i < TRIED_ROWS; i++) {
        zeros[i] = small(&state, 0, 256);
        row_scales[i] = (float)small(&state, 1, 4);
        for (int64_t k = 0; k < inner; k++) {
            if (numbers == INT8)
                ((uint8_t *)rows)[i * TRIED_STRIDE + k] = (uint8_t)small(&state, 0, 256);
            else
                ((uint16_t *)rows)[i * TRIED_STRIDE / 2 + k] = bfloat16_of((float)small(&state, -60, 121));
        }
    }
    for (int64_t i = 0; i < all; i++) {
        if (numbers == INT8)
            ((int8_t *)panel)[i] = (int8_t)small(&state, -127, 255);
        else
            ((uint16_t *)panel)[i] = bfloat16_of((float)small(&state, -60, 121));
    }
    for (int j = 0; j < 32; j++) {
        bias[j] = (float)small(&state, -9, 19);
        scales[j] = (float)small(&state, 1, 4);
        sums[j] = small(&state, -99, 199);
    }
    struct narrow_product by = {
        .product = {.b_stride = 32, .bias = bias, .inner = inner, .columns = TRIED_COLUMNS,
                    .a_stride = TRIED_STRIDE / tiles->row_bytes, .c_stride = TRIED_COLUMNS},
        .b = panel, .scales = scales, .sums = sums};
    plain->multiply(&by, rows, TRIED_ROWS, row_scales, zeros, found[0][0]);
    tiles->multiply(&by, rows, TRIED_ROWS, row_scales, zeros, found[1][0]);
    return memcmp(found[0], found[1], sizeof(found[0])) == 0;
}

/* Whether tiles multiply as other instructions do; also called by tests. The process must be allowed to have them. */
int heed_tiles_agree(void)
{
    return same_products(BFLOAT16, 32) && same_products(BFLOAT16, 70) && same_products(INT8, 64)
        && same_products(INT8, 140);
}

/* Found out once. Who asks at the same time finds the same. */
bool has_amx(void)
{
    static int known; /* 1: it has, −1: it has not */
    int found = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (!found) {
        found = is_there() && is_allowed() && heed_tiles_agree() ? 1 : -1;
        __atomic_store_n(&known, found, __ATOMIC_RELEASE);
    }
    return found > 0;
}

#else

bool has_amx(void) { return false; }

#endif
