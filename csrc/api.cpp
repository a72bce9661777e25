// The C interface (ling_kernels.h): checks arguments, and turns what fails into a status.
#include <memory>
#include <utility>

#include "checks.h"
#include "fp8_tiles.h"
#include "matrix.h"
#include "rows_product.h"
#include "adam8.h"
#include "train_attention.h"
#include "train_layers.h"
#include "train_moe.h"

namespace ling {

static thread_local const char* last_error = "";

int fail(int status, const char* text) {
  last_error = text;
  return status;
}

namespace {

// LING_OK, or LING_BAD_ARGUMENT with the text that a check returned.
int accept(const char* wrong) { return wrong ? fail(LING_BAD_ARGUMENT, wrong) : LING_OK; }

template <class F>
int guarded(const F& f) {
  try {
    f();
    return LING_OK;
  } catch (const std::bad_alloc&) {
    return fail(LING_NO_MEMORY, "not enough memory for the activations");
  }
}

int pack_checked(const ling_matrix& to, const Weights& from) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (int status = accept(check_matrix(to))) return status;
  if (to.format == LING_FP8) return fail(LING_BAD_ARGUMENT, "FP8 is laid out by ling_pack_fp8");
  for (int i = 0; i < from.count; ++i)
    if (!from.parts[i] || from.stride < to.cols)
      return fail(LING_BAD_ARGUMENT, "weights: null, or the stride is too small");
  pack(*kernels, to, from);
  return LING_OK;
}

// A layer without what it does not use, which was not checked.
ling_layer used_part(ling_layer l, bool mtp) {
  if (!l.is_moe) l.expert_gate_up = l.expert_down = ling_matrix{};
  if (!l.gate_up.rows) l.down = ling_matrix{};
  if (!mtp) l.eh_proj = ling_matrix{};
  return l;
}

}  // namespace
}  // namespace ling

using namespace ling;

// ---- the library ----

extern "C" int ling_abi_version(void) { return LING_ABI_VERSION; }
extern "C" const char* ling_last_error(void) { return last_error; }
extern "C" const int8_t* ling_int4_levels(void) { return kInt4Levels; }
extern "C" const int8_t* ling_int3_levels(void) { return kInt3Levels; }

extern "C" int ling_isa(const char** name) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!name) return fail(LING_BAD_ARGUMENT, "null pointer");
  *name = kernels->name;
  return LING_OK;
}

extern "C" int ling_set_num_threads(int n) {
  if (n < 1 || n > 256) return fail(LING_BAD_ARGUMENT, "the thread count must be 1 to 256");
  set_num_threads(n);
  return LING_OK;
}

extern "C" int ling_use_large_pages(const void* data, int64_t bytes) {
  if (!data || bytes < 0) return fail(LING_BAD_ARGUMENT, "null pointer");
  use_large_pages(data, bytes);
  return LING_OK;
}

extern "C" int ling_map_in(const void* data, int64_t bytes) {
  if (!data || bytes < 0) return fail(LING_BAD_ARGUMENT, "null pointer");
  map_in(data, bytes);
  return LING_OK;
}

extern "C" int ling_read_seconds(const void* data, int64_t bytes, double* seconds) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!data || !seconds || bytes < 1 << 20)
    return fail(LING_BAD_ARGUMENT, "null, or less than 1 MiB");
  *seconds = read_seconds(*kernels, data, bytes);
  return LING_OK;
}

// ---- matrices ----

extern "C" int ling_packed_size(int32_t format, int32_t group, int64_t rows, int64_t cols,
                                int64_t* data_bytes, int64_t* scale_bytes) {
  const ling_matrix w = {format, group, rows, cols, "", ""};
  if (!data_bytes || !scale_bytes) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_matrix(w))) return status;
  *data_bytes = tiles(w) * tile_bytes(w);
  *scale_bytes = tiles(w) * tile_scale_bytes(w);
  return LING_OK;
}

extern "C" int ling_pack(int32_t format, int32_t group, int64_t rows, int64_t cols, const void* w,
                         int32_t w_is_bf16, int64_t row_stride, const float* importance, void* data,
                         void* scales) {
  const void* const parts[] = {w};
  return pack_checked({format, group, rows, cols, data, scales},
                      {parts, 1, w_is_bf16 != 0, row_stride, importance});
}

extern "C" int ling_pack_pair(int32_t format, int32_t group, int64_t rows, int64_t cols,
                              const void* a, const void* b, int32_t w_is_bf16, int64_t row_stride,
                              const float* importance, void* data, void* scales) {
  if (rows % (2 * kTile)) return fail(LING_BAD_ARGUMENT, "the rows of a pair are not whole tiles");
  const void* const parts[] = {a, b};
  return pack_checked({format, group, rows, cols, data, scales},
                      {parts, 2, w_is_bf16 != 0, row_stride, importance});
}

extern "C" int ling_widen_fp8(const uint8_t* q, int64_t rows, int64_t cols, const float* scales,
                              int64_t block, uint16_t* out) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!q || !scales || !out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (rows < 1 || cols < 1 || block < 1) return fail(LING_BAD_ARGUMENT, "sizes out of range");
  widen_fp8(*kernels, q, rows, cols, scales, block, out);
  return LING_OK;
}

extern "C" int ling_pack_fp8(int64_t rows, int64_t cols, const uint8_t* values, int64_t row_stride,
                             const float* block_scales, int64_t first, int64_t step, void* data,
                             void* scales) {
  const ling_matrix m = {LING_FP8, only_group(LING_FP8), rows, cols, data, scales};
  if (int status = accept(check_matrix(m))) return status;
  if (!values || !block_scales || row_stride < cols)
    return fail(LING_BAD_ARGUMENT, "FP8 weights: null, or the stride is too small");
  const int64_t most = int64_t(1) << 32;
  if (first < 0 || first > most || step < 1 || step > most)
    return fail(LING_BAD_ARGUMENT, "the first tile or the step between tiles is out of range");
  pack_fp8(m, values, row_stride, block_scales, {first, step});
  return LING_OK;
}

extern "C" int ling_unpack(const ling_matrix* w, float* out) {
  if (!w || !out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_matrix(*w))) return status;
  unpack(*w, out);
  return LING_OK;
}

extern "C" int ling_unpack_bf16(const ling_matrix* w, uint16_t* out) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!w || !out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_matrix(*w))) return status;
  unpack_bf16(*kernels, *w, out);
  return LING_OK;
}

extern "C" int ling_matmul(const ling_matrix* w, const float* x, float* y, int64_t T) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!w) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_matrix(*w))) return status;
  if (T < 0 || T > (int64_t(1) << 24))
    return fail(LING_BAD_ARGUMENT, "the number of rows is out of range");
  if (T == 0) return LING_OK;
  if (!x || !y) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { matmul(*kernels, *w, x, y, T); });
}

extern "C" int ling_matmul_bf16(const ling_matrix* w, int64_t count, const int64_t* ends,
                                int32_t pairs, const uint16_t* x, uint16_t* y) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!w || !ends) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_matrix(*w))) return status;
  if (int status = accept(check_stack(*w, count, ends, pairs != 0))) return status;
  if (ends[count] == 0) return LING_OK;
  if (!x || !y) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { multiply_rows(*kernels, {*w, count, ends, pairs != 0, x, y}); });
}

// ---- a whole model ----

extern "C" int ling_model_new(const ling_model_config* config, const ling_layer* layers,
                              ling_model** model) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!config || !layers || !model) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_config(*config))) return status;
  const int64_t n = config->num_layers + config->num_mtp_layers;
  for (int64_t i = 0; i < n; ++i)
    if (int status = accept(check_layer(*config, layers[i], i >= config->num_layers)))
      return status;
  return guarded([&] {
    std::unique_ptr<ling_model> m(new ling_model());
    m->c = *config;
    for (int64_t i = 0; i < n; ++i)
      m->layers.push_back(used_part(layers[i], i >= config->num_layers));
    m->kernels = kernels;
    m->counts.assign(size_t(n * config->num_experts), 0);
    *model = m.release();
  });
}

extern "C" void ling_model_free(ling_model* model) { delete model; }

extern "C" int ling_model_adapters(ling_model* model, const ling_layer_adapter* layers,
                                   int64_t count) {
  if (!model || (count && !layers)) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (count < 0 || count > 1 << 16)
    return fail(LING_BAD_ARGUMENT, "the number of adapters is out of range");
  const int64_t n = model->c.num_layers;
  for (int64_t i = 0; i < count * n; ++i)
    if (int status = accept(check_adapter(layers[i], model->layers[size_t(i % n)]))) return status;
  return guarded([&] { model->adapters.assign(layers, layers + count * n); });
}

extern "C" int ling_forward(ling_model* model, const int64_t* tokens, int64_t T,
                            const ling_segment* segments, int64_t num_segments, float* hidden) {
  if (!model || !hidden) return fail(LING_BAD_ARGUMENT, "null pointer");
  const Trace trace = std::exchange(model->next_trace, Trace());
  if (int status = accept(check_tokens(*model, tokens, T))) return status;
  if (int status = accept(check_segments(*model, T, segments, num_segments))) return status;
  if (trace.ids && T > trace.rows) return fail(LING_BAD_ARGUMENT, "more rows than the trace has");
  return guarded([&] { forward(*model, tokens, T, segments, num_segments, hidden, trace); });
}

extern "C" int ling_trace_experts(ling_model* model, int32_t* ids, float* weights, int64_t rows) {
  if (!model || !ids != !weights || rows < 0) return fail(LING_BAD_ARGUMENT, "null pointer");
  model->next_trace = {ids, weights, rows};
  return LING_OK;
}

extern "C" int ling_mtp(ling_model* model, int64_t j, const int64_t* next_tokens,
                        const float* hidden_in, int64_t T, const ling_segment* segments,
                        int64_t num_segments, float* hidden_out) {
  if (!model || !hidden_in || !hidden_out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (j < 0 || j >= model->c.num_mtp_layers) return fail(LING_BAD_ARGUMENT, "no such MTP layer");
  if (int status = accept(check_tokens(*model, next_tokens, T))) return status;
  if (int status = accept(check_segments(*model, T, segments, num_segments))) return status;
  return guarded(
      [&] { mtp(*model, j, next_tokens, hidden_in, T, segments, num_segments, hidden_out); });
}

extern "C" int ling_logits(ling_model* model, const float* hidden, int64_t rows, int64_t vocab,
                           float* out) {
  if (!model || !hidden || !out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (rows < 1 || rows > (1 << 20) || vocab < 0 || vocab > model->c.vocab_size)
    return fail(LING_BAD_ARGUMENT, "sizes out of range");
  return guarded([&] { logits(*model, hidden, rows, vocab, out); });
}

extern "C" int ling_model_offload(ling_model* model, int64_t layer, int fd,
                                  const int64_t offsets[4], const uint8_t* hot) {
  if (!model || !offsets || !hot) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (layer < 0 || layer >= int64_t(model->layers.size()) || fd < 0 ||
      !model->layers[size_t(layer)].is_moe)
    return fail(LING_BAD_ARGUMENT, "no such layer of experts, or no file");
  return guarded([&] {
    model->offloads.resize(model->layers.size());
    Offload& o = model->offloads[size_t(layer)];
    o.fd = fd, o.hot = hot;
    for (int i = 0; i < 4; ++i) o.offsets[i] = offsets[i];
  });
}

extern "C" int ling_model_evict(ling_model* model, int64_t layer) {
  if (!model || layer < 0 || layer >= int64_t(model->offloads.size()) ||
      model->offloads[size_t(layer)].fd < 0)
    return fail(LING_BAD_ARGUMENT, "no such streamed layer");
  evict_cold(*model, layer);
  return LING_OK;
}

extern "C" int ling_expert_counts(ling_model* model, int64_t* counts) {
  if (!model || !counts) return fail(LING_BAD_ARGUMENT, "null pointer");
  std::copy(model->counts.begin(), model->counts.end(), counts);
  std::fill(model->counts.begin(), model->counts.end(), 0);
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

// ---- choosing a token ----

extern "C" int ling_choose(float* scores, int64_t rows, int64_t vocab, const ling_choice* choices,
                           const int32_t* banned, int64_t num_banned, int64_t best_stride,
                           ling_chosen* chosen, int32_t* best_ids, float* best_logprobs) {
  if (!isa_kernels()) return LING_BAD_ISA;
  if (!scores || !choices || !chosen || (num_banned && !banned))
    return fail(LING_BAD_ARGUMENT, "null pointer");
  if (rows < 1 || rows > (1 << 20) || vocab < 1 || vocab >= INT32_MAX || num_banned < 0 ||
      num_banned > INT32_MAX || best_stride < 0 || best_stride > vocab)
    return fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (best_stride && (!best_ids || !best_logprobs)) return fail(LING_BAD_ARGUMENT, "null pointer");
  for (int64_t r = 0; r < rows; ++r)
    if (int status = accept(check_choice(choices[r], vocab, best_stride))) return status;
  return guarded([&] {
    choose_rows({scores, rows, vocab, choices, banned, num_banned, best_stride, chosen, best_ids,
                 best_logprobs});
  });
}

// ---- training ----

extern "C" int ling_causal_attention(const ling_causal* c) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!c) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_causal(*c))) return status;
  return guarded([&] { causal_attention(*kernels, *c); });
}

extern "C" int ling_causal_gradient(const ling_causal* c, const void* dout, void* dq, void* dk,
                                    void* dv) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!c) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_causal(*c))) return status;
  if (c->key_ends[c->num_sequences] && (!dout || !dq || !dk || !dv))
    return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { causal_gradient(*kernels, *c, dout, dq, dk, dv); });
}

extern "C" int ling_loss_gradient(void* scores, int bf16, int64_t rows, int64_t n,
                                  const int64_t* targets, const float* weights, float* losses) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (rows < 0 || n < 1) return fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (rows && (!scores || !targets || !weights || !losses))
    return fail(LING_BAD_ARGUMENT, "null pointer");
  for (int64_t r = 0; r < rows; ++r)
    if (targets[r] < 0 || targets[r] >= n)
      return fail(LING_BAD_ARGUMENT, "a target is outside the vocabulary");
  return guarded([&] {
    parallel_for(rows, [&](int64_t r, int) {
      if (bf16)
        losses[r] = kernels->loss_gradient(static_cast<uint16_t*>(scores) + r * n, n, targets[r],
                                           weights[r]);
      else
        losses[r] = kernels->loss_gradient_f32(static_cast<float*>(scores) + r * n, n, targets[r],
                                               weights[r]);
    });
  });
}

extern "C" int ling_rms_norm_gradient(const float* x, const float* w, const float* dy, int64_t rows,
                                      int64_t n, float eps, float* dx, float* dw) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (rows < 0 || n < 16 || n % 16) return fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (!dw || (rows && (!x || !w || !dy || !dx))) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { rms_norm_gradient(*kernels, {x, w, dy, rows, n, eps, dx, dw}); });
}

extern "C" int ling_rotate_heads(const float* x, int64_t x_stride, const float* cos,
                                 const float* sin, int64_t stride, int64_t tokens, int64_t heads,
                                 int64_t head_dim, int64_t half, float sign, float* out) {
  if (tokens < 0 || heads < 1 || half < 0 || stride < half || head_dim < 2 * half ||
      x_stride < heads * head_dim)
    return fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (tokens && (!x || !cos || !sin || !out)) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] {
    rotate_heads({x, x_stride, cos, sin, stride, tokens, heads, head_dim, half, sign, out});
  });
}

extern "C" int ling_experts_forward(const ling_experts* e) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!e) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_grouped(*e))) return status;
  if (e->ends[e->count] && !e->y) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { experts_forward(*kernels, *e); });
}

extern "C" int ling_experts_gradient(const ling_experts* e, const float* dy, float* dx,
                                     float* dgate, float* dup, float* ddown) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!e) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_grouped(*e))) return status;
  if ((e->ends[e->count] && (!dy || !dx)) || !dgate != !dup || !dgate != !ddown)
    return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { experts_gradient(*kernels, *e, {dy, dx, dgate, dup, ddown}); });
}

extern "C" int ling_top_k(const float* scores, int64_t rows, int64_t n, int64_t k, int64_t* ids) {
  if (rows < 0 || k < 1 || k > n) return fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (rows && (!scores || !ids)) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { top_k(scores, rows, n, k, ids); });
}

extern "C" int ling_sorted_rows(const int64_t* ids, int64_t n, const int64_t* starts, int64_t count,
                                int64_t* rows) {
  if (n < 0 || count < 0) return fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (n && (!ids || !starts || !rows)) return fail(LING_BAD_ARGUMENT, "null pointer");
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= count) return fail(LING_BAD_ARGUMENT, "an id is out of range");
  return guarded([&] { sorted_rows(ids, n, starts, count, rows); });
}

extern "C" int ling_combine_rows(const ling_combine* c) {
  if (!c) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_combine(*c))) return status;
  if (c->tokens && !c->out) return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { combine_rows(*c); });
}

extern "C" int ling_combine_gradient(const ling_combine* c, const float* dout, float* dy,
                                     float* dweights) {
  if (!c) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_combine(*c))) return status;
  if ((c->tokens && (!dout || !dweights)) || (c->rows && !dy))
    return fail(LING_BAD_ARGUMENT, "null pointer");
  return guarded([&] { combine_gradient(*c, dout, dy, dweights); });
}

extern "C" int ling_quantise_fp8(const ling_fp8* q) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (!q) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (int status = accept(check_fp8(*q))) return status;
  return guarded([&] { quantise_fp8(*kernels, *q); });
}

extern "C" int ling_adam8(const ling_adam8_shard* shards, int64_t count, const float* tables) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (count < 0 || (count && (!shards || !tables)))
    return fail(LING_BAD_ARGUMENT, "null pointer, or fewer than no shards");
  for (int64_t i = 0; i < count; ++i)
    if (int status = accept(check_adam8(shards[i]))) return status;
  return guarded([&] { adam8_step(*kernels, shards, count, tables); });
}

extern "C" int ling_quantise8(const float* x, int64_t n, const float* map, int is_signed, int given,
                              uint8_t* codes, float* absmax) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (n < 0 || !map || (n && (!x || !codes || !absmax)))
    return fail(LING_BAD_ARGUMENT, "null pointer, or fewer than no values");
  return guarded([&] {
    over_blocks(n, [&](int64_t first, int64_t some) {
      kernels->quantise8(x + first, some, map, is_signed != 0, given != 0, codes + first,
                         absmax + first / kAdam8Block);
    });
  });
}

extern "C" int ling_dequantise8(const uint8_t* codes, const float* absmax, int64_t n,
                                const float* map, float* out) {
  const IsaKernels* kernels = isa_kernels();
  if (!kernels) return LING_BAD_ISA;
  if (n < 0 || !map || (n && (!codes || !absmax || !out)))
    return fail(LING_BAD_ARGUMENT, "null pointer, or fewer than no values");
  return guarded([&] {
    over_blocks(n, [&](int64_t first, int64_t some) {
      kernels->dequantise8(codes + first, absmax + first / kAdam8Block, some, map, out + first);
    });
  });
}
