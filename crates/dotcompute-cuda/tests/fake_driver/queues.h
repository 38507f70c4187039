/* Hardware queues, streams and events.
 *
 * A stream belongs to one of CUDA_DEVICE_MAX_CONNECTIONS queues (8 unless it is set, at most 32), in the order in which streams are created.
 * A queue starts an item once the item before it has ended, also if that one is of another stream. A launch that waits behind a kernel of
 * another stream prints "ALIASES".
 */
struct stream;
/* An item of work: a copy or a write (`bytes`), a kernel (`kernel`), or a call. */
struct work {
    /* Runs the item. A kernel returns when its last thread has ended. */
    void (*run)(struct work *);
    void (*call)(void *);
    void (*kernel)(void *, void *);
    void *to;
    const void *from;
    size_t bytes;
    unsigned char value;
    int is_kernel;
    /* Set by `enqueue`. The number counts items. */
    unsigned long number;
    struct stream *stream;
    struct context *context;
    unsigned life;
    /* The next item of the queue. */
    struct work *next;
};
struct queue { struct work *first; pthread_t worker; int has_worker; };
static struct queue queues[2][32];
static int connections = 8, grids = 128, blocking;

/* A graph: copies, and launches of baseline kernels. */
struct graph { int count; struct work ops[8]; };
struct stream { struct queue *queue; struct graph *recorded; int pending; int priority; };

/* Kernels that are resident, by device. */
static int resident[2];
static unsigned long numbers;

static int is_lost(const struct work *work) { return work->context->lost || work->life != work->context->life; }

/* Whether a kernel of the current context with a number up to this one has not ended. The caller holds the lock. */
static int has_kernels(unsigned long up_to) {
    for (int at = 0; at < 32; at++)
        for (struct work *one = queues[current->device - 100][at].first; one; one = one->next)
            if (one->is_kernel && one->number <= up_to) return 1;
    return 0;
}

/* Waits for the end of every kernel of the current context that is enqueued now, not for later ones. */
static int waits(const char *call) {
    if (unusable()) return unusable();
    pthread_mutex_lock(&lock);
    unsigned long up_to = numbers;
    if (has_kernels(up_to)) fprintf(stderr, "WAITS %s\n", call);
    while (has_kernels(up_to) && !current->lost) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return unusable();
}

static void *serve(void *argument) {
    struct queue *queue = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        struct work *work = queue->first;
        if (!work) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        int device = work->context->device - 100;
        if (work->is_kernel && !is_lost(work) && resident[device] >= grids) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        if (work->is_kernel) resident[device]++;
        int runs = !is_lost(work);
        pthread_mutex_unlock(&lock);
        current = work->context;
        if (runs) work->run(work);
        pthread_mutex_lock(&lock);
        if (work->is_kernel) resident[device]--;
        queue->first = work->next;
        work->stream->pending--;
        pthread_cond_broadcast(&changed);
        free(work);
    }
    return NULL;
}

static int is_queued(const struct queue *queue, unsigned long number) {
    for (struct work *one = queue->first; one; one = one->next) if (one->number == number) return 1;
    return 0;
}

/* Enqueues an item. A stream that records a graph takes it into the graph instead. Waits for a kernel if launches block. */
static int enqueue(struct stream *stream, struct work what) {
    if (unusable()) return unusable();
    if (stream->recorded) {
        stream->recorded->ops[stream->recorded->count++] = what;
        return 0;
    }
    struct work *work = malloc(sizeof *work);
    *work = what;
    pthread_mutex_lock(&lock);
    work->stream = stream, work->context = current, work->life = current->life, work->number = ++numbers;
    unsigned long number = work->number;
    int blocks = blocking && work->is_kernel;
    struct work **end = &stream->queue->first;
    for (; *end; end = &(*end)->next)
        if ((*end)->is_kernel && (*end)->stream != stream) fprintf(stderr, "ALIASES: work waits behind a kernel of another stream\n");
    *end = work;
    stream->pending++;
    if (!stream->queue->has_worker) {
        stream->queue->has_worker = 1;
        if (pthread_create(&stream->queue->worker, NULL, serve, stream->queue)) abort();
    }
    pthread_cond_broadcast(&changed);
    /* The worker frees the item. */
    if (blocks) fprintf(stderr, "BLOCKS until the kernel ends\n");
    while (blocks && is_queued(stream->queue, number) && !current->lost) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return unusable();
}

/* Waits for the work in a stream. */
static int drain(struct stream *stream) {
    if (unusable()) return unusable();
    struct context *context = current;
    pthread_mutex_lock(&lock);
    while (stream && stream->pending && !context->lost) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return unusable();
}

static void run_bytes(struct work *work) {
    if (work->from) memcpy(work->to, work->from, work->bytes);
    else memset(work->to, work->value, work->bytes);
}
static void run_call(struct work *work) { work->call(work->to); }

/* The legacy stream has no queue here: what goes there is done at once. */
static int submit(struct stream *stream, struct work work) {
    if (stream) return enqueue(stream, work);
    if (unusable()) return unusable();
    work.run(&work);
    return 0;
}

int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0, *greatest = -5; return unusable(); }
int cuStreamCreateWithPriority(struct stream **stream, unsigned flags, int priority) {
    if (unusable()) return unusable();
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    (*stream)->priority = priority;
    pthread_mutex_lock(&lock);
    (*stream)->queue = &queues[current->device - 100][current->streams++ % (unsigned)connections];
    pthread_mutex_unlock(&lock);
    own("stream", *stream);
    return 0;
}
int cuStreamCreate(struct stream **stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }
int cuStreamDestroy_v2(struct stream *stream) {
    int error = disown("stream", stream);
    if (error) return error;
    error = waits("cuStreamDestroy");
    if (!drain(stream)) free(stream);
    return error;
}
int cuStreamQuery(struct stream *stream) {
    if (unusable()) return unusable();
    pthread_mutex_lock(&lock);
    int busy = stream ? stream->pending : has_kernels(numbers);
    pthread_mutex_unlock(&lock);
    return busy ? NOT_READY : 0;
}
int cuStreamSynchronize(struct stream *stream) { return stream ? drain(stream) : waits("cuStreamSynchronize"); }
int cuLaunchHostFunc(struct stream *stream, void (*call)(void *), void *argument) {
    return submit(stream, (struct work){.run = run_call, .call = call, .to = argument});
}

struct event { struct stream *stream; struct timespec at; };
static void stamp(void *event) { clock_gettime(CLOCK_MONOTONIC, &((struct event *)event)->at); }
int cuEventCreate(struct event **event, unsigned flags) {
    if (unusable()) return unusable();
    (void)flags;
    *event = calloc(1, sizeof **event);
    own("event", *event);
    return 0;
}
int cuEventRecord(struct event *event, struct stream *stream) {
    event->stream = stream;
    return submit(stream, (struct work){.run = run_call, .call = stamp, .to = event});
}
int cuEventSynchronize(struct event *event) { return cuStreamSynchronize(event->stream); }
int cuEventElapsedTime(float *milliseconds, struct event *from, struct event *to) {
    *milliseconds = (float)((to->at.tv_sec - from->at.tv_sec) * 1e3 + (to->at.tv_nsec - from->at.tv_nsec) / 1e6);
    return unusable();
}
int cuEventDestroy_v2(struct event *event) {
    int error = disown("event", event);
    if (!error) free(event);
    return error;
}

int cuStreamBeginCapture_v2(struct stream *stream, int mode) {
    (void)mode;
    stream->recorded = calloc(1, sizeof *stream->recorded);
    return unusable();
}
int cuStreamEndCapture(struct stream *stream, struct graph **graph) {
    *graph = stream->recorded;
    stream->recorded = NULL;
    return unusable();
}
int cuGraphInstantiateWithFlags(struct graph **executable, struct graph *graph, uint64_t flags) {
    *executable = malloc(sizeof **executable);
    **executable = *graph;
    own("graph", *executable);
    return flags ? INVALID_VALUE : unusable();
}
int cuGraphDestroy(struct graph *graph) { free(graph); return unusable(); }
int cuGraphExecDestroy(struct graph *executable) {
    int error = disown("graph", executable);
    if (error) return error;
    free(executable);
    return waits("cuGraphExecDestroy");
}
int cuGraphLaunch(struct graph *executable, struct stream *stream) {
    for (int at = 0; at < executable->count; at++) enqueue(stream, executable->ops[at]);
    return unusable();
}
