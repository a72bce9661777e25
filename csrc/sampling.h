// Choosing tokens: what the kernels and sampling.cpp share. Plain C++ without templates, for every
// instruction set includes it.
#ifndef LING_SAMPLING_H
#define LING_SAMPLING_H
#include <stdint.h>

#include "ling_kernels.h"

namespace ling {

constexpr int64_t kScoreBlock = 128;  // scores that share an entry in a list of largest ones

struct BlockMaxima {
  float top;
  bool finite;  // whether all scores are
};

// The mass of a score z is 2^y, y = (z - top) · scale, as a whole number of 2^-40: sums of whole
// numbers are the same in any order, so the border of a nucleus is the same for every instruction
// set and for the oracle (infer/sampler.py: `masses`), which does the same operations on doubles,
// each rounded once.
constexpr int kMassBits = 40;
constexpr double kLeastPower = -60;     // nothing is left of a mass below
constexpr double kRounding = 0x1.8p52;  // added and taken off: rounds to a whole number
// 2^r for |r| <= 1/2 within 2e-10, by interpolation at Chebyshev's points; exact for 0.
constexpr double kPower2[8] = {1.0,
                               0.6931471805568316,
                               0.24022650922342711,
                               0.05550410906331985,
                               0.009618056669891501,
                               0.0013333478467158545,
                               0.00015461447461298118,
                               1.5303702451919612e-05};

// Buckets by falling score, 24 to a halving of the mass; the last one has all that is smaller.
constexpr int kMassBuckets = 1024;
constexpr double kMassSteps = 24;

static inline double mass_power(float z, double top, double scale) {
  const double y = ((double)z - top) * scale;
  return y > kLeastPower ? y : kLeastPower;
}
static inline int32_t mass_bucket(double y) {
  const double b = y * -kMassSteps;
  return (int32_t)(b < kMassBuckets - 1 ? b : kMassBuckets - 1);
}

// splitmix64's finaliser (Steele et al., OOPSLA 2014).
static inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
static inline uint64_t noise_key(uint64_t seed, int64_t position) {
  return mix(seed ^ ((uint64_t)position + 1) * kGolden);
}
static inline uint64_t noise_bits(uint64_t key, uint64_t id) {
  return mix(mix(key + id * kGolden) + kGolden);
}

// sampling.cpp; arguments were checked by api.cpp. May throw std::bad_alloc, before any thread
// starts.
struct ChooseCall {
  float* scores;  // [rows, vocab]
  int64_t rows, vocab;
  const ling_choice* choices;
  const int32_t* banned;
  int64_t num_banned;
  int64_t best_stride;
  ling_chosen* chosen;
  int32_t* best_ids;
  float* best_logprobs;
};
void choose_rows(const ChooseCall& call);

}  // namespace ling
#endif
