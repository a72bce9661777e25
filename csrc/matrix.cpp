// Matrices on their own: packing, unpacking, and the product with rows of float32.
#include "matrix.h"

#include <math.h>
#include <string.h>

#include <chrono>
#include <vector>

#include "workspace.h"

namespace ling {
namespace {

// E4M3: 4 bits of exponent with bias 7, 3 of mantissa, no infinities.
float from_fp8(uint8_t bits) {
  const int size = bits & 127;
  const float value = size == 127 ? NAN
                      : size < 8  ? ldexpf(float(size), -9)
                                  : ldexpf(float(8 + size % 8), size / 8 - 10);
  return bits & 128 ? -value : value;
}

struct FP8Table {
  float value[256];
  FP8Table() {
    for (int i = 0; i < 256; ++i) value[i] = from_fp8(uint8_t(i));
  }
};

const FP8Table& fp8_table() {
  static const FP8Table table;
  return table;
}

// The byte of row r, column k in a tile of LING_FP8.
int64_t fp8_at(int64_t r, int64_t k) {
  return k / 4 * 64 + r / 4 * 16 + k % 4 / 2 * 8 + r % 4 * 2 + k % 2;
}

// The scale of group g in row r of a tile.
float scale_of(const ling_matrix& w, const uint8_t* scales, int64_t r, int64_t g) {
  if (w.format == LING_BF16) return 1;
  if (w.format == LING_FP8) return reinterpret_cast<const float*>(scales)[g];
  return from_bf16(reinterpret_cast<const uint16_t*>(scales)[g * kTile + r]);
}

// Value k of row r of a tile, before its scale.
template <int32_t format>
inline float element(const uint8_t* tile, int64_t r, int64_t k, const FP8Table& fp8) {
  if constexpr (format == LING_BF16)
    return from_bf16(reinterpret_cast<const uint16_t*>(tile)[k / 2 * 32 + r * 2 + k % 2]);
  if constexpr (format == LING_FP8) return fp8.value[tile[fp8_at(r, k)]];
  if constexpr (format == LING_I8) return float(tile[k / 4 * 64 + r * 4 + k % 4]) - 128;
  if constexpr (format == LING_I3) {
    const uint8_t* block = tile + k / 32 * 192 + r * 4 + k % 4;
    const int64_t i = k % 32 / 8, half = k % 8 / 4;
    const int low = block[i / 2 * 64] >> (4 * half + 2 * (i % 2)) & 3;
    return kInt3Levels[low | (block[128] >> (4 * half + i) & 1) << 2];
  }
  const uint8_t byte = tile[k / 8 * 64 + r * 4 + k % 4];
  return kInt4Levels[k % 8 < 4 ? byte & 15 : byte >> 4];
}

// The rows of one tile as float32.
template <int32_t format>
void unpack_tile(const ling_matrix& w, int64_t tile, float* out) {
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w);
  const uint8_t* scales = static_cast<const uint8_t*>(w.scales) + tile * tile_scale_bytes(w);
  const FP8Table& fp8 = fp8_table();
  for (int64_t r = 0; r < kTile && tile * kTile + r < w.rows; ++r)
    for (int64_t start = 0; start < w.cols; start += w.group) {
      const float scale = scale_of(w, scales, r, start / w.group);
      const int64_t end = start + w.group < w.cols ? start + w.group : w.cols;
      float* row = out + (tile * kTile + r) * w.cols;
      for (int64_t k = start; k < end; ++k) row[k] = element<format>(data, r, k, fp8) * scale;
    }
}

// Rows [row, row + 16) of E4M3 values into a tile.
void pack_fp8_tile(const ling_matrix& m, const uint8_t* values, int64_t stride, int64_t row,
                   uint8_t* out) {
  const int64_t whole = m.rows - row < kTile ? 0 : m.cols / 4 * 4;
  for (int64_t k = 0; k < whole; k += 4)
    for (int64_t r = 0; r < kTile; r += 4) {
      uint16_t from[4][2], to[2][4];  // rows × pairs of columns, and transposed
      for (int i = 0; i < 4; ++i) memcpy(from[i], values + (row + r + i) * stride + k, 4);
      for (int i = 0; i < 4; ++i) to[0][i] = from[i][0], to[1][i] = from[i][1];
      memcpy(out + fp8_at(r, k), to, sizeof to);
    }
  for (int64_t k = whole; k < padded_cols(m); ++k)
    for (int64_t r = 0; r < kTile; ++r)
      out[fp8_at(r, k)] = row + r < m.rows && k < m.cols ? values[(row + r) * stride + k] : 0;
}

}  // namespace

void pack(const IsaKernels& kernels, const ling_matrix& to, const Weights& from) {
  parallel_for(tiles(to), [&](int64_t tile, int) {
    // Where the matrix would begin if its tiles were those of the part, next to each other.
    const int64_t at = tile / from.count, shift = tile - at;
    kernels.pack(to.format, to.group, to.rows / from.count, to.cols, from.parts[tile % from.count],
                 from.bf16, from.stride, from.importance, at, at + 1,
                 (uint8_t*)to.data + shift * tile_bytes(to),
                 (uint8_t*)to.scales + shift * tile_scale_bytes(to));
  });
}

void pack_fp8(const ling_matrix& to, const uint8_t* values, int64_t stride,
              const float* block_scales, TileStep at) {
  const int64_t groups = padded_cols(to) / to.group;
  parallel_for(tiles(to), [&](int64_t tile, int) {
    const int64_t row = tile * kTile, into = at.first + tile * at.step;
    // A tile is part of one block of rows: 128 is a multiple of 16.
    memcpy((float*)to.scales + into * groups, block_scales + row / 128 * groups,
           size_t(groups) * 4);
    pack_fp8_tile(to, values, stride, row, (uint8_t*)to.data + into * tile_bytes(to));
  });
}

void widen_fp8(const IsaKernels& kernels, const uint8_t* q, int64_t rows, int64_t cols,
               const float* scales, int64_t block, uint16_t* out) {
  parallel_for(rows, [&](int64_t r, int) {
    const float* scale = scales + r / block * ceil_div(cols, block);
    for (int64_t first = 0; first < cols; first += block, ++scale) {
      const int64_t n = first + block < cols ? block : cols - first;
      kernels.widen_e4m3(q + r * cols + first, n, *scale, out + r * cols + first);
    }
  });
}

void unpack(const ling_matrix& w, float* out) {
  parallel_for(tiles(w), [&](int64_t tile, int) {
    switch (w.format) {
      case LING_I4: return unpack_tile<LING_I4>(w, tile, out);
      case LING_I3: return unpack_tile<LING_I3>(w, tile, out);
      case LING_I8: return unpack_tile<LING_I8>(w, tile, out);
      case LING_FP8: return unpack_tile<LING_FP8>(w, tile, out);
      default: return unpack_tile<LING_BF16>(w, tile, out);
    }
  });
}

void unpack_bf16(const IsaKernels& kernels, const ling_matrix& w, uint16_t* out) {
  parallel_for(tiles(w), [&](int64_t tile, int) { kernels.unpack(w, tile, out); });
}

void matmul(const IsaKernels& kernels, const ling_matrix& w, const float* x, float* y, int64_t T) {
  const int threads = num_threads();
  const int64_t room = scratch_bytes(w), chunk = 4;
  Activations in;
  in.reserve(w, T);
  Buffer<uint8_t> scratch;
  scratch.reserve(threads * room);
  std::vector<float*> out(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t) out[size_t(t)] = y + t * w.rows;
  const Product p = {w, T, in.rows.data(), out.data(), nullptr, nullptr, Epilogue::kStore};
  in_team(threads, [&](Team& team) {
    stage(team, T, [&](int64_t t, int) { in.put(kernels, w, t, x + t * w.cols); });
    stage(team, ceil_div(tiles(w), chunk), [&](int64_t task, int thread) {
      const int64_t end = (task + 1) * chunk < tiles(w) ? (task + 1) * chunk : tiles(w);
      kernels.product(p, task * chunk, end, scratch.data() + thread * room);
    });
  });
}

double read_seconds(const IsaKernels& kernels, const void* data, int64_t bytes) {
  const int64_t part = 1 << 20;
  std::atomic<float> sink{0};  // of all threads; only that it is written matters
  const auto start = std::chrono::steady_clock::now();
  parallel_for(bytes / part, [&](int64_t i, int) {
    const uint8_t* from = static_cast<const uint8_t*>(data) + i * part;
    sink.store(kernels.read(from, part), std::memory_order_relaxed);
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace ling
