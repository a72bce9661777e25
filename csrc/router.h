// Which experts a token takes, and with what weights (ops/reference.py: route).
#ifndef LING_ROUTER_H
#define LING_ROUTER_H
#include <math.h>

#include "internal.h"

namespace ling {

// The sum of the two best choices of a group.
inline float group_score(const float* choice, int64_t size) {
  float a = -INFINITY, b = -INFINITY;
  for (int64_t e = 0; e < size; ++e) {
    if (choice[e] > a)
      b = a, a = choice[e];
    else if (choice[e] > b)
      b = choice[e];
  }
  return a + b;
}

// Leaves the experts of the best groups in the choice.
inline void limit_groups(const ling_model_config& c, float* choice) {
  const int64_t groups = c.n_group, size = c.num_experts / groups;
  float best[kMaxExpertGroups];
  bool kept[kMaxExpertGroups] = {};
  for (int64_t g = 0; g < groups; ++g) best[g] = group_score(choice + g * size, size);
  for (int64_t n = 0; n < c.topk_group; ++n) {
    int64_t top = -1;
    for (int64_t g = 0; g < groups; ++g)
      if (!kept[g] && (top < 0 || best[g] > best[top])) top = g;
    kept[top] = true;
  }
  for (int64_t g = 0; g < groups; ++g)
    if (!kept[g])
      for (int64_t e = g * size; e < (g + 1) * size; ++e) choice[e] = -INFINITY;
}

// The best expert that is none of the `taken`.
inline int32_t best_expert(const float* choice, int64_t E, const int32_t* taken, int64_t n) {
  int64_t top = -1;
  for (int64_t e = 0; e < E; ++e) {
    bool is_taken = false;
    if (top < 0 || choice[e] > choice[top]) {
      for (int64_t i = 0; i < n; ++i) is_taken |= taken[i] == e;
      if (!is_taken) top = e;
    }
  }
  return int32_t(top);
}

// The experts of one token and their weights, from its scores; `choice` has room for one value an
// expert. Lowest ids win ties, as in the reference.
inline void choose_experts(const ling_model_config& c, const float* score, const float* bias,
                           float* choice, int32_t* ids, float* weights) {
  const int64_t E = c.num_experts, A = c.num_experts_per_tok;
  for (int64_t e = 0; e < E; ++e) choice[e] = score[e] + bias[e];
  if (c.n_group > 1) limit_groups(c, choice);
  float sum = 0;
  for (int64_t a = 0; a < A; ++a) {
    ids[a] = best_expert(choice, E, ids, a);
    weights[a] = score[ids[a]];
    sum += weights[a];
  }
  const float divide = A > 1 && c.norm_topk_prob ? 1 / (sum + 1e-20f) : 1;
  for (int64_t a = 0; a < A; ++a) weights[a] *= divide * c.routed_scaling_factor;
}

}  // namespace ling
#endif
