// The interface functions: check arguments, pick the level once, call it.
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "ling_kernels.h"

static thread_local const char* last_error = "";

int ling_fail(int status, const char* text) {
  last_error = text;
  return status;
}

namespace {

struct Level {
  const char* name;
  ling_dot_i8 dot_i8;
};

struct Choice {
  Level level;
  const char* error;
};

Choice choose() {
  const char* names[] = {"generic", "avx2", "avx512vnni"};
  const char* word = getenv("LING_ISA");
  int cap = 2;
  if (word && *word) {
    cap = -1;
    for (int i = 0; i < 3; ++i)
      if (!strcmp(word, names[i])) cap = i;
    if (cap < 0) return {{}, "LING_ISA must be generic, avx2 or avx512vnni"};
  }
  Level level = {names[0], ling_dot_i8_generic};
#if defined(__x86_64__)
  // These built-ins also ask whether the operating system saves the registers.
  __builtin_cpu_init();
#ifdef LING_HAVE_AVX2
  if (cap >= 1 && __builtin_cpu_supports("avx2")) level = {names[1], ling_dot_i8_avx2};
#endif
#ifdef LING_HAVE_AVX512
  if (cap >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    level = {names[2], ling_dot_i8_avx512vnni};
#endif
#endif
  return {level, nullptr};
}

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

struct Gemv {
  const int8_t* x;
  const float* x_scale;
  const int8_t* w;
  const float* w_scale;
  float* y;
  int64_t T, N, K;
  ling_dot_i8 dot;
};

constexpr int64_t kRows = 32;  // weight rows per task: read once for all T tokens

void gemv_rows(void* context, int64_t task) {
  const Gemv& g = *static_cast<const Gemv*>(context);
  const int64_t stop = (task + 1) * kRows < g.N ? (task + 1) * kRows : g.N;
  for (int64_t n = task * kRows; n < stop; ++n)
    for (int64_t t = 0; t < g.T; ++t)
      g.y[t * g.N + n] = float(g.dot(g.x + t * g.K, g.w + n * g.K, g.K)) * (g.x_scale[t] * g.w_scale[n]);
}

}  // namespace

extern "C" int ling_abi_version(void) { return LING_ABI_VERSION; }
extern "C" const char* ling_last_error(void) { return last_error; }

extern "C" int ling_isa(const char** name) {
  if (chosen().error) return ling_fail(LING_BAD_ISA, chosen().error);
  *name = chosen().level.name;
  return LING_OK;
}

extern "C" int ling_gemv_i8_i8(const int8_t* x, const float* x_scale, const int8_t* w,
                               const float* w_scale, float* y, int64_t T, int64_t N, int64_t K) {
  if (chosen().error) return ling_fail(LING_BAD_ISA, chosen().error);
  if (T < 0 || N < 0 || K < 1 || K > 131072) return ling_fail(LING_BAD_ARGUMENT, "sizes out of range");
  if (T == 0 || N == 0) return LING_OK;
  if (!x || !x_scale || !w || !w_scale || !y) return ling_fail(LING_BAD_ARGUMENT, "null pointer");
  Gemv g = {x, x_scale, w, w_scale, y, T, N, K, chosen().level.dot_i8};
  ling_parallel_for((N + kRows - 1) / kRows, gemv_rows, &g);
  return LING_OK;
}
