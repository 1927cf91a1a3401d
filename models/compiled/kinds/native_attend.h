/* The attention of one head, for one kind of vector: see native_kernel.h.

   Some rows at a time, whose whole rows of scores stay in the core's cache; only keys that one of them sees. A
   row's bits depend neither on the others nor on how many they are. */

/* Lay `rows` rows out as panels of their transpose: [rows / 2V, width, 2V], what is missing as 0. */
static TARGET void SET(transpose)(const float *from, int64_t stride, int64_t rows, int64_t width, float *to)
{
    for (int64_t panel = 0; panel < rows; panel += 2 * V, to += 2 * V * width) {
        int64_t there = rows - panel < 2 * V ? rows - panel : 2 * V;
        for (int64_t d = 0; d < width; d += 8) {
            int64_t deep = width - d < 8 ? width - d : 8;
            for (int64_t i = 0; i < 2 * V; i += 8)
                eight_by_eight(from + (panel + i) * stride + d, stride, there - i, deep,
                               to + d * 2 * V + i, 2 * V);
        }
    }
}

/* Lay values out as panels of columns: [width / 2V, rows, 2V], what is missing as 0. */
static TARGET void SET(columns)(const float *from, int64_t stride, int64_t rows, int64_t width, float *to)
{
    for (int64_t at = 0; at < width; at += 2 * V) {
        int64_t there = width - at < 2 * V ? width - at : 2 * V;
        for (int64_t i = 0; i < rows; i++, to += 2 * V) {
            if (there == 2 * V) {
                STORE(to, LOAD(from + i * stride + at));
                STORE(to + V, LOAD(from + i * stride + at + V));
                continue;
            }
            memcpy(to, from + i * stride + at, there * sizeof(float));
            memset(to + there, 0, (2 * V - there) * sizeof(float));
        }
    }
}

/* Lay keys and values of a head out as products read them, in `laid_floats` numbers. */
static TARGET void SET(lay_out)(const struct attention *of, const struct head *head, float *laid)
{
    SET(transpose)(head->k, of->k_stride, head->keys, of->width, laid);
    SET(columns)(head->v, of->v_stride, head->keys, of->value_width, laid + padded_keys(head->keys) * of->width);
}

/* Return what row i sees of the keys from `first` on. */
static struct sight SET(sight)(const struct rule *rule, const struct head *head, int64_t i, int64_t first)
{
    int64_t from = i + rule->low, to = i + rule->high + 1;
    struct sight sight = {
        head->mask.from ? head->mask.from + i * head->mask.stride + first : NULL,
        head->bias.from ? head->bias.from + i * head->bias.stride + first : NULL,
        NULL,
        head->seen.from ? head->seen.from + i * head->seen.stride + first : NULL,
        head->sink,
        (from > 0 ? from : 0) - first,
        (to < head->keys ? to : head->keys) - first,
        i + rule->hole - first,
        head->keys - first,
    };
    sight.from = sight.from > 0 ? sight.from : 0;
    if (sight.to <= sight.from)
        sight.from = sight.to = 0;
    return sight;
}

/* Make a row of `end` exponentials the weights that edits give it, if any do; then returns 1, else `scale`. All keys
   are there. */
static float SET(give_weights)(const struct head *head, const struct sight *sight, int64_t row, float *e,
                               int64_t end, float scale)
{
    const struct head_edits *of = &head->edits;
    for (const struct edit *edit = of->edits; edit < of->edits + of->count; edit++) {
        int64_t rank = row_rank(of, edit, row), keys = head->keys, one = row + of->first + edit->ahead;
        if (edit->does < EDIT_GIVE || edit->does > EDIT_UNIFORM || rank < 0)
            continue;
        scale = 1;
        if (edit->does == EDIT_UNIFORM) {
            int64_t count = SET(attended)(sight, end, e);
            scale = count ? 1.0f / (float)count : 0;
            continue;
        }
        memset(e, 0, end * sizeof(float));
        if (edit->does == EDIT_GIVE)
            memcpy(e, edit_values(of, edit, rank), keys * sizeof(float));
        else
            e[one < 0 ? 0 : one < keys ? one : keys - 1] = 1;
    }
    return scale;
}

/* Attention of some rows of a head, fewer than a block has; `scratch` holds their scores. */
static TARGET void SET(attend_rows)(const struct attention *of, const struct head *head, const float *keys,
                                    const float *v, int64_t v_stride, int64_t v_panel, int64_t first, int64_t last,
                                    float *e)
{
    const struct rule *rule = of->rule;
    int64_t rows = last - first, width = of->value_width;
    int64_t from = first + rule->low, to = last + rule->high;
    from = from < head->keys ? from : head->keys;
    to = to < head->keys ? to : head->keys;
    from = from > 0 ? from / (2 * V) * (2 * V) : 0;
    to = to > from ? to : from;
    if (head->edits.weights)
        from = 0, to = head->keys;
    int64_t seen = to - from, end = (seen + V - 1) / V * V, stride = scores_stride(seen);
    float row_scales[2 * ROWS];
    bool plain = is_plain(rule, head);
    for (int64_t at = 0; at < seen; at += 2 * V) {
        struct product by = {.b = keys + (from + at) * of->width, .b_stride = 2 * V, .inner = of->width,
                             .columns = seen - at <= V ? V : 2 * V, .a_stride = of->q_stride, .c_stride = stride};
        SET(multiply)(&by, head->q + first * of->q_stride, rows, NULL, e + at);
    }
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = first + i, ahead = row + rule->high + 1;
        float *lse = head->lse ? head->lse + row : NULL;
        const float *edits = head->edits.count ? added_by_edits(&head->edits, row, head->keys) : NULL;
        if (plain && ahead > 0 && !edits && !head->edits.weights) {
            ahead = ahead < head->keys ? ahead : head->keys;
            row_scales[i] = SET(plain_softmax)(e + i * stride, ahead, end, rule->scale, lse);
            continue;
        }
        struct sight sight = SET(sight)(rule, head, row, from);
        sight.edits = edits ? edits + from : NULL;
        row_scales[i] = SET(softmax)(rule, &sight, e + i * stride, end, lse);
        if (head->edits.weights)
            row_scales[i] = SET(give_weights)(head, &sight, row, e + i * stride, end, row_scales[i]);
    }
    SET(put_outputs)(of, head, first, rows, e, stride, from, seen, row_scales);
    for (int64_t at = 0; at < width; at += 2 * V) {
        struct product by = {.b = v + from * v_stride + at / (2 * V) * v_panel, .b_stride = v_stride, .inner = seen,
                             .columns = width - at < 2 * V ? width - at : 2 * V, .a_stride = stride,
                             .c_stride = of->z_stride, .begun = from % SET(inner_block)};
        SET(multiply)(&by, e, rows, row_scales, head->z + first * of->z_stride + at);
    }
    for (int64_t row = first; row < last && rule->own < BEYOND; row++) {
        int64_t own = row + rule->own;
        if (own >= 0 && own < head->keys)
            SET(add)(head->z + row * of->z_stride, head->v + own * of->v_stride, width);
    }
}

/* Attention of a head's rows from `first` to `last`. `scratch` is as large as heed_scratch_floats says. */
static TARGET void SET(attend)(const struct attention *of, const struct head *head, float *scratch)
{
    int64_t padded = padded_keys(head->keys), width = of->value_width;
    int64_t most = block_rows(head->edits.weights ? &unbounded : of->rule, head->keys);
    const float *keys = head->laid, *v = head->laid + padded * of->width;
    int64_t v_stride = 2 * V, v_panel = head->keys * 2 * V;
    float *e = scratch;
    if (!head->laid) {
        SET(transpose)(head->k, of->k_stride, head->keys, of->width, scratch);
        keys = scratch;
        e = scratch + padded * of->width;
        if (width % V) { /* a panel is read whole */
            v = e;
            SET(columns)(head->v, of->v_stride, head->keys, width, e);
            e += head->keys * padded_width(width);
        } else {
            v = head->v;
            v_stride = of->v_stride;
            v_panel = 2 * V;
        }
    }
    /* Blocks as even as they come, of as many rows as a product makes at once: few at once use it badly. */
    int64_t unit = most < ROWS ? most : ROWS, units = most < 2 * ROWS ? 1 : 2, rows = head->last - head->first;
    int64_t blocks = (rows + unit - 1) / unit;
    for (int64_t block = 0; block < blocks; block += units) {
        int64_t next = block + units < blocks ? block + units : blocks;
        SET(attend_rows)(of, head, keys, v, v_stride, v_panel, head->first + block * rows / blocks,
                         head->first + next * rows / blocks, e);
    }
}
