/* float32 as the shortest decimal that reads back equal.

   Which digits: R. Giulietti, "The Schubfach way to render doubles" (2021), with the widths of float32. How they are
   written: as orjson does, 0.5, 1.0, 1e-7, 1e+16; null where a number is not finite. */

#ifndef HEED_SHORTEST_H
#define HEED_SHORTEST_H

#include "native_calls.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "digits are laid out for little-endian processors"
#endif

enum { SMALLEST_POWER = -31 };

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
    for (int digit = 8; digit >= 0; digit--, left /= 10)
        text[digit] = (char)('0' + left % 10);
    int significant = 9;
    while (significant > 1 && text[significant - 1] == '0')
        significant--;
    return write_decimal(out, text, significant, k + shorter + length);
}

#endif
