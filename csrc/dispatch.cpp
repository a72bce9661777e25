// The instruction set in use: the best that the compiler, the processor and LING_ISA allow.
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "internal.h"

namespace ling {

namespace {

struct Choice {
  const IsaKernels* kernels;
  const char* error;
};

#ifdef LING_HAVE_AVX512AMX
// The unit is there, and Linux lets this process use its registers (arch_prctl(2), since 5.16).
bool matrix_unit() {
  unsigned a, b, c, d;
  const unsigned tile = 1u << 24, int8 = 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & tile) || !(d & int8)) return false;
#ifdef __linux__
  const long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}
#endif

Choice choose() {
  static const char* const names[] = {"generic", "avx2", "avx512vnni", "avx512bf16", "avx512amx"};
  const char* word = getenv("LING_ISA");
  int cap = 4;
  if (word && *word) {
    cap = -1;
    for (int i = 0; i < 5; ++i)
      if (!strcmp(word, names[i])) cap = i;
    if (cap < 0)
      return {nullptr, "LING_ISA must be generic, avx2, avx512vnni, avx512bf16 or avx512amx"};
  }
  const IsaKernels* best = &isa_generic;
#if defined(__x86_64__)
  // These built-ins also ask whether the operating system saves the registers.
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  (void)avx512;
#ifdef LING_HAVE_AVX2
  if (cap >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = &isa_avx2;
#endif
#ifdef LING_HAVE_AVX512VNNI
  if (cap >= 2 && avx512) best = &isa_avx512vnni;
#endif
  // Cooper Lake alone has bfloat16 without VBMI; it runs as avx512vnni.
  const bool vbmi = avx512 && __builtin_cpu_supports("avx512vbmi");
  (void)vbmi;
#ifdef LING_HAVE_AVX512BF16
  if (cap >= 3 && vbmi && __builtin_cpu_supports("avx512bf16")) best = &isa_avx512bf16;
#endif
#ifdef LING_HAVE_AVX512AMX
  if (cap >= 4 && vbmi && matrix_unit()) best = &isa_avx512amx;
#endif
#endif
  return {best, nullptr};
}

}  // namespace

const IsaKernels* isa_kernels() {
  static const Choice choice = choose();
  if (!choice.kernels) fail(LING_BAD_ISA, choice.error);
  return choice.kernels;
}

}  // namespace ling
