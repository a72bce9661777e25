// What layers do to rows in training, in float32 (train_layers.cpp), of arguments that were
// checked. Whatever allocates may throw std::bad_alloc.
#ifndef LING_TRAIN_LAYERS_H
#define LING_TRAIN_LAYERS_H
#include "internal.h"

namespace ling {

struct NormGradient {
  const float *x, *w, *dy;
  int64_t rows, n;
  float eps;
  float *dx, *dw;
};

struct Rotation {
  const float* x;
  int64_t x_stride;
  const float *cos, *sin;
  int64_t stride, tokens, heads, head_dim, half;
  float sign;
  float* out;
};

void rms_norm_gradient(const IsaKernels& kernels, const NormGradient& g);
void rotate_heads(const Rotation& r);

}  // namespace ling
#endif
