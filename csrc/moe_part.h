// The MLP half of a layer: dense, or the router with its experts and the shared expert.
#ifndef LING_MOE_PART_H
#define LING_MOE_PART_H
#include <string.h>

#include "lora_part.h"
#include "router.h"

namespace ling {

inline ling_matrix expert(ling_matrix w, int64_t e) {
  w.data = static_cast<const uint8_t*>(w.data) + e * tiles(w) * tile_bytes(w);
  w.scales = static_cast<const uint8_t*>(w.scales) + e * tiles(w) * tile_scale_bytes(w);
  return w;
}

// Rows of a layer's MLP that every token takes: its shared expert, or all it has.
inline int64_t shared_rows(const Pass& p, const ling_layer& l) { return l.gate_up.rows ? p.T : 0; }

inline void route_token(Pass& p, const ling_layer& l, int64_t t) {
  Workspace& work = p.work();
  const int64_t E = p.c().num_experts, A = p.c().num_experts_per_tok, E16 = ceil_div(E, 16) * 16;
  float* score = work.scores.data() + t * 2 * E16;
  p.m.kernels->sigmoid(work.logits.data() + t * E16, E, score);
  choose_experts(p.c(), score, l.expert_bias, score + E16, work.ids.data() + t * A,
                 work.weights.data() + t * A);
}

// The experts of a layer's rows to where the caller wants them.
inline void trace_routed(Pass& p) {
  if (!p.trace.ids) return;
  const int64_t N = p.T * p.c().num_experts_per_tok;
  memcpy(p.trace.ids, p.work().ids.data(), size_t(N) * sizeof(int32_t));
  memcpy(p.trace.weights, p.work().weights.data(), size_t(N) * sizeof(float));
  p.trace.ids += N, p.trace.weights += N;
}

// expert_start[e]: the first routed row of expert e, its rows in token order.
inline void sort_by_expert(Pass& p, int64_t layer) {
  Workspace& work = p.work();
  const int64_t E = p.c().num_experts, A = p.c().num_experts_per_tok, N = p.T * A;
  std::vector<int64_t>&start = work.expert_start, &next = work.expert_next;
  start.assign(size_t(E) + 1, 0);
  for (int64_t i = 0; i < N; ++i) ++start[size_t(work.ids.data()[i] + 1)];
  for (int64_t e = 0; e < E; ++e) {
    p.m.counts[size_t(layer * E + e)] += start[size_t(e + 1)];
    start[size_t(e + 1)] += start[size_t(e)];
  }
  next.assign(start.begin(), start.end() - 1);
  for (int64_t i = 0; i < N; ++i) {
    const int64_t at = next[size_t(work.ids.data()[i])]++, t = i / A;
    work.row_weight.data()[at] = work.weights.data()[i];
    work.routed.data()[at] = work.in.rows.data()[t];
    work.row_x_ptr.data()[at] = work.x_ptr.data()[t];
    if (p.has_adapters) work.row_token.data()[at] = int32_t(t);
  }
}

// The MLP that every row takes: of a dense layer, or the shared expert.
inline void plan_dense(Pass& p, const ling_layer& l) {
  Workspace& work = p.work();
  for (int64_t t = 0; t < p.T; ++t)
    work.hidden_ptr.data()[t] = work.hidden.data() + t * mlp_width(l);
  work.products.push_back({l.gate_up, p.T, work.in.rows.data(), work.hidden_ptr.data(), nullptr,
                           nullptr, Epilogue::kSwiGLU});
  work.down_products.push_back(
      {l.down, p.T, work.inner.rows.data(), work.x_ptr.data(), nullptr, nullptr, Epilogue::kAdd});
}

// One product per expert with rows, in ascending order.
inline void plan_experts(Pass& p, const ling_layer& l) {
  Workspace& work = p.work();
  const int64_t shared = shared_rows(p, l), F = p.c().expert_width;
  const int64_t N = p.T * p.c().num_experts_per_tok;
  float* hidden = work.hidden.data() + shared * mlp_width(l);
  for (int64_t i = 0; i < N; ++i) work.hidden_ptr.data()[shared + i] = hidden + i * F;
  for (int64_t e = 0; e < p.c().num_experts; ++e) {
    const int64_t at = work.expert_start[size_t(e)], n = work.expert_start[size_t(e + 1)] - at;
    if (!n) continue;
    work.products.push_back({expert(l.expert_gate_up, e), n, work.routed.data() + at,
                             work.hidden_ptr.data() + shared + at, nullptr, nullptr,
                             Epilogue::kSwiGLU});
    work.down_products.push_back({expert(l.expert_down, e), n, work.inner.rows.data() + shared + at,
                                  work.row_x_ptr.data() + at, work.row_weight.data() + at, nullptr,
                                  Epilogue::kScaledAdd});
  }
}

// Tiles of a task of the gate and up products.
inline int64_t task_tiles(const Pass& p, const Product& product) {
  return product.m <= 8 || p.m.kernels->matrix_unit ? 16 : 4;
}

// Where both products of an MLP's rows find what adapters add to these.
inline void put_adapters(Pass& p) {
  Workspace& work = p.work();
  for (std::vector<Product>* products : {&work.products, &work.down_products}) {
    const LowRankRow* rows = work.low_rank.data();
    for (Product& product : *products) product.low_rank = rows, rows += product.m;
  }
}

// What the products of a layer are, the shared expert first.
inline void plan_mlp(Pass& p, const ling_layer& l, int64_t layer) {
  Workspace& work = p.work();
  work.products.clear(), work.down_products.clear();
  if (l.is_moe) sort_by_expert(p, layer);
  if (shared_rows(p, l)) plan_dense(p, l);
  if (l.is_moe) plan_experts(p, l);
  if (p.has_adapters) put_adapters(p);
  work.task_start.assign(1, 0);
  for (const Product& product : work.products)
    work.task_start.push_back(work.task_start.back() +
                              ceil_div(tiles(product.w), task_tiles(p, product)));
  if (l.is_moe) prefetch_routed(p.m, layer);
}

// Rows of an expert side by side, as the matrix unit reads them.
inline void gather_rows(Pass& p, const ling_layer& l) {
  const int64_t bytes = padded_cols(l.expert_gate_up);
  p.run(p.T * p.c().num_experts_per_tok, [&](int64_t i, int) {
    uint8_t* to = p.work().routed_values.data() + i * bytes;
    memcpy(to, p.work().routed.data()[i].values, size_t(bytes));
    p.work().routed.data()[i].values = to;
  });
}

inline void multiply_gate_up(Pass& p) {
  Workspace& work = p.work();
  p.run(work.task_start.back(), [&](int64_t task, int thread) {
    size_t low = 0, high = work.products.size();
    while (high - low > 1) {
      const size_t middle = (low + high) / 2;
      (work.task_start[middle] <= task ? low : high) = middle;
    }
    Product product = work.products[low];
    const int64_t n = task_tiles(p, product), begin = (task - work.task_start[low]) * n;
    if (task + 1 == work.task_start[low + 1] && low + 1 < work.products.size())
      product.next = tile_data(work.products[low + 1].w, 0);
    p.multiply_tiles(product, begin, begin + n, thread);
  });
  p.spent(kGateUp);
}

// After gate and up: the same rows through `down`, summed into the residual stream.
inline void multiply_down(Pass& p, const ling_layer& l) {
  Workspace& work = p.work();
  const int64_t shared = shared_rows(p, l), N = l.is_moe ? p.T * p.c().num_experts_per_tok : 0;
  p.run(shared + N, [&](int64_t i, int) {
    work.inner.put(*p.m.kernels, i < shared ? l.down : l.expert_down, i, work.hidden_ptr.data()[i]);
  });
  p.spent(kPrepare);
  // A column belongs to one task, so a token's sum has one order: shared, then ascending experts.
  // Few rows: long reads of memory; many: short ones, so that threads finish together.
  const int64_t n = ceil_div(p.c().hidden_size, kTile), threads = p.team.threads;
  const int64_t step = p.T > 128 ? std::max<int64_t>(4, ceil_div(n, 4 * threads))
                                 : std::max<int64_t>(2, ceil_div(n, 2 * threads));
  p.run(ceil_div(n, step), [&](int64_t task, int thread) {
    for (size_t i = 0; i < work.down_products.size(); ++i) {
      Product product = work.down_products[i];
      if (i + 1 < work.down_products.size())
        product.next = tile_data(work.down_products[i + 1].w, task * step);
      p.multiply_tiles(product, task * step, (task + 1) * step, thread);
    }
  });
  p.spent(kDown);
}

// Router logits, the experts of every token, and the layer's products.
inline void route(Pass& p, const ling_layer& l, int64_t layer) {
  Workspace& work = p.work();
  const int64_t tiles = ceil_div(p.c().num_experts, kTile), rows = 32;
  p.run(tiles * ceil_div(p.T, rows), [&](int64_t i, int) {
    const int64_t t = i / tiles * rows, n = p.T - t < rows ? p.T - t : rows;
    p.m.kernels->router(l.router, i % tiles, work.norm_ptr.data() + t, n, p.c().hidden_size,
                        work.logit_ptr.data() + t);
  });
  if (p.T > 1) p.run(p.T, [&](int64_t t, int) { route_token(p, l, t); });
  if (p.T == 1) route_token(p, l, 0);
  trace_routed(p);
  plan_mlp(p, l, layer);
  p.spent(kRouter);
}

inline void mlp_part(Pass& p, const ling_layer& l, int64_t layer) {
  p.norm_rows(l.post_norm, l.is_moe ? l.expert_gate_up : l.gate_up);
  if (l.is_moe) {
    route(p, l, layer);
    if (gathers(*p.m.kernels, l, p.T)) gather_rows(p, l), p.spent(kPrepare);
  } else {
    plan_mlp(p, l, layer);
  }
  low_rank_of_mlp(p, l, layer,
                  {l.gate_up, l.expert_gate_up, &ling_layer_adapter::gate_up,
                   &ling_layer_adapter::expert_gate_up, true},
                  [&](int64_t, int64_t t) { return p.work().norm_ptr.data()[t]; });
  multiply_gate_up(p);
  low_rank_of_mlp(
      p, l, layer,
      {l.down, l.expert_down, &ling_layer_adapter::down, &ling_layer_adapter::expert_down, false},
      [&](int64_t i, int64_t) { return p.work().hidden_ptr.data()[i]; });
  multiply_down(p, l);
  if (l.is_moe && !p.m.offloads.empty()) evict_routed(p.m, layer);
}

}  // namespace ling
#endif
