// Shared by the C++ sources, and no part of the C interface: the table of kernels that every
// instruction set fills, and the threads that work together.
#ifndef LING_INTERNAL_H
#define LING_INTERNAL_H
#include <stdint.h>

#include <atomic>

#include "formats.h"
#include "sampling.h"

namespace ling {

constexpr int kMaxRows = 64;  // query rows (tokens × heads of a group) of one attention task
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxExpertGroups = 256;  // of experts
constexpr int64_t kMaxRank = 64;           // of adapters

// A row of activations as a matrix of some format multiplies it.
struct Row {
  const void* values;   // int8 [cols padded to the group]; bfloat16 where bf16_activations
  const float* scales;  // per group; null for bfloat16
  const int32_t* sums;  // per group: -128 times the sum of the int8 values; null for bfloat16
};

// What happens to a finished value of row m, column n.
enum class Epilogue { kStore, kAdd, kScaledAdd, kSwiGLU };

// What an adapter adds to a row of a product: column n of it is the sum of t[j] times the value n %
// 16 of row j of tile n / 16 of `b` (ling_kernels.h: ling_low_rank). Where gate and up tiles
// alternate those of up take the second `rank` values of `t`.
struct LowRankRow {
  float* t;
  const uint16_t* b;  // null: nothing is added
  int64_t rank;
};

// t = scale · A x of rows that share an adapter's matrices: the rows [first, end) of A.
struct LowRankTask {
  const ling_low_rank* matrix;
  int64_t cols, first, end, m;
  const float* const* x;
  const LowRankRow* rows;
};

// One product: `w` times `m` rows. y[i] is row i of the result; kScaledAdd multiplies by weight[i];
// kSwiGLU reads tiles in pairs (gate, up) and writes half as many columns.
struct Product {
  ling_matrix w;
  int64_t m;
  const Row* x;
  float* const* y;
  const float* weight;
  const float* bias;
  Epilogue epilogue;
  const uint8_t* next = nullptr;  // weights that are read after these tiles, if not those behind
  const LowRankRow* low_rank = nullptr;  // of the rows, where any has an adapter
};

struct AttentionTask {
  int64_t rows, tokens;  // rows = tokens × group; row r belongs to token r / group
  int64_t group, head_dim;
  int64_t first;          // position of token 0
  const float* const* q;  // rows, already normed and rotated; turned for LING_I4
  float* const* out;
  const int32_t* pages;
  int32_t format;    // of the pages: LING_BF16, LING_I8 or LING_I4
  const uint8_t* k;  // of this layer and kv head: page p is at k + p · page_stride
  const uint8_t* v;
  int64_t page_stride;  // bytes
};

constexpr int64_t kAdam8Block = 256;  // elements that share a scale of their moments
constexpr int64_t kCausalBlock = 64;  // queries, and keys, of a block of causal attention

// One head of one sequence in training; all is bfloat16 or float32, strides in elements from a
// token to the next. Query i sees keys up to keys - queries + i.
template <class T>
struct CausalTaskOf {
  int64_t queries, keys, head_dim;
  float scale;
  const T *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  const T* transposed;  // bfloat16: [head_dim][64] of each block of values, backward of keys
  T* out;
  float* lse;  // log2 of the sum of each query's softmax
  const T* dout;
  T* dq;
  int64_t out_stride;  // of out, dout and dq
};
using CausalTask = CausalTaskOf<uint16_t>;
using CausalTaskF32 = CausalTaskOf<float>;

constexpr int64_t kExpertBlock = 64;  // rows that an expert in training has at a time

// One expert's rows in training, without gaps: x, y and their gradients [rows][hidden], gu [rows][2
// width]; gate and up [width][hidden], down [hidden][width]. The gradients of weights may be null.
struct ExpertTask {
  int64_t rows, hidden, width;
  const float *x, *gate, *up, *down;
  float *gu, *y;
  const float* dy;
  float *dx, *dgate, *dup, *ddown;
};
// Values of scratch memory of a task.
inline int64_t expert_room(int64_t hidden, int64_t width) {
  return 3 * hidden * width + 4 * kExpertBlock * width;
}

// Up to 128 × 128 values, quantised to E4M3: a scale for each column, or one for all of them.
struct Fp8Area {
  int64_t stride, rows, cols, out_stride;
  bool power_of_two, one_scale;
};

// The kernels of one instruction set: the same functions, compiled with other flags.
struct IsaKernels {
  const char* name;
  bool matrix_unit;  // products of many integer rows are faster when these are evenly spaced
  void (*rms_norm)(const float* x, const float* w, float eps, int64_t n, float* y);
  void (*rms_norm_gradient)(const float* x, const float* w, const float* dy, float eps, int64_t n,
                            float* dx, float* dw);
  void (*quantise_row)(const float* x, int64_t n, int64_t padded, int64_t group, int8_t* q,
                       float* scales, int32_t* sums);
  void (*round_row)(const float* x, int64_t n, int64_t padded, uint16_t* q);
  // A row of n values, a multiple of 32, as LING_I4 KV pages have it; and its turn before that.
  void (*quantise_row_i4)(const float* x, int64_t n, uint8_t* codes, float* scale);
  void (*hadamard)(float* x, int64_t n);
  // Tiles [begin, end) of a product; `scratch` holds scratch_bytes(w).
  void (*product)(const Product& p, int64_t begin, int64_t end, uint8_t* scratch);
  void (*low_rank)(const LowRankTask& t);
  void (*router)(const void* w, int64_t tile, const float* const* x, int64_t m, int64_t cols,
                 float* const* logits);
  void (*sigmoid)(const float* x, int64_t n, float* y);
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t half);
  void (*attention)(const AttentionTask& t, float* scratch);
  void (*embed_i8)(const int8_t* q, const uint16_t* scales, int64_t n, int64_t group, float* y);
  // Reads n bytes (a multiple of 256); the result keeps the compiler from leaving the loads out.
  float (*read)(const void* data, int64_t n);
  // Tiles [begin, end) of a packed matrix from w (see ling_pack).
  void (*pack)(int32_t format, int64_t group, int64_t rows, int64_t cols, const void* w, bool bf16,
               int64_t stride, const float* importance, int64_t begin, int64_t end, void* data,
               void* scales);
  // The rows of a tile as bfloat16, where out[rows, cols] has them.
  void (*unpack)(const ling_matrix& w, int64_t tile, uint16_t* out);
  // Of rows of scores: see kernels/sampling.h.
  BlockMaxima (*block_maxima)(const float* z, int64_t n, float* largest);
  double (*sum_exp)(const float* z, int64_t n, float top);
  int64_t (*count_above)(const float* z, int64_t n, float least);
  int64_t (*gather_scores)(const float* z, int64_t n, const float* largest, float least,
                           int32_t* at, float* values);
  void (*masked_scores)(const float* z, int64_t n, const uint32_t* mask, float* out);
  void (*add_masses)(const float* z, int64_t n, float top, double scale, float least,
                     int64_t* hist);
  void (*list_masses)(const float* z, int64_t n, float top, double scale, int64_t* out);
  void (*noise_bounds)(const float* z, const int32_t* ids, int64_t first, int64_t n, uint64_t key,
                       float top, float scale, uint64_t* bits, float* bounds);
  // Causal attention in training: see kernels/causal.h and causal_f32.h. `scratch` has causal_room
  // bytes.
  void (*causal_transpose)(const uint16_t* x, int64_t stride, int64_t n, int64_t head_dim,
                           uint16_t* to);
  void (*causal_forward)(const CausalTask& t, int64_t first, int64_t n, uint8_t* scratch);
  void (*causal_backward)(const CausalTask& t, float* dk, float* dv, uint8_t* scratch);
  void (*causal_forward_f32)(const CausalTaskF32& t, int64_t first, int64_t n, uint8_t* scratch);
  void (*causal_backward_f32)(const CausalTaskF32& t, float* dk, float* dv, uint8_t* scratch);
  float (*loss_gradient)(uint16_t* x, int64_t n, int64_t target, float weight);
  float (*loss_gradient_f32)(float* x, int64_t n, int64_t target, float weight);
  // An expert's rows in training: see kernels/experts.h. `scratch` has expert_room values.
  void (*expert_forward)(const ExpertTask& t, float* scratch);
  void (*expert_backward)(const ExpertTask& t, float* scratch);
  // FP8 in training: see kernels/fp8.h. x is bfloat16 or float32; a null output is not written.
  void (*quantise_fp8_row)(const void* x, bool bf16, int64_t n, bool power_of_two,
                           uint16_t* rounded, uint8_t* codes, float* inverse);
  void (*quantise_fp8_area)(const void* x, bool bf16, const Fp8Area& a, uint16_t* rounded,
                            uint8_t* codes, float* inverse);
  void (*widen_e4m3)(const uint8_t* codes, int64_t n, float scale, uint16_t* out);
  // AdamW with moments of one byte: see kernels/adam8.h and ling_kernels.h.
  void (*adam8)(const ling_adam8_shard& s, int64_t first, int64_t n, const float* tables);
  void (*quantise8)(const float* x, int64_t n, const float* map, bool is_signed, bool given,
                    uint8_t* codes, float* absmax);
  void (*dequantise8)(const uint8_t* codes, const float* absmax, int64_t n, const float* map,
                      float* out);
};

extern const IsaKernels isa_generic, isa_avx2, isa_avx512vnni, isa_avx512bf16, isa_avx512amx;

// The kernels in use, or null with the error set.
const IsaKernels* isa_kernels();
// Sets the text of ling_last_error and returns the status.
int fail(int status, const char* text);

// Room that IsaKernels::product needs: two unpacked tiles; and scales of 128 rows for the matrix
// unit.
static inline int64_t scratch_bytes(const ling_matrix& w) {
  const int64_t padded = padded_cols(w);
  return (w.format == LING_FP8 ? 4 : 2) * kTile * padded + 128 * 4 * (padded / w.group) + 64;
}
// Floats that IsaKernels::attention needs: queries, scores and weights of every row, and a pair of
// values.
static inline int64_t attention_room(int64_t head_dim) {
  return kMaxRows * (head_dim / 2 + kPage + kPage / 2) + head_dim;
}

// Bytes that the kernels of causal attention need, the larger of forward and backward.
static inline int64_t causal_room(int64_t head_dim) {
  return kCausalBlock * (12 * head_dim + 8 * kCausalBlock);
}

// The driving thread and the helpers of one call of the interface. A stage is a set of tasks,
// distributed so that each thread runs its own contiguous part and then helps the others; what is
// between two stages runs in the driving thread alone.
class Team {
 public:
  using Body = void (*)(void* context, int64_t task, int thread);
  // Calls entry(context, team) in the calling thread, with at most `threads` - 1 helpers.
  static void run(void (*entry)(void* context, Team& team), void* context, int threads);
  // Returns when all tasks are done; for the driving thread.
  void stage(int64_t tasks, Body body, void* context);

  explicit Team(int threads);
  // What a helper does until the driving thread calls end(), which waits for all that came.
  void help(int thread);
  void end();
  const int threads;

 private:
  struct alignas(64) Part {
    std::atomic<uint64_t> tasks{0};  // end << 32 | next, in one word: a claim is valid by itself
    bool claim(uint32_t* task);
  };
  static constexpr int kMaxThreads = 256;
  void publish(uint32_t tasks);
  uint32_t run_tasks(int thread);
  void finish(uint32_t tasks);
  void wait_until_zero(std::atomic<uint32_t>& word);

  Body body_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> stage_{0};  // its number; helpers sleep on it
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> ended_{false};
  alignas(64) std::atomic<uint32_t> left_{0};  // tasks not done; the driving thread sleeps on it
  std::atomic<uint32_t> helpers_{0};           // inside help(); and on this one at the end
  std::atomic<bool> driver_sleeps_{false};
  Part parts_[kMaxThreads];
};

int num_threads();
void set_num_threads(int n);

// The same with a lambda, f(task, thread).
template <class F>
void stage(Team& team, int64_t tasks, const F& f) {
  team.stage(
      tasks, [](void* c, int64_t i, int t) { (*static_cast<const F*>(c))(i, t); },
      const_cast<F*>(&f));
}

// f(team) with a new team.
template <class F>
void in_team(int threads, const F& f) {
  Team::run([](void* c, Team& team) { (*static_cast<const F*>(c))(team); }, const_cast<F*>(&f),
            threads);
}

// f(i, thread) for i in [0, n).
template <class F>
void parallel_for(int64_t n, const F& f) {
  in_team(n > 1 ? num_threads() : 1, [&](Team& team) { stage(team, n, f); });
}

}  // namespace ling
#endif
