/* What crosses from Python, for Python to compare its own declarations with: fields, and numbers with names. */

#include "native_calls.h"

#include <stddef.h>

#define FIELD(of, name) {#of, #name, offsetof(struct of, name), sizeof(((struct of *)0)->name)}
#define LIST(name) FIELD(list, name)
#define LIFT(name) FIELD(lift_call, name)
#define WRITE(name) FIELD(write_call, name)
#define NUMBER(name) {"number", #name, name, 0}

const struct {
    const char *of, *name;
    int64_t offset, size;
} heed_fields[] = {
    LIST(start), LIST(holds), LIST(rank), LIST(shape),
    LIFT(text), LIFT(text_bytes), LIFT(names), LIFT(mark), LIFT(rest), LIFT(rest_bytes), LIFT(numbers), LIFT(lists),
    LIFT(most_lists), LIFT(plain),
    WRITE(out), WRITE(numbers), WRITE(shape), WRITE(rank), WRITE(plain),
    NUMBER(NUMBERS), NUMBER(NUMBERS_AND_NULLS), NUMBER(FLAGS), NUMBER(FEWEST_LIFTED), NUMBER(HIGHEST_RANK),
    {NULL, NULL, 0, 0},
};
