// What the test programs share.
#ifndef LING_TEST_H
#define LING_TEST_H
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "formats.h"

#define CHECK(condition, ...)                                         \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                   \
      fprintf(stderr, " (%s)\n", ling_last_error());                  \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

// The same numbers everywhere (splitmix64).
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(next() % uint64_t(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  template <class T, size_t N>
  T pick(const T (&from)[N]) {
    return from[below(N)];
  }
  float uniform() { return float(next() >> 40) / float(1 << 24); }
  float normal() {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
};

using ling::from_bf16;
using ling::to_bf16;

// Exactly as many values as asked, so that the sanitizer sees the first byte too many, and not
// aligned to more than a value (plus `shift` values).
template <class T>
struct Array {
  explicit Array(int64_t n = 0, int64_t shift = 0)
      : size(n), store(new T[size_t(n + shift)]()), at(store.get() + shift) {}
  T* data() { return at; }
  const T* data() const { return at; }
  T& operator[](int64_t i) { return at[i]; }
  T* begin() { return at; }
  T* end() { return at + size; }
  int64_t size;
  std::unique_ptr<T[]> store;
  T* at;
};

struct Matrix {
  ling_matrix m = {};
  Array<uint8_t> data;
  Array<uint16_t> scales;
};

// `stack` random matrices, packed back to back.
inline Matrix random_matrix(Random& r, int32_t format, int32_t group, int64_t rows, int64_t cols,
                            int64_t stack = 1, float size = 0.1f) {
  int64_t data_bytes = 0, scale_bytes = 0;
  CHECK(!ling_packed_size(format, group, rows, cols, &data_bytes, &scale_bytes), "size");
  Matrix out;
  out.data = Array<uint8_t>(stack * data_bytes, format == LING_BF16 ? 2 : 1);
  out.scales = Array<uint16_t>(stack * scale_bytes / 2, format == LING_FP8 ? 2 : 1);
  Array<float> w(rows * cols);
  for (int64_t i = 0; i < stack; ++i) {
    if (format == LING_FP8) {
      Array<uint8_t> values(rows * cols);
      Array<float> blocks((rows + 127) / 128 * ((cols + 127) / 128));
      for (uint8_t& v : values) v = uint8_t(r.next()) & 0xbf;  // up to 15/8
      for (float& s : blocks) s = size * (0.5f + r.uniform());
      CHECK(
          !ling_pack_fp8(rows, cols, values.data(), cols, blocks.data(), 0, 1,
                         out.data.data() + i * data_bytes, out.scales.data() + i * scale_bytes / 2),
          "pack");
      continue;
    }
    for (float& v : w) v = size * r.normal();
    CHECK(!ling_pack(format, group, rows, cols, w.data(), 0, cols, nullptr,
                     out.data.data() + i * data_bytes, out.scales.data() + i * scale_bytes / 2),
          "pack");
  }
  out.m = {format, group, rows, cols, out.data.data(), out.scales.data()};
  return out;
}

inline void refused(int status, const char* what) {
  CHECK(status == LING_BAD_ARGUMENT && *ling_last_error(), "%s was not refused", what);
}

void fuzz_models(uint64_t seed, int64_t rounds);
void fuzz_low_rank(uint64_t seed, int64_t rounds);
void fuzz_adam8(uint64_t seed, int64_t rounds);
void fuzz_attention(uint64_t seed, int64_t rounds);
void fuzz_train_attention(uint64_t seed, int64_t rounds);
void fuzz_train_moe(uint64_t seed, int64_t rounds);
void fuzz_train_fp8(uint64_t seed, int64_t rounds);
void fuzz_sampling(uint64_t seed, int64_t rounds);

#endif
