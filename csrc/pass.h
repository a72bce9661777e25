// One forward pass: a chain of stages (internal.h: Team).
#ifndef LING_PASS_H
#define LING_PASS_H
#include <chrono>

#include "model.h"

namespace ling {

struct Pass {
  using Clock = std::chrono::steady_clock;

  ling_model& m;
  Team& team;
  int64_t T;
  const ling_segment* segments;
  int64_t num_segments;
  Trace trace;
  bool has_adapters = false;  // whether any row has one
  Clock::time_point mark = Clock::now();

  const ling_model_config& c() const { return m.c; }
  Workspace& work() const { return m.work; }
  uint8_t* scratch(int thread) const {
    return work().scratch.data() + thread * work().scratch_stride;
  }

  template <class F>
  void run(int64_t tasks, const F& f) {
    stage(team, tasks, f);
  }

  // The time since the last mark belongs to `s`.
  void spent(Stage s) {
    const Clock::time_point now = Clock::now();
    m.seconds[s] += std::chrono::duration<double>(now - mark).count();
    mark = now;
  }

  // Tiles [begin, end) of a product, as far as it has them.
  void multiply_tiles(const Product& p, int64_t begin, int64_t end, int thread) {
    m.kernels->product(p, begin, end < tiles(p.w) ? end : tiles(p.w), scratch(thread));
  }

  void multiply(const Product& p) {
    // Few rows: long reads of memory. Many: short ones, so that threads finish together.
    const int64_t chunk = p.m <= 8 ? 4 : 2;
    run(ceil_div(tiles(p.w), chunk), [&](int64_t task, int thread) {
      multiply_tiles(p, task * chunk, (task + 1) * chunk, thread);
    });
  }

  // The residual stream, normed, as input of `w`.
  void norm_rows(const float* weight, const ling_matrix& w) {
    const int64_t D = c().hidden_size;
    run(T, [&](int64_t t, int) {
      float* y = work().norm.data() + t * D;
      m.kernels->rms_norm(work().x.data() + t * D, weight, c().rms_norm_eps, D, y);
      work().in.put(*m.kernels, w, t, y);
    });
    spent(kPrepare);
  }
};

}  // namespace ling
#endif
