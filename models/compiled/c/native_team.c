/* Work shared between the calling thread and helpers that wait for it.

   Tasks are taken one by one, by whoever is free: a helper that wakes late, or whose core is taken from it,
   holds nobody up for longer than the one task it has. Helpers sleep between jobs. While they are inside one
   they spin, for what they wait for there takes microseconds.

   Callers side by side have a team each; who finds all of them busy works alone. */

#define _GNU_SOURCE
#include "native_team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { TEAMS = 8, MOST_HELPERS = 63, SPINS_BEFORE_YIELDING = 4096 };

struct team {
    pthread_mutex_t owner; /* held while a job is done */

    /* The job; written by the owner while it is not open. */
    void *job;
    struct phase phases[MOST_PHASES];
    int count;
    int wanted; /* how many helpers may enter */
    int nice;   /* of the caller: nobody who helps is to be more urgent */
    atomic_int_fast64_t next[MOST_PHASES];
    atomic_int_fast64_t done[MOST_PHASES];
    atomic_int entered;

    atomic_bool open;  /* whether the job may be entered */
    atomic_int inside; /* helpers that look at it */

    pthread_mutex_t sleeping;
    pthread_cond_t called;
    uint64_t calls; /* under `sleeping`: jobs so far */
    int started;    /* the owner's: helpers there are */
};

#define IDLE {.owner = PTHREAD_MUTEX_INITIALIZER, .sleeping = PTHREAD_MUTEX_INITIALIZER, \
              .called = PTHREAD_COND_INITIALIZER}

static struct team teams[TEAMS] = {IDLE, IDLE, IDLE, IDLE, IDLE, IDLE, IDLE, IDLE};

/* Only Linux has a nice value for each thread, which it inherits from whoever starts it. */
static int own_nice(void)
{
#if defined(__linux__)
    return getpriority(PRIO_PROCESS, syscall(SYS_gettid));
#else
    return 0;
#endif
}

static void step_back_to(int nice)
{
#if defined(__linux__)
    setpriority(PRIO_PROCESS, syscall(SYS_gettid), nice);
#else
    (void)nice;
#endif
}

static inline void spin(int *spins)
{
    if (++*spins % SPINS_BEFORE_YIELDING == 0)
        sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct team *team, int who)
{
    for (int at = 0; at < team->count; at++) {
        const struct phase phase = team->phases[at];
        for (;;) {
            int64_t task = atomic_fetch_add(&team->next[at], 1);
            if (task >= phase.tasks)
                break;
            phase.run(team->job, task, who);
            atomic_fetch_add(&team->done[at], 1);
        }
        for (int spins = 0; atomic_load(&team->done[at]) < phase.tasks;)
            spin(&spins);
    }
}

static void *help(void *given)
{
    struct team *team = given;
    static const int of_its_own[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE}; /* what a thread does itself, it hears of */
    sigset_t others; /* other signals are for the threads that know what to do with them */
    sigfillset(&others);
    for (int at = 0; at < 4; at++)
        sigdelset(&others, of_its_own[at]);
    pthread_sigmask(SIG_BLOCK, &others, NULL);
    int nice = own_nice();
    uint64_t seen = 0;
    for (;;) {
        pthread_mutex_lock(&team->sleeping);
        while (team->calls == seen)
            pthread_cond_wait(&team->called, &team->sleeping);
        seen = team->calls;
        pthread_mutex_unlock(&team->sleeping);
        atomic_fetch_add(&team->inside, 1);
        /* Whoever sees an open job here keeps the next one from being written. */
        if (atomic_load(&team->open)) {
            int who = atomic_fetch_add(&team->entered, 1) + 1;
            if (team->nice > nice)
                step_back_to(nice = team->nice);
            if (who <= team->wanted)
                work(team, who);
        }
        atomic_fetch_sub(&team->inside, 1);
    }
    return NULL;
}

/* A child of fork() has no helpers; locks may have been held by threads that it does not have. */
static void forget(void)
{
    for (struct team *team = teams; team < teams + TEAMS; team++) {
        team->started = 0;
        atomic_store(&team->inside, 0);
        atomic_store(&team->open, false);
        pthread_mutex_init(&team->owner, NULL);
        pthread_mutex_init(&team->sleeping, NULL);
        pthread_cond_init(&team->called, NULL);
    }
}

static void remember_to_forget(void)
{
    pthread_atfork(NULL, NULL, forget);
}

static void start(struct team *team, int wanted)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, remember_to_forget);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (pthread_t thread; team->started < wanted && team->started < MOST_HELPERS; team->started++)
        if (pthread_create(&thread, &attributes, help, team) != 0)
            break;
    pthread_attr_destroy(&attributes);
}

static void alone(void *job, const struct phase *phases, int count)
{
    for (int at = 0; at < count; at++)
        for (int64_t task = 0; task < phases[at].tasks; task++)
            phases[at].run(job, task, 0);
}

/* Return a team nobody works with, locked, and with helpers; NULL where there is none. */
static struct team *free_team(int helpers)
{
    for (struct team *team = teams; team < teams + TEAMS; team++) {
        if (pthread_mutex_trylock(&team->owner) != 0)
            continue;
        start(team, helpers);
        if (team->started > 0 && atomic_load(&team->inside) == 0)
            return team;
        pthread_mutex_unlock(&team->owner); /* a helper is still on its way out of the last job */
    }
    return NULL;
}

void team_run(void *job, const struct phase *phases, int count, int threads)
{
    struct team *team = threads < 2 ? NULL : free_team(threads - 1);
    if (team == NULL) {
        alone(job, phases, count);
        return;
    }
    team->job = job;
    team->count = count;
    team->wanted = threads - 1;
    team->nice = own_nice();
    atomic_store(&team->entered, 0);
    for (int at = 0; at < count; at++) {
        team->phases[at] = phases[at];
        atomic_store(&team->next[at], 0);
        atomic_store(&team->done[at], 0);
    }
    atomic_store(&team->open, true);
    pthread_mutex_lock(&team->sleeping);
    team->calls++;
    pthread_cond_broadcast(&team->called);
    pthread_mutex_unlock(&team->sleeping);
    work(team, 0);
    atomic_store(&team->open, false);
    pthread_mutex_unlock(&team->owner);
}
