// The attention half of a layer: norm, QKV, QK-norm and rotary, KV cache, attention, output.
#ifndef LING_ATTENTION_PART_H
#define LING_ATTENTION_PART_H
#include "lora_part.h"

namespace ling {

struct KVCache {
  const ling_model_config& c;

  // Keys, then values.
  int64_t part_bytes() const { return kv_bytes(c.kv_format, c.head_dim); }
  int64_t page_bytes() const { return 2 * part_bytes(); }
  // One kv head's first page in a cache layer; the others follow.
  uint8_t* pages(int64_t cache_layer, int64_t kv_head) const {
    return static_cast<uint8_t*>(c.kv_pages) +
           (cache_layer * c.num_kv_heads + kv_head) * c.num_pages * page_bytes();
  }
};

// Key and value of position `at` into one kv head's page (ling_kernels.h: kv_pages).
inline void store_bf16(const IsaKernels& kernels, int64_t K, uint8_t* k_page, uint8_t* v_page,
                       int64_t at, const float* key, const float* value) {
  uint16_t* k = reinterpret_cast<uint16_t*>(k_page);
  uint16_t* v = reinterpret_cast<uint16_t*>(v_page);
  uint16_t row[kMaxHeadDim];
  kernels.round_row(key, K, K, row);
  for (int64_t d = 0; d < K; ++d) k[d / 2 * 2 * kPage + 2 * at + d % 2] = row[d];
  kernels.round_row(value, K, K, row);
  for (int64_t d = 0; d < K; ++d) v[at / 2 * 2 * K + 2 * d + at % 2] = row[d];
}

inline void store_i8(const IsaKernels& kernels, int64_t K, uint8_t* k, uint8_t* v, int64_t at,
                     const float* key, const float* value) {
  int8_t row[kMaxHeadDim];
  int32_t sum;
  kernels.quantise_row(key, K, K, K, row, reinterpret_cast<float*>(k + kPage * K) + at, &sum);
  for (int64_t d = 0; d < K; ++d)
    k[at / kTile * kTile * K + d / 4 * 64 + at % kTile * 4 + d % 4] = uint8_t(row[d] + 128);
  kernels.quantise_row(value, K, K, K, row, reinterpret_cast<float*>(v + kPage * K) + at, &sum);
  for (int64_t d = 0; d < K; ++d)
    v[d / kTile * kTile * kPage + at / 4 * 64 + d % kTile * 4 + at % 4] = uint8_t(row[d] + 128);
}

inline void store_i4(const IsaKernels& kernels, int64_t K, uint8_t* k, uint8_t* v, int64_t at,
                     const float* key, const float* value) {
  uint8_t code[kMaxHeadDim];
  kernels.quantise_row_i4(key, K, code, reinterpret_cast<float*>(k + kPage * K / 2) + at);
  for (int64_t d = 0; d < K; d += 8)
    for (int64_t j = 0; j < 4; ++j)
      k[at / kTile * kTile * K / 2 + d / 8 * 64 + at % kTile * 4 + j] =
          uint8_t(code[d + j] | code[d + 4 + j] << 4);
  kernels.quantise_row_i4(value, K, code, reinterpret_cast<float*>(v + kPage * K / 2) + at);
  for (int64_t d = 0; d < K; d += 2 * kTile)
    for (int64_t j = 0; j < kTile; ++j)
      v[d * kPage / 2 + at / 4 * 64 + j * 4 + at % 4] =
          uint8_t(code[d + j] | code[d + kTile + j] << 4);
}

// A turn spreads a large channel over all of them, for one scale serves a whole head; scores stay,
// since queries turn with the keys, and outputs turn back.
inline bool turned(const ling_model_config& c) { return c.kv_format == LING_I4; }

// QK-norm and rotary of one token, then its key and value into their page.
inline void rope_and_cache(Pass& p, const ling_layer& l, int64_t cache_layer, const ling_segment& s,
                           int64_t t) {
  const ling_model_config& c = p.c();
  const IsaKernels& kernels = *p.m.kernels;
  const int64_t H = c.num_heads, G = c.num_kv_heads, K = c.head_dim;
  const int64_t half = c.rotary_size / 2, position = s.first + t - s.start;
  float* qkv = p.work().qkv.data() + t * (H + 2 * G) * K;
  for (int64_t h = 0; h < H + G; ++h) {
    float* head = qkv + h * K;
    const float* weight = h < H ? l.q_norm : l.k_norm;
    if (weight) kernels.rms_norm(head, weight, c.rms_norm_eps, K, head);
    kernels.rotate(head, c.cos + position * half, c.sin + position * half, half);
  }
  for (int64_t h = 0; turned(c) && h < H + 2 * G; ++h) kernels.hadamard(qkv + h * K, K);
  const KVCache cache = {c};
  const int64_t base = s.pages[position / kPage] * cache.page_bytes();
  for (int64_t g = 0; g < G; ++g) {
    uint8_t *k = cache.pages(cache_layer, g) + base, *v = k + cache.part_bytes();
    const float *key = qkv + (H + g) * K, *value = qkv + (H + G + g) * K;
    const auto store = c.kv_format == LING_I4   ? store_i4
                       : c.kv_format == LING_I8 ? store_i8
                                                : store_bf16;
    store(kernels, K, k, v, position % kPage, key, value);
  }
}

// One block of query rows over its segment's pages.
inline void attend_block(Pass& p, int64_t cache_layer, const Block& b, int thread) {
  const ling_model_config& c = p.c();
  const int64_t H = c.num_heads, G = c.num_kv_heads, K = c.head_dim, group = H / G;
  const ling_segment& s = p.segments[b.segment];
  const float* q[kMaxRows];
  float* out[kMaxRows];
  for (int64_t r = 0; r < b.count * group; ++r) {
    const int64_t t = s.start + b.first + r / group, h = b.kv_head * group + r % group;
    q[r] = p.work().qkv.data() + t * (H + 2 * G) * K + h * K;
    out[r] = p.work().attn.data() + t * H * K + h * K;
  }
  const KVCache cache = {c};
  AttentionTask task = {};
  task.rows = b.count * group, task.tokens = b.count;
  task.group = group, task.head_dim = K;
  task.first = s.first + b.first;
  task.q = q, task.out = out;
  task.pages = s.pages, task.format = c.kv_format;
  task.k = cache.pages(cache_layer, b.kv_head);
  task.v = task.k + cache.part_bytes();
  task.page_stride = cache.page_bytes();
  p.m.kernels->attention(task,
                         p.work().attention_scratch.data() + thread * p.work().attention_stride);
  for (int64_t r = 0; turned(c) && r < task.rows; ++r) p.m.kernels->hadamard(out[r], K);
}

// Blocks of query rows: up to 16 tokens times the heads of a kv head.
inline void plan_attention(ling_model& m, const ling_segment* s, int64_t n) {
  const int64_t group = m.c.num_heads / m.c.num_kv_heads;
  const int64_t size = std::max<int64_t>(1, std::min<int64_t>(16, kMaxRows / group));
  m.work.blocks.clear();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t g = 0; g < m.c.num_kv_heads; ++g)
      for (int64_t t = 0; t < s[i].stop - s[i].start; t += size)
        m.work.blocks.push_back({i, g, t, std::min(size, s[i].stop - s[i].start - t)});
}

inline void attention_part(Pass& p, const ling_layer& l, int64_t cache_layer) {
  Workspace& work = p.work();
  const int64_t T = p.T, row = p.c().num_heads * p.c().head_dim;
  const int64_t D = p.c().hidden_size;
  p.norm_rows(l.input_norm, l.qkv);
  const LowRankRow* of_qkv =
      low_rank_of_tokens(p, cache_layer, l.qkv, &ling_layer_adapter::qkv, work.norm.data(), D);
  p.multiply({l.qkv, T, work.in.rows.data(), work.qkv_ptr.data(), nullptr, l.qkv_bias,
              Epilogue::kStore, nullptr, of_qkv});
  p.spent(kQKV);
  p.run(p.num_segments == 1 ? T : p.num_segments, [&](int64_t i, int) {
    if (p.num_segments == 1) return rope_and_cache(p, l, cache_layer, p.segments[0], i);
    for (int64_t t = p.segments[i].start; t < p.segments[i].stop; ++t)
      rope_and_cache(p, l, cache_layer, p.segments[i], t);
  });
  p.spent(kRope);
  p.run(int64_t(work.blocks.size()), [&](int64_t i, int thread) {
    attend_block(p, cache_layer, work.blocks[size_t(i)], thread);
  });
  p.spent(kAttention);
  p.run(T,
        [&](int64_t t, int) { work.in.put(*p.m.kernels, l.dense, t, work.attn.data() + t * row); });
  p.spent(kPrepare);
  const LowRankRow* of_dense = low_rank_of_tokens(
      p, cache_layer, l.dense, &ling_layer_adapter::dense, work.attn.data(), row);
  p.multiply({l.dense, T, work.in.rows.data(), work.x_ptr.data(), nullptr, l.dense_bias,
              Epilogue::kAdd, nullptr, of_dense});
  p.spent(kDense);
}

}  // namespace ling
#endif
