#include "internal.h"
#include "ling_kernels.h"
#ifdef _OPENMP
#include <omp.h>
#endif

static int num_threads = 0;  // 0: what OpenMP would take

extern "C" int ling_set_num_threads(int n) {
  if (n < 1 || n > 4096) return ling_fail(LING_BAD_ARGUMENT, "the thread count must be 1 to 4096");
  num_threads = n;
  return LING_OK;
}

void ling_parallel_for(int64_t n, void (*body)(void*, int64_t), void* context) {
#ifdef _OPENMP
  const int threads = num_threads ? num_threads : omp_get_max_threads();
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
  for (int64_t i = 0; i < n; ++i) body(context, i);
}
