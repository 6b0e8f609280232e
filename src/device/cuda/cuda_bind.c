/* SPDX-License-Identifier: MIT */
/* The tables of cuda_api.h from the real libraries. The CUDA runtime is linked statically; it
 * looks for the driver when it is first called. cuBLASLt, NCCL and cuDNN are opened by name,
 * when they are wanted, so that the plugin can be loaded and say what is missing. */
#include <assert.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "device/cuda/cuda_bind.h"

/* --- what cuda_api.h says about the toolkit -------------------------------------------------- */

#define SAME(ours, theirs) static_assert((int)(ours) == (int)(theirs), #ours)
SAME(CUDA_OUT_OF_MEMORY, cudaErrorMemoryAllocation);
SAME(CUDA_DRIVER_TOO_OLD, cudaErrorInsufficientDriver);
SAME(CUDA_NO_DEVICE, cudaErrorNoDevice);
SAME(CUDA_ECC_UNCORRECTABLE, cudaErrorECCUncorrectable);
SAME(CUDA_NVLINK_UNCORRECTABLE, cudaErrorNvlinkUncorrectable);
SAME(CUDA_NOT_READY, cudaErrorNotReady);
SAME(CUDA_ILLEGAL_ADDRESS, cudaErrorIllegalAddress);
SAME(CUDA_LAUNCH_TIMEOUT, cudaErrorLaunchTimeout);
SAME(CUDA_CONTEXT_IS_DESTROYED, cudaErrorContextIsDestroyed);
SAME(CUDA_ASSERT, cudaErrorAssert);
SAME(CUDA_HARDWARE_STACK_ERROR, cudaErrorHardwareStackError);
SAME(CUDA_ILLEGAL_INSTRUCTION, cudaErrorIllegalInstruction);
SAME(CUDA_MISALIGNED_ADDRESS, cudaErrorMisalignedAddress);
SAME(CUDA_INVALID_ADDRESS_SPACE, cudaErrorInvalidAddressSpace);
SAME(CUDA_INVALID_PC, cudaErrorInvalidPc);
SAME(CUDA_LAUNCH_FAILURE, cudaErrorLaunchFailure);
SAME(CUDA_MPS_CLIENT_TERMINATED, cudaErrorMpsClientTerminated);
#if CUDART_VERSION >= 13000 /* toolkits before may lack the names */
SAME(CUDA_CONTAINED, cudaErrorContained);
SAME(CUDA_TENSOR_MEMORY_LEAK, cudaErrorTensorMemoryLeak);
SAME(CUDA_EXTERNAL_DEVICE, cudaErrorExternalDevice);
#endif
SAME(CUDA_LT_R_32F, CUDA_R_32F);
SAME(CUDA_LT_R_16F, CUDA_R_16F);
SAME(CUDA_LT_R_16BF, CUDA_R_16BF);
SAME(CUDA_LT_R_8F_E4M3, CUDA_R_8F_E4M3);
SAME(CUDA_LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(CUDA_LT_TRANSPOSE, CUBLAS_OP_T);
SAME(CUDA_LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(CUDA_LT_DESC_A_SCALE_POINTER, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
SAME(CUDA_LT_DESC_B_SCALE_POINTER, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
SAME(CUDA_LT_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_A_SCALE_MODE);
SAME(CUDA_LT_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_MODE);
SAME(CUDA_LT_SCALE_OUTER_VECTOR, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
SAME(CUDA_LT_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS);
SAME(CUDA_LT_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(CUDA_LT_LAYOUT_BATCH_OFFSET, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(CUDA_LT_PREFERENCE_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(CUDA_LT_PREFERENCE_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(CUDA_LT_PREFERENCE_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(CUDA_LT_PREFERENCE_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(CUDA_LT_PREFERENCE_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(CUDA_LT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(CUDA_NCCL_OK, ncclSuccess);
SAME(CUDA_NCCL_IN_PROGRESS, ncclInProgress);
SAME(CUDA_NCCL_F16, ncclFloat16);
SAME(CUDA_NCCL_F32, ncclFloat32);
SAME(CUDA_NCCL_BF16, ncclBfloat16);
SAME(CUDA_NCCL_SUM, ncclSum);
static_assert(sizeof(struct cuda_nccl_id) == sizeof(ncclUniqueId), "layout");
static_assert(sizeof(struct cuda_lt_algorithm) == sizeof(cublasLtMatmulAlgo_t), "layout");
static_assert(sizeof(struct cuda_lt_found) == sizeof(cublasLtMatmulHeuristicResult_t), "layout");
static_assert(offsetof(struct cuda_lt_found, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize),
              "layout");
static_assert(offsetof(struct cuda_lt_found, status) == offsetof(cublasLtMatmulHeuristicResult_t, state), "layout");
static_assert(sizeof(cublasStatus_t) == sizeof(int) && sizeof(cudaDataType_t) == sizeof(int), "enums are ints");

/* --- the runtime ------------------------------------------------------------------------------- */

static int rt_count(int *ret) {
  return (int)cudaGetDeviceCount(ret);
}

static int rt_info(int device, struct cuda_info *ret) {
  struct cudaDeviceProp p;
  int r = (int)cudaGetDeviceProperties(&p, device);
  if (r) return r;
  *ret = (struct cuda_info){.major = p.major, .minor = p.minor, .multiprocessors = (unsigned)p.multiProcessorCount};
  snprintf(ret->name, sizeof ret->name, "%.63s", p.name);
  return (int)cudaDeviceGetPCIBusId(ret->bus, sizeof ret->bus, device);
}

static int rt_use(int device) {
  return (int)cudaSetDevice(device);
}

static int rt_memory(size_t *ret_free, size_t *ret_total) {
  return (int)cudaMemGetInfo(ret_free, ret_total);
}

static int rt_alloc(void **ret, size_t bytes) {
  return (int)cudaMalloc(ret, bytes);
}

static int rt_free(void *p) {
  return (int)cudaFree(p);
}

static int rt_alloc_host(void **ret, size_t bytes) {
  return (int)cudaHostAlloc(ret, bytes, cudaHostAllocPortable);
}

static int rt_free_host(void *p) {
  return (int)cudaFreeHost(p);
}

static int rt_copy(void *to, const void *from, size_t bytes, void *stream) {
  return (int)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream);
}

static int rt_copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t bytes, size_t rows, void *stream) {
  return (int)cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, rows, cudaMemcpyDefault, (cudaStream_t)stream);
}

static int rt_fill(void *p, int byte, size_t bytes, void *stream) {
  return (int)cudaMemsetAsync(p, byte, bytes, (cudaStream_t)stream);
}

static int rt_stream_new(void **ret) {
  return (int)cudaStreamCreateWithFlags((cudaStream_t *)ret, cudaStreamNonBlocking);
}

static int rt_stream_free(void *stream) {
  return (int)cudaStreamDestroy((cudaStream_t)stream);
}

static int rt_stream_query(void *stream) {
  return (int)cudaStreamQuery((cudaStream_t)stream);
}

static int rt_event_new(void **ret) {
  return (int)cudaEventCreateWithFlags((cudaEvent_t *)ret, cudaEventDisableTiming);
}

static int rt_timer_new(void **ret) {
  return (int)cudaEventCreate((cudaEvent_t *)ret);
}

static int rt_elapsed(float *ret_ms, void *from, void *to) {
  return (int)cudaEventElapsedTime(ret_ms, (cudaEvent_t)from, (cudaEvent_t)to);
}

static int rt_event_free(void *event) {
  return (int)cudaEventDestroy((cudaEvent_t)event);
}

static int rt_event_record(void *event, void *stream) {
  return (int)cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream);
}

static int rt_event_query(void *event) {
  return (int)cudaEventQuery((cudaEvent_t)event);
}

static int rt_event_wait(void *event) {
  return (int)cudaEventSynchronize((cudaEvent_t)event);
}

static int rt_capture_begin(void *stream) {
  return (int)cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal);
}

static int rt_capture_end(void *stream, void **ret_graph) {
  return (int)cudaStreamEndCapture((cudaStream_t)stream, (cudaGraph_t *)ret_graph);
}

static int rt_graph_make(void **ret_exec, void *graph) {
  return (int)cudaGraphInstantiate((cudaGraphExec_t *)ret_exec, (cudaGraph_t)graph, 0);
}

static int rt_graph_free(void *graph) {
  return (int)cudaGraphDestroy((cudaGraph_t)graph);
}

static int rt_exec_free(void *exec) {
  return (int)cudaGraphExecDestroy((cudaGraphExec_t)exec);
}

static int rt_exec_launch(void *exec, void *stream) {
  return (int)cudaGraphLaunch((cudaGraphExec_t)exec, (cudaStream_t)stream);
}

static int rt_clear(void) {
  return (int)cudaGetLastError();
}

static const char *rt_text(int code) {
  return cudaGetErrorString((cudaError_t)code);
}

/* --- libraries that are opened by name ------------------------------------------------------------- */

#define TEXT(x) TEXT_OF(x)
#define TEXT_OF(x) #x
#define LT_FILE "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)
#define NCCL_FILE "libnccl.so." TEXT(NCCL_MAJOR)
#define DNN_FILE "libcudnn_graph.so.9"

struct function {
  const char *name;
  size_t place; /* in struct cuda_api */
};

static const struct function lt_functions[] = {
    {"cublasLtCreate", offsetof(struct cuda_api, lt.create)},
    {"cublasLtDestroy", offsetof(struct cuda_api, lt.destroy)},
    {"cublasLtMatmulDescCreate", offsetof(struct cuda_api, lt.desc_new)},
    {"cublasLtMatmulDescDestroy", offsetof(struct cuda_api, lt.desc_free)},
    {"cublasLtMatmulDescSetAttribute", offsetof(struct cuda_api, lt.desc_set)},
    {"cublasLtMatrixLayoutCreate", offsetof(struct cuda_api, lt.layout_new)},
    {"cublasLtMatrixLayoutDestroy", offsetof(struct cuda_api, lt.layout_free)},
    {"cublasLtMatrixLayoutSetAttribute", offsetof(struct cuda_api, lt.layout_set)},
    {"cublasLtMatmulPreferenceCreate", offsetof(struct cuda_api, lt.preference_new)},
    {"cublasLtMatmulPreferenceDestroy", offsetof(struct cuda_api, lt.preference_free)},
    {"cublasLtMatmulPreferenceSetAttribute", offsetof(struct cuda_api, lt.preference_set)},
    {"cublasLtMatmulAlgoGetHeuristic", offsetof(struct cuda_api, lt.heuristic)},
    {"cublasLtMatmul", offsetof(struct cuda_api, lt.matmul)},
};
static_assert(sizeof lt_functions / sizeof *lt_functions == sizeof(struct cuda_lt) / sizeof(void *), "all of them");

static const struct function nccl_functions[] = {
    {"ncclGetUniqueId", offsetof(struct cuda_api, nccl.unique_id)},
    {"ncclCommGetAsyncError", offsetof(struct cuda_api, nccl.async_error)},
    {"ncclAllReduce", offsetof(struct cuda_api, nccl.all_reduce)},
    {"ncclAllGather", offsetof(struct cuda_api, nccl.all_gather)},
    {"ncclCommAbort", offsetof(struct cuda_api, nccl.abort)},
    {"ncclGetErrorString", offsetof(struct cuda_api, nccl.text)},
};
static_assert(sizeof nccl_functions / sizeof *nccl_functions + 1 == sizeof(struct cuda_nccl) / sizeof(void *), "all but init");

static const struct function dnn_functions[] = {
    {"cudnnGetVersion", offsetof(struct cuda_api, dnn.version)},
    {"cudnnCreate", offsetof(struct cuda_api, dnn.create)},
    {"cudnnDestroy", offsetof(struct cuda_api, dnn.destroy)},
    {"cudnnSetStream", offsetof(struct cuda_api, dnn.set_stream)},
    {"cudnnBackendCreateDescriptor", offsetof(struct cuda_api, dnn.desc_new)},
    {"cudnnBackendDestroyDescriptor", offsetof(struct cuda_api, dnn.desc_free)},
    {"cudnnBackendSetAttribute", offsetof(struct cuda_api, dnn.desc_set)},
    {"cudnnBackendGetAttribute", offsetof(struct cuda_api, dnn.desc_get)},
    {"cudnnBackendFinalize", offsetof(struct cuda_api, dnn.desc_finalize)},
    {"cudnnBackendExecute", offsetof(struct cuda_api, dnn.execute)},
};
static_assert(sizeof dnn_functions / sizeof *dnn_functions == sizeof(struct cuda_dnn) / sizeof(void *), "all of them");

/* By its name, then where the toolkit's packages put it. */
static void *open_library(const char *file, struct tl_error *err) {
  static const char *const folders[] = {"", "/usr/local/cuda/lib64/", "/usr/local/cuda/lib/"};
  char path[128], why[256] = "";
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
    snprintf(path, sizeof path, "%s%s", folders[i], file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library) return library;
    if (i == 0) snprintf(why, sizeof why, "%s", dlerror());
  }
  tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: the CUDA backend needs %s: %s", file, why);
  return NULL;
}

static int bind(const char *file, const struct function *functions, size_t n, struct tl_error *err) {
  void *library = open_library(file, err);
  if (!library) return TL_EUNSUPPORTED;
  for (size_t i = 0; i < n; i++) {
    void *symbol = dlsym(library, functions[i].name);
    if (!symbol) return tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: %s has no %s", file, functions[i].name);
    memcpy((char *)&cuda_bound_api + functions[i].place, &symbol, sizeof symbol);
  }
  return TL_OK;
}

/* Devices are opened at boot, maybe by several threads. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int open_lt(struct tl_error *err) {
  static bool opened;
  pthread_mutex_lock(&lock);
  int r = opened ? TL_OK : bind(LT_FILE, lt_functions, sizeof lt_functions / sizeof *lt_functions, err);
  opened = r == TL_OK;
  pthread_mutex_unlock(&lock);
  return r;
}

static ncclResult_t (*nccl_init_rank)(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config);

static int bind_init(struct tl_error *err) {
  void *library = open_library(NCCL_FILE, err), *symbol = library ? dlsym(library, "ncclCommInitRankConfig") : NULL;
  if (!library) return TL_EUNSUPPORTED;
  if (!symbol) return tl_error_set(err, TL_EUNSUPPORTED, "devices", "devices: %s has no ncclCommInitRankConfig", NCCL_FILE);
  memcpy(&nccl_init_rank, &symbol, sizeof symbol);
  return TL_OK;
}

static int open_nccl(struct tl_error *err) {
  static bool opened;
  pthread_mutex_lock(&lock);
  int r = opened ? TL_OK : bind(NCCL_FILE, nccl_functions, sizeof nccl_functions / sizeof *nccl_functions, err);
  if (!opened && r == TL_OK) r = bind_init(err);
  opened = r == TL_OK;
  pthread_mutex_unlock(&lock);
  return r;
}

/* The part of it that has graphs; it opens its other parts itself. */
static int open_dnn(struct tl_error *err) {
  static bool opened;
  pthread_mutex_lock(&lock);
  int r = opened ? TL_OK : bind(DNN_FILE, dnn_functions, sizeof dnn_functions / sizeof *dnn_functions, err);
  opened = r == TL_OK;
  pthread_mutex_unlock(&lock);
  return r;
}

static int nccl_init(void **ret_comm, int size, const struct cuda_nccl_id *id, int rank) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclUniqueId own;
  config.blocking = 0;
  memcpy(&own, id, sizeof own);
  return (int)nccl_init_rank((ncclComm_t *)ret_comm, size, own, rank, &config);
}

struct cuda_api cuda_bound_api = {
    .rt = {rt_count,       rt_info,       rt_use,          rt_memory,     rt_alloc,      rt_free,        rt_alloc_host,
           rt_free_host,   rt_copy,       rt_copy_rows,    rt_fill,       rt_stream_new, rt_stream_free, rt_stream_query,
           rt_event_new,   rt_event_free, rt_event_record, rt_event_query, rt_event_wait, rt_capture_begin,
           rt_capture_end, rt_graph_make, rt_graph_free,   rt_exec_free,  rt_exec_launch, rt_clear,      rt_text,
           rt_timer_new,   rt_elapsed},
    .op = {tl_cuda_prepare, tl_cuda_embed, tl_cuda_add_norm, tl_cuda_row_squares, tl_cuda_qkv, tl_cuda_decode, tl_cuda_prefill,
           tl_cuda_glu, tl_cuda_gather, tl_cuda_bias, tl_cuda_dequantize, tl_cuda_quantize, tl_cuda_scale, tl_cuda_gemv, tl_cuda_normed,
           tl_cuda_cap, tl_cuda_sample, tl_cuda_route, tl_cuda_experts, tl_cuda_mix, tl_cuda_place, tl_cuda_pool, tl_cuda_vector,
           tl_cuda_reorder, tl_cuda_latent_rows, tl_cuda_latent_turn, tl_cuda_latent_heads, tl_cuda_latent_decode, tl_cuda_latent_prefill,
           tl_cuda_shrink, tl_cuda_expand, tl_cuda_conv, tl_cuda_delta, tl_cuda_delta_long, tl_cuda_gated_norm, tl_cuda_gate},
    .nccl = {.init = nccl_init},
    .open_lt = open_lt,
    .open_nccl = open_nccl,
    .open_dnn = open_dnn,
};
