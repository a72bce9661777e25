// A mixture of experts in training, in float32: which experts a token has, where its rows go, the
// experts' products, and the sum of its rows. A task of the products is one expert, so that the
// gradient of its weights is added in the order of its rows whatever the number of threads.
#include "train_moe.h"

#include <string.h>

#include <algorithm>
#include <vector>

#include "workspace.h"

namespace ling {
namespace {

constexpr int64_t kTokens = 256;  // of a task where tokens are independent of each other

template <class F>
void for_tokens(int64_t tokens, const F& f) {
  parallel_for((tokens + kTokens - 1) / kTokens, [&](int64_t task, int) {
    for (int64_t t = task * kTokens; t < std::min(tokens, (task + 1) * kTokens); ++t) f(t);
  });
}

ExpertTask task_of(const ling_experts& e, int64_t i) {
  const int64_t first = e.ends[i], D = e.hidden, F = e.width, matrix = i * D * F;
  ExpertTask t = {};
  t.rows = e.ends[i + 1] - first, t.hidden = D, t.width = F;
  t.x = e.x + first * D, t.gu = e.gu + first * 2 * F, t.y = e.y + first * D;
  t.gate = e.gate + matrix, t.up = e.up + matrix, t.down = e.down + matrix;
  return t;
}

// f(expert, scratch memory of its thread).
template <class F>
void for_experts(const ling_experts& e, const F& f) {
  const int64_t room = expert_room(e.hidden, e.width);
  const int threads = num_threads();  // once: another thread of the process may change it
  Buffer<float> scratch;
  scratch.reserve(threads * room);
  in_team(threads, [&](Team& team) {
    stage(team, e.count, [&](int64_t i, int thread) { f(i, scratch.data() + thread * room); });
  });
}

bool above(float a, float b) { return a > b || (a != a && b == b); }

}  // namespace

void experts_forward(const IsaKernels& kernels, const ling_experts& e) {
  for_experts(e, [&](int64_t i, float* scratch) {
    if (e.ends[i + 1] > e.ends[i]) kernels.expert_forward(task_of(e, i), scratch);
  });
}

void experts_gradient(const IsaKernels& kernels, const ling_experts& e, const ExpertGradients& g) {
  const int64_t n = e.hidden * e.width;
  for_experts(e, [&](int64_t i, float* scratch) {
    ExpertTask t = task_of(e, i);
    t.dy = g.dy + e.ends[i] * e.hidden, t.dx = g.dx + e.ends[i] * e.hidden;
    if (g.dgate) {
      t.dgate = g.dgate + i * n, t.dup = g.dup + i * n, t.ddown = g.ddown + i * n;
      if (!t.rows)
        for (float* w : {t.dgate, t.dup, t.ddown}) memset(w, 0, size_t(n) * sizeof(float));
    }
    if (t.rows) kernels.expert_backward(t, scratch);
  });
}

void top_k(const float* scores, int64_t rows, int64_t n, int64_t k, int64_t* ids) {
  for_tokens(rows, [&](int64_t r) {
    const float* x = scores + r * n;
    int64_t *best = ids + r * k, found = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (found == k && !above(x[i], x[best[k - 1]])) continue;
      int64_t at = found < k ? found++ : k - 1;
      for (; at > 0 && above(x[i], x[best[at - 1]]); --at) best[at] = best[at - 1];
      best[at] = i;
    }
  });
}

void sorted_rows(const int64_t* ids, int64_t n, const int64_t* starts, int64_t count,
                 int64_t* rows) {
  std::vector<int64_t> next(starts, starts + count);
  for (int64_t i = 0; i < n; ++i) rows[i] = next[size_t(ids[i])]++;
}

void combine_rows(const ling_combine& c) {
  const int64_t D = c.hidden;
  for_tokens(c.tokens, [&](int64_t t) {
    float* out = c.out + t * D;
    for (int64_t a = 0; a < c.each; ++a) {
      const float* y = c.y + c.slots[t * c.each + a] * D;
      const float w = c.weights[t * c.each + a];
      if (a == 0)
        for (int64_t d = 0; d < D; ++d) out[d] = w * y[d];
      else
        for (int64_t d = 0; d < D; ++d) out[d] += w * y[d];
    }
  });
}

void combine_gradient(const ling_combine& c, const float* dout, float* dy, float* dweights) {
  constexpr int kLanes = 16;  // sums side by side: their order does not depend on the processor
  const int64_t D = c.hidden;
  // Rows that no slot names are padding; without any of them all are written below.
  if (c.rows > c.tokens * c.each)
    for_tokens(c.rows, [&](int64_t r) { std::fill(dy + r * D, dy + (r + 1) * D, 0.0f); });
  for_tokens(c.tokens, [&](int64_t t) {
    const float* g = dout + t * D;
    for (int64_t a = 0; a < c.each; ++a) {
      const int64_t slot = c.slots[t * c.each + a];
      const float *y = c.y + slot * D, w = c.weights[t * c.each + a];
      float* to = dy + slot * D;
      float sums[kLanes] = {}, sum = 0;
      int64_t d = 0;
      for (; d + kLanes <= D; d += kLanes)
        for (int i = 0; i < kLanes; ++i) {
          sums[i] += y[d + i] * g[d + i];
          to[d + i] = w * g[d + i];
        }
      for (; d < D; ++d) sum += y[d] * g[d], to[d] = w * g[d];
      for (const float s : sums) sum += s;
      dweights[t * c.each + a] = sum;
    }
  });
}

}  // namespace ling
