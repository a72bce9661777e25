// A mixture of experts in training, in float32 (train_moe.cpp), of arguments that were checked.
// Whatever allocates may throw std::bad_alloc.
#ifndef LING_TRAIN_MOE_H
#define LING_TRAIN_MOE_H
#include "internal.h"

namespace ling {

struct ExpertGradients {
  const float* dy;
  float *dx, *dgate, *dup, *ddown;
};

void experts_forward(const IsaKernels& kernels, const ling_experts& e);
void experts_gradient(const IsaKernels& kernels, const ling_experts& e, const ExpertGradients& g);
void top_k(const float* scores, int64_t rows, int64_t n, int64_t k, int64_t* ids);
void sorted_rows(const int64_t* ids, int64_t n, const int64_t* starts, int64_t count,
                 int64_t* rows);
void combine_rows(const ling_combine& c);
void combine_gradient(const ling_combine& c, const float* dout, float* dy, float* dweights);

}  // namespace ling
#endif
