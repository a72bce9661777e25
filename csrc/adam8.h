// AdamW with moments of one byte (adam8.cpp), of arguments that were checked. Whatever allocates
// may throw std::bad_alloc.
#ifndef LING_ADAM8_H
#define LING_ADAM8_H
#include "internal.h"

namespace ling {

// A task has this many elements of a shard, whole blocks: the tables of a task are made for it.
constexpr int64_t kAdam8Task = 256 * kAdam8Block;

void adam8_step(const IsaKernels& kernels, const ling_adam8_shard* shards, int64_t count,
                const float* tables);

// f(first, how many) of n elements, in parallel.
template <class F>
void over_blocks(int64_t n, const F& f) {
  parallel_for((n + kAdam8Task - 1) / kAdam8Task, [&](int64_t task, int) {
    const int64_t first = task * kAdam8Task, left = n - first;
    f(first, left < kAdam8Task ? left : kAdam8Task);
  });
}

}  // namespace ling
#endif
