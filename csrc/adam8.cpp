// A step of AdamW over shards of all sizes: which part of which shard a task is.
#include "adam8.h"

#include <algorithm>
#include <vector>

namespace ling {

void adam8_step(const IsaKernels& kernels, const ling_adam8_shard* shards, int64_t count,
                const float* tables) {
  std::vector<int64_t> ends;  // of the tasks of each shard
  int64_t tasks = 0;
  for (int64_t i = 0; i < count; ++i)
    ends.push_back(tasks += (shards[i].n + kAdam8Task - 1) / kAdam8Task);
  parallel_for(tasks, [&](int64_t task, int) {
    const auto at = std::upper_bound(ends.begin(), ends.end(), task) - ends.begin();
    const ling_adam8_shard& s = shards[at];
    const int64_t first = (task - (at ? ends[size_t(at) - 1] : 0)) * kAdam8Task;
    kernels.adam8(s, first, std::min(kAdam8Task, s.n - first), tables);
  });
}

}  // namespace ling
