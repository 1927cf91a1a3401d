/* Products of weights in bfloat16, float16 and int8, for AVX2 on x86-64; as in native_narrow_avx512.c. */

#include "native_kinds.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define V 8
#define VECTOR __m256
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, x) _mm256_storeu_ps(p, x)
#define ADD(a, b) _mm256_add_ps(a, b)
#define ALL(p) _mm256_broadcast_ss(p)
#define WORDS(p) _mm256_loadu_si256((const __m256i *)(p))
#define FOUR_BYTES(p) _mm256_set1_epi32(four_bytes(p))
#define FLOATS(x) _mm256_castsi256_ps(x)
#define OF_WHOLE_NUMBERS(sum, i, j)                                                                             \
    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(                                                          \
                      sum, _mm256_mullo_epi32(_mm256_set1_epi32(zeros[i]), WORDS(by->sums + (j) * V)))),        \
                  _mm256_mul_ps(_mm256_set1_ps(scales[i]), LOAD(by->scales + (j) * V)))

#define FORM(name) name##_bfloat16_widened_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define ROWS 6
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6)
#define STEP 2
#define PARTS 2
#define NUMBER float
#define WEIGHT_BYTES 2
#define SUMS __m256
#define NOTHING() _mm256_setzero_ps()
#define WEIGHTS __m256
#define WEIGHT(p, part)                                                                                         \
    FLOATS(part ? _mm256_and_si256(WORDS(p), _mm256_set1_epi32(-65536)) : _mm256_slli_epi32(WORDS(p), 16))
#define ROW(p, part) ALL((p) + part)
#define MORE(sum, row, weight) _mm256_fmadd_ps(row, weight, sum)
#define PUT(sum, i, j) sum
#include "native_narrow.h"

#define FORM(name) name##_float16_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define ROWS 6
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6)
#define STEP 1
#define PARTS 1
#define NUMBER float
#define WEIGHT_BYTES 2
#define SUMS __m256
#define NOTHING() _mm256_setzero_ps()
#define WEIGHTS __m256
#define WEIGHT(p, part) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define ROW(p, part) ALL(p)
#define MORE(sum, row, weight) _mm256_fmadd_ps(row, weight, sum)
#define PUT(sum, i, j) sum
#include "native_narrow.h"

#define FORM(name) name##_int8_widened_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define ROWS 4
#define BLOCKS(B) B(1) B(2) B(3) B(4)
#define STEP 4
#define PARTS 2
#define NUMBER uint8_t
#define WEIGHT_BYTES 1
#define SUMS __m256i
#define NOTHING() _mm256_setzero_si256()
#define WEIGHTS __m256i
#define WEIGHT(p, part) _mm256_srai_epi16(part ? WORDS(p) : _mm256_slli_epi16(WORDS(p), 8), 8)
#define ROW(p, part)                                                                                            \
    (part ? _mm256_srli_epi16(FOUR_BYTES(p), 8) : _mm256_and_si256(FOUR_BYTES(p), _mm256_set1_epi16(255)))
#define MORE(sum, row, weight) _mm256_add_epi32(sum, _mm256_madd_epi16(row, weight))
#define PUT(sum, i, j) OF_WHOLE_NUMBERS(sum, i, j)
#include "native_narrow.h"

#ifdef COMPILER_KNOWS_DOTS
__attribute__((target("avx2,avxvnni"))) static inline __m256i dot_avx2(
    __m256i sum, __m256i row, __m256i weight)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(row), "x"(weight));
    return sum;
}

#define FORM(name) name##_int8_vnni_avx2
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#define ROWS 6
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6)
#define STEP 4
#define PARTS 1
#define NUMBER uint8_t
#define WEIGHT_BYTES 1
#define SUMS __m256i
#define NOTHING() _mm256_setzero_si256()
#define WEIGHTS __m256i
#define WEIGHT(p, part) WORDS(p)
#define ROW(p, part) FOUR_BYTES(p)
#define MORE(sum, row, weight) dot_avx2(sum, row, weight)
#define PUT(sum, i, j) OF_WHOLE_NUMBERS(sum, i, j)
#include "native_narrow.h"
#endif

#define HALVES(OP, x)                                                                                           \
    __m128 four = OP(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));                                   \
    four = OP(four, _mm_movehl_ps(four, four));                                                                 \
    return _mm_cvtss_f32(OP(four, _mm_movehdup_ps(four)))

__attribute__((target("avx2"))) static inline float sum_of_eight(__m256 x) { HALVES(_mm_add_ps, x); }
__attribute__((target("avx2"))) static inline float lowest_of_eight(__m256 x) { HALVES(_mm_min_ps, x); }
__attribute__((target("avx2"))) static inline float highest_of_eight(__m256 x) { HALVES(_mm_max_ps, x); }

__attribute__((target("avx2"))) static inline void put_eight_bytes(uint8_t *to, __m256 x)
{
    __m256i whole = _mm256_cvtps_epi32(x);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(words, words));
}

#define TURN quantize_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define ZERO() _mm256_setzero_ps()
#define EACH(x) _mm256_set1_ps(x)
#define MIN(a, b) _mm256_min_ps(a, b)
#define MAX(a, b) _mm256_max_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(x) sum_of_eight(x)
#define LOWEST(x) lowest_of_eight(x)
#define HIGHEST(x) highest_of_eight(x)
#define PUT_BYTES(p, x) put_eight_bytes(p, x)
#include "native_quantize.h"

/* By the numbers that weights are kept in; see struct narrow. */
#define WIDENED_BFLOAT16 [BFLOAT16] = {2, 2, 0, NULL, multiply_bfloat16_widened_avx2, NULL}
#define WIDENED_FLOAT16 [FLOAT16] = {1, 2, 0, NULL, multiply_float16_avx2, NULL}

const struct narrow narrow_avx2[] = {
    WIDENED_BFLOAT16, WIDENED_FLOAT16, [INT8] = {4, 1, 1, quantize_avx2, multiply_int8_widened_avx2, NULL}};
#ifdef COMPILER_KNOWS_DOTS
const struct narrow narrow_avx2_vnni[] = {
    WIDENED_BFLOAT16, WIDENED_FLOAT16, [INT8] = {4, 1, 1, quantize_avx2, multiply_int8_vnni_avx2, NULL}};
#endif

#endif
