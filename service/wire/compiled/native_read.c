/* Lists of numbers out of a JSON text: each becomes float32 in an array, and a short string in the text. Masks too:
   lists of true and false, and of numbers among which null stands for -inf.

   What is left of the text is small, and is parsed and checked elsewhere. What is lifted out is checked here, by
   RFC 8259: whatever is not plainly such lists, equal in length, is left to the other parser too, with its
   messages. The numbers are those that decimal -> double -> float gives, each step rounded to nearest. */

#define _GNU_SOURCE /* newlocale, strtod_l */
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { DEEPEST = 4, FEWEST = 64, FIELDS = 3 + DEEPEST, MOST_DIGITS = 18, MOST_POWER = 22, LONGEST = 1024 };
enum { NUMBERS, NUMBERS_AND_NULLS, FLAGS }; /* what a list holds */
#define MOST_LISTS (1 << 20)

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

static const char *skip_word(const char *at, const char *end, const char *word)
{
    const size_t length = strlen(word);
    return (size_t)(end - at) >= length && !memcmp(at, word, length) ? at + length : NULL;
}

/* Read one entry of a list that holds `kind`, which a first null changes; returns as read_slowly does. */
static const char *read_entry(const char *at, const char *end, int *kind, float *out)
{
    if (*kind == FLAGS) {
        *out = at < end && *at == 't';
        return skip_word(at, end, *out ? "true" : "false");
    }
    if (at < end && *at == 'n') {
        *kind = NUMBERS_AND_NULLS;
        *out = -INFINITY;
        return skip_word(at, end, "null");
    }
    return read_slowly(at, end, out);
}

#if defined(__x86_64__)
#define FAST __attribute__((target("avx2,bmi,tune=haswell")))

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
    const __m128i places = _mm_setr_epi8(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
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
        const __m128i ours = _mm_cmpgt_epi8(_mm_set1_epi8((char)(digits + 1)), places);
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

static int is_fast(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi"); }
#else
static const char *read_quickly(const char *at, const char *end, float *numbers, int64_t *count)
{
    (void)end, (void)numbers;
    *count = 0;
    return at;
}

static int is_fast(void) { return 0; }
#endif

/* Read entries with commas between them; returns where something else comes and sets how many there were, NULL as
   read_entry does. */
static const char *read_row(const char *at, const char *end, int fast, int *kind, float *numbers, int64_t *count)
{
    int64_t n = 0;
    for (;;) {
        if (fast && *kind != FLAGS) {
            int64_t some;
            at = skip_space(read_quickly(at, end, numbers + n, &some), end);
            n += some;
        }
        at = read_entry(at, end, kind, numbers + n);
        if (!at) return NULL;
        n++;
        at = skip_space(at, end);
        if (at == end || *at != ',') {
            *count = n;
            return at;
        }
        at = skip_space(at + 1, end);
    }
}

/* Read lists of lists of numbers, equal in length on every level. `at` is a bracket. Returns where they end and
   sets what they hold, rank and shape; NULL if it is anything else. */
static const char *read_lists(const char *at, const char *end, int fast, float *numbers, int64_t *held, int64_t *rank,
                              int64_t *shape)
{
    int depth = 0;
    while (at < end && *at == '[') {
        if (depth++ == DEEPEST) return NULL;
        at = skip_space(at + 1, end);
    }
    int64_t met[DEEPEST] = {0}, lists = depth;
    memset(shape, 0, DEEPEST * sizeof *shape);
    *rank = depth;
    int kind = at < end && (*at == 't' || *at == 'f') ? FLAGS : NUMBERS;
    for (;;) {
        int64_t count;
        at = read_row(at, end, fast, &kind, numbers, &count);
        *held = kind;
        if (!at || at == end || *at != ']') return NULL;
        numbers += count;
        met[depth - 1] = count;
        int level = depth - 1; /* the list that ends here */
        for (;;) {
            if (shape[level] && shape[level] != met[level]) return NULL;
            shape[level] = met[level];
            met[level] = 0;
            at++;
            if (level == 0) return at;
            met[--level]++;
            at = skip_space(at, end);
            if (at == end) return NULL;
            if (*at == ',') break;
            if (*at != ']') return NULL;
        }
        at = skip_space(at + 1, end);
        for (int opened = level + 1; opened < depth; opened++) {
            if (at == end || *at != '[' || ++lists > MOST_LISTS) return NULL;
            at = skip_space(at + 1, end);
        }
    }
}

/* Where a string ends, after its closing quote; NULL if it does not. `at` is after the opening one. */
static const char *skip_string(const char *at, const char *end)
{
    while ((at = memchr(at, '"', (size_t)(end - at)))) {
        const char *back = at;
        while (back[-1] == '\\')
            back--;
        at++;
        if ((at - 1 - back) % 2 == 0) return at;
    }
    return NULL;
}

/* Whether a list at `at` is the value of one of these names; `from` and `to` enclose the last string before it. */
static int is_named(const char *at, const char *from, const char *to, const char *names)
{
    if (!from) return 0;
    do
        at--;
    while (is_space(*at));
    if (*at != ':') return 0;
    do
        at--;
    while (is_space(*at));
    if (at + 1 != to) return 0;
    const size_t length = (size_t)(to - from) - 2;
    for (; *names; names += strlen(names) + 1)
        if (strlen(names) == length && !memcmp(names, from + 1, length)) return 1;
    return 0;
}

/* Copy a text to `rest`, with every list of at least 64 numbers that is the value of one of `names` lifted out.

   `names` are ended by NUL each and by another. In the place of the n-th comes "<mark>n"; its numbers go to
   `numbers`, and `found` gets its place there, what it holds, its rank, and four lengths. Returns how many were lifted and sets
   `rest_length`; -1 where the text is not one for us. Nothing but these lists is checked: what is in `rest` must be
   parsed to know if it is JSON. `rest` has room for `length` bytes, `numbers` for half as many and one, `found` for seven
   integers for each of `most_found`. `plain`: by the code that runs on any processor. */
int64_t heed_lift(const char *text, int64_t length, const char *names, const char *mark, char *rest,
                  int64_t *rest_length, float *numbers, int64_t *found, int64_t most_found, int64_t plain)
{
    const int fast = !plain && is_fast();
    const char *const end = text + length;
    const char *at = text, *copied = text, *from = NULL, *to = NULL;
    char *out = rest;
    int64_t lifted = 0, used = 0;
    while (at < end) {
        if (*at == '"') {
            from = at;
            to = at = skip_string(at + 1, end);
            if (!at) return -1;
        } else if (*at != '[' || !is_named(at, from, to, names)) {
            at++;
        } else {
            int64_t *const record = found + lifted * FIELDS;
            if (lifted == most_found || at - text < 16) return -1;
            const char *const after = read_lists(at, end, fast, numbers + used, &record[1], &record[2], &record[3]);
            if (!after) return -1;
            int64_t size = 1;
            for (int axis = 0; axis < record[2]; axis++)
                size *= record[3 + axis];
            if (size >= FEWEST) {
                memcpy(out, copied, (size_t)(at - copied));
                out += at - copied;
                out += sprintf(out, "\"%s%lld\"", mark, (long long)lifted);
                record[0] = used;
                used += size;
                lifted++;
                copied = after;
            }
            at = after;
        }
    }
    memcpy(out, copied, (size_t)(end - copied));
    *rest_length = out + (end - copied) - rest;
    return lifted;
}
