/* Work shared between the calling thread and helpers that wait for it.

   Tasks are taken one by one, by whoever is free: a helper that wakes late, or whose core is taken from it,
   holds nobody up for longer than the one task it has. Helpers sleep between jobs. While they are inside one
   they turn, for what they wait for there takes microseconds.

   There is one set of helpers, for one job at a time; who finds them busy works alone. */

#define _GNU_SOURCE
#include "native_team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { MOST_HELPERS = 63, TURNS_BEFORE_YIELDING = 4096 };

static struct {
    void *job;
    struct phase phases[MOST_PHASES];
    int count;
    int helpers; /* how many may enter */
    atomic_int_fast64_t next[MOST_PHASES];
    atomic_int_fast64_t done[MOST_PHASES];
    atomic_int entered; /* of this job */
} shared;

static atomic_uint_fast64_t open_job; /* its number while it may be entered, 0 else */
static atomic_int inside;             /* helpers that look at `shared` */
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;
static uint64_t jobs; /* the owner's: how many there have been */

static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t called = PTHREAD_COND_INITIALIZER;
static uint64_t calls; /* under `sleeping`: the number of the last job */
static int started;    /* the owner's: helpers there are */

static inline void turn(int *turns)
{
    if (++*turns % TURNS_BEFORE_YIELDING == 0)
        sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(int who)
{
    for (int at = 0; at < shared.count; at++) {
        const struct phase phase = shared.phases[at];
        for (;;) {
            int64_t task = atomic_fetch_add(&shared.next[at], 1);
            if (task >= phase.tasks)
                break;
            phase.run(shared.job, task, who);
            atomic_fetch_add(&shared.done[at], 1);
        }
        for (int turns = 0; atomic_load(&shared.done[at]) < phase.tasks;)
            turn(&turns);
    }
}

static void *help(void *unused)
{
    (void)unused;
    sigset_t all; /* signals are for the threads that know what to do with them */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    uint64_t seen = 0;
    for (;;) {
        pthread_mutex_lock(&sleeping);
        while (calls == seen)
            pthread_cond_wait(&called, &sleeping);
        seen = calls;
        pthread_mutex_unlock(&sleeping);
        atomic_fetch_add(&inside, 1);
        /* Whoever sees an open job here keeps the next one from using `shared`. */
        if (atomic_load(&open_job) != 0) {
            int who = atomic_fetch_add(&shared.entered, 1) + 1;
            if (who <= shared.helpers)
                work(who);
        }
        atomic_fetch_sub(&inside, 1);
    }
    return NULL;
}

/* A child of fork() has no helpers; locks may have been held by threads that it does not have. */
static void forget(void)
{
    started = 0;
    atomic_store(&inside, 0);
    atomic_store(&open_job, 0);
    pthread_mutex_init(&owner, NULL);
    pthread_mutex_init(&sleeping, NULL);
    pthread_cond_init(&called, NULL);
}

static void start(int wanted)
{
    static bool told;
    if (!told) {
        told = true;
        pthread_atfork(NULL, NULL, forget);
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (pthread_t thread; started < wanted && started < MOST_HELPERS; started++)
        if (pthread_create(&thread, &attributes, help, NULL) != 0)
            break;
    pthread_attr_destroy(&attributes);
}

static void alone(void *job, const struct phase *phases, int count)
{
    for (int at = 0; at < count; at++)
        for (int64_t task = 0; task < phases[at].tasks; task++)
            phases[at].run(job, task, 0);
}

void team_run(void *job, const struct phase *phases, int count, int threads)
{
    if (threads < 2 || pthread_mutex_trylock(&owner) != 0) {
        alone(job, phases, count);
        return;
    }
    start(threads - 1);
    if (started == 0 || atomic_load(&inside) != 0) { /* a helper is still on its way out of the last job */
        pthread_mutex_unlock(&owner);
        alone(job, phases, count);
        return;
    }
    shared.job = job;
    shared.count = count;
    shared.helpers = threads - 1 < started ? threads - 1 : started;
    atomic_store(&shared.entered, 0);
    for (int at = 0; at < count; at++) {
        shared.phases[at] = phases[at];
        atomic_store(&shared.next[at], 0);
        atomic_store(&shared.done[at], 0);
    }
    atomic_store(&open_job, ++jobs);
    pthread_mutex_lock(&sleeping);
    calls = jobs;
    pthread_cond_broadcast(&called);
    pthread_mutex_unlock(&sleeping);
    work(0);
    atomic_store(&open_job, 0);
    pthread_mutex_unlock(&owner);
}
