/* Memory: device memory is host memory. */
static uint64_t allocate(const char *kind, size_t align, size_t bytes) {
    void *memory = aligned_alloc(align, (bytes + align - 1) / align * align);
    own(kind, memory);
    return (uint64_t)memory;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = (size_t)1 << 37; return unusable(); }
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    int error = waits("cuMemHostAlloc");
    if (error) return error;
    if (flags != 3 && flags != 0) return INVALID_VALUE;
    *memory = (void *)allocate("page-locked memory", 4096, bytes);
    return 0;
}
int cuMemHostGetDevicePointer_v2(uint64_t *device, void *memory, unsigned flags) {
    *device = (uint64_t)memory;
    return flags ? INVALID_VALUE : unusable();
}
int cuMemFreeHost(void *memory) {
    int error = disown("page-locked memory", memory);
    if (error) return error;
    error = waits("cuMemFreeHost");
    if (!error) free(memory);
    return error;
}
int cuMemAlloc_v2(uint64_t *memory, size_t bytes) {
    int error = waits("cuMemAlloc");
    if (error) return error;
    if (bytes > (size_t)1 << 37) return OUT_OF_MEMORY;
    *memory = allocate("memory", 4096, bytes);
    return 0;
}
int cuMemFree_v2(uint64_t memory) {
    int error = disown("memory", (void *)memory);
    if (error) return error;
    error = waits("cuMemFree");
    if (!error) free((void *)memory);
    return error;
}
int cuMemAllocManaged(uint64_t *memory, size_t bytes, unsigned flags) { (void)flags; return cuMemAlloc_v2(memory, bytes); }
int cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags) {
    (void)memory, (void)bytes, (void)flags;
    return waits("cuMemHostRegister");
}
int cuMemHostUnregister(void *memory) { (void)memory; return waits("cuMemHostUnregister"); }

/* A memory pool without accounting. */
int cuMemPoolCreate(long **pool, const void *properties) {
    if (unusable()) return unusable();
    *pool = calloc(1, sizeof **pool);
    own("pool", *pool);
    return ((const int *)properties)[0] == 1 ? 0 : INVALID_VALUE;
}
int cuMemPoolSetAttribute(long *pool, int attribute, void *value) {
    return pool && attribute == 4 && *(uint64_t *)value ? unusable() : INVALID_VALUE;
}
int cuMemPoolTrimTo(long *pool, size_t keep) { (void)pool, (void)keep; return waits("cuMemPoolTrimTo"); }
int cuMemPoolDestroy(long *pool) {
    int error = disown("pool", pool);
    if (error) return error;
    free(pool);
    return waits("cuMemPoolDestroy");
}
int cuMemAllocAsync(uint64_t *memory, size_t bytes, struct stream *stream) {
    (void)stream;
    if (unusable()) return unusable();
    if (bytes > (size_t)1 << 37) return OUT_OF_MEMORY;
    *memory = allocate("pooled memory", 512, bytes);
    return 0;
}
int cuMemAllocFromPoolAsync(uint64_t *memory, size_t bytes, long *pool, struct stream *stream) {
    (void)pool;
    return cuMemAllocAsync(memory, bytes, stream);
}
int cuMemFreeAsync(uint64_t memory, struct stream *stream) {
    int error = disown("pooled memory", (void *)memory);
    return error ? error : submit(stream, (struct work){.run = run_call, .call = free, .to = (void *)memory});
}

static int copy(uint64_t to, const void *from, size_t bytes, struct stream *stream) {
    return submit(stream, (struct work){.run = run_bytes, .to = (void *)to, .from = from, .bytes = bytes});
}
static int copy_now(uint64_t to, const void *from, size_t bytes, const char *call) {
    if (!unusable()) memcpy((void *)to, from, bytes);
    return waits(call);
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { return copy_now(to, from, bytes, "cuMemcpyHtoD"); }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { return copy_now((uint64_t)to, (void *)from, bytes, "cuMemcpyDtoH"); }
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) { return copy_now(to, (void *)from, bytes, "cuMemcpyDtoD"); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, struct stream *stream) { return copy(to, from, bytes, stream); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, struct stream *stream) {
    return copy((uint64_t)to, (const void *)from, bytes, stream);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, struct stream *stream) {
    return copy(to, (const void *)from, bytes, stream);
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, struct stream *stream) {
    return submit(stream, (struct work){.run = run_bytes, .to = (void *)to, .value = value, .bytes = bytes});
}
int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) {
    if (!unusable()) memset((void *)to, value, bytes);
    return waits("cuMemsetD8");
}
int cuMemGetHandleForAddressRange(void *handle, uint64_t memory, size_t bytes, int type, uint64_t flags) {
    (void)handle, (void)memory, (void)bytes, (void)type, (void)flags;
    return unusable() ? unusable() : 801;
}
