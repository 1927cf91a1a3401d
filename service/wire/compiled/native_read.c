/* Lists of numbers out of a JSON text: each becomes float32 in an array, and a short string in the text. Masks too:
   lists of true and false, and of numbers among which null stands for -inf.

   What is left of the text is small, and is parsed and checked elsewhere. What is lifted out is checked here, by
   RFC 8259: whatever is not plainly such lists, equal in length, is left to the other parser too, with its
   messages. */

#define _GNU_SOURCE /* newlocale, strtod_l */
#include "native_numbers.h"

#include <stdio.h>

enum { MOST_LISTS = 1 << 20 };

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
static const char *read_lists(const char *at, const char *end, int fast, float *numbers, struct list *list)
{
    int64_t *const shape = list->shape;
    int depth = 0;
    while (at < end && *at == '[') {
        if (depth++ == HIGHEST_LIFTED_RANK) return NULL;
        at = skip_space(at + 1, end);
    }
    int64_t met[HIGHEST_LIFTED_RANK] = {0}, lists = depth;
    memset(shape, 0, sizeof list->shape);
    list->rank = depth;
    int kind = at < end && (*at == 't' || *at == 'f') ? FLAGS : NUMBERS;
    for (;;) {
        int64_t count;
        at = read_row(at, end, fast, &kind, numbers, &count);
        list->holds = kind;
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

   In the place of the n-th comes "<mark>n"; its numbers go to `numbers`, and what it is to `lists`. Returns how many
   were lifted and sets `rest_bytes`; -1 where the text is not one for us. Nothing but these lists is checked: what is
   in `rest` must be parsed to know if it is JSON. */
int64_t heed_lift(struct lift_call *call)
{
    const int fast = !call->plain && is_fast();
    const char *const text = call->text, *const end = text + call->text_bytes;
    const char *at = text, *copied = text, *from = NULL, *to = NULL;
    char *out = call->rest;
    int64_t lifted = 0, used = 0;
    while (at < end) {
        if (*at == '"') {
            from = at;
            to = at = skip_string(at + 1, end);
            if (!at) return -1;
        } else if (*at != '[' || !is_named(at, from, to, call->names)) {
            at++;
        } else {
            struct list *const list = call->lists + lifted;
            if (lifted == call->most_lists || at - text < 16) return -1;
            const char *const after = read_lists(at, end, fast, call->numbers + used, list);
            if (!after) return -1;
            int64_t size = 1;
            for (int axis = 0; axis < list->rank; axis++)
                size *= list->shape[axis];
            if (size >= FEWEST_LIFTED) {
                memcpy(out, copied, (size_t)(at - copied));
                out += at - copied;
                out += sprintf(out, "\"%s%lld\"", call->mark, (long long)lifted);
                list->start = used;
                used += size;
                lifted++;
                copied = after;
            }
            at = after;
        }
    }
    memcpy(out, copied, (size_t)(end - copied));
    call->rest_bytes = out + (end - copied) - call->rest;
    return lifted;
}
