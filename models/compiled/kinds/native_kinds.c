/* The kernels for AVX2 and AVX-512 on x86-64, from one text: native_kernel.h. */

#include "native_kinds.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define PREFETCHED_ROWS 16 /* rows of a panel that are fetched before they are needed */

/* to [8, 8] = fromᵀ, of which [rows, deep] is there: the rest becomes 0, rows of `to` beyond `deep` stay. */
__attribute__((target("avx2"))) static void eight_by_eight(
    const float *from, int64_t stride, int64_t rows, int64_t deep, float *to, int64_t to_stride)
{
    if (deep < 8) {
        for (int64_t d = 0; d < deep; d++)
            for (int64_t i = 0; i < 8; i++)
                to[d * to_stride + i] = i < rows ? from[i * stride + d] : 0.0f;
        return;
    }
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = i < rows ? _mm256_loadu_ps(from + i * stride) : _mm256_setzero_ps();
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

__attribute__((target("avx512f"))) static inline __mmask16 seen_of_sixteen(const uint8_t *p)
{
    __m512i seen = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_test_epi32_mask(seen, seen);
}

/* Rounded to even; not for NaN. */
__attribute__((target("avx512f"))) static inline __m256i bfloat16_of_sixteen(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x), odd = _mm512_srli_epi32(_mm512_slli_epi32(bits, 15), 31);
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
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
#define LOAD_FIRST(n, p) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUB(a, b) _mm512_sub_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define DIV(a, b) _mm512_div_ps(a, b)
#define MAX(a, b) _mm512_max_ps(a, b) /* b where either is NaN, as MIN */
#define MIN(a, b) _mm512_min_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(x) _mm512_reduce_add_ps(x)
#define HIGHEST(x) _mm512_reduce_max_ps(x)
#define FIRST(n, x, other) _mm512_mask_mov_ps(other, (__mmask16)((1u << (n)) - 1), x)
#define SEEN(p) seen_of_sixteen(p)
#define ROUND(x) _mm512_roundscale_ps(x, 8)
#define TIMES_TWO_TO(x, n) _mm512_scalef_ps(x, n)
#define EXPONENT(x) _mm512_getexp_ps(x) /* x normal and positive is MANTISSA(x)·2^EXPONENT(x), 1 ≤ MANTISSA(x) < 2 */
#define MANTISSA(x) _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero)
#define MASK __mmask16
#define OVER(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)
#define CHOOSE(mask, a, b) _mm512_mask_mov_ps(b, mask, a)
#define BITS(mask) ((uint32_t)(mask))
#define COMPRESS(p, mask, x) _mm512_storeu_ps(p, _mm512_maskz_compress_ps(mask, x))
#define STORE_FLOAT16(p, x) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))
#define STORE_BFLOAT16(p, x) _mm256_storeu_si256((__m256i *)(p), bfloat16_of_sixteen(x))
#include "native_kernel.h"

#define HALVES(OP, x)                                                                                     \
    __m128 four = OP(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));                             \
    four = OP(four, _mm_movehl_ps(four, four));                                                           \
    return _mm_cvtss_f32(OP(four, _mm_movehdup_ps(four)))

__attribute__((target("avx2"))) static inline float sum_of_eight(__m256 x) { HALVES(_mm_add_ps, x); }
__attribute__((target("avx2"))) static inline float highest_of_eight(__m256 x) { HALVES(_mm_max_ps, x); }

/* x·2^n for x about 1 and whole n up to 126; 0 where n is below −126, NaN for x NaN. */
__attribute__((target("avx2"))) static inline __m256 times_two_to(__m256 x, __m256 n)
{
    __m256 least = _mm256_set1_ps(-126.0f);
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_max_ps(least, n)), 23);
    __m256 y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
    return _mm256_and_ps(y, _mm256_cmp_ps(n, least, _CMP_NLT_UQ));
}

__attribute__((target("avx2"))) static inline __m256 seen_of_eight(const uint8_t *p)
{
    __m256i seen = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(seen, _mm256_setzero_si256()));
}

/* x is mantissa·2^exponent, as above. */
__attribute__((target("avx2"))) static inline __m256 exponent_of_eight(__m256 x)
{
    __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(x), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(exponent, _mm256_set1_epi32(127)));
}

__attribute__((target("avx2"))) static inline __m256 mantissa_of_eight(__m256 x)
{
    __m256 fraction = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffff));
    return _mm256_or_ps(_mm256_and_ps(x, fraction), _mm256_set1_ps(1.0f));
}

__attribute__((target("avx2"))) static inline __m128i bfloat16_of_eight(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x), odd = _mm256_srli_epi32(_mm256_slli_epi32(bits, 15), 31);
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    bits = _mm256_srli_epi32(bits, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}

/* The numbers of x whose bits are set, one after another. */
__attribute__((target("avx2"))) static inline void compress_eight(float *to, uint32_t bits, __m256 x)
{
    float all[8];
    _mm256_storeu_ps(all, x);
    for (; bits; bits &= bits - 1)
        *to++ = all[__builtin_ctz(bits)];
}

static const float ones_and_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1}; /* a sign chooses */

#define SET(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define V 8
#define ROWS 6
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6)
#define VECTOR __m256
#define ZERO() _mm256_setzero_ps()
#define ALL(x) _mm256_set1_ps(x)
#define LOAD(p) _mm256_loadu_ps(p)
#define LOAD_FIRST(n, p) _mm256_maskload_ps(p, _mm256_castps_si256(_mm256_loadu_ps(ones_and_zeros + 8 - (n))))
#define STORE(p, x) _mm256_storeu_ps(p, x)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUB(a, b) _mm256_sub_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define DIV(a, b) _mm256_div_ps(a, b)
#define MAX(a, b) _mm256_max_ps(a, b)
#define MIN(a, b) _mm256_min_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(x) sum_of_eight(x)
#define HIGHEST(x) highest_of_eight(x)
#define FIRST(n, x, other) _mm256_blendv_ps(other, x, _mm256_loadu_ps(ones_and_zeros + 8 - (n)))
#define SEEN(p) seen_of_eight(p)
#define ROUND(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define TIMES_TWO_TO(x, n) times_two_to(x, n)
#define EXPONENT(x) exponent_of_eight(x)
#define MANTISSA(x) mantissa_of_eight(x)
#define MASK __m256
#define OVER(a, b) _mm256_cmp_ps(a, b, _CMP_GT_OQ)
#define CHOOSE(mask, a, b) _mm256_blendv_ps(b, a, mask)
#define BITS(mask) ((uint32_t)_mm256_movemask_ps(mask))
#define COMPRESS(p, mask, x) compress_eight(p, BITS(mask), x)
#define STORE_FLOAT16(p, x) _mm_storeu_si128((__m128i *)(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT))
#define STORE_BFLOAT16(p, x) _mm_storeu_si128((__m128i *)(p), bfloat16_of_eight(x))
#include "native_kernel.h"

/* A set is in the table where the compiler can write it. */
const struct kind kinds[SETS] = {
    [AVX2] = {2 * 8, MADE(avx2), narrow_avx2},
    [AVX512] = {2 * 16, MADE(avx512), narrow_avx512},
#ifdef COMPILER_KNOWS_DOTS
    [AVX2_VNNI] = {2 * 8, MADE(avx2), narrow_avx2_vnni},
    [AVX512_VNNI] = {2 * 16, MADE(avx512), narrow_avx512_vnni},
    [AVX512_BF16] = {2 * 16, MADE(avx512), narrow_avx512_bf16},
    [AVX512_AMX] = {2 * 16, MADE(avx512), narrow_avx512_amx},
#endif
};

/* Whether this processor has a set of instructions that there is code for. Not all compilers have names for what leaves
   1 and 7, 1 of cpuid tell. */
int heed_has(int instructions)
{
    unsigned first[4] = {0}, told[4] = {0};
    __builtin_cpu_init();
    __get_cpuid(1, first, first + 1, first + 2, first + 3);
    __get_cpuid_count(7, 1, told, told + 1, told + 2, told + 3);
    bool f16c = first[2] >> 29 & 1, avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (instructions <= NONE || instructions >= SETS || !kinds[instructions].columns)
        return 0;
    switch (instructions) {
    case AVX2:
        return avx2;
    case AVX512:
        return avx512;
    case AVX2_VNNI:
        return avx2 && told[0] >> 4 & 1;
    case AVX512_VNNI:
        return vnni;
    case AVX512_BF16:
        return vnni && told[0] >> 5 & 1;
    case AVX512_AMX:
        return vnni && told[0] >> 5 & 1 && has_amx();
    }
    return 0;
}

#elif !defined(__aarch64__) /* others have no such code, and nobody calls it; those of aarch64: native_neon.c */

const struct kind kinds[SETS] = {{0}};

int heed_has(int instructions)
{
    (void)instructions;
    return 0;
}

#endif

/* How many columns a panel has for a set of instructions that heed_has. */
int heed_columns(int instructions) { return (int)kinds[instructions].columns; }

/* Whether there are products of weights that are kept so for a set of instructions. */
int heed_keeps(int instructions, int numbers)
{
    return numbers == FLOAT32 || kinds[instructions].narrow != NULL;
}
