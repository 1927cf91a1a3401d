/* The structures that cross from Python. service/wire/compiled/structures.py declares the same once more, and
   compares names, offsets and sizes with `heed_fields` before it calls anything. */

#ifndef HEED_CALLS_H
#define HEED_CALLS_H

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define FAST __attribute__((target("avx2,bmi,tune=haswell")))
static inline int is_fast(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi"); }
#else
static inline int is_fast(void) { return 0; }
#endif

enum { HIGHEST_LIFTED_RANK = 4, FEWEST_LIFTED = 64, HIGHEST_RANK = 16 };
enum { NUMBERS, NUMBERS_AND_NULLS, FLAGS }; /* what a list holds */

/* A list that was lifted out of a text: which of the numbers are its own, and its shape. */
struct list {
    int64_t start, holds, rank;
    int64_t shape[HIGHEST_LIFTED_RANK];
};

struct lift_call {
    const char *text;
    int64_t text_bytes;
    const char *names; /* ended by NUL each, and by another */
    const char *mark;
    char *rest; /* text_bytes of memory */
    int64_t rest_bytes;
    float *numbers; /* half as many as text_bytes, and one */
    struct list *lists;
    int64_t most_lists;
    int64_t plain; /* by the code that runs on any processor */
};

struct write_call {
    char *out; /* 17 bytes a number, twice `rank` for each of the innermost lists, and 64 */
    const uint32_t *numbers; /* the bits of float32 */
    int64_t shape[HIGHEST_RANK];
    int64_t rank;
    int64_t plain;
};

#endif
