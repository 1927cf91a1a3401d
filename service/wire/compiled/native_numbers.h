/* Numbers out of a JSON text, as RFC 8259 has them: float32 that decimal -> double -> float gives, each step rounded
   to nearest. */

#ifndef HEED_NUMBERS_H
#define HEED_NUMBERS_H

#include "native_calls.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

enum { MOST_DIGITS = 18, MOST_POWER = 22, LONGEST = 1024 };

static const double POWERS[MOST_POWER + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

static inline int is_digit(char c) { return (unsigned char)(c - '0') <= 9; }

static inline int is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static inline const char *skip_space(const char *at, const char *end)
{
    while (at < end && is_space(*at))
        at++;
    return at;
}

/* A double as float32; 0 if it was rounded more than once and is so close to the middle between two floats that
   it may be on the wrong side: within eight units, where it is off by four at most. */
static inline __attribute__((always_inline)) int narrow(double number, int rounded, uint32_t negative, float *out)
{
    uint64_t bits;
    memcpy(&bits, &number, 8);
    const int in_the_middle = (bits & 0x1fffffff) - (0x10000000 - 8) <= 16;
    bits |= (uint64_t)negative << 63;
    memcpy(&number, &bits, 8);
    *out = (float)number;
    return !(rounded & in_the_middle);
}

/* mantissa * 10^power as float32, 0 if that is not certain. The product is between 10^-36 and 10^36, or zero.

   A mantissa up to 2^53 and a power up to 22 are exact doubles, so that the product is rounded once, as it should.
   Otherwise two or three roundings are made. */
static int to_float(uint64_t mantissa, int power, uint32_t negative, float *out)
{
    double number = (double)(int64_t)mantissa;
    const int large = power < -MOST_POWER || power > MOST_POWER;
    if (power < -MOST_POWER) {
        number /= POWERS[MOST_POWER];
        power += MOST_POWER;
    } else if (power > MOST_POWER) {
        number *= POWERS[MOST_POWER];
        power -= MOST_POWER;
    }
    number = power < 0 ? number / POWERS[-power] : number * POWERS[power];
    return narrow(number, large || mantissa >> 53, negative, out);
}

/* Read a number of up to 18 digits and of a usual size, byte by byte; returns where it ends, else NULL. */
static const char *read_usual(const char *at, const char *end, float *out)
{
    uint32_t negative = at < end && *at == '-';
    at += negative;
    if (at == end || !is_digit(*at)) return NULL;
    if (*at == '0' && at + 1 < end && is_digit(at[1])) return NULL;
    uint64_t mantissa = 0;
    int power = 0, digits = 0;
    for (; at < end && is_digit(*at); at++) {
        mantissa = 10 * mantissa + (uint64_t)(*at - '0');
        digits += digits || *at != '0';
        if (digits > MOST_DIGITS) return NULL;
    }
    if (!mantissa && !(at < end && (*at == '.' || *at == 'e' || *at == 'E'))) negative = 0; /* an integer */
    if (at < end && *at == '.') {
        const char *const point = at++;
        for (; at < end && is_digit(*at); at++) {
            mantissa = 10 * mantissa + (uint64_t)(*at - '0');
            digits += digits || *at != '0';
            if (digits > MOST_DIGITS || at - point > 64) return NULL;
        }
        power = (int)(point + 1 - at);
        if (!power) return NULL;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        const int below = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+');
        const char *const first = at;
        int exponent = 0;
        for (; at < end && is_digit(*at) && at - first < 5; at++)
            exponent = 10 * exponent + (*at - '0');
        if (at == first || (at < end && is_digit(*at))) return NULL;
        power += below ? -exponent : exponent;
    }
    if (!mantissa) power = digits = 0;
    if (power < -2 * MOST_POWER || power > 2 * MOST_POWER) return NULL;
    if (digits + power > 36 || (mantissa && digits + power < -35)) return NULL;
    return to_float(mantissa, power, negative, out) ? at : NULL;
}

static const char *skip_digits(const char *at, const char *end)
{
    while (at < end && is_digit(*at))
        at++;
    return at;
}

/* Read any number that the grammar has, by the C library: of many digits, very small, or in the middle between two
   floats. Returns where it ends; NULL where it is no number, is beyond float32, or has over a thousand bytes. */
static const char *read_rare(const char *const first, const char *end, float *out)
{
    static locale_t plain;
    const char *at = first + (first < end && *first == '-');
    const char *const whole = at;
    at = skip_digits(at, end);
    if (at == whole || (*whole == '0' && at - whole > 1)) return NULL;
    int is_whole = 1;
    if (at < end && *at == '.') {
        const char *const decimals = at + 1;
        at = skip_digits(decimals, end);
        if (at == decimals) return NULL;
        is_whole = 0;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < end && (*at == '-' || *at == '+');
        const char *const exponent = at;
        at = skip_digits(at, end);
        if (at == exponent) return NULL;
        is_whole = 0;
    }
    /* what follows must be there, and end the number to the library too */
    if (at == end || at - first > LONGEST || !(*at == ',' || *at == ']' || is_space(*at))) return NULL;
    locale_t ours = __atomic_load_n(&plain, __ATOMIC_ACQUIRE);
    if (!ours) { /* two threads may make one each: once, a few bytes */
        ours = newlocale(LC_ALL_MASK, "C", (locale_t)0);
        if (!ours) return NULL;
        __atomic_store_n(&plain, ours, __ATOMIC_RELEASE);
    }
    char *stop;
    const double number = strtod_l(first, &stop, ours);
    *out = (float)number;
    if (is_whole && number == 0) *out = 0; /* an integer has no -0 */
    return stop == at && isfinite(*out) ? at : NULL;
}

/* Read a number as the grammar has it; returns where it ends, NULL if it is not one for us. */
static const char *read_slowly(const char *at, const char *end, float *out)
{
    const char *const after = read_usual(at, end, out);
    return after ? after : read_rare(at, end, out);
}

#if defined(__x86_64__)

/* Read numbers such as 0.1234 and -1.5 (a digit, a point, up to 18 digits) that a comma follows, with no branch that
   depends on how long they are. Stops before the first that is something else, returns where, and sets how many
   there were. Reads up to 16 bytes before `at`. */
FAST static const char *read_quickly(const char *at, const char *end, float *numbers, int64_t *count)
{
    static const uint64_t TENS[] = {
        1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000,
        100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000,
        10000000000000000, 100000000000000000, 1000000000000000000,
    };
    /* what a first or a second digit counts where more than sixteen follow the point */
    static const uint64_t BEFORE[] = {
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10000000000000000, 100000000000000000,
    };
    const __m128i from_the_end = _mm_setr_epi8(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    int64_t n = 0;
    while (end - at > 32) {
        const __m256i text = _mm256_loadu_si256((const __m256i *)at);
        const uint32_t commas = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(text, _mm256_set1_epi8(',')));
        const char *const stop = at + _tzcnt_u32(commas); /* all that the next number waits for */
        /* '-' is 0x2d, digits are 0x30 and above. By a comparison, compilers put it into a byte of a register that
           still waits for the number before. */
        const uint32_t negative = ~(uint32_t)*at >> 4 & 1;
        const char *const decimals = at + negative + 2;
        const uint32_t digits = (uint32_t)(stop - decimals);
        const uint32_t whole = (unsigned char)(decimals[-2] - '0');
        const __m256i values = _mm256_sub_epi8(text, _mm256_set1_epi8('0'));
        const __m256i others = _mm256_cmpeq_epi8(_mm256_max_epu8(values, _mm256_set1_epi8(10)), values);
        /* the first that are no digits: a sign, a point, the comma */
        const uint32_t marks = (uint32_t)_mm256_movemask_epi8(others) & (commas ^ (commas - 1));
        const uint32_t expected = (2u << negative | negative) | (commas & -commas);
        const uint32_t other_sign = -negative & (uint32_t)(*at ^ '-');
        if (__builtin_expect((marks ^ expected) | other_sign, 0) || __builtin_expect(decimals[-1] != '.', 0) ||
            __builtin_expect(digits - 1 > 17 - (whole > 0), 0))
            break;
        /* The last sixteen digits, at the end of a register, zero before them; before these may be two more. */
        const __m128i last = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(stop - 16)), _mm_set1_epi8('0'));
        const __m128i ours = _mm_cmpgt_epi8(_mm_set1_epi8((char)(digits + 1)), from_the_end);
        const __m128i tens = _mm_maddubs_epi16(_mm_and_si128(last, ours), _mm_set1_epi16(1 << 8 | 10));
        const __m128i hundreds = _mm_madd_epi16(tens, _mm_set1_epi32(1 << 16 | 100));
        const __m128i fours = _mm_packus_epi32(hundreds, hundreds);
        const __m128i eights = _mm_madd_epi16(fours, _mm_set1_epi32(1 << 16 | 10000));
        const uint64_t both = (uint64_t)_mm_cvtsi128_si64(eights);
        const uint64_t mantissa = whole * TENS[digits] + (decimals[0] - '0') * BEFORE[digits] +
                                  (decimals[1] - '0') * BEFORE[digits - 1] + (both & 0xffffffff) * 100000000 +
                                  (both >> 32);
        const double number = (double)(int64_t)mantissa / POWERS[digits];
        if (!narrow(number, mantissa >> 53 != 0, negative, numbers + n)) break;
        n++;
        at = stop + 1;
        if (is_space(*at)) at = skip_space(at, end);
    }
    *count = n;
    return at;
}
#else
static const char *read_quickly(const char *at, const char *end, float *numbers, int64_t *count)
{
    (void)end, (void)numbers;
    *count = 0;
    return at;
}
#endif

#endif
