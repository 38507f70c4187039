/* Modules, and kernels on host threads.
 *
 * A kernel's code comes from a host library whose path follows the mark FAKE_KERNEL in the cubin.
 */
int cuModuleLoadData(void **module, const void *image) {
    static const char mark[] = "FAKE_KERNEL=";
    const unsigned char *bytes = image;
    fprintf(stderr, "cuModuleLoadData %d\n", !memcmp(bytes, "\177ELF", 4));
    int error = waits("cuModuleLoadData");
    if (error) return error;
    *module = (void *)0x50;
    /* The section headers are at the end of an ELF file. */
    uint64_t sections = *(const uint64_t *)(bytes + 40) + (uint64_t)*(const uint16_t *)(bytes + 58) * *(const uint16_t *)(bytes + 60);
    const char *found = memmem(bytes, sections, mark, sizeof mark - 1);
    if (found) {
        *module = dlopen(found + sizeof mark - 1, RTLD_NOW | RTLD_LOCAL);
        if (!*module) fprintf(stderr, "%s\n", dlerror());
    }
    if (*module) own("module", *module);
    return *module ? 0 : NOT_FOUND;
}
int cuModuleUnload(void *module) {
    fprintf(stderr, "cuModuleUnload %p\n", module == (void *)0x50 ? module : NULL);
    int error = disown("module", module);
    return error ? error : waits("cuModuleUnload");
}
/* Functions of the baselines' kernels, which take two addresses. */
static void *baseline[16];
static int is_baseline(void *function) {
    int at = 0;
    while (at < 16 && baseline[at] && baseline[at] != function) at++;
    return at < 16 && baseline[at];
}
/* One-shot kernels, with any parameters: the host library has a function that runs all threads, and the parameters' sizes. */
struct shot { void *function; void (*run)(void **, const unsigned *); const unsigned *sizes; };
static struct shot shots[16];
static struct shot *shot_of(void *function) {
    for (int at = 0; at < 16; at++) if (function && shots[at].function == function) return &shots[at];
    return NULL;
}
static int find_shot(void *function, void *module, const char *name) {
    char symbol[256];
    struct shot shot = {function, NULL, NULL};
    snprintf(symbol, sizeof symbol, "%s_run", name);
    *(void **)&shot.run = dlsym(module, symbol);
    snprintf(symbol, sizeof symbol, "%s_sizes", name);
    shot.sizes = dlsym(module, symbol);
    int at = 0;
    while (at < 15 && shots[at].function && shots[at].function != function) at++;
    if (shot.run && shot.sizes) shots[at] = shot;
    return shot.run && shot.sizes;
}
int cuFuncGetParamInfo(void *function, size_t index, size_t *offset, size_t *size) {
    struct shot *shot = shot_of(function);
    for (size_t at = 0; shot && shot->sizes[at]; at++) if (at == index) { *offset = 8 * at, *size = shot->sizes[at]; return 0; }
    return INVALID_VALUE;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    (void)function;
    fprintf(stderr, "function attribute %d = %d\n", attribute, value);
    return (attribute != 8 && attribute != 9) || value < 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    if (!strcmp(name, "dc_ring_kernel")) return 0;
    if (module == (void *)0x50 || !(*function = dlsym(module, name))) return NOT_FOUND;
    if (find_shot(*function, module, name)) return 0;
    int at = 0;
    while (at < 15 && baseline[at]) at++;
    baseline[at] = *function;
    return 0;
}
int cuModuleGetFunctionCount(unsigned *count, void *module) { (void)module; *count = 3; return 0; }
int cuModuleEnumerateFunctions(void **functions, unsigned count, void *module) {
    for (unsigned i = 0; i < count; i++) functions[i] = (char *)module + i;
    return 0;
}
int cuFuncLoad(void *function) { fprintf(stderr, "cuFuncLoad %p\n", function); return number("FAKE_LOAD", 0); }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared) {
    (void)function, (void)shared;
    *blocks = 2048 / threads > 16 ? 16 : 2048 / threads;
    return unusable();
}

/* As in device/emulated.cuh. */
struct block { unsigned arrived, round; unsigned char *shared; };
struct thread { unsigned thread, threads, block, blocks; struct block *block_state; };
/* A ring kernel's launch, shared by its threads. Never freed, as its blocks: the test is short. */
struct launch {
    void (*kernel)(const void *, const struct thread *);
    unsigned char argument[256];
    unsigned blocks, threads, running;
    size_t block_bytes;
};
struct run { struct launch *launch; struct thread identity; struct context *context; };

/* The threads of kernels, so that the loss of a context ends them. */
static struct { pthread_t id; struct context *context; int runs; } threads[4096];
static int thread_count;

/* A kernel of a lost context ends wherever it is, and neither reads nor writes any more. */
static void stop_thread(int signal) {
    (void)signal;
    for (;;) pause();
}

/* Called by a handler: loses the context, as an illegal address does. It does not return. */
void fake_lose(void) {
    int self = 0;
    pthread_mutex_lock(&lock);
    for (int at = 0; at < thread_count; at++) if (pthread_equal(threads[at].id, pthread_self())) self = at;
    struct context *context = threads[self].context;
    for (int at = 0; at < thread_count; at++)
        if (threads[at].runs && threads[at].context == context && at != self) pthread_kill(threads[at].id, SIGUSR2);
    /* The signals are delivered before any other thread can see the loss, but for the time of a switch to the thread. */
    context->lost = 700;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    stop_thread(0);
}

static void *run_thread(void *argument) {
    struct run *run = argument;
    pthread_mutex_lock(&lock);
    int self = 0;
    while (self < thread_count && threads[self].runs) self++;
    if (self == 4096) abort();
    if (self == thread_count) thread_count++;
    threads[self].id = pthread_self(), threads[self].context = run->context, threads[self].runs = 1;
    int lost = run->context->lost;
    pthread_mutex_unlock(&lock);
    if (lost) stop_thread(0);
    run->launch->kernel(run->launch->argument, &run->identity);
    pthread_mutex_lock(&lock);
    threads[self].runs = 0;
    run->launch->running--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(run);
    return NULL;
}

static void run_ring_kernel(struct work *work) {
    struct launch *launch = work->to;
    launch->running = launch->blocks * launch->threads;
    for (unsigned block = 0; block < launch->blocks; block++) {
        struct block *block_state = calloc(1, sizeof *block_state);
        block_state->shared = aligned_alloc(128, (launch->block_bytes + 127) / 128 * 128);
        for (unsigned thread = 0; thread < launch->threads; thread++) {
            struct run *one = malloc(sizeof *one);
            *one = (struct run){launch, {thread, launch->threads, block, launch->blocks, block_state}, work->context};
            pthread_t id;
            if (pthread_create(&id, NULL, run_thread, one)) abort();
            pthread_detach(id);
        }
    }
    pthread_mutex_lock(&lock);
    while (launch->running && !is_lost(work)) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void run_baseline(struct work *work) { work->kernel(work->to, (void *)work->from); }

/* A one-shot kernel: its arguments are copied, as the driver copies them. */
struct shot_launch { struct shot shot; unsigned geometry[6]; void *arguments[16]; unsigned char values[16][16]; };
static void run_shot(struct work *work) {
    struct shot_launch *launch = work->to;
    launch->shot.run(launch->arguments, launch->geometry);
    free(launch);
}

static int launch(void *function, const unsigned geometry[6], struct stream *stream, void **arguments) {
    if (unusable()) return unusable();
    struct shot *shot = shot_of(function);
    if (shot) {
        struct shot_launch *one = calloc(1, sizeof *one);
        one->shot = *shot;
        memcpy(one->geometry, geometry, sizeof one->geometry);
        for (int at = 0; shot->sizes[at]; at++)
            one->arguments[at] = memcpy(one->values[at], arguments[at], shot->sizes[at]);
        return enqueue(stream, (struct work){.run = run_shot, .to = one, .is_kernel = 1});
    }
    if (is_baseline(function)) {
        void (*kernel)(void *, void *) = (void (*)(void *, void *))function;
        struct work work = {.run = run_baseline, .kernel = kernel, .to = *(void **)arguments[0], .from = *(void **)arguments[1], .is_kernel = 1};
        return enqueue(stream, work);
    }
    if (geometry[1] * geometry[2] * geometry[4] * geometry[5] != 1) return INVALID_VALUE;
    size_t (*block_bytes)(void) = (size_t (*)(void))dlsym(function, "dc_block_bytes");
    size_t (*launch_bytes)(void) = (size_t (*)(void))dlsym(function, "dc_launch_bytes");
    struct launch *one = calloc(1, sizeof *one);
    one->kernel = (void (*)(const void *, const struct thread *))dlsym(function, "dc_ring_kernel");
    memcpy(one->argument, arguments[0], launch_bytes());
    one->blocks = geometry[0], one->threads = geometry[3], one->block_bytes = block_bytes();
    return enqueue(stream, (struct work){.run = run_ring_kernel, .to = one, .is_kernel = 1});
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   struct stream *stream, void **arguments, void **extra) {
    (void)shared, (void)extra;
    return launch(function, (unsigned[]){gx, gy, gz, bx, by, bz}, stream, arguments);
}
/* As in cuda.h. */
struct launch_config { unsigned geometry[6], shared; struct stream *stream; const int *attributes; unsigned count; };
int cuLaunchKernelEx(const struct launch_config *config, void *function, void **arguments, void **extra) {
    (void)extra;
    /* An attribute has 72 bytes: its number, padding, and at byte 8 its value. */
    for (unsigned at = 0; at < config->count; at++)
        fprintf(stderr, "launch attribute %d = %d\n", config->attributes[18 * at], config->attributes[18 * at + 2]);
    return launch(function, config->geometry, config->stream, arguments);
}
int cuLaunchCooperativeKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned shared, struct stream *stream, void **arguments) {
    return cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, arguments, NULL);
}
