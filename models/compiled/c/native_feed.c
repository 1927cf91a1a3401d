/* What a block does after its attention, as one call: x + z, norm, W_1 and activation, W_2, + x, norm; gated or
   not, with norms of z and of what the network gives, before the network, after each sum, or several of them. The
   network may read x in place of x + z. See native_attention.c. */

#include "native_calls.h"
#include "native_team.h"

#include <stddef.h>
#include <string.h>

enum { ROWS_OF_A_TASK = 16 };

static int64_t first_row(int64_t task)
{
    return task * ROWS_OF_A_TASK;
}

static int64_t rows_of(const struct feed_call *feed, int64_t task)
{
    int64_t left = feed->rows - first_row(task);
    return left < ROWS_OF_A_TASK ? left : ROWS_OF_A_TASK;
}

static void begin(void *call, int64_t task, int who)
{
    const struct feed_call *feed = call;
    const struct kind *kind = kinds + feed->instructions;
    int64_t width = feed->width, end = first_row(task) + rows_of(feed, task);
    (void)who;
    for (int64_t row = first_row(task); row < end; row++) {
        float *sum = feed->sum + row * feed->sum_stride, *read = feed->read + row * feed->sum_stride;
        const float *x = feed->x ? feed->x + row * width : NULL, *z = feed->z + row * width;
        const float *from = feed->parallel ? x : sum;
        if (feed->attended.kind)
            kind->normalize(&feed->attended, z, width, sum);
        else
            memcpy(sum, z, width * sizeof(float));
        if (x)
            kind->add(sum, x, width);
        if (feed->mid)
            memcpy(feed->mid + row * width, sum, width * sizeof(float));
        if (feed->before.kind)
            kind->normalize(&feed->before, from, width, read);
        else if (read != from)
            memcpy(read, from, width * sizeof(float));
    }
}

/* Where hidden rows go in bfloat16, a tile of them is float32 only in the nearest cache. */
static void go_up(void *call, int64_t task, int who)
{
    const struct feed_call *feed = call;
    const struct linear *up = &feed->up, *gate = &feed->gate;
    struct tile tile = linear_tile(up, feed->rows, feed->instructions, task);
    float gates[MOST_TILE_ROWS * MOST_TILE_COLUMNS], made[MOST_TILE_ROWS * MOST_TILE_COLUMNS], *to = made;
    struct after act = {.activation = feed->activation};
    struct after gated = {.times = gates, .times_stride = MOST_TILE_COLUMNS};
    struct after *last = gate->weight ? &gated : &act;
    struct room *room = room_of(feed->rooms, feed->room_bytes, who);
    int64_t stride = MOST_TILE_COLUMNS;
    if (gate->weight)
        linear_make(gate, feed->read, feed->sum_stride, tile, feed->instructions, room, &act, gates,
                    MOST_TILE_COLUMNS);
    if (feed->rounded) {
        last->rounded_stride = turned_stride(kinds[feed->instructions].narrow + BFLOAT16, up->out);
        last->rounded = (uint16_t *)feed->hidden + tile.row * last->rounded_stride + tile.column;
    } else {
        stride = feed->hidden_stride;
        to = (float *)feed->hidden + tile.row * stride + tile.column;
    }
    linear_make(up, feed->read, feed->sum_stride, tile, feed->instructions, room, last, to, stride);
}

/* Whether what the network gives stands alone in y, before x is added to it. The same bits: a product is done before
   anything is added. */
static int stands_alone(const struct feed_call *feed)
{
    return feed->fed.kind || feed->fed_rows;
}

static void go_down(void *call, int64_t task, int who)
{
    const struct feed_call *feed = call;
    struct tile tile = linear_tile(&feed->down, feed->rows, feed->instructions, task);
    float *to = feed->y + tile.row * feed->width + tile.column;
    const float *sum = feed->sum + tile.row * feed->sum_stride + tile.column;
    struct after plus = {.plus = sum, .plus_stride = feed->sum_stride}, *after = feed->x && !stands_alone(feed) ? &plus : NULL;
    if (feed->rounded)
        linear_make_rounded(&feed->down, feed->hidden, tile, feed->instructions, after, to, feed->width);
    else
        linear_make(&feed->down, feed->hidden, feed->hidden_stride, tile, feed->instructions,
                    room_of(feed->rooms, feed->room_bytes, who), after, to, feed->width);
}

static void end(void *call, int64_t task, int who)
{
    const struct feed_call *feed = call;
    const struct kind *kind = kinds + feed->instructions;
    int64_t width = feed->width, end = first_row(task) + rows_of(feed, task);
    (void)who;
    for (int64_t row = first_row(task); row < end; row++) {
        float *y = feed->y + row * width;
        if (feed->fed.kind)
            kind->normalize(&feed->fed, y, width, y);
        if (feed->fed_rows)
            memcpy(feed->fed_rows + row * width, y, width * sizeof(float));
        if (feed->x && stands_alone(feed))
            kind->add(y, feed->sum + row * feed->sum_stride, width);
        if (feed->after.kind)
            kind->normalize(&feed->after, y, width, y);
    }
}

/* Do what a call has of. */
void heed_feed(struct feed_call *feed)
{
    int64_t by_rows = (feed->rows + ROWS_OF_A_TASK - 1) / ROWS_OF_A_TASK;
    struct phase phases[MOST_PHASES] = {
        {begin, by_rows},
        {go_up, linear_tasks(&feed->up, feed->rows, feed->instructions)},
        {go_down, linear_tasks(&feed->down, feed->rows, feed->instructions)},
        {end, by_rows},
    };
    empty_rooms(feed->rooms, feed->room_bytes, feed->threads);
    team_run(feed, phases, stands_alone(feed) || feed->after.kind ? 4 : 3, feed->threads);
}
