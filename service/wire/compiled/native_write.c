/* float32 as the shortest decimal that reads back equal, whole arrays at a time.

   Which digits: R. Giulietti, "The Schubfach way to render doubles" (2021), with the widths of float32. How they are
   written: as orjson does, 0.5, 1.0, 1e-7, 1e+16; null where a number is not finite. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "digits are laid out for little-endian processors"
#endif

enum { SMALLEST_POWER = -31, HIGHEST_RANK = 16 };

/* ceil(10^k * 2^(63 - floor(log2(10^k)))) for k from -31 to 45 */
static const uint64_t POWERS[] = {
    0x81ceb32c4b43fcf5, 0xa2425ff75e14fc32, 0xcad2f7f5359a3b3f, 0xfd87b5f28300ca0e,
    0x9e74d1b791e07e49, 0xc612062576589ddb, 0xf79687aed3eec552, 0x9abe14cd44753b53,
    0xc16d9a0095928a28, 0xf1c90080baf72cb2, 0x971da05074da7bef, 0xbce5086492111aeb,
    0xec1e4a7db69561a6, 0x9392ee8e921d5d08, 0xb877aa3236a4b44a, 0xe69594bec44de15c,
    0x901d7cf73ab0acda, 0xb424dc35095cd810, 0xe12e13424bb40e14, 0x8cbccc096f5088cc,
    0xafebff0bcb24aaff, 0xdbe6fecebdedd5bf, 0x89705f4136b4a598, 0xabcc77118461cefd,
    0xd6bf94d5e57a42bd, 0x8637bd05af6c69b6, 0xa7c5ac471b478424, 0xd1b71758e219652c,
    0x83126e978d4fdf3c, 0xa3d70a3d70a3d70b, 0xcccccccccccccccd, 0x8000000000000000,
    0xa000000000000000, 0xc800000000000000, 0xfa00000000000000, 0x9c40000000000000,
    0xc350000000000000, 0xf424000000000000, 0x9896800000000000, 0xbebc200000000000,
    0xee6b280000000000, 0x9502f90000000000, 0xba43b74000000000, 0xe8d4a51000000000,
    0x9184e72a00000000, 0xb5e620f480000000, 0xe35fa931a0000000, 0x8e1bc9bf04000000,
    0xb1a2bc2ec5000000, 0xde0b6b3a76400000, 0x8ac7230489e80000, 0xad78ebc5ac620000,
    0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400, 0xd3c21bcecceda100,
    0x84595161401484a0, 0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a, 0x813f3978f8940985,
    0xa18f07d736b90be6, 0xc9f2c9cd04674edf, 0xfc6f7c4045812297, 0x9dc5ada82b70b59e,
    0xc5371912364ce306, 0xf684df56c3e01bc7, 0x9a130b963a6c115d, 0xc097ce7bc90715b4,
    0xf0bdc21abb48db21, 0x96769950b50d88f5, 0xbc143fa4e250eb32, 0xeb194f8e1ae525fe,
    0x92efd1b8d0cf37bf, 0xb7abc627050305ae, 0xe596b7b0c643c71a, 0x8f7e32ce7bea5c70,
    0xb35dbf821ae4f38c,
};

static const uint32_t TENS[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

static inline void put(char *out, uint64_t eight) { memcpy(out, &eight, 8); }

static inline int floor_log2_of_power(int k) { return (k * 1741647) >> 19; }

/* floor(log10(2^q)), or of 3/4 of it */
static inline int floor_log10(int q, uint32_t three_quarters)
{
    return (q * 1262611 - (int)(three_quarters * 524031)) >> 22;
}

/* The upper bits of power * scaled, the lowest of them 1 if anything was below it (section 9.6). */
static inline uint32_t round_to_odd(uint64_t power, uint32_t scaled)
{
    const unsigned __int128 product = (unsigned __int128)power * scaled;
    const uint32_t below = (uint32_t)((uint64_t)product >> 32);
    return (uint32_t)(product >> 64) | (below > 1);
}

/* Write 0.d…, d.d… or d.d…e±n: nine digits, of which `significant` count, times 10^(point - 9). */
static char *write_decimal(char *out, const char *digits, int significant, int point)
{
    if (-6 < point && point <= 0) {
        memcpy(out, "0.00000", 7);
        out += 2 - point;
        memcpy(out, digits, 9);
        return out + significant;
    }
    if (0 < point && point <= 13) {
        memset(out, '0', 16);
        memcpy(out, digits, (size_t)(point < 9 ? point : 9));
        out[point] = '.';
        if (significant <= point) return out + point + 2;
        memcpy(out + point + 1, digits + point, (size_t)(significant - point));
        return out + significant + 1;
    }
    *out++ = digits[0];
    if (significant > 1) {
        *out++ = '.';
        memcpy(out, digits + 1, 8);
        out += significant - 1;
    }
    const int exponent = point > 0 ? point - 1 : 1 - point;
    *out++ = 'e';
    *out++ = point > 0 ? '+' : '-';
    if (exponent >= 10) *out++ = (char)('0' + exponent / 10);
    *out++ = (char)('0' + exponent % 10);
    return out;
}

/* Write any number; up to 24 bytes from `out` are written, the end is returned. */
static char *write_float(char *out, uint32_t bits)
{
    const uint32_t fraction = bits & 0x7fffff, biased = bits >> 23 & 0xff;
    if (biased == 0xff) {
        memcpy(out, "null", 4);
        return out + 4;
    }
    *out = '-';
    out += bits >> 31;
    if (!(fraction | biased)) {
        memcpy(out, "0.0", 3);
        return out + 3;
    }
    const uint32_t c = biased ? fraction | 0x800000 : fraction;
    const int q = (int)(biased ? biased : 1) - 150;
    const uint32_t uneven = fraction == 0 && biased > 1; /* the float below is nearer than the one above */
    const int k = floor_log10(q, uneven);
    const int h = q + floor_log2_of_power(-k) + 1;
    const uint64_t power = POWERS[-k - SMALLEST_POWER];
    const uint32_t odd = c & 1;
    const uint32_t lower = round_to_odd(power, (4 * c - 2 + uneven) << h) + odd;
    const uint32_t exact = round_to_odd(power, (4 * c) << h);
    const uint32_t upper = round_to_odd(power, (4 * c + 2) << h) - odd;
    /* One digit less, if such a decimal lies in the interval; else of two the one that does, or the nearer. */
    const uint32_t s = exact / 4, tenth = s / 10;
    const int tenth_below = lower <= 40 * tenth, tenth_above = 40 * tenth + 40 <= upper;
    const int below = lower <= 4 * s, above = 4 * s + 4 <= upper;
    const int shorter = tenth_below != tenth_above && s >= 10;
    uint32_t digits;
    if (shorter)
        digits = tenth + (uint32_t)tenth_above;
    else if (below != above)
        digits = s + (uint32_t)above;
    else
        digits = s + (exact > 4 * s + 2 || (exact == 4 * s + 2 && s % 2));
    int length = 1;
    while (length < 9 && digits >= TENS[length])
        length++;
    char text[9];
    uint32_t left = digits * TENS[9 - length];
    for (int place = 8; place >= 0; place--, left /= 10)
        text[place] = (char)('0' + left % 10);
    int significant = 9;
    while (significant > 1 && text[significant - 1] == '0')
        significant--;
    return write_decimal(out, text, significant, k + shorter + length);
}

#if defined(__x86_64__)
#define FAST __attribute__((target("avx2,bmi,tune=haswell")))
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
    const __m256i place = _mm256_add_epi64(_mm256_add_epi64(k_and_46, EVERY(9 + 5 - 46)),
                                           _mm256_add_epi64(below_9, below_8));

    /* 1 + 8 digits: two halves of four, four pairs, eight */
    const __m256i leading = _mm256_srli_epi64(_mm256_mul_epu32(number, EVERY(0x55e63b89)), 57);
    const __m256i rest = _mm256_sub_epi64(number, _mm256_mul_epu32(leading, EVERY(100000000)));
    const __m256i high = _mm256_srli_epi64(_mm256_mul_epu32(rest, EVERY(0xd1b71759)), 45);
    const __m256i low = _mm256_sub_epi64(rest, _mm256_mul_epu32(high, EVERY(10000)));
    const __m256i halves = _mm256_or_si256(high, _mm256_slli_epi64(low, 32));
    const __m256i hundreds = _mm256_srli_epi16(_mm256_mulhi_epu16(halves, _mm256_set1_epi32(5243)), 3);
    const __m256i units = _mm256_sub_epi16(halves, _mm256_mullo_epi16(hundreds, _mm256_set1_epi32(100)));
    const __m256i pairs = _mm256_or_si256(hundreds, _mm256_slli_epi32(units, 16));
    const __m256i upper = _mm256_srli_epi16(_mm256_mullo_epi16(pairs, _mm256_set1_epi16(103)), 10);
    const __m256i lower = _mm256_sub_epi16(pairs, _mm256_mullo_epi16(upper, _mm256_set1_epi16(10)));

    _mm256_storeu_si256((__m256i *)first, leading);
    _mm256_storeu_si256((__m256i *)eight, _mm256_or_si256(upper, _mm256_slli_epi16(lower, 8)));
    _mm256_storeu_si256((__m256i *)point, place);
    __m256i odd = _mm256_or_si256(_mm256_cmpeq_epi64(fraction, EVERY(0)), _mm256_cmpeq_epi64(scale, EVERY(0)));
    odd = _mm256_or_si256(odd, near(middle));
    odd = _mm256_or_si256(odd, near(_mm256_sub_epi64(beyond, half)));
    odd = _mm256_or_si256(odd, near(_mm256_sub_epi64(missing, half)));
    odd = _mm256_or_si256(odd, _mm256_cmpgt_epi64(place, EVERY(6)));
    odd = _mm256_or_si256(odd, _mm256_cmpgt_epi64(EVERY(0), place));
    return _mm256_testz_si256(odd, odd);
}

/* Write eight numbers, a comma after each, without a branch that depends on how long they are; NULL if one of them
   is for write_float. Up to 24 bytes from the last are written. */
FAST static char *write_eight(char *out, const uint32_t *numbers)
{
    /* where the first digit goes, and the others */
    static const uint8_t PLACES[][2] = {{7, 8}, {6, 7}, {5, 6}, {4, 5}, {3, 4}, {2, 3}, {0, 2}};
    uint64_t first[8], eight[8], point[8];
    if (!(four_digits(numbers, first, eight, point) & four_digits(numbers + 4, first + 4, eight + 4, point + 4)))
        return NULL;
    for (int i = 0; i < 8; i++) {
        const uint8_t *const place = PLACES[point[i]];
        *out = '-';
        out += numbers[i] >> 31;
        memcpy(out, "0.000000", 8);
        out[place[0]] = (char)('0' + first[i]);
        put(out + place[1], eight[i] | 0x3030303030303030);
        const int zeros = (int)_tzcnt_u64(__builtin_bswap64(eight[i]) | (uint64_t)1 << 63) >> 3;
        /* of eight zeros one stays, in 1.0 and not in 0.1 */
        out += place[1] + 8 - zeros - (eight[i] == 0 && point[i] != 6);
        *out++ = ',';
    }
    return out;
}

static int is_fast(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi"); }
#else
static char *write_eight(char *out, const uint32_t *numbers) { return (void)out, (void)numbers, NULL; }

static int is_fast(void) { return 0; }
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

/* What these functions take; another number, whenever that changes. */
int64_t heed_interface(void) { return 2; }

/* Write a C-contiguous array of 1 to 16 axes as nested lists. `out` has room for 17 bytes a number, twice `rank` for
   each of the innermost lists, and 64. Returns how many bytes were written. `plain`: by the code that runs anywhere. */

int64_t heed_write(char *out, const uint32_t *numbers, int64_t rank, const int64_t *shape, int64_t plain)
{
    char *const start = out;
    const int fast = !plain && is_fast();
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
    return out - 1 - start;
}
