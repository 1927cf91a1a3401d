/* The kernels for NEON on aarch64, from the same text as those of native_kinds.c. */

#include "native_kinds.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__aarch64__)

#include <arm_neon.h>

#define PREFETCHED_ROWS 16

/* to [8, 8] = fromᵀ, of which [rows, deep] is there: the rest becomes 0, rows of `to` beyond `deep` stay. Where rows of
   `to` have room for four numbers only, [8, 4]. */
static inline void eight_by_eight(
    const float *from, int64_t stride, int64_t rows, int64_t deep, float *to, int64_t to_stride)
{
    int64_t across = to_stride < 8 ? to_stride : 8;
    if (rows < across || deep < 8) {
        for (int64_t d = 0; d < deep; d++)
            for (int64_t i = 0; i < across; i++)
                to[d * to_stride + i] = i < rows ? from[i * stride + d] : 0.0f;
        return;
    }
    for (int64_t i = 0; i < across; i += 4)
        for (int64_t d = 0; d < 8; d += 4) {
            const float *at = from + i * stride + d;
            float *into = to + d * to_stride + i;
            float32x4x2_t a = vtrnq_f32(vld1q_f32(at), vld1q_f32(at + stride));
            float32x4x2_t b = vtrnq_f32(vld1q_f32(at + 2 * stride), vld1q_f32(at + 3 * stride));
            for (int64_t j = 0; j < 2; j++) {
                vst1q_f32(into + j * to_stride, vcombine_f32(vget_low_f32(a.val[j]), vget_low_f32(b.val[j])));
                vst1q_f32(into + (j + 2) * to_stride,
                          vcombine_f32(vget_high_f32(a.val[j]), vget_high_f32(b.val[j])));
            }
        }
}

static const uint32_t lanes[4] = {0, 1, 2, 3};

static inline uint32x4_t first_of_four(int64_t n)
{
    return vcltq_u32(vld1q_u32(lanes), vdupq_n_u32((uint32_t)n));
}

/* n numbers, fewer than four; what stands after them is not read. */
static inline float32x4_t load_first(int64_t n, const float *p)
{
    float first[4] = {0};
    memcpy(first, p, (size_t)n * sizeof(float));
    return vld1q_f32(first);
}

static inline uint32x4_t seen_of_four(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof(four));
    uint32x4_t seen = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
    return vtstq_u32(seen, seen);
}

/* x·2^n for x about 1 and whole n up to 126; 0 where n is below −126, NaN for x NaN. */
static inline float32x4_t times_two_to(float32x4_t x, float32x4_t n)
{
    float32x4_t least = vdupq_n_f32(-126.0f);
    int32x4_t exponent = vshlq_n_s32(vcvtq_s32_f32(vmaxnmq_f32(least, n)), 23);
    uint32x4_t y = vreinterpretq_u32_s32(vaddq_s32(vreinterpretq_s32_f32(x), exponent));
    return vreinterpretq_f32_u32(vbicq_u32(y, vcltq_f32(n, least)));
}

/* x, normal and positive, is mantissa·2^exponent, 1 ≤ mantissa < 2. */
static inline float32x4_t exponent_of_four(float32x4_t x)
{
    int32x4_t exponent = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(x), 23));
    return vcvtq_f32_s32(vsubq_s32(exponent, vdupq_n_s32(127)));
}

static inline float32x4_t mantissa_of_four(float32x4_t x)
{
    uint32x4_t fraction = vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fffff));
    return vreinterpretq_f32_u32(vorrq_u32(fraction, vreinterpretq_u32_f32(vdupq_n_f32(1.0f))));
}

static inline uint16x4_t bfloat16_of_four(float32x4_t x)
{
    uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
}

static inline uint32_t bits_of_four(uint32x4_t mask)
{
    static const uint32_t each[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(mask, vld1q_u32(each)));
}

/* The numbers of x whose bits are set, one after another. */
static inline void compress_four(float *to, uint32_t bits, float32x4_t x)
{
    float all[4];
    vst1q_f32(all, x);
    for (; bits; bits &= bits - 1)
        *to++ = all[__builtin_ctz(bits)];
}

#define SET(name) name##_neon
#define TARGET
#define V 4
#define ROWS 12
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12)
#define VECTOR float32x4_t
#define ZERO() vdupq_n_f32(0.0f)
#define ALL(x) vdupq_n_f32(x)
#define LOAD(p) vld1q_f32(p)
#define LOAD_FIRST(n, p) load_first(n, p)
#define STORE(p, x) vst1q_f32(p, x)
#define ADD(a, b) vaddq_f32(a, b)
#define SUB(a, b) vsubq_f32(a, b)
#define MUL(a, b) vmulq_f32(a, b)
#define DIV(a, b) vdivq_f32(a, b)
#define MAX(a, b) CHOOSE(OVER(a, b), a, b) /* and not vmaxq_f32, which is NaN where either is */
#define MIN(a, b) CHOOSE(OVER(b, a), a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define SUM(x) vaddvq_f32(x)
#define HIGHEST(x) vmaxvq_f32(x)
#define FIRST(n, x, other) vbslq_f32(first_of_four(n), x, other)
#define ROUND(x) vrndnq_f32(x)
#define TIMES_TWO_TO(x, n) times_two_to(x, n)
#define EXPONENT(x) exponent_of_four(x)
#define MANTISSA(x) mantissa_of_four(x)
#define MASK uint32x4_t
#define OVER(a, b) vcgtq_f32(a, b)
#define CHOOSE(mask, a, b) vbslq_f32(mask, a, b)
#define BITS(mask) bits_of_four(mask)
#define COMPRESS(p, mask, x) compress_four(p, BITS(mask), x)
#define SEEN(p) seen_of_four(p)
#define STORE_FLOAT16(p, x) vst1_u16((uint16_t *)(p), vreinterpret_u16_f16(vcvt_f16_f32(x)))
#define STORE_BFLOAT16(p, x) vst1_u16((uint16_t *)(p), bfloat16_of_four(x))
#include "native_kernel.h"

const struct kind kinds[SETS] = {[NEON] = {2 * 4, MADE(neon), NULL}};

/* Whether this processor has a set of instructions that there is code for: every one has these. */
int heed_has(int instructions) { return instructions == NEON; }

#endif
