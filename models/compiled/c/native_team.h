/* Work shared between the calling thread and helpers that wait for it. */

#ifndef HEED_TEAM_H
#define HEED_TEAM_H

#include <stdint.h>

/* One part of a job: `tasks` that may run in any order and side by side. `who` counts the threads from 0. */
struct phase {
    void (*run)(void *job, int64_t task, int who);
    int64_t tasks;
};

enum { MOST_PHASES = 6 };

/* Run the phases of a job one after another on up to `threads` threads, the calling one among them. */
void team_run(void *job, const struct phase *phases, int count, int threads);

#endif
