// Passes over a row of scores: the largest of every block, sums, masses of the nucleus, noise.

// The largest of every kScoreBlock scores into `largest`, and of all of them.
static BlockMaxima block_maxima(const float* z, int64_t n, float* largest) {
  f32 check = zero();
  float top = -INFINITY, odd = 0;  // x · 0 is NaN where x is not finite
  for (int64_t begin = 0; begin < n; begin += kScoreBlock) {
    const int64_t end = n < begin + kScoreBlock ? n : begin + kScoreBlock;
    f32 m = set(-INFINITY);
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      const f32 v = load(z + i);
      m = maximum(v, m), check = add(check, mul(v, zero()));
    }
    float block = reduce_max(m);
    for (; i < end; ++i) block = z[i] > block ? z[i] : block, odd += z[i] * 0.0f;
    *largest++ = block, top = block > top ? block : top;
  }
  const float sum = reduce_add(check) + odd;
  return {top, sum == sum};
}

// Sum of e^(z - top).
static double sum_exp(const float* z, int64_t n, float top) {
  double sum = 0;
  const f32 t = set(top);
  for (int64_t begin = 0; begin < n; begin += 1024) {
    const int64_t end = n < begin + 1024 ? n : begin + 1024;
    f32 s = zero();
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) s = add(s, exponential(sub(load(z + i), t)));
    sum += (double)reduce_add(s);
    if (i < end) {
      float last[16];
      for (int k = 0; k < 16; ++k) last[k] = i + k < end ? z[i + k] : -INFINITY;
      sum += (double)reduce_add(exponential(sub(load(last), t)));
    }
  }
  return sum;
}

// How many scores are above one.
static int64_t count_above(const float* z, int64_t n, float least) {
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += 4096) {
    const int64_t end = n < begin + 4096 ? n : begin + 4096;
    int32_t part = 0;
    for (int64_t i = begin; i < end; ++i) part += z[i] > least;
    count += part;
  }
  return count;
}

// Indices and values of the scores of at least `least`, by blocks that have one; `largest` is what
// block_maxima wrote. Both outputs have room for n + 1.
static int64_t gather_scores(const float* z, int64_t n, const float* largest, float least,
                             int32_t* at, float* values) {
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kScoreBlock) {
    if (!(*largest++ >= least)) continue;
    const int64_t end = n < begin + kScoreBlock ? n : begin + kScoreBlock;
    for (int64_t i = begin; i < end; ++i) {
      at[count] = (int32_t)i, values[count] = z[i];
      count += z[i] >= least;
    }
  }
  return count;
}

// The scores that a bit set allows, -inf for the others.
static void masked_scores(const float* z, int64_t n, const uint32_t* mask, float* out) {
  for (int64_t begin = 0; begin < n; begin += 32) {
    const int64_t m = n - begin < 32 ? n - begin : 32;
    const uint32_t bits = mask[begin / 32];
    for (int64_t i = 0; i < m; ++i) out[begin + i] = bits >> i & 1 ? z[begin + i] : -INFINITY;
  }
}

// Masses and buckets (sampling.h) of 64 scores, 0 for those below `least`.
static inline void masses_of_64(const float* z, double top, double scale, float least,
                                int64_t* mass, int32_t* bucket) {
  double y[64];  // loops of one kind of number each become vectors
  for (int i = 0; i < 64; ++i) y[i] = mass_power(z[i], top, scale);
  for (int i = 0; i < 64; ++i) bucket[i] = mass_bucket(y[i]);
  for (int i = 0; i < 64; ++i) {
    const double shifted = y[i] + kRounding, r = y[i] - (shifted - kRounding);
    double p = kPower2[7];
    for (int k = 6; k >= 0; --k) p = p * r + kPower2[k];
    uint64_t bits, power;
    memcpy(&bits, &p, 8), memcpy(&power, &shifted, 8);
    bits += (power + kMassBits) << 52;  // p · 2^(y - r) in units of the last place of a mass
    memcpy(&p, &bits, 8);
    const double whole = p + 0x1p52;
    memcpy(&bits, &whole, 8);
    mass[i] = (int64_t)(bits & 0xfffffffffffffu);
  }
  for (int i = 0; i < 64; ++i) mass[i] = z[i] >= least ? mass[i] : 0;
}

static inline void copy_64(const float* z, int64_t n, float* out) {
  for (int64_t i = 0; i < 64; ++i) out[i] = i < n ? z[i] : -INFINITY;
}

// Adds the masses of n scores to hist[4][kMassBuckets], by bucket; four of them, so that a sum
// does not wait for the one before.
static void add_masses(const float* z, int64_t n, float top, double scale, float least,
                       int64_t* hist) {
  for (int64_t begin = 0; begin < n; begin += 64) {
    float last[64];
    int64_t mass[64];
    int32_t bucket[64];
    const bool whole = begin + 64 <= n;
    if (!whole) copy_64(z + begin, n - begin, last);
    masses_of_64(whole ? z + begin : last, (double)top, scale, least, mass, bucket);
    for (int i = 0; i < 64; ++i) hist[(i & 3) * kMassBuckets + bucket[i]] += mass[i];
  }
}

// The masses themselves.
static void list_masses(const float* z, int64_t n, float top, double scale, int64_t* out) {
  for (int64_t begin = 0; begin < n; begin += 64) {
    float v[64];
    int64_t mass[64];
    int32_t bucket[64];
    copy_64(z + begin, n - begin, v);
    masses_of_64(v, (double)top, scale, -INFINITY, mass, bucket);
    for (int64_t i = 0; i < 64 && begin + i < n; ++i) out[begin + i] = mass[i];
  }
}

// Random bits of up to 64 ids (`ids` null: first, first + 1, ...), and for each a lower bound of
// -log(u) / e^((z - top) · scale), which is smallest for the largest score with noise.
static void noise_bounds(const float* z, const int32_t* ids, int64_t first, int64_t n, uint64_t key,
                         float top, float scale, uint64_t* bits, float* bounds) {
  uint64_t id[64] = {};
  float weight[64];
  for (int64_t i = 0; i < n; ++i) id[i] = (uint64_t)(ids ? (int64_t)ids[i] : first + i);
  for (int i = 0; i < 64; ++i) bits[i] = noise_bits(key, id[i]);
  for (int64_t i = 0; i < n; i += 16) {
    const f32 x = mul(sub(load_part(z + i, n - i), set(top)), set(scale));
    store(weight + i, exponential(x));
  }
  // 1 - u, rounded down to 31 bits, is below -log(u) and near it where that is small.
  for (int64_t i = 0; i < n; ++i)
    bounds[i] = (float)(int32_t)(~bits[i] >> 33) * 0x1p-31f / weight[i];
}
