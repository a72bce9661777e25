// Adapters of rows: t = scale · A x of every row that has one, for the product that follows, whose
// epilogue adds B t (kernels/low_rank.h). Rows without one are multiplied as ever.
#ifndef LING_LORA_PART_H
#define LING_LORA_PART_H
#include "pass.h"

namespace ling {

constexpr int64_t kRunRows = 32;    // of a task
constexpr int64_t kTaskValues = 8;  // rows of A of a task

// The adapter of each row, from its segment; false where none has any.
inline bool assign_adapters(ling_model& m, const ling_segment* segments, int64_t n, int64_t T) {
  bool any = false;
  for (int64_t i = 0; i < n; ++i) any |= segments[i].adapter != 0;
  if (!any) return false;
  m.work.reserve_adapters(m.c, T);
  for (int64_t i = 0; i < n; ++i)
    std::fill(m.work.row_adapter.data() + segments[i].start,
              m.work.row_adapter.data() + segments[i].stop, int32_t(segments[i].adapter));
  return true;
}

// A layer's matrices under the adapter of token t; null without one.
inline const ling_layer_adapter* adapter_of(const Pass& p, int64_t layer, int64_t t) {
  const int64_t number = p.work().row_adapter.data()[t];
  return number ? &p.m.adapters[size_t((number - 1) * p.c().num_layers + layer)] : nullptr;
}

// Rows of A: gate and up share their columns.
inline int64_t low_rank_values(const ling_low_rank& l, bool pair) {
  return pair ? 2 * l.rank : l.rank;
}

inline ling_low_rank of_expert(ling_low_rank l, const ling_matrix& w, bool pair, int64_t e) {
  l.a += e * low_rank_values(l, pair) * w.cols;
  l.b += e * tiles(w) * kTile * l.rank;
  return l;
}

// Row i of the product at hand, whose input is x, has these matrices beside `w`; rank 0: none.
inline void put_low_rank(Pass& p, int64_t i, const float* x, const ling_low_rank& l,
                         const ling_matrix& w, bool pair) {
  Workspace& work = p.work();
  if (!l.rank) {
    work.low_rank.data()[i] = {nullptr, nullptr, 0};
    return;
  }
  work.low_rank_x.data()[i] = x;
  work.low_rank.data()[i] = {work.low_rank_values.data() + i * 2 * kMaxRank, l.b, l.rank};
  if (!work.low_rank_runs.empty()) {
    LowRankRun& last = work.low_rank_runs.back();
    if (last.matrix.a == l.a && last.first + last.count == i && last.count < kRunRows) {
      ++last.count;
      return;
    }
  }
  work.low_rank_runs.push_back({l, w.cols, low_rank_values(l, pair), i, 1});
}

// t of all rows that were put.
inline void multiply_low_rank(Pass& p) {
  Workspace& work = p.work();
  if (work.low_rank_runs.empty()) return;
  int64_t chunks = 0;
  for (const LowRankRun& run : work.low_rank_runs)
    chunks = std::max(chunks, ceil_div(run.values, kTaskValues));
  p.run(int64_t(work.low_rank_runs.size()) * chunks, [&](int64_t task, int) {
    const LowRankRun& run = work.low_rank_runs[size_t(task / chunks)];
    const int64_t first = task % chunks * kTaskValues;
    if (first >= run.values) return;
    p.m.kernels->low_rank({&run.matrix, run.cols, first, std::min(first + kTaskValues, run.values),
                           run.count, work.low_rank_x.data() + run.first,
                           work.low_rank.data() + run.first});
  });
  work.low_rank_runs.clear();
}

// Of all tokens, for a matrix whose input rows are `stride` apart; null where none has an adapter.
inline const LowRankRow* low_rank_of_tokens(Pass& p, int64_t layer, const ling_matrix& w,
                                            ling_low_rank ling_layer_adapter::* which,
                                            const float* x, int64_t stride) {
  if (!p.has_adapters) return nullptr;
  for (int64_t t = 0; t < p.T; ++t) {
    const ling_layer_adapter* adapter = adapter_of(p, layer, t);
    put_low_rank(p, t, x + t * stride, adapter ? adapter->*which : ling_low_rank{}, w, false);
  }
  multiply_low_rank(p);
  return p.work().low_rank.data();
}

// One of the two matrices of an MLP, or of gate and up, as the shared and the routed experts have
// it, and where adapters have theirs.
struct MLPMatrix {
  const ling_matrix& shared;
  const ling_matrix& routed;
  ling_low_rank ling_layer_adapter::* of_shared;
  ling_low_rank ling_layer_adapter::* of_routed;
  bool pair;
};

// Of the rows of an MLP: those of the shared expert, then the routed ones, by expert. `input(i, t)`
// is the input of row i, of token t.
template <class Input>
void low_rank_of_mlp(Pass& p, const ling_layer& l, int64_t layer, const MLPMatrix& w,
                     const Input& input) {
  if (!p.has_adapters) return;
  Workspace& work = p.work();
  const int64_t shared = l.gate_up.rows ? p.T : 0;
  for (int64_t t = 0; t < shared; ++t) {
    const ling_layer_adapter* adapter = adapter_of(p, layer, t);
    put_low_rank(p, t, input(t, t), adapter ? adapter->*w.of_shared : ling_low_rank{}, w.shared,
                 w.pair);
  }
  for (int64_t e = 0; l.is_moe && e < p.c().num_experts; ++e)
    for (int64_t i = work.expert_start[size_t(e)]; i < work.expert_start[size_t(e + 1)]; ++i) {
      const int64_t t = work.row_token.data()[i];
      const ling_layer_adapter* adapter = adapter_of(p, layer, t);
      const ling_low_rank own = adapter ? adapter->*w.of_routed : ling_low_rank{};
      put_low_rank(p, shared + i, input(shared + i, t),
                   own.rank ? of_expert(own, w.routed, w.pair, e) : own, w.routed, w.pair);
    }
  multiply_low_rank(p);
}

}  // namespace ling
#endif
