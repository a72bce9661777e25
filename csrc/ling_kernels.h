// The whole C interface. Every function returns 0 or a status; ling_last_error() has the text.
// Nothing here throws, aborts or keeps a pointer beyond what its comment says.
#ifndef LING_KERNELS_H
#define LING_KERNELS_H
#include <stdint.h>

#define LING_ABI_VERSION 12
#define LING_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum { LING_OK = 0, LING_BAD_ARGUMENT = 1, LING_BAD_ISA = 2, LING_NO_MEMORY = 3, LING_IO = 4 };

// How a matrix [rows, cols] is stored. Rows come in tiles of 16, the last one padded with zeros;
// cols are padded with zeros to a multiple of the group.
//   LING_I4    codes of 4 bits into the 16 levels of `ling_int4_levels`. A tile holds, for every
//              8 columns, 16 rows × 4 bytes; byte j has column j in its low and 4 + j in its high
//              half.
//   LING_I3    codes of 3 bits into the 8 levels of `ling_int3_levels`, the group a multiple of 32.
//   A
//              tile holds, for every 32 columns, three planes of 16 rows × 4 bytes. Column 8 i + 4
//              h
//              + j has the lower two bits of its code in plane i / 2, byte j, from bit 4 h + 2 (i
//              mod 2) on, and the third in plane 2, byte j, bit 4 h + i.
//   LING_I8    value + 128 as a byte. A tile holds, for every 4 columns, 16 rows × 4 bytes.
//   LING_BF16  a tile holds, for every 2 columns, 16 rows × 2 values; `scales` is null and the
//              group 2.
//   LING_FP8   E4M3 as released (OCP E4M3FN), the group 128. A tile holds, for every 4 columns
//              and then every 4 rows, 4 rows × 2 bytes of the first two columns, then those of
//              the other two.
// scales: bfloat16, tile by tile, for every group 16 values; LING_FP8: float32, for every group 1.
enum { LING_I4 = 1, LING_I8 = 2, LING_BF16 = 3, LING_FP8 = 4, LING_I3 = 5 };

typedef struct {
  int32_t format;
  int32_t group;
  int64_t rows, cols;
  const void* data;
  const void* scales;
} ling_matrix;

LING_API int ling_abi_version(void);
// The instruction set in use: "generic", "avx2", "avx512vnni", "avx512bf16" or "avx512amx".
// LING_ISA caps it; an unknown word is an error.
LING_API int ling_isa(const char** name);
LING_API int ling_set_num_threads(int n);
LING_API const char* ling_last_error(void);

// The 16 levels of LING_I4, ascending, in units of the group's scale.
LING_API const int8_t* ling_int4_levels(void);
// The same, 8 of them, for LING_I3.
LING_API const int8_t* ling_int3_levels(void);

// Large pages for [data, data + bytes), memory that nothing has touched yet; advice, never an error
// of the system.
LING_API int ling_use_large_pages(const void* data, int64_t bytes);
// Map [data, data + bytes) of a file in before it is read, in large pages where it can have them;
// advice, too.
LING_API int ling_map_in(const void* data, int64_t bytes);

// Time to read every whole MiB of a buffer once with all threads: what memory can give.
LING_API int ling_read_seconds(const void* data, int64_t bytes, double* seconds);

// Sizes in bytes of the two parts of a packed matrix; the group must be a multiple of 16
// up to 256 (of 32 for LING_I3; 2 for LING_BF16, 128 for LING_FP8).
LING_API int ling_packed_size(int32_t format, int32_t group, int64_t rows, int64_t cols,
                              int64_t* data_bytes, int64_t* scale_bytes);
// Quantise and pack w [rows, cols] (float32 or bfloat16, row stride in elements). Each group's
// scale minimises the squared error, weighed per column by `importance` (or null for equal
// weights). Not for LING_FP8.
LING_API int ling_pack(int32_t format, int32_t group, int64_t rows, int64_t cols, const void* w,
                       int32_t w_is_bf16, int64_t row_stride, const float* importance, void* data,
                       void* scales);
// The same for two matrices [rows / 2, cols] of one stride whose tiles alternate: the first tile of
// a, the first of b, and so on; rows / 2 is a multiple of 16.
LING_API int ling_pack_pair(int32_t format, int32_t group, int64_t rows, int64_t cols,
                            const void* a, const void* b, int32_t w_is_bf16, int64_t row_stride,
                            const float* importance, void* data, void* scales);
// Store E4M3 values [rows, cols] (row stride in bytes) and their float32 scales
// [ceil(rows / 128), ceil(cols / 128)] as LING_FP8, bytes and scales as they are: tile i of the
// values becomes tile first + i · step of a matrix of (at least) first + tiles · step tiles, so
// that gate and up can alternate.
LING_API int ling_pack_fp8(int64_t rows, int64_t cols, const uint8_t* values, int64_t row_stride,
                           const float* block_scales, int64_t first, int64_t step, void* data,
                           void* scales);
// FP8 (E4M3, no infinities) [rows, cols] times its block's scale, to bfloat16; scales are [rows /
// block, cols / block], rounded up.
LING_API int ling_widen_fp8(const uint8_t* q, int64_t rows, int64_t cols, const float* scales,
                            int64_t block, uint16_t* out);
// Back to float32 [rows, cols].
LING_API int ling_unpack(const ling_matrix* w, float* out);
// The same, rounded to bfloat16: many times as fast, for products of unpacked matrices.
LING_API int ling_unpack_bf16(const ling_matrix* w, uint16_t* out);

// y[t, n] = sum_k x[t, k] · w[n, k]; x float32 [T, cols], y float32 [T, rows]. Integer formats
// quantise x per row and group to 8 bits; LING_BF16 and LING_FP8 round x to bfloat16, and LING_FP8
// multiplies by the exact E4M3 values, sums a group in float32 and then applies its scale. A row of
// y depends on nothing but its own row of x: not on T, not on the number of threads.
LING_API int ling_matmul(const ling_matrix* w, const float* x, float* y, int64_t T);
// The same of bfloat16 rows x [R, cols] with `count` matrices back to back, of which w is the
// first: rows [ends[e], ends[e + 1]) with matrix e; ends[0] is 0. y [R, rows] is rounded to
// bfloat16. With `pairs` tiles of two matrices take turns in w, as ling_pack_pair has them, and y
// has all columns of the first, then those of the second.
LING_API int ling_matmul_bf16(const ling_matrix* w, int64_t count, const int64_t* ends,
                              int32_t pairs, const uint16_t* x, uint16_t* y);

// ---- a whole model -----------------------------------------------------------------------------

typedef struct {
  int64_t vocab_size, hidden_size, num_layers, num_mtp_layers;
  int64_t num_heads, num_kv_heads, head_dim, rotary_size;
  int64_t num_experts, num_experts_per_tok, n_group, topk_group;
  int64_t expert_width;   // F of the routed experts
  int64_t max_positions;  // rows of the rotary tables
  float rms_norm_eps, routed_scaling_factor;
  int32_t norm_topk_prob;
  // LING_BF16: bfloat16 [V, D]; LING_I8: int8 [V, D] with scales [V, D / group].
  int32_t embedding_format;
  int32_t embedding_group;
  const void* embedding;
  const void* embedding_scales;  // bfloat16
  const float* norm;             // final norm [D]
  ling_matrix head;
  const float* cos;  // [max_positions, rotary_size / 2], attention scaling included
  const float* sin;
  // Pages of 64 positions, [layers, kv_heads, pages] of K and then V, so that attention over
  // consecutive pages reads on in memory; aligned to 4 bytes; what is stored where nothing was
  // written does not matter.
  //   LING_BF16  K: bfloat16 [head_dim / 2, 64, 2]; V: [32, head_dim, 2].
  //   LING_I8    K: four tiles of LING_I8, 16 positions times head_dim columns each; V: head_dim
  //              / 16 tiles, 16 channels times 64 positions each; then float32 [64], a scale a
  //              position: the largest magnitude over 127, NaN where the key or value is not
  //              finite.
  //   LING_I4    of keys (after rotary) and values times the orthonormal Hadamard matrix of
  //              head_dim, a power of two. K: four tiles of LING_I4; V: for every 32 channels and
  //              then every 4 positions 16 × 4 bytes, position j of channel d in byte 4 d + j, d in
  //              its low and 16 + d in its high half; then float32 [64], a scale a position.
  void* kv_pages;
  int64_t num_pages;
  int32_t kv_format;
} ling_model_config;

typedef struct {
  const float* input_norm;
  ling_matrix qkv;
  const float* qkv_bias;  // or null
  const float* q_norm;    // or null, then k_norm too
  const float* k_norm;
  ling_matrix dense;
  const float* dense_bias;  // or null
  const float* post_norm;
  // Dense MLP, or the shared expert of a MoE layer (rows 0: none). gate and up rows alternate in
  // tiles of 16.
  ling_matrix gate_up, down;
  int32_t is_moe;
  const void* router;        // bfloat16, tiles of 16 experts: for every column 16 values
  const float* expert_bias;  // [E]
  ling_matrix expert_gate_up, expert_down;  // of expert 0; the others follow back to back
  // MTP layers only.
  ling_matrix eh_proj;
  const float* enorm;
  const float* hnorm;
  const float* final_norm;
} ling_layer;

typedef struct {
  int64_t first;         // position of its first row
  int64_t start, stop;   // its rows on the flat token axis
  const int32_t* pages;  // pages of positions 0 .. first + stop - start
  int64_t num_pages;
  int64_t adapter;  // of its rows in the main layers, from 1 on; 0: none
} ling_segment;

// What an adapter adds to a matrix [rows, cols]: y += B (scale · A x), all of it float32 but for
// the bfloat16 values of A and B. Of a stack of experts each has its own, back to back. Where gate
// and up rows alternate in tiles of 16 (ling_layer), A has the rows of gate and then those of up,
// the tiles of B alternate as well, and each half has its scale.
typedef struct {
  int64_t rank;       // up to 64; 0: the matrix has none
  float scales[2];    // of gate and up; else the first one is used
  const uint16_t* a;  // [rank, cols], or [2 · rank, cols] of gate and up
  const uint16_t* b;  // for every 16 rows [rank, 16]
} ling_low_rank;

// Of the matrices of a main layer that have those names.
typedef struct {
  ling_low_rank qkv, dense, gate_up, down, expert_gate_up, expert_down;
} ling_layer_adapter;

typedef struct ling_model ling_model;

// The model keeps every pointer of `config` and `layers` (main layers, then MTP layers): the caller
// keeps the memory alive until ling_model_free.
LING_API int ling_model_new(const ling_model_config* config, const ling_layer* layers,
                            ling_model** model);
LING_API void ling_model_free(ling_model* model);

// Give a model its adapters: `layers` [count, main layers], of which it keeps the pointers. It
// replaces those that were there.
LING_API int ling_model_adapters(ling_model* model, const ling_layer_adapter* layers,
                                 int64_t count);

// Main layers over T tokens; hidden float32 [T, D] after the final norm.
LING_API int ling_forward(ling_model* model, const int64_t* tokens, int64_t T,
                          const ling_segment* segments, int64_t num_segments, float* hidden);
// The next ling_forward, and no later one, also writes which experts each row takes in every layer
// that has some, in the order in which they were chosen: ids and weights [such layers, T, experts
// per token]. There is room for `rows` rows; more are refused. Null takes the request back.
LING_API int ling_trace_experts(ling_model* model, int32_t* ids, float* weights, int64_t rows);
// MTP layer j: next_tokens[t] is the token after position t (+ j); hidden_in and hidden_out [T, D].
LING_API int ling_mtp(ling_model* model, int64_t j, const int64_t* next_tokens,
                      const float* hidden_in, int64_t T, const ling_segment* segments,
                      int64_t num_segments, float* hidden_out);
// Scores of `rows` hidden states over the first `vocab` ids (0: all): logits [rows, vocab].
LING_API int ling_logits(ling_model* model, const float* hidden, int64_t rows, int64_t vocab,
                         float* logits);
// For models larger than memory: the routed experts of `layer` are mapped from `fd`, their four
// parts (gate·up data and scales, down data and scales) at these offsets. Experts whose `hot` is 0
// are read ahead when a step needs them and evicted once the layer is done. `hot` [E] is read at
// every step.
LING_API int ling_model_offload(ling_model* model, int64_t layer, int fd, const int64_t offsets[4],
                                const uint8_t* hot);
// Evict every expert of an offloaded layer whose `hot` is 0.
LING_API int ling_model_evict(ling_model* model, int64_t layer);
// Counts of routed tokens per expert since the last call: [layers of the model, E] int64.
LING_API int ling_expert_counts(ling_model* model, int64_t* counts);
// Seconds per stage since the last call; names[i] stays valid. `n` in: capacity, out: filled.
LING_API int ling_profile(ling_model* model, const char** names, double* seconds, int64_t* n);

// ---- choosing a token --------------------------------------------------------------------------

// How the token of one row is chosen. Ids beyond the row's vocabulary have no effect.
typedef struct {
  double inverse_temperature;  // 0: the largest score
  double top_p;                // 1: all
  double least_power;          // log2 of min-p; -inf: all
  int64_t top_k;               // 0: all
  uint64_t seed;               // with the position and an id all that noise depends on
  int64_t position;
  float repetition_penalty, presence_penalty, frequency_penalty;
  int32_t num_best;  // log-probabilities wanted: those of the token and of this many best ones; -1:
                     // none
  int64_t given;     // the token, where it is known and only its log-probability is wanted; else -1
  const int32_t* seen;    // distinct ids of prompt and output,
  const int32_t* counts;  // and how often each is in the output
  int64_t num_seen;
  const int32_t* bias_ids;
  const float* bias;
  int64_t num_bias;
  const int32_t* excluded;  // ids that may not be chosen
  int64_t num_excluded;
  const uint32_t* mask;  // bit i % 32 of word i / 32: whether id i may be chosen; or null
} ling_choice;

enum {
  LING_CHOSEN = 0,
  LING_NOT_FINITE = 1,  // a score of the row is not
  LING_NONE_LEFT = 2,   // no id may be chosen
  LING_BAD_PENALTY = 3  // penalties made a score infinite or NaN
};

typedef struct {
  int64_t id;
  int32_t status;
  float logprob;  // of the row's own scores, before bias, penalties and temperature
  int64_t rank;   // 1: no other score is larger
} ling_chosen;

// Choose the token of each row of scores [rows, vocab], which are the same again when this returns.
// Order: bias, penalties, ids that may not be chosen (the row's own and `banned`, of all rows),
// temperature, top-k, min-p, top-p; of equal scores the lowest id. best_ids and best_logprobs
// [rows, best_stride] get the num_best (or vocab, if that is less) most likely ids of a row.
LING_API int ling_choose(float* scores, int64_t rows, int64_t vocab, const ling_choice* choices,
                         const int32_t* banned, int64_t num_banned, int64_t best_stride,
                         ling_chosen* chosen, int32_t* best_ids, float* best_logprobs);

// ---- training ----

// Causal attention of packed sequences, grouped heads; all is bfloat16, or float32 unless `bf16`.
// Sequence i has the queries
// [query_ends[i], query_ends[i + 1]) and the keys and values [key_ends[i], key_ends[i + 1]), at
// least as many: its queries are those of the last positions. Both lists begin with 0. The heads of
// a token are next to each other, strides are elements from a token to the next; out is [queries,
// num_heads, head_dim] without gaps, lse [num_heads, queries] what the gradient needs of it.
// head_dim is a multiple of 32.
typedef struct {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t num_sequences;
  const int64_t *query_ends, *key_ends;
  float scale;  // of the scores before the softmax
  int32_t bf16;
  const void *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  void* out;
  float* lse;
} ling_causal;

LING_API int ling_causal_attention(const ling_causal* c);
// Gradients of q, k and v, without gaps, from that of out. A key that no query sees gets zero.
LING_API int ling_causal_gradient(const ling_causal* c, const void* dout, void* dq, void* dk,
                                  void* dv);

// Cross-entropy of rows of scores [rows, n], bfloat16 or float32, times the row's weight, into
// losses; the scores become its gradient: weight · (softmax - one at the target). Without weight
// both are 0.
LING_API int ling_loss_gradient(void* scores, int bf16, int64_t rows, int64_t n,
                                const int64_t* targets, const float* weights, float* losses);

// Gradients of an RMSNorm of rows of n values, a multiple of 16, from that of its result: dx like
// x, dw [n] the sum over the rows. In float32, without gaps.
LING_API int ling_rms_norm_gradient(const float* x, const float* w, const float* dy, int64_t rows,
                                    int64_t n, float eps, float* dx, float* dw);

// Channels [0, half) and [half, 2 half) of each head rotated by a token's row of cos and sin
// [tokens, stride], or back where sign is -1; further channels are copied. x is [tokens, heads,
// head_dim] with x_stride from a token to the next, out the same without gaps.
LING_API int ling_rotate_heads(const float* x, int64_t x_stride, const float* cos, const float* sin,
                               int64_t stride, int64_t tokens, int64_t heads, int64_t head_dim,
                               int64_t half, float sign, float* out);

// SwiGLU of experts in float32, each on its own rows: expert e has rows [ends[e], ends[e + 1]);
// ends[0] is 0. Arrays have no gaps: x, y, dy and dx [rows, hidden]; gate and up [count, width,
// hidden], down [count, hidden, width], and their gradients like them; gu [rows, 2 width] is what
// the gradient needs of the forward pass. hidden and width are multiples of 16.
typedef struct {
  int64_t count, hidden, width;
  const int64_t* ends;
  const float *x, *gate, *up, *down;
  float *gu, *y;
} ling_experts;

LING_API int ling_experts_forward(const ling_experts* e);
// The gradients of weights are null where none is wanted; else 0 for an expert without rows. `y` is
// not read.
LING_API int ling_experts_gradient(const ling_experts* e, const float* dy, float* dx, float* dgate,
                                   float* dup, float* ddown);

// The k largest of each row of scores [rows, n], in order, of equal ones the lower index first and
// NaN before all others, to ids [rows, k].
LING_API int ling_top_k(const float* scores, int64_t rows, int64_t n, int64_t k, int64_t* ids);

// The row of each of n ids among rows that are sorted by id: those of id e begin at starts[e], and
// stay in order.
LING_API int ling_sorted_rows(const int64_t* ids, int64_t n, const int64_t* starts, int64_t count,
                              int64_t* rows);

// out [tokens, hidden] is the sum of a token's `each` rows of y times their weights; row i of them
// all is row slots[i] of y, which has `rows`. Slots are distinct. In float32.
typedef struct {
  int64_t tokens, each, hidden, rows;
  const int64_t* slots;
  const float *y, *weights;
  float* out;
} ling_combine;

LING_API int ling_combine_rows(const ling_combine* c);
// dy [rows, hidden], 0 where no slot is, and dweights [tokens, each]. `out` is not read.
LING_API int ling_combine_gradient(const ling_combine* c, const float* dout, float* dy,
                                   float* dweights);

// Values [rows, cols], bfloat16 or float32, quantised to E4M3 with a scale for each tile: 448 by
// the tile's largest magnitude, rounded down to a power of two if asked for; 1 where that is 0 or
// not finite. Tiles are 1 x 128 (LING_FP8_ROWS), 128 x 1 (LING_FP8_COLUMNS) or 128 x 128
// (LING_FP8_BLOCKS); those of many rows begin again with each group of rows, of which group i has
// [ends[i], ends[i + 1]); ends[0] is 0, the last one rows. Tiles at a border are smaller. Outputs,
// each of which may be null: the values widened again to bfloat16, codes (E4M3), both without gaps,
// and what a code is multiplied by, [rows or tiles, cols or tiles].
enum { LING_FP8_ROWS = 0, LING_FP8_COLUMNS = 1, LING_FP8_BLOCKS = 2 };

typedef struct {
  const void* x;
  int32_t x_is_bf16;
  int32_t tiles;
  int32_t power_of_two;
  int64_t rows, cols, stride;  // elements from a row of x to the next
  const int64_t* ends;         // [num_groups + 1]; not for LING_FP8_ROWS
  int64_t num_groups;
  uint16_t* rounded;
  uint8_t* codes;
  float* inverse;
} ling_fp8;

LING_API int ling_quantise_fp8(const ling_fp8* q);

// What a rank has of a parameter, and its moments: a byte per element and a scale per block of 256
// elements. `step` is -lr · c2 / c1, `eps` c2 · eps, `keep` 1 - lr · weight decay, where c1 = 1 -
// beta1^t and c2 = sqrt(1 - beta2^t).
typedef struct {
  int64_t n;
  float* p;
  const float* g;
  uint8_t *codes1, *codes2;
  float *absmax1, *absmax2;
  float beta1, beta2, step, eps, keep;
} ling_adam8_shard;

// A step of AdamW of all shards. tables [4, 256]: the values of the codes of the first moment,
// their upper limits (the last is infinite), and both of the second one.
LING_API int ling_adam8(const ling_adam8_shard* shards, int64_t count, const float* tables);
// Codes and scales of n values. map [2, 256]: values of the codes and their limits; is_signed says
// which of the two maps it is. With `given` scales are taken as they are.
LING_API int ling_quantise8(const float* x, int64_t n, const float* map, int is_signed, int given,
                            uint8_t* codes, float* absmax);
LING_API int ling_dequantise8(const uint8_t* codes, const float* absmax, int64_t n,
                              const float* map, float* out);

#ifdef __cplusplus
}
#endif
#endif
