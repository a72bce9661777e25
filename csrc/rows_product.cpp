// Packed matrices times rows of bfloat16, of a stack each with its own: the forward pass of
// training over frozen weights. A task has some rows of a matrix and some of its tiles, so that
// what it works in stays in the cache of its core; results are those of `matmul`, rounded.
#include "rows_product.h"

#include <vector>

#include "workspace.h"

namespace ling {
namespace {

constexpr int64_t kTaskRows = 64, kTaskTiles = 128;

// Rows [row, row + rows) times tiles [tile, tile + tiles) of one matrix.
struct RowsTask {
  ling_matrix w;  // of these tiles
  int64_t row, rows, tile;
};

// What a thread works in.
struct Room {
  Activations in;
  Buffer<float> wide, out;
  Buffer<float*> out_rows;
  Buffer<uint8_t> scratch;

  void reserve(const ling_matrix& w) {
    in.reserve(w, kTaskRows);
    wide.reserve(w.cols);
    out.reserve(kTaskRows * kTaskTiles * kTile), out_rows.reserve(kTaskRows);
    scratch.reserve(scratch_bytes(w));
  }
};

// Tiles [tile, tile + count) of matrix e of a stack.
ling_matrix part_of(const ling_matrix& w, int64_t e, int64_t tile, int64_t count) {
  const int64_t at = e * tiles(w) + tile, left = w.rows - tile * kTile;
  ling_matrix part = w;
  part.data = static_cast<const uint8_t*>(w.data) + at * tile_bytes(w);
  if (w.scales) part.scales = static_cast<const uint8_t*>(w.scales) + at * tile_scale_bytes(w);
  part.rows = count * kTile < left ? count * kTile : left;
  return part;
}

std::vector<RowsTask> tasks_of(const RowsProduct& p) {
  std::vector<RowsTask> found;
  for (int64_t e = 0; e < p.count; ++e)
    for (int64_t row = p.ends[e]; row < p.ends[e + 1]; row += kTaskRows)
      for (int64_t tile = 0; tile < tiles(p.w); tile += kTaskTiles) {
        const int64_t rows = std::min(kTaskRows, p.ends[e + 1] - row);
        found.push_back({part_of(p.w, e, tile, kTaskTiles), row, rows, tile});
      }
  return found;
}

// The finished columns of a row, whose first tile is `tile`, to bfloat16.
void put_row(const IsaKernels& kernels, const RowsProduct& p, const float* from, int64_t tile,
             int64_t cols, uint16_t* y) {
  if (!p.pairs) return kernels.round_row(from, cols, cols, y + tile * kTile);
  for (int64_t t = 0; t < cols / kTile; ++t) {
    const int64_t pair = (tile + t) / 2, second = (tile + t) % 2;
    kernels.round_row(from + t * kTile, kTile, kTile, y + second * (p.w.rows / 2) + pair * kTile);
  }
}

void run(const IsaKernels& kernels, const RowsProduct& p, const RowsTask& task, Room& room) {
  for (int64_t i = 0; i < task.rows; ++i) {
    const uint16_t* x = p.x + (task.row + i) * p.w.cols;
    for (int64_t k = 0; k < p.w.cols; ++k) room.wide.data()[k] = from_bf16(x[k]);
    room.in.put(kernels, task.w, i, room.wide.data());
    room.out_rows.data()[i] = room.out.data() + i * task.w.rows;
  }
  const Product product = {task.w,  task.rows, room.in.rows.data(), room.out_rows.data(),
                           nullptr, nullptr,   Epilogue::kStore};
  kernels.product(product, 0, tiles(task.w), room.scratch.data());
  for (int64_t i = 0; i < task.rows; ++i)
    put_row(kernels, p, room.out_rows.data()[i], task.tile, task.w.rows,
            p.y + (task.row + i) * p.w.rows);
}

}  // namespace

void multiply_rows(const IsaKernels& kernels, const RowsProduct& p) {
  const std::vector<RowsTask> tasks = tasks_of(p);
  const int threads = num_threads();
  std::vector<Room> rooms(static_cast<size_t>(threads));
  // Nothing may allocate, so throw, once the threads run.
  for (Room& room : rooms) room.reserve(p.w);
  in_team(threads, [&](Team& team) {
    stage(team, int64_t(tasks.size()),
          [&](int64_t i, int thread) { run(kernels, p, tasks[size_t(i)], rooms[size_t(thread)]); });
  });
}

}  // namespace ling
