// Matrices on their own (matrix.cpp), of arguments that were checked. Whatever allocates may throw
// std::bad_alloc.
#ifndef LING_MATRIX_H
#define LING_MATRIX_H
#include "internal.h"

namespace ling {

// Weights to be packed: float32 or bfloat16, the row stride in elements.
struct Weights {
  const void* const* parts;  // matrices whose tiles alternate
  int count;
  bool bf16;
  int64_t stride;
  const float* importance;  // or null
};

// Where tile i of a part goes in a matrix of several: to tile first + i · step.
struct TileStep {
  int64_t first, step;
};

void pack(const IsaKernels& kernels, const ling_matrix& to, const Weights& from);
void pack_fp8(const ling_matrix& to, const uint8_t* values, int64_t stride,
              const float* block_scales, TileStep at);
void widen_fp8(const IsaKernels& kernels, const uint8_t* q, int64_t rows, int64_t cols,
               const float* scales, int64_t block, uint16_t* out);
void unpack(const ling_matrix& w, float* out);
void unpack_bf16(const IsaKernels& kernels, const ling_matrix& w, uint16_t* out);
void matmul(const IsaKernels& kernels, const ling_matrix& w, const float* x, float* y, int64_t T);
double read_seconds(const IsaKernels& kernels, const void* data, int64_t bytes);

}  // namespace ling
#endif
