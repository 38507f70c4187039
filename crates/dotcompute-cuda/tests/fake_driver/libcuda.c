/* A fake CUDA driver: the functions that this crate calls, for tests on machines without a GPU.
 *
 * It has two devices. Every call that loads, unloads or initializes is printed to standard error, where the test reads it.
 * Environment: FAKE_INIT is the result of cuInit, FAKE_VERSION the driver's version, FAKE_LOAD the result of loading a function.
 *
 * A kernel runs on host threads. Its code comes from a host library whose path follows the mark FAKE_KERNEL in the cubin. A call that
 * waits for the device prints "WAITS" if a kernel is resident, and then waits: so a test sees what would hang on a GPU.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int number(const char *name, int fallback) {
    const char *value = getenv(name);
    return value ? atoi(value) : fallback;
}

static int eager;
static void *current;

int cuDriverGetVersion(int *version) { *version = number("FAKE_VERSION", 13000); return 0; }

int cuInit(unsigned flags) {
    const char *loading = getenv("CUDA_MODULE_LOADING");
    eager = loading && !strcmp(loading, "EAGER");
    fprintf(stderr, "cuInit %u, CUDA_MODULE_LOADING=%s\n", flags, loading ? loading : "");
    return number("FAKE_INIT", 0);
}

int cuModuleGetLoadingMode(int *mode) { *mode = eager ? 1 : 2; return 0; }

int cuGetErrorName(int code, const char **name) {
    *name = code == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "CUDA_ERROR_OF_THE_FAKE";
    return 0;
}
int cuGetErrorString(int code, const char **text) { (void)code; *text = "the fake driver was set to fail"; return 0; }

int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 100; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "Fake %d", device - 100);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device - 99) << 37; return 0; }
int cuDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, (size_t)length, "0000:%02X:00.0", device - 100 + 0x1a);
    return 0;
}

/* Every attribute returns its own number, except the compute capability (9.0 and 9.1) and the maximum sizes of blocks and grids. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int max_sizes[] = {0, 1024, 1024, 1024, 64, 2147483647, 65535, 65535};
    *value = attribute == 75 ? 9 : attribute == 76 ? device - 100 : attribute < 8 ? max_sizes[attribute] : attribute;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(size_t)(device * 16); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { fprintf(stderr, "release %d\n", device); return 0; }
int cuCtxGetCurrent(void **context) { *context = current; return 0; }
int cuCtxSetCurrent(void *context) { current = context; return 0; }

/* Resident kernels, and the error of a lost context. */
static int resident, lost;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Called by a handler: loses the context, as an illegal address does. */
void fake_lose(void) { __atomic_store_n(&lost, 700, __ATOMIC_SEQ_CST); }

/* Waits for the kernels that are resident now, not for later ones. */
static int ended;
static int waits(const char *call) {
    pthread_mutex_lock(&lock);
    int until = ended + resident;
    pthread_mutex_unlock(&lock);
    if (until != __atomic_load_n(&ended, __ATOMIC_SEQ_CST)) fprintf(stderr, "WAITS %s\n", call);
    while (until - __atomic_load_n(&ended, __ATOMIC_SEQ_CST) > 0) usleep(100);
    return __atomic_load_n(&lost, __ATOMIC_SEQ_CST);
}

int cuDevicePrimaryCtxReset_v2(int device) {
    fprintf(stderr, "reset %d\n", device);
    __atomic_store_n(&lost, 0, __ATOMIC_SEQ_CST);
    return 0;
}

int cuModuleLoadData(void **module, const void *image) {
    static const char mark[] = "FAKE_KERNEL=";
    const unsigned char *bytes = image;
    fprintf(stderr, "cuModuleLoadData %d\n", !memcmp(bytes, "\177ELF", 4));
    if (waits("cuModuleLoadData")) return lost;
    *module = (void *)0x50;
    /* The section headers are at the end of an ELF file. */
    uint64_t sections = *(const uint64_t *)(bytes + 40) + (uint64_t)*(const uint16_t *)(bytes + 58) * *(const uint16_t *)(bytes + 60);
    const char *found = memmem(bytes, sections, mark, sizeof mark - 1);
    if (found) {
        *module = dlopen(found + sizeof mark - 1, RTLD_NOW | RTLD_LOCAL);
        if (!*module) fprintf(stderr, "%s\n", dlerror());
    }
    return current && *module ? 0 : 201;
}
int cuModuleUnload(void *module) {
    fprintf(stderr, "cuModuleUnload %p\n", module == (void *)0x50 ? module : NULL);
    return waits("cuModuleUnload");
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
    return 1;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { (void)function; return attribute != 8 || value < 0; }

int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    if (!strcmp(name, "dc_ring_kernel")) return 0;
    if (module == (void *)0x50 || !(*function = dlsym(module, name))) return 500;
    if (find_shot(*function, module, name)) return 0;
    int at = 0;
    while (at < 15 && baseline[at]) at++;
    baseline[at] = *function;
    return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared) {
    (void)function, (void)shared;
    *blocks = 2048 / threads > 16 ? 16 : 2048 / threads;
    return 0;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = (size_t)1 << 37; return lost; }
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    if (waits("cuMemHostAlloc")) return lost;
    *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return flags == 3 || flags == 0 ? 0 : 1;
}
int cuMemHostGetDevicePointer_v2(uint64_t *device, void *memory, unsigned flags) {
    *device = (uint64_t)memory;
    return flags;
}
int cuMemFreeHost(void *memory) { free(memory); return waits("cuMemFreeHost"); }
int cuMemAlloc_v2(uint64_t *memory, size_t bytes) {
    if (waits("cuMemAlloc")) return lost;
    if (bytes > (size_t)1 << 37) return 2;
    *memory = (uint64_t)aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return 0;
}
int cuMemFree_v2(uint64_t memory) { free((void *)memory); return waits("cuMemFree"); }

/* A graph: copies, and launches of baseline kernels. */
struct op { void (*kernel)(void *, void *); void *to; const void *from; size_t bytes; };
struct graph { int count; struct op ops[8]; };

/* A stream: its running threads, and the graph being recorded. */
struct stream { int running; struct graph *recorded; };
static int records(struct stream *stream, struct op op) {
    if (!stream || !stream->recorded) return 0;
    stream->recorded->ops[stream->recorded->count++] = op;
    return 1;
}
/* Waits for the work in a stream. */
static void drain(struct stream *stream) {
    while (stream && __atomic_load_n(&stream->running, __ATOMIC_SEQ_CST)) usleep(10);
}
int cuStreamCreate(struct stream **stream, unsigned flags) {
    *stream = calloc(1, sizeof **stream);
    (void)flags;
    return lost;
}
int cuStreamDestroy_v2(struct stream *stream) { free(stream); return waits("cuStreamDestroy"); }
int cuStreamQuery(struct stream *stream) {
    if (lost) return lost;
    if (!stream) return __atomic_load_n(&resident, __ATOMIC_SEQ_CST) ? 600 : 0;
    return __atomic_load_n(&stream->running, __ATOMIC_SEQ_CST) ? 600 : 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, struct stream *stream) {
    if (records(stream, (struct op){NULL, (void *)to, from, bytes})) return 0;
    drain(stream);
    memcpy((void *)to, from, bytes);
    return lost;
}
/* Calls of other code in the process. The legacy stream waits for all kernels. */
int cuCtxSynchronize(void) { return waits("cuCtxSynchronize"); }
int cuCtxSetLimit(int limit, size_t value) { (void)limit, (void)value; return waits("cuCtxSetLimit"); }
int cuStreamSynchronize(struct stream *stream) {
    drain(stream);
    return stream ? lost : waits("cuStreamSynchronize");
}
struct event { struct stream *stream; struct timespec at; };
int cuEventCreate(struct event **event, unsigned flags) { (void)flags; *event = calloc(1, sizeof **event); return lost; }
int cuEventRecord(struct event *event, struct stream *stream) {
    event->stream = stream;
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return lost;
}
int cuEventSynchronize(struct event *event) { return cuStreamSynchronize(event->stream); }
int cuEventElapsedTime(float *milliseconds, struct event *from, struct event *to) {
    *milliseconds = (float)((to->at.tv_sec - from->at.tv_sec) * 1e3 + (to->at.tv_nsec - from->at.tv_nsec) / 1e6);
    return lost;
}
int cuEventDestroy_v2(void *event) { free(event); return lost; }
int cuGetProcAddress_v2(const char *symbol, void **found, int version, uint64_t flags, void *status) {
    (void)version, (void)flags, (void)status;
    *found = dlsym(RTLD_DEFAULT, symbol);
    return *found ? 0 : 500;
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { memcpy((void *)to, from, bytes); return waits("cuMemcpyHtoD"); }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { memcpy(to, (void *)from, bytes); return waits("cuMemcpyDtoH"); }
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
    memcpy((void *)to, (void *)from, bytes);
    return waits("cuMemcpyDtoD");
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, struct stream *stream) {
    memcpy((void *)to, (void *)from, bytes);
    return cuStreamSynchronize(stream);
}
int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) { memset((void *)to, value, bytes); return waits("cuMemsetD8"); }
int cuMemAllocAsync(uint64_t *memory, size_t bytes, struct stream *stream) {
    (void)stream;
    *memory = (uint64_t)malloc(bytes);
    return lost;
}
/* A memory pool without accounting. */
int cuMemPoolCreate(long **pool, const void *properties) {
    *pool = calloc(1, sizeof **pool);
    return ((const int *)properties)[0] == 1 ? lost : 1;
}
int cuMemPoolSetAttribute(long *pool, int attribute, void *value) { return pool && attribute == 4 && *(uint64_t *)value ? lost : 1; }
int cuMemPoolTrimTo(long *pool, size_t keep) { (void)pool, (void)keep; return waits("cuMemPoolTrimTo"); }
int cuMemPoolDestroy(long *pool) { free(pool); return waits("cuMemPoolDestroy"); }
int cuMemAllocFromPoolAsync(uint64_t *memory, size_t bytes, long *pool, struct stream *stream) {
    (void)pool, (void)stream;
    if (bytes > (size_t)1 << 37) return 2;
    *memory = (uint64_t)aligned_alloc(512, (bytes + 511) / 512 * 512);
    return lost;
}
int cuMemFreeAsync(uint64_t memory, struct stream *stream) { (void)stream; free((void *)memory); return lost; }
int cuMemAllocManaged(uint64_t *memory, size_t bytes, unsigned flags) { (void)flags; return cuMemAlloc_v2(memory, bytes); }
int cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags) {
    (void)memory, (void)bytes, (void)flags;
    return waits("cuMemHostRegister");
}
int cuMemHostUnregister(void *memory) { (void)memory; return waits("cuMemHostUnregister"); }
int cuLaunchHostFunc(struct stream *stream, void (*call)(void *), void *argument) {
    (void)stream;
    call(argument);
    return lost;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, struct stream *stream) {
    if (records(stream, (struct op){NULL, to, (const void *)from, bytes})) return 0;
    drain(stream);
    memcpy(to, (const void *)from, bytes);
    return lost;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, struct stream *stream) {
    (void)stream;
    memset((void *)to, value, bytes);
    return lost;
}

/* As in device/emulated.cuh. */
struct block { unsigned arrived, round; unsigned char *shared; };
struct thread { unsigned thread, threads, block, blocks; struct block *block_state; };
struct run {
    void (*kernel)(const void *, const struct thread *);
    unsigned char launch[256];
    struct thread identity;
    struct stream *stream;
};

static void *run(void *argument) {
    struct run *run = argument;
    run->kernel(run->launch, &run->identity);
    pthread_mutex_lock(&lock);
    if (run->stream->running == 1) {
        __atomic_sub_fetch(&resident, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_sub_fetch(&run->stream->running, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&lock);
    free(run);
    return NULL;
}

/* A baseline kernel, on a thread of its own: it may be resident. */
struct baseline_run { struct op op; struct stream *stream; };
static void *run_baseline(void *argument) {
    struct baseline_run *run = argument;
    run->op.kernel(run->op.to, (void *)run->op.from);
    pthread_mutex_lock(&lock);
    __atomic_sub_fetch(&resident, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&run->stream->running, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&lock);
    free(run);
    return NULL;
}
static int launch_baseline(struct op op, struct stream *stream) {
    struct baseline_run *run = malloc(sizeof *run);
    *run = (struct baseline_run){op, stream};
    pthread_mutex_lock(&lock);
    __atomic_add_fetch(&resident, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&stream->running, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&lock);
    pthread_t id;
    if (pthread_create(&id, NULL, run_baseline, run)) abort();
    pthread_detach(id);
    return 0;
}

int cuStreamBeginCapture_v2(struct stream *stream, int mode) {
    (void)mode;
    stream->recorded = calloc(1, sizeof *stream->recorded);
    return lost;
}
int cuStreamEndCapture(struct stream *stream, struct graph **graph) {
    *graph = stream->recorded;
    stream->recorded = NULL;
    return lost;
}
int cuGraphInstantiateWithFlags(struct graph **executable, struct graph *graph, uint64_t flags) {
    *executable = malloc(sizeof **executable);
    **executable = *graph;
    return flags ? 1 : lost;
}
int cuGraphDestroy(struct graph *graph) { free(graph); return lost; }
int cuGraphExecDestroy(struct graph *executable) { free(executable); return waits("cuGraphExecDestroy"); }
int cuGraphLaunch(struct graph *executable, struct stream *stream) {
    for (int at = 0; at < executable->count; at++) {
        struct op op = executable->ops[at];
        drain(stream);
        if (op.kernel) launch_baseline(op, stream);
        else memcpy(op.to, op.from, op.bytes);
    }
    return lost;
}
int cuMemGetHandleForAddressRange(void *handle, uint64_t memory, size_t bytes, int type, uint64_t flags) {
    (void)handle, (void)memory, (void)bytes, (void)type, (void)flags;
    return 801;
}

int cuLaunchKernel(void *function, unsigned blocks, unsigned by, unsigned bz, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, struct stream *stream, void **arguments, void **extra) {
    (void)shared, (void)extra;
    if (lost) return lost;
    struct shot *shot = shot_of(function);
    if (shot) {
        const unsigned geometry[] = {blocks, by, bz, threads, ty, tz};
        drain(stream);
        shot->run(arguments, geometry);
        return lost;
    }
    if (is_baseline(function)) {
        struct op op = {(void (*)(void *, void *))function, *(void **)arguments[0], *(void **)arguments[1], 0};
        if (records(stream, op)) return 0;
        drain(stream);
        return launch_baseline(op, stream);
    }
    if (!current || by * bz * ty * tz != 1 || __atomic_load_n(&stream->running, __ATOMIC_SEQ_CST)) return 1;
    size_t (*block_bytes)(void) = (size_t (*)(void))dlsym(function, "dc_block_bytes");
    size_t (*launch_bytes)(void) = (size_t (*)(void))dlsym(function, "dc_launch_bytes");
    pthread_mutex_lock(&lock);
    __atomic_add_fetch(&resident, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&stream->running, (int)(blocks * threads), __ATOMIC_SEQ_CST);
    for (unsigned block = 0; block < blocks; block++) {
        /* Never freed: the test is short. */
        struct block *block_state = calloc(1, sizeof *block_state);
        block_state->shared = aligned_alloc(128, (block_bytes() + 127) / 128 * 128);
        for (unsigned thread = 0; thread < threads; thread++) {
            struct run *one = malloc(sizeof *one);
            one->kernel = (void (*)(const void *, const struct thread *))dlsym(function, "dc_ring_kernel");
            memcpy(one->launch, arguments[0], launch_bytes());
            one->identity = (struct thread){thread, threads, block, blocks, block_state};
            one->stream = stream;
            pthread_t id;
            if (pthread_create(&id, NULL, run, one)) abort();
            pthread_detach(id);
        }
    }
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuLaunchCooperativeKernel(void *function, unsigned blocks, unsigned by, unsigned bz, unsigned threads, unsigned ty, unsigned tz,
                              unsigned shared, struct stream *stream, void **arguments) {
    return cuLaunchKernel(function, blocks, by, bz, threads, ty, tz, shared, stream, arguments, NULL);
}

int cuModuleGetFunctionCount(unsigned *count, void *module) { (void)module; *count = 3; return 0; }
int cuModuleEnumerateFunctions(void **functions, unsigned count, void *module) {
    for (unsigned i = 0; i < count; i++) functions[i] = (char *)module + i;
    return 0;
}
int cuFuncLoad(void *function) { fprintf(stderr, "cuFuncLoad %p\n", function); return number("FAKE_LOAD", 0); }
