// A whole model in one call: embedding, layers, final norm; and the head. One parallel region per
// call, and in it a chain of stages (internal.h: Team), so that Python pays for one call a step.
//
// The residual stream and everything between two products is float32. Names: T rows on the flat
// token axis, D hidden, H query heads, G kv heads, K head dim, E experts, A experts per token, F
// width.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <fcntl.h>
#include <sys/mman.h>
#endif

#include <algorithm>
#include <chrono>
#include <new>
#include <vector>

#include "internal.h"

namespace ling {
namespace {

enum Stage {
  kPrepare,
  kQKV,
  kRope,
  kAttention,
  kDense,
  kRouter,
  kGateUp,
  kDown,
  kHead,
  kBest,
  kStages
};
const char* const kStageNames[kStages] = {"norm + quantise", "qkv",   "qk-norm + rope + cache",
                                          "attention",       "dense", "router",
                                          "gate + up",       "down",  "head",
                                          "argmax"};

// Memory that only grows, aligned to a cache line.
template <class T>
class Buffer {
 public:
  ~Buffer() { free(data_); }
  T* reserve(int64_t n) {
    if (n > size_) {
      free(data_);
      data_ = nullptr, size_ = 0;
      const size_t bytes = (size_t(n) * sizeof(T) + 63) / 64 * 64;
      data_ = static_cast<T*>(aligned_alloc(64, bytes));
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

// Rows of activations in the form that a matrix wants.
struct Activations {
  Buffer<uint8_t> values;
  Buffer<float> scales;
  Buffer<int32_t> sums;
  Buffer<Row> rows;
  int64_t stride = 0, groups = 0;

  // Called for every matrix that will use it, so the widest decides where rows lie.
  void reserve(const ling_matrix& w, int64_t n) {
    stride = std::max(stride, padded_cols(w) * (floats(w.kind) ? 2 : 1));
    if (!floats(w.kind)) groups = std::max(groups, padded_cols(w) / w.group);
    values.reserve(n * stride);
    scales.reserve(n * groups), sums.reserve(n * groups);
    rows.reserve(n);
  }
  void put(const Level& k, const ling_matrix& w, int64_t i, const float* x) {
    uint8_t* q = values.data() + i * stride;
    if (floats(w.kind)) {
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

// Where a layer's experts lie in a file, and which of them stay in memory.
struct Stream {
  int fd = -1;
  int64_t offsets[4] = {};
  const uint8_t* hot = nullptr;
};

// Advice about one part of one expert: wanted soon, or not any more.
void advise(const void* stack, int64_t bytes, int64_t expert, int fd, int64_t offset, bool wanted) {
#ifdef __linux__
  const uintptr_t at = reinterpret_cast<uintptr_t>(stack) + expert * bytes;
  // Whole pages: one that is shared with a neighbour stays when letting go.
  const uintptr_t page = 4096, begin = wanted ? at / page * page : (at + page - 1) / page * page;
  const uintptr_t end = wanted ? at + bytes : (at + bytes) / page * page;
  if (begin >= end) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, wanted ? MADV_WILLNEED : MADV_DONTNEED);
  if (!wanted)
    posix_fadvise(fd, offset + expert * bytes + int64_t(begin - at), int64_t(end - begin),
                  POSIX_FADV_DONTNEED);
#else
  (void)stack, (void)bytes, (void)expert, (void)fd, (void)offset, (void)wanted;
#endif
}

void advise_expert(const ling_layer& l, const Stream& s, int64_t expert, bool wanted) {
  const ling_matrix* const w[2] = {&l.expert_gate_up, &l.expert_down};
  for (int i = 0; i < 2; ++i) {
    const int64_t n = tiles(*w[i]);
    advise(w[i]->data, n * tile_bytes(*w[i]), expert, s.fd, s.offsets[2 * i], wanted);
    advise(w[i]->scales, n * tile_scale_bytes(*w[i]), expert, s.fd, s.offsets[2 * i + 1], wanted);
  }
}

struct Block {
  int64_t segment, kv_head, first, count;  // tokens first .. first + count of the segment
};

}  // namespace
}  // namespace ling

using namespace ling;

struct ling_model {
  ling_model_config c;
  std::vector<ling_layer> layers;
  std::vector<Stream> streams;  // empty: everything fits in memory
  const Level* kernels;

  Buffer<float> x, norm, both, qkv, attn, logits, hidden, scores;
  Activations in, inner;
  Buffer<int32_t> ids, row_token;
  Buffer<float> weights, row_weight;
  Buffer<const float*> norm_ptr;
  Buffer<float*> logit_ptr, qkv_ptr, x_ptr, hidden_ptr, row_x_ptr, head_ptr;
  Buffer<Row> routed;
  Buffer<uint8_t> routed_values;
  Buffer<uint8_t> scratch;
  Buffer<float> attention_scratch;
  int64_t scratch_stride = 0, attention_stride = 0;
  std::vector<Product> products, down_products;
  std::vector<int64_t> task_start, expert_start;
  std::vector<Block> blocks;
  std::vector<int64_t> counts;
  std::vector<int64_t> local_best;
  double seconds[kStages] = {};

  int64_t width(const ling_layer& l) const { return l.gate_up.rows / 2; }
};

namespace ling {
namespace {

using Clock = std::chrono::steady_clock;

// Below, an expert has too few rows for the matrix unit.
constexpr int64_t kGatherFrom = 128;
bool gathers(const ling_model& m, const ling_layer& l, int64_t T) {
  return m.kernels->matrix_unit && T >= kGatherFrom && !floats(l.expert_gate_up.kind);
}

// What one forward pass knows; every thread runs the same chain of stages over it.
struct Pass {
  ling_model& m;
  Team& team;
  int thread;
  int64_t T;
  const ling_segment* segments;
  int64_t num_segments;
  Clock::time_point mark = Clock::now();

  const ling_model_config& c() const { return m.c; }
  uint8_t* scratch() const { return m.scratch.data() + thread * m.scratch_stride; }

  template <class F>
  void run(int64_t tasks, const F& f) {
    stage(team, thread, tasks, f);
  }
  // What went by since the last mark belongs to `s`.
  void spent(Stage s) {
    if (thread) return;
    const Clock::time_point now = Clock::now();
    m.seconds[s] += std::chrono::duration<double>(now - mark).count();
    mark = now;
  }

  void multiply(const Product& p) {
    // Few rows: long walks through memory. Many: short ones, so that threads end together.
    const int64_t chunk = p.m <= 8 ? 4 : 2;
    run(ceil_div(tiles(p.w), chunk), [&](int64_t task, int) {
      const int64_t end = (task + 1) * chunk;
      m.kernels->product(p, task * chunk, end < tiles(p.w) ? end : tiles(p.w), scratch());
    });
  }

  void norm_rows(const float* weight, const ling_matrix& w) {
    const int64_t D = c().hidden_size;
    run(T, [&](int64_t t, int) {
      float* y = m.norm.data() + t * D;
      m.kernels->rms_norm(m.x.data() + t * D, weight, c().rms_norm_eps, D, y);
      m.in.put(*m.kernels, w, t, y);
    });
    spent(kPrepare);
  }

  void embed(const int64_t* tokens, float* to, int64_t stride) {
    const int64_t D = c().hidden_size;
    run(T, [&](int64_t t, int) {
      float* y = to + t * stride;
      const int64_t id = tokens[t];
      if (c().embedding_kind == LING_I8) {
        m.kernels->embed_i8(
            static_cast<const int8_t*>(c().embedding) + id * D,
            static_cast<const uint16_t*>(c().embedding_scales) + id * (D / c().embedding_group), D,
            c().embedding_group, y);
      } else {
        const uint16_t* e = static_cast<const uint16_t*>(c().embedding) + id * D;
        for (int64_t i = 0; i < D; ++i) {
          const uint32_t bits = uint32_t(e[i]) << 16;
          memcpy(y + i, &bits, 4);
        }
      }
    });
  }

  int64_t kv_head_bytes() const { return kv_bytes(c().kv_kind, c().head_dim); }
  int64_t page_stride() const { return c().num_kv_heads * kv_head_bytes(); }
  // One kv head's pages of a layer: the first of them; the others follow at the stride.
  uint8_t* pages(void* pool, int64_t cache_layer, int64_t kv_head) const {
    return static_cast<uint8_t*>(pool) + cache_layer * c().num_pages * page_stride() +
           kv_head * kv_head_bytes();
  }

  // Key and value of position `at` into one kv head's page.
  void cache_bf16(uint8_t* k_page, uint8_t* v_page, int64_t at, const float* key,
                  const float* value) {
    const int64_t K = c().head_dim;
    uint16_t* k = reinterpret_cast<uint16_t*>(k_page);
    uint16_t* v = reinterpret_cast<uint16_t*>(v_page);
    uint16_t row[1024];
    m.kernels->round_row(key, K, K, row);
    for (int64_t d = 0; d < K; ++d) k[d / 2 * 2 * kPage + 2 * at + d % 2] = row[d];
    m.kernels->round_row(value, K, K, row);
    for (int64_t d = 0; d < K; ++d) v[at / 2 * 2 * K + 2 * d + at % 2] = row[d];
  }
  void cache_i8(uint8_t* k, uint8_t* v, int64_t at, const float* key, const float* value) {
    const int64_t K = c().head_dim;
    int8_t row[1024];
    int32_t sum;
    m.kernels->quantise_row(key, K, K, K, row, reinterpret_cast<float*>(k + kPage * K) + at, &sum);
    for (int64_t d = 0; d < K; ++d)
      k[at / kTile * kTile * K + d / 4 * 64 + at % kTile * 4 + d % 4] = uint8_t(row[d] + 128);
    m.kernels->quantise_row(value, K, K, K, row, reinterpret_cast<float*>(v + kPage * K) + at,
                            &sum);
    for (int64_t d = 0; d < K; ++d)
      v[d / kTile * kTile * kPage + at / 4 * 64 + d % kTile * 4 + at % 4] = uint8_t(row[d] + 128);
  }

  // QK-norm and rotary of one token, then its key and value into their page.
  void rope_and_cache(const ling_layer& l, int64_t cache_layer, const ling_segment& s, int64_t t) {
    const int64_t H = c().num_heads, G = c().num_kv_heads, K = c().head_dim;
    const int64_t half = c().rotary_size / 2, position = s.first + t - s.start;
    float* qkv = m.qkv.data() + t * (H + 2 * G) * K;
    for (int64_t h = 0; h < H + G; ++h) {
      float* head = qkv + h * K;
      const float* weight = h < H ? l.q_norm : l.k_norm;
      if (weight) m.kernels->rms_norm(head, weight, c().rms_norm_eps, K, head);
      m.kernels->rotate(head, c().cos + position * half, c().sin + position * half, half);
    }
    const int64_t at = position % kPage;
    const int64_t base = s.pages[position / kPage] * page_stride();
    for (int64_t g = 0; g < G; ++g) {
      uint8_t* k = pages(c().k_pages, cache_layer, g) + base;
      uint8_t* v = pages(c().v_pages, cache_layer, g) + base;
      const float *key = qkv + (H + g) * K, *value = qkv + (H + G + g) * K;
      if (c().kv_kind == LING_I8)
        cache_i8(k, v, at, key, value);
      else
        cache_bf16(k, v, at, key, value);
    }
  }

  void attend(int64_t cache_layer) {
    const int64_t H = c().num_heads, G = c().num_kv_heads, K = c().head_dim, group = H / G;
    run(int64_t(m.blocks.size()), [&](int64_t i, int) {
      const Block& b = m.blocks[i];
      const ling_segment& s = segments[b.segment];
      const float* q[kMaxRows];
      float* out[kMaxRows];
      for (int64_t r = 0; r < b.count * group; ++r) {
        const int64_t t = s.start + b.first + r / group, h = b.kv_head * group + r % group;
        q[r] = m.qkv.data() + t * (H + 2 * G) * K + h * K;
        out[r] = m.attn.data() + t * H * K + h * K;
      }
      const AttentionTask task = {b.count * group,
                                  b.count,
                                  group,
                                  K,
                                  s.first + b.first,
                                  q,
                                  out,
                                  s.pages,
                                  c().kv_kind,
                                  pages(c().k_pages, cache_layer, b.kv_head),
                                  pages(c().v_pages, cache_layer, b.kv_head),
                                  page_stride()};
      m.kernels->attention(task, m.attention_scratch.data() + thread * m.attention_stride);
    });
    spent(kAttention);
  }

  void attention_part(const ling_layer& l, int64_t cache_layer) {
    norm_rows(l.input_norm, l.qkv);
    multiply({l.qkv, T, m.in.rows.data(), m.qkv_ptr.data(), nullptr, l.qkv_bias, Epilogue::kStore});
    spent(kQKV);
    run(num_segments == 1 ? T : num_segments, [&](int64_t i, int) {
      if (num_segments == 1) return rope_and_cache(l, cache_layer, segments[0], i);
      for (int64_t t = segments[i].start; t < segments[i].stop; ++t)
        rope_and_cache(l, cache_layer, segments[i], t);
    });
    spent(kRope);
    attend(cache_layer);
    run(T, [&](int64_t t, int) {
      m.in.put(*m.kernels, l.dense, t, m.attn.data() + t * c().num_heads * c().head_dim);
    });
    spent(kPrepare);
    multiply({l.dense, T, m.in.rows.data(), m.x_ptr.data(), nullptr, l.dense_bias, Epilogue::kAdd});
    spent(kDense);
  }

  // Lowest ids win ties, as in the reference.
  void choose_experts(const ling_layer& l, int64_t t) {
    const int64_t E = c().num_experts, A = c().num_experts_per_tok, groups = c().n_group;
    const int64_t size = E / groups;
    float* score = m.scores.data() + t * 2 * ceil_div(E, 16) * 16;
    float* choice = score + ceil_div(E, 16) * 16;
    m.kernels->sigmoid(m.logits.data() + t * ceil_div(E, 16) * 16, E, score);
    for (int64_t e = 0; e < E; ++e) choice[e] = score[e] + l.expert_bias[e];
    if (groups > 1) {
      float best[256];
      bool kept[256] = {};
      for (int64_t g = 0; g < groups; ++g) {
        float a = -INFINITY, b = -INFINITY;
        for (int64_t e = g * size; e < (g + 1) * size; ++e) {
          if (choice[e] > a)
            b = a, a = choice[e];
          else if (choice[e] > b)
            b = choice[e];
        }
        best[g] = a + b;
      }
      for (int64_t n = 0; n < c().topk_group; ++n) {
        int64_t top = -1;
        for (int64_t g = 0; g < groups; ++g)
          if (!kept[g] && (top < 0 || best[g] > best[top])) top = g;
        kept[top] = true;
      }
      for (int64_t g = 0; g < groups; ++g)
        if (!kept[g])
          for (int64_t e = g * size; e < (g + 1) * size; ++e) choice[e] = -INFINITY;
    }
    int32_t* ids = m.ids.data() + t * A;
    float* weights = m.weights.data() + t * A;
    float sum = 0;
    for (int64_t a = 0; a < A; ++a) {
      int64_t top = -1;
      for (int64_t e = 0; e < E; ++e) {
        bool taken = false;
        if (top < 0 || choice[e] > choice[top]) {
          for (int64_t b = 0; b < a; ++b) taken |= ids[b] == e;
          if (!taken) top = e;
        }
      }
      ids[a] = int32_t(top);
      weights[a] = score[top];
      sum += score[top];
    }
    const float divide = A > 1 && c().norm_topk_prob ? 1 / (sum + 1e-20f) : 1;
    for (int64_t a = 0; a < A; ++a) weights[a] *= divide * c().routed_scaling_factor;
  }

  // One product per expert with rows (ascending), the shared expert first; rows in token order.
  void plan_experts(const ling_layer& l, int64_t layer) {
    const int64_t E = c().num_experts, A = c().num_experts_per_tok, N = T * A, D = c().hidden_size;
    std::vector<int64_t>& start = m.expert_start;
    start.assign(E + 1, 0);
    for (int64_t i = 0; i < N; ++i) ++start[m.ids.data()[i] + 1];
    for (int64_t e = 0; e < E; ++e) {
      m.counts[layer * E + e] += start[e + 1];
      start[e + 1] += start[e];
    }
    std::vector<int64_t>& next = m.local_best;
    next.assign(start.begin(), start.end() - 1);
    const int64_t shared = l.gate_up.rows ? T : 0;
    for (int64_t i = 0; i < N; ++i) {
      const int64_t at = next[m.ids.data()[i]]++;
      m.row_weight.data()[at] = m.weights.data()[i];
      m.routed.data()[at] = m.in.rows.data()[i / A];
      m.row_x_ptr.data()[at] = m.x.data() + i / A * D;
    }
    float* h = m.hidden.data();
    const int64_t F = c().expert_width;
    for (int64_t i = 0; i < N; ++i)
      m.hidden_ptr.data()[shared + i] = h + shared * m.width(l) + i * F;
    m.products.clear(), m.down_products.clear();
    if (shared) plan_dense(l);
    for (int64_t e = 0; e < E; ++e) {
      const int64_t at = start[e], n = start[e + 1] - at;
      if (!n) continue;
      m.products.push_back({expert(l.expert_gate_up, e), n, m.routed.data() + at,
                            m.hidden_ptr.data() + shared + at, nullptr, nullptr,
                            Epilogue::kSwiGLU});
      m.down_products.push_back({expert(l.expert_down, e), n, m.inner.rows.data() + shared + at,
                                 m.row_x_ptr.data() + at, m.row_weight.data() + at, nullptr,
                                 Epilogue::kScaledAdd});
    }
    plan_tasks();
    advise_cold(l, layer, true);
  }

  // Rows of an expert side by side, as the matrix unit reads them.
  void gather_rows(const ling_layer& l) {
    const int64_t bytes = padded_cols(l.expert_gate_up);
    run(T * c().num_experts_per_tok, [&](int64_t i, int) {
      uint8_t* to = m.routed_values.data() + i * bytes;
      memcpy(to, m.routed.data()[i].values, bytes);
      m.routed.data()[i].values = to;
    });
  }

  // Cold experts that this step uses: read ahead together, or let go.
  void advise_cold(const ling_layer& l, int64_t layer, bool wanted) {
    if (m.streams.empty() || m.streams[layer].fd < 0) return;
    for (int64_t e = 0; e < c().num_experts; ++e)
      if (!m.streams[layer].hot[e] && m.expert_start[e] != m.expert_start[e + 1])
        advise_expert(l, m.streams[layer], e, wanted);
  }

  // The MLP that every row takes: of a dense layer, or the shared expert.
  void plan_dense(const ling_layer& l) {
    for (int64_t t = 0; t < T; ++t) m.hidden_ptr.data()[t] = m.hidden.data() + t * m.width(l);
    m.products.push_back(
        {l.gate_up, T, m.in.rows.data(), m.hidden_ptr.data(), nullptr, nullptr, Epilogue::kSwiGLU});
    m.down_products.push_back(
        {l.down, T, m.inner.rows.data(), m.x_ptr.data(), nullptr, nullptr, Epilogue::kAdd});
  }

  static ling_matrix expert(ling_matrix w, int64_t e) {
    w.data = static_cast<const uint8_t*>(w.data) + e * tiles(w) * tile_bytes(w);
    w.scales = static_cast<const uint8_t*>(w.scales) + e * tiles(w) * tile_scale_bytes(w);
    return w;
  }

  int64_t chunk(const Product& p) const { return p.m <= 8 || m.kernels->matrix_unit ? 16 : 4; }

  void plan_tasks() {
    m.task_start.assign(1, 0);
    for (const Product& p : m.products)
      m.task_start.push_back(m.task_start.back() + ceil_div(tiles(p.w), chunk(p)));
  }

  void multiply_all() {
    run(m.task_start.back(), [&](int64_t task, int) {
      size_t low = 0, high = m.products.size();
      while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        (m.task_start[middle] <= task ? low : high) = middle;
      }
      const Product& p = m.products[low];
      const int64_t begin = (task - m.task_start[low]) * chunk(p), end = begin + chunk(p);
      m.kernels->product(p, begin, end < tiles(p.w) ? end : tiles(p.w), scratch());
    });
    spent(kGateUp);
  }

  // After gate and up: the same rows through `down`, summed into the residual stream.
  void multiply_down(const ling_layer& l) {
    const int64_t shared = l.gate_up.rows ? T : 0, N = l.is_moe ? T * c().num_experts_per_tok : 0;
    run(shared + N, [&](int64_t i, int) {
      m.inner.put(*m.kernels, i < shared ? l.down : l.expert_down, i, m.hidden_ptr.data()[i]);
    });
    spent(kPrepare);
    // A column belongs to one task, so a token's sum has one order: shared, then ascending experts.
    // Few rows: long walks through memory; many: short ones, so that threads end together.
    const int64_t n = ceil_div(c().hidden_size, kTile);
    const int64_t step = T > 128 ? std::max<int64_t>(4, ceil_div(n, 4 * team.threads))
                                 : std::max<int64_t>(2, ceil_div(n, 2 * team.threads));
    run(ceil_div(n, step), [&](int64_t task, int) {
      const int64_t end = (task + 1) * step < n ? (task + 1) * step : n;
      for (const Product& p : m.down_products) m.kernels->product(p, task * step, end, scratch());
    });
    spent(kDown);
  }

  void mlp_part(const ling_layer& l, int64_t layer) {
    norm_rows(l.post_norm, l.is_moe ? l.expert_gate_up : l.gate_up);
    if (l.is_moe) {
      const int64_t E16 = ceil_div(c().num_experts, 16), D = c().hidden_size, rows = 32;
      run(E16 * ceil_div(T, rows), [&](int64_t i, int) {
        const int64_t t = i / E16 * rows, n = T - t < rows ? T - t : rows;
        m.kernels->router(l.router, i % E16, m.norm_ptr.data() + t, n, D, m.logit_ptr.data() + t);
      });
      if (T > 1) run(T, [&](int64_t t, int) { choose_experts(l, t); });
      run(1, [&](int64_t, int) {
        if (T == 1) choose_experts(l, 0);
        plan_experts(l, layer);
      });
      spent(kRouter);
      if (gathers(m, l, T)) gather_rows(l), spent(kPrepare);
    } else {
      run(1, [&](int64_t, int) {
        m.products.clear(), m.down_products.clear();
        plan_dense(l);
        plan_tasks();
      });
    }
    multiply_all();
    multiply_down(l);
    if (l.is_moe && !m.streams.empty()) run(1, [&](int64_t, int) { advise_cold(l, layer, false); });
  }

  void layer(int64_t i) {
    attention_part(m.layers[i], i);
    mlp_part(m.layers[i], i);
  }

  void final_norm(const float* weight, float* out) {
    const int64_t D = c().hidden_size;
    run(T, [&](int64_t t, int) {
      m.kernels->rms_norm(m.x.data() + t * D, weight, c().rms_norm_eps, D, out + t * D);
    });
    spent(kPrepare);
  }
};

// Room for T rows in every buffer; pointers to rows that never change within the pass.
void reserve(ling_model& m, int64_t T, int threads) {
  const ling_model_config& c = m.c;
  const int64_t D = c.hidden_size, Q = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
  const int64_t E16 = ceil_div(c.num_experts, 16) * 16, N = T * c.num_experts_per_tok;
  float* x = m.x.reserve(T * D);
  float* norm = m.norm.reserve(T * D);
  float* qkv = m.qkv.reserve(T * Q);
  m.attn.reserve(T * c.num_heads * c.head_dim);
  float* logits = m.logits.reserve(T * E16);
  m.scores.reserve(T * 2 * E16);
  m.ids.reserve(N), m.weights.reserve(N), m.row_weight.reserve(N);
  m.routed.reserve(N), m.row_x_ptr.reserve(N), m.hidden_ptr.reserve(T + N);
  int64_t hidden = 0, scratch = 64;
  for (const ling_layer& l : m.layers) {
    if (l.is_moe && gathers(m, l, T)) m.routed_values.reserve(N * padded_cols(l.expert_gate_up));
    const int64_t shared = l.gate_up.rows ? T : 0, n = l.is_moe ? N : 0;
    hidden = std::max(hidden, shared * m.width(l) + n * c.expert_width);
    for (const ling_matrix* w : {&l.qkv, &l.dense, &l.gate_up, &l.expert_gate_up, &l.eh_proj})
      if (w->rows) m.in.reserve(*w, T), scratch = std::max(scratch, scratch_bytes(*w));
    for (const ling_matrix* w : {&l.down, &l.expert_down})
      // T + N in every layer: a later, wider one moves the rows of an earlier one apart.
      if (w->rows) m.inner.reserve(*w, T + N), scratch = std::max(scratch, scratch_bytes(*w));
  }
  m.hidden.reserve(hidden);
  m.scratch_stride = (std::max(scratch, scratch_bytes(c.head)) + 63) / 64 * 64;
  m.scratch.reserve(threads * m.scratch_stride);
  m.attention_stride = attention_room(c.head_dim) + 64;
  m.attention_scratch.reserve(threads * m.attention_stride);
  // Nothing may allocate, so throw, once the threads run.
  m.products.reserve(c.num_experts + 1), m.down_products.reserve(c.num_experts + 1);
  m.task_start.reserve(c.num_experts + 2);
  m.expert_start.reserve(c.num_experts + 1), m.local_best.reserve(c.num_experts);
  for (int64_t t = 0; t < T; ++t) {
    m.norm_ptr.reserve(T)[t] = norm + t * D;
    m.logit_ptr.reserve(T)[t] = logits + t * E16;
    m.qkv_ptr.reserve(T)[t] = qkv + t * Q;
    m.x_ptr.reserve(T)[t] = x + t * D;
  }
}

const char* check_segments(const ling_model& m, int64_t T, const ling_segment* s, int64_t n) {
  if (!s || n < 1) return "no segments";
  int64_t row = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (s[i].start != row || s[i].stop <= row || s[i].stop > T || s[i].first < 0)
      return "segments must cover the rows in order";
    const int64_t length = s[i].stop - row;
    row = s[i].stop;
    if (s[i].first > m.c.max_positions - length) return "a position is beyond the rotary tables";
    const int64_t end = s[i].first + length;
    if (!s[i].pages || s[i].num_pages < ceil_div(end, kPage)) return "a segment has too few pages";
    for (int64_t p = 0; p < ceil_div(end, kPage); ++p)
      if (s[i].pages[p] < 0 || s[i].pages[p] >= m.c.num_pages) return "a page is out of range";
  }
  return row == T ? nullptr : "segments must cover the rows in order";
}

void plan_attention(ling_model& m, const ling_segment* s, int64_t n) {
  const int64_t group = m.c.num_heads / m.c.num_kv_heads;
  const int64_t size = std::max<int64_t>(1, std::min<int64_t>(16, kMaxRows / group));
  m.blocks.clear();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t g = 0; g < m.c.num_kv_heads; ++g)
      for (int64_t t = 0; t < s[i].stop - s[i].start; t += size)
        m.blocks.push_back({i, g, t, std::min(size, s[i].stop - s[i].start - t)});
}

// Runs f(pass) in every thread of a team.
template <class F>
void in_team(ling_model& m, int threads, int64_t T, const ling_segment* segments, int64_t n,
             const F& f) {
  struct Context {
    ling_model& m;
    int64_t T, n;
    const ling_segment* segments;
    const F& f;
  } context = {m, T, n, segments, f};
  Team::run(
      [](void* raw, Team& team, int thread) {
        Context& c = *static_cast<Context*>(raw);
        Pass pass = {c.m, team, thread, c.T, c.segments, c.n};
        c.f(pass);
      },
      &context, threads);
}

const char* check_layer(const ling_model_config& c, const ling_layer& l, bool mtp) {
  const int64_t D = c.hidden_size, Q = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
  auto wrong = [](const ling_matrix& w, int64_t rows, int64_t cols) {
    return check_matrix(w) || w.rows != rows || w.cols != cols;
  };
  if (!l.input_norm || !l.post_norm || !l.q_norm != !l.k_norm) return "a norm is missing";
  if (wrong(l.qkv, Q, D) || wrong(l.dense, D, c.num_heads * c.head_dim))
    return "an attention matrix is missing or misshapen";
  if (l.gate_up.rows || !l.is_moe) {
    const int64_t F = l.gate_up.rows / 2;
    if (F % kTile || wrong(l.gate_up, 2 * F, D) || wrong(l.down, D, F))
      return "an MLP matrix is missing or misshapen";
  }
  if (l.is_moe) {
    const int64_t F = c.expert_width;
    if (!l.router || !l.expert_bias || !c.num_experts) return "the router is missing";
    if (F < 1 || F % kTile) return "the expert width is not a multiple of 16";
    if (wrong(l.expert_gate_up, 2 * F, D) || wrong(l.expert_down, D, F))
      return "an expert matrix is missing or misshapen";
    // One quantised input serves both.
    if (l.gate_up.rows &&
        (l.gate_up.kind != l.expert_gate_up.kind || l.gate_up.group != l.expert_gate_up.group))
      return "shared and routed experts must have one format";
  }
  if (mtp && (!l.enorm || !l.hnorm || !l.final_norm || wrong(l.eh_proj, D, 2 * D)))
    return "an MTP tensor is missing or misshapen";
  return nullptr;
}

const char* check_config(const ling_model_config& c) {
  if (c.vocab_size < 1 || c.hidden_size < 16 || c.hidden_size % 16 || c.num_layers < 1 ||
      c.num_layers > 4096 || c.num_mtp_layers < 0 || c.num_mtp_layers > 4096 ||
      c.num_kv_heads < 1 || c.num_kv_heads > 4096 || c.num_heads < 1 ||
      c.num_heads % c.num_kv_heads || c.num_heads / c.num_kv_heads > kMaxRows || c.head_dim % 32 ||
      c.head_dim < 32 || c.head_dim > 1024 || c.rotary_size % 2 || c.rotary_size < 2 ||
      c.rotary_size > c.head_dim)
    return "model sizes out of range";
  const int64_t many = int64_t(1) << 16;
  if (c.num_experts < 0 || c.num_experts > many || c.num_experts_per_tok < 0 ||
      c.num_experts_per_tok > many)
    return "expert sizes out of range";
  if (c.num_experts &&
      (c.n_group < 1 || c.n_group > 256 || c.num_experts % c.n_group || c.topk_group < 1 ||
       c.topk_group > c.n_group || (c.n_group > 1 && c.num_experts / c.n_group < 2) ||
       c.num_experts_per_tok < 1 ||
       c.num_experts_per_tok > c.topk_group * (c.num_experts / c.n_group)))
    return "expert sizes out of range";
  if (!c.embedding || !c.norm || !c.cos || !c.sin || !c.k_pages || !c.v_pages || c.num_pages < 1 ||
      c.num_pages > INT32_MAX)
    return "null pointer in the model, or pages out of range";
  if (c.kv_kind != LING_BF16 && c.kv_kind != LING_I8) return "unknown kind of KV pages";
  if (reinterpret_cast<uintptr_t>(c.k_pages) % 4 || reinterpret_cast<uintptr_t>(c.v_pages) % 4)
    return "KV pages must be aligned to 4 bytes";
  if (c.embedding_kind == LING_I8 ? !c.embedding_scales || c.embedding_group < 16 ||
                                        c.embedding_group % 16 || c.hidden_size % c.embedding_group
                                  : c.embedding_kind != LING_BF16)
    return "unknown embedding kind";
  if (check_matrix(c.head) || c.head.rows != c.vocab_size || c.head.cols != c.hidden_size)
    return "the head is missing or misshapen";
  return nullptr;
}

const char* check_tokens(const ling_model& m, const int64_t* tokens, int64_t T) {
  if (T < 1 || T > (1 << 20)) return "the number of rows is out of range";
  if (!tokens) return "null pointer";
  for (int64_t t = 0; t < T; ++t)
    if (tokens[t] < 0 || tokens[t] >= m.c.vocab_size) return "a token id is out of range";
  return nullptr;
}

template <class F>
int guarded(const F& f) {
  try {
    f();
    return LING_OK;
  } catch (const std::bad_alloc&) {
    return fail(LING_NO_MEMORY, "not enough memory for the activations");
  }
}

}  // namespace
}  // namespace ling

extern "C" int ling_model_new(const ling_model_config* config, const ling_layer* layers,
                              ling_model** model) {
  const Level* kernels = level();
  if (!kernels) return LING_BAD_ISA;
  if (!config || !layers || !model) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (const char* wrong = check_config(*config)) return fail(LING_BAD_ARGUMENT, wrong);
  const int64_t n = config->num_layers + config->num_mtp_layers;
  for (int64_t i = 0; i < n; ++i)
    if (const char* wrong = check_layer(*config, layers[i], i >= config->num_layers))
      return fail(LING_BAD_ARGUMENT, wrong);
  return guarded([&] {
    ling_model* m = new ling_model();
    m->c = *config;
    m->layers.assign(layers, layers + n);
    for (int64_t i = 0; i < n; ++i) {
      // What a layer does not use was not checked.
      ling_layer& l = m->layers[i];
      if (!l.is_moe) l.expert_gate_up = l.expert_down = ling_matrix{};
      if (!l.gate_up.rows) l.down = ling_matrix{};
      if (i < config->num_layers) l.eh_proj = ling_matrix{};
    }
    m->kernels = kernels;
    m->counts.assign(n * config->num_experts, 0);
    *model = m;
  });
}

extern "C" void ling_model_free(ling_model* model) { delete model; }

extern "C" int ling_forward(ling_model* model, const int64_t* tokens, int64_t T,
                            const ling_segment* segments, int64_t num_segments, float* hidden) {
  if (!model || !hidden) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (const char* wrong = check_tokens(*model, tokens, T)) return fail(LING_BAD_ARGUMENT, wrong);
  if (const char* wrong = check_segments(*model, T, segments, num_segments))
    return fail(LING_BAD_ARGUMENT, wrong);
  return guarded([&] {
    const int threads = num_threads();  // once: room is made for so many
    reserve(*model, T, threads);
    plan_attention(*model, segments, num_segments);
    in_team(*model, threads, T, segments, num_segments, [&](Pass& pass) {
      pass.embed(tokens, model->x.data(), model->c.hidden_size);
      for (int64_t i = 0; i < model->c.num_layers; ++i) pass.layer(i);
      pass.final_norm(model->c.norm, hidden);
    });
  });
}

extern "C" int ling_mtp(ling_model* model, int64_t j, const int64_t* next_tokens,
                        const float* hidden_in, int64_t T, const ling_segment* segments,
                        int64_t num_segments, float* hidden_out) {
  if (!model || !hidden_in || !hidden_out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (j < 0 || j >= model->c.num_mtp_layers) return fail(LING_BAD_ARGUMENT, "no such MTP layer");
  if (const char* wrong = check_tokens(*model, next_tokens, T))
    return fail(LING_BAD_ARGUMENT, wrong);
  if (const char* wrong = check_segments(*model, T, segments, num_segments))
    return fail(LING_BAD_ARGUMENT, wrong);
  return guarded([&] {
    const int64_t D = model->c.hidden_size, at = model->c.num_layers + j;
    const ling_layer& l = model->layers[at];
    const int threads = num_threads();
    reserve(*model, T, threads);
    float* both = model->both.reserve(T * 2 * D);
    plan_attention(*model, segments, num_segments);
    in_team(*model, threads, T, segments, num_segments, [&](Pass& pass) {
      pass.embed(next_tokens, both, 2 * D);
      pass.run(T, [&](int64_t t, int) {
        float* row = both + t * 2 * D;
        const float eps = model->c.rms_norm_eps;
        model->kernels->rms_norm(row, l.enorm, eps, D, row);
        model->kernels->rms_norm(hidden_in + t * D, l.hnorm, eps, D, row + D);
        model->in.put(*model->kernels, l.eh_proj, t, row);
      });
      pass.spent(kPrepare);
      pass.multiply({l.eh_proj, T, model->in.rows.data(), model->x_ptr.data(), nullptr, nullptr,
                     Epilogue::kStore});
      pass.spent(kDense);
      pass.layer(at);
      pass.final_norm(l.final_norm, hidden_out);
    });
  });
}

extern "C" int ling_logits(ling_model* model, const float* hidden, int64_t rows, int64_t vocab,
                           const uint8_t* banned, float* logits, int64_t* best) {
  if (!model || !hidden || !logits || !best) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (rows < 1 || rows > (1 << 20) || vocab < 0 || vocab > model->c.vocab_size)
    return fail(LING_BAD_ARGUMENT, "sizes out of range");
  return guarded([&] {
    ling_model& m = *model;
    ling_matrix head = m.c.head;
    if (vocab) head.rows = vocab;
    const int64_t V = head.rows, D = m.c.hidden_size, part = 1 << 14, parts = ceil_div(V, part);
    const int threads = num_threads();
    reserve(m, 1, threads);
    m.in.reserve(head, rows);
    float** y = m.head_ptr.reserve(rows);
    for (int64_t r = 0; r < rows; ++r) y[r] = logits + r * V;
    m.local_best.resize(rows * parts);
    in_team(m, threads, rows, nullptr, 0, [&](Pass& pass) {
      pass.run(rows, [&](int64_t r, int) { m.in.put(*m.kernels, head, r, hidden + r * D); });
      pass.multiply({head, rows, m.in.rows.data(), y, nullptr, nullptr, Epilogue::kStore});
      pass.spent(kHead);
      pass.run(rows * parts, [&](int64_t i, int) {
        const float* z = y[i / parts];
        const int64_t begin = i % parts * part, end = std::min(V, begin + part);
        int64_t top = -1;
        for (int64_t n = begin; n < end; ++n)
          if ((top < 0 || z[n] > z[top]) && !(banned && banned[n])) top = n;
        m.local_best[i] = top;
      });
      pass.run(1, [&](int64_t, int) {
        for (int64_t r = 0; r < rows; ++r) {
          int64_t top = -1;
          for (int64_t i = 0; i < parts; ++i) {
            const int64_t n = m.local_best[r * parts + i];
            if (n >= 0 && (top < 0 || y[r][n] > y[r][top])) top = n;
          }
          best[r] = top;
        }
      });
      pass.spent(kBest);
    });
  });
}

extern "C" int ling_model_stream(ling_model* model, int64_t layer, int fd, const int64_t offsets[4],
                                 const uint8_t* hot) {
  if (!model || !offsets || !hot) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (layer < 0 || layer >= int64_t(model->layers.size()) || !model->layers[layer].is_moe || fd < 0)
    return fail(LING_BAD_ARGUMENT, "no such layer of experts, or no file");
  return guarded([&] {
    model->streams.resize(model->layers.size());
    Stream& s = model->streams[layer];
    s.fd = fd, s.hot = hot;
    for (int i = 0; i < 4; ++i) s.offsets[i] = offsets[i];
  });
}

extern "C" int ling_model_let_go(ling_model* model, int64_t layer) {
  if (!model || layer < 0 || layer >= int64_t(model->streams.size()) ||
      model->streams[layer].fd < 0)
    return fail(LING_BAD_ARGUMENT, "no such streamed layer");
  const Stream& s = model->streams[layer];
  for (int64_t e = 0; e < model->c.num_experts; ++e)
    if (!s.hot[e]) advise_expert(model->layers[layer], s, e, false);
  return LING_OK;
}

extern "C" int ling_expert_counts(ling_model* model, int64_t* counts) {
  if (!model || !counts) return fail(LING_BAD_ARGUMENT, "null pointer");
  for (size_t i = 0; i < model->counts.size(); ++i) counts[i] = model->counts[i];
  model->counts.assign(model->counts.size(), 0);
  return LING_OK;
}

extern "C" int ling_profile(ling_model* model, const char** names, double* seconds, int64_t* n) {
  if (!model || !names || !seconds || !n || *n < kStages)
    return fail(LING_BAD_ARGUMENT, "null or too small");
  for (int i = 0; i < kStages; ++i) {
    names[i] = kStageNames[i], seconds[i] = model->seconds[i];
    model->seconds[i] = 0;
  }
  *n = kStages;
  return LING_OK;
}
