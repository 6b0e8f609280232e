/* SPDX-License-Identifier: MIT */
/* cuDNN's backend API: a graph of operations is described attribute by attribute and becomes a plan. No header of cuDNN's
 * is needed to build; the numbers are those of cudnn_graph.h, 9.19, which the library keeps. Part of cuda_api.h. */
#ifndef CUDA_DNN_H
#define CUDA_DNN_H

#include <stddef.h>
#include <stdint.h>

enum {
  CUDA_DNN_FLOAT = 0, /* cudnnDataType_t */
  CUDA_DNN_HALF = 2,
  CUDA_DNN_INT32 = 4,
  CUDA_DNN_BFLOAT16 = 9,
  CUDA_DNN_BOOLEAN = 11,

  CUDA_DNN_TYPE_HANDLE = 0, /* cudnnBackendAttributeType_t: of an attribute's values */
  CUDA_DNN_TYPE_DATA_TYPE = 1,
  CUDA_DNN_TYPE_BOOLEAN = 2, /* bool */
  CUDA_DNN_TYPE_INT64 = 3,
  CUDA_DNN_TYPE_DOUBLE = 5,
  CUDA_DNN_TYPE_VOID_PTR = 6,
  CUDA_DNN_TYPE_HEUR_MODE = 8,
  CUDA_DNN_TYPE_POINTWISE_MODE = 14,
  CUDA_DNN_TYPE_DESC = 15,
  CUDA_DNN_TYPE_REDUCTION = 18,
  CUDA_DNN_TYPE_CHAR = 24,

  CUDA_DNN_POINTWISE = 0, /* cudnnBackendDescriptorType_t */
  CUDA_DNN_ENGINECFG = 3,
  CUDA_DNN_ENGINEHEUR = 4,
  CUDA_DNN_PLAN = 5,
  CUDA_DNN_OP_POINTWISE = 13,
  CUDA_DNN_GRAPH = 15,
  CUDA_DNN_PACK = 16,
  CUDA_DNN_TENSOR = 17,
  CUDA_DNN_MATMUL = 18,
  CUDA_DNN_OP_MATMUL = 19,
  CUDA_DNN_REDUCTION = 21,
  CUDA_DNN_OP_REDUCTION = 22,
  CUDA_DNN_OP_PAGED_LOAD = 35,

  CUDA_DNN_PW_MODE = 0, /* cudnnBackendAttributeName_t */
  CUDA_DNN_PW_PREC = 1,
  CUDA_DNN_PW_AXIS = 9,
  CUDA_DNN_HEUR_MODE = 200,
  CUDA_DNN_HEUR_GRAPH = 201,
  CUDA_DNN_HEUR_RESULTS = 202,
  CUDA_DNN_PLAN_HANDLE = 400,
  CUDA_DNN_PLAN_CONFIG = 401,
  CUDA_DNN_PLAN_WORKSPACE = 402,
  CUDA_DNN_PLAN_JSON = 405,
  CUDA_DNN_OP_PW_DESC = 750,
  CUDA_DNN_OP_PW_X = 751,
  CUDA_DNN_OP_PW_B = 752,
  CUDA_DNN_OP_PW_Y = 753,
  CUDA_DNN_OP_PW_T = 758,
  CUDA_DNN_GRAPH_HANDLE = 800,
  CUDA_DNN_GRAPH_OPS = 801,
  CUDA_DNN_TENSOR_ALIGNMENT = 900,
  CUDA_DNN_TENSOR_DATA_TYPE = 901,
  CUDA_DNN_TENSOR_DIMENSIONS = 902,
  CUDA_DNN_TENSOR_STRIDES = 903,
  CUDA_DNN_TENSOR_ID = 906,
  CUDA_DNN_TENSOR_IS_VIRTUAL = 907,
  CUDA_DNN_TENSOR_IS_BY_VALUE = 908,
  CUDA_DNN_TENSOR_RAGGED = 913,
  CUDA_DNN_PACK_IDS = 1000,
  CUDA_DNN_PACK_POINTERS = 1001,
  CUDA_DNN_PACK_WORKSPACE = 1003,
  CUDA_DNN_MATMUL_COMP_TYPE = 1500,
  CUDA_DNN_MATMUL_PADDING = 1503,
  CUDA_DNN_OP_MATMUL_A = 1520,
  CUDA_DNN_OP_MATMUL_B = 1521,
  CUDA_DNN_OP_MATMUL_C = 1522,
  CUDA_DNN_OP_MATMUL_DESC = 1523,
  CUDA_DNN_OP_MATMUL_M = 1525,
  CUDA_DNN_OP_MATMUL_N = 1526,
  CUDA_DNN_OP_MATMUL_K = 1527,
  CUDA_DNN_REDUCTION_OP = 1600,
  CUDA_DNN_REDUCTION_COMP_TYPE = 1601,
  CUDA_DNN_OP_REDUCTION_X = 1610,
  CUDA_DNN_OP_REDUCTION_Y = 1611,
  CUDA_DNN_OP_REDUCTION_DESC = 1612,
  CUDA_DNN_PAGED_CONTAINER = 1950,
  CUDA_DNN_PAGED_Y = 1951,
  CUDA_DNN_PAGED_LENGTHS = 1952,
  CUDA_DNN_PAGED_TABLE = 1953,

  CUDA_DNN_ADD = 0, /* cudnnPointwiseMode_t */
  CUDA_DNN_MUL = 1,
  CUDA_DNN_DIV = 6,
  CUDA_DNN_SUB = 9,
  CUDA_DNN_EXP = 13,
  CUDA_DNN_LOG = 15,
  CUDA_DNN_GE = 303,
  CUDA_DNN_LT = 304,
  CUDA_DNN_AND = 400,
  CUDA_DNN_INDEX = 501,
  CUDA_DNN_SELECT = 601, /* y = t ? x : b */
  CUDA_DNN_REDUCE_ADD = 0, /* cudnnReduceTensorOp_t */
  CUDA_DNN_REDUCE_MAX = 3,
  CUDA_DNN_HEUR_A = 3, /* cudnnBackendHeurMode_t */
};

struct cuda_dnn {
  size_t (*version)(void); /* 91900 */
  int (*create)(void **ret_handle);
  int (*destroy)(void *handle);
  int (*set_stream)(void *handle, void *stream);
  int (*desc_new)(int kind, void **ret);
  int (*desc_free)(void *desc);
  int (*desc_set)(void *desc, int attribute, int type, int64_t n, const void *values);
  int (*desc_get)(const void *desc, int attribute, int type, int64_t n_asked, int64_t *ret_n, void *ret);
  int (*desc_finalize)(void *desc);
  int (*execute)(void *handle, void *plan, void *pack);
};

#endif
