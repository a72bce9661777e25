// The level in use, the last error, and the checks of a matrix that every entry shares.
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

static thread_local const char* last_error = "";

int fail(int status, const char* text) {
  last_error = text;
  return status;
}

namespace {

struct Choice {
  const Level* level;
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
  const Level* best = &level_generic;
#if defined(__x86_64__)
  // These built-ins also ask whether the operating system saves the registers.
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  (void)avx512;
#ifdef LING_HAVE_AVX2
  if (cap >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    best = &level_avx2;
#endif
#ifdef LING_HAVE_AVX512VNNI
  if (cap >= 2 && avx512) best = &level_avx512vnni;
#endif
  // Cooper Lake alone has bfloat16 without VBMI; it runs as avx512vnni.
  const bool vbmi = avx512 && __builtin_cpu_supports("avx512vbmi");
  (void)vbmi;
#ifdef LING_HAVE_AVX512BF16
  if (cap >= 3 && vbmi && __builtin_cpu_supports("avx512bf16")) best = &level_avx512bf16;
#endif
#ifdef LING_HAVE_AVX512AMX
  if (cap >= 4 && vbmi && matrix_unit()) best = &level_avx512amx;
#endif
#endif
  return {best, nullptr};
}

}  // namespace

const Level* level() {
  static const Choice choice = choose();
  if (!choice.level) last_error = choice.error;
  return choice.level;
}

const char* check_matrix(const ling_matrix& w) {
  if (w.kind < LING_I4 || w.kind > LING_F8) return "unknown matrix kind";
  if (w.rows < 1 || w.cols < 1 || w.rows > (int64_t(1) << 31) || w.cols > (int64_t(1) << 24))
    return "matrix sizes out of range";
  if (w.kind == LING_BF16 ? w.group != 2
      : w.kind == LING_F8 ? w.group != 128
                          : w.group < 16 || w.group > 256 || w.group % 16)
    return "the group must be a multiple of 16 up to 256 (2 for bfloat16, 128 for FP8)";
  if (!w.data || (w.kind != LING_BF16 && !w.scales)) return "null pointer in a matrix";
  return nullptr;
}

}  // namespace ling

extern "C" int ling_abi_version(void) { return LING_ABI_VERSION; }
extern "C" const char* ling_last_error(void) { return ling::last_error; }

extern "C" int ling_isa(const char** name) {
  const ling::Level* level = ling::level();
  if (!level) return LING_BAD_ISA;
  if (!name) return ling::fail(LING_BAD_ARGUMENT, "null pointer");
  *name = level->name;
  return LING_OK;
}
