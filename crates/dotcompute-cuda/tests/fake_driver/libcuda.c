/* A fake CUDA driver: the functions that this crate calls, for tests on machines without a GPU.
 *
 * It has two devices, whose kernels run on host threads. Every call that loads, unloads or initializes is printed to standard error, where
 * the test reads it. So are calls that would be a fault on a GPU:
 *
 * - WAITS: a call waits for the device while a kernel is resident;
 * - ALIASES: a launch shares a hardware queue with a resident kernel of another stream, and waits for its end;
 * - STALE: a call frees something that a reset has freed.
 *
 * Environment: FAKE_INIT is the result of cuInit, FAKE_VERSION the driver's version, FAKE_LOAD the result of loading a function, FAKE_GRIDS
 * the number of grids that run at once. CUDA_DEVICE_MAX_CONNECTIONS and CUDA_LAUNCH_BLOCKING have the meaning that they have for the
 * driver, and FAKE_BLOCKING=1 that of the latter, as if a debugger were attached.
 *
 * The files: contexts.h, queues.h, memory.h, kernels.h, and this one for the driver and its devices.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>

#include "contexts.h"
#include "queues.h"
#include "memory.h"
#include "kernels.h"

static int eager, initialized;

int cuDriverGetVersion(int *version) { *version = number("FAKE_VERSION", 13000); return 0; }

int cuInit(unsigned flags) {
    const char *loading = getenv("CUDA_MODULE_LOADING"), *wanted = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    fprintf(stderr, "cuInit %u, CUDA_MODULE_LOADING=%s, CUDA_DEVICE_MAX_CONNECTIONS=%s\n", flags, loading ? loading : "", wanted ? wanted : "");
    int result = number("FAKE_INIT", 0);
    /* The driver reads the environment once. */
    if (!initialized && !result) {
        initialized = 1;
        eager = loading && !strcmp(loading, "EAGER");
        connections = wanted ? atoi(wanted) : 8;
        connections = connections < 1 ? 1 : connections > 32 ? 32 : connections;
        grids = number("FAKE_GRIDS", 128);
        blocking = number("CUDA_LAUNCH_BLOCKING", 0) || number("FAKE_BLOCKING", 0);
        signal(SIGUSR2, stop_thread);
    }
    return result;
}

int cuModuleGetLoadingMode(int *mode) { *mode = eager ? 1 : 2; return 0; }

int cuGetErrorName(int code, const char **name) {
    *name = code == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OF_THE_FAKE";
    return 0;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == 700 ? "an illegal memory access was encountered" : "the fake driver was set to fail";
    return 0;
}

int cuDeviceGetCount(int *count) { *count = 2; return initialized ? 0 : NOT_INITIALIZED; }
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

/* Calls of other code in the process. The legacy stream waits for all kernels. */
int cuCtxSynchronize(void) { return waits("cuCtxSynchronize"); }
int cuCtxSetLimit(int limit, size_t value) { (void)limit, (void)value; return waits("cuCtxSetLimit"); }
int cuGetProcAddress_v2(const char *symbol, void **found, int version, uint64_t flags, void *status) {
    (void)version, (void)flags, (void)status;
    *found = dlsym(RTLD_DEFAULT, symbol);
    return *found ? 0 : NOT_FOUND;
}
