// What a caller may not pass: each check returns null, or the text of the error.
#ifndef LING_CHECKS_H
#define LING_CHECKS_H
#include <math.h>

#include <algorithm>

#include "model.h"

namespace ling {

inline const char* check_matrix(const ling_matrix& w) {
  if (w.format < LING_I4 || w.format > LING_I3) return "unknown matrix kind";
  if (w.rows < 1 || w.cols < 1 || w.rows > (int64_t(1) << 31) || w.cols > (int64_t(1) << 24))
    return "matrix sizes out of range";
  const int32_t only = only_group(w.format);
  if (only ? w.group != only : w.group < 16 || w.group > 256 || w.group % group_step(w.format))
    return "the group must be a multiple of 16 up to 256 (of 32 for 3 bits; 2 for bfloat16, 128 "
           "for FP8)";
  if (!w.data || (w.format != LING_BF16 && !w.scales)) return "null pointer in a matrix";
  return nullptr;
}

inline const char* check_stack(const ling_matrix& w, int64_t count, const int64_t* ends,
                               bool pairs) {
  if (count < 1 || count > (1 << 20) || ends[0]) return "the rows of matrices do not begin at 0";
  for (int64_t e = 0; e < count; ++e)
    if (ends[e + 1] < ends[e] || ends[e + 1] > (int64_t(1) << 28))
      return "the rows of matrices are not in order";
  if (pairs && w.rows % (2 * kTile)) return "the rows of a pair are not whole tiles";
  return nullptr;
}

inline bool misshapen(const ling_matrix& w, int64_t rows, int64_t cols) {
  return check_matrix(w) || w.rows != rows || w.cols != cols;
}

inline const char* check_adam8(const ling_adam8_shard& s) {
  if (s.n < 0) return "fewer than no elements";
  if (s.n && (!s.p || !s.g || !s.codes1 || !s.codes2 || !s.absmax1 || !s.absmax2))
    return "null pointer";
  return nullptr;
}

inline const char* check_causal(const ling_causal& c) {
  if (c.num_heads < 1 || c.num_kv_heads < 1 || c.num_heads % c.num_kv_heads || c.head_dim < 32 ||
      c.head_dim % 32 || c.head_dim > kMaxHeadDim || c.num_sequences < 0)
    return "attention sizes out of range";
  if (!c.query_ends || !c.key_ends || c.query_ends[0] || c.key_ends[0])
    return "sequences do not begin at 0";
  for (int64_t i = 0; i < c.num_sequences; ++i) {
    const int64_t queries = c.query_ends[i + 1] - c.query_ends[i];
    if (queries < 0 || c.key_ends[i + 1] - c.key_ends[i] < queries)
      return "a sequence has fewer keys than queries";
  }
  if (c.q_stride < c.num_heads * c.head_dim || c.k_stride < c.num_kv_heads * c.head_dim ||
      c.v_stride < c.num_kv_heads * c.head_dim)
    return "a stride is too small";
  const bool any = c.key_ends[c.num_sequences] > 0;
  if (any && (!c.q || !c.k || !c.v || !c.out || !c.lse)) return "null pointer in attention";
  return nullptr;
}

inline const char* check_grouped(const ling_experts& e) {
  if (e.count < 0 || e.hidden < 16 || e.hidden % 16 || e.width < 16 || e.width % 16)
    return "the sizes of experts are no multiples of 16";
  if (!e.ends || e.ends[0]) return "rows do not begin at 0";
  for (int64_t i = 0; i < e.count; ++i)
    if (e.ends[i + 1] < e.ends[i]) return "rows are not sorted by expert";
  const bool weights = e.gate && e.up && e.down;
  if (e.ends[e.count] && (!e.x || !e.gu || !weights)) return "null pointer in experts";
  return nullptr;
}

inline const char* check_combine(const ling_combine& c) {
  if (c.tokens < 0 || c.each < 1 || c.hidden < 1 || c.rows < 0) return "sizes out of range";
  if (c.tokens && (!c.slots || !c.y || !c.weights)) return "null pointer in rows";
  for (int64_t i = 0; i < c.tokens * c.each; ++i)
    if (c.slots[i] < 0 || c.slots[i] >= c.rows) return "a slot is out of range";
  return nullptr;
}

inline const char* check_experts(const ling_model_config& c, const ling_layer& l) {
  const int64_t D = c.hidden_size, F = c.expert_width;
  if (!l.router || !l.expert_bias || !c.num_experts) return "the router is missing";
  if (F < 1 || F % kTile) return "the expert width is not a multiple of 16";
  if (misshapen(l.expert_gate_up, 2 * F, D) || misshapen(l.expert_down, D, F))
    return "an expert matrix is missing or misshapen";
  // One quantised input serves both.
  if (l.gate_up.rows &&
      (l.gate_up.group != l.expert_gate_up.group ||
       bf16_activations(l.gate_up.format) != bf16_activations(l.expert_gate_up.format)))
    return "shared and routed experts must have one group, and activations of one kind";
  return nullptr;
}

inline const char* check_layer(const ling_model_config& c, const ling_layer& l, bool mtp) {
  const int64_t D = c.hidden_size, Q = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
  if (!l.input_norm || !l.post_norm || !l.q_norm != !l.k_norm) return "a norm is missing";
  if (misshapen(l.qkv, Q, D) || misshapen(l.dense, D, c.num_heads * c.head_dim))
    return "an attention matrix is missing or misshapen";
  if (l.gate_up.rows || !l.is_moe) {
    const int64_t F = l.gate_up.rows / 2;
    if (F % kTile || misshapen(l.gate_up, 2 * F, D) || misshapen(l.down, D, F))
      return "an MLP matrix is missing or misshapen";
  }
  if (const char* wrong = l.is_moe ? check_experts(c, l) : nullptr) return wrong;
  if (mtp && (!l.enorm || !l.hnorm || !l.final_norm || misshapen(l.eh_proj, D, 2 * D)))
    return "an MTP tensor is missing or misshapen";
  return nullptr;
}

inline const char* check_sizes(const ling_model_config& c) {
  const int64_t many = int64_t(1) << 16;
  if (c.vocab_size < 1 || c.hidden_size < 16 || c.hidden_size % 16 || c.num_layers < 1 ||
      c.num_layers > 4096 || c.num_mtp_layers < 0 || c.num_mtp_layers > 4096 ||
      c.num_kv_heads < 1 || c.num_kv_heads > 4096 || c.num_heads < 1 ||
      c.num_heads % c.num_kv_heads || c.num_heads / c.num_kv_heads > kMaxRows || c.head_dim % 32 ||
      c.head_dim < 32 || c.head_dim > kMaxHeadDim || c.rotary_size % 2 || c.rotary_size < 2 ||
      c.rotary_size > c.head_dim)
    return "model sizes out of range";
  if (c.num_experts < 0 || c.num_experts > many || c.num_experts_per_tok < 0 ||
      c.num_experts_per_tok > many)
    return "expert sizes out of range";
  if (c.num_experts &&
      (c.n_group < 1 || c.n_group > kMaxExpertGroups || c.num_experts % c.n_group ||
       c.topk_group < 1 || c.topk_group > c.n_group ||
       (c.n_group > 1 && c.num_experts / c.n_group < 2) || c.num_experts_per_tok < 1 ||
       c.num_experts_per_tok > c.topk_group * (c.num_experts / c.n_group)))
    return "expert sizes out of range";
  return nullptr;
}

inline const char* check_config(const ling_model_config& c) {
  if (const char* wrong = check_sizes(c)) return wrong;
  if (!c.embedding || !c.norm || !c.cos || !c.sin || !c.kv_pages || c.num_pages < 1 ||
      c.num_pages > INT32_MAX)
    return "null pointer in the model, or pages out of range";
  if (c.kv_format != LING_BF16 && c.kv_format != LING_I8 && c.kv_format != LING_I4)
    return "unknown kind of KV pages";
  if (c.kv_format == LING_I4 && c.head_dim & (c.head_dim - 1))
    return "KV pages in int4 need a head dimension that is a power of two";
  if (reinterpret_cast<uintptr_t>(c.kv_pages) % 4) return "KV pages must be aligned to 4 bytes";
  if (c.embedding_format == LING_I8
          ? !c.embedding_scales || c.embedding_group < 16 || c.embedding_group % 16 ||
                c.hidden_size % c.embedding_group
          : c.embedding_format != LING_BF16)
    return "unknown embedding kind";
  if (check_matrix(c.head) || c.head.rows != c.vocab_size || c.head.cols != c.hidden_size)
    return "the head is missing or misshapen";
  return nullptr;
}

inline const char* check_tokens(const ling_model& m, const int64_t* tokens, int64_t T) {
  if (T < 1 || T > (1 << 20)) return "the number of rows is out of range";
  if (!tokens) return "null pointer";
  for (int64_t t = 0; t < T; ++t)
    if (tokens[t] < 0 || tokens[t] >= m.c.vocab_size) return "a token id is out of range";
  return nullptr;
}

inline const char* check_segments(const ling_model& m, int64_t T, const ling_segment* s,
                                  int64_t n) {
  if (!s || n < 1) return "no segments";
  int64_t row = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (s[i].start != row || s[i].stop <= row || s[i].stop > T || s[i].first < 0)
      return "segments must cover the rows in order";
    const int64_t length = s[i].stop - row;
    row = s[i].stop;
    if (s[i].first > m.c.max_positions - length) return "a position is beyond the rotary tables";
    const int64_t end = s[i].first + length;
    if (s[i].adapter < 0 || s[i].adapter > int64_t(m.adapters.size()) / m.c.num_layers)
      return "a segment has an adapter that is not there";
    if (!s[i].pages || s[i].num_pages < ceil_div(end, kPage)) return "a segment has too few pages";
    for (int64_t p = 0; p < ceil_div(end, kPage); ++p)
      if (s[i].pages[p] < 0 || s[i].pages[p] >= m.c.num_pages) return "a page is out of range";
  }
  return row == T ? nullptr : "segments must cover the rows in order";
}

inline const char* check_low_rank(const ling_low_rank& l, const ling_matrix& w) {
  if (l.rank < 0 || l.rank > kMaxRank) return "the rank of an adapter is out of range";
  if (!l.rank) return nullptr;
  if (!l.a || !l.b) return "null pointer in an adapter";
  if (!w.rows) return "an adapter of a matrix that the layer does not have";
  // Vectors of 16 read A along its columns, and B along the rows of a matrix.
  return w.rows % kTile || w.cols % kTile ? "an adapter needs a matrix of whole tiles" : nullptr;
}

inline const char* check_adapter(const ling_layer_adapter& a, const ling_layer& l) {
  for (const char* wrong : {check_low_rank(a.qkv, l.qkv), check_low_rank(a.dense, l.dense),
                            check_low_rank(a.gate_up, l.gate_up), check_low_rank(a.down, l.down),
                            check_low_rank(a.expert_gate_up, l.expert_gate_up),
                            check_low_rank(a.expert_down, l.expert_down)})
    if (wrong) return wrong;
  return nullptr;
}

inline bool misses(int64_t count, const void* a, const void* b) {
  return count < 0 || count > INT32_MAX || (count && (!a || !b));
}

inline const char* check_choice(const ling_choice& c, int64_t vocab, int64_t best_stride) {
  if (misses(c.num_seen, c.seen, c.counts) || misses(c.num_bias, c.bias_ids, c.bias) ||
      misses(c.num_excluded, c.excluded, c.excluded))
    return "a list of a choice is null or its length is out of range";
  // Beyond, a score times it would not be finite.
  if (!(c.inverse_temperature >= 0 && c.inverse_temperature <= 1e200) || !(c.top_p > 0) ||
      !(c.least_power <= 0) || c.top_k < 0)
    return "the temperature or a filter is out of range";
  if (c.num_best > 0 && std::min<int64_t>(c.num_best, vocab) > best_stride)
    return "more log-probabilities are wanted than there is room for";
  if (c.given < -1 || c.given >= vocab) return "the given id is outside of the vocabulary";
  return nullptr;
}

inline const char* check_fp8(const ling_fp8& q) {
  const int64_t most = int64_t(1) << 40;
  if (q.rows < 0 || q.cols < 1 || q.rows > most || q.cols > most || q.stride < q.cols ||
      q.stride > most)
    return "sizes or stride of FP8 values are out of range";
  if (q.rows && !q.x) return "null pointer";
  if (q.tiles == LING_FP8_ROWS) return nullptr;
  if (q.tiles != LING_FP8_COLUMNS && q.tiles != LING_FP8_BLOCKS) return "unknown FP8 tiles";
  if (q.num_groups < 0 || !q.ends || q.ends[0] != 0) return "groups of rows must begin with row 0";
  for (int64_t g = 0; g < q.num_groups; ++g)
    if (q.ends[g + 1] < q.ends[g]) return "groups of rows must ascend";
  return q.ends[q.num_groups] == q.rows ? nullptr : "groups of rows must end with the last row";
}

}  // namespace ling
#endif
