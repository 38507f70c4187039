/* A CUDA driver that only pretends: what the driver's floor needs to be tested where there is no GPU.
 *
 * It has two devices and prints every call that loads, unloads or initialises to standard error, for the test to read.
 * FAKE_INIT is what cuInit returns, FAKE_VERSION the driver's version; FAKE_LOAD is what loading a function returns.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
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
int cuGetErrorString(int code, const char **text) { (void)code; *text = "the fake was told to fail"; return 0; }

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

/* Every attribute is its own number, but for the compute capability: 9.0 and 9.1. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? device - 100 : attribute;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(size_t)(device * 16); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { fprintf(stderr, "release %d\n", device); return 0; }
int cuCtxGetCurrent(void **context) { *context = current; return 0; }
int cuCtxSetCurrent(void *context) { current = context; return 0; }

int cuModuleLoadData(void **module, const void *image) {
    fprintf(stderr, "cuModuleLoadData %d\n", !memcmp(image, "\177ELF", 4));
    *module = (void *)0x50;
    return current ? 0 : 201;
}
int cuModuleUnload(void *module) { fprintf(stderr, "cuModuleUnload %p\n", module); return 0; }
int cuModuleGetFunctionCount(unsigned *count, void *module) { (void)module; *count = 3; return 0; }
int cuModuleEnumerateFunctions(void **functions, unsigned count, void *module) {
    for (unsigned i = 0; i < count; i++) functions[i] = (char *)module + i;
    return 0;
}
int cuFuncLoad(void *function) { fprintf(stderr, "cuFuncLoad %p\n", function); return number("FAKE_LOAD", 0); }
