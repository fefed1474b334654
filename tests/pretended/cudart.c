/* A libcudart that says of one GPU, an H100 with 80 GiB, that everything asked of it succeeded.
 *
 * For tensors without content (torch's FakeTensorMode) alone: no kernel is ever launched, and what
 * little memory torch itself asks for is the host's. Preloaded before torch's own libcudart.
 */
#include <stdlib.h>
#include <string.h>
#include <driver_types.h>

#define MEMORY (80ul << 30)
#define HANDLE ((void *)8)
#define YES(name) int name() { return 0; }
#define ONE(name, type, value) int name(type *out) { *out = (type)(value); return 0; }

ONE(cudaGetDeviceCount, int, 1)
ONE(cudaGetDevice, int, 0)
ONE(cudaDriverGetVersion, int, 13000)
ONE(cudaRuntimeGetVersion, int, 13000)
ONE(cudaStreamCreate, void *, HANDLE)
ONE(cudaStreamCreateWithFlags, void *, HANDLE)
ONE(cudaStreamCreateWithPriority, void *, HANDLE)
ONE(cudaEventCreate, void *, HANDLE)
ONE(cudaEventCreateWithFlags, void *, HANDLE)
ONE(cudaDeviceGetDefaultMemPool, void *, HANDLE)
ONE(cudaDeviceCanAccessPeer, int, 0)
ONE(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, int, 1)
ONE(cudaEventElapsedTime, float, 1)

YES(cudaSetDevice)
YES(cudaGetLastError)
YES(cudaPeekAtLastError)
YES(cudaStreamDestroy)
YES(cudaStreamQuery)
YES(cudaStreamSynchronize)
YES(cudaStreamWaitEvent)
YES(cudaDeviceSynchronize)
YES(cudaEventDestroy)
YES(cudaEventQuery)
YES(cudaEventRecord)
YES(cudaEventRecordWithFlags)
YES(cudaEventSynchronize)
YES(cudaHostRegister)
YES(cudaHostUnregister)
YES(cudaLaunchKernel)
YES(cudaProfilerStart)
YES(cudaProfilerStop)
YES(cudaThreadExchangeStreamCaptureMode)

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -1; return 0; }
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id) { *status = 0; if (id) *id = 0; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = MEMORY; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0; return 0; }
int cudaDeviceGetPCIBusId(char *name, int length, int device) { strncpy(name, "0000:00:00.0", length); return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) { memset(attributes, 0, sizeof *attributes); return 0; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) { memset(attributes, 0, sizeof *attributes); attributes->hostPointer = (void *)pointer; return 0; }

int cudaMalloc(void **pointer, size_t size) { *pointer = calloc(1, size ? size : 1); return 0; }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return cudaMalloc(pointer, size); }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaFreeHost(void *pointer) { return cudaFree(pointer); }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { return cudaMemcpy(to, from, size, kind); }
int cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return 0; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { return cudaMemset(to, value, size); }

int cudaGetDeviceProperties(struct cudaDeviceProp *gpu, int device) {
    memset(gpu, 0, sizeof *gpu);
    strcpy(gpu->name, "Pretended H100");
    gpu->totalGlobalMem = MEMORY;
    gpu->major = 9;
    gpu->multiProcessorCount = 132;
    gpu->warpSize = 32;
    gpu->maxThreadsPerBlock = 1024;
    gpu->maxThreadsPerMultiProcessor = 2048;
    gpu->regsPerBlock = 65536;
    gpu->sharedMemPerBlock = 48 << 10;
    gpu->sharedMemPerBlockOptin = 227 << 10;
    gpu->sharedMemPerMultiprocessor = 228 << 10;
    gpu->l2CacheSize = 50 << 20;
    gpu->maxThreadsDim[0] = gpu->maxThreadsDim[1] = 1024;
    gpu->maxThreadsDim[2] = 64;
    gpu->maxGridSize[0] = 2147483647;
    gpu->maxGridSize[1] = gpu->maxGridSize[2] = 65535;
    return 0;
}
int cudaGetDeviceProperties_v2(struct cudaDeviceProp *gpu, int device) { return cudaGetDeviceProperties(gpu, device); }
