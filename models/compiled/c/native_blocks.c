/* Blocks one after another as one call: see native_attention.c and native_feed.c. */

#include "native_calls.h"

/* Do them in order, as long as z is finite. Returns how many are done. */
int64_t heed_blocks(const struct block_call *blocks, int64_t count)
{
    int64_t done = 0;
    for (; done < count && heed_attend(blocks[done].attention); done++)
        heed_feed(blocks[done].feed);
    return done;
}
