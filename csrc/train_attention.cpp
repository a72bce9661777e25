// Causal attention of packed sequences and its gradient: which head, sequence and block of queries
// a task is. Names: H query heads, G kv heads, K head dim.
#include "train_attention.h"

#include <string.h>

#include <type_traits>
#include <vector>

#include "workspace.h"

namespace ling {
namespace {

struct Sequence {
  int64_t query, queries, key, keys;  // the first of each, and how many
  int64_t padded;                     // keys before it, each sequence padded to whole blocks
};

struct Part {
  int64_t sequence, first;
};

void forward(const IsaKernels& k, const CausalTask& t, int64_t first, int64_t n, uint8_t* scratch) {
  k.causal_forward(t, first, n, scratch);
}
void forward(const IsaKernels& k, const CausalTaskF32& t, int64_t first, int64_t n,
             uint8_t* scratch) {
  k.causal_forward_f32(t, first, n, scratch);
}
void backward(const IsaKernels& k, const CausalTask& t, float* dk, float* dv, uint8_t* scratch) {
  k.causal_backward(t, dk, dv, scratch);
}
void backward(const IsaKernels& k, const CausalTaskF32& t, float* dk, float* dv, uint8_t* scratch) {
  k.causal_backward_f32(t, dk, dv, scratch);
}

template <class T>
class Causal {
 public:
  explicit Causal(const ling_causal& c) : c_(c) {
    for (int64_t i = 0; i < c.num_sequences; ++i) {
      const Sequence s = {c.query_ends[i], c.query_ends[i + 1] - c.query_ends[i], c.key_ends[i],
                          c.key_ends[i + 1] - c.key_ends[i], padded_keys};
      if (!s.keys) continue;
      const auto n = int64_t(sequences.size());
      for (int64_t q = 0; q < s.queries; q += kCausalBlock) query_blocks.push_back({n, q});
      for (int64_t k = 0; k < s.keys; k += kCausalBlock) key_blocks.push_back({n, k});
      sequences.push_back(s);
      padded_keys += ceil_div(s.keys, kCausalBlock) * kCausalBlock;
    }
  }

  // Keys or values, of all kv heads, as the kernels of bfloat16 read their transposed blocks.
  void transpose(Team&, const IsaKernels&, const float*, int64_t) {}
  void transpose(Team& team, const IsaKernels& kernels, const uint16_t* x, int64_t stride) {
    const int64_t K = c_.head_dim, blocks = int64_t(key_blocks.size());
    transposed_.reserve(padded_keys * K * c_.num_kv_heads);
    stage(team, blocks * c_.num_kv_heads, [&](int64_t task, int) {
      const int64_t g = task / blocks;
      const Part& b = key_blocks[size_t(task % blocks)];
      const Sequence& s = sequences[size_t(b.sequence)];
      const int64_t n = s.keys - b.first < kCausalBlock ? s.keys - b.first : kCausalBlock;
      kernels.causal_transpose(x + (s.key + b.first) * stride + g * K, stride, n, K,
                               transposed_.data() + (g * padded_keys + s.padded + b.first) * K);
    });
  }

  CausalTaskOf<T> head(const Sequence& s, int64_t h) const {
    const int64_t K = c_.head_dim, g = h / (c_.num_heads / c_.num_kv_heads);
    CausalTaskOf<T> t = {};
    t.queries = s.queries, t.keys = s.keys, t.head_dim = K, t.scale = c_.scale;
    t.q = q() + s.query * c_.q_stride + h * K, t.q_stride = c_.q_stride;
    t.k = k() + s.key * c_.k_stride + g * K, t.k_stride = c_.k_stride;
    t.v = v() + s.key * c_.v_stride + g * K, t.v_stride = c_.v_stride;
    if (T* blocks = transposed_.data()) t.transposed = blocks + (g * padded_keys + s.padded) * K;
    t.out_stride = c_.num_heads * K;
    t.out = static_cast<T*>(c_.out) + out_at(s, h);
    t.lse = c_.lse + h * c_.query_ends[c_.num_sequences] + s.query;
    return t;
  }

  int64_t out_at(const Sequence& s, int64_t h) const {
    return (s.query * c_.num_heads + h) * c_.head_dim;
  }

  const T* q() const { return static_cast<const T*>(c_.q); }
  const T* k() const { return static_cast<const T*>(c_.k); }
  const T* v() const { return static_cast<const T*>(c_.v); }

  std::vector<Sequence> sequences;
  std::vector<Part> query_blocks, key_blocks;
  int64_t padded_keys = 0;

 private:
  const ling_causal& c_;
  Buffer<T> transposed_;
};

void put(float x, float* to) { *to = x; }
void put(float x, uint16_t* to) { *to = to_bf16(x); }

// The gradient of a kv head's keys or values: the sum over its query heads, in their order.
template <class T>
void add_heads(const float* parts, int64_t part, int64_t n, int64_t K, int64_t group, float scale,
               int64_t stride, T* to) {
  for (int64_t t = 0; t < n; ++t)
    for (int64_t d = 0; d < K; ++d) {
      float sum = 0;
      for (int64_t h = 0; h < group; ++h) sum += parts[h * part + t * K + d];
      put(sum * scale, to + t * stride + d);
    }
}

template <class T>
void attend(const IsaKernels& kernels, const ling_causal& c) {
  Causal<T> work(c);
  const int threads = num_threads();
  const int64_t room = causal_room(c.head_dim), blocks = int64_t(work.query_blocks.size());
  Buffer<uint8_t> scratch;
  scratch.reserve(threads * room);
  in_team(threads, [&](Team& team) {
    work.transpose(team, kernels, work.v(), c.v_stride);
    stage(team, blocks * c.num_heads, [&](int64_t task, int thread) {
      const Part& b = work.query_blocks[size_t(task % blocks)];
      const Sequence& s = work.sequences[size_t(b.sequence)];
      const int64_t n = s.queries - b.first < kCausalBlock ? s.queries - b.first : kCausalBlock;
      forward(kernels, work.head(s, task / blocks), b.first, n, scratch.data() + thread * room);
    });
  });
}

template <class T>
void gradient(const IsaKernels& kernels, const ling_causal& c, const T* dout, T* dq, T* dk, T* dv) {
  Causal<T> work(c);
  const int threads = num_threads();
  const int64_t room = causal_room(c.head_dim), K = c.head_dim;
  const int64_t n = int64_t(work.sequences.size()), part = work.padded_keys * K;
  const int64_t blocks = int64_t(work.key_blocks.size()), group = c.num_heads / c.num_kv_heads;
  Buffer<uint8_t> scratch;
  scratch.reserve(threads * room);
  // Of each query head its own: heads of a group run at the same time, and are added in order.
  Buffer<float> sums;
  sums.reserve(2 * c.num_heads * part);
  float *dk_parts = sums.data(), *dv_parts = dk_parts + c.num_heads * part;
  in_team(threads, [&](Team& team) {
    work.transpose(team, kernels, work.k(), c.k_stride);
    stage(team, n * c.num_heads, [&](int64_t task, int thread) {
      const int64_t h = task / n;
      const Sequence& s = work.sequences[size_t(task % n)];
      CausalTaskOf<T> t = work.head(s, h);
      t.dout = dout + work.out_at(s, h), t.dq = dq + work.out_at(s, h);
      const int64_t at = h * part + s.padded * K;
      const size_t bytes = size_t(ceil_div(s.keys, kCausalBlock) * kCausalBlock * K) * 4;
      memset(dk_parts + at, 0, bytes), memset(dv_parts + at, 0, bytes);
      backward(kernels, t, dk_parts + at, dv_parts + at, scratch.data() + thread * room);
    });
    stage(team, blocks * c.num_kv_heads, [&](int64_t task, int) {
      const int64_t g = task / blocks, stride = c.num_kv_heads * K;
      const Part& b = work.key_blocks[size_t(task % blocks)];
      const Sequence& s = work.sequences[size_t(b.sequence)];
      const int64_t rows = s.keys - b.first < kCausalBlock ? s.keys - b.first : kCausalBlock;
      const int64_t from = g * group * part + (s.padded + b.first) * K;
      const int64_t to = (s.key + b.first) * stride + g * K;
      add_heads(dk_parts + from, part, rows, K, group, c.scale, stride, dk + to);
      add_heads(dv_parts + from, part, rows, K, group, 1, stride, dv + to);
    });
  });
}

}  // namespace

void causal_attention(const IsaKernels& kernels, const ling_causal& c) {
  c.bf16 ? attend<uint16_t>(kernels, c) : attend<float>(kernels, c);
}

void causal_gradient(const IsaKernels& kernels, const ling_causal& c, const void* dout, void* dq,
                     void* dk, void* dv) {
  const auto run = [&](auto* of) {
    using T = std::remove_pointer_t<decltype(of)>;
    gradient<T>(kernels, c, static_cast<const T*>(dout), static_cast<T*>(dq), static_cast<T*>(dk),
                static_cast<T*>(dv));
  };
  c.bf16 ? run(static_cast<uint16_t*>(nullptr)) : run(static_cast<float*>(nullptr));
}

}  // namespace ling
