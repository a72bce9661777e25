// Quantising to FP8 as training does it: what is a task, and where its outputs are.
#include "fp8_tiles.h"

#include <vector>

namespace ling {

namespace {

constexpr int64_t kTileSize = 128;
constexpr int64_t kRowsOfTask = 16;

int64_t tiles_of(int64_t n) { return (n + kTileSize - 1) / kTileSize; }

// The outputs from an element on; null stays null.
template <class T>
T* from(T* p, int64_t at) {
  return p ? p + at : nullptr;
}

const void* value(const ling_fp8& q, int64_t row, int64_t column) {
  return static_cast<const uint8_t*>(q.x) + (row * q.stride + column) * (q.x_is_bf16 ? 2 : 4);
}

void quantise_rows(const IsaKernels& kernels, const ling_fp8& q) {
  const int64_t tiles = tiles_of(q.cols);
  parallel_for((q.rows + kRowsOfTask - 1) / kRowsOfTask, [&](int64_t task, int) {
    const int64_t first = task * kRowsOfTask;
    const int64_t end = first + kRowsOfTask < q.rows ? first + kRowsOfTask : q.rows;
    for (int64_t r = first; r < end; ++r)
      kernels.quantise_fp8_row(value(q, r, 0), q.x_is_bf16, q.cols, q.power_of_two,
                               from(q.rounded, r * q.cols), from(q.codes, r * q.cols),
                               from(q.inverse, r * tiles));
  });
}

// The first row of each tile of rows, and behind them the end.
std::vector<int64_t> first_rows(const ling_fp8& q) {
  std::vector<int64_t> firsts;
  for (int64_t g = 0; g < q.num_groups; ++g)
    for (int64_t r = q.ends[g]; r < q.ends[g + 1]; r += kTileSize) firsts.push_back(r);
  firsts.push_back(q.rows);
  return firsts;
}

void quantise_areas(const IsaKernels& kernels, const ling_fp8& q) {
  const bool blocks = q.tiles == LING_FP8_BLOCKS;
  const std::vector<int64_t> firsts = first_rows(q);
  const int64_t strips = tiles_of(q.cols), scales = blocks ? strips : q.cols;
  parallel_for(int64_t(firsts.size() - 1) * strips, [&](int64_t task, int) {
    const int64_t tile = task / strips, strip = task % strips, column = strip * kTileSize;
    const int64_t first = firsts[size_t(tile)], cols = q.cols - column;
    const Fp8Area area = {q.stride,
                          firsts[size_t(tile) + 1] - first,
                          cols < kTileSize ? cols : kTileSize,
                          q.cols,
                          q.power_of_two != 0,
                          blocks};
    const int64_t at = first * q.cols + column;
    kernels.quantise_fp8_area(value(q, first, column), q.x_is_bf16, area, from(q.rounded, at),
                              from(q.codes, at),
                              from(q.inverse, tile * scales + (blocks ? strip : column)));
  });
}

}  // namespace

void quantise_fp8(const IsaKernels& kernels, const ling_fp8& q) {
  if (q.tiles == LING_FP8_ROWS) return quantise_rows(kernels, q);
  quantise_areas(kernels, q);
}

}  // namespace ling
