// Portable: always built, the oracle for the other levels.
#include "../internal.h"

int32_t ling_dot_i8_generic(const int8_t* a, const int8_t* b, int64_t k) {
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += int32_t(a[i]) * int32_t(b[i]);
  return sum;
}
