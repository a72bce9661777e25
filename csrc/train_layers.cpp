// What layers do to rows in training, in float32: the gradient of RMSNorm, and rotary positions.
#include "train_layers.h"

#include <string.h>

#include <algorithm>

#include "workspace.h"

namespace ling {
namespace {

constexpr int64_t kTaskRows = 512;

int64_t tasks(int64_t rows) { return (rows + kTaskRows - 1) / kTaskRows; }

}  // namespace

void rms_norm_gradient(const IsaKernels& kernels, const NormGradient& g) {
  // A sum for each task, so that the result does not depend on the number of threads.
  const int64_t parts = tasks(g.rows);
  Buffer<float> sums;
  sums.reserve(parts * g.n);
  parallel_for(parts, [&](int64_t task, int) {
    float* sum = sums.data() + task * g.n;
    memset(sum, 0, size_t(g.n) * sizeof(float));
    for (int64_t r = task * kTaskRows; r < std::min(g.rows, (task + 1) * kTaskRows); ++r)
      kernels.rms_norm_gradient(g.x + r * g.n, g.w, g.dy + r * g.n, g.eps, g.n, g.dx + r * g.n,
                                sum);
  });
  memset(g.dw, 0, size_t(g.n) * sizeof(float));
  for (int64_t task = 0; task < parts; ++task)
    for (int64_t i = 0; i < g.n; ++i) g.dw[i] += sums.data()[task * g.n + i];
}

void rotate_heads(const Rotation& r) {
  const int64_t K = r.head_dim, half = r.half;
  parallel_for(tasks(r.tokens), [&](int64_t task, int) {
    for (int64_t t = task * kTaskRows; t < std::min(r.tokens, (task + 1) * kTaskRows); ++t) {
      const float *cos = r.cos + t * r.stride, *sin = r.sin + t * r.stride;
      for (int64_t h = 0; h < r.heads; ++h) {
        const float *low = r.x + t * r.x_stride + h * K, *high = low + half;
        float* out = r.out + (t * r.heads + h) * K;
        // Each product is rounded, as torch rounds it.
        for (int64_t i = 0; i < half; ++i) {
          const float s = r.sign * sin[i];
          out[i] = low[i] * cos[i] - high[i] * s;
          out[half + i] = high[i] * cos[i] + low[i] * s;
        }
        std::copy(low + 2 * half, low + K, out + 2 * half);
      }
    }
  });
}

}  // namespace ling
