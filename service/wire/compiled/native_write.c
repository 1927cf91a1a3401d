/* Arrays of float32 as JSON: eight numbers at a time where they are of usual sizes, else one by one. */

#include "native_shortest.h"

#if defined(__x86_64__)
#define EVERY(number) _mm256_set1_epi64x(number)

/* 2^60 times what a unit in the last place is, in units of the power of ten below it; by the biased exponent */
static uint64_t SCALES[256];

__attribute__((constructor)) static void prepare(void)
{
    for (int biased = 1; biased < 255; biased++) {
        const int q = biased - 150, k = floor_log10(q, 0);
        SCALES[biased] = POWERS[-k - SMALLEST_POWER] >> (3 - q - floor_log2_of_power(-k));
    }
}

/* Where a difference is less than 32 units from 0, below what the products here are exact to. */
FAST static inline __m256i near(__m256i difference)
{
    const __m256i shifted = _mm256_add_epi64(difference, EVERY(32));
    return _mm256_cmpeq_epi64(_mm256_and_si256(shifted, EVERY(-64)), EVERY(0));
}

/* The digits of numbers below 10^8, a byte each: of two halves of four, of four pairs, of eight. */
FAST static inline __m256i eight_digits(__m256i rest)
{
    const __m256i high = _mm256_srli_epi64(_mm256_mul_epu32(rest, EVERY(0xd1b71759)), 45);
    const __m256i low = _mm256_sub_epi64(rest, _mm256_mul_epu32(high, EVERY(10000)));
    const __m256i halves = _mm256_or_si256(high, _mm256_slli_epi64(low, 32));
    const __m256i hundreds = _mm256_srli_epi16(_mm256_mulhi_epu16(halves, _mm256_set1_epi32(5243)), 3);
    const __m256i units = _mm256_sub_epi16(halves, _mm256_mullo_epi16(hundreds, _mm256_set1_epi32(100)));
    const __m256i pairs = _mm256_or_si256(hundreds, _mm256_slli_epi32(units, 16));
    const __m256i upper = _mm256_srli_epi16(_mm256_mullo_epi16(pairs, _mm256_set1_epi16(103)), 10);
    const __m256i lower = _mm256_sub_epi16(pairs, _mm256_mullo_epi16(upper, _mm256_set1_epi16(10)));
    return _mm256_or_si256(upper, _mm256_slli_epi16(lower, 8));
}

/* Four normal numbers as nine digits each: the first, then eight (0 to 9) in a register, and where the point is,
   from 0 for 0.00000d… to 6 for d.d…. The products have 36 bits behind the units. Returns 0 unless all are of
   that size, no power of two, and further from every border than what was cut off. */
FAST static inline int four_digits(const uint32_t *numbers, uint64_t *first, uint64_t *eight, uint64_t *point)
{
    const __m256i bits = _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)numbers));
    const __m256i biased = _mm256_and_si256(_mm256_srli_epi64(bits, 23), EVERY(0xff));
    const __m256i fraction = _mm256_and_si256(bits, EVERY(0x7fffff));
    const __m256i scale = _mm256_set_epi64x(
        (long long)SCALES[numbers[3] >> 23 & 0xff], (long long)SCALES[numbers[2] >> 23 & 0xff],
        (long long)SCALES[numbers[1] >> 23 & 0xff], (long long)SCALES[numbers[0] >> 23 & 0xff]);
    const __m256i c = _mm256_slli_epi64(_mm256_or_si256(fraction, EVERY(0x800000)), 8);
    const __m256i value = _mm256_add_epi64(_mm256_mul_epu32(c, _mm256_srli_epi64(scale, 32)),
                                           _mm256_srli_epi64(_mm256_mul_epu32(c, scale), 32));
    const __m256i half = _mm256_srli_epi64(scale, 25); /* of a unit in the last place */

    /* the multiple of ten within half a unit, or else the nearest whole number */
    const __m256i tenth = _mm256_srli_epi64(
        _mm256_mul_epu32(_mm256_srli_epi64(value, 36), EVERY(0xcccccccd)), 35);
    const __m256i tens = _mm256_mul_epu32(tenth, EVERY(10));
    const __m256i beyond = _mm256_sub_epi64(value, _mm256_slli_epi64(tens, 36));
    const __m256i missing = _mm256_sub_epi64(EVERY(10LL << 36), beyond);
    const __m256i up = _mm256_cmpgt_epi64(half, missing);
    const __m256i shorter = _mm256_or_si256(_mm256_cmpgt_epi64(half, beyond), up);
    const __m256i multiple = _mm256_add_epi64(tens, _mm256_and_si256(up, EVERY(10)));
    const __m256i nearest = _mm256_srli_epi64(_mm256_add_epi64(value, EVERY(1LL << 35)), 36);
    __m256i number = _mm256_blendv_epi8(nearest, multiple, shorter);
    const __m256i middle =
        _mm256_sub_epi64(_mm256_and_si256(value, EVERY((1LL << 36) - 1)), EVERY(1LL << 35));

    /* nine digits, the first of them not 0 */
    const __m256i below_9 = _mm256_cmpgt_epi64(EVERY(100000000), number);
    const __m256i below_8 = _mm256_cmpgt_epi64(EVERY(10000000), number);
    const __m256i factor = _mm256_add_epi64(_mm256_and_si256(below_9, EVERY(9)),
                                            _mm256_and_si256(below_8, EVERY(90)));
    number = _mm256_mul_epu32(number, _mm256_add_epi64(factor, EVERY(1)));
    const __m256i k_and_46 = _mm256_srli_epi64(
        _mm256_add_epi64(_mm256_mul_epu32(biased, EVERY(1262611)), EVERY((46LL << 22) - 150LL * 1262611)), 22);
    const __m256i point_at = _mm256_add_epi64(_mm256_add_epi64(k_and_46, EVERY(9 + 5 - 46)),
                                              _mm256_add_epi64(below_9, below_8));

    const __m256i leading = _mm256_srli_epi64(_mm256_mul_epu32(number, EVERY(0x55e63b89)), 57);
    const __m256i rest = _mm256_sub_epi64(number, _mm256_mul_epu32(leading, EVERY(100000000)));
    _mm256_storeu_si256((__m256i *)first, leading);
    _mm256_storeu_si256((__m256i *)eight, eight_digits(rest));
    _mm256_storeu_si256((__m256i *)point, point_at);
    __m256i odd = _mm256_or_si256(_mm256_cmpeq_epi64(fraction, EVERY(0)), _mm256_cmpeq_epi64(scale, EVERY(0)));
    odd = _mm256_or_si256(odd, near(middle));
    odd = _mm256_or_si256(odd, near(_mm256_sub_epi64(beyond, half)));
    odd = _mm256_or_si256(odd, near(_mm256_sub_epi64(missing, half)));
    odd = _mm256_or_si256(odd, _mm256_cmpgt_epi64(point_at, EVERY(6)));
    odd = _mm256_or_si256(odd, _mm256_cmpgt_epi64(EVERY(0), point_at));
    return _mm256_testz_si256(odd, odd);
}

/* Write eight numbers, a comma after each, without a branch that depends on how long they are; NULL if one of them
   is for write_float. Up to 24 bytes from the last are written. */
FAST static char *write_eight(char *out, const uint32_t *numbers)
{
    /* where the first digit goes, and the others */
    static const uint8_t OFFSETS[][2] = {{7, 8}, {6, 7}, {5, 6}, {4, 5}, {3, 4}, {2, 3}, {0, 2}};
    uint64_t first[8], eight[8], point[8];
    if (!(four_digits(numbers, first, eight, point) & four_digits(numbers + 4, first + 4, eight + 4, point + 4)))
        return NULL;
    for (int i = 0; i < 8; i++) {
        const uint8_t *const offset = OFFSETS[point[i]];
        *out = '-';
        out += numbers[i] >> 31;
        memcpy(out, "0.000000", 8);
        out[offset[0]] = (char)('0' + first[i]);
        put(out + offset[1], eight[i] | 0x3030303030303030);
        const int zeros = (int)_tzcnt_u64(__builtin_bswap64(eight[i]) | (uint64_t)1 << 63) >> 3;
        /* of eight zeros one stays, in 1.0 and not in 0.1 */
        out += offset[1] + 8 - zeros - (eight[i] == 0 && point[i] != 6);
        *out++ = ',';
    }
    return out;
}
#else
static char *write_eight(char *out, const uint32_t *numbers) { return (void)out, (void)numbers, NULL; }
#endif

/* Write numbers as one JSON list and return the end. */
static char *write_row(char *out, const uint32_t *row, int64_t count, int fast)
{
    *out++ = '[';
    for (int64_t i = 0; i < count;) {
        const int64_t stop = count - i < 8 ? count : i + 8;
        char *const end = fast && stop - i == 8 ? write_eight(out, row + i) : NULL;
        if (end) {
            out = end;
            i = stop;
            continue;
        }
        while (i < stop) {
            out = write_float(out, row[i++]);
            *out++ = ',';
        }
    }
    out -= count > 0;
    *out++ = ']';
    return out;
}

/* Write a C-contiguous array of 1 to 16 axes as nested lists; returns how many bytes were written. */
int64_t heed_write(const struct write_call *call)
{
    char *out = call->out;
    const uint32_t *numbers = call->numbers;
    const int64_t *const shape = call->shape, rank = call->rank;
    const int fast = !call->plain && is_fast();
    int64_t met[HIGHEST_RANK] = {0};
    int64_t lists = 1;
    for (int64_t axis = 0; axis < rank - 1; axis++)
        lists *= shape[axis];
    int64_t opened = rank - 1;
    for (int64_t list = 0; list < lists; list++) {
        memset(out, '[', (size_t)opened);
        out = write_row(out + opened, numbers, shape[rank - 1], fast);
        numbers += shape[rank - 1];
        opened = 0;
        for (int64_t axis = rank - 2; axis >= 0 && ++met[axis] == shape[axis]; axis--) {
            met[axis] = 0;
            *out++ = ']';
            opened++;
        }
        *out++ = ',';
    }
    return out - 1 - call->out;
}
