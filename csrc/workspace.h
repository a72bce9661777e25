// Memory that passes work in: it grows to the largest pass and is kept for the next one.
#ifndef LING_WORKSPACE_H
#define LING_WORKSPACE_H
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <new>
#include <vector>

#include "internal.h"

namespace ling {

// Memory aligned to a cache line; where it is large, in pages of 2 MiB: a pass reads a few columns
// of thousands of rows, each in a page of its own if pages are small. Null when there is none.
inline void* allocate(size_t bytes) {
  constexpr size_t kLargePage = size_t(2) << 20;
  const size_t unit = bytes < 2 * kLargePage ? 64 : kLargePage;
  bytes = (bytes + unit - 1) / unit * unit;
  void* data = aligned_alloc(unit, bytes);
#ifdef __linux__
  if (data && unit == kLargePage) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

// Memory that only grows.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(data_); }
  T* reserve(int64_t n) {
    if (n > size_) {
      free(data_);
      data_ = nullptr, size_ = 0;
      data_ = static_cast<T*>(allocate(size_t(n) * sizeof(T)));
      if (!data_) throw std::bad_alloc();
      size_ = n;
    }
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// Rows of activations as a matrix multiplies them.
struct Activations {
  Buffer<uint8_t> values;
  Buffer<float> scales;
  Buffer<int32_t> sums;
  Buffer<Row> rows;
  int64_t stride = 0, groups = 0;

  // Called for every matrix that will use it, so the widest decides how far rows are apart.
  void reserve(const ling_matrix& w, int64_t n) {
    stride = std::max(stride, padded_cols(w) * (bf16_activations(w.format) ? 2 : 1));
    if (!bf16_activations(w.format)) groups = std::max(groups, padded_cols(w) / w.group);
    values.reserve(n * stride);
    scales.reserve(n * groups), sums.reserve(n * groups);
    rows.reserve(n);
  }
  void put(const IsaKernels& k, const ling_matrix& w, int64_t i, const float* x) {
    uint8_t* q = values.data() + i * stride;
    if (bf16_activations(w.format)) {
      k.round_row(x, w.cols, padded_cols(w), reinterpret_cast<uint16_t*>(q));
      rows.data()[i] = {q, nullptr, nullptr};
      return;
    }
    float* s = scales.data() + i * groups;
    int32_t* n = sums.data() + i * groups;
    k.quantise_row(x, w.cols, padded_cols(w), w.group, reinterpret_cast<int8_t*>(q), s, n);
    rows.data()[i] = {q, s, n};
  }
};

// One attention task: tokens first .. first + count of a segment, for the heads of one kv head.
struct Block {
  int64_t segment, kv_head, first, count;
};

// Rows next to each other that share an adapter's matrices, and their width.
struct LowRankRun {
  ling_low_rank matrix;
  int64_t cols, values;  // columns and rows of A
  int64_t first, count;
};

// Rows from which an expert has enough of them for the matrix unit.
constexpr int64_t kGatherFrom = 128;
inline bool gathers(const IsaKernels& kernels, const ling_layer& l, int64_t T) {
  return kernels.matrix_unit && T >= kGatherFrom && !bf16_activations(l.expert_gate_up.format);
}

// Width of the dense MLP, or of the shared expert.
inline int64_t mlp_width(const ling_layer& l) { return l.gate_up.rows / 2; }

// What a pass over T rows works in: N = T · experts per token routed rows.
struct Workspace {
  Buffer<float> x, norm, both, qkv, attn;              // [T, ...]; x is the residual stream
  Buffer<float*> x_ptr, qkv_ptr, logit_ptr, head_ptr;  // their rows
  Buffer<const float*> norm_ptr;
  Activations in, inner;  // of the hidden size; between the two matrices of an MLP

  Buffer<float> logits, scores;  // of the router
  Buffer<int32_t> ids;           // [T, experts per token]
  Buffer<float> weights;
  // Routed rows, by expert and then by token.
  Buffer<float> row_weight;
  Buffer<float*> row_x_ptr;
  Buffer<Row> routed;
  Buffer<uint8_t> routed_values;
  std::vector<int64_t> expert_start, expert_next;

  Buffer<float> hidden;  // of the MLPs: rows of the shared expert, then routed rows
  Buffer<float*> hidden_ptr;
  std::vector<Product> products, down_products;
  std::vector<int64_t> task_start;

  std::vector<Block> blocks;

  // Of adapters: the number of each token's, and the token of each routed row; then what is added
  // to the rows of the product at hand, as hidden_ptr has them.
  Buffer<int32_t> row_adapter, row_token;
  Buffer<LowRankRow> low_rank;
  Buffer<const float*> low_rank_x;
  Buffer<float> low_rank_values;
  std::vector<LowRankRun> low_rank_runs;

  Buffer<uint8_t> scratch;  // of each thread
  Buffer<float> attention_scratch;
  int64_t scratch_stride = 0, attention_stride = 0;

  void reserve(const ling_model_config& c, const std::vector<ling_layer>& layers,
               const IsaKernels& kernels, int64_t T, int threads) {
    reserve_rows(c, T);
    reserve_experts(c, T);
    int64_t product_scratch = std::max<int64_t>(64, scratch_bytes(c.head));
    for (const ling_layer& l : layers)
      product_scratch = std::max(product_scratch, reserve_layer(c, l, kernels, T));
    scratch_stride = (product_scratch + 63) / 64 * 64;
    scratch.reserve(threads * scratch_stride);
    attention_stride = attention_room(c.head_dim) + 64;
    attention_scratch.reserve(threads * attention_stride);
  }

  void reserve_adapters(const ling_model_config& c, int64_t T) {
    const int64_t n = T + T * c.num_experts_per_tok;
    row_adapter.reserve(T), row_token.reserve(n);
    low_rank.reserve(n), low_rank_x.reserve(n);
    low_rank_values.reserve(n * 2 * kMaxRank);
    low_rank_runs.reserve(size_t(n));
  }

 private:
  // Pointers to rows never change within a pass.
  void reserve_rows(const ling_model_config& c, int64_t T) {
    const int64_t D = c.hidden_size, Q = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
    const int64_t E16 = ceil_div(c.num_experts, 16) * 16;
    attn.reserve(T * c.num_heads * c.head_dim);
    scores.reserve(T * 2 * E16);
    set_rows(norm_ptr, norm.reserve(T * D), T, D);
    set_rows(logit_ptr, logits.reserve(T * E16), T, E16);
    set_rows(qkv_ptr, qkv.reserve(T * Q), T, Q);
    set_rows(x_ptr, x.reserve(T * D), T, D);
  }
  template <class P>
  static void set_rows(Buffer<P>& to, float* first, int64_t T, int64_t stride) {
    P* rows = to.reserve(T);
    for (int64_t t = 0; t < T; ++t) rows[t] = first + t * stride;
  }

  // Nothing may allocate, so throw, once the threads run.
  void reserve_experts(const ling_model_config& c, int64_t T) {
    const int64_t N = T * c.num_experts_per_tok, E = c.num_experts;
    ids.reserve(N), weights.reserve(N), row_weight.reserve(N);
    routed.reserve(N), row_x_ptr.reserve(N), hidden_ptr.reserve(T + N);
    products.reserve(size_t(E) + 1), down_products.reserve(size_t(E) + 1);
    task_start.reserve(size_t(E) + 2);
    expert_start.reserve(size_t(E) + 1), expert_next.reserve(size_t(E));
  }

  // Returns the scratch that a thread needs for the layer's products.
  int64_t reserve_layer(const ling_model_config& c, const ling_layer& l, const IsaKernels& kernels,
                        int64_t T) {
    const int64_t N = T * c.num_experts_per_tok;
    if (l.is_moe && gathers(kernels, l, T))
      routed_values.reserve(N * padded_cols(l.expert_gate_up));
    hidden.reserve((l.gate_up.rows ? T * mlp_width(l) : 0) + (l.is_moe ? N * c.expert_width : 0));
    int64_t room = 0;
    for (const ling_matrix* w : {&l.qkv, &l.dense, &l.gate_up, &l.expert_gate_up, &l.eh_proj})
      if (w->rows) in.reserve(*w, T), room = std::max(room, scratch_bytes(*w));
    for (const ling_matrix* w : {&l.down, &l.expert_down})
      // T + N in every layer: a later, wider one moves the rows of an earlier one apart.
      if (w->rows) inner.reserve(*w, T + N), room = std::max(room, scratch_bytes(*w));
    return room;
  }
};

}  // namespace ling
#endif
