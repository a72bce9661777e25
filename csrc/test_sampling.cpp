// Choosing against a definition that sorts: random scores with ties and values that are not finite,
// all filters; and calls that must be refused.
#include <algorithm>

#include "sampling.h"
#include "test.h"

namespace {

struct Case {
  std::vector<float> z;
  ling_choice c;
  Array<int32_t> seen, counts, bias_ids, excluded, banned;
  Array<float> bias;
  Array<uint32_t> mask;
};

float random_score(Random& r, int shape) {
  const float odd[] = {NAN, INFINITY, -INFINITY};
  if (shape == 0) return float(r.between(-3, 3));
  if (shape == 1) return 0;
  if (shape == 2 && !r.below(200)) return r.pick(odd);
  return 3 * r.normal();
}

Array<int32_t> random_ids(Random& r, int64_t vocab, int64_t most) {
  Array<int32_t> ids(r.below(2) ? r.below(most) : 0);
  for (int32_t& i : ids) i = int32_t(r.between(-1, vocab + 2));
  return ids;
}

Case random_case(Random& r) {
  const int64_t V = r.below(3) ? r.between(1, 400) : r.between(1, 5000);
  const int shape = int(r.below(5));
  Case k;
  k.c = ling_choice{};
  for (int64_t i = 0; i < V; ++i) k.z.push_back(random_score(r, shape));
  const double temperatures[] = {0.01, 0.7, 1, 3}, top_ps[] = {1, 0.5, 0.9, 1e-6, 0.999};
  const double powers[] = {-INFINITY, -3.5, 0, -70};
  const int64_t top_ks[] = {0, 1, 3, 40, V, V + 3};
  k.c.inverse_temperature = r.below(5) ? 1 / r.pick(temperatures) : 0;
  k.c.top_p = r.pick(top_ps), k.c.least_power = r.pick(powers), k.c.top_k = r.pick(top_ks);
  k.c.seed = r.next(), k.c.position = r.below(100000), k.c.given = r.below(8) ? -1 : r.below(V);
  k.c.repetition_penalty = r.below(2) ? 1 : 1.3f;
  k.c.presence_penalty = r.below(2) ? 0 : 0.5f, k.c.frequency_penalty = r.below(2) ? 0 : -0.25f;
  const int32_t best[] = {-1, 0, 1, 9, INT32_MAX};
  k.c.num_best = r.pick(best);
  k.seen = random_ids(r, V, 60), k.bias_ids = random_ids(r, V, 9);
  k.excluded = random_ids(r, V, 5), k.banned = random_ids(r, V, 5);
  std::sort(k.seen.begin(), k.seen.end());  // distinct
  k.c.num_seen = std::unique(k.seen.begin(), k.seen.end()) - k.seen.begin();
  k.counts = Array<int32_t>(k.seen.size), k.bias = Array<float>(k.bias_ids.size);
  for (int32_t& n : k.counts) n = int32_t(r.below(3));
  for (float& b : k.bias) b = 2 * r.normal();
  k.c.seen = k.seen.data(), k.c.counts = k.counts.data();
  k.c.bias_ids = k.bias_ids.data(), k.c.bias = k.bias.data(), k.c.num_bias = k.bias.size;
  k.c.excluded = k.excluded.data(), k.c.num_excluded = k.excluded.size;
  if (!r.below(3)) {
    k.mask = Array<uint32_t>((V + 31) / 32);
    for (uint32_t& word : k.mask) word = uint32_t(r.next() & r.next());
    k.c.mask = k.mask.data();
  }
  return k;
}

// The scores among which the token is chosen.
std::vector<float> changed(const Case& k) {
  std::vector<float> z = k.z;
  const int64_t V = int64_t(z.size());
  const auto at = [&](int32_t i) { return i >= 0 && i < V ? &z[size_t(i)] : nullptr; };
  for (int64_t i = 0; i < k.c.num_bias; ++i)
    if (float* x = at(k.c.bias_ids[i])) *x += k.c.bias[i];
  for (int64_t i = 0; i < k.c.num_seen; ++i)
    if (float* x = at(k.c.seen[i])) {
      const float r = k.c.repetition_penalty;
      *x = r == 1 ? *x : *x > 0 ? *x / r : *x * r;
      if (k.c.counts[i]) *x -= k.c.presence_penalty + k.c.frequency_penalty * float(k.c.counts[i]);
    }
  for (const Array<int32_t>* ids : {&k.excluded, &k.banned})
    for (int64_t i = 0; i < ids->size; ++i)
      if (float* x = at(ids->data()[i])) *x = -INFINITY;
  for (int64_t i = 0; k.c.mask && i < V; ++i)
    if (!(k.c.mask[i / 32] >> (i % 32) & 1)) z[size_t(i)] = -INFINITY;
  return z;
}

std::vector<int32_t> in_order(const std::vector<float>& z) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < z.size(); ++i)
    if (z[i] > -INFINITY) order.push_back(int32_t(i));
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return z[size_t(a)] > z[size_t(b)]; });
  return order;
}

// 2^power in units of 2^-40, by the same operations.
int64_t mass(double power) {
  using namespace ling;
  power = std::max(power, kLeastPower);
  const double whole = nearbyint(power), rest = power - whole;
  double p = kPower2[7];
  for (int i = 6; i >= 0; --i) p = p * rest + kPower2[i];
  return int64_t(nearbyint(ldexp(p, int(whole) + kMassBits)));
}

int64_t want(const Case& k) {
  const std::vector<float> z = changed(k);
  std::vector<int32_t> order = in_order(z);
  if (order.empty()) return -1;
  if (k.c.inverse_temperature == 0) return order[0];
  if (k.c.top_k && k.c.top_k < int64_t(order.size())) order.resize(size_t(k.c.top_k));
  const double top = z[size_t(order[0])], scale = k.c.inverse_temperature * 1.4426950408889634;
  const auto power = [&](int32_t i) { return (double(z[size_t(i)]) - top) * scale; };
  int64_t total = 0, sum = 0;
  while (power(order.back()) < k.c.least_power) order.pop_back();
  for (int32_t i : order) total += mass(power(i));
  const double limit = k.c.top_p < 1 ? ceil(k.c.top_p * double(total)) : INFINITY;
  int64_t id = -1;
  double best = 0;
  for (int32_t i : order) {
    if (double(sum) >= limit) break;
    sum += mass(power(i));
    const uint64_t bits =
        ling::noise_bits(ling::noise_key(k.c.seed, k.c.position), uint64_t(i)) >> 11;
    const double noise = -log(-log((double(bits) + 0.5) / 0x1p53));
    const double noisy = double(z[size_t(i)]) * k.c.inverse_temperature + noise;
    if (id < 0 || noisy > best) id = i, best = noisy;
  }
  return id;
}

void check_logprobs(const Case& k, const ling_chosen& got, const Array<int32_t>& ids,
                    const Array<float>& logprobs) {
  double sum = 0, top = *std::max_element(k.z.begin(), k.z.end());
  for (float z : k.z) sum += exp(double(z) - top);
  const auto logprob = [&](int64_t i) { return double(k.z[size_t(i)]) - top - log(sum); };
  const float own = k.z[size_t(got.id)];
  const int64_t above = std::count_if(k.z.begin(), k.z.end(), [&](float z) { return z > own; });
  CHECK(got.rank == above + 1, "rank %d, not %d", int(got.rank), int(above) + 1);
  CHECK(fabs(got.logprob - logprob(got.id)) < 1e-5, "log-probability %g", got.logprob);
  const std::vector<int32_t> order = in_order(k.z);
  for (int64_t i = 0; i < std::min<int64_t>(k.c.num_best, int64_t(k.z.size())); ++i) {
    CHECK(ids.data()[i] == order[size_t(i)], "best %d is %d", int(i), ids.data()[i]);
    CHECK(fabs(logprobs.data()[i] - logprob(order[size_t(i)])) < 1e-5, "of best %d", int(i));
  }
}

void check_case(Case& k) {
  const int64_t V = int64_t(k.z.size()), wanted = std::min<int64_t>(k.c.num_best, V);
  Array<float> scores(V), logprobs(std::max<int64_t>(wanted, 0));
  Array<int32_t> ids(logprobs.size);
  std::copy(k.z.begin(), k.z.end(), scores.begin());
  ling_chosen got;
  CHECK(!ling_choose(scores.data(), 1, V, &k.c, k.banned.data(), k.banned.size, ids.size, &got,
                     ids.data(), logprobs.data()),
        "choose");
  CHECK(!memcmp(scores.data(), k.z.data(), size_t(V) * 4), "the scores changed");
  const bool finite = std::all_of(k.z.begin(), k.z.end(), [](float z) { return isfinite(z); });
  CHECK((got.status == LING_NOT_FINITE) == !finite, "status %d", got.status);
  if (!finite) return;
  const int64_t id = k.c.given >= 0 ? k.c.given : want(k);
  CHECK(got.status == (id < 0 ? LING_NONE_LEFT : LING_CHOSEN), "status %d", got.status);
  CHECK(id < 0 || got.id == id, "token %d, not %d", int(got.id), int(id));
  if (id >= 0 && k.c.num_best >= 0) check_logprobs(k, got, ids, logprobs);
}

void check_refused(Random& r) {
  Array<float> scores(20);
  ling_chosen chosen[2];
  ling_choice good = {};
  good.inverse_temperature = good.top_p = 1, good.least_power = -INFINITY;
  good.repetition_penalty = 1, good.num_best = -1, good.given = -1;
  const auto choose = [&](const ling_choice& c, int64_t rows, int64_t vocab, int64_t stride) {
    const ling_choice both[] = {good, c};
    return ling_choose(scores.data(), rows, vocab, both, nullptr, 0, stride, chosen, nullptr,
                       nullptr);
  };
  CHECK(!choose(good, 2, 10, 0), "good");
  for (int64_t bad : {int64_t(0), int64_t(-1), INT64_MAX})
    refused(choose(good, bad, 10, 0), "rows"), refused(choose(good, 2, bad, 0), "vocab");
  refused(choose(good, 2, 10, 1), "no room for the best"), refused(choose(good, 2, 10, -1), "room");
  for (int64_t bad : {int64_t(-1), int64_t(1), INT64_MAX}) {
    ling_choice c = good;
    c.num_seen = bad;
    refused(choose(c, 2, 10, 0), "seen");
    c = good, c.num_bias = bad;
    refused(choose(c, 2, 10, 0), "bias");
    c = good, c.num_excluded = bad;
    refused(choose(c, 2, 10, 0), "excluded");
  }
  for (int64_t bad : {int64_t(10), int64_t(-2), INT64_MAX}) {
    ling_choice c = good;
    c.given = bad;
    refused(choose(c, 2, 10, 0), "given");
  }
  ling_choice c = good;
  c.num_best = 1 + int32_t(r.below(100));
  refused(choose(c, 2, 10, 0), "best");
  refused(ling_choose(nullptr, 1, 10, &good, nullptr, 0, 0, chosen, nullptr, nullptr), "null");
  refused(ling_choose(scores.data(), 1, 10, nullptr, nullptr, 0, 0, chosen, nullptr, nullptr),
          "null");
  refused(ling_choose(scores.data(), 1, 10, &good, nullptr, 3, 0, chosen, nullptr, nullptr),
          "null");
}

}  // namespace

void fuzz_sampling(uint64_t seed, int64_t rounds) {
  Random r = {seed};
  for (int64_t i = 0; i < 10 * rounds; ++i) {
    Case k = random_case(r);
    check_case(k);
  }
  check_refused(r);
}
