/* Contexts and what belongs to them.
 *
 * A device has one context, the primary one. A context has lives: a reset, or the release of its last user, ends a life, and with it
 * everything that was created in it. A call that frees something of an earlier life prints "STALE", because a real driver might then
 * free something of another owner. A thread has a current context of its own, as in the driver.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600 };

static int number(const char *name, int fallback) {
    const char *value = getenv(name);
    return value ? atoi(value) : fallback;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Signalled whenever work ends, is enqueued, or a context is lost. */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

struct context {
    int device, users;
    unsigned life;
    /* The error that every call returns once the context is lost. */
    int lost;
    /* Streams created in this life. */
    unsigned streams;
};
static struct context contexts[2] = {{.device = 100}, {.device = 101}};
static _Thread_local struct context *current;

/* Why a call cannot be made on this thread, or 0. */
static int unusable(void) { return !current ? INVALID_CONTEXT : __atomic_load_n(&current->lost, __ATOMIC_SEQ_CST); }

/* Something that belongs to a life of a context. */
struct owned { const char *kind; const void *handle; struct context *context; unsigned life; struct owned *next; };
static struct owned *all_owned;

static void own(const char *kind, const void *handle) {
    struct owned *one = malloc(sizeof *one);
    pthread_mutex_lock(&lock);
    *one = (struct owned){kind, handle, current, current->life, all_owned};
    all_owned = one;
    pthread_mutex_unlock(&lock);
}

/* Takes something out of its context to free it. The error says why it must not be freed. */
static int disown(const char *kind, const void *handle) {
    int error = INVALID_HANDLE;
    pthread_mutex_lock(&lock);
    for (struct owned **at = &all_owned; *at; at = &(*at)->next) {
        struct owned *one = *at;
        if (one->handle != handle || strcmp(one->kind, kind)) continue;
        if (one->life != one->context->life) break;
        error = !current || current != one->context ? INVALID_CONTEXT : one->context->lost;
        if (!error) *at = one->next, free(one);
        break;
    }
    pthread_mutex_unlock(&lock);
    if (error == INVALID_HANDLE) fprintf(stderr, "STALE %s %p\n", kind, handle);
    return error;
}

static void end_life(struct context *context) {
    context->life++;
    context->lost = 0;
    context->streams = 0;
}

int cuDevicePrimaryCtxRetain(struct context **context, int device) {
    *context = &contexts[device - 100];
    pthread_mutex_lock(&lock);
    (*context)->users++;
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    struct context *context = &contexts[device - 100];
    fprintf(stderr, "release %d\n", device);
    pthread_mutex_lock(&lock);
    if (!--context->users) end_life(context);
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuDevicePrimaryCtxReset_v2(int device) {
    fprintf(stderr, "reset %d\n", device);
    pthread_mutex_lock(&lock);
    end_life(&contexts[device - 100]);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuCtxGetCurrent(struct context **context) { *context = current; return 0; }
int cuCtxSetCurrent(struct context *context) { current = context; return 0; }
