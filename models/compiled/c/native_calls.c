/* What crosses from Python, for Python to compare its own declarations with: fields, and numbers with names. */

#include "native_calls.h"

#include <stddef.h>

#define FIELD(of, name) {#of, #name, offsetof(struct of, name), sizeof(((struct of *)0)->name)}
#define SEQUENCE(name) FIELD(sequence, name)
#define EDIT(name) FIELD(edit, name)
#define RANGES(name) FIELD(ranges, name)
#define RULE(name) FIELD(rule, name)
#define OUTPUTS(name) FIELD(outputs, name)
#define LINEAR(name) FIELD(linear, name)
#define NORM(name) FIELD(norm, name)
#define ROTATION(name) FIELD(rotation, name)
#define CALL(name) FIELD(attention_call, name)
#define FEED(name) FIELD(feed_call, name)
#define BLOCK(name) FIELD(block_call, name)
#define NUMBER(name) {"number", #name, name, 0}

const struct {
    const char *of, *name;
    int64_t offset, size;
} heed_fields[] = {
    SEQUENCE(start), SEQUENCE(z_start), SEQUENCE(length), SEQUENCE(key_start), SEQUENCE(keys), SEQUENCE(first),
    SEQUENCE(last), SEQUENCE(task), SEQUENCE(parts), SEQUENCE(lse), SEQUENCE(outputs), SEQUENCE(laid),
    SEQUENCE(mask), SEQUENCE(bias), SEQUENCE(seen), SEQUENCE(cosines), SEQUENCE(sines), SEQUENCE(mask_head_stride),
    SEQUENCE(mask_stride), SEQUENCE(bias_head_stride), SEQUENCE(bias_stride), SEQUENCE(seen_head_stride),
    SEQUENCE(seen_stride), SEQUENCE(spoiled), SEQUENCE(together), SEQUENCE(edits),
    SEQUENCE(edit_count), SEQUENCE(edits_first),
    EDIT(head_places), EDIT(rows), EDIT(keys), EDIT(values), EDIT(head_stride), EDIT(row_stride), EDIT(ahead),
    EDIT(value), EDIT(does), RANGES(of), RANGES(count),
    RULE(low), RULE(high), RULE(hole), RULE(own), RULE(scale), RULE(softcap),
    OUTPUTS(weights), OUTPUTS(top_k_keys), OUTPUTS(top_k_weights), OUTPUTS(top_k_rest), OUTPUTS(entropy),
    OUTPUTS(received), OUTPUTS(weights_mean), OUTPUTS(weights_max), OUTPUTS(between_spans), OUTPUTS(spans),
    OUTPUTS(head_places), OUTPUTS(row_places), OUTPUTS(mixed), OUTPUTS(mix_weights), OUTPUTS(share), OUTPUTS(columns),
    OUTPUTS(of), OUTPUTS(over), OUTPUTS(heads), OUTPUTS(rows), OUTPUTS(keys), OUTPUTS(k), OUTPUTS(span_count),
    OUTPUTS(column_count), OUTPUTS(of_count), OUTPUTS(over_count), OUTPUTS(type), OUTPUTS(sums_rows), OUTPUTS(times),
    ROTATION(cosines), ROTATION(sines), ROTATION(half), ROTATION(interleaved),
    LINEAR(weight), LINEAR(bias), LINEAR(scales), LINEAR(multipliers), LINEAR(sums), LINEAR(inner), LINEAR(out),
    LINEAR(numbers),
    NORM(weight), NORM(bias), NORM(eps), NORM(kind),
    CALL(x), CALL(read), CALL(projected), CALL(q), CALL(k), CALL(v), CALL(z_heads), CALL(z), CALL(scratch),
    CALL(sinks), CALL(rooms), CALL(sequences), CALL(projection), CALL(output), CALL(before), CALL(query_norm), CALL(key_norm),
    CALL(rotation), CALL(rule), CALL(sequence_count), CALL(x_rows), CALL(z_rows), CALL(width),
    CALL(value_width), CALL(first_head), CALL(heads), CALL(key_heads), CALL(x_stride), CALL(read_stride), CALL(projected_stride), CALL(z_heads_stride),
    CALL(q_stride), CALL(k_stride), CALL(v_stride), CALL(q_head_stride), CALL(k_head_stride), CALL(v_head_stride),
    CALL(scratch_floats), CALL(edit_floats), CALL(room_bytes), CALL(lays_out), CALL(instructions), CALL(threads),
    FEED(x), FEED(z), FEED(sum), FEED(read), FEED(hidden), FEED(y), FEED(mid), FEED(fed_rows), FEED(rooms),
    FEED(up), FEED(gate), FEED(down), FEED(attended),
    FEED(before), FEED(fed), FEED(after), FEED(rows), FEED(width), FEED(sum_stride), FEED(hidden_stride),
    FEED(room_bytes), FEED(activation), FEED(rounded), FEED(parallel), FEED(instructions), FEED(threads),
    BLOCK(attention), BLOCK(feed),
    NUMBER(IDENTITY), NUMBER(GELU), NUMBER(GELU_TANH), NUMBER(QUICK_GELU), NUMBER(SILU), NUMBER(SIGMOID),
    NUMBER(RELU), NUMBER(RELU2), NUMBER(ROUGH_GELU), NUMBER(LAYER_NORM), NUMBER(ROOT_MEAN_SQUARE_NORM),
    NUMBER(AVX2), NUMBER(AVX512), NUMBER(NEON), NUMBER(AVX2_VNNI), NUMBER(AVX512_VNNI), NUMBER(AVX512_BF16),
    NUMBER(AVX512_AMX),
    NUMBER(FLOAT32), NUMBER(FLOAT16), NUMBER(BFLOAT16), NUMBER(INT8), NUMBER(MOST_TOP_K), NUMBER(MOST_TILE_ROWS),
    NUMBER(ROOM_HEAD), NUMBER(EDIT_ADD), NUMBER(EDIT_BLOCK), NUMBER(EDIT_GIVE), NUMBER(EDIT_ONE), NUMBER(EDIT_UNIFORM),
    NUMBER(EDIT_SET), NUMBER(EDIT_SCALE), NUMBER(MADE_FLOATS),
    {NULL, NULL, 0, 0},
};
