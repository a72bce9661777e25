// Runs without Python: every level gives the integers of the portable one. Built with sanitizers.
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "internal.h"
#include "ling_kernels.h"

int main() {
  const char* isa = nullptr;
  if (ling_isa(&isa)) return fprintf(stderr, "%s\n", ling_last_error()), 1;
  srand(1);
  for (int64_t k = 1; k < 300; ++k) {
    const int64_t T = 1 + k % 3, N = 1 + k % 70;
    std::vector<int8_t> x(T * k), w(N * k);
    for (auto& v : x) v = int8_t(rand() % 255 - 127);
    for (auto& v : w) v = int8_t(rand() % 255 - 127);
    std::vector<float> xs(T, 0.5f), ws(N, 0.25f), y(T * N);
    if (ling_gemv_i8_i8(x.data(), xs.data(), w.data(), ws.data(), y.data(), T, N, k)) return 1;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = 0; n < N; ++n) {
        const float want = float(ling_dot_i8_generic(&x[t * k], &w[n * k], k)) * (xs[t] * ws[n]);
        if (want != y[t * N + n]) return fprintf(stderr, "%s: k=%d differs\n", isa, int(k)), 1;
      }
  }
  if (ling_gemv_i8_i8(nullptr, nullptr, nullptr, nullptr, nullptr, 1, 1, 1) != LING_BAD_ARGUMENT) return 1;
  printf("%s: ok\n", isa);
  return 0;
}
