// Cross-entropy of a row of scores, which become its gradient.

// Vector i of a row of n scores; lanes beyond the row are `beyond`.
static inline f32 load_scores(const uint16_t* x, int64_t i, int64_t n, float beyond) {
  if (i + 16 <= n) return load_bf16(x + i);
  float t[16];
  for (int64_t j = 0; j < 16; ++j) t[j] = i + j < n ? from_bf16(x[i + j]) : beyond;
  return load(t);
}

// x becomes weight · (softmax(x) - one at the target), rounded; returns weight · -log of the
// target's share. A row without weight has no loss and no gradient whatever its scores are.
static float loss_gradient(uint16_t* x, int64_t n, int64_t target, float weight) {
  if (weight == 0) {
    memset(x, 0, (size_t)n * 2);
    return 0;
  }
  const float least = -__builtin_inff();
  f32 top = set(least), sum = zero();
  for (int64_t i = 0; i < n; i += 16) top = maximum(top, load_scores(x, i, n, least));
  const float largest = reduce_max(top), picked = from_bf16(x[target]);
  for (int64_t i = 0; i + 16 <= n; i += 16)
    sum = add(sum, exponential(sub(load_bf16(x + i), set(largest))));
  float total = reduce_add(sum);
  for (int64_t i = n / 16 * 16; i < n; ++i) total += expf(from_bf16(x[i]) - largest);
  const f32 factor = set(weight / total);
  const float of_target = weight / total * expf(picked - largest) - weight;
  for (int64_t i = 0; i < n; i += 16) {
    const f32 p = exponential(sub(load_scores(x, i, n, least), set(largest)));
    if (i + 16 <= n) {
      store_rounded(x + i, mul(p, factor));
      continue;
    }
    uint16_t t[16];
    store_rounded(t, mul(p, factor));
    for (int64_t j = i; j < n; ++j) x[j] = t[j - i];
  }
  x[target] = to_bf16(of_target);
  return weight * (logf(total) + largest - picked);
}

// The same of float32 scores. They have room for the exponentials, which are made once.
static float loss_gradient_f32(float* x, int64_t n, int64_t target, float weight) {
  if (weight == 0) {
    memset(x, 0, (size_t)n * 4);
    return 0;
  }
  const int64_t whole = n / 16 * 16;
  f32 top = set(-__builtin_inff()), sum = zero();
  for (int64_t i = 0; i < whole; i += 16) top = maximum(top, load(x + i));
  float largest = reduce_max(top);
  for (int64_t i = whole; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  const float picked = x[target];
  for (int64_t i = 0; i < whole; i += 16) {
    const f32 e = exponential(sub(load(x + i), set(largest)));
    sum = add(sum, e);
    store(x + i, e);
  }
  float total = reduce_add(sum);
  for (int64_t i = whole; i < n; ++i) total += x[i] = expf(x[i] - largest);
  const float factor = weight / total, of_target = factor * expf(picked - largest) - weight;
  for (int64_t i = 0; i < whole; i += 16) store(x + i, mul(load(x + i), set(factor)));
  for (int64_t i = whole; i < n; ++i) x[i] *= factor;
  x[target] = of_target;
  return weight * (logf(total) + largest - picked);
}
