// Matrices on their own: sizes, packing, unpacking, and the product with rows of float32.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>
#include <chrono>
#include <new>
#include <vector>

#include "internal.h"

namespace ling {
namespace {

const int8_t kLevels[16] = {-127, -98, -77, -61, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 82, 105};

float from_bf16(uint16_t bits) {
  const uint32_t u = uint32_t(bits) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// E4M3: 4 bits of exponent with bias 7, 3 of mantissa, no infinities.
float from_f8(uint8_t bits) {
  const int size = bits & 127;
  const float value = size == 127 ? NAN
                      : size < 8  ? ldexpf(float(size), -9)
                                  : ldexpf(float(8 + size % 8), size / 8 - 10);
  return bits & 128 ? -value : value;
}

struct F8Table {
  float value[256];
  F8Table() {
    for (int i = 0; i < 256; ++i) value[i] = from_f8(uint8_t(i));
  }
};

const F8Table& f8_table() {
  static const F8Table table;
  return table;
}

// Where column k of row r lies in a tile of LING_F8.
int64_t f8_at(int64_t r, int64_t k) {
  return k / 4 * 64 + r / 4 * 16 + k % 4 / 2 * 8 + r % 4 * 2 + k % 2;
}

// The scale of group g in row r of a tile.
float scale_of(const ling_matrix& w, const uint8_t* scales, int64_t r, int64_t g) {
  if (w.kind == LING_BF16) return 1;
  if (w.kind == LING_F8) return reinterpret_cast<const float*>(scales)[g];
  return from_bf16(reinterpret_cast<const uint16_t*>(scales)[g * kTile + r]);
}

// Value k of row r of a tile, before its scale.
template <int32_t kind>
inline float element(const uint8_t* tile, int64_t r, int64_t k, const F8Table& f8) {
  if constexpr (kind == LING_BF16)
    return from_bf16(reinterpret_cast<const uint16_t*>(tile)[k / 2 * 32 + r * 2 + k % 2]);
  if constexpr (kind == LING_F8) return f8.value[tile[f8_at(r, k)]];
  if constexpr (kind == LING_I8) return float(tile[k / 4 * 64 + r * 4 + k % 4]) - 128;
  const uint8_t byte = tile[k / 8 * 64 + r * 4 + k % 4];
  return kLevels[k % 8 < 4 ? byte & 15 : byte >> 4];
}

// The rows of one tile as float32.
template <int32_t kind>
void unpack_tile(const ling_matrix& w, int64_t tile, float* out) {
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w);
  const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + tile * tile_scale_bytes(w);
  const F8Table& f8 = f8_table();
  for (int64_t r = 0; r < kTile && tile * kTile + r < w.rows; ++r)
    for (int64_t start = 0; start < w.cols; start += w.group) {
      const float scale = scale_of(w, scales, r, start / w.group);
      const int64_t end = start + w.group < w.cols ? start + w.group : w.cols;
      float* row = out + (tile * kTile + r) * w.cols;
      for (int64_t k = start; k < end; ++k) row[k] = element<kind>(data, r, k, f8) * scale;
    }
}

int matmul(const ling_matrix& w, const float* x, float* y, int64_t T) {
  const Level* kernels = level();
  const int64_t padded = padded_cols(w), groups = padded / w.group;
  std::vector<uint16_t> values(T * padded);  // room for either form
  std::vector<float> scales(T * groups);
  std::vector<int32_t> sums(T * groups);
  std::vector<Row> rows(T);
  std::vector<float*> out(T);
  const int threads = num_threads();
  std::vector<uint8_t> scratch(threads * scratch_bytes(w));
  for (int64_t t = 0; t < T; ++t) out[t] = y + t * w.rows;
  auto prepare = [&](int64_t t, int) {
    uint16_t* q = &values[t * padded];
    if (floats(w.kind)) {
      kernels->round_row(x + t * w.cols, w.cols, padded, q);
      rows[t] = {q, nullptr, nullptr};
    } else {
      kernels->quantise_row(x + t * w.cols, w.cols, padded, w.group, reinterpret_cast<int8_t*>(q),
                            &scales[t * groups], &sums[t * groups]);
      rows[t] = {q, &scales[t * groups], &sums[t * groups]};
    }
  };
  const Product p = {w, T, rows.data(), out.data(), nullptr, nullptr, Epilogue::kStore};
  auto multiply = [&](int64_t task, int thread) {
    const int64_t end = 4 * (task + 1) < tiles(w) ? 4 * (task + 1) : tiles(w);
    kernels->product(p, 4 * task, end, &scratch[thread * scratch_bytes(w)]);
  };
  struct Both {
    int64_t T, tasks;
    decltype(prepare)* first;
    decltype(multiply)* second;
  } both = {T, ceil_div(tiles(w), 4), &prepare, &multiply};
  Team::run(
      [](void* c, Team& team, int thread) {
        Both& b = *static_cast<Both*>(c);
        stage(team, thread, b.T, *b.first);
        stage(team, thread, b.tasks, *b.second);
      },
      &both, threads);
  return LING_OK;
}

// Nearest even; NaN stays NaN.
uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return (u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// A matrix from `count` parts whose tiles take turns.
int pack(const ling_matrix& m, const void* const* parts, int count, bool bf16, int64_t stride,
         const float* importance) {
  const Level* kernels = level();
  if (!kernels) return LING_BAD_ISA;
  if (const char* wrong = check_matrix(m)) return fail(LING_BAD_ARGUMENT, wrong);
  if (m.kind == LING_F8) return fail(LING_BAD_ARGUMENT, "FP8 is laid out by ling_pack_f8");
  for (int i = 0; i < count; ++i)
    if (!parts[i] || stride < m.cols)
      return fail(LING_BAD_ARGUMENT, "weights: null, or the stride is too small");
  auto body = [&](int64_t tile, int) {
    // Where the matrix would begin if its tiles were those of the part, next to each other.
    const int64_t from = tile / count, shift = tile - from;
    kernels->pack(m.kind, m.group, m.rows / count, m.cols, parts[tile % count], bf16, stride,
                  importance, from, from + 1, (uint8_t*)m.data + shift * tile_bytes(m),
                  (uint8_t*)m.scales + shift * tile_scale_bytes(m));
  };
  parallel_for(
      tiles(m), [](void* c, int64_t i, int t) { (*static_cast<decltype(body)*>(c))(i, t); }, &body);
  return LING_OK;
}

}  // namespace
}  // namespace ling

using namespace ling;

extern "C" int ling_read_seconds(const void* data, int64_t bytes, double* seconds) {
  const Level* kernels = level();
  if (!kernels) return LING_BAD_ISA;
  if (!data || !seconds || bytes < 1 << 20)
    return fail(LING_BAD_ARGUMENT, "null, or less than 1 MiB");
  const int64_t part = 1 << 20;
  std::atomic<float> sink{0};  // of all threads; only that it is written matters
  auto body = [&](int64_t i, int) {
    const uint8_t* from = static_cast<const uint8_t*>(data) + i * part;
    sink.store(kernels->read(from, part), std::memory_order_relaxed);
  };
  const auto start = std::chrono::steady_clock::now();
  parallel_for(
      bytes / part, [](void* c, int64_t i, int t) { (*static_cast<decltype(body)*>(c))(i, t); },
      &body);
  *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return LING_OK;
}

// Page tables for a mapped file, ahead of the first read: a fault per 64 KiB would slow the first
// tokens.
extern "C" int ling_map_in(const void* data, int64_t bytes) {
  if (!data || bytes < 0) return fail(LING_BAD_ARGUMENT, "null pointer");
#ifdef __linux__
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / 4096 * 4096;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + bytes;
  // MADV_POPULATE_READ; kernels before 5.14 do not know it, and then pages come as they are read.
  madvise(reinterpret_cast<void*>(begin), end - begin, 22);
#endif
  return LING_OK;
}

extern "C" const int8_t* ling_int4_levels(void) { return kLevels; }

extern "C" int ling_packed_size(int32_t kind, int32_t group, int64_t rows, int64_t cols,
                                int64_t* data_bytes, int64_t* scale_bytes) {
  const ling_matrix w = {kind, group, rows, cols, "", ""};
  if (!data_bytes || !scale_bytes) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (const char* wrong = check_matrix(w)) return fail(LING_BAD_ARGUMENT, wrong);
  *data_bytes = tiles(w) * tile_bytes(w);
  *scale_bytes = tiles(w) * tile_scale_bytes(w);
  return LING_OK;
}

extern "C" int ling_pack(int32_t kind, int32_t group, int64_t rows, int64_t cols, const void* w,
                         int32_t w_is_bf16, int64_t row_stride, const float* importance, void* data,
                         void* scales) {
  const ling_matrix m = {kind, group, rows, cols, data, scales};
  const void* const parts[] = {w};
  return pack(m, parts, 1, w_is_bf16 != 0, row_stride, importance);
}

extern "C" int ling_pack_pair(int32_t kind, int32_t group, int64_t rows, int64_t cols,
                              const void* a, const void* b, int32_t w_is_bf16, int64_t row_stride,
                              const float* importance, void* data, void* scales) {
  if (rows % (2 * kTile)) return fail(LING_BAD_ARGUMENT, "the rows of a pair are not whole tiles");
  const ling_matrix m = {kind, group, rows, cols, data, scales};
  const void* const parts[] = {a, b};
  return pack(m, parts, 2, w_is_bf16 != 0, row_stride, importance);
}

extern "C" int ling_widen_f8(const uint8_t* q, int64_t rows, int64_t cols, const float* scales,
                             int64_t block, uint16_t* out) {
  if (!q || !scales || !out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (rows < 1 || cols < 1 || block < 1) return fail(LING_BAD_ARGUMENT, "sizes out of range");
  const F8Table& table = f8_table();
  auto body = [&](int64_t r, int) {
    const float* scale = scales + r / block * ceil_div(cols, block);
    for (int64_t first = 0; first < cols; first += block, ++scale) {
      const int64_t end = first + block < cols ? first + block : cols;
      const float s = *scale;
      for (int64_t k = r * cols + first; k < r * cols + end; ++k)
        out[k] = to_bf16(table.value[q[k]] * s);
    }
  };
  parallel_for(
      rows, [](void* c, int64_t i, int t) { (*static_cast<decltype(body)*>(c))(i, t); }, &body);
  return LING_OK;
}

extern "C" int ling_pack_f8(int64_t rows, int64_t cols, const uint8_t* values, int64_t row_stride,
                            const float* block_scales, int64_t first, int64_t step, void* data,
                            void* scales) {
  const ling_matrix m = {LING_F8, 128, rows, cols, data, scales};
  if (const char* wrong = check_matrix(m)) return fail(LING_BAD_ARGUMENT, wrong);
  if (!values || !block_scales || row_stride < cols)
    return fail(LING_BAD_ARGUMENT, "FP8 weights: null, or the stride is too small");
  const int64_t most = int64_t(1) << 32;
  if (first < 0 || first > most || step < 1 || step > most)
    return fail(LING_BAD_ARGUMENT, "the first tile or the step between tiles is out of range");
  auto body = [&](int64_t tile, int) {
    const int64_t to = first + tile * step, row = tile * kTile, groups = padded_cols(m) / m.group;
    uint8_t* out = static_cast<uint8_t*>(data) + to * tile_bytes(m);
    // A tile lies in one block of rows: 128 is a multiple of 16.
    memcpy(static_cast<float*>(scales) + to * groups, block_scales + row / 128 * groups,
           groups * 4);
    const int64_t whole = rows - row < kTile ? 0 : cols / 4 * 4;
    for (int64_t k = 0; k < whole; k += 4)
      for (int64_t r = 0; r < kTile; r += 4) {
        uint16_t from[4][2], to[2][4];  // rows × pairs of columns, and the other way round
        for (int i = 0; i < 4; ++i) memcpy(from[i], values + (row + r + i) * row_stride + k, 4);
        for (int i = 0; i < 4; ++i) to[0][i] = from[i][0], to[1][i] = from[i][1];
        memcpy(out + f8_at(r, k), to, sizeof to);
      }
    for (int64_t k = whole; k < padded_cols(m); ++k)
      for (int64_t r = 0; r < kTile; ++r)
        out[f8_at(r, k)] = row + r < rows && k < cols ? values[(row + r) * row_stride + k] : 0;
  };
  parallel_for(
      tiles(m), [](void* c, int64_t i, int t) { (*static_cast<decltype(body)*>(c))(i, t); }, &body);
  return LING_OK;
}

extern "C" int ling_unpack(const ling_matrix* w, float* out) {
  if (!w || !out) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (const char* wrong = check_matrix(*w)) return fail(LING_BAD_ARGUMENT, wrong);
  auto body = [&](int64_t tile, int) {
    switch (w->kind) {
      case LING_I4: return unpack_tile<LING_I4>(*w, tile, out);
      case LING_I8: return unpack_tile<LING_I8>(*w, tile, out);
      case LING_F8: return unpack_tile<LING_F8>(*w, tile, out);
      default: return unpack_tile<LING_BF16>(*w, tile, out);
    }
  };
  parallel_for(
      tiles(*w), [](void* c, int64_t i, int t) { (*static_cast<decltype(body)*>(c))(i, t); },
      &body);
  return LING_OK;
}

extern "C" int ling_matmul(const ling_matrix* w, const float* x, float* y, int64_t T) {
  if (!level()) return LING_BAD_ISA;
  if (!w) return fail(LING_BAD_ARGUMENT, "null pointer");
  if (const char* wrong = check_matrix(*w)) return fail(LING_BAD_ARGUMENT, wrong);
  if (T < 0 || T > (int64_t(1) << 24))
    return fail(LING_BAD_ARGUMENT, "the number of rows is out of range");
  if (T == 0) return LING_OK;
  if (!x || !y) return fail(LING_BAD_ARGUMENT, "null pointer");
  try {
    return matmul(*w, x, y, T);
  } catch (const std::bad_alloc&) {
    return fail(LING_NO_MEMORY, "not enough memory for the activations");
  }
}
