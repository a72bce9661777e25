// A whole model, and what can be done with it; arguments were checked by api.cpp. Names: T rows on
// the flat token axis, D hidden, H query heads, G kv heads, K head dim, E experts, A experts per
// token, F width.
#ifndef LING_MODEL_H
#define LING_MODEL_H
#include <vector>

#include "workspace.h"

namespace ling {

// The stages of a pass whose times are counted.
enum Stage { kPrepare, kQKV, kRope, kAttention, kDense, kRouter, kGateUp, kDown, kHead, kStages };
constexpr const char* kStageNames[kStages] = {"norm + quantise", "qkv",   "qk-norm + rope + cache",
                                              "attention",       "dense", "router",
                                              "gate + up",       "down",  "head"};

// Where a layer's experts are in their file, and which of them stay in memory.
struct Offload {
  int fd = -1;
  int64_t offsets[4] = {};  // gate·up data and scales, down data and scales
  const uint8_t* hot = nullptr;
};

// Where a pass writes the experts of its rows, if anywhere: the next layer's part.
struct Trace {
  int32_t* ids = nullptr;
  float* weights = nullptr;
  int64_t rows = 0;
};

}  // namespace ling

struct ling_model {
  ling_model_config c;
  std::vector<ling_layer> layers;
  std::vector<ling::Offload> offloads;  // empty: everything fits in memory
  const ling::IsaKernels* kernels;
  ling::Workspace work;
  std::vector<int64_t> counts;               // [layers, E]
  std::vector<ling_layer_adapter> adapters;  // [adapters, main layers]
  ling::Trace next_trace;                    // of the next pass
  double seconds[ling::kStages] = {};
};

namespace ling {

// forward.cpp. All may throw std::bad_alloc, before any thread starts.
void forward(ling_model& m, const int64_t* tokens, int64_t T, const ling_segment* segments,
             int64_t num_segments, float* hidden, Trace trace);
void mtp(ling_model& m, int64_t j, const int64_t* next_tokens, const float* hidden_in, int64_t T,
         const ling_segment* segments, int64_t num_segments, float* hidden_out);
void logits(ling_model& m, const float* hidden, int64_t rows, int64_t vocab, float* logits);

// offload.cpp. Cold experts that the step uses, by Workspace::expert_start: read ahead together,
// and evict again.
void prefetch_routed(const ling_model& m, int64_t layer);
void evict_routed(const ling_model& m, int64_t layer);
void evict_cold(const ling_model& m, int64_t layer);
// Have pages of 2 MiB where the system has them; fill the page table for a mapped file.
void use_large_pages(const void* data, int64_t bytes);
void map_in(const void* data, int64_t bytes);

}  // namespace ling
#endif
