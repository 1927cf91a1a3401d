/* Products of weights in bfloat16, float16 and int8, for AVX-512 on x86-64: native_narrow.h.
   Sums are float32 (of int8, int32), and y is float32.

   bfloat16  with AVX512_BF16 rows are rounded to it as well, and pairs are multiplied; else weights are widened
             as they are read, and rows stay float32: half the memory at the speed of float32
   float16   weights are widened as they are read
   int8      a row is made whole numbers from 0 to 255 with a scale and a zero point of its own, a channel of
             the weight from −127 to 127 with a scale; four are multiplied at a time by VNNI, else two as
             int16: the same sums exactly

   With AMX both are multiplied by tiles of sixteen rows and columns: native_tiles.h. */

#include "native_kinds.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define V 16
#define VECTOR __m512
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD(a, b) _mm512_add_ps(a, b)
#define ALL(p) _mm512_set1_ps(*(p))
#define WORDS(p) _mm512_loadu_si512(p)
#define FOUR_BYTES(p) _mm512_set1_epi32(four_bytes(p))
#define FLOATS(x) _mm512_castsi512_ps(x)

/* (sum − zero·Σw)·scale of the row·scale of the channel. */
#define OF_WHOLE_NUMBERS(sum, i, j)                                                                             \
    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(                                                          \
                      sum, _mm512_mullo_epi32(_mm512_set1_epi32(zeros[i]), WORDS(by->sums + (j) * V)))),        \
                  _mm512_mul_ps(_mm512_set1_ps(scales[i]), LOAD(by->scales + (j) * V)))

#define FORM(name) name##_bfloat16_widened_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define ROWS 12
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12)
#define STEP 2
#define PARTS 2
#define NUMBER float
#define WEIGHT_BYTES 2
#define SUMS __m512
#define NOTHING() _mm512_setzero_ps()
#define WEIGHTS __m512
#define WEIGHT(p, part)                                                                                         \
    FLOATS(part ? _mm512_and_si512(WORDS(p), _mm512_set1_epi32(-65536)) : _mm512_slli_epi32(WORDS(p), 16))
#define ROW(p, part) ALL((p) + part)
#define MORE(sum, row, weight) _mm512_fmadd_ps(row, weight, sum)
#define PUT(sum, i, j) sum
#include "native_narrow.h"

#define FORM(name) name##_float16_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define ROWS 14
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12) B(13) B(14)
#define STEP 1
#define PARTS 1
#define NUMBER float
#define WEIGHT_BYTES 2
#define SUMS __m512
#define NOTHING() _mm512_setzero_ps()
#define WEIGHTS __m512
#define WEIGHT(p, part) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define ROW(p, part) ALL(p)
#define MORE(sum, row, weight) _mm512_fmadd_ps(row, weight, sum)
#define PUT(sum, i, j) sum
#include "native_narrow.h"

#define FORM(name) name##_int8_widened_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx2,fma")))
#define ROWS 12
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12)
#define STEP 4
#define PARTS 2
#define NUMBER uint8_t
#define WEIGHT_BYTES 1
#define SUMS __m512i
#define NOTHING() _mm512_setzero_si512()
#define WEIGHTS __m512i
#define WEIGHT(p, part) _mm512_srai_epi16(part ? WORDS(p) : _mm512_slli_epi16(WORDS(p), 8), 8)
#define ROW(p, part)                                                                                            \
    (part ? _mm512_srli_epi16(FOUR_BYTES(p), 8) : _mm512_and_si512(FOUR_BYTES(p), _mm512_set1_epi16(255)))
#define MORE(sum, row, weight) _mm512_add_epi32(sum, _mm512_madd_epi16(row, weight))
#define PUT(sum, i, j) OF_WHOLE_NUMBERS(sum, i, j)
#include "native_narrow.h"

#ifdef COMPILER_KNOWS_DOTS
/* In place: gcc 12 copies every sum that its own function for it takes. */
__attribute__((target("avx512f,avx512vnni"))) static inline __m512i dot_avx512(
    __m512i sum, __m512i row, __m512i weight)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(weight));
    return sum;
}

#define FORM(name) name##_int8_vnni_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vnni,avx2,fma")))
#define ROWS 14
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12) B(13) B(14)
#define STEP 4
#define PARTS 1
#define NUMBER uint8_t
#define WEIGHT_BYTES 1
#define SUMS __m512i
#define NOTHING() _mm512_setzero_si512()
#define WEIGHTS __m512i
#define WEIGHT(p, part) WORDS(p)
#define ROW(p, part) FOUR_BYTES(p)
#define MORE(sum, row, weight) dot_avx512(sum, row, weight)
#define PUT(sum, i, j) OF_WHOLE_NUMBERS(sum, i, j)
#include "native_narrow.h"

#define FORM(name) name##_bfloat16_pairs_avx512
#define TARGET __attribute__((target("avx512f,avx512bf16,avx2,fma")))
#define ROWS 14
#define BLOCKS(B) B(1) B(2) B(3) B(4) B(5) B(6) B(7) B(8) B(9) B(10) B(11) B(12) B(13) B(14)
#define STEP 2
#define PARTS 1
#define NUMBER uint16_t
#define WEIGHT_BYTES 2
#define SUMS __m512
#define NOTHING() _mm512_setzero_ps()
#define WEIGHTS __m512i
#define WEIGHT(p, part) WORDS(p)
#define ROW(p, part) FOUR_BYTES(p)
#define MORE(sum, row, weight) _mm512_dpbf16_ps(sum, (__m512bh)(row), (__m512bh)(weight))
#define PUT(sum, i, j) sum
#include "native_narrow.h"

#define FORM(name) name##_bfloat16_amx
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define NUMBER uint16_t
#define SUMS float
#define MORE(sum, row, weight) MULTIPLY_TILES("tdpbf16ps", sum, row, weight)
#define PUT(sum, i, j) FLOATS(sum)
#include "native_tiles.h"

#define FORM(name) name##_int8_amx
#define TARGET __attribute__((target("avx512f,avx512bw,avx2,fma")))
#define NUMBER uint8_t
#define SUMS int32_t
#define MORE(sum, row, weight) MULTIPLY_TILES("tdpbusd", sum, row, weight)
#define PUT(sum, i, j) OF_WHOLE_NUMBERS(sum, i, j)
#include "native_tiles.h"

__attribute__((target("avx512f,avx512bf16"))) static void put_rounded_avx512(
    const struct product *of, int64_t at, int64_t rows, const float *c)
{
    uint16_t *to = of->after->rounded + at * of->after->rounded_stride;
    __mmask32 there = of->columns < 32 ? ((__mmask32)1 << of->columns) - 1 : (__mmask32)-1;
    for (int64_t i = 0; i < rows; i++, c += of->c_stride, to += of->after->rounded_stride) {
        __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, c);
        __m512 high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), c + 16);
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

__attribute__((target("avx512f,avx512bf16"))) static void round_avx512(
    const struct linear_rows *of, int64_t rows, struct room *room)
{
    const float *x = of->x;
    uint16_t *to = room_rows(room);
    for (int64_t i = 0; i < rows; i++, x += of->stride, to += of->turned_stride)
        for (int64_t k = 0; k < of->inner; k += 32) {
            int64_t left = of->inner - k;
            __mmask32 there = left < 32 ? ((__mmask32)1 << left) - 1 : (__mmask32)-1;
            __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, x + k);
            __m512 high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), x + k + 16);
            _mm512_storeu_si512(to + k, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
}
#endif

#define TURN quantize_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx2,fma")))
#define ZERO() _mm512_setzero_ps()
#define EACH(x) _mm512_set1_ps(x)
#define MIN(a, b) _mm512_min_ps(a, b)
#define MAX(a, b) _mm512_max_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(x) _mm512_reduce_add_ps(x)
#define LOWEST(x) _mm512_reduce_min_ps(x)
#define HIGHEST(x) _mm512_reduce_max_ps(x)
#define PUT_BYTES(p, x)                                                                                         \
    _mm_storeu_si128((__m128i *)(p), _mm512_cvtusepi32_epi8(                                             \
                                        _mm512_max_epi32(_mm512_cvtps_epi32(x), _mm512_setzero_si512())))
#include "native_quantize.h"

/* By the numbers that weights are kept in; see struct narrow. */
#define WIDENED_BFLOAT16 [BFLOAT16] = {2, 2, 0, NULL, multiply_bfloat16_widened_avx512, NULL}
#define WIDENED_FLOAT16 [FLOAT16] = {1, 2, 0, NULL, multiply_float16_avx512, NULL}

const struct narrow narrow_avx512[] = {
    WIDENED_BFLOAT16, WIDENED_FLOAT16, [INT8] = {4, 1, 1, quantize_avx512, multiply_int8_widened_avx512, NULL}};
#ifdef COMPILER_KNOWS_DOTS
const struct narrow narrow_avx512_vnni[] = {
    WIDENED_BFLOAT16, WIDENED_FLOAT16, [INT8] = {4, 1, 1, quantize_avx512, multiply_int8_vnni_avx512, NULL}};
const struct narrow narrow_avx512_bf16[] = {
    [BFLOAT16] = {2, 2, 2, round_avx512, multiply_bfloat16_pairs_avx512, put_rounded_avx512}, WIDENED_FLOAT16,
    [INT8] = {4, 1, 1, quantize_avx512, multiply_int8_vnni_avx512, NULL}};
const struct narrow narrow_avx512_amx[] = {
    [BFLOAT16] = {2, 2, 2, round_avx512, multiply_bfloat16_amx, put_rounded_avx512}, WIDENED_FLOAT16,
    [INT8] = {4, 1, 1, quantize_avx512, multiply_int8_amx, NULL}};
#endif

#endif
