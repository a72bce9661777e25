// How matrices and KV pages are stored, in numbers: ling_kernels.h describes the layouts. A new
// format starts here, with its rows in the functions below.
//
// Everything is static: a weak copy compiled for AVX-512 could replace the one that older machines
// run.
#ifndef LING_FORMATS_H
#define LING_FORMATS_H
#include <stdint.h>
#include <string.h>

#include "ling_kernels.h"

namespace ling {

constexpr int64_t kTile = 16;  // rows of a packed tile: the lanes of a vector
constexpr int64_t kPage = 64;  // positions of a KV page

// The values of LING_I4 codes: Lloyd-Max for normal weights whose group scale minimises the squared
// error (groups of 32 and 64), largest magnitude 127. See docs/concepts/formats.md. Python has the
// same ones in ops/formats.py, and a test compares them.
constexpr int8_t kInt4Levels[16] = {-127, -98, -77, -61, -46, -33, -21, -9,
                                    2,    13,  24,  36,  49,  64,  82,  105};

// Those of LING_I3, for groups of 128.
constexpr int8_t kInt3Levels[8] = {-127, -77, -44, -17, 8, 34, 65, 106};

// Levels + 128, as bytes: what a code is expanded to, and how LING_I8 stores its values. Those of 3
// bits are there twice: a code's fourth bit may be anything.
struct LevelBytes {
  uint8_t value[16];
};
static constexpr LevelBytes level_bytes(const int8_t* levels, int count) {
  LevelBytes bytes = {};
  for (int code = 0; code < 16; ++code) bytes.value[code] = uint8_t(levels[code % count] + 128);
  return bytes;
}
constexpr LevelBytes kInt4Bytes = level_bytes(kInt4Levels, 16);
constexpr LevelBytes kInt3Bytes = level_bytes(kInt3Levels, 8);

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t padded_cols(const ling_matrix& w) {
  return ceil_div(w.cols, w.group) * w.group;
}
static inline int64_t tiles(const ling_matrix& w) { return ceil_div(w.rows, kTile); }
static inline int64_t tile_bytes(const ling_matrix& w) {
  const int64_t n = kTile * padded_cols(w);
  return w.format == LING_I4     ? n / 2
         : w.format == LING_I3   ? n / 8 * 3
         : w.format == LING_BF16 ? 2 * n
                                 : n;
}
static inline const uint8_t* tile_data(const ling_matrix& w, int64_t tile) {
  return static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w);
}
static inline int64_t tile_scale_bytes(const ling_matrix& w) {
  if (w.format == LING_BF16) return 0;
  return padded_cols(w) / w.group * (w.format == LING_FP8 ? 4 : 2 * kTile);
}
// The one group that a format has, or 0 where it is chosen for each matrix.
static inline int32_t only_group(int32_t format) {
  return format == LING_BF16 ? 2 : format == LING_FP8 ? 128 : 0;
}
// What a format's group is a multiple of, where it is chosen for each matrix.
static inline int32_t group_step(int32_t format) { return format == LING_I3 ? 32 : 16; }
// Whether a format is multiplied with activations in bfloat16 instead of integers.
static inline bool bf16_activations(int32_t format) {
  return format == LING_BF16 || format == LING_FP8;
}

// Bytes of one kv head's keys or values in a page.
static inline int64_t kv_bytes(int32_t format, int64_t head_dim) {
  if (format == LING_BF16) return kPage * head_dim * 2;
  return kPage * (head_dim / (format == LING_I4 ? 2 : 1) + int64_t(sizeof(float)));
}

static inline float from_bf16(uint16_t bits) {
  const uint32_t u = uint32_t(bits) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
// To bfloat16 from the bits of a float: nearest even, and NaN stays NaN.
static inline uint16_t round_to_bf16(uint32_t u) {
  return (u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static inline uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return round_to_bf16(u);
}

}  // namespace ling
#endif
